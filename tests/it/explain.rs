//! What becomes of a model and why: reasons on blocks that are known, a row and a reason for everything, and the words
//! held against what is written.

use std::collections::BTreeMap;

use crate::common::{
    self, fixture, floats, ints, model, model_of, node, noise_samples, samples_of, value, weights, zoo,
};
use qdq::calibrate::RangesFile;
use qdq::error::ErrorKind;
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::explain::{Explanation, Kind, explain};
use qdq::model::{
    DataType, Graph, GraphProto, InputSpec, Linear, Model, ModelProto, NodeExt, NodeProto, Tensor, attribute,
};
use qdq::plan::{Mode, Patterns, Plan, Policy, Steps, Verdict};
use qdq::proto::OperatorSetIdProto;
use qdq::quantize::{Decision, Recipe, Source, decide, decide_weights, learn_ranges, quantize_from};
use qdq::sample::{SampleOptions, Samples, Share};
use qdq::target::ORT_CPU;

fn policy() -> Policy {
    Policy { steps: Steps::NONE, ..Policy::of(&ORT_CPU) }
}

fn decided(model: &Model, source: Option<Source<'_>>, policy: Policy) -> Decision {
    decide(model, source, &Recipe { policy }, &Tract, &Silent).unwrap()
}

fn explained(model: &Model, source: Option<Source<'_>>, policy: Policy) -> Explanation {
    let decision = decided(model, source, policy);
    explain(&decision.model.graph, &decision.plan).unwrap()
}

/// A convolution, ReLU, a second convolution, their sum, ReLU, the mean and a classifier.
fn residual() -> Model {
    model(
        17,
        &[1, 4, 6, 6],
        vec![
            node("Conv", "x w1 b1", "c1", &[attribute::ints("pads", &[1, 1, 1, 1])]),
            node("Relu", "c1", "r1", &[]),
            node("Conv", "r1 w2 b2", "c2", &[attribute::ints("pads", &[1, 1, 1, 1])]),
            node("Add", "c2 r1", "sum", &[]),
            node("Relu", "sum", "r2", &[]),
            node("GlobalAveragePool", "r2", "mean", &[]),
            node("Flatten", "mean", "flat", &[]),
            node("Gemm", "flat w3 b3", "y", &[]),
        ],
        vec![
            weights("w1", &[4, 4, 3, 3]),
            weights("b1", &[4]),
            weights("w2", &[4, 4, 3, 3]),
            weights("b2", &[4]),
            weights("w3", &[4, 3]),
            weights("b3", &[3]),
        ],
        &[("y", &[1, 3])],
    )
}

/// Scores of queries and keys, a mask made from a second input of zeros and ones, Softmax, and what the scores take of values.
fn attention(least: f32) -> Model {
    let graph = GraphProto {
        name: Some("attention".into()),
        node: vec![
            node("MatMul", "x wq", "q", &[]),
            node("MatMul", "x wk", "k", &[]),
            node("MatMul", "x wv", "v", &[]),
            node("Transpose", "k", "kt", &[attribute::ints("perm", &[0, 2, 1])]),
            node("MatMul", "q kt", "scores", &[]),
            node("Sub", "one mask", "hidden", &[]),
            node("Mul", "hidden least", "low", &[]),
            node("Add", "scores low", "masked", &[]),
            node("Softmax", "masked", "p", &[attribute::int("axis", -1)]),
            node("MatMul", "p v", "context", &[]),
            node("MatMul", "context wo", "y", &[]),
        ],
        initializer: vec![
            weights("wq", &[8, 8]),
            weights("wk", &[8, 8]),
            weights("wv", &[8, 8]),
            weights("wo", &[8, 8]),
            floats("one", &[], &[1.0]),
            floats("least", &[], &[least]),
        ],
        input: vec![value("x", Some(&[1, 4, 8])), value("mask", Some(&[1, 4, 4]))],
        output: vec![value("y", Some(&[1, 4, 8]))],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }];
    Model::from_proto(ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() })
        .unwrap()
}

fn attention_samples() -> common::InMemory {
    let mask: Vec<f32> = (0..16).map(|i| if i % 4 <= i / 4 { 1.0 } else { 0.0 }).collect();
    let mut samples = noise_samples(&[1, 4, 8], 4);
    samples.0.iter_mut().for_each(|s| s.inputs.push(Tensor::from_f32(vec![1, 4, 4], mask.clone())));
    samples
}

