//! Reshape: its shape became an input in opset 5.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId};

/// Opset 5: `shape` becomes the second input.
pub(super) fn shape_to_input(scope: &mut Scope, id: NodeId) -> Result<()> {
    scope.graph_mut().edit(id, |n| drop(n.take("consumed_inputs")))?;
    scope.ints_to_input(id, "shape", 1).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::ints;
    use crate::pass::sketch::node;

    #[test]
    fn the_shape_becomes_an_input() {
        let reshape = node("Reshape", "x", "y", &[ints("shape", &[0, -1]), ints("consumed_inputs", &[0])]);
        assert_eq!(raised(1, 14, vec![reshape]).unwrap(), ["y = Reshape(x, [0, -1])"]);
    }
}
