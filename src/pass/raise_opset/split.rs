//! Split: its sizes became an input in opset 13; without them it must say how many parts since opset 18.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, attribute};

/// Opset 13: `split` becomes the second input.
pub(super) fn sizes_to_input(scope: &mut Scope, id: NodeId) -> Result<()> {
    scope.ints_to_input(id, "split", 1).map(drop)
}

/// Opset 18: without sizes, `num_outputs` says how many equal parts.
pub(super) fn state_how_many(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    if node.input_at(1).is_some() {
        return Ok(());
    }
    let parts = node.output.len() as i64;
    scope.graph_mut().edit(id, |n| n.set(attribute::int("num_outputs", parts)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::{int, ints};
    use crate::pass::sketch::node;

    #[test]
    fn sizes_become_an_input_or_a_number() {
        let sized = || vec![node("Split", "x", "y z", &[int("axis", 1), ints("split", &[1, 2])])];
        assert_eq!(raised(11, 13, sized()).unwrap(), ["y, z = Split(x, [1, 2]) axis=1"]);
        assert_eq!(raised(11, 18, sized()).unwrap(), ["y, z = Split(x, [1, 2]) axis=1"]);
        let equal = || vec![node("Split", "x", "y z", &[])];
        assert_eq!(raised(7, 13, equal()).unwrap(), ["y, z = Split(x)"]);
        assert_eq!(raised(7, 18, equal()).unwrap(), ["y, z = Split(x) num_outputs=2"]);
    }
}
