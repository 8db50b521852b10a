//! Axes that were an attribute and became an input: Squeeze, Unsqueeze and ReduceSum in opset 13, the other reductions
//! in 18.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId};

/// `axes` becomes the second input. Left out, or listing none, it means all axes as before (`noop_with_empty_axes` is
/// 0).
pub(super) fn to_input(scope: &mut Scope, id: NodeId) -> Result<()> {
    if scope.node(id)?.ints("axes").is_some_and(<[i64]>::is_empty) {
        return scope.graph_mut().edit(id, |n| drop(n.take("axes")));
    }
    scope.ints_to_input(id, "axes", 1).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::{int, ints};
    use crate::pass::sketch::node;

    #[test]
    fn axes_become_an_input() {
        for (op, before, after) in
            [("Squeeze", 12, 13), ("Unsqueeze", 11, 13), ("ReduceSum", 7, 13), ("ReduceMax", 17, 18)]
        {
            let n = node(op, "x", "y", &[ints("axes", &[-1, 2])]);
            assert_eq!(raised(before, after, vec![n]).unwrap(), [format!("y = {op}(x, [-1, 2])")]);
        }
        let mean = || node("ReduceMean", "x", "y", &[int("keepdims", 0), ints("axes", &[1])]);
        assert_eq!(raised(13, 17, vec![mean()]).unwrap(), ["y = ReduceMean(x) keepdims=0 axes=[1]"]);
        assert_eq!(raised(13, 21, vec![mean()]).unwrap(), ["y = ReduceMean(x, [1]) keepdims=0"]);
        for all in [vec![], vec![ints("axes", &[])]] {
            assert_eq!(raised(12, 18, vec![node("ReduceSum", "x", "y", &all)]).unwrap(), ["y = ReduceSum(x)"]);
        }
    }
}
