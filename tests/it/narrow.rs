//! Models in float16 and bfloat16: what becomes narrow, what does not, and that nothing is cast in vain.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::common::{
    self, InMemory, difference, floats, ints, model, model_of, node, noise_samples, run, value, weights,
};
use qdq::check::{Severity, check};
use qdq::convert::narrow as convert;
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::model::{AttributeProto, DataType, GraphProto, Model, NodeExt, NodeProto, Tensor, ValueInfoProto, attribute};
use qdq::pass::{Context, Narrow, Narrowed, Narrowing, narrow, rounding};
use qdq::plan::Patterns;
use qdq::proto::attribute_proto::AttributeType;
use qdq::proto::type_proto;
use qdq::sample::Sample;

const BOTH: [Narrow; 2] = [Narrow::Float16, Narrow::Bfloat16];

fn narrowed_with(model: &Model, wish: &Narrowing) -> (Model, Narrowed) {
    let mut made = model.clone();
    let done = narrow(&mut made, wish, &mut Context::new(None, &Silent)).unwrap();
    sound(&made, model);
    (made, done)
}

fn narrowed(model: &Model, to: Narrow) -> (Model, Narrowed) {
    narrowed_with(model, &Narrowing::to(to))
}

/// No rule of ONNX is broken that was not broken before, and no Cast takes back what another did.
fn sound(made: &Model, before: &Model) {
    made.graph.check().unwrap();
    let errors = |m: &Model| check(&m.to_proto(), None).findings.into_iter().filter(|f| f.severity == Severity::Error);
    if errors(before).next().is_none() {
        assert_eq!(errors(made).collect::<Vec<_>>(), []);
    }
    let (graph, mut types) = (made.graph.to_proto(), HashMap::new());
    stated(&graph, &mut types);
    no_cast_in_vain(&graph, &types, &mut HashMap::new());
}

/// What the file says of the types of values.
fn stated(graph: &GraphProto, types: &mut HashMap<String, i64>) {
    for v in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
        if let Some(type_proto::Value::TensorType(t)) = v.r#type.as_ref().and_then(|t| t.value.as_ref()) {
            types.insert(v.name().to_owned(), t.elem_type().into());
        }
    }
    types.extend(graph.initializer.iter().map(|t| (t.name().to_owned(), t.data_type().into())));
    graph.node.iter().flat_map(|n| n.subgraphs()).for_each(|g| stated(g, types));
}

/// No Cast takes back what another did: from one float type to another, and on to the first or a third.
fn no_cast_in_vain(graph: &GraphProto, types: &HashMap<String, i64>, casts: &mut HashMap<String, (String, i64)>) {
    let float = |t: i64| [DataType::Float, DataType::Float16, DataType::Bfloat16].into_iter().any(|d| d as i64 == t);
    for n in &graph.node {
        if n.is("Cast") {
            let to = n.int("to").unwrap();
            let (from, made) = (n.input[0].clone(), n.output[0].clone());
            if let Some((source, between)) = casts.get(&from)
                && types.get(source).is_none_or(|&t| float(t))
            {
                assert!(!(float(to) && float(*between)), "`{source}` is cast to `{from}` and to `{made}`");
            }
            let twice = casts.values().any(|(source, other)| *source == from && *other == to);
            assert!(!twice || types.get(&from).is_none_or(|&t| !float(t)), "`{from}` is cast twice");
            casts.insert(made, (from, to));
        }
        n.subgraphs().for_each(|g| no_cast_in_vain(g, types, casts));
    }
}

fn lines(model: &Model) -> Vec<String> {
    let line = |n: &NodeProto| format!("{} = {}({})", n.output.join(", "), n.op_type(), n.input.join(", "));
    model.graph.nodes().map(|(_, n)| line(n)).collect()
}

fn dtype_of(model: &Model, name: &str) -> DataType {
    model.graph.stated_dtype(name).unwrap()
}

fn typed(name: &str, dtype: DataType, shape: &[usize]) -> ValueInfoProto {
    let mut v = value(name, Some(shape));
    if let Some(type_proto::Value::TensorType(t)) = v.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        t.elem_type = Some(dtype as i32);
    }
    v
}

