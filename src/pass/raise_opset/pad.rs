//! Pad: its amounts and its value became inputs in opset 11.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{NodeExt, NodeId, Tensor};

/// Opset 2: refuses `paddings`, of whose order the text of opset 1 says one thing and its example another.
pub(super) fn refuse_paddings(_: &mut Scope, _: NodeId) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "what the `paddings` of opset 1 mean is not defined")
        .hint("export the model again with opset 2 or later"))
}

/// Opset 11: `pads` becomes the second input, `value`, unless it is 0, the third, of the type of the data.
pub(super) fn pads_to_input(scope: &mut Scope, id: NodeId) -> Result<()> {
    scope.ints_to_input(id, "pads", 1)?;
    let node = scope.node(id)?;
    if let Some(value) =
        node.float("value").filter(|&v| v != 0.0 && node.string("mode").unwrap_or("constant") == "constant")
    {
        let dtype = scope.float_type(node.input_at(0).unwrap_or_default())?;
        let name = scope.add_constant(id, "value", &Tensor::from_f64(dtype, vec![], &[value.into()])?)?;
        scope.set_input(id, 2, &name)?;
    }
    scope.graph_mut().edit(id, |n| drop(n.take("value")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, refused};
    use crate::model::attribute::{float, ints, string};
    use crate::pass::sketch::node;

    #[test]
    fn amounts_and_value_become_inputs() {
        let pad = |attributes: &[_]| {
            let attributes = [&[ints("pads", &[0, 1, 0, 1])], attributes].concat();
            raised(10, 18, vec![node("Pad", "x", "y", &attributes)]).unwrap()
        };
        assert_eq!(pad(&[]), ["y = Pad(x, [0, 1, 0, 1])"]);
        assert_eq!(pad(&[float("value", 0.0)]), ["y = Pad(x, [0, 1, 0, 1])"]);
        assert_eq!(pad(&[float("value", 2.0)]), ["y = Pad(x, [0, 1, 0, 1], y_value)"]);
        let edge = [string("mode", "edge"), float("value", 2.0)];
        assert_eq!(pad(&edge), ["y = Pad(x, [0, 1, 0, 1]) mode=edge"]);
    }

    #[test]
    fn only_the_form_of_opset_1_is_refused() {
        assert!(refused(1, 2, vec![node("Pad", "x", "y", &[ints("paddings", &[0, 1])])]).contains("`paddings`"));
        assert_eq!(
            raised(2, 10, vec![node("Pad", "x", "y", &[ints("pads", &[0, 1])])]).unwrap(),
            ["y = Pad(x) pads=[0, 1]"]
        );
    }
}
