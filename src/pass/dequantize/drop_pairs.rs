//! Activations are rounded no more.

use std::collections::HashMap;

use super::bounds::Bounds;
use crate::error::{ErrorKind, Refusal, Result, no};
use crate::integer::{IntegerOp, Output, Source, source};
use crate::model::{DataType, Graph, Linear, Model, NodeExt, NodeId, NodeProto, Tensor, attribute};
use crate::number::{QuantParams, fake_quantize};
use crate::pass::refusal::settle;
use crate::pass::{Context, Effect, Pass};

/// Takes out QuantizeLinear and the DequantizeLinear behind it, and DynamicQuantizeLinear with its DequantizeLinear.
///
/// A pair rounds, and it cuts off at the ends of its range. The rounding goes. The cut may be all that is left of a Relu
/// or Clip that was there before the model was quantized, so it stays, as Relu or Clip, unless what comes before cannot
/// leave the range by a step or more.
///
/// - **Does**: readers of the DequantizeLinear read what the QuantizeLinear read, through a Relu or Clip where one is
///   needed. The QuantizeLinear goes when nothing reads its codes any more.
///   Of a float constant the pair vanishes, or it becomes what the pair makes of it where that is cut off.
/// - **Skips when** the codes are a graph input or output, something other than DequantizeLinear reads or makes them,
///   scales are no constants, the two differ in scale, zero point or element type, or several scales cut off.
/// - **Before**: `q = QuantizeLinear(x, s, z)`, `d = DequantizeLinear(q, s, z)`, `y = Conv(d, w)`.
///   **After**: `c = Clip(x, -s z, s (255 - z))`, `y = Conv(c, w)`.
/// - **Source**: operators QuantizeLinear-25, DequantizeLinear-25, DynamicQuantizeLinear-11.
#[derive(Debug, Clone, Copy)]
pub struct DropPairs {
    /// What becomes of the ends of a range.
    pub ends: Ends,
}

/// What becomes of the ends of a quantized range when its values become floats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ends {
    /// Values are cut off there as before.
    #[default]
    Kept,
    /// Values may pass them. A range that begins at zero still ends there, as Relu: quantizers put a Relu into it.
    Open,
}

impl Pass for DropPairs {
    fn name(&self) -> &'static str {
        "drop-pairs"
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        let opset = model.opset();
        let (mut bounds, mut cuts) = (Bounds::default(), HashMap::new());
        for id in model.graph.node_ids() {
            let constant = |codes: &str| model.graph.is_constant(codes);
            let reads_values =
                |n: &NodeProto| Linear::dequantizes(n) && n.input_at(0).is_some_and(|codes| !constant(codes));
            if model.graph.node(id).is_some_and(reads_values) {
                let outcome = self.drop(&mut model.graph, id, &mut bounds, &mut cuts, opset);
                settle(outcome, self, model, id, cx)?;
            }
            bounds.learn(&model.graph, id)?;
        }
        for id in model.graph.node_ids() {
            let Some(node) = model.graph.node(id).filter(|n| Linear::quantizes(n) || n.is("DynamicQuantizeLinear"))
            else {
                continue;
            };
            match kept_by(&model.graph, node) {
                Some(reason) => cx.skip(self, model, id, reason),
                None => drop(model.graph.remove(id)),
            }
        }
        model.graph.drop_unused_initializers();
        model.graph.prune_value_info(|_| false);
        Ok(())
    }
}

/// Who holds on to what the node makes; `None` if nobody does.
fn kept_by(graph: &Graph, node: &NodeProto) -> Option<String> {
    for value in node.output.iter().filter(|o| !o.is_empty()) {
        if graph.is_output(value) {
            return Some(format!("the graph output `{value}` is codes"));
        }
        if let Some(&holder) = graph.captured_by(value).first() {
            return Some(format!("`{value}` is captured by a subgraph of {}", graph.label(holder)));
        }
        if let Some(reader) = graph.uses(value).first() {
            return Some(format!("{} reads its codes", graph.label(reader.node)));
        }
    }
    None
}

/// What a pair does beside rounding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Cut {
    Nothing,
    Relu,
    /// The bits of the ends.
    Clip(u32, u32),
}

/// The values that are cut off already, by what they were and how.
type Cuts = HashMap<(String, Cut), String>;

