//! Each rule on a model that it is for, and on a near twin that it is not for.

use crate::common::{self, floats, node, value, weights};
use qdq::events::Silent;
use qdq::explain::Findings;
use qdq::lint::RULES;
use qdq::model::{AttributeProto, DataType, GraphProto, Model, ModelProto, NodeProto, Tensor, TensorProto, attribute};
use qdq::plan::Policy;
use qdq::proto::OperatorSetIdProto;
use qdq::target::ORT_CPU;

/// Constants of many kinds that graphs may read; those that none reads are no matter.
fn constants() -> Vec<TensorProto> {
    let codes = |name: &str, dtype, shape: &[usize], bytes: Vec<u8>| {
        Tensor::new(dtype, shape.to_vec(), bytes.into()).unwrap().to_proto(name)
    };
    let int32 =
        |name: &str, x: [i32; 2]| codes(name, DataType::Int32, &[2], x.iter().flat_map(|x| x.to_le_bytes()).collect());
    vec![
        floats("sx", &[], &[0.02]),
        floats("sy", &[], &[0.05]),
        floats("s0", &[], &[0.0]),
        floats("small", &[], &[1e-20]),
        floats("sw", &[2], &[0.01, 0.02]),
        floats("sb", &[2], &[0.02 * 0.01, 0.02 * 0.02]),
        floats("sb2", &[2], &[0.05 * 0.01, 0.05 * 0.02]),
        codes("zx", DataType::Uint8, &[], vec![128]),
        codes("zy", DataType::Uint8, &[], vec![0]),
        codes("zs", DataType::Int8, &[], vec![0]),
        codes("zw", DataType::Uint8, &[2], vec![128, 128]),
        codes("z16", DataType::Uint16, &[], vec![0, 128]),
        codes("w", DataType::Int8, &[2, 2, 1, 1], vec![10, 236, 30, 40]),
        codes("wbig", DataType::Int8, &[2, 2, 1, 1], vec![100, 100, 1, 1]),
        codes("wsigns", DataType::Int8, &[2, 2, 1, 1], vec![100, 156, 1, 1]),
        int32("b", [1000, -1000]),
        int32("bmax", [i32::MAX, 5]),
        floats("bfloat", &[2], &[0.5, -0.5]),
        floats("bhuge", &[2], &[1e9, 0.0]),
        floats("low", &[], &[0.0]),
        floats("six", &[], &[6.0]),
        floats("high", &[], &[1000.0]),
        weights("other", &[1, 2, 4, 4]),
    ]
}

/// A graph in lines of `Operator inputs -> outputs attribute=number`, with input `x` and output `y`.
fn graph(opset: i64, lines: &str) -> Model {
    let read = |line: &str| -> NodeProto {
        let (head, tail) = line.split_once(" -> ").unwrap();
        let (op, inputs) = head.split_once(' ').unwrap();
        let is_attribute = |word: &&str| word.contains('=');
        let (attributes, outputs): (Vec<&str>, Vec<&str>) = tail.split(' ').partition(is_attribute);
        let read = |a: &str| -> AttributeProto {
            let (name, number) = a.split_once('=').unwrap();
            attribute::int(name, number.parse().unwrap())
        };
        node(op, inputs, &outputs.join(" "), &attributes.into_iter().map(read).collect::<Vec<_>>())
    };
    let shape = Some(&[1, 2, 4, 4][..]);
    let graph = GraphProto {
        name: Some("test".into()),
        node: lines.split('\n').map(str::trim).filter(|l| !l.is_empty()).map(read).collect(),
        initializer: constants(),
        input: vec![value("x", shape)],
        output: vec![value("y", shape)],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }];
    Model::from_proto(ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() })
        .unwrap()
}

fn rules(opset: i64, lines: &str) -> Vec<(&'static str, String, String)> {
    let found = Findings::of_model(&graph(opset, lines), &Policy::of(&ORT_CPU), &Silent).unwrap();
    found.findings.into_iter().map(|f| (f.rule, f.node, f.what)).collect()
}

