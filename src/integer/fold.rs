//! Float operators between DequantizeLinear and QuantizeLinear become operators on codes.

use super::around::{behind, dequantizer, in_front};
use super::layer;
use super::lift::{drop_unread, fills};
use super::made::{Input, Made};
use super::outcome::{Outcome, on_codes};
use super::source::{interpolates, moves};
use super::table::MS;
use crate::error::{Place, Refusal, Result, no};
use crate::model::{
    At, DataType, Graph, Linear, Model, NodeExt, NodeId, NodeProto, Tensor, attribute, dtype_name, of_format,
};
use crate::number::{Grid, pack, quantize};
use crate::schema::{self, Kind, ValueType};

/// Rewrites the nodes of the graph that read DequantizeLinear and write QuantizeLinear into operators on codes: those of
/// ONNX's own domain, and with `contrib` onnxruntime's too; subgraphs stay.
///
/// ```text
/// before: y = QuantizeLinear(Conv(DequantizeLinear(x, ..), DequantizeLinear(w, ..), DequantizeLinear(b, ..)), ..)
/// after:  y = QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b)
/// ```
///
/// What only moves elements, with the same parameters in front and behind, runs on the codes where its schema takes them; a
/// Pad fills with the code of its number. A ReLU or Clip in front of QuantizeLinear goes where the ends of the codes do its
/// work. Constants in front of QuantizeLinear become codes, and a Transpose behind a
/// matrix of codes turns these; a constant bias becomes int32 at the scale of the sums, if it is
/// not yet. With `contrib`, MatMul and Gemm that write floats become MatMulIntegerToFloat and QGemm. Codes and nodes keep
/// their names.
///
/// Element types are those that onnxruntime's CPU kernels take: activations uint8 or int8, the same in front and behind;
/// weights int8, or uint8 beside uint8 activations; scales float32. One scale for a whole activation; one a weight, or one an
/// output channel with one zero point.
///
/// The inverse of [`expand`](super::expand); results differ in how kernels round. `tell` hears of every node that reads what
/// DequantizeLinear makes. Returns how many nodes were rewritten. Errors when a constant is broken, and name node and tensor.
pub fn fold(model: &mut Model, contrib: bool, tell: &mut dyn FnMut(Outcome)) -> Result<usize> {
    let opset = model.opset();
    let graph = &mut model.graph;
    store_constants(graph)?;
    turn_codes(graph)?;
    let (mut count, mut foreign) = (0, false);
    for id in graph.node_ids() {
        let Some(node) = graph.node(id).filter(|n| reads_dequantized(graph, n)) else { continue };
        let (label, operator) = (graph.label(id), node.operator());
        let made = match moves(node) {
            true => moved(graph, id, node, opset),
            false => layer::read(graph, id, node, opset, contrib),
        };
        let became = match made {
            Ok(made) => {
                count += 1;
                foreign |= made.node.domain() == MS;
                let operator = made.node.operator();
                let operator = if moves(&made.node) { on_codes(&operator) } else { operator };
                made.put(graph).at(|| label.clone())?;
                Ok(operator)
            }
            Err(Refusal::Skip(reason)) => Err(reason),
            Err(Refusal::Fail(e)) => return Err(e.at(label)),
        };
        tell(Outcome { node: label, operator, became });
    }
    for id in graph.node_ids() {
        if graph.node(id).is_some_and(Linear::dequantizes) {
            drop_unread(graph, id);
        }
    }
    graph.drop_unused_initializers();
    graph.prune_value_info(|_| false);
    if foreign {
        model.import(MS, 1);
    }
    Ok(count)
}

/// Puts codes in the place of QuantizeLinear nodes that quantize constants, as weights stand that were left in float.
fn store_constants(graph: &mut Graph) -> Result<()> {
    for id in graph.node_ids() {
        let Some(node) = graph.node(id).filter(|n| Linear::quantizes(n)) else { continue };
        let (Some(name), Some(codes)) = (node.input_at(0), node.output_at(0)) else { continue };
        if graph.is_pinned(codes) || graph.is_input(name) {
            continue;
        }
        let Some(x) = graph.constant(name)?.filter(|x| x.dtype() == DataType::Float) else { continue };
        let Ok(linear) = Linear::read(graph, node) else { continue };
        let Ok(params) = linear.params(x.shape().len()) else { continue };
        let made = quantize(&x.f32s()?, x.shape(), &params).at(|| node.label())?;
        let made = Tensor::new(linear.dtype, x.shape().to_vec(), pack(params.format(), &made).into())?;
        let codes = codes.to_owned();
        graph.remove(id);
        graph.set_initializer(made.to_proto(&codes));
    }
    Ok(())
}

