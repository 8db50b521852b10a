//! What is computed from integers for the sake of integers, or of angles, stays float32.

use std::collections::HashSet;

use super::Narrow;
use super::plan::Plan;
use crate::model::NodeExt;

/// Operators of which arithmetic with shapes and positions is made.
#[rustfmt::skip]
const ARITHMETIC: &[&str] = &[
    "Abs", "Add", "Ceil", "Concat", "Div", "Einsum", "Expand", "Floor", "Gather", "Identity", "MatMul", "Max", "Min",
    "Mod", "Mul", "Neg", "Pow", "Range", "Reciprocal", "Reshape", "Round", "Slice", "Split", "Sqrt", "Squeeze", "Sub",
    "Tile", "Transpose", "Unsqueeze", "Where",
];

/// Keeps arithmetic float32 that starts from integers alone and ends in integers (sizes of a Resize, limits of a Slice) or
/// in angles of Sin and Cos (rotary embeddings): the narrow types hold integers up to 2048, or 256, and an angle of
/// 2000 to the nearest whole number. What takes in a constant past the range of the type is no such arithmetic, but a
/// mask.
pub(super) fn apply(plan: &mut Plan<'_>, to: Narrow) {
    let count = plan.sites.len();
    let mut from_integers: HashSet<&str> = HashSet::new();
    let mut counts = vec![false; count];
    let mut angles = vec![false; count];
    for i in 0..count {
        let node = plan.sites[i].node;
        if plan.sites[i].sealed {
            continue;
        }
        if node.is("Cast") {
            let whole = node.input_at(0).is_some_and(|x| plan.is_integer(x));
            from_integers.extend(node.output_at(0).filter(|o| whole && plan.is_float(o)));
            continue;
        }
        let arithmetic = ARITHMETIC.iter().any(|op| node.is(op));
        angles[i] = node.is("Sin") || node.is("Cos");
        if !plan.is_narrow(i) || !(arithmetic || angles[i]) {
            angles[i] = false;
            continue;
        }
        let fits = |name: &str| plan.magnitudes(name).is_none_or(|(_, most)| most <= to.largest());
        let sound = |name: &str| if plan.is_constant(name) { fits(name) } else { from_integers.contains(name) };
        let inputs = plan.floats_of(i);
        counts[i] = inputs.iter().any(|name| !plan.is_constant(name)) && inputs.iter().all(|name| sound(name));
        angles[i] &= counts[i];
        if counts[i] && !angles[i] {
            from_integers.extend(node.output.iter().map(String::as_str));
        }
    }
    // From the end: a value is exact where all that reads it turns it into integers, or is exact itself.
    let mut spoiled: HashSet<&str> = plan.kept.keys().copied().collect();
    spoiled.extend(plan.tied_sources());
    let mut read: HashSet<&str> = HashSet::new();
    for i in (0..count).rev() {
        let node = plan.sites[i].node;
        let outputs = || node.output.iter().map(String::as_str);
        let ends = counts[i] && outputs().any(|o| read.contains(o)) && !outputs().any(|o| spoiled.contains(o));
        let exact = angles[i] || ends;
        if exact {
            let what = if angles[i] { "an angle" } else { "sizes or positions" };
            plan.veto(i, format!("it computes {what} from integers, which the type does not hold exactly"));
        }
        let to_integers = node.is("Cast") && node.output_at(0).is_some_and(|o| plan.is_integer(o));
        for name in plan.floats_of(i) {
            read.insert(name);
            if !exact && !to_integers {
                spoiled.insert(name);
            }
        }
    }
}
