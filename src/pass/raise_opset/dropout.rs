//! Dropout: says until opset 6 that it does not train; its mask became boolean in opset 10, its ratio an input in opset
//! 12. From 7 on it does nothing at inference.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{NodeExt, NodeId, Tensor};

/// Opset 7: drops `is_test`; refuses a node that trains, which is one that does not say that it is a test.
pub(super) fn inference_only(scope: &mut Scope, id: NodeId) -> Result<()> {
    if scope.node(id)?.int("is_test").unwrap_or(0) == 0 {
        return Err(Error::new(ErrorKind::Unsupported, "it trains: `is_test` is not set")
            .hint("export the model in inference mode"));
    }
    scope.graph_mut().edit(id, |n| drop(n.take("is_test")))
}

/// Opset 10: the mask, which was made of floats, must be unused; it vanishes.
pub(super) fn without_float_mask(scope: &mut Scope, id: NodeId) -> Result<()> {
    let graph = scope.graph();
    if let Some(mask) = scope.node(id)?.output_at(1)
        && (graph.is_pinned(mask) || !graph.uses(mask).is_empty())
    {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("its mask `{mask}` is used, and since opset 10 masks are boolean"),
        )
        .hint("export the model in inference mode"));
    }
    scope.graph_mut().edit(id, |n| n.output.truncate(1))
}

/// Opset 12: `ratio` becomes the second input. Without a third input the node does not train, as before.
pub(super) fn ratio_to_input(scope: &mut Scope, id: NodeId) -> Result<()> {
    let Some(ratio) = scope.node(id)?.float("ratio") else { return Ok(()) };
    scope.graph_mut().edit(id, |n| drop(n.take("ratio")))?;
    let name = scope.add_constant(id, "ratio", &Tensor::from_f32(vec![], vec![ratio]))?;
    scope.set_input(id, 1, &name)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, refused};
    use crate::model::attribute::{float, int, ints};
    use crate::pass::sketch::node;

    #[test]
    fn a_test_does_nothing_and_training_is_refused() {
        let test = [int("is_test", 1), ints("consumed_inputs", &[0])];
        assert_eq!(raised(1, 7, vec![node("Dropout", "x", "y", &test)]).unwrap(), ["y = Dropout(x)"]);
        assert!(refused(6, 7, vec![node("Dropout", "x", "y", &[])]).contains("it trains"));
    }

    #[test]
    fn the_ratio_becomes_an_input_and_an_unused_mask_vanishes() {
        let dropout = |outputs: &str| node("Dropout", "x", outputs, &[float("ratio", 0.25)]);
        assert_eq!(raised(7, 13, vec![dropout("y m")]).unwrap(), ["y = Dropout(x, y_ratio)"]);
        assert_eq!(raised(10, 13, vec![dropout("y m")]).unwrap(), ["y, m = Dropout(x, y_ratio)"]);
        assert_eq!(raised(11, 12, vec![node("Dropout", "x", "y", &[])]).unwrap(), ["y = Dropout(x)"]);
        let used = vec![dropout("d m"), node("Add", "d m", "y", &[])];
        assert!(refused(7, 10, used).contains("its mask `m` is used"));
    }
}