/// Lets a Transpose turn the codes of a constant matrix, which are dequantized behind it, so that what multiplies finds them there. What
/// else reads the codes goes on doing so.
fn turn_codes(graph: &mut Graph) -> Result<()> {
    for id in graph.node_ids() {
        let turns = |n: &&NodeProto| n.is("Transpose") && n.ints("perm") == Some(&[1, 0]);
        let Some((real, y)) = graph.node(id).filter(turns).and_then(|n| n.input_at(0).zip(n.output_at(0))) else {
            continue;
        };
        let Some(dequantize) = dequantizer(graph, real).cloned() else { continue };
        let Some((ahead, _)) = graph.producer(real) else { continue };
        let codes = dequantize.input_at(0).filter(|c| graph.is_constant(c)).unwrap_or_default().to_owned();
        let bytes = graph.stated_dtype(&codes).is_some_and(|d| matches!(d, DataType::Int8 | DataType::Uint8));
        let axis = dequantize.int("axis").unwrap_or(1);
        if !bytes || dequantize.int("block_size").is_some_and(|b| b != 0) || !(-2..2).contains(&axis) {
            continue;
        }
        let y = y.to_owned();
        let turned = graph.fresh_name(&format!("{codes}_transposed"));
        let mut behind = NodeProto { name: Some(graph.fresh_name(&format!("{y}_DequantizeLinear"))), ..dequantize };
        behind.input[0] = turned.clone();
        behind.output = vec![y];
        behind.set(attribute::int("axis", 1 - axis.rem_euclid(2)));
        graph.edit(id, |n| {
            n.input[0] = codes;
            n.output[0] = turned;
        })?;
        graph.insert(At::After(id), behind)?;
        drop_unread(graph, ahead);
    }
    Ok(())
}

/// Whether a node that computes reads what DequantizeLinear makes.
fn reads_dequantized(graph: &Graph, node: &NodeProto) -> bool {
    let between = Linear::quantizes(node) || Linear::dequantizes(node);
    !between && node.input.iter().any(|name| dequantizer(graph, name).is_some())
}

/// An operator that only moves elements.
fn moved(graph: &Graph, id: NodeId, node: &NodeProto, opset: i64) -> Result<Made, Refusal> {
    let Some(value) = node.input_at(0) else { return no("one of its inputs is missing") };
    let codes = in_front(graph, value)?;
    let params = codes.per_tensor()?;
    if interpolates(node) {
        return no("it interpolates, and codes would be rounded otherwise");
    }
    if !takes(node, opset, codes.linear.dtype) {
        return no(format!("{} of opset {opset} takes no {}", node.op_type(), dtype_name(codes.linear.dtype)));
    }
    let mut inputs: Vec<Input> = node.input.iter().cloned().map(Input::Value).collect();
    inputs[0] = Input::Value(codes.name.clone());
    if fills(node) {
        let fill = match node.input_at(2) {
            None => 0.0,
            Some(name) => match graph.constant(name)?.filter(|t| t.is_float() && t.len() == 1) {
                Some(fill) => fill.reals()?[0],
                None => return no(format!("`{name}`, which it fills with, is no constant")),
            },
        };
        let code = pack(params.format(), &[Grid::of(&params, 0).code(fill)]);
        let code = Tensor::new(of_format(params.format()), vec![], code.into())?;
        while inputs.len() < 3 {
            inputs.push(Input::Value(String::new()));
        }
        inputs[2] = Input::Constant(format!("{}_fill", codes.name), code);
    }
    let (mut gone, mut twins, mut output) = (Vec::new(), Vec::new(), node.output.clone());
    let moved = if node.is("Split") { output.len() } else { 1 };
    for name in output.iter_mut().take(moved).filter(|o| !o.is_empty()) {
        if graph.uses(name).is_empty() && !graph.is_pinned(name) {
            continue;
        }
        let made = behind(graph, name)?;
        if made.codes.per_tensor()? != params {
            return no(format!("`{}` and `{}` have different parameters", codes.name, made.codes.name));
        }
        gone.extend(made.gone);
        twins.extend(made.twins.into_iter().map(|twin| (twin, made.codes.name.clone())));
        *name = made.codes.name;
    }
    if gone.is_empty() {
        return no("its output is not read");
    }
    let made = NodeProto { input: Vec::new(), output, ..node.clone() };
    Ok(Made { at: id, node: made, inputs, gone, twins })
}