fn value_of<'a>(e: &'a Explanation, name: &str) -> &'a qdq::explain::ValueFact {
    e.values.iter().find(|v| v.value == name).unwrap_or_else(|| panic!("no value `{name}`"))
}

fn node_of<'a>(e: &'a Explanation, name: &str) -> (&'a str, &'a str) {
    let row = e.nodes.iter().find(|n| n.node == name).unwrap_or_else(|| panic!("no node `{name}`"));
    (row.verdict, &row.reason)
}

#[test]
fn a_residual_block_is_explained_without_ranges_and_with() {
    let m = residual();
    let samples = noise_samples(&[1, 4, 6, 6], 4);
    let open = explained(&m, None, policy());
    let seen = explained(&m, Some(Source::Samples(&samples)), policy());
    assert!(!open.ranges_known && seen.ranges_known);
    for e in [&open, &seen] {
        for (name, verdict) in [
            ("c1_node", "quantized"),
            ("r1_node", "absorbed"),
            ("sum_node", "quantized"),
            ("r2_node", "absorbed"),
            ("flat_node", "quantized"),
            ("y_node", "quantized"),
        ] {
            assert_eq!(node_of(e, name).0, verdict, "{name}");
        }
        assert!(node_of(e, "r1_node").1.contains("`r1`"), "{:?}", node_of(e, "r1_node"));
        // What an absorbed node reads is gone; what it makes is quantized.
        assert!(!value_of(e, "c1").quantized && value_of(e, "c1").reason.contains("`r1`"));
        let flat = value_of(e, "flat");
        assert_eq!((flat.origin, flat.range_of.as_deref()), (Some("passed"), Some("mean")));
        assert_eq!(flat.shares, ["mean"]);
        let r1 = value_of(e, "r1");
        let readers: Vec<(&str, Option<usize>, bool)> =
            r1.readers.iter().map(|r| (&*r.node, r.slot, r.dequantized)).collect();
        assert_eq!(readers, [("c2_node", Some(0), true), ("sum_node", Some(1), true)]);
        // A Gemm at the end writes float.
        let y = value_of(e, "y");
        assert!(y.output && !y.quantized && y.reason.contains("can write float"), "{}", y.reason);
        let kinds: Vec<Kind> = e.constants.iter().map(|c| c.kind).collect();
        assert_eq!(kinds, [Kind::Weight, Kind::Bias, Kind::Weight, Kind::Bias, Kind::Weight, Kind::Bias]);
        let how: Vec<String> = e.constants.iter().map(|c| c.how.as_ref().unwrap().to_string()).collect();
        assert_eq!(how[0], "int8 symmetric per channel (axis 0)");
        assert_eq!(how[1], "int32 symmetric per channel (axis 0)");
        assert_eq!(how[4], "int8 symmetric per channel (axis 1)");
        assert_eq!(value_of(e, "x").how.as_ref().unwrap().to_string(), "uint8 affine per tensor");
    }
    let (open_x, seen_x) = (value_of(&open, "x"), value_of(&seen, "x"));
    assert_eq!((open_x.origin, open_x.range), (Some("unseen"), None));
    assert_eq!(open_x.how.as_ref().unwrap().scale, None);
    assert_eq!(seen_x.origin, Some("seen"));
    let range = seen_x.range.unwrap();
    let scale = seen_x.how.as_ref().unwrap().scale.unwrap();
    assert!(range.min < -0.9 && range.max > 0.9 && (scale.min - (range.max - range.min) / 255.0).abs() < 1e-6);
    // A weight's scale hangs on the weight alone, a bias's on what its layer reads.
    assert!(open.constants[0].how.as_ref().unwrap().scale.is_some());
    assert!(open.constants[1].how.as_ref().unwrap().scale.is_none());
}

#[test]
fn an_attention_block_with_a_mask_is_explained_without_ranges_and_with() {
    let m = attention(-10000.0);
    let samples = attention_samples();
    for e in [explained(&m, None, policy()), explained(&m, Some(Source::Samples(&samples)), policy())] {
        let (verdict, reason) = node_of(&e, "masked_node");
        assert!(verdict == "float" && reason.contains("mask"), "{verdict}: {reason}");
        assert_eq!(node_of(&e, "scores_node").0, "quantized");
        let (verdict, reason) = node_of(&e, "p_node");
        assert!(verdict == "float" && reason.contains("`masked`"), "{verdict}: {reason}");
        assert_eq!(node_of(&e, "context_node").0, "quantized");
        let v = value_of(&e, "masked");
        assert!(!v.quantized && v.reason.contains("masked_node"), "{}", v.reason);
        let p = value_of(&e, "p");
        assert!(p.quantized && p.readers[0].dequantized);
        let least = e.constants.iter().find(|c| c.constant == "least").unwrap();
        assert!(least.how.is_none() && least.reason.contains("stays float"), "{}", least.reason);
    }
    // A number that scores may have masks nothing.
    let e = explained(&attention(-2.0), None, policy());
    assert!(!node_of(&e, "masked_node").1.contains("mask for"), "{:?}", node_of(&e, "masked_node"));
}

