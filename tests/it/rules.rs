//! Every rule of the table by a small graph: what it decides, and that the model it makes is close to the float one.

use crate::common::{emit, floats, ints, model, node, noise_samples, weights};
use qdq::events::Silent;
use qdq::exec::{Runner, Tract};
use qdq::model::{AttributeProto, Model, NodeProto, TensorProto, attribute};
use qdq::plan::Policy;
use qdq::quantize::{Quantized, Recipe, quantize};
use qdq::rule::{RULES, Role};
use qdq::sample::Samples;
use qdq::target::ORT_CPU;
use qdq::validate::compare;

const SHAPE: [usize; 4] = [1, 4, 8, 8];

/// A node between two convolutions (`a` and, for those that take two, `b`) and a Gemm, and what becomes of it.
struct Case {
    op: &'static str,
    inputs: &'static str,
    attributes: Vec<AttributeProto>,
    constants: Vec<TensorProto>,
    /// Numbers in its output.
    size: usize,
    verdict: &'static str,
    opset: i64,
}

fn case(op: &'static str, inputs: &'static str, size: usize) -> Case {
    Case { op, inputs, attributes: vec![], constants: vec![], size, verdict: "quantized", opset: 17 }
}

impl Case {
    fn with(mut self, attributes: &[AttributeProto]) -> Case {
        self.attributes = attributes.to_vec();
        self
    }

    fn and(mut self, constants: Vec<TensorProto>) -> Case {
        self.constants = constants;
        self
    }

    fn becomes(mut self, verdict: &'static str) -> Case {
        self.verdict = verdict;
        self
    }
}

fn cases() -> Vec<Case> {
    let (int, float, text) = (attribute::int, attribute::float, attribute::string);
    let all = 256;
    vec![
        case("Add", "a b", all),
        case("AveragePool", "a", 64)
            .with(&[attribute::ints("kernel_shape", &[2, 2]), attribute::ints("strides", &[2, 2])]),
        case("Clip", "a lo hi", all)
            .and(vec![floats("lo", &[], &[0.0]), floats("hi", &[], &[0.5])])
            .becomes("absorbed"),
        case("Concat", "a b", 512).with(&[int("axis", 1)]),
        case("Conv", "a w c", all)
            .and(vec![weights("w", &[4, 1, 3, 3]), weights("c", &[4])])
            .with(&[int("group", 4), attribute::ints("pads", &[1, 1, 1, 1])]),
        case("ConvTranspose", "a w c", 1536)
            .and(vec![weights("w", &[4, 3, 2, 2]), weights("c", &[6])])
            .with(&[int("group", 2), attribute::ints("strides", &[2, 2])]),
        case("DepthToSpace", "a", all).with(&[int("blocksize", 2)]),
        case("Div", "a k", all).and(vec![floats("k", &[1], &[1.7])]),
        case("Erf", "a", all).becomes("float"),
        case("Exp", "a", all).becomes("float"),
        case("Flatten", "a", all),
        case("Gather", "a i", 128).and(vec![ints("i", &[2, 0])]).with(&[int("axis", 1)]),
        case("GlobalAveragePool", "a", 4),
        case("GlobalMaxPool", "a", 4),
        case("HardSigmoid", "a", all),
        case("HardSwish", "a", all),
        case("InstanceNormalization", "a g h", all).and(vec![weights("g", &[4]), weights("h", &[4])]).becomes("float"),
        case("LRN", "a", all).with(&[int("size", 3)]).becomes("float"),
        case("LayerNormalization", "a g h", all).and(vec![weights("g", &[8]), weights("h", &[8])]).becomes("float"),
        case("LeakyRelu", "a", all).with(&[float("alpha", 0.1)]),
        case("MatMul", "a b", all),
        case("MatMul", "a w", 96).and(vec![weights("w", &[8, 3])]),
        case("MaxPool", "a", 64).with(&[attribute::ints("kernel_shape", &[2, 2]), attribute::ints("strides", &[2, 2])]),
        case("Mul", "a b", all),
        case("PRelu", "a s", all).and(vec![floats("s", &[4, 1, 1], &[0.1, 0.2, 0.3, 0.4])]),
        case("Pad", "a p", 400).and(vec![ints("p", &[0, 0, 1, 1, 0, 0, 1, 1])]),
        case("Pad", "a p v", 400)
            .and(vec![ints("p", &[0, 0, 1, 1, 0, 0, 1, 1]), floats("v", &[], &[3.0])])
            .becomes("float"),
        case("Pow", "a e", all).and(vec![floats("e", &[], &[2.0])]).becomes("float"),
        case("ReduceMean", "a", 4).with(&[attribute::ints("axes", &[2, 3])]),
        case("Relu", "a", all).becomes("absorbed"),
        case("Reshape", "a s", all).and(vec![ints("s", &[1, 16, 16])]),
        case("Resize", "a _ zoom", 1024).and(vec![floats("zoom", &[4], &[1.0, 1.0, 2.0, 2.0])]).with(&[
            text("mode", "nearest"),
            text("coordinate_transformation_mode", "asymmetric"),
            text("nearest_mode", "floor"),
        ]),
        case("Sigmoid", "a", all),
        case("Slice", "a s e axs", 128).and(vec![ints("s", &[1]), ints("e", &[3]), ints("axs", &[1])]),
        case("Softmax", "a", all).with(&[int("axis", -1)]),
        case("SpaceToDepth", "a", all).with(&[int("blocksize", 2)]),
        case("Split", "a n", 64).and(vec![ints("n", &[1, 3])]).with(&[int("axis", 1)]),
        case("Sqrt", "abs_a", all).becomes("float"),
        case("Squeeze", "a n", all).and(vec![ints("n", &[0])]),
        case("Sub", "a b", all),
        case("Tanh", "a", all),
        case("Transpose", "a", all).with(&[attribute::ints("perm", &[0, 2, 3, 1])]),
        case("Unsqueeze", "a n", all).and(vec![ints("n", &[0])]),
        case("Where", "m a b", all).and(vec![mask()]),
    ]
}