impl DropPairs {
    fn drop(
        &self,
        graph: &mut Graph,
        id: NodeId,
        bounds: &mut Bounds,
        cuts: &mut Cuts,
        opset: i64,
    ) -> Result<(), Refusal> {
        let Some(node) = graph.node(id) else { return Ok(()) };
        let (Some(codes), Some(real)) = (node.input_at(0).map(str::to_owned), node.output_at(0).map(str::to_owned))
        else {
            return no("its input or output is missing");
        };
        let (maker, _) = match (source(graph, &codes), graph.producer(&codes)) {
            (Source::Constant, _) => return no("its codes are a constant that could not be turned into floats"),
            (Source::Input, _) => return no("its codes come from a graph input"),
            (Source::Outside, _) | (_, None) => return no("its codes come from outside the graph"),
            (_, Some(maker)) => maker,
        };
        let Some(quantize) = graph.node(maker) else { return no("its codes come from outside the graph") };
        let Some(float) = quantize.input_at(0).map(str::to_owned) else { return no("what is quantized is missing") };
        let sums = graph.producer(&float).and_then(|(id, _)| IntegerOp::of(graph.node(id)?));
        if sums.is_some_and(|op| op.output == Output::Sums) {
            return no(format!("`{float}` is no float"));
        }
        let scale_type = node.input_at(1).and_then(|s| graph.stated_dtype(s));
        if let (Some(a), Some(b)) = (graph.stated_dtype(&float), scale_type)
            && a != b
        {
            return no(format!("`{float}` and what is made of it differ in element type"));
        }
        let cut = if quantize.is("DynamicQuantizeLinear") {
            if (node.input_at(1), node.input_at(2)) != (quantize.output_at(1), quantize.output_at(2)) {
                return no(format!("its scale is not the one that {} computes", quantize.label()));
            }
            Cut::Nothing
        } else if Linear::quantizes(quantize) {
            let linear = linear(graph, quantize, node)?;
            if let Some(constant) = graph.constant(&float)?.filter(|t| t.is_float()) {
                return keep_constant(graph, id, &float, &real, &constant, &linear);
            }
            self.cut(&params(&linear)?, bounds.of(graph, &float)?)?
        } else {
            return no(format!("{} makes its codes", graph.label(maker)));
        };
        let key = (float.clone(), cut);
        if let Some(known) = cuts.get(&key).cloned()
            && graph.bypass(id, &known, &real)?
        {
            // At a graph output, the node that cuts takes over its name.
            if graph.is_output(&real) {
                bounds.rename(&known, &real);
                cuts.insert(key, real);
            }
            return Ok(());
        }
        match cut {
            Cut::Nothing => {
                if graph.bypass(id, &float, &real)? {
                    bounds.rename(&float, &real);
                    return Ok(());
                }
                return Ok(replace(graph, id, "Identity", vec![float], vec![])?);
            }
            Cut::Relu => replace(graph, id, "Relu", vec![float], vec![])?,
            Cut::Clip(low, high) if opset < 11 => {
                let [low, high] = [low, high].map(f32::from_bits);
                let ends = vec![attribute::float("min", low), attribute::float("max", high)];
                replace(graph, id, "Clip", vec![float], ends)?;
            }
            Cut::Clip(low, high) => {
                let dtype = scale_type.unwrap_or(DataType::Float);
                let end = |bits| Tensor::from_f64(dtype, vec![], &[f32::from_bits(bits).into()]);
                let [low, high] = [low, high].map(end);
                let low = graph.add_constant(&format!("{float}_min"), &low?);
                let high = graph.add_constant(&format!("{float}_max"), &high?);
                replace(graph, id, "Clip", vec![float, low, high], vec![])?;
            }
        }
        cuts.insert(key, real);
        Ok(())
    }

    /// What is left of a pair on a value that reaches from `low` to `high`.
    fn cut(&self, params: &QuantParams, (low, high): (f32, f32)) -> Result<Cut, Refusal> {
        let channels = 0..params.scales().len();
        let leaves = |c: usize| {
            let ((least, most), step) = (params.reach(c), params.scales()[c]);
            (low < least - step, high > most + step)
        };
        let (below, above) = channels.map(leaves).fold((false, false), |a, b| (a.0 | b.0, a.1 | b.1));
        if !below && !above {
            return Ok(Cut::Nothing);
        }
        if params.axis().is_some() {
            return match self.ends {
                Ends::Open => Ok(Cut::Nothing),
                Ends::Kept => no("it cuts off each channel at ends of its own"),
            };
        }
        let (least, most) = params.reach(0);
        Ok(match self.ends {
            _ if least == 0.0 && !above => Cut::Relu,
            Ends::Open if least == 0.0 && below => Cut::Relu,
            Ends::Open => Cut::Nothing,
            Ends::Kept => Cut::Clip(least.to_bits(), most.to_bits()),
        })
    }
}

