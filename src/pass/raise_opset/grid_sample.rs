//! GridSample: its modes got other names in opset 20.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, attribute};

/// Opset 20: `bilinear`, the default, is now `linear`, and `bicubic` is `cubic`.
pub(super) fn rename_modes(scope: &mut Scope, id: NodeId) -> Result<()> {
    let new = match scope.node(id)?.string("mode").unwrap_or("bilinear") {
        "bilinear" => "linear",
        "bicubic" => "cubic",
        _ => return Ok(()),
    };
    scope.graph_mut().edit(id, |n| n.set(attribute::string("mode", new)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::string;
    use crate::pass::sketch::node;

    #[test]
    fn modes_are_renamed() {
        for (old, new) in [("bilinear", "linear"), ("bicubic", "cubic"), ("nearest", "nearest")] {
            let n = node("GridSample", "x x", "y", &[string("mode", old)]);
            assert_eq!(raised(16, 20, vec![n]).unwrap(), [format!("y = GridSample(x, x) mode={new}")]);
        }
        let n = node("GridSample", "x x", "y", &[]);
        assert_eq!(raised(16, 20, vec![n]).unwrap(), ["y = GridSample(x, x) mode=linear"]);
    }
}