fn mask() -> TensorProto {
    let t = qdq::model::Tensor::new(qdq::model::DataType::Bool, vec![1, 1, 8, 1], vec![1, 0, 1, 1, 0, 0, 1, 0].into());
    t.unwrap().to_proto("m")
}

fn build(case: &Case) -> Model {
    let mut constants = vec![weights("wa", &[4, 4, 1, 1]), weights("ba", &[4]), weights("wb", &[4, 4, 1, 1])];
    constants.extend([weights("wg", &[case.size, 3]), weights("bg", &[3]), ints("flat", &[1, case.size as i64])]);
    constants.extend(case.constants.iter().cloned());
    let mut nodes: Vec<NodeProto> =
        vec![node("Conv", "x wa ba", "a", &[]), node("Conv", "x wb", "b", &[]), node("Abs", "a", "abs_a", &[])];
    let outputs = if case.op == "Split" { "y y2" } else { "y" };
    nodes.push(node(case.op, case.inputs, outputs, &case.attributes));
    nodes.push(node("Reshape", "y flat", "r", &[]));
    nodes.push(node("Gemm", "r wg bg", "z", &[]));
    // Only what is read stays: the engine's idea of dead ends is not what is tested.
    let used = |n: &NodeProto| {
        n.output.iter().any(|o| {
            o == "z"
                || o.starts_with('y')
                || o == "r"
                || case.inputs.split(' ').any(|i| i == o)
                || (o == "a" && case.inputs == "abs_a")
        })
    };
    nodes.retain(used);
    let read: Vec<String> = nodes.iter().flat_map(|n| n.input.clone()).collect();
    constants.retain(|t| read.contains(&t.name().to_owned()));
    model(case.opset, &SHAPE, nodes, constants, &[("z", &[1, 3])])
}