/// What both nodes of a pair say.
fn linear(graph: &Graph, quantize: &NodeProto, dequantize: &NodeProto) -> Result<Linear, Refusal> {
    let read = |node: &NodeProto| match Linear::read(graph, node) {
        Err(e) if e.kind() == ErrorKind::Malformed => Err(Refusal::Fail(e)),
        Err(e) => no(e.to_string()),
        Ok(linear) => Ok(linear),
    };
    let (q, mut d) = (read(quantize)?, read(dequantize)?);
    if dequantize.input_at(2).is_none() {
        // Without a zero point the element type is that of the codes.
        d.dtype = q.dtype;
    }
    if let Err(Refusal::Skip(wrong)) = params(&q) {
        return no(wrong);
    }
    let same = q.dtype == d.dtype && q.scales == d.scales && q.zero_points == d.zero_points;
    let rank = quantize.input_at(0).and_then(|x| graph.stated_rank(x)).map_or(0, |r| r as i64);
    let axis = |linear: &Linear| if linear.axis < 0 { linear.axis + rank } else { linear.axis };
    if same && q.scales.len() > 1 && axis(&q) != axis(&d) {
        return no(format!("its axis is {}, and that of {} is {}", d.axis, quantize.label(), q.axis));
    }
    if !same {
        return no(format!("its scale or zero point is not that of {}", quantize.label()));
    }
    Ok(d)
}

/// The parameters of an activation. Its rank does not matter to the ends of the range.
fn params(linear: &Linear) -> Result<QuantParams, Refusal> {
    match linear.params_of_any_rank() {
        Ok(params) => Ok(params),
        Err(e) => no(e.to_string()),
    }
}

/// A float constant is read as it is, unless the pair cuts some of it off: then what is left of it is a constant.
fn keep_constant(
    graph: &mut Graph,
    id: NodeId,
    float: &str,
    real: &str,
    constant: &Tensor,
    linear: &Linear,
) -> Result<(), Refusal> {
    let (shape, x) = (constant.shape(), constant.f32s()?);
    let mut rounded = x.to_vec();
    let outcome = linear.params(shape.len()).and_then(|params| {
        fake_quantize(&mut rounded, shape, &params)?;
        let mut whole = true;
        params.granularity().each_run(shape, |span, groups| {
            let mut pairs = x[span.clone()].iter().zip(&rounded[span]).zip(params.scales()[groups].iter().cycle());
            whole &= pairs.all(|((a, b), step)| (a - b).abs() <= *step);
        })?;
        Ok(whole)
    });
    let whole = match outcome {
        Ok(whole) => whole,
        Err(e) => return no(e.to_string()),
    };
    if whole && graph.bypass(id, float, real)? {
        return Ok(());
    }
    let value = Tensor::from_f64(constant.dtype(), shape.to_vec(), &Tensor::from_f32(shape.to_vec(), rounded).f64s()?)?;
    graph.remove(id);
    graph.set_initializer(value.to_proto(real));
    Ok(())
}