#[test]
fn what_the_user_leaves_out_says_so() {
    let exclude = Patterns::new(&["c2_*".to_owned()]).unwrap();
    let e = explained(&residual(), None, Policy { exclude, ..policy() });
    assert_eq!(node_of(&e, "c2_node"), ("float", "excluded by the user"));
    let w2 = e.constants.iter().find(|c| c.constant == "w2").unwrap();
    assert!(w2.how.is_none() && w2.reason.contains("excluded by the user"), "{}", w2.reason);
    // The sum reads a float value now, and falls out with it.
    assert!(node_of(&e, "sum_node").1.contains("`c2` is float"), "{:?}", node_of(&e, "sum_node"));
    let only = Policy { operators: Some(vec!["Gemm".to_owned()]), ..policy() };
    let e = explained(&residual(), None, only);
    assert!(node_of(&e, "c1_node").1.contains("operators chosen by the user"));
    assert_eq!(node_of(&e, "y_node").0, "quantized");
}

#[test]
fn weights_alone_are_explained() {
    let decision = decide_weights(&residual(), &policy(), Mode::Weights, &Silent).unwrap();
    let e = explain(&decision.model.graph, &decision.plan).unwrap();
    assert_eq!(node_of(&e, "c1_node").0, "weight-only");
    assert!(e.values.iter().all(|v| !v.quantized) && e.ranges_known);
    let stored: Vec<&str> = e.constants.iter().filter(|c| c.how.is_some()).map(|c| &*c.constant).collect();
    assert_eq!(stored, ["w1", "w2", "w3"]);
}

#[test]
fn one_name_tells_all_and_a_wrong_one_the_right_ones() {
    let e = explained(&residual(), None, policy());
    let about = e.about("r1").unwrap();
    assert_eq!(about.values.len(), 1);
    let nodes: Vec<&str> = about.nodes.iter().map(|n| &*n.node).collect();
    assert_eq!(nodes, ["r1_node", "c2_node", "sum_node"]);
    let text = qdq::report::text(&about.tables(), None);
    for words in ["made by", "r1_node (Relu), absorbed", "samples will tell", "input 1, quantized: sum_node (Add)"] {
        assert!(text.contains(words), "`{words}` is missing in\n{text}");
    }
    let about = e.about("sum_node").unwrap();
    assert_eq!((about.nodes.len(), about.values.len(), about.constants.len()), (1, 3, 0));
    let about = e.about("w1").unwrap();
    assert_eq!((about.nodes.len(), about.values.len(), about.constants.len()), (1, 0, 1));
    let error = e.about("r1_nod").unwrap_err();
    assert!(error.to_string().contains("`r1_nod`") && error.way_out().unwrap().contains("`r1_node`"), "{error}");
    assert!(e.about("quite something else").unwrap_err().way_out().unwrap().contains("lists all"));
}

#[test]
fn integers_are_no_values_to_quantize() {
    // A shape that is computed: what stands between quantized nodes in it holds integers.
    let nodes = vec![
        node("Conv", "x w", "c", &[]),
        node("Shape", "c", "s", &[]),
        node("Gather", "s i", "g", &[]),
        node("Concat", "g rest", "shape", &[attribute::int("axis", 0)]),
        node("Reshape", "c shape", "flat", &[]),
        node("MatMul", "flat w2", "y", &[]),
    ];
    let inits = vec![weights("w", &[2, 3, 1, 1]), ints("i", &[0]), ints("rest", &[-1]), weights("w2", &[32, 4])];
    let m = model(17, &[1, 3, 4, 4], nodes, inits, &[("y", &[1, 4])]);
    let plan = Plan::unseen(&m.graph, &policy()).unwrap();
    let e = explain(&m.graph, &plan).unwrap();
    assert_eq!(value_of(&e, "g").reason, "holds int64");
    assert_eq!(value_of(&e, "shape").reason, "holds int64");
    assert_eq!(node_of(&e, "flat_node").0, "quantized");
}

