//! Softmax, LogSoftmax and Hardmax: over all axes from one on before opset 13, over that one axis since.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{At, NodeExt, NodeId, attribute};

/// Opset 13: where at most one of the axes from `axis` (default 1) on is longer than 1, that one is stated; otherwise
/// the node works on `Flatten(x, axis)`, and its result is given the shape of `x` again.
pub(super) fn over_one_axis(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    let axis = node.int("axis").unwrap_or(1);
    let (Some(x), Some(y)) = (node.input_at(0), node.output_at(0)) else { return Ok(()) };
    if let Some(only) = only_axis(scope.shape(x).as_deref(), axis) {
        return scope.graph_mut().edit(id, |n| n.set(attribute::int("axis", only)));
    }
    let (x, y) = (x.to_owned(), y.to_owned());
    let flatten = vec![attribute::int("axis", axis)];
    let flat = scope.compute_before(id, "Flatten", &[&x], &format!("{y}_flat"), flatten)?;
    let shape = scope.compute_before(id, "Shape", &[&x], &format!("{y}_shape"), vec![])?;
    let result = scope.fresh_name(&format!("{y}_result"));
    scope.graph_mut().edit(id, |n| {
        n.set(attribute::int("axis", -1));
        n.input[0] = flat;
        n.output[0] = result.clone();
    })?;
    scope.insert(At::After(id), "Reshape", &[&result, &shape], &y, vec![])
}

/// The one axis, counted from the back, that all elements from `axis` on lie along; `None` where there is none, or it
/// is not known.
fn only_axis(shape: Option<&[Option<usize>]>, axis: i64) -> Option<i64> {
    let Some(shape) = shape else { return (axis == -1).then_some(-1) };
    let rank = shape.len() as i64;
    let first = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
    let mut long = (first..shape.len()).filter(|&i| shape[i] != Some(1));
    match (long.next(), long.next()) {
        (Some(only), None) => Some(only as i64 - rank),
        (None, _) if first < shape.len() => Some(-1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, raised_from};
    use super::only_axis;
    use crate::model::attribute::int;
    use crate::pass::sketch::{graph, lines, node, value};

    #[test]
    fn one_axis_is_stated() {
        let one = Some(1);
        let cases = [
            (vec![None, Some(10)], 1, Some(-1)),
            (vec![None, Some(10), one, one], 1, Some(-3)),
            (vec![None, None, one], -2, Some(-2)),
            (vec![None, one, one], 1, Some(-1)),
            (vec![None, None, None], -1, Some(-1)),
            (vec![None, None, None], 1, None),
            (vec![Some(2), Some(3)], 0, None),
            (vec![Some(2)], 1, None),
        ];
        for (shape, axis, only) in cases {
            assert_eq!(only_axis(Some(&shape), axis), only, "{shape:?} {axis}");
        }
        assert_eq!((only_axis(None, -1), only_axis(None, 1)), (Some(-1), None));
    }

    #[test]
    fn several_axes_are_flattened() {
        let flattened = [
            "y_flat = Flatten(x) axis=1",
            "y_shape = Shape(x)",
            "y_result = LogSoftmax(y_flat) axis=-1",
            "y = Reshape(y_result, y_shape)",
        ];
        assert_eq!(raised(11, 13, vec![node("LogSoftmax", "x", "y", &[])]).unwrap(), flattened);
        let last = vec![node("Flatten", "x", "f", &[]), node("Softmax", "f", "y", &[])];
        assert_eq!(raised(7, 13, last).unwrap()[1], "y = Softmax(f) axis=-1");
    }

    #[test]
    fn a_stated_rank_is_enough_for_the_last_axis() {
        let mut g = graph("", vec![node("Softmax", "x", "y", &[int("axis", 2)])], vec![], "y");
        g.input = vec![value("x", Some(3))];
        assert_eq!(lines(&raised_from(7, 13, g).unwrap().graph.to_proto()), ["y = Softmax(x) axis=-1"]);
    }
}