/// Puts another operator in the place of a node; it makes the same value.
fn replace(
    graph: &mut Graph,
    id: NodeId,
    op: &str,
    input: Vec<String>,
    attribute: Vec<crate::model::AttributeProto>,
) -> Result<()> {
    graph.edit(id, |n| {
        *n = NodeProto {
            name: n.name.take(),
            op_type: Some(op.to_owned()),
            input,
            output: std::mem::take(&mut n.output),
            attribute,
            ..Default::default()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphProto, TensorProto};
    use crate::pass::Skipped;
    use crate::pass::sketch::{self, floats, graph, lines, model, node, subgraph, value};

    fn code(name: &str, dtype: DataType, byte: u8) -> TensorProto {
        Tensor::new(dtype, vec![], vec![byte].into()).unwrap().to_proto(name)
    }

    /// Scale 0.5; zero points 0 and 128 of uint8, and 0 of int8; a scale a channel.
    fn constants() -> Vec<TensorProto> {
        vec![
            floats("s", &[], &[0.5]),
            floats("t", &[], &[0.25]),
            floats("ss", &[2], &[0.5, 1.0]),
            code("z", DataType::Uint8, 0),
            code("m", DataType::Uint8, 128),
            code("i", DataType::Int8, 0),
            floats("w", &[2], &[-3.1, 63.9]),
            floats("far", &[2], &[-3.1, 640.0]),
        ]
    }

    fn dropped(opset: i64, ends: Ends, nodes: &[NodeProto], outputs: &str) -> (Vec<String>, GraphProto, Vec<Skipped>) {
        let mut m = model(opset, graph("x", nodes.to_vec(), constants(), outputs));
        let (_, skipped) = sketch::run(&DropPairs { ends }, &mut m).unwrap();
        let g = m.graph.to_proto();
        (lines(&g), g, skipped)
    }

    /// A pair of `x` between two nodes.
    fn pair(before: &str, scale: &str, zero: &str) -> Vec<NodeProto> {
        let inputs = |x: &str| format!("{x} {scale} {zero}");
        vec![
            node(before, "x", "a", &[]),
            node("QuantizeLinear", &inputs("a"), "q", &[]),
            node("DequantizeLinear", &inputs("q"), "d", &[]),
            node("Foo", "d", "y", &[]),
        ]
    }

    #[test]
    fn the_cut_stays_where_values_can_reach_it() {
        let (kept, open) = (Ends::Kept, Ends::Open);
        let cases: &[(&str, &str, &str, Ends, &[&str])] = &[
            ("Bar", "s", "z", kept, &["a = Bar(x)", "d = Clip(a, a_min, a_max)", "y = Foo(d)"]),
            ("Bar", "s", "m", kept, &["a = Bar(x)", "d = Clip(a, a_min, a_max)", "y = Foo(d)"]),
            ("Bar", "s", "z", open, &["a = Bar(x)", "d = Relu(a)", "y = Foo(d)"]),
            ("Bar", "s", "m", open, &["a = Bar(x)", "y = Foo(a)"]),
            ("Relu", "s", "z", open, &["a = Relu(x)", "y = Foo(a)"]),
            ("Relu", "s", "z", kept, &["a = Relu(x)", "d = Clip(a, a_min, a_max)", "y = Foo(d)"]),
            ("Sigmoid", "s", "z", kept, &["a = Sigmoid(x)", "y = Foo(a)"]),
            ("Sigmoid", "s", "i", kept, &["a = Sigmoid(x)", "y = Foo(a)"]),
            // The range of a symmetric uint8 begins at -64: Tanh stays inside.
            ("Tanh", "s", "m", kept, &["a = Tanh(x)", "y = Foo(a)"]),
            ("Tanh", "s", "z", kept, &["a = Tanh(x)", "d = Relu(a)", "y = Foo(d)"]),
        ];
        for (before, scale, zero, ends, want) in cases {
            let (lines, g, skipped) = dropped(13, *ends, &pair(before, scale, zero), "y");
            assert_eq!((&lines.iter().map(String::as_str).collect::<Vec<_>>()[..], &skipped[..]), (*want, &[][..]));
            if let Some(clip) = g.node.iter().find(|n| n.is("Clip")) {
                let end = |slot: usize| {
                    let t = g.initializer.iter().find(|t| t.name() == clip.input[slot]).unwrap();
                    Tensor::from_proto(t).unwrap().f32s().unwrap()[0]
                };
                assert_eq!((end(1), end(2)), if *zero == "z" { (0.0, 127.5) } else { (-64.0, 63.5) });
            }
        }
        let (lines, ..) = dropped(10, kept, &pair("Bar", "s", "z"), "y");
        assert_eq!(lines[1], "d = Clip(a) min=0 max=127.5");
    }

    #[test]
    fn bounds_go_through_what_keeps_them() {
        let nodes = [
            &pair("Bar", "s", "z")[..3],
            &[
                node("MaxPool", "d", "e", &[]),
                node("QuantizeLinear", "e s z", "r", &[]),
                node("DequantizeLinear", "r s z", "f", &[]),
                node("Concat", "f e", "g", &[]),
                node("QuantizeLinear", "g s z", "t1", &[]),
                node("DequantizeLinear", "t1 s z", "h", &[]),
                node("Foo", "h", "y", &[]),
            ],
        ]
        .concat();
        let (lines, ..) = dropped(13, Ends::Kept, &nodes, "y");
        let want = ["a = Bar(x)", "d = Clip(a, a_min, a_max)", "e = MaxPool(d)", "g = Concat(e, e)", "y = Foo(g)"];
        assert_eq!(lines, want);
    }

    #[test]
    fn codes_that_several_nodes_read_lose_each_pair() {
        let mut nodes = pair("Bar", "s", "z");
        nodes.insert(3, node("DequantizeLinear", "q s z", "e", &[]));
        nodes[4] = node("Foo", "d e", "y", &[]);
        let (lines, ..) = dropped(13, Ends::Kept, &nodes, "y");
        assert_eq!(lines, ["a = Bar(x)", "d = Clip(a, a_min, a_max)", "y = Foo(d, d)"]);
    }

    #[test]
    fn names_of_inputs_and_outputs_stay() {
        let nodes = &[node("QuantizeLinear", "x s m", "q", &[]), node("DequantizeLinear", "q s m", "y", &[])];
        assert_eq!(dropped(13, Ends::Open, nodes, "y").0, ["y = Identity(x)"]);
        assert_eq!(dropped(13, Ends::Kept, nodes, "y").0, ["y = Clip(x, x_min, x_max)"]);
        let nodes = &pair("Bar", "s", "m")[..3];
        assert_eq!(dropped(13, Ends::Open, nodes, "d").0, ["d = Bar(x)"]);
        let body = graph("", vec![node("Neg", "d", "n", &[])], vec![], "n");
        let nodes = [nodes, &[node("If", "x", "y", &[subgraph("then_branch", body)])]].concat();
        assert_eq!(dropped(13, Ends::Open, &nodes, "y").0[1], "d = Identity(a)");
    }

    #[test]
    fn a_range_of_its_own_in_each_run_cuts_nothing() {
        let nodes = vec![
            node("DynamicQuantizeLinear", "x", "q c e", &[]),
            node("DequantizeLinear", "q c e", "d", &[]),
            node("Foo", "d", "y", &[]),
        ];
        assert_eq!(dropped(13, Ends::Kept, &nodes, "y").0, ["y = Foo(x)"]);
    }

    #[test]
    fn float_constants_are_read_as_they_are() {
        let both = |w: &str| {
            vec![
                node("QuantizeLinear", &format!("{w} s i"), "q", &[]),
                node("DequantizeLinear", "q s i", "d", &[]),
                node("Foo", "x d", "y", &[]),
            ]
        };
        let (lines, ..) = dropped(13, Ends::Kept, &both("w"), "y");
        assert_eq!(lines, ["y = Foo(x, w)"]);
        let (lines, g, _) = dropped(13, Ends::Kept, &both("far"), "y");
        assert_eq!(lines, ["y = Foo(x, d)"]);
        let d = Tensor::from_proto(g.initializer.iter().find(|t| t.name() == "d").unwrap()).unwrap();
        assert_eq!(d.f32s().unwrap()[..], [-3.0, 63.5]);
    }

    #[test]
    fn what_is_no_pair_stays_and_says_why() {
        let q = |inputs: &str| node("QuantizeLinear", inputs, "q", &[]);
        let d = |inputs: &str| node("DequantizeLinear", inputs, "d", &[]);
        let foo = node("Foo", "d", "y", &[]);
        let cases = [
            (vec![q("x s z"), d("q t z"), foo.clone()], "y", "is not that of node of `q`"),
            (vec![q("x s z"), d("q s m"), foo.clone()], "y", "is not that of"),
            (vec![q("x s z"), d("q s i"), foo.clone()], "y", "is not that of"),
            (vec![d("x s z"), foo.clone()], "y", "its codes come from a graph input"),
            (vec![q("x s z"), node("Foo", "q", "y", &[])], "y", "reads its codes"),
            (vec![q("x s z")], "q", "the graph output `q` is codes"),
            (vec![node("Bar", "x", "b", &[]), d("b s z"), foo.clone()], "y", "node of `b` (Bar) makes its codes"),
            (vec![node("Bar", "x", "b", &[]), q("x b z"), d("q b z"), foo.clone()], "y", "`b` is not a constant"),
            (vec![q("x ss z"), d("q ss z"), foo.clone()], "y", "2 scales but 1 zero points"),
            (vec![q("x ss"), d("q ss"), foo.clone()], "y", "cuts off each channel"),
        ];
        for (nodes, output, why) in cases {
            let (lines, _, skipped) = dropped(13, Ends::Kept, &nodes, output);
            assert_eq!(lines.len(), nodes.len(), "{lines:?}");
            assert!(skipped.iter().any(|s| s.reason.contains(why)), "{skipped:?}");
        }
    }

    #[test]
    fn a_value_of_another_type_is_no_float() {
        let nodes = vec![
            node("QuantizeLinear", "a s z", "q", &[]),
            node("DequantizeLinear", "q s z", "d", &[]),
            node("Foo", "d", "y", &[]),
        ];
        let mut g = graph("", nodes, constants(), "y");
        let mut a = value("a", Some(1));
        if let Some(crate::proto::type_proto::Value::TensorType(t)) = a.r#type.as_mut().and_then(|t| t.value.as_mut()) {
            t.elem_type = Some(DataType::Int32 as i32);
        }
        g.input = vec![a];
        let mut m = model(13, g);
        let (_, skipped) = sketch::run(&DropPairs { ends: Ends::Kept }, &mut m).unwrap();
        assert!(skipped[0].reason.contains("differ in element type"), "{skipped:?}");
    }
}