/// Every node, value and constant has one row, with a reason; rows without a scale say that ranges are open.
fn is_complete(name: &str, decision: &Decision) {
    let e = explain(&decision.model.graph, &decision.plan).unwrap();
    fn count(graph: &Graph) -> (usize, usize) {
        let mut nodes = graph.nodes().count();
        let mut reads = graph.nodes().flat_map(|(_, n)| &n.input).filter(|i| graph.is_constant(i)).count();
        for id in graph.bodies() {
            let inner = count(&graph.body(id).unwrap());
            (nodes, reads) = (nodes + inner.0, reads + inner.1);
        }
        (nodes, reads)
    }
    let (nodes, reads) = count(&decision.model.graph);
    assert_eq!(e.nodes.len(), nodes, "{name}: nodes");
    assert_eq!(e.constants.iter().filter(|c| c.slot.is_some()).count(), reads, "{name}: constants");
    for initializer in decision.model.graph.initializers() {
        assert!(e.constants.iter().any(|c| c.constant == initializer.name()), "{name}: {}", initializer.name());
    }
    let outputs = decision.model.graph.nodes().flat_map(|(_, n)| &n.output).filter(|o| !o.is_empty());
    let known: std::collections::HashSet<&str> = e.values.iter().map(|v| &*v.value).collect();
    assert_eq!(known.len(), e.values.len(), "{name}: a value has two rows");
    outputs.for_each(|o| assert!(known.contains(&**o), "{name}: `{o}` has no row"));
    let reasons = e.nodes.iter().map(|n| (&n.node, &n.reason)).chain(e.values.iter().map(|v| (&v.value, &v.reason)));
    for (what, reason) in reasons.chain(e.constants.iter().map(|c| (&c.constant, &c.reason))) {
        assert!(!reason.is_empty() && !reason.contains("no scale was found"), "{name}: {what}: `{reason}`");
    }
    for v in e.values.iter().filter(|v| v.how.as_ref().is_some_and(|h| h.scale.is_none() && h.grain.is_some())) {
        assert!(!e.ranges_known && matches!(v.origin, Some("unseen" | "passed")), "{name}: {}", v.value);
    }
    assert!(!qdq::report::text(&e.tables(), Some(100)).is_empty());
}

fn models_in(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        match path.is_dir() {
            true => models_in(&path, found),
            false if path.extension().is_some_and(|e| e == "onnx") => found.push(path),
            false => {}
        }
    }
}

#[test]
fn everything_in_the_fixtures_has_a_row_and_a_reason() {
    let mut files = Vec::new();
    models_in(&fixture("."), &mut files);
    assert!(files.len() > 20, "{files:?}");
    for file in files {
        let (name, m) = (file.display().to_string(), Model::read(&file).unwrap());
        is_complete(&name, &decided(&m, None, policy()));
        is_complete(&name, &decide_weights(&m, &policy(), Mode::Weights, &Silent).unwrap());
    }
}

#[test]
fn everything_in_the_zoo_has_a_row_and_a_reason() {
    let Some(zoo) = zoo() else { return };
    let mut seen = 0;
    let mut folders: Vec<_> = std::fs::read_dir(zoo).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    for path in folders.iter().map(|f| f.join("model.onnx")).filter(|p| p.is_file()) {
        let name = path.display().to_string();
        let recipe = Recipe { policy: policy() };
        match decide(&Model::read(&path).unwrap(), None, &recipe, &Tract, &Silent) {
            Ok(decision) => is_complete(&name, &decision),
            // Operators that no opset has any more.
            Err(e) => assert_eq!(e.kind(), ErrorKind::Unsupported, "{name}: {e}"),
        }
        seen += 1;
    }
    assert!(seen > 10, "only {seen} models");
}