fn body(
    name: &str,
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
) -> AttributeProto {
    let g = GraphProto { name: Some(name.into()), node: nodes, input: inputs, output: outputs, ..Default::default() };
    AttributeProto {
        name: Some(name.into()),
        g: Some(g),
        r#type: Some(AttributeType::Graph as i32),
        ..Default::default()
    }
}

/// The reasons for which nodes stay float32, by their first outputs.
fn reason<'d>(done: &'d Narrowed, node: &str) -> &'d str {
    let found = done.wide.iter().find(|s| s.node.contains(&format!("`{node}_node`")));
    &found.unwrap_or_else(|| panic!("`{node}` is narrow; float32 are {:?}", done.wide)).reason
}

fn two_layers() -> Model {
    let nodes = vec![node("Gemm", "x w b", "h", &[]), node("Relu", "h", "r", &[]), node("MatMul", "r v", "y", &[])];
    model(13, &[2, 8], nodes, vec![weights("w", &[8, 6]), weights("b", &[6]), weights("v", &[6, 3])], &[("y", &[2, 3])])
}

#[test]
fn what_computes_is_narrow_between_two_casts() {
    for to in BOTH {
        let (made, done) = narrowed(&two_layers(), to);
        let name = qdq::model::dtype_name(to.dtype());
        let want = [
            format!("x_{name} = Cast(x)"),
            format!("h = Gemm(x_{name}, w, b)"),
            "r = Relu(h)".to_owned(),
            format!("y_{name} = MatMul(r, v)"),
            format!("y = Cast(y_{name})"),
        ];
        assert_eq!(lines(&made), want);
        assert!(made.graph.initializers().all(|t| t.data_type() == to.dtype() as i32));
        assert_eq!((dtype_of(&made, "x"), dtype_of(&made, "y")), (DataType::Float, DataType::Float));
        assert_eq!((done.casts, done.wide.len(), done.rounded.len()), (2, 0, 3));
        let samples = noise_samples(&[2, 8], 4);
        if to == Narrow::Float16 {
            common::emit_alike("narrow_layers", &two_layers(), &made, &samples, 0.02);
        }
        let far = difference(&two_layers(), &rounding(&made).unwrap(), &samples);
        let precision = if to == Narrow::Float16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
        assert!(far > 0.0 && far < 8.0 * precision, "{far}");

        let (made, done) = narrowed_with(&two_layers(), &Narrowing { io: true, ..Narrowing::to(to) });
        assert_eq!(lines(&made), ["h = Gemm(x, w, b)", "r = Relu(h)", "y = MatMul(r, v)"]);
        assert_eq!((dtype_of(&made, "x"), dtype_of(&made, "y"), done.casts), (to.dtype(), to.dtype(), 0));
    }
}

/// The engine computes bit for bit what float16 arithmetic with one rounding does.
#[test]
fn verification_rounds_every_value() {
    let nodes = vec![node("Mul", "x w", "a", &[]), node("Add", "a b", "y", &[])];
    let (w, b) = (common::noise(1, 64), common::noise(2, 64));
    let float = model(13, &[64], nodes, vec![floats("w", &[64], &w), floats("b", &[64], &b)], &[("y", &[64])]);
    let samples = noise_samples(&[64], 3);
    for to in BOTH {
        let (made, _) = narrowed(&float, to);
        let round = |x: f32| Tensor::from_f64(to.dtype(), vec![1], &[x.into()]).unwrap().f32s().unwrap()[0];
        for (i, got) in run(&rounding(&made).unwrap(), &samples).iter().enumerate() {
            let x = noise_samples(&[64], 3).0[i].inputs[0].clone();
            let one = |((x, w), b): ((&f32, &f32), &f32)| round(round(round(*x) * round(*w)) + round(*b));
            let want: Vec<f32> = x.f32s().unwrap().iter().zip(&w).zip(&b).map(one).collect();
            assert_eq!(got[0].f32s().unwrap()[..], want[..], "{to:?}");
        }
    }
}

