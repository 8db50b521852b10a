//! Subgraphs and functions: what is inside them is quantized, and what they read from outside stays what it was.

use crate::common::{self, InMemory, emit, floats, model, node, noise, noise_samples, value, weights};
use proptest::prelude::*;
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::model::{AttributeProto, DataType, Graph, GraphProto, Linear, Model, NodeExt, NodeProto, Tensor, TensorProto};
use qdq::number::Format;
use qdq::pass::{self, Context};
use qdq::plan::{Patterns, Policy};
use qdq::proto::attribute_proto::AttributeType;
use qdq::proto::{FunctionProto, OperatorSetIdProto};
use qdq::quantize::{Quantized, Recipe, quantize, quantize_dynamic, quantize_weights};
use qdq::sample::{Sample, Samples};
use qdq::target::ORT_CPU;
use qdq::validate::{Questions, Validation, validate};

const SHAPE: &[usize] = &[4, 16];

fn subgraph(name: &str, graph: GraphProto) -> AttributeProto {
    let kind = Some(AttributeType::Graph as i32);
    AttributeProto { name: Some(name.into()), g: Some(graph), r#type: kind, ..Default::default() }
}

/// The graph of a branch with one float output of that shape.
fn branch(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, output: &str, shape: &[usize]) -> GraphProto {
    let output = vec![value(output, Some(shape))];
    GraphProto { name: Some("branch".into()), node: nodes, initializer, output, ..Default::default() }
}

fn choose(condition: &str, output: &str, then: GraphProto, other: GraphProto) -> NodeProto {
    node("If", condition, output, &[subgraph("then_branch", then), subgraph("else_branch", other)])
}

/// `name` says whether the numbers of `x` add up to more than that.
fn above(x: &str, level: f32, name: &str) -> Vec<NodeProto> {
    let (sum, zero) = (format!("{name}_sum"), format!("{name}_level"));
    vec![
        node("ReduceSum", x, &sum, &[attribute_int("keepdims", 0)]),
        node("Constant", "", &zero, &[qdq::model::attribute::float("value_float", level)]),
        node("Greater", &format!("{sum} {zero}"), name, &[]),
    ]
}

fn attribute_int(name: &str, x: i64) -> AttributeProto {
    qdq::model::attribute::int(name, x)
}

/// Noise that is shifted up in every second sample and down in the others.
fn up_and_down(shape: &[usize], count: usize) -> InMemory {
    let size: usize = shape.iter().product();
    let sample = |i: usize| {
        let shift = if i.is_multiple_of(2) { 0.5 } else { -0.5 };
        let x = noise(i as u64 + 1, size).iter().map(|x| x + shift).collect();
        Sample { inputs: vec![Tensor::from_f32(shape.to_vec(), x)] }
    };
    InMemory((0..count).map(sample).collect())
}

fn policy() -> Policy {
    Policy::of(&ORT_CPU)
}

fn quantized(name: &str, float: &Model, samples: &dyn Samples) -> (Quantized, Validation) {
    let made = quantize(float, samples, &Recipe { policy: policy() }, &Tract, &Silent);
    let made = made.unwrap_or_else(|e| panic!("{name}: {e}"));
    let found = validate(float, &made.model, samples, &Questions::default(), &Tract, &Silent).unwrap();
    emit(name, float, &made.model, samples, &found.outputs);
    assert!(found.outputs.iter().all(|o| o.exact || o.sqnr_db.unwrap() > 30.0), "{name}: {:?}", found.outputs);
    (made, found)
}

/// The rows of the report: node, verdict, reason.
fn rows(made: &Quantized) -> Vec<(String, &'static str, String)> {
    made.report.nodes.iter().map(|n| (n.node.clone(), n.verdict, n.reason.clone())).collect()
}

fn verdict<'r>(rows: &'r [(String, &'static str, String)], node: &str) -> (&'static str, &'r str) {
    let row = rows.iter().find(|r| r.0 == node).unwrap_or_else(|| panic!("no row for `{node}`: {rows:#?}"));
    (row.1, &row.2)
}

fn operators(graph: &Graph) -> Vec<String> {
    graph.nodes().map(|(_, n)| n.op_type().to_owned()).collect()
}

/// Two branches that share the names of their values, and read their weights from the graph around them.
fn with_captured_weights() -> Model {
    let mut nodes = above("x", 0.0, "c");
    let then = vec![node("MatMul", "x w1", "h", &[]), node("Relu", "h", "r", &[]), node("MatMul", "r w2", "o", &[])];
    let other = vec![node("MatMul", "x w3", "h", &[]), node("Tanh", "h", "r", &[]), node("MatMul", "r w2", "o", &[])];
    let out = &[4, 8];
    nodes.push(choose("c", "y", branch(then, vec![], "o", out), branch(other, vec![], "o", out)));
    let constants = vec![weights("w1", &[16, 16]), weights("w3", &[16, 16]), weights("w2", &[16, 8])];
    model(17, SHAPE, nodes, constants, &[("y", out)])
}

#[test]
fn weights_that_branches_capture_become_codes_in_the_branches() {
    let float = with_captured_weights();
    let (made, _) = quantized("branches_captured_weights", &float, &up_and_down(SHAPE, 24));
    let rows = rows(&made);
    assert_eq!(verdict(&rows, "y_node > then_branch > h_node").0, "quantized");
    assert_eq!(verdict(&rows, "y_node > then_branch > r_node").0, "absorbed");
    assert_eq!(verdict(&rows, "y_node > else_branch > o_node").0, "quantized");
    assert_eq!(verdict(&rows, "y_node"), ("float", "decided for each of its branches"));
    assert_eq!((made.report.counts.quantized, made.report.counts.constants), (4, 4));
    let graph = &made.model.graph;
    let large: Vec<_> = graph.initializers().filter(|t| t.dims.len() > 1).map(|t| t.name()).collect();
    assert_eq!(
        large,
        ["w2_quantized"],
        "the float weights are gone; codes of the one that both branches read are shared"
    );
    for id in graph.bodies() {
        let body = graph.body(id).unwrap();
        assert_eq!(body.captured_values().collect::<Vec<_>>(), ["x"]);
        assert!(operators(&body).contains(&"DequantizeLinear".to_owned()));
        assert!(body.is_output(body.outputs()[0].name()) && body.outputs().len() == 1);
    }
}

#[test]
fn branches_inside_branches_are_quantized_and_captured_activations_too() {
    let constant = |name: &str, shape: &[usize]| {
        let value = qdq::model::attribute::tensor("value", TensorProto { name: None, ..weights(name, shape) });
        node("Constant", "", name, &[value])
    };
    let inner = |op: &str, weight: &str| {
        let nodes = vec![node("MatMul", &format!("h {weight}"), "i", &[]), node(op, "i", "j", &[])];
        branch(nodes, vec![], "j", SHAPE)
    };
    let mut deep = vec![constant("a", &[16, 16]), constant("b", &[16, 16]), node("MatMul", "s a", "h", &[])];
    deep.push(node("Mul", "x x", "power", &[]));
    deep.extend(above("power", 37.0, "d"));
    deep.push(choose("d", "k", inner("Relu", "b"), inner("Sigmoid", "a")));
    deep.push(node("Add", "k s", "o", &[]));
    let flat = vec![node("MatMul", "s own", "o", &[])];
    let mut nodes = vec![node("MatMul", "x stem", "m", &[]), node("Relu", "m", "s", &[])];
    nodes.extend(above("x", 0.0, "c"));
    nodes.push(choose(
        "c",
        "q",
        branch(deep, vec![], "o", SHAPE),
        branch(flat, vec![weights("own", &[16, 16])], "o", SHAPE),
    ));
    nodes.push(node("MatMul", "q head", "y", &[]));
    let constants = vec![weights("stem", &[16, 16]), weights("head", &[16, 8])];
    let float = model(17, SHAPE, nodes, constants, &[("y", &[4, 8])]);
    let samples = up_and_down(SHAPE, 40);
    let (made, _) = quantized("branches_nested", &float, &samples);
    let rows = rows(&made);
    for node in ["m_node", "y_node", "q_node > then_branch > h_node", "q_node > else_branch > o_node"] {
        assert_eq!(verdict(&rows, node).0, "quantized", "{node}");
    }
    for end in ["then_branch > i_node", "else_branch > i_node"] {
        let (verdict, reason) = verdict(&rows, &format!("q_node > then_branch > k_node > {end}"));
        assert_eq!(verdict, "quantized", "{end}: {reason}");
    }
    let alone = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| quantize(&float, &samples, &Recipe { policy: policy() }, &Tract, &Silent).unwrap())
    };
    let outcomes: Vec<_> =
        [1, 2, 5].map(alone).into_iter().map(|m| (m.model.to_bytes().unwrap(), m.report.outputs)).collect();
    assert!(outcomes.windows(2).all(|w| w[0] == w[1]));
    assert!(outcomes[0].0 == made.model.to_bytes().unwrap());
}

