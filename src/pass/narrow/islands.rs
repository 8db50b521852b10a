//! What stands between DequantizeLinear and QuantizeLinear stays float32 where these do.

use std::collections::HashMap;

use super::plan::Plan;
use crate::model::NodeExt;

/// Keeps nodes float32 that reach other floats through Q and DQ only, where those take no other type (before opset 19):
/// a Cast on each side would be all that the narrow type brings, and runtimes could not fuse the three.
pub(super) fn apply(plan: &mut Plan<'_>) {
    let count = plan.sites.len();
    let mut islands = Islands((0..count).collect());
    let quantizes = |plan: &Plan<'_>, i: usize| {
        let node = plan.sites[i].node;
        (node.is("QuantizeLinear") || node.is("DequantizeLinear")) && !plan.is_narrow(i)
    };
    // What lies at the shore of each node: Q and DQ, or something else.
    let mut at_pairs = vec![false; count];
    let mut elsewhere = vec![false; count];
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for i in 0..count {
        for name in plan.floats_of(i) {
            readers.entry(name).or_default().push(i);
        }
    }
    for i in (0..count).filter(|&i| plan.is_narrow(i)) {
        for name in plan.floats_of(i).into_iter().filter(|name| !plan.is_constant(name)) {
            match plan.maker(name) {
                Some(p) if plan.is_narrow(p) => islands.join(i, p),
                Some(p) if quantizes(plan, p) => at_pairs[i] = true,
                _ => elsewhere[i] = true,
            }
        }
        for name in plan.sites[i].node.output.iter().filter(|o| plan.is_float(o)) {
            for &r in readers.get(name.as_str()).into_iter().flatten().filter(|&&r| !plan.is_narrow(r)) {
                if quantizes(plan, r) { at_pairs[i] = true } else { elsewhere[i] = true }
            }
            elsewhere[i] |= plan.tied_sources().any(|t| t == name);
        }
    }
    let (mut pairs, mut open) = (vec![false; count], vec![false; count]);
    for i in 0..count {
        let island = islands.of(i);
        pairs[island] |= at_pairs[i];
        open[island] |= elsewhere[i];
    }
    for i in 0..count {
        let island = islands.of(i);
        if pairs[island] && !open[island] {
            plan.veto(i, "it stands between DequantizeLinear and QuantizeLinear, which stay float32");
        }
    }
}

/// Which nodes hang together: each points toward the one that stands for all.
struct Islands(Vec<usize>);

impl Islands {
    fn of(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a.max(b)] = a.min(b);
    }
}