#[test]
fn masks_stay_finite_and_what_is_no_mask_stays_float32() {
    let nodes = vec![
        node("Add", "x mask", "s", &[]),
        node("Softmax", "s", "p", &[]),
        node("Clip", "p least most", "c", &[]),
        node("BatchNormalization", "c scale bias mean var", "n", &[]),
        node("Mul", "n million", "y", &[]),
    ];
    let constants = vec![
        floats("mask", &[1, 4], &[0.0, f32::MIN, 0.0, f32::NEG_INFINITY]),
        floats("least", &[], &[f32::MIN]),
        floats("most", &[], &[f32::MAX]),
        floats("scale", &[4], &[1.0; 4]),
        floats("bias", &[4], &[0.0; 4]),
        floats("mean", &[4], &[0.5; 4]),
        floats("var", &[4], &[1.0, 1e5, 2.0, 1e6]),
        floats("million", &[], &[1e6]),
    ];
    let float = model(15, &[2, 4], nodes, constants, &[("y", &[2, 4])]);
    let (made, done) = narrowed(&float, Narrow::Float16);
    let mask = made.graph.constant("mask").unwrap().unwrap();
    assert_eq!(
        (mask.dtype(), &mask.f32s().unwrap()[..]),
        (DataType::Float16, &[0.0, -65504.0, 0.0, f32::NEG_INFINITY][..])
    );
    let lost: Vec<_> =
        done.rounded.iter().filter(|r| r.overflowed > 0).map(|r| (&*r.name, r.overflowed, r.largest)).collect();
    assert_eq!(lost, [("mask", 1, f32::MAX), ("least", 1, f32::MAX), ("most", 1, f32::MAX)]);
    assert!(reason(&done, "n").contains("`var` is past the range of float16"));
    assert!(reason(&done, "y").contains("`million`"));
    assert_eq!(dtype_of(&made, "var"), DataType::Float);
    let samples = noise_samples(&[2, 4], 3);
    assert!(difference(&float, &rounding(&made).unwrap(), &samples) < 2e-3);

    let (made, done) = narrowed(&float, Narrow::Bfloat16);
    // The largest float32 is past the range of bfloat16 too, by rounding; the variance is not.
    assert_eq!((done.rounded.iter().map(|r| r.overflowed).sum::<usize>(), done.wide.len()), (3, 0));
    assert_eq!(dtype_of(&made, "var"), DataType::Bfloat16);
}

#[test]
fn attributes_that_state_a_type_state_the_new_one() {
    let fill = Tensor::from_f32(vec![1], vec![0.3]).to_proto("");
    let nodes = vec![
        node("Shape", "x", "shape", &[]),
        node("ConstantOfShape", "shape", "filled", &[attribute::tensor("value", fill)]),
        node("ConstantOfShape", "shape", "zeros", &[]),
        node("EyeLike", "x", "eye", &[]),
        node("Greater", "x x", "above", &[]),
        node("Cast", "above", "ones", &[attribute::int("to", DataType::Float as i64)]),
        node("Cast", "x", "again", &[attribute::int("to", DataType::Float as i64)]),
        node("Constant", "", "half", &[attribute::float("value_float", 0.5)]),
        node("Sum", "x filled zeros eye ones again half", "y", &[]),
    ];
    let mut nodes = nodes;
    nodes[7].output = vec!["half".into()];
    let float = model(13, &[3, 3], nodes, vec![], &[("y", &[3, 3])]);
    let (made, _) = narrowed(&float, Narrow::Float16);
    let f16 = Some(DataType::Float16 as i64);
    let of = |name: &str| made.graph.node(made.graph.producer(name).unwrap().0).unwrap().clone();
    assert_eq!((of("eye").int("dtype"), of("ones").int("to")), (f16, f16));
    for name in ["filled", "zeros"] {
        assert_eq!(of(name).tensor("value").unwrap().data_type(), DataType::Float16 as i32, "{name}");
    }
    // A Cast of what is narrow to what is narrow is gone; `Shape` does not mind what it reads.
    assert!(made.graph.producer("again").is_none());
    assert_eq!((of("shape").input[0].as_str(), dtype_of(&made, "half")), ("x", DataType::Float16));
    let samples = noise_samples(&[3, 3], 2);
    assert!(difference(&float, &rounding(&made).unwrap(), &samples) < 2e-3);
}

