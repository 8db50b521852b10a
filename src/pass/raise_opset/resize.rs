//! Upsample scales every axis since opset 7 and became Resize in opset 10; Resize states how it computes coordinates since opset 11.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{NodeExt, NodeId, Tensor, attribute};

/// Upsample, opset 7: `height_scale` and `width_scale` become `scales`, `[1, 1, height, width]`; the mode `bilinear` is
/// now `linear`.
pub(super) fn scales_of_every_axis(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    let (Some(height), Some(width)) = (node.float("height_scale"), node.float("width_scale")) else {
        return Err(Error::new(ErrorKind::InvalidModel, "`height_scale` or `width_scale` is missing"));
    };
    scope.graph_mut().edit(id, |n| {
        n.take("height_scale");
        n.take("width_scale");
        n.set(attribute::floats("scales", &[1.0, 1.0, height, width]));
        if n.string("mode") == Some("bilinear") {
            n.set(attribute::string("mode", "linear"));
        }
    })
}

/// Upsample, opset 9: `scales` becomes the second input.
pub(super) fn scales_to_input(scope: &mut Scope, id: NodeId) -> Result<()> {
    let Some(scales) = scope.node(id)?.floats("scales").map(<[f32]>::to_vec) else { return Ok(()) };
    scope.graph_mut().edit(id, |n| drop(n.take("scales")))?;
    let name = scope.add_constant(id, "scales", &Tensor::from_f32(vec![scales.len()], scales))?;
    scope.set_input(id, 1, &name)
}

/// Upsample, opset 10: becomes Resize, which has the same form there. On the way to a later opset it waits for the next
/// step, because an Upsample is known to enlarge.
pub(super) fn upsample_to_resize_10(scope: &mut Scope, id: NodeId) -> Result<()> {
    match scope.to {
        10 => scope.graph_mut().edit(id, |n| n.op_type = Some("Resize".to_owned())),
        _ => Ok(()),
    }
}

/// Upsample, opset 11: becomes Resize.
pub(super) fn upsample_to_resize(scope: &mut Scope, id: NodeId) -> Result<()> {
    scope.graph_mut().edit(id, |n| n.op_type = Some("Resize".to_owned()))?;
    asymmetric(scope, id, "floor")
}

/// Resize, opset 11: states what opset 10 did: `x / scale`, and for the nearest neighbour down where it enlarges, up
/// where it shrinks (as ONNX Runtime does, and the expected values of the operator's own tests).
pub(super) fn state_coordinates(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    if node.string("mode").unwrap_or("nearest") != "nearest" {
        return asymmetric(scope, id, "floor");
    }
    let refuse = |why: &str, hint: &str| Err(Error::new(ErrorKind::Unsupported, why).hint(hint));
    let Some(scales) = node.input_at(1).map(|s| scope.constant(s)).transpose()?.flatten() else {
        return refuse(
            "its scales are not constant, so whether it enlarges or shrinks is not known",
            "fold the constants of the model first, or export it again with opset 11 or later",
        );
    };
    let scales = scales.f32s()?;
    match (scales.iter().any(|&s| s > 1.0), scales.iter().any(|&s| s < 1.0)) {
        (true, true) => refuse(
            "it enlarges one axis and shrinks another, which no rounding of opset 11 expresses",
            "export the model again with opset 11 or later",
        ),
        (_, true) => asymmetric(scope, id, "ceil"),
        _ => asymmetric(scope, id, "floor"),
    }
}

/// The form of opset 11: an empty region of interest before the scales, and the coordinates as attributes.
fn asymmetric(scope: &mut Scope, id: NodeId, rounding: &str) -> Result<()> {
    let roi = scope.add_constant(id, "roi", &Tensor::from_f32(vec![0], vec![]))?;
    scope.graph_mut().edit(id, |n| {
        n.input.insert(n.input.len().min(1), roi);
        n.set(attribute::string("coordinate_transformation_mode", "asymmetric"));
        if n.string("mode").unwrap_or("nearest") == "nearest" {
            n.set(attribute::string("nearest_mode", rounding));
        }
    })
}

