//! `consumed_inputs`: which inputs a node may overwrite, said until opset 6.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId};

/// Opset 6: drops `consumed_inputs`, which changed no result.
pub(super) fn forget(scope: &mut Scope, id: NodeId) -> Result<()> {
    scope.graph_mut().edit(id, |n| drop(n.take("consumed_inputs")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::{float, ints};
    use crate::pass::sketch::node;

    #[test]
    fn it_vanishes() {
        let elu = node("Elu", "x", "y", &[ints("consumed_inputs", &[1]), float("alpha", 2.0)]);
        assert_eq!(raised(1, 7, vec![elu]).unwrap(), ["y = Elu(x) alpha=2"]);
    }
}