#[test]
fn a_branch_that_no_sample_takes_stays_float_and_says_so() {
    let float = with_captured_weights();
    let up =
        |i| Sample { inputs: vec![Tensor::from_f32(SHAPE.to_vec(), noise(i, 64).iter().map(|x| x + 1.0).collect())] };
    let samples = InMemory((1..13).map(up).collect());
    let (made, _) = quantized("branches_never_taken", &float, &samples);
    let rows = rows(&made);
    assert_eq!(verdict(&rows, "y_node > then_branch > h_node").0, "quantized");
    assert_eq!(verdict(&rows, "y_node > else_branch > h_node"), ("float", "no sample took this branch"));
    // `w2` is read in both branches, `w1` in the quantized one alone.
    let kept = made.model.graph.initializers().filter(|t| t.dims.len() > 1).map(|t| t.name());
    assert_eq!(kept.collect::<Vec<_>>(), ["w3", "w2", "w2_quantized"]);
}

#[test]
fn nodes_in_branches_are_chosen_by_their_names() {
    let float = with_captured_weights();
    let samples = up_and_down(SHAPE, 12);
    let with = |texts: &[&str]| {
        let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
        let policy = Policy { exclude: Patterns::new(&texts).unwrap(), ..policy() };
        quantize(&float, &samples, &Recipe { policy }, &Tract, &Silent)
    };
    let quantized = |made: &Quantized| {
        let rows = made.report.nodes.iter().filter(|n| n.verdict == "quantized");
        rows.map(|n| n.node.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        quantized(&with(&["y_node > then_branch > *"]).unwrap()),
        ["y_node > else_branch > h_node", "y_node > else_branch > o_node"]
    );
    assert_eq!(
        quantized(&with(&["h_node"]).unwrap()),
        ["y_node > then_branch > o_node", "y_node > else_branch > o_node"]
    );
    assert!(with(&["y_node > no_branch > *"]).unwrap_err().to_string().contains("no node is called"));
}

/// Scan multiplies row by row with a weight that it captures.
fn with_loop() -> Model {
    let body = GraphProto {
        name: Some("body".into()),
        node: vec![
            node("MatMul", "row w", "p", &[]),
            node("Add", "state p", "next", &[]),
            node("Identity", "next", "seen", &[]),
        ],
        input: vec![value("state", Some(&[1, 16])), value("row", Some(&[1, 16]))],
        output: vec![value("next", Some(&[1, 16])), value("seen", Some(&[1, 16]))],
        ..Default::default()
    };
    let scan = node("Scan", "zero rows", "last all", &[subgraph("body", body), attribute_int("num_scan_inputs", 1)]);
    let nodes = vec![node("MatMul", "x stem", "m", &[]), node("Unsqueeze", "m one", "rows", &[]), scan];
    let constants = vec![
        weights("stem", &[16, 16]),
        weights("w", &[16, 16]),
        floats("zero", &[1, 16], &[0.0; 16]),
        Tensor::from_i64(vec![1], vec![1]).to_proto("one"),
    ];
    model(17, SHAPE, nodes, constants, &[("last", &[1, 16]), ("all", &[4, 1, 16])])
}

#[test]
fn a_loop_starts_afresh_with_each_sample() {
    let float = with_loop();
    let samples = noise_samples(SHAPE, 3);
    let together = common::run(&float, &samples);
    for (i, outputs) in together.iter().enumerate() {
        let alone = InMemory(vec![samples.get(i).unwrap()]);
        assert_eq!(common::run(&float, &alone)[0], *outputs, "sample {i}");
    }
}

#[test]
fn the_body_of_a_loop_stays_float_unless_only_weights_are_stored() {
    let float = with_loop();
    let samples = noise_samples(SHAPE, 12);
    let (made, _) = quantized("branches_loop", &float, &samples);
    let rows = rows(&made);
    assert_eq!(verdict(&rows, "m_node").0, "quantized");
    let inside = ("float", "what the body of a Scan makes from turn to turn is not watched");
    assert_eq!(verdict(&rows, "last_node > body > p_node"), inside);
    assert!(made.model.graph.initializer("w").is_some());

    let verify: (&dyn Samples, &dyn qdq::exec::Executor) = (&samples, &Tract);
    let made = quantize_weights(&float, &policy(), Some(verify), None, &Silent).unwrap();
    assert_eq!(made.report.counts.weight_only, 2);
    assert!(made.model.graph.initializer("w").is_none());
    assert!(made.report.outputs.iter().all(|o| o.sqnr_db.unwrap() > 30.0), "{:?}", made.report.outputs);
    emit("branches_loop_weights", &float, &made.model, &samples, &made.report.outputs);
}

#[test]
fn bodies_compute_in_integers_and_with_packed_weights() {
    use qdq::plan::Emit;
    use std::num::NonZeroUsize;
    let count = |model: &Model, op: &str| {
        let inside = model.graph.bodies().into_iter().flat_map(|id| {
            let body = model.graph.body(id).unwrap();
            body.nodes().map(|(_, n)| n.op_type().to_owned()).collect::<Vec<_>>()
        });
        let outside = model.graph.nodes().map(|(_, n)| n.op_type().to_owned());
        outside.chain(inside).filter(|o| o == op).count()
    };
    let float = with_loop();
    let samples = noise_samples(SHAPE, 6);
    let verify: Option<(&dyn Samples, &dyn qdq::exec::Executor)> = Some((&samples, &Tract));
    let made = quantize_dynamic(&float, &policy(), verify, None, &Silent).unwrap();
    assert_eq!((made.report.counts.dynamic, count(&made.model, "MatMulInteger")), (2, 2));
    assert!(made.report.outputs.iter().all(|o| o.sqnr_db.unwrap() > 25.0), "{:?}", made.report.outputs);
    emit("branches_loop_dynamic", &float, &made.model, &samples, &made.report.outputs);

    let packed = Policy { emit: Emit::MatMulNBits, block_size: NonZeroUsize::new(16), ..policy() };
    for (weights, least) in [(Format::UINT8, 35.0), (Format::UINT4, 15.0)] {
        let policy = |policy: &Policy| Policy { weights, ..policy.clone() };
        let made = quantize_weights(&float, &policy(&packed), verify, None, &Silent).unwrap();
        assert_eq!((made.report.counts.weight_only, count(&made.model, "MatMulNBits")), (2, 2));
        assert_eq!(count(&made.model, "DequantizeLinear"), 0);
        let reached = |made: &Quantized| made.report.outputs.iter().map(|o| o.sqnr_db.unwrap()).collect::<Vec<f64>>();
        assert!(reached(&made).iter().all(|&db| db > least), "{weights:?}: {:?}", made.report.outputs);
        emit(&format!("branches_loop_packed_{}", weights.name), &float, &made.model, &samples, &made.report.outputs);

        // The same codes behind DequantizeLinear, in blocks, which engines do not know.
        let blocks = Policy { emit: Emit::Qdq, ..policy(&packed) };
        let same = quantize_weights(&float, &blocks, verify, None, &Silent).unwrap();
        assert!(count(&same.model, "DequantizeLinear") == 2 && reached(&same) == reached(&made));
    }
}

/// What the dynamo exporter of PyTorch writes: functions that call functions, attributes handed through, Constant nodes
/// inside, and a function in a branch.
fn with_functions() -> Model {
    let import = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let imports = vec![import("", 18), import("pkg.lib", 1)];
    let function = |name: &str, inputs: &str, output: &str, nodes: Vec<NodeProto>| FunctionProto {
        name: Some(name.into()),
        domain: Some("pkg.lib".into()),
        input: inputs.split(' ').map(str::to_owned).collect(),
        output: vec![output.into()],
        opset_import: imports.clone(),
        node: nodes,
        ..Default::default()
    };
    let call = |op: &str, inputs: &str, output: &str, attributes: &[AttributeProto]| NodeProto {
        domain: Some("pkg.lib".into()),
        ..node(op, inputs, output, attributes)
    };
    let refers = |name: &str, to: &str, kind: AttributeType| AttributeProto {
        name: Some(name.into()),
        r#type: Some(kind as i32),
        ref_attr_name: Some(to.into()),
        ..Default::default()
    };
    let mut leaky = function(
        "aten_leaky_relu",
        "self",
        "result",
        vec![node("LeakyRelu", "self", "result", &[refers("alpha", "negative_slope", AttributeType::Float)])],
    );
    leaky.attribute_proto = vec![qdq::model::attribute::float("negative_slope", 0.01)];
    let linear = function(
        "Linear",
        "input weight bias",
        "result",
        vec![
            node("Constant", "", "one", &[qdq::model::attribute::float("value_float", 1.0)]),
            node("MatMul", "input weight", "tmp", &[]),
            node("Mul", "tmp one", "scaled", &[]),
            node("Add", "scaled bias", "result", &[]),
        ],
    );
    let block = function(
        "Block",
        "x w b",
        "y",
        vec![
            call("Linear", "x w b", "tmp", &[]),
            call("aten_leaky_relu", "tmp", "y", &[refers("negative_slope", "slope", AttributeType::Float)]),
        ],
    );
    let slope = qdq::model::attribute::float("slope", 0.2);
    let then = branch(vec![call("Block", "h w2 b2", "o", &[])], vec![], "o", SHAPE);
    let other = branch(vec![call("Linear", "h w3 b2", "o", &[])], vec![], "o", SHAPE);
    let mut nodes = above("x", 0.0, "c");
    nodes.push(call("Block", "x w1 b1", "h", &[slope]));
    nodes.push(choose("c", "y", then, other));
    let constants = vec![
        weights("w1", &[16, 16]),
        weights("w2", &[16, 16]),
        weights("w3", &[16, 16]),
        weights("b1", &[16]),
        weights("b2", &[16]),
    ];
    let mut proto = model(18, SHAPE, nodes, constants, &[("y", SHAPE)]).to_proto();
    proto.opset_import.push(import("pkg.lib", 1));
    proto.functions = vec![leaky, linear, block];
    Model::from_proto(proto).unwrap()
}

#[test]
fn functions_are_seen_through() {
    let float = with_functions();
    let (made, _) = quantized("branches_functions", &float, &up_and_down(SHAPE, 24));
    let rows = rows(&made);
    assert_eq!(verdict(&rows, "h_node/tmp_node/tmp_node").0, "quantized");
    assert_eq!(verdict(&rows, "y_node > then_branch > o_node/tmp_node/tmp_node").0, "quantized");
    assert_eq!(verdict(&rows, "y_node > else_branch > o_node/tmp_node_2").0, "quantized");
    assert_eq!(made.model.functions().count(), 0);
    let policy = Policy { exclude: Patterns::new(&["h_node/*".to_owned()]).unwrap(), ..policy() };
    let made = quantize(&float, &up_and_down(SHAPE, 12), &Recipe { policy }, &Tract, &Silent).unwrap();
    let rows = self::rows(&made);
    assert_eq!(verdict(&rows, "h_node/tmp_node/tmp_node"), ("float", "excluded by the user"));
}

#[test]
fn activations_in_branches_are_seen() {
    let seen = qdq::inspect::activations(&with_functions(), &up_and_down(SHAPE, 4), &Tract, &Silent).unwrap();
    let nodes: Vec<_> = seen.iter().map(|a| a.node.as_str()).collect();
    assert!(nodes.contains(&"y_node > then_branch > o_node/tmp_node/result_node"), "{nodes:?}");
    assert!(seen.iter().all(|a| a.min.is_some()));
}

#[test]
fn speech_detectors_with_branches_are_quantized() {
    let Some(zoo) = common::zoo() else { return };
    for (name, pairs) in [("silero_vad_ifless", 22), ("silero_vad", 18)] {
        let float = Model::read(&zoo.join(name).join("model.onnx")).unwrap();
        let inputs = qdq::model::InputSpec::all(&float.graph).unwrap();
        let sample = |i: usize| {
            let rate = [16_000, 8_000][i % 2];
            let frame = noise(i as u64 + 1, rate as usize * 36 / 1000).iter().map(|x| 0.1 * x).collect::<Vec<_>>();
            let state: Vec<f32> = noise(i as u64 + 100, 256).iter().map(|x| 0.3 * x).collect();
            let of = |name: &str| match name {
                "input" => Tensor::from_f32(vec![1, frame.len()], frame.clone()),
                "sr" => Tensor::from_i64(vec![], vec![rate]),
                _ => Tensor::from_f32(vec![2, 1, 128], state.clone()),
            };
            Sample { inputs: inputs.iter().map(|s| of(&s.name)).collect() }
        };
        let made =
            quantize(&float, &InMemory((0..32).map(sample).collect()), &Recipe { policy: policy() }, &Tract, &Silent);
        let made = made.unwrap();
        assert_eq!(made.report.counts.pairs, pairs, "{name}");
        assert!(made.report.outputs.iter().all(|o| o.sqnr_db.unwrap() > 15.0), "{name}: {:?}", made.report.outputs);
    }
}

// ---- random graphs inside graphs ----

/// What a random graph is made of, statement by statement. Numbers pick from what there is.
#[derive(Debug, Clone)]
enum Statement {
    /// An operator of `OPERATORS` on two values, its result under one of few names.
    Compute { op: usize, a: usize, b: usize, name: usize },
    /// A constant, as an initializer or a Constant node.
    Constant { x: i8, node: bool, name: usize },
    /// An If; the condition is a value above 0, or a constant.
    Choose { on: usize, known: Option<bool>, then: Block, other: Block, name: usize },
}

#[derive(Debug, Clone)]
struct Block {
    statements: Vec<Statement>,
    output: usize,
}

/// With how many inputs each.
const OPERATORS: &[(&str, usize)] = &[("Neg", 1), ("Add", 2), ("Mul", 2), ("Identity", 1), ("Sum", 1), ("Max", 2)];

fn block(depth: u32) -> BoxedStrategy<Block> {
    let compute = (0..OPERATORS.len(), 0..64usize, 0..64usize, 0..5usize)
        .prop_map(|(op, a, b, name)| Statement::Compute { op, a, b, name });
    let constant =
        (any::<i8>(), any::<bool>(), 0..5usize).prop_map(|(x, node, name)| Statement::Constant { x, node, name });
    let statement = match depth {
        0 => prop_oneof![4 => compute, 1 => constant].boxed(),
        _ => {
            let choice =
                (0..64usize, proptest::option::of(any::<bool>()), block(depth - 1), block(depth - 1), 0..5usize)
                    .prop_map(|(on, known, then, other, name)| Statement::Choose { on, known, then, other, name });
            prop_oneof![4 => compute, 2 => constant, 2 => choice].boxed()
        }
    };
    (proptest::collection::vec(statement, 1..6), 0..64usize)
        .prop_map(|(statements, output)| Block { statements, output })
        .boxed()
}

/// Writes a block as a graph. `visible` are the values around it. Names are taken from a small set, so that branches
/// beside each other share names; what is around is not shadowed.
fn write(block: &Block, visible: &[String], depth: usize) -> GraphProto {
    let mut known = visible.to_vec();
    let mut graph = GraphProto { name: Some("g".into()), ..Default::default() };
    for statement in &block.statements {
        let fresh = |pick: usize, behind: &str, known: &[String]| {
            let base = ["a", "b", "c", "d", "e"][pick].to_owned() + behind;
            (0..).map(|i| if i == 0 { base.clone() } else { format!("{base}_{i}") }).find(|n| !known.contains(n))
        };
        let pick = |i: usize| known[i % known.len()].clone();
        match statement {
            Statement::Compute { op, a, b, name } => {
                let (op, arity) = OPERATORS[*op];
                let inputs = [pick(*a), pick(*b)][..arity].join(" ");
                let name = fresh(*name, "", &known).unwrap();
                graph.node.push(node(op, &inputs, &name, &[]));
                known.push(name);
            }
            Statement::Constant { x, node: as_node, name } => {
                // An initializer must not hide one of a graph around it, wherever that comes in the list.
                let name = fresh(*name, &".".repeat(depth), &known).unwrap();
                let tensor = floats(&name, &[1], &[f32::from(*x) / 64.0]);
                if *as_node {
                    graph.node.push(node("Constant", "", &name, &[qdq::model::attribute::tensor("value", tensor)]));
                } else {
                    graph.initializer.push(tensor);
                }
                known.push(name);
            }
            Statement::Choose { on, known: constant, then, other, name } => {
                let on = pick(*on);
                let name = fresh(*name, "", &known).unwrap();
                let condition = format!("{name}?{depth}");
                match constant {
                    Some(x) => {
                        let tensor = Tensor::new(DataType::Bool, vec![1], vec![u8::from(*x)].into()).unwrap();
                        graph.initializer.push(tensor.to_proto(&condition));
                    }
                    None => graph.node.push(node("Greater", &format!("{on} zero"), &condition, &[])),
                }
                let inside = |b: &Block| write(b, &known, depth + 1);
                graph.node.push(choose(&condition, &name, inside(then), inside(other)));
                known.push(name);
            }
        }
    }
    let own = &known[visible.len()..];
    graph.output.push(value(&own[block.output % own.len()], Some(&[1])));
    graph
}

/// Runs a graph as the specification says, name by name: the reference for everything else.
fn interpret(graph: &GraphProto, around: &[(String, Vec<f32>)]) -> Vec<(String, Vec<f32>)> {
    let mut values = around.to_vec();
    let read = |t: &TensorProto| {
        let t = Tensor::from_proto(t).unwrap();
        if t.is_float() {
            t.f32s().unwrap().into_owned()
        } else {
            t.i64s().unwrap().iter().map(|&x| x as f32).collect()
        }
    };
    values.extend(graph.initializer.iter().map(|t| (t.name().to_owned(), read(t))));
    for n in &graph.node {
        let input = |i: usize| {
            let name = n.input_at(i).unwrap();
            values.iter().rev().find(|(v, _)| v == name).unwrap_or_else(|| panic!("no `{name}`")).1[0]
        };
        let result = match n.op_type() {
            "Neg" => -input(0),
            "Add" => input(0) + input(1),
            "Mul" => input(0) * input(1),
            "Max" => input(0).max(input(1)),
            "Identity" | "Sum" => input(0),
            "Greater" => f32::from(input(0) > input(1)),
            "Constant" => read(n.tensor("value").unwrap())[0],
            "If" => {
                let taken = if input(0) != 0.0 { "then_branch" } else { "else_branch" };
                let body = NodeExt::attribute(n, taken).unwrap().g.as_ref().unwrap();
                let inner = interpret(body, &values);
                inner.iter().rev().find(|(v, _)| v == body.output[0].name()).unwrap().1[0]
            }
            other => panic!("{other}"),
        };
        values.push((n.output[0].clone(), vec![result]));
    }
    values
}

fn expected(model: &Model, x: f32) -> f32 {
    let graph = model.graph.to_proto();
    let values = interpret(&graph, &[("x".to_owned(), vec![x])]);
    values.iter().rev().find(|(v, _)| v == "y").unwrap().1[0]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Captured names stay what they were through every exact pass, and every form of a model that branches makes
    /// computes what the model does.
    #[test]
    fn random_graphs_inside_graphs_keep_what_they_compute(block in block(3), xs in proptest::collection::vec(-2f32..2.0, 3)) {
        let mut graph = write(&block, &["x".to_owned(), "zero".to_owned()], 0);
        let last = graph.output[0].name().to_owned();
        graph.node.push(node("Identity", &last, "y", &[]));
        graph.initializer.push(floats("zero", &[1], &[0.0]));
        graph.input = vec![value("x", Some(&[1]))];
        graph.output = vec![value("y", Some(&[1]))];
        let mut model = Model::from_proto(qdq::model::ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(13) }],
            graph: Some(graph),
            ..Default::default()
        }).unwrap();
        let want: Vec<f32> = xs.iter().map(|&x| expected(&model, x)).collect();
        prop_assume!(want.iter().all(|w| w.abs() < 1e6));
        let close = |a: f32, b: f32| (a - b).abs() <= 1e-4 * a.abs().max(1.0);
        let samples = InMemory(xs.iter().map(|&x| Sample { inputs: vec![Tensor::from_f32(vec![1], vec![x])] }).collect());
        for got in common::run(&model, &samples).iter().zip(&want) {
            prop_assert!(close(got.0[0].f32s().unwrap()[0], *got.1), "{got:?}");
        }
        for pass in pass::exact(14) {
            pass::run(pass.as_ref(), &mut model, &mut Context::new(Some(&Tract), &Silent)).unwrap();
            for (&x, &want) in xs.iter().zip(&want) {
                let got = expected(&model, x);
                prop_assert!(close(got, want), "{}: {got} instead of {want}", pass.name());
            }
            prop_assert!(Model::from_bytes(model.to_bytes().unwrap().into()).is_ok());
        }
        for got in common::run(&model, &samples).iter().zip(&want) {
            prop_assert!(close(got.0[0].f32s().unwrap()[0], *got.1), "{got:?}");
        }
    }
}

#[test]
fn no_pair_stands_between_a_branch_and_what_is_around_it() {
    let float = with_captured_weights();
    let (made, _) = quantized("branches_pairs", &float, &up_and_down(SHAPE, 24));
    for id in made.model.graph.bodies() {
        let body = made.model.graph.body(id).unwrap();
        for (_, n) in body.nodes().filter(|(_, n)| Linear::dequantizes(n)) {
            let codes = n.input_at(0).unwrap();
            let here = body.initializers().any(|t| t.name() == codes) || body.producer(codes).is_some();
            assert!(here || codes == "w2_quantized", "`{codes}` comes from outside");
        }
    }
}
