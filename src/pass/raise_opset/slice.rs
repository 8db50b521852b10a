//! Slice: its bounds became inputs in opset 10.

use super::scope::Scope;
use crate::error::Result;
use crate::model::NodeId;

/// Opset 10: `starts`, `ends` and, where they are given, `axes` become inputs.
pub(super) fn bounds_to_inputs(scope: &mut Scope, id: NodeId) -> Result<()> {
    for (slot, attribute) in [(1, "starts"), (2, "ends"), (3, "axes")] {
        scope.ints_to_input(id, attribute, slot)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::ints;
    use crate::pass::sketch::node;

    #[test]
    fn bounds_become_inputs() {
        let bounds = [ints("axes", &[0, 1]), ints("ends", &[3, 9]), ints("starts", &[0, -2])];
        assert_eq!(
            raised(9, 13, vec![node("Slice", "x", "y", &bounds)]).unwrap(),
            ["y = Slice(x, [0, -2], [3, 9], [0, 1])"]
        );
        assert_eq!(
            raised(9, 13, vec![node("Slice", "x", "y", &bounds[1..])]).unwrap(),
            ["y = Slice(x, [0, -2], [3, 9])"]
        );
    }
}