/// Resize, opset 13: what had to be an empty tensor is left out: the region where nothing is cropped, the scales where
/// the sizes are given. The mode `tf_half_pixel_for_nn`, which is gone, lies half a pixel above `half_pixel`: what it
/// rounded down is there rounded to nearest, up at half, and what it rounded to nearest, down at half, is there rounded
/// up.
pub(super) fn leave_out_empty_inputs(scope: &mut Scope, id: NodeId) -> Result<()> {
    let mode = scope.node(id)?.string("coordinate_transformation_mode").unwrap_or("half_pixel").to_owned();
    if scope.node(id)?.input_at(3).is_some() {
        scope.set_input(id, 2, "")?;
    }
    if mode != "tf_crop_and_resize" {
        scope.set_input(id, 1, "")?;
    }
    if mode != "tf_half_pixel_for_nn" {
        return Ok(());
    }
    let node = scope.node(id)?;
    let nearest = node.string("mode").unwrap_or("nearest") == "nearest";
    let rounding = match node.string("nearest_mode").unwrap_or("round_prefer_floor") {
        "floor" if nearest => "round_prefer_ceil",
        "round_prefer_floor" if nearest => "ceil",
        other => {
            let what = format!("`{mode}` is gone since opset 13, and rounding by `{other}` cannot replace it");
            return Err(Error::new(ErrorKind::Unsupported, what).hint("export the model again with opset 13 or later"));
        }
    };
    scope.graph_mut().edit(id, |n| {
        n.set(attribute::string("coordinate_transformation_mode", "half_pixel"));
        n.set(attribute::string("nearest_mode", rounding));
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, refused};
    use crate::model::attribute::{float, floats, string, tensor};
    use crate::model::{NodeProto, Tensor};
    use crate::pass::sketch::node;

    fn constant(name: &str, x: &[f32]) -> NodeProto {
        let value = Tensor::from_f32(vec![x.len()], x.to_vec()).to_proto("");
        node("Constant", "", name, &[tensor("value", value)])
    }

    #[test]
    fn two_scales_become_four() {
        let old = |mode| [float("height_scale", 2.0), float("width_scale", 3.0), string("mode", mode)];
        let up = |mode| raised(1, 7, vec![node("Upsample", "x", "y", &old(mode))]).unwrap();
        assert_eq!(up("nearest"), ["y = Upsample(x) mode=nearest scales=[1.0, 1.0, 2.0, 3.0]"]);
        assert_eq!(up("bilinear"), ["y = Upsample(x) mode=linear scales=[1.0, 1.0, 2.0, 3.0]"]);
        let e = raised(1, 7, vec![node("Upsample", "x", "y", &old("nearest")[..1])]).unwrap_err();
        assert!(e.to_string().contains("`width_scale` is missing"));
    }

    #[test]
    fn upsample_becomes_resize() {
        let old =
            || vec![node("Upsample", "x", "y", &[floats("scales", &[1.0, 1.0, 2.0, 2.0]), string("mode", "nearest")])];
        let coordinates = "mode=nearest coordinate_transformation_mode=asymmetric nearest_mode=floor";
        assert_eq!(raised(7, 9, old()).unwrap(), ["y = Upsample(x, y_scales) mode=nearest"]);
        assert_eq!(raised(7, 10, old()).unwrap(), ["y = Resize(x, y_scales) mode=nearest"]);
        assert_eq!(raised(7, 11, old()).unwrap(), [format!("y = Resize(x, y_roi, y_scales) {coordinates}")]);
        assert_eq!(raised(7, 13, old()).unwrap(), [format!("y = Resize(x, , y_scales) {coordinates}")]);
        let linear = vec![node("Upsample", "x s", "y", &[string("mode", "linear")])];
        let line = "y = Resize(x, , s) mode=linear coordinate_transformation_mode=asymmetric";
        assert_eq!(raised(9, 21, linear).unwrap(), [line]);
    }

    #[test]
    fn the_nearest_neighbour_depends_on_the_direction() {
        let resize = |x: &[f32]| vec![constant("s", x), node("Resize", "x s", "y", &[])];
        let line = |r: &str| format!("y = Resize(x, , s) coordinate_transformation_mode=asymmetric nearest_mode={r}");
        assert_eq!(raised(10, 13, resize(&[1.0, 3.0])).unwrap()[1], line("floor"));
        assert_eq!(raised(10, 13, resize(&[1.0, 0.6])).unwrap()[1], line("ceil"));
        assert!(refused(10, 13, resize(&[2.0, 0.5])).contains("shrinks another"));
        assert!(refused(10, 13, vec![node("Resize", "x s", "y", &[])]).contains("not constant"));
    }

    #[test]
    fn empty_tensors_are_left_out() {
        let sizes = vec![constant("e", &[]), node("Resize", "x e e n", "y", &[])];
        assert_eq!(raised(11, 13, sizes).unwrap()[1], "y = Resize(x, , , n)");
        let crop = [string("coordinate_transformation_mode", "tf_crop_and_resize")];
        let crop = vec![constant("e", &[]), node("Resize", "x r e n", "y", &crop)];
        assert_eq!(
            raised(11, 13, crop).unwrap()[1],
            "y = Resize(x, r, , n) coordinate_transformation_mode=tf_crop_and_resize"
        );
    }

    #[test]
    fn the_mode_that_is_gone_is_replaced_or_refused() {
        let resize = |r| {
            let attributes =
                [string("coordinate_transformation_mode", "tf_half_pixel_for_nn"), string("nearest_mode", r)];
            vec![node("Resize", "x e s", "y", &attributes)]
        };
        for (old, new) in [("floor", "round_prefer_ceil"), ("round_prefer_floor", "ceil")] {
            let line = format!("y = Resize(x, , s) coordinate_transformation_mode=half_pixel nearest_mode={new}");
            assert_eq!(raised(11, 13, resize(old)).unwrap(), [line]);
        }
        assert!(refused(11, 13, resize("ceil")).contains("tf_half_pixel_for_nn"));
    }
}
