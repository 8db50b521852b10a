//! TopK: its k became an input in opset 10.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, Tensor};

/// Opset 10: `k` becomes the second input, a list of one.
pub(super) fn k_to_input(scope: &mut Scope, id: NodeId) -> Result<()> {
    let Some(k) = scope.node(id)?.int("k") else { return Ok(()) };
    scope.graph_mut().edit(id, |n| drop(n.take("k")))?;
    let name = scope.add_constant(id, "k", &Tensor::from_i64(vec![1], vec![k]))?;
    scope.set_input(id, 1, &name)
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::int;
    use crate::pass::sketch::node;

    #[test]
    fn k_becomes_an_input() {
        let n = node("TopK", "x", "y i", &[int("axis", 1), int("k", 3)]);
        assert_eq!(raised(7, 11, vec![n]).unwrap(), ["y, i = TopK(x, [3]) axis=1"]);
    }
}