/// The quantized input, and a quantized weight.
const HEAD: &str = "QuantizeLinear x sx zx -> xq
    DequantizeLinear xq sx zx -> xd
    DequantizeLinear w sw -> wd axis=0";

/// A pair behind `r` makes `y`.
const TAIL: &str = "QuantizeLinear r sy zy -> rq
    DequantizeLinear rq sy zy -> y";

/// The rule, where it finds what, and the twin, each between [`HEAD`] and [`TAIL`] unless it stands alone.
const CASES: &[(&str, &str, &str, &str, &str)] = &[
    (
        "unfused-bound",
        "r_node",
        "bounds are not constant",
        "Conv xd wd -> c
        ReduceMax x -> top keepdims=0
        Clip c low top -> r",
        "Conv xd wd -> c
        Clip c low high -> r",
    ),
    (
        "unfused-bound",
        "r_node",
        "`c` in front of it is read elsewhere",
        "Conv xd wd -> c
        Relu c -> r
        Abs c -> elsewhere",
        "Conv xd wd -> c
        Relu c -> r
        Abs r -> elsewhere",
    ),
    (
        // The codes reach 255 * 0.05 = 12.75.
        "unfused-bound",
        "r_node",
        "past its bounds 0 to 6",
        "Conv xd wd -> c
        Clip c low six -> r",
        "Conv xd wd -> c
        Clip c low high -> r",
    ),
    (
        "pair-before-bound",
        "r_node",
        "between it and `c_node` (Conv)",
        "Conv xd wd -> c
        QuantizeLinear c sx zx -> cq
        DequantizeLinear cq sx zx -> cd
        Relu cd -> r",
        "Conv xd wd -> c
        Relu c -> r",
    ),
    ("one-sided", "r_node", "reads `x` as floats", "Add xd x -> r", "Add xd xd -> r"),
    (
        "one-sided",
        "a_node",
        "its output `a` is not quantized",
        "Add xd xd -> a
        Abs a -> r",
        "Add xd xd -> r",
    ),
    ("float-island", "r_node", "no rule for the operator", "Sin xd -> r", "Sigmoid xd -> r"),
    (
        "float-island",
        "r_node",
        "no rule for the operator",
        "Sin xd -> r",
        "Sin xd -> s
        Abs s -> r",
    ),
    (
        "per-channel-activation",
        "cq_node",
        "`c` has 2 scales",
        "Conv xd wd -> c
        QuantizeLinear c sw zw -> cq axis=1
        DequantizeLinear cq sw zw -> cd axis=1
        Add cd xd -> r",
        "Conv xd wd -> c
        QuantizeLinear c sy zw0 -> cq
        DequantizeLinear cq sy zw0 -> cd
        Add cd xd -> r",
    ),
    (
        "mixed-widths",
        "r_node",
        "uint8 and uint16",
        "QuantizeLinear x sx z16 -> x16
        DequantizeLinear x16 sx z16 -> xd16
        Add xd xd16 -> r",
        "QuantizeLinear x sy zx -> x8
        DequantizeLinear x8 sy zx -> xd8
        Add xd xd8 -> r",
    ),
    (
        "bias-scale",
        "r_node",
        "up to 2.500 times",
        "DequantizeLinear b sb2 -> bd axis=0
        Conv xd wd bd -> r",
        "DequantizeLinear b sb -> bd axis=0
        Conv xd wd bd -> r",
    ),
    (
        // The second layer reads the bias at its own scale, the first one at the other's.
        "bias-scale",
        "c_node",
        "`r_node` reads it too",
        "DequantizeLinear b sb2 -> bd axis=0
        Conv xd wd bd -> c
        QuantizeLinear c sy zy -> cq
        DequantizeLinear cq sy zy -> cd
        Conv cd wd bd -> r",
        "DequantizeLinear b sb -> bd axis=0
        DequantizeLinear b sb2 -> bd2 axis=0
        Conv xd wd bd -> c
        QuantizeLinear c sy zy -> cq
        DequantizeLinear cq sy zy -> cd
        Conv cd wd bd2 -> r",
    ),
    (
        "bias-overflow",
        "r_node",
        "1 of 2 numbers of `bmax`",
        "DequantizeLinear bmax sb -> bd axis=0
        Conv xd wd bd -> r",
        "DequantizeLinear b sb -> bd axis=0
        Conv xd wd bd -> r",
    ),
    (
        "bias-overflow",
        "r_node",
        "1 of 2 numbers of `bhuge` do not fit",
        "Conv xd wd bhuge -> r",
        "Conv xd wd bfloat -> r",
    ),
    (
        "tiny-scale",
        "cq_node",
        "1 of 1 scales are zero",
        "Conv xd wd -> c
        QuantizeLinear c s0 zx -> cq
        DequantizeLinear cq s0 zx -> r",
        "Conv xd wd -> c
        QuantizeLinear c sx zx -> cq
        DequantizeLinear cq sx zx -> r",
    ),
    (
        "tiny-scale",
        "cq_node",
        "1 of 1 scales are below",
        "Conv xd wd -> c
        QuantizeLinear c small zx -> cq
        DequantizeLinear cq small zx -> r",
        "Conv xd wd -> c
        QuantizeLinear c sx zx -> cq
        DequantizeLinear cq sx zx -> r",
    ),
    (
        "double-rounding",
        "rq_node",
        "rounds a second time",
        "Conv xd wd -> c
        QuantizeLinear c sx zx -> cq
        DequantizeLinear cq sx zx -> r",
        "Conv xd wd -> r",
    ),
    (
        "double-rounding",
        "rq_node",
        "the pair does nothing",
        "Conv xd wd -> c
        QuantizeLinear c sy zy -> cq
        DequantizeLinear cq sy zy -> r",
        "Conv xd wd -> r",
    ),
    (
        "int16-sum",
        "r_node",
        "1 of 2 channels (50 %) may pass 32767, up to 51000",
        "DequantizeLinear wbig sw -> wd2 axis=0
        Conv xd wd2 -> r",
        "DequantizeLinear wsigns sw -> wd2 axis=0
        Conv xd wd2 -> r",
    ),
    (
        // Signed activations have no such sum.
        "int16-sum",
        "r_node",
        "may pass",
        "DequantizeLinear wbig sw -> wd2 axis=0
        Conv xd wd2 -> r",
        "DequantizeLinear wbig sw -> wd2 axis=0
        QuantizeLinear x sx zs -> xs
        DequantizeLinear xs sx zs -> xds
        Conv xds wd2 -> r",
    ),
    (
        "shared-dequantize",
        "xd_node",
        "2 inputs read `xd`",
        "Conv xd wd -> c
        QuantizeLinear c sy zy -> cq
        DequantizeLinear cq sy zy -> cd
        Add cd xd -> r",
        "Conv xd wd -> c
        QuantizeLinear c sy zy -> cq
        DequantizeLinear cq sy zy -> cd
        DequantizeLinear xq sx zx -> xe
        Add cd xe -> r",
    ),
];