/// The parameters that the written model has, by what carries them: of values from QuantizeLinear, of the places of constants
/// from the DequantizeLinear in front of them. Values whose name an output keeps are found by their scale's name.
fn holds_what_was_said(name: &str, decision: &Decision, written: &Model) {
    let e = explain(&decision.model.graph, &decision.plan).unwrap();
    let graph = &written.graph;
    let by_title: BTreeMap<&str, _> = graph.nodes().map(|(id, n)| (n.title(), id)).collect();
    let mut pairs = 0;
    for v in e.values.iter().filter(|v| v.quantized) {
        let how = v.how.as_ref().unwrap();
        let float = format!("{}_float", v.value);
        let quantize = [&v.value, &float].into_iter().flat_map(|n| graph.uses(n)).filter_map(|u| graph.node(u.node));
        let quantize: Vec<_> = quantize.filter(|n| Linear::quantizes(n)).collect();
        assert_eq!(quantize.len(), 1, "{name}: `{}` has {} QuantizeLinear", v.value, quantize.len());
        let linear = Linear::read(graph, quantize[0]).unwrap();
        let (scale, zero) = (how.scale.unwrap(), how.zero_point.unwrap());
        assert_eq!(
            (linear.scales[0], i64::from(linear.zero_points[0])),
            (scale.min, zero.min),
            "{name}: `{}`",
            v.value
        );
        // Who is said to read codes does.
        for r in &v.readers {
            let Some(&id) = by_title.get(&*r.node) else { continue };
            let slot = r.slot.unwrap();
            let read = graph.node(id).unwrap().input_at(slot).unwrap();
            let dequantized = graph.producer(read).is_some_and(|(p, _)| Linear::dequantizes(graph.node(p).unwrap()));
            assert_eq!(dequantized, r.dequantized, "{name}: input {slot} of {}", r.node);
        }
        pairs += 1;
    }
    let written_pairs = graph.nodes().filter(|(_, n)| Linear::quantizes(n)).count();
    assert_eq!(written_pairs, pairs, "{name}: Q/DQ pairs");
    for row in &e.nodes {
        let there = by_title.get(&*row.node).is_some_and(|&id| graph.node(id).unwrap().operator() == row.operator);
        assert_eq!(there, row.verdict != "absorbed", "{name}: {} is {}", row.node, row.verdict);
    }
    for c in e.constants.iter().filter(|c| by_title.contains_key(&*c.node)) {
        let reader = graph.node(by_title[&*c.node]).unwrap();
        // Rows of a table of codes are dequantized behind the Gather that picks them.
        let picks = reader.is("Gather") && graph.is_constant(reader.input_at(0).unwrap());
        let read = if picks { reader.output_at(0) } else { reader.input_at(c.slot.unwrap()) }.unwrap();
        let behind = graph.uses(read).iter().map(|u| u.node).find(|_| picks);
        // A weight that is stored as the table whose columns are its rows is turned on the way.
        let ahead = |value: &str| graph.producer(value).map(|(id, _)| graph.node(id).unwrap());
        let turned = ahead(read).filter(|n| n.is("Transpose")).and_then(|n| n.input_at(0)).unwrap_or(read);
        let dequantize = behind.map(|id| graph.node(id).unwrap()).or_else(|| ahead(turned));
        let dequantize = dequantize.filter(|n| Linear::dequantizes(n));
        let Some(how) = &c.how else {
            assert!(dequantize.is_none(), "{name}: `{}` of {} is codes, and was said to stay", c.constant, c.node);
            continue;
        };
        let (scales, dtype) = match dequantize {
            Some(node) => Linear::read(graph, node).map(|linear| (linear.scales, linear.dtype)).unwrap(),
            None => scales_of_rows(graph, reader).unwrap_or_else(|| {
                panic!("{name}: `{}` of {} is no codes", c.constant, c.node);
            }),
        };
        let least = scales.iter().copied().fold(f32::INFINITY, f32::min);
        let most = scales.iter().copied().fold(0.0, f32::max);
        let scale = how.scale.unwrap();
        assert_eq!((least, most), (scale.min, scale.max), "{name}: `{}`", c.constant);
        assert_eq!(qdq::model::dtype_name(dtype), how.format, "{name}: `{}`", c.constant);
    }
}

/// The scales of the rows of a table that a Gather picks codes from, and the type of these: rows are cast, zero points taken off, and
/// multiplied with scales that are picked beside them.
fn scales_of_rows(graph: &Graph, gather: &NodeProto) -> Option<(Vec<f32>, DataType)> {
    let codes = graph.constant(gather.input_at(0)?).unwrap()?;
    let after = |value: &str| graph.node(graph.only_use(value)?.node);
    let mut node = after(gather.output_at(0)?).filter(|n| n.is("Cast"))?;
    node = after(node.output_at(0)?)?;
    if node.is("Sub") {
        node = after(node.output_at(0)?)?;
    }
    let maker = |value: &str| graph.node(graph.producer(value)?.0);
    let column = maker(node.input_at(1).filter(|_| node.is("Mul"))?).filter(|n| n.is("Unsqueeze"))?;
    let picked = maker(column.input_at(0)?).filter(|n| n.is("Gather"))?;
    let scales = graph.constant(picked.input_at(0)?).unwrap()?;
    Some((scales.f32s().unwrap().into_owned(), codes.dtype()))
}