#[test]
fn sizes_and_angles_that_come_from_integers_stay_exact() {
    let to = |dtype: DataType| [attribute::int("to", dtype as i64)];
    let nodes = vec![
        node("Shape", "x", "shape", &[]),
        node("Cast", "shape", "sizes", &to(DataType::Float)),
        node("Mul", "sizes scale", "larger", &[]),
        node("Floor", "larger", "whole", &[]),
        node("Cast", "whole", "wanted", &to(DataType::Int64)),
        node("Expand", "row wanted", "grown", &[]),
        node("Cast", "place", "places", &to(DataType::Float)),
        node("Mul", "places scale", "turn", &[]),
        node("Sin", "turn", "wave", &[]),
        node("Add", "grown wave", "y", &[]),
    ];
    let constants = vec![
        floats("scale", &[], &[1.0]),
        weights("row", &[2, 1]),
        Tensor::from_i64(vec![1], vec![4099]).to_proto("place"),
    ];
    let float = model(13, &[2, 2051], nodes, constants, &[("y", &[2, 2051])]);
    let (made, done) = narrowed(&float, Narrow::Float16);
    for (name, what) in [("larger", "sizes"), ("whole", "sizes"), ("turn", "sizes"), ("wave", "an angle")] {
        assert!(reason(&done, name).contains(what), "{name}: {}", reason(&done, name));
    }
    let samples = noise_samples(&[2, 2051], 1);
    assert!(difference(&float, &rounding(&made).unwrap(), &samples) < 2e-3);
}

/// Branches that capture weights and values, a loop that carries a float, a scan: types agree at every border.
#[test]
fn bodies_become_narrow_with_what_is_around_them() {
    let branch = |name: &str, op: &str| {
        let out = format!("{name}_out");
        body(name, vec![node(op, "h w", &out, &[])], vec![], vec![value(&out, Some(&[2, 2]))])
    };
    let mut keep = node("Identity", "going", "going_on", &[]);
    keep.name = None;
    let loop_body = body(
        "body",
        vec![keep, node("Add", "state step", "next", &[]), node("Mul", "next w", "row", &[])],
        vec![typed("i", DataType::Int64, &[]), typed("going", DataType::Bool, &[]), value("state", Some(&[2, 2]))],
        vec![typed("going_on", DataType::Bool, &[]), value("next", Some(&[2, 2])), value("row", Some(&[2, 2]))],
    );
    let nodes = vec![
        node("MatMul", "x w", "h", &[]),
        node("ReduceMax", "h", "top", &[attribute::int("keepdims", 0)]),
        node("Greater", "top level", "c", &[]),
        node("If", "c", "chosen", &[branch("then_branch", "Add"), branch("else_branch", "Mul")]),
        node("Loop", "count _ chosen", "last rows", &[loop_body]),
        node("ReduceSum", "rows axes", "summed", &[attribute::int("keepdims", 0)]),
        node("Add", "last summed", "y", &[]),
    ];
    let constants = vec![
        weights("w", &[2, 2]),
        floats("level", &[], &[0.1]),
        floats("step", &[2, 2], &[0.1, 0.2, 0.3, 0.4]),
        Tensor::from_i64(vec![], vec![3]).to_proto("count"),
        ints("axes", &[0]),
    ];
    let float = model(13, &[2, 2], nodes, constants, &[("y", &[2, 2])]);
    for to in BOTH {
        let (made, done) = narrowed(&float, to);
        assert_eq!((done.casts, done.wide.len()), (2, 0), "{:?} {:?}", done.wide, lines(&made));
        let inner = made.graph.body(made.graph.bodies()[2]).unwrap();
        assert_eq!(
            (inner.stated_dtype("state").unwrap(), inner.stated_dtype("row").unwrap()),
            (to.dtype(), to.dtype())
        );
        if to == Narrow::Float16 {
            common::emit_alike("narrow_bodies", &float, &made, &noise_samples(&[2, 2], 2), 0.02);
        }
        // The weight is one constant for all of them.
        assert_eq!(dtype_of(&made, "w"), to.dtype());

        // A body whose values stay float32: casts stand inside, and beside what makes the value.
        let exclude = Patterns::new(&["chosen_node".into(), "last_node".into()]).unwrap();
        let (made, done) = narrowed_with(&float, &Narrowing { exclude, ..Narrowing::to(to) });
        assert!(done.casts > 2 && done.wide.iter().all(|s| s.reason.contains("by the user")), "{:?}", done.wide);
        assert_eq!(made.graph.outputs().len(), 1);
    }
}

