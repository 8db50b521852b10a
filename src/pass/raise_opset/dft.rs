//! DFT: its axis became an input in opset 20, with another default.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, Tensor};

/// Opset 20: `axis` becomes the third input; left out it was 1.
pub(super) fn axis_to_input(scope: &mut Scope, id: NodeId) -> Result<()> {
    let axis = scope.node(id)?.int("axis").unwrap_or(1);
    scope.graph_mut().edit(id, |n| drop(n.take("axis")))?;
    let name = scope.add_constant(id, "axis", &Tensor::from_i64(vec![], vec![axis]))?;
    scope.set_input(id, 2, &name)
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::int;
    use crate::pass::sketch::node;

    #[test]
    fn the_axis_is_always_stated() {
        let dft = |inputs: &str, attributes: &[_]| raised(17, 20, vec![node("DFT", inputs, "y", attributes)]).unwrap();
        assert_eq!(dft("x", &[]), ["y = DFT(x, , 1)"]);
        assert_eq!(dft("x x", &[int("axis", 2), int("onesided", 1)]), ["y = DFT(x, x, 2) onesided=1"]);
    }
}