/// Every operator that a rule allows, whatever the target wants.
fn policy() -> Policy {
    let mut policy = Policy::of(&ORT_CPU);
    let rules = RULES.iter().filter(|r| !matches!(r.role, Role::Float(_)));
    policy.operators = Some(rules.map(|r| r.op.to_owned()).collect());
    policy
}

fn check(name: &str, float: &Model, samples: &dyn Samples, policy: Policy) -> Quantized {
    let made = quantize(float, samples, &Recipe { policy }, &Tract, &Silent).unwrap_or_else(|e| panic!("{name}: {e}"));
    let written = made.model.clone();
    let picks: Vec<usize> = (0..samples.len()).collect();
    let runner = |m| Runner::new(&Tract, m, Vec::new()).unwrap();
    let drifts = compare(&runner(float), &runner(&written), samples, &picks, &Silent).unwrap();
    emit(name, float, &made.model, samples, &drifts);
    let db = drifts[0].sqnr_db.unwrap_or(f64::INFINITY);
    assert!(db > 25.0, "{name}: {db} dB");
    made
}

#[test]
fn every_rule_decides_as_it_says_and_stays_close() {
    for case in cases() {
        let float = build(&case);
        let made =
            check(&format!("rule_{}_{}", case.op, case.constants.len()), &float, &noise_samples(&SHAPE, 12), policy());
        let row = made.report.nodes.iter().find(|n| n.node == "y_node").unwrap();
        assert_eq!(row.verdict, case.verdict, "{}: {}", case.op, row.reason);
        assert!(!row.reason.is_empty(), "{}", case.op);
    }
}

#[test]
fn bounds_in_a_row_are_absorbed_together() {
    let nodes = vec![
        node("Conv", "x wa", "a", &[]),
        node("Relu", "a", "r", &[]),
        node("Clip", "r lo hi", "c", &[]),
        node("Conv", "c wb", "z", &[]),
    ];
    let constants = vec![
        weights("wa", &[4, 4, 1, 1]),
        weights("wb", &[4, 4, 1, 1]),
        floats("lo", &[], &[0.0]),
        floats("hi", &[], &[0.5]),
    ];
    let float = model(17, &SHAPE, nodes, constants, &[("z", &SHAPE)]);
    let made = check("bounds_in_a_row", &float, &noise_samples(&SHAPE, 12), Policy::of(&ORT_CPU));
    let verdicts: Vec<_> = made.report.nodes.iter().map(|n| n.verdict).collect();
    assert_eq!(verdicts, ["quantized", "absorbed", "absorbed", "quantized"]);
}

#[test]
fn every_rule_has_a_case() {
    let cases = cases();
    for rule in RULES.iter().filter(|r| r.op != "Gemm") {
        assert!(cases.iter().any(|c| c.op == rule.op), "no case for {}", rule.op);
    }
}

#[test]
fn every_format_of_activations_runs_as_measured() {
    use qdq::number::Format;
    let relu = || cases().into_iter().find(|c| c.op == "Relu").unwrap();
    for (activations, symmetric) in [
        (Format::UINT8, false),
        (Format::INT8, false),
        (Format::INT8, true),
        (Format::UINT16, false),
        (Format::INT16, true),
    ] {
        for weights in [Format::INT8, Format::UINT8] {
            for per_channel in [true, false] {
                let mut policy = Policy::of(&ORT_CPU);
                (policy.activations, policy.symmetric_activations) = (activations, symmetric);
                (policy.weights, policy.per_channel) = (weights, per_channel);
                let name = format!("format_{}_{symmetric}_{}_{per_channel}", activations.name, weights.name);
                let made = check(&name, &build(&relu()), &noise_samples(&SHAPE, 12), policy);
                let row = made.report.nodes.iter().find(|n| n.node == "y_node").unwrap();
                // A symmetric format has codes below zero: it cannot stand for ReLU.
                assert_eq!(row.verdict, if symmetric { "quantized" } else { "absorbed" }, "{name}");
                assert_eq!(made.report.opset.1, if activations.bits == 16 { 21 } else { 17 }, "{name}");
            }
        }
    }
}
