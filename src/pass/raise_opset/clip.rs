//! Clip: its bounds became inputs in opset 11.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, Tensor};

/// Opset 11: `min` and `max` become inputs of the type of the data. A bound at the end of float32 is left out.
pub(super) fn bounds_to_inputs(scope: &mut Scope, id: NodeId) -> Result<()> {
    for (slot, bound, end) in [(1, "min", f32::MIN), (2, "max", f32::MAX)] {
        let node = scope.node(id)?;
        if let Some(value) = node.float(bound).filter(|&v| v != end) {
            let dtype = scope.float_type(node.input_at(0).unwrap_or_default())?;
            let name = scope.add_constant(id, bound, &Tensor::from_f64(dtype, vec![], &[value.into()])?)?;
            scope.set_input(id, slot, &name)?;
        }
        scope.graph_mut().edit(id, |n| drop(n.take(bound)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, raised_model, refused};
    use crate::model::{DataType, NodeProto, Tensor, attribute::float, attribute::int};
    use crate::pass::sketch::node;

    #[test]
    fn bounds_become_inputs() {
        let cases = [
            (vec![float("min", 0.0), float("max", 6.0)], "y = Clip(x, y_min, y_max)"),
            (vec![float("max", 6.0)], "y = Clip(x, , y_max)"),
            (vec![float("min", 0.0), float("max", f32::MAX)], "y = Clip(x, y_min)"),
            (vec![], "y = Clip(x)"),
        ];
        for (bounds, line) in cases {
            assert_eq!(raised(10, 13, vec![node("Clip", "x", "y", &bounds)]).unwrap(), [line]);
        }
    }

    #[test]
    fn they_have_the_type_of_the_data() {
        let cast = |to: DataType| node("Cast", "x", "c", &[int("to", to as i64)]);
        let clip = |x| node("Clip", x, "y", &[float("max", 6.0)]);
        for dtype in [DataType::Float, DataType::Float16, DataType::Double] {
            let m = raised_model(10, 11, vec![cast(dtype), node("Relu", "c", "r", &[]), clip("r")]).unwrap();
            let six = Tensor::from_f64(dtype, vec![], &[6.0]).unwrap();
            assert_eq!(m.graph.constant("y_max").unwrap(), Some(six));
        }
        let foreign = NodeProto { domain: Some("com.example".into()), ..node("Foo", "x", "f", &[]) };
        assert_eq!(raised(10, 11, vec![foreign.clone(), clip("f")]).unwrap()[1], "y = Clip(f, , y_max)");
        let mixed = vec![cast(DataType::Float16), foreign, node("Identity", "c", "z", &[]), clip("f")];
        assert!(refused(10, 11, mixed).contains("the element type of `f` is not stated"));
    }
}
