//! RoiAlign: shifts its coordinates by half a pixel since opset 16, unless it is told not to.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, attribute};

/// Opset 16: states that the coordinates are not shifted, as before.
pub(super) fn state_coordinates(scope: &mut Scope, id: NodeId) -> Result<()> {
    scope.graph_mut().edit(id, |n| n.set(attribute::string("coordinate_transformation_mode", "output_half_pixel")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::pass::sketch::node;

    #[test]
    fn coordinates_stay_where_they_were() {
        let n = node("RoiAlign", "x r i", "y", &[]);
        let line = "y = RoiAlign(x, r, i) coordinate_transformation_mode=output_half_pixel";
        assert_eq!(raised(10, 16, vec![n]).unwrap(), [line]);
    }
}
