//! Broadcasting: as numpy does since opset 7; before, by attributes, from one axis of the first operand on.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{NodeExt, NodeId, attribute};

/// Opset 7, operators of two operands: drops `broadcast` and `axis`. The second operand's axes were those of the first
/// from `axis` on, its last ones where that is left out; axes of length 1 are put behind them where others follow.
pub(super) fn as_numpy(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    let axis = node.int("axis").filter(|_| node.int("broadcast").unwrap_or(0) != 0);
    let operands = (node.input_at(0).map(str::to_owned), node.input_at(1).map(str::to_owned));
    scope.graph_mut().edit(id, |n| {
        n.take("broadcast");
        n.take("axis");
    })?;
    let (Some(axis), (Some(a), Some(b))) = (axis, operands) else { return Ok(()) };
    let (Some(whole), Some(part)) = (scope.rank(&a), scope.rank(&b)) else { return Err(unknown_rank(&[&a, &b])) };
    let first = if axis < 0 { axis + whole } else { axis };
    match whole - first - part {
        _ if part == 0 => Ok(()),
        behind @ 0.. if first >= 0 => stretch(scope, id, &b, part, behind),
        _ => Err(misfit(format!("`{b}` with {part} axes does not fit `{a}` with {whole} from axis {axis} on"))),
    }
}

/// Gemm, opset 7: drops `broadcast`, which said whether `C` need not have the shape of the result.
pub(super) fn of_gemm(scope: &mut Scope, id: NodeId) -> Result<()> {
    scope.graph_mut().edit(id, |n| drop(n.take("broadcast")))
}

/// PRelu, opset 7: slopes for each channel, `[C]`, get the axes of length 1 that let them meet axis 1 of the input.
pub(super) fn of_slope(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    let (Some(x), Some(slope)) = (node.input_at(0), node.input_at(1)) else { return Ok(()) };
    let (x, slope) = (x.to_owned(), slope.to_owned());
    if scope.shape(&slope).is_some_and(|s| s.iter().all(|&d| d == Some(1))) {
        return Ok(());
    }
    match (scope.rank(&x), scope.rank(&slope)) {
        (Some(whole), Some(1)) => stretch(scope, id, &slope, 1, (whole - 2).max(0)),
        (_, Some(_)) => Ok(()),
        _ => Err(unknown_rank(&[&x, &slope])),
    }
}

/// Lets the node read its second operand with axes of length 1 behind its own.
fn stretch(scope: &mut Scope, id: NodeId, operand: &str, axes: i64, behind: i64) -> Result<()> {
    if behind == 0 {
        return Ok(());
    }
    let new: Vec<i64> = (axes..axes + behind).collect();
    let base = format!("{}_operand", scope.node(id)?.output_at(0).unwrap_or("value"));
    let value = scope.compute_before(id, "Unsqueeze", &[operand], &base, vec![attribute::ints("axes", &new)])?;
    scope.set_input(id, 1, &value)
}

fn unknown_rank(values: &[&str]) -> Error {
    let what = format!("how many axes `{}` have is not known, and since opset 7 it decides", values.join("` and `"));
    Error::new(ErrorKind::Unsupported, what)
        .hint("run ONNX shape inference on the model first, which states the shapes of its values")
}

fn misfit(what: String) -> Error {
    Error::new(ErrorKind::InvalidModel, what)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, raised_from, refused};
    use crate::model::attribute::int;
    use crate::model::{AttributeProto, NodeProto};
    use crate::pass::sketch::{floats, graph, lines, node, value};

    fn from_6(op: NodeProto, rank: usize, operand: &[usize]) -> Vec<String> {
        let w = floats("w", operand, &vec![0.5; operand.iter().product()]);
        let mut g = graph("", vec![node("Conv", "x k", "c", &[]), op], vec![w, floats("k", &[1], &[1.0])], "y");
        g.input = vec![value("x", Some(rank))];
        lines(&raised_from(6, 7, g).unwrap().graph.to_proto())[1..].to_vec()
    }

    fn add(attributes: &[AttributeProto]) -> NodeProto {
        node("Add", "c w", "y", attributes)
    }

    #[test]
    fn the_axis_becomes_axes_of_length_1() {
        let on = int("broadcast", 1);
        let from = |axis| [on.clone(), int("axis", axis)];
        let stretched =
            |axes: &str| vec![format!("y_operand = Unsqueeze(w) axes={axes}"), "y = Add(c, y_operand)".into()];
        assert_eq!(from_6(add(&from(1)), 4, &[3]), stretched("[1, 2]"));
        assert_eq!(from_6(add(&from(1)), 4, &[3, 4]), stretched("[2]"));
        assert_eq!(from_6(add(&from(-3)), 4, &[3]), stretched("[1, 2]"));
        for plain in [add(&from(3)), add(&[on.clone()]), add(&[]), add(&[int("axis", 1)])] {
            assert_eq!(from_6(plain, 4, &[5]), ["y = Add(c, w)"]);
        }
        assert_eq!(from_6(add(&from(1)), 4, &[]), ["y = Add(c, w)"]);
    }

    #[test]
    fn it_goes_on_to_be_raised() {
        let nodes = vec![
            node("Flatten", "x", "f", &[]),
            node("Flatten", "z", "g", &[]),
            node("Unsqueeze", "f", "u", &[crate::model::attribute::ints("axes", &[0])]),
            node("Mul", "u g", "y", &[int("broadcast", 1), int("axis", 0)]),
        ];
        let new = raised(6, 13, nodes).unwrap();
        assert_eq!(new[2..], ["u = Unsqueeze(f, [0])", "y_operand = Unsqueeze(g, [2])", "y = Mul(u, y_operand)"]);
    }

    #[test]
    fn slopes_meet_the_channels() {
        let prelu = || node("PRelu", "c w", "y", &[]);
        assert_eq!(from_6(prelu(), 4, &[3])[0], "y_operand = Unsqueeze(w) axes=[1, 2]");
        assert_eq!(from_6(prelu(), 2, &[3]), ["y = PRelu(c, w)"]);
        assert_eq!(from_6(prelu(), 4, &[1]), ["y = PRelu(c, w)"]);
        assert_eq!(from_6(prelu(), 4, &[3, 1, 1]), ["y = PRelu(c, w)"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let axis = [int("broadcast", 1), int("axis", 1)];
        assert!(refused(6, 7, vec![node("Add", "x z", "y", &axis)]).contains("how many axes `x` and `z` have"));
        assert!(refused(6, 7, vec![node("PRelu", "x z", "y", &[])]).contains("how many axes"));
        let too_many = vec![node("Flatten", "x", "f", &[]), node("Add", "f f", "y", &axis)];
        assert!(raised(6, 7, too_many).unwrap_err().to_string().contains("does not fit"));
        assert_eq!(raised(6, 7, vec![node("Gemm", "x x x", "y", &axis[..1])]).unwrap(), ["y = Gemm(x, x, x)"]);
    }
}