#[test]
fn what_takes_no_such_type_or_is_unknown_stays_and_is_told() {
    let mut gelu = node("Gelu", "h", "g", &[]);
    gelu.domain = Some("com.example".into());
    let nodes = vec![
        node("MatMul", "x w", "h", &[]),
        gelu,
        node("MatMul", "g w", "m", &[]),
        node("Transpose", "m", "t", &[]),
        node("SequenceConstruct", "t", "s", &[]),
        node("SequenceInsert", "s t", "more", &[]),
        node("SequenceAt", "more zero", "e", &[]),
        node("Relu", "e", "y", &[]),
    ];
    let zero = Tensor::from_i64(vec![], vec![0]).to_proto("zero");
    let float = model(13, &[4, 4], nodes, vec![weights("w", &[4, 4]), zero], &[("y", &[4, 4])]);
    let (made, done) = narrowed(&float, Narrow::Float16);
    assert!(reason(&done, "g").contains("nothing is known"));
    assert!(reason(&done, "s").contains("sequences"));
    for line in ["s = SequenceConstruct(t_float32)", "more = SequenceInsert(s, t_float32)", "g = Gelu(h_float32)"] {
        assert!(lines(&made).iter().any(|l| l == line), "{line} in {:?}", lines(&made));
    }
    // x and what Gelu makes are cast down, what Gelu reads up; one value, one Cast.
    let casts: Vec<String> = lines(&made).into_iter().filter(|l| l.contains("Cast")).collect();
    assert_eq!(casts.len(), done.casts);
    let early = model(7, &[4, 4], vec![node("Relu", "x", "y", &[])], vec![], &[("y", &[4, 4])]);
    assert_eq!(lines(&narrowed(&early, Narrow::Float16).0).len(), 3);
}

#[test]
fn convolutions_take_bfloat16_from_opset_22_on() {
    let nodes = vec![node("Conv", "x w", "c", &[]), node("Relu", "c", "y", &[])];
    let float = model(13, &[1, 2, 4, 4], nodes, vec![weights("w", &[3, 2, 1, 1])], &[("y", &[1, 3, 4, 4])]);
    let (made, done) = narrowed(&float, Narrow::Bfloat16);
    assert_eq!((made.opset(), done.wide.len()), (22, 0));
    let (made, done) = narrowed_with(&float, &Narrowing { opset: Some(13), ..Narrowing::to(Narrow::Bfloat16) });
    assert_eq!((made.opset(), reason(&done, "c")), (13, "it takes bfloat16 from opset 22 on"));
    let (made, _) = narrowed(&float, Narrow::Float16);
    assert_eq!(made.opset(), 13);
}