#[test]
fn each_rule_finds_what_it_is_for_and_leaves_the_twin_alone() {
    for (rule, place, what, model, twin) in CASES {
        let found = rules(21, &format!("{HEAD}\n{model}\n{TAIL}"));
        let hit = found.iter().any(|(r, n, w)| r == rule && n == place && w.contains(what));
        assert!(hit, "{rule} finds no `{what}` at {place} in\n{model}\nbut {found:#?}");
        let spared = twin.replace("zw0", "zx");
        let found = rules(21, &format!("{HEAD}\n{spared}\n{TAIL}"));
        assert!(
            !found.iter().any(|(r, n, _)| r == rule && n == place),
            "{rule} finds something in\n{twin}\n{found:#?}"
        );
    }
}

#[test]
fn the_opset_decides_what_it_knows() {
    let lines = format!("{HEAD}\nConv xd wd -> r\n{TAIL}");
    let old = rules(12, &lines);
    assert!(old.iter().any(|(r, n, w)| *r == "old-opset" && n == "wd_node" && w.contains("came with 13")), "{old:?}");
    assert!(rules(13, &lines).is_empty(), "{:?}", rules(13, &lines));
    let wide = lines.replace("zx", "z16");
    let old = rules(20, &wide);
    assert!(old.iter().any(|(r, _, w)| *r == "old-opset" && w.contains("uint16") && w.contains("21")), "{old:?}");
    assert!(!rules(21, &wide).iter().any(|(r, ..)| *r == "old-opset"));
}

