//! Which values share one scale and zero point because an operator of the target asks for it.

use std::collections::BTreeMap;

use super::fit::{Chosen, own_range, prescribed};
use super::place::{Places, passed_from};
use super::select::Selection;
use super::{Policy, Present};
use crate::model::{Graph, NodeExt};
use crate::number::Range;

/// Groups of values, each with the range that covers all of them.
#[derive(Default)]
pub(super) struct Ties {
    group: BTreeMap<String, usize>,
    ranges: Vec<Range>,
}

impl Ties {
    /// The groups: inputs and outputs of every chosen node of an operator that ties them, and what those share with others.
    ///
    /// A value that is passed on unchanged goes by the one it comes from. Left out are values whose parameters are not
    /// free: those that are quantized already, and those that the target prescribes.
    pub fn of(
        graph: &Graph,
        ranges: &Chosen,
        policy: &Policy,
        present: &Present,
        selection: &Selection,
        places: &Places,
    ) -> Ties {
        let mut ties = Ties::default();
        for (&id, rule) in &selection.chosen {
            let Some(node) = graph.node(id).filter(|n| policy.target.ties(n.op_type())) else { continue };
            let inputs = rule.data_slots(node).filter_map(|slot| node.input_at(slot));
            let mut members: Vec<(&str, Range)> = Vec::new();
            for value in inputs.chain(node.output.iter().map(String::as_str)) {
                let value = passed_from(graph, selection, places, policy, present, value).unwrap_or(value);
                let free = places.pairs.get(value).is_some_and(|p| p.present.is_none());
                if free && prescribed(graph, selection, policy, value, policy.activations).is_none() {
                    members.extend(own_range(graph, ranges, selection, value).map(|r| (value, r)));
                }
            }
            if members.len() > 1 {
                ties.join(&members);
            }
        }
        ties
    }

    /// Puts values into one group, with all that are in a group with any of them.
    fn join(&mut self, members: &[(&str, Range)]) {
        let new = self.ranges.len();
        let mut whole = Range::ZERO;
        for &(value, range) in members {
            whole = whole.hull(range);
            if let Some(old) = self.group.insert(value.to_owned(), new) {
                whole = whole.hull(self.ranges[old]);
                self.group.values_mut().filter(|g| **g == old).for_each(|g| *g = new);
            }
        }
        self.ranges.push(whole);
    }

    /// The range that the value shares with others.
    pub fn range(&self, value: &str) -> Option<Range> {
        self.group.get(value).map(|&g| self.ranges[g])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_share_a_value_become_one() {
        let range = |low: f32, high: f32| Range::new(low, high).unwrap();
        let mut ties = Ties::default();
        ties.join(&[("a", range(-1.0, 1.0)), ("b", range(0.0, 3.0))]);
        ties.join(&[("c", range(-2.0, 0.0)), ("d", range(0.0, 1.0))]);
        assert_eq!(ties.range("a"), Some(range(-1.0, 3.0)));
        assert_eq!(ties.range("d"), Some(range(-2.0, 1.0)));
        ties.join(&[("e", range(0.0, 5.0)), ("b", range(0.0, 3.0)), ("c", range(-2.0, 0.0))]);
        for value in ["a", "b", "c", "d", "e"] {
            assert_eq!(ties.range(value), Some(range(-2.0, 5.0)), "{value}");
        }
        assert_eq!(ties.range("f"), None);
    }
}
