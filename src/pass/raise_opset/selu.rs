//! Selu: its defaults got more digits in opset 6.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, attribute};

/// Opset 6: states the defaults of before, 1.6732 and 1.0507, where they stood for the constants.
pub(super) fn state_constants(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    let (alpha, gamma) = (node.float("alpha").unwrap_or(1.6732), node.float("gamma").unwrap_or(1.0507));
    scope.graph_mut().edit(id, |n| {
        n.take("consumed_inputs");
        n.set(attribute::float("alpha", alpha));
        n.set(attribute::float("gamma", gamma));
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::float;
    use crate::pass::sketch::node;

    #[test]
    fn the_old_defaults_are_stated() {
        let selu = |attributes: &[_]| raised(1, 6, vec![node("Selu", "x", "y", attributes)]).unwrap();
        assert_eq!(selu(&[]), ["y = Selu(x) alpha=1.6732 gamma=1.0507"]);
        assert_eq!(selu(&[float("gamma", 2.0)]), ["y = Selu(x) gamma=2 alpha=1.6732"]);
        assert_eq!(raised(6, 7, vec![node("Selu", "x", "y", &[])]).unwrap(), ["y = Selu(x)"]);
    }
}