#[test]
fn every_rule_has_a_case() {
    for rule in &RULES {
        let tried = CASES.iter().any(|c| c.0 == rule.name) || rule.name == "old-opset";
        assert!(tried, "{} has no case", rule.name);
        let words = [rule.why, rule.way_out];
        assert!(words.iter().all(|w| !w.is_empty() && !w.contains("  ") && !w.ends_with('.')), "{}", rule.name);
    }
}

mod planned {
    use super::*;
    use common::{model_of, noise_samples, samples_of};
    use qdq::exec::Tract;
    use qdq::plan::Steps;
    use qdq::quantize::{Recipe, Source, decide};

    fn of_plan(m: &Model, source: Option<Source<'_>>, policy: Policy) -> Findings {
        let decision = decide(m, source, &Recipe { policy }, &Tract, &Silent).unwrap();
        Findings::of_decision(&decision, &Silent).unwrap()
    }

    fn policy() -> Policy {
        Policy { steps: Steps::NONE, ..Policy::of(&ORT_CPU) }
    }

    #[test]
    fn what_is_written_for_a_float_model_has_nothing_unfused() {
        let digits = model_of("digits/model.onnx");
        let samples = samples_of("digits/calib.npz", &digits);
        for source in [None, Some(Source::Samples(samples.as_ref()))] {
            let found = of_plan(&digits, source, policy());
            assert_eq!((found.planned, found.ranges_known), (true, source.is_some()));
            let rules: std::collections::BTreeSet<&str> = found.findings.iter().map(|f| f.rule).collect();
            let of_ours = ["int16-sum", "shared-dequantize"];
            assert!(rules.iter().all(|r| of_ours.contains(r)), "{rules:?}");
        }
        // Symmetric codes cannot end at 0, so that every Clip stays behind a pair of its own.
        let found = of_plan(&digits, None, Policy { symmetric_activations: true, ..policy() });
        let pairs = found.findings.iter().filter(|f| f.rule == "pair-before-bound").count();
        assert_eq!(pairs, 9, "{:#?}", found.findings);
    }

    #[test]
    fn an_island_says_what_the_plan_says() {
        let nodes = vec![node("Conv", "x w1", "c", &[]), node("Erf", "c", "e", &[]), node("Conv", "e w2", "y", &[])];
        let initializers = vec![weights("w1", &[2, 2, 1, 1]), weights("w2", &[2, 2, 1, 1])];
        let m = common::model(17, &[1, 2, 4, 4], nodes, initializers, &[("y", &[1, 2, 4, 4])]);
        let samples = noise_samples(&[1, 2, 4, 4], 4);
        for source in [None, Some(Source::Samples(&samples))] {
            let found = of_plan(&m, source, policy());
            let island = found.findings.iter().find(|f| f.rule == "float-island").unwrap();
            assert_eq!(island.node, "e_node");
            assert!(island.what.ends_with("no runtime has an integer kernel for it"), "{}", island.what);
        }
    }
}
