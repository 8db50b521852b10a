//! Concat: must say its axis since opset 4.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, attribute};

/// Opset 4: left out, the axis was 1.
pub(super) fn state_axis(scope: &mut Scope, id: NodeId) -> Result<()> {
    let axis = scope.node(id)?.int("axis").unwrap_or(1);
    scope.graph_mut().edit(id, |n| n.set(attribute::int("axis", axis)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::int;
    use crate::pass::sketch::node;

    #[test]
    fn the_axis_is_stated() {
        assert_eq!(raised(3, 4, vec![node("Concat", "x z", "y", &[])]).unwrap(), ["y = Concat(x, z) axis=1"]);
        let stated = node("Concat", "x z", "y", &[int("axis", 0)]);
        assert_eq!(raised(1, 13, vec![stated]).unwrap(), ["y = Concat(x, z) axis=0"]);
    }
}