/// Whether the operator takes elements of this type as its first input.
fn takes(node: &NodeProto, opset: i64, dtype: DataType) -> bool {
    let Some(version) = schema::operator(node.op_type()).and_then(|o| o.at(opset)) else { return false };
    match version.inputs.first().map(|p| &p.kind) {
        Some(&Kind::Variable(v)) => version.types(v).is_some_and(|(_, set)| set.has(ValueType::Tensor(dtype))),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integer::unfold;
    use crate::model::{AttributeProto, TensorProto, attribute};
    use crate::pass::sketch::{floats, graph, lines, model, node};

    fn codes(name: &str, dtype: DataType, shape: &[usize]) -> TensorProto {
        let width = crate::model::width(dtype).unwrap();
        let bytes = vec![1; shape.iter().product::<usize>() * width];
        Tensor::new(dtype, shape.to_vec(), bytes.into()).unwrap().to_proto(name)
    }

    fn zeros(name: &str, dtype: DataType, shape: &[usize]) -> TensorProto {
        let width = crate::model::width(dtype).unwrap();
        Tensor::new(dtype, shape.to_vec(), vec![0; shape.iter().product::<usize>() * width].into())
            .unwrap()
            .to_proto(name)
    }

    fn constants() -> Vec<TensorProto> {
        vec![
            floats("s", &[], &[0.5]),
            floats("t", &[], &[0.25]),
            floats("two", &[2], &[0.5, 0.25]),
            floats("bs", &[2], &[0.25, 0.125]),
            floats("f", &[2], &[1.0, -2.06]),
            floats("table", &[2, 2], &[1.0, -1.0, 0.0, 100.0]),
            floats("huge", &[2], &[1e30, 0.0]),
            floats("one", &[], &[1.0]),
            floats("six", &[], &[6.0]),
            floats("wide", &[], &[1000.0]),
            codes("z", DataType::Uint8, &[]),
            zeros("z0", DataType::Uint8, &[]),
            codes("i", DataType::Int8, &[]),
            zeros("ii", DataType::Int8, &[2]),
            codes("uu", DataType::Uint8, &[2]),
            zeros("bz", DataType::Int32, &[2]),
            zeros("short", DataType::Int16, &[]),
            codes("w", DataType::Int8, &[2, 3, 1, 1]),
            codes("uw", DataType::Uint8, &[2, 3, 1, 1]),
            codes("m", DataType::Int8, &[3, 2]),
            codes("rows", DataType::Int8, &[2, 3]),
            codes("b", DataType::Int32, &[2]),
            Tensor::new(
                DataType::Int32,
                vec![2],
                [3i32, -5].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into(),
            )
            .unwrap()
            .to_proto("small"),
            Tensor::from_i64(vec![2], vec![1, 1]).to_proto("n"),
        ]
    }

    fn dq(codes: &str, scale: &str, zero: &str, real: &str) -> NodeProto {
        node("DequantizeLinear", &format!("{codes} {scale} {zero}"), real, &[])
    }

    fn q(real: &str, scale: &str, zero: &str) -> NodeProto {
        node("QuantizeLinear", &format!("{real} {scale} {zero}"), &format!("{real}_quantized"), &[])
    }

    fn channels(codes: &str, zero: &str, axis: i64) -> NodeProto {
        let axis = [attribute::int("axis", axis)];
        node("DequantizeLinear", &format!("{codes} two {zero}"), &format!("{codes}_real"), &axis)
    }

    /// The model, and why nodes stayed.
    fn folded(opset: i64, contrib: bool, nodes: Vec<NodeProto>, outputs: &str) -> (Model, Vec<String>) {
        let mut m = model(opset, graph("x v", nodes, constants(), outputs));
        let mut left = Vec::new();
        fold(&mut m, contrib, &mut |outcome| left.extend(outcome.became.err())).unwrap();
        m.graph.check().unwrap();
        (m, left)
    }

    /// Folds `nodes` between a DequantizeLinear that makes `a` of the input `x` and the output `y`'s codes.
    fn becomes(contrib: bool, nodes: &[NodeProto], want: &[&str]) -> Model {
        let nodes = [&[dq("x", "s", "z", "a")], nodes].concat();
        let (m, left) = folded(13, contrib, nodes, "y_quantized");
        assert_eq!((lines(&m.graph.to_proto()), left), (want.iter().map(|s| s.to_string()).collect(), vec![]));
        m
    }

    #[test]
    fn a_convolution_takes_its_bias_as_it_is_at_the_scale_of_the_sums() {
        let bias = node("DequantizeLinear", "b bs bz", "b_real", &[attribute::int("axis", 0)]);
        let conv = node("Conv", "a w_real b_real", "y", &[attribute::ints("pads", &[1, 1])]);
        let m = becomes(
            false,
            &[channels("w", "ii", 0), bias, conv, q("y", "t", "z")],
            &["y_quantized = QLinearConv(x, s, z, w, two, ii, t, z, b) pads=[1, 1]"],
        );
        assert_eq!(m.imported(MS), None);
    }

    #[test]
    fn a_float_bias_and_one_at_another_scale_are_rounded_to_the_sums() {
        let conv = |bias: &str| node("Conv", &format!("a w_real {bias}"), "y", &[]);
        let m = becomes(
            false,
            &[channels("w", "ii", 0), conv("f"), q("y", "t", "z")],
            &["y_quantized = QLinearConv(x, s, z, w, two, ii, t, z, f_int32)"],
        );
        assert_eq!(m.graph.constant("f_int32").unwrap().unwrap().codes().unwrap(), [4, -16]);
        let bias = node("DequantizeLinear", "small two bz", "b_real", &[attribute::int("axis", 0)]);
        let m = becomes(
            false,
            &[channels("w", "ii", 0), bias, conv("b_real"), q("y", "t", "z")],
            &["y_quantized = QLinearConv(x, s, z, w, two, ii, t, z, small_int32)"],
        );
        assert_eq!(m.graph.constant("small_int32").unwrap().unwrap().codes().unwrap(), [6, -10]);
    }

    #[test]
    fn zero_points_that_are_left_out_are_written_out() {
        let m = becomes(
            false,
            &[channels("m", "", 1), node("MatMul", "a m_real", "y", &[]), q("y", "t", "z")],
            &["y_quantized = QLinearMatMul(x, s, z, m, two, m_zero_point, t, z)"],
        );
        let zero = m.graph.constant("m_zero_point").unwrap().unwrap();
        assert_eq!((zero.dtype(), zero.shape(), zero.codes().unwrap()), (DataType::Int8, &[2][..], vec![0, 0]));
        let gemm = node("Gemm", "a m_real", "y", &[attribute::float("beta", 3.0)]);
        becomes(
            false,
            &[channels("m", "ii", 1), gemm, q("y", "t", "z")],
            &["y_quantized = QLinearMatMul(x, s, z, m, two, ii, t, z)"],
        );
    }

    #[test]
    fn operators_of_onnxruntime_come_with_its_domain() {
        let alpha = [attribute::float("alpha", 2.0), attribute::int("transB", 0)];
        let gemm = |bias: &str| node("Gemm", &format!("a m_real {bias}"), "y", &alpha);
        let m = becomes(
            true,
            &[channels("m", "ii", 1), gemm("f"), q("y", "t", "z")],
            &["y_quantized = com.microsoft.QGemm(x, s, z, m, two, ii, f_int32, t, z) alpha=2 transB=0"],
        );
        assert_eq!(m.graph.constant("f_int32").unwrap().unwrap().codes().unwrap(), [2, -8]);
        assert_eq!(m.imported(MS), Some(1));
        for (op, form) in [
            ("Add", "QLinearAdd(x, s, z, x, s, z, t, z)"),
            ("Mul", "QLinearMul(x, s, z, x, s, z, t, z)"),
            ("Concat", "QLinearConcat(t, z, x, s, z, x, s, z) axis=1"),
            ("Where", "QLinearWhere(v, x, s, z, x, s, z, t, z)"),
            ("GlobalAveragePool", "QLinearGlobalAveragePool(x, s, z, t, z)"),
            ("Sigmoid", "QLinearSigmoid(x, s, z, t, z)"),
            ("LeakyRelu", "QLinearLeakyRelu(x, s, z, t, z) alpha=0.1"),
            ("Softmax", "QLinearSoftmax(x, s, z, t, z) axis=-1 opset=13"),
            ("AveragePool", "QLinearAveragePool(x, s, z, t, z) kernel_shape=[2, 2]"),
        ] {
            let (inputs, attributes) = match op {
                "Add" | "Mul" => ("a a", vec![]),
                "Concat" => ("a a", vec![attribute::int("axis", 1)]),
                "Where" => ("v a a", vec![]),
                "LeakyRelu" => ("a", vec![attribute::float("alpha", 0.1)]),
                "AveragePool" => {
                    ("a", vec![attribute::ints("kernel_shape", &[2, 2]), attribute::ints("dilations", &[1, 1])])
                }
                _ => ("a", vec![]),
            };
            let float = node(op, inputs, "y", &attributes);
            becomes(true, &[float.clone(), q("y", "t", "z")], &[&format!("y_quantized = com.microsoft.{form}")]);
            let (_, left) = folded(13, false, vec![dq("x", "s", "z", "a"), float, q("y", "t", "z")], "y_quantized");
            assert_eq!(
                left,
                [format!("its operator on codes, {}, is onnxruntime's own", form.split('(').next().unwrap())]
            );
        }
    }

    #[test]
    fn products_that_write_floats_do_so_with_onnxruntimes_operators_only() {
        let nodes = |op: &str| vec![dq("x", "s", "z", "a"), channels("m", "ii", 1), node(op, "a m_real", "y", &[])];
        for (op, form) in
            [("MatMul", "MatMulIntegerToFloat(x, m, s, two, z, ii)"), ("Gemm", "QGemm(x, s, z, m, two, ii)")]
        {
            let (m, left) = folded(13, true, nodes(op), "y");
            assert_eq!((lines(&m.graph.to_proto()), left), (vec![format!("y = com.microsoft.{form}")], vec![]));
        }
        let (m, left) = folded(13, false, nodes("MatMul"), "y");
        assert_eq!(m.graph.nodes().count(), 3);
        assert_eq!(
            left,
            [
                "its output `y` is not quantized, and what computes on codes and writes floats, MatMulIntegerToFloat, is \
              onnxruntime's own"
            ]
        );
    }

    #[test]
    fn what_moves_elements_moves_codes() {
        let pool = node("MaxPool", "a", "p", &[]);
        let nodes = [
            pool,
            q("p", "s", "z"),
            dq("p_quantized", "s", "z", "c"),
            node("Flatten", "c", "y", &[]),
            q("y", "s", "z"),
        ];
        becomes(false, &nodes, &["p_quantized = MaxPool(x)", "y_quantized = Flatten(p_quantized)"]);
        let m = becomes(
            false,
            &[node("Pad", "a n one", "y", &[]), q("y", "s", "z")],
            &["y_quantized = Pad(x, [1, 1], x_fill)"],
        );
        assert_eq!(m.graph.constant("x_fill").unwrap().unwrap().codes().unwrap(), [3]);
        let m = becomes(
            false,
            &[node("Pad", "a n", "y", &[]), q("y", "s", "z")],
            &["y_quantized = Pad(x, [1, 1], x_fill)"],
        );
        assert_eq!(m.graph.constant("x_fill").unwrap().unwrap().codes().unwrap(), [1]);
        // Both halves of a Split, and a half that nothing reads.
        let split = vec![dq("x", "s", "z", "a"), node("Split", "a n", "y o", &[]), q("y", "s", "z"), q("o", "s", "z")];
        let (m, left) = folded(13, false, split.clone(), "y_quantized o_quantized");
        assert_eq!(
            (lines(&m.graph.to_proto()), left),
            (vec!["y_quantized, o_quantized = Split(x, [1, 1])".into()], vec![])
        );
        let (m, _) = folded(13, false, split[..3].to_vec(), "y_quantized");
        assert_eq!(lines(&m.graph.to_proto()), ["y_quantized, o = Split(x, [1, 1])"]);
    }

    #[test]
    fn bounds_go_where_the_codes_end() {
        let conv = [channels("w", "ii", 0), node("Conv", "a w_real", "c", &[])];
        let with = |bound: NodeProto, scale: &str, zero: &str| {
            let nodes = [&[dq("x", "s", "z", "a")], &conv[..], &[bound, q("y", scale, zero)]].concat();
            folded(13, false, nodes, "y_quantized")
        };
        let relu = node("Relu", "c", "y", &[]);
        let (m, left) = with(relu.clone(), "t", "z0");
        assert_eq!(left, Vec::<String>::new());
        assert_eq!(lines(&m.graph.to_proto()), ["y_quantized = QLinearConv(x, s, z, w, two, ii, t, z0)"]);
        let (_, left) = with(relu, "t", "z");
        assert_eq!(left, ["a ReLU or Clip cuts more off than the codes of `y` do"]);
        // Codes from 0 to 255 quarters reach further than 6, and not as far as 1000.
        let clip = |top: &str| node("Clip", &format!("c _ {top}"), "y", &[]);
        assert_eq!(with(clip("six"), "t", "z0").1.len(), 1);
        assert_eq!(with(clip("wide"), "t", "z0").1.len(), 0);
        assert_eq!(with(clip("v"), "t", "z0").1, ["the bounds of `c` are no constants"]);
    }

    #[test]
    fn weights_that_were_left_in_float_become_codes() {
        let nodes = [
            node("QuantizeLinear", "table s i", "c", &[]),
            dq("c", "s", "i", "w_real"),
            node("MatMul", "a w_real", "y", &[]),
            q("y", "t", "z"),
        ];
        let m = becomes(false, &nodes, &["y_quantized = QLinearMatMul(x, s, z, c, s, i, t, z)"]);
        assert_eq!(m.graph.constant("c").unwrap().unwrap().codes().unwrap(), [3, -1, 1, 127]);
    }

    #[test]
    fn a_transpose_turns_the_codes_of_a_weight() {
        let turn = |inputs: &str| node("Transpose", inputs, "turned", &[attribute::ints("perm", &[1, 0])]);
        let nodes =
            [channels("rows", "ii", 0), turn("rows_real"), node("MatMul", "a turned", "y", &[]), q("y", "t", "z")];
        let turned = "rows_transposed = Transpose(rows) perm=[1, 0]";
        becomes(false, &nodes, &[turned, "y_quantized = QLinearMatMul(x, s, z, rows_transposed, two, ii, t, z)"]);
        // Scales of what is summed up stay in front of no kernel.
        let nodes = vec![dq("x", "s", "z", "a"), channels("rows", "ii", 1), turn("rows_real")];
        let nodes = [nodes, vec![node("MatMul", "a turned", "y", &[]), q("y", "t", "z")]].concat();
        assert!(folded(13, false, nodes, "y_quantized").1[0].contains("are not those of output channels"));
    }

    #[test]
    fn equal_codes_of_one_value_become_one() {
        let nodes = [
            node("MaxPool", "a", "p", &[]),
            node("QuantizeLinear", "p s z", "c", &[]),
            node("QuantizeLinear", "p s z", "d", &[]),
            node("Foo", "c d", "y_quantized", &[]),
        ];
        becomes(false, &nodes, &["c = MaxPool(x)", "y_quantized = Foo(c, c)"]);
    }

    #[test]
    fn what_does_not_fit_stays_and_says_why() {
        let conv = |inputs: &str| node("Conv", inputs, "y", &[]);
        let pool = |extra: &[AttributeProto]| node("AveragePool", "a", "y", extra);
        let yq = || q("y", "t", "z");
        let cases: Vec<(Vec<NodeProto>, &str)> = vec![
            (vec![channels("w", "ii", 0), conv("v w_real"), yq()], "its input `v` is not quantized"),
            (vec![conv("a f"), yq()], "its input `f` is not quantized"),
            (
                vec![channels("w", "ii", 0), conv("a w_real"), yq(), node("Foo", "y", "o", &[])],
                "its output `y` is read as float",
            ),
            (vec![channels("w", "ii", 0), conv("a w_real"), q("y", "t", "i")], "no kernel reads uint8 and writes int8"),
            (vec![channels("w", "ii", 0), conv("a w_real"), q("y", "t", "short")], "is int16, and kernels take 8 bits"),
            (vec![channels("uw", "uu", 1), conv("a uw_real"), yq()], "are not those of output channels"),
            (vec![channels("w", "ii", 0), conv("a w_real huge"), yq()], "is too large for int32"),
            (vec![channels("w", "ii", 0), conv("a w_real v"), yq()], "its bias `v` is no constant"),
            (vec![channels("w", "ii", 0), conv("a w_real one"), yq()], "does not hold one number a channel"),
            (
                vec![dq("uw", "s", "z", "r"), dq("v", "s", "i", "e"), conv("e r"), q("y", "t", "i")],
                "no kernel takes `uw` in uint8 beside int8",
            ),
            (
                vec![dq("v", "s", "i", "e"), node("Add", "a e", "y", &[]), yq()],
                "no kernel takes `v` in int8 beside uint8",
            ),
            (vec![node("Div", "a a", "y", &[]), yq()], "there is no operator on codes for it"),
            (vec![node("ReduceMean", "a", "y", &[]), yq()], "there is no operator on codes for it"),
            (vec![node("Bar", "a", "y", &[]), yq()], "there is no operator on codes for it"),
            (vec![pool(&[attribute::ints("dilations", &[1, 2])]), yq()], "QLinearAveragePool has no dilations"),
            (vec![node("MaxPool", "a", "y", &[]), yq()], "have different parameters"),
            (vec![node("GlobalMaxPool", "a", "y", &[]), q("y", "s", "z")], "GlobalMaxPool of opset 13 takes no uint8"),
            (
                vec![node("Resize", "a _ n", "y", &[attribute::string("mode", "linear")]), q("y", "s", "z")],
                "it interpolates",
            ),
            (vec![node("Pad", "a n v", "y", &[]), q("y", "s", "z")], "which it fills with, is no constant"),
            (vec![node("Reshape", "a n", "y_quantized", &[])], "is not quantized"),
            (vec![dq("v", "v", "z", "e"), node("Relu", "e", "y", &[]), yq()], "there is no operator on codes"),
            (vec![dq("v", "v", "z", "e"), node("Add", "a e", "y", &[]), yq()], "its scale `v` is not a constant"),
            (
                vec![channels("m", "ii", 1), node("Gemm", "a m_real f", "y", &[attribute::float("beta", 2.0)]), yq()],
                "its bias is multiplied with 2",
            ),
        ];
        for (nodes, why) in cases {
            let nodes = [&[dq("x", "s", "z", "a")], &nodes[..]].concat();
            let last = nodes.last().unwrap().output[0].clone();
            let (m, left) = folded(13, true, nodes.clone(), &last);
            assert!(left.len() == 1 && left[0].contains(why), "`{why}`: {left:?}");
            let computes = |n: &&NodeProto| !Linear::quantizes(n) && !Linear::dequantizes(n);
            let before: Vec<&str> = nodes.iter().filter(computes).map(NodeProto::op_type).collect();
            let after = m.graph.to_proto();
            assert_eq!(after.node.iter().filter(computes).map(NodeProto::op_type).collect::<Vec<_>>(), before);
        }
        // MaxPool takes bytes since opset 12.
        let pool = vec![dq("x", "s", "z", "a"), node("MaxPool", "a", "y", &[]), q("y", "s", "z")];
        assert_eq!(folded(11, false, pool, "y_quantized").1, ["MaxPool of opset 11 takes no uint8"]);
    }

    #[test]
    fn there_and_back_is_the_same_graph() {
        let bias = node("DequantizeLinear", "b bs bz", "b_real", &[attribute::int("axis", 0)]);
        let nodes = vec![
            dq("x", "s", "z", "a"),
            channels("w", "ii", 0),
            bias,
            node("Conv", "a w_real b_real", "c", &[]),
            q("c", "t", "z"),
            dq("c_quantized", "t", "z", "d"),
            node("MaxPool", "d", "e", &[]),
            q("e", "t", "z"),
            dq("e_quantized", "t", "z", "f1"),
            node("Add", "f1 f1", "g", &[]),
            q("g", "s", "z"),
        ];
        let ops = |m: &Model| m.graph.nodes().map(|(_, n)| n.op_type().to_owned()).collect::<Vec<_>>();
        let before = model(13, graph("x v", nodes.clone(), constants(), "g_quantized"));
        let (mut m, left) = folded(13, true, nodes, "g_quantized");
        assert_eq!((ops(&m), left), (["QLinearConv", "MaxPool", "QLinearAdd"].map(String::from).into(), vec![]));
        unfold(&mut m, &mut |outcome| assert!(outcome.became.is_ok(), "{outcome:?}")).unwrap();
        m.graph.check().unwrap();
        let sorted = |mut ops: Vec<String>| {
            ops.sort();
            ops
        };
        assert_eq!(sorted(ops(&m)), sorted(ops(&before)));
    }
}
