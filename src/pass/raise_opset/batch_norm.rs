//! BatchNormalization: says until opset 6 that it does not train; always spatial since 9; and since 14 training is an
//! attribute instead of a number of outputs.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{NodeExt, NodeId};

/// Opset 7: drops `is_test`; refuses a node that trains, which is one that does not say that it is a test.
pub(super) fn test_only(scope: &mut Scope, id: NodeId) -> Result<()> {
    if scope.node(id)?.int("is_test").unwrap_or(0) == 0 {
        return Err(Error::new(ErrorKind::Unsupported, "it trains: `is_test` is not set")
            .hint("export the model in inference mode"));
    }
    scope.graph_mut().edit(id, |n| drop(n.take("is_test")))
}

/// Opset 9: drops `spatial`; refuses statistics for each element.
pub(super) fn spatial_only(scope: &mut Scope, id: NodeId) -> Result<()> {
    if scope.node(id)?.int("spatial").unwrap_or(1) == 0 {
        return Err(Error::new(ErrorKind::Unsupported, "`spatial` is 0, which no opset since 9 can express")
            .hint("export the model again with statistics for each channel"));
    }
    scope.graph_mut().edit(id, |n| drop(n.take("spatial")))
}

/// Opset 14: refuses training, which more than one output meant; outputs that are left out vanish.
pub(super) fn inference_only(scope: &mut Scope, id: NodeId) -> Result<()> {
    if let Some(name) = (1..5).find_map(|i| scope.node(id).ok()?.output_at(i)) {
        return Err(Error::new(ErrorKind::Unsupported, format!("its output `{name}` makes it train"))
            .hint("export the model in inference mode"));
    }
    scope.graph_mut().edit(id, |n| n.output.truncate(1))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, refused};
    use crate::model::attribute::{int, ints};
    use crate::pass::sketch::node;

    #[test]
    fn inference_is_raised_and_training_refused() {
        let norm =
            |outputs: &str, spatial| node("BatchNormalization", "x x x x x", outputs, &[int("spatial", spatial)]);
        assert_eq!(raised(7, 15, vec![norm("y", 1)]).unwrap(), ["y = BatchNormalization(x, x, x, x, x)"]);
        assert_eq!(raised(7, 15, vec![norm("y _ _ _ _", 1)]).unwrap(), ["y = BatchNormalization(x, x, x, x, x)"]);
        assert!(refused(7, 9, vec![norm("y", 0)]).contains("`spatial`"));
        assert!(refused(7, 14, vec![norm("y m", 1)]).contains("`m` makes it train"));
    }

    #[test]
    fn a_test_stays_and_training_is_refused() {
        let norm = |attributes: &[_]| vec![node("BatchNormalization", "x x x x x", "y", attributes)];
        let test = [int("is_test", 1), ints("consumed_inputs", &[0, 0, 0, 1, 1])];
        assert_eq!(raised(1, 9, norm(&test)).unwrap(), ["y = BatchNormalization(x, x, x, x, x)"]);
        assert!(refused(6, 7, norm(&[])).contains("it trains"));
    }
}