#[test]
fn quantized_layers_stay_float32_where_their_pairs_do() {
    for (file, to) in [("quantized/cnn/qdq.onnx", Narrow::Float16), ("quantized/encoder/qdq.onnx", Narrow::Float16)] {
        let path = common::fixture(file);
        if !path.is_file() {
            continue;
        }
        let quantized = Model::read(&path).unwrap();
        let e = narrow(&mut quantized.clone(), &Narrowing::to(to), &mut Context::new(None, &Silent));
        // All there is stands between Q and DQ, or there is something else, which is narrow.
        if let Ok(done) = e {
            assert!(done.wide.iter().any(|s| s.reason.contains("stands between")), "{file}: {:?}", done.wide);
        }
    }
    // From opset 19 on Q and DQ take scales of 16 bits, but for those too small for them.
    let constants = |scale: f32| {
        let code = Tensor::new(DataType::Int8, vec![2, 2], vec![1u8, 2, 3, 0xff].into()).unwrap();
        vec![code.to_proto("codes"), floats("scale", &[], &[scale])]
    };
    let nodes = || vec![node("DequantizeLinear", "codes scale", "w", &[]), node("MatMul", "x w", "y", &[])];
    let float = |scale, opset| model(opset, &[2, 2], nodes(), constants(scale), &[("y", &[2, 2])]);
    let (made, done) = narrowed(&float(0.01, 19), Narrow::Float16);
    assert_eq!((dtype_of(&made, "scale"), done.casts), (DataType::Float16, 2));
    let (made, done) = narrowed(&float(1e-5, 19), Narrow::Float16);
    assert!(reason(&done, "w").contains("would lose precision"));
    assert_eq!((dtype_of(&made, "scale"), done.casts), (DataType::Float, 3));
    let (_, done) = narrowed(&float(0.01, 13), Narrow::Float16);
    assert_eq!(reason(&done, "w"), "it takes float16 from opset 19 on");
}

#[test]
fn what_overflows_on_samples_stays_float32() {
    let nodes = vec![
        node("Mul", "x x", "square", &[]),
        node("ReduceMean", "square", "mean", &[]),
        node("Sqrt", "mean", "root", &[]),
        node("Div", "x root", "y", &[]),
    ];
    let float = model(13, &[1, 16], nodes, vec![], &[("y", &[1, 16])]);
    let large = |s: u64| common::noise(s, 16).iter().map(|x| x * 1000.0).collect();
    let samples = InMemory((1..4).map(|s| Sample { inputs: vec![Tensor::from_f32(vec![1, 16], large(s))] }).collect());
    let blind = narrowed(&float, Narrow::Float16).0;
    assert!(run(&rounding(&blind).unwrap(), &samples)[0][0].f32s().unwrap().contains(&0.0));
    let made = convert(&float, &Narrowing::to(Narrow::Float16), Some(&samples), None, &Tract, &Silent).unwrap();
    assert!(made.report.left.iter().any(|s| s.node.contains("square") && s.reason.contains("on the samples")));
    assert!(made.report.verified.unwrap().outputs[0].sqnr_db.unwrap() > 60.0);
}

#[test]
fn a_model_that_is_narrow_has_nothing_to_convert() {
    let model = model_of("small/float16/model.onnx");
    let e = narrow(&mut model.clone(), &Narrowing::to(Narrow::Float16), &mut Context::new(None, &Silent)).unwrap_err();
    assert!(e.to_string().contains("nothing in the model computes in float32"), "{e}");
}

fn models_in(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            models_in(&path, found);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            found.push(path);
        }
    }
}

/// Every model among the fixtures, ONNX's backend tests and the zoo that becomes narrow is sound afterwards.
#[test]
fn whatever_becomes_narrow_is_sound() {
    let mut all = Vec::new();
    models_in(&common::fixture(""), &mut all);
    for folder in ["QDQ_SUITE", "QDQ_ZOO"] {
        match std::env::var_os(folder).map(PathBuf::from).filter(|p| p.is_dir()) {
            Some(path) => models_in(&path, &mut all),
            None => eprintln!("{folder} names no folder: less is tested"),
        }
    }
    let mut converted = 0;
    for path in &all {
        let Ok(model) = Model::read(path) else { continue };
        for to in BOTH {
            for io in [false, true] {
                let mut made = model.clone();
                let wish = Narrowing { io, ..Narrowing::to(to) };
                if narrow(&mut made, &wish, &mut Context::new(None, &Silent)).is_ok() {
                    let outcome = std::panic::catch_unwind(|| sound(&made, &model));
                    assert!(outcome.is_ok(), "{} to {to:?}, inputs and outputs too: {io}", path.display());
                    converted += 1;
                }
            }
        }
    }
    assert!(converted > 20, "{converted} of {} models", all.len());
    eprintln!("{converted} conversions of {} models", all.len());
}