fn learn(m: &Model, samples: &dyn Samples) -> RangesFile {
    learn_ranges(m, samples, Share::ALL, &policy(), &Tract, &Silent).unwrap()
}

#[test]
fn what_is_said_is_what_is_written() {
    let digits = model_of("digits/model.onnx");
    let ranges = learn(&digits, samples_of("digits/calib.npz", &digits).as_ref());
    let attention_ranges = learn(&attention(-10000.0), &attention_samples());
    let exclude = Patterns::new(&["block2.*".to_owned()]).unwrap();
    for (name, m, ranges, policy) in [
        ("digits", &digits, &ranges, policy()),
        ("digits with its steps", &digits, &ranges, Policy::of(&ORT_CPU)),
        ("digits symmetric", &digits, &ranges, Policy { symmetric_activations: true, ..policy() }),
        ("digits in part", &digits, &ranges, Policy { exclude, ..policy() }),
        ("digits per tensor", &digits, &ranges, Policy { per_channel: false, ..policy() }),
        ("attention", &attention(-10000.0), &attention_ranges, policy()),
    ] {
        let source = || Source::Ranges(ranges, None);
        let decision = decided(m, Some(source()), policy.clone());
        let written = quantize_from(m, source(), &Recipe { policy: policy.clone() }, &Tract, &Silent).unwrap().model;
        holds_what_was_said(name, &decision, &written);
        // What is said before ranges are known is what they lead to.
        if policy.steps == Steps::NONE {
            let open = decided(m, None, policy);
            let verdicts = |d: &Decision| d.plan.nodes.iter().map(|n| n.verdict).collect::<Vec<Verdict>>();
            assert_eq!(verdicts(&open), verdicts(&decision), "{name}");
            let names = |d: &Decision| d.plan.values.keys().cloned().collect::<Vec<String>>();
            assert_eq!(names(&open), names(&decision), "{name}");
        }
    }
}

#[test]
fn what_is_said_of_the_zoo_is_what_is_written() {
    let Some(zoo) = zoo() else { return };
    for name in ["mlperf_tiny_resnet8_cifar10", "resnet20_cifar10", "minilm_l6_v2", "stories260K"] {
        let m = Model::read(&zoo.join(name).join("model.onnx")).unwrap();
        let data = zoo.join(name).join("calib.npz");
        let options = SampleOptions { limit: Some(2), ..SampleOptions::default() };
        let samples =
            qdq::sample::open(data.to_str().unwrap(), &options, &InputSpec::all(&m.graph).unwrap(), &Silent).unwrap();
        let ranges = learn(&m, samples.as_ref());
        let source = || Source::Ranges(&ranges, None);
        let decision = decided(&m, Some(source()), policy());
        let written = quantize_from(&m, source(), &Recipe { policy: policy() }, &Tract, &Silent).unwrap().model;
        holds_what_was_said(name, &decision, &written);
        let open = decided(&m, None, policy());
        let floats = |d: &Decision| d.plan.nodes.iter().filter(|n| n.verdict == Verdict::Float).count();
        assert_eq!(floats(&open), floats(&decision), "{name}: nodes that stay float without ranges and with");
    }
}

#[test]
fn a_quantized_model_says_what_is_there() {
    let digits = model_of("digits/model.onnx");
    let ranges = learn(&digits, samples_of("digits/calib.npz", &digits).as_ref());
    let source = Source::Ranges(&ranges, None);
    let written = quantize_from(&digits, source, &Recipe { policy: policy() }, &Tract, &Silent).unwrap().model;
    let decision = decided(&written, None, policy());
    assert!(decision.plan.is_idle());
    is_complete("quantized", &decision);
    let e = explain(&decision.model.graph, &decision.plan).unwrap();
    assert!(e.ranges_known && e.nodes.iter().all(|n| n.verdict == "already"), "{:?}", e.nodes);
    let input = value_of(&e, "input");
    assert_eq!((input.origin, input.quantized), (Some("present"), true));
    assert!(input.how.as_ref().unwrap().scale.is_some() && input.reason.contains("QuantizeLinear"));
    let weight = e.constants.iter().find(|c| c.constant == "stem.weight_quantized").unwrap();
    assert_eq!(weight.how.as_ref().unwrap().to_string(), "int8 symmetric per channel (axis 0)");
    assert_eq!(weight.dtype, qdq::model::dtype_name(DataType::Int8));
}
