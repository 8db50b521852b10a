//! Scatter is called ScatterElements since opset 11.

use super::scope::Scope;
use crate::error::Result;
use crate::model::NodeId;

/// Opset 11: another name for the same thing.
pub(super) fn to_scatter_elements(scope: &mut Scope, id: NodeId) -> Result<()> {
    scope.graph_mut().edit(id, |n| n.op_type = Some("ScatterElements".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::int;
    use crate::pass::sketch::node;

    #[test]
    fn it_gets_its_new_name() {
        let n = node("Scatter", "x i u", "y", &[int("axis", 1)]);
        assert_eq!(raised(9, 18, vec![n]).unwrap(), ["y = ScatterElements(x, i, u) axis=1"]);
    }
}
