//! Whatever the factors, scaling channels changes nothing: held on a small graph for every way channels can go.

use crate::common::{self, difference, floats, ints, model, node, noise, noise_samples, weights};
use qdq::events::Silent;
use qdq::exec::{Executor, Tract};
use qdq::model::{AttributeProto, DataType, GraphProto, Model, NodeProto, Tensor, TensorProto, attribute};
use qdq::pass::{self, Bounds, Context, Rescale};
use qdq::scaling::{Group, Scaling};

/// A graph between two layers, the shape of `x`, and how many channels each group must have.
struct Case {
    about: &'static str,
    shape: &'static [usize],
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    output: &'static [usize],
    groups: &'static [usize],
}

/// A 1x1 convolution with a bias; the names of its constants come from its output.
fn conv(input: &str, output: &str) -> NodeProto {
    node("Conv", &format!("{input} {output}_w {output}_b"), output, &[])
}

fn conv_weights(output: &str, shape: &[usize]) -> Vec<TensorProto> {
    vec![weights(&format!("{output}_w"), shape), weights(&format!("{output}_b"), &shape[..1])]
}

/// Two convolutions, 3 -> 4 -> 2 channels on 4x4 pixels, with something from `a` to `b` between them.
fn between(about: &'static str, middle: Vec<NodeProto>, constants: Vec<TensorProto>, groups: &'static [usize]) -> Case {
    let nodes = [vec![conv("x", "a")], middle, vec![conv("b", "y")]].concat();
    let constants = [conv_weights("a", &[4, 3, 1, 1]), conv_weights("y", &[2, 4, 1, 1]), constants].concat();
    Case { about, shape: &[1, 3, 4, 4], nodes, constants, output: &[1, 2, 4, 4], groups }
}

fn one(about: &'static str, op: &str, attributes: &[AttributeProto]) -> Case {
    between(about, vec![node(op, "a", "b", attributes)], vec![], &[4])
}

fn cases() -> Vec<Case> {
    let int = attribute::int;
    let list = attribute::ints;
    let image: &[usize] = &[1, 3, 4, 4];
    let mut cases = vec![
        one("relu", "Relu", &[]),
        one("leaky relu", "LeakyRelu", &[attribute::float("alpha", 0.2)]),
        one("a sigmoid ends it", "Sigmoid", &[]),
        one("a pool", "MaxPool", &[list("kernel_shape", &[3, 3]), list("pads", &[1, 1, 1, 1])]),
        one("a mean", "AveragePool", &[list("kernel_shape", &[3, 3]), list("pads", &[1, 1, 1, 1])]),
        one("negation", "Neg", &[]),
        between("prelu", vec![node("PRelu", "a s", "b", &[])], vec![weights("s", &[4, 1, 1])], &[4]),
        between(
            "relu6",
            vec![node("Clip", "a lo hi", "b", &[])],
            vec![floats("lo", &[], &[0.0]), floats("hi", &[], &[0.4])],
            &[4],
        ),
        between(
            "a clip below and above",
            vec![node("Clip", "a lo hi", "b", &[])],
            vec![floats("lo", &[], &[-0.3]), floats("hi", &[], &[0.4])],
            &[4],
        ),
        between(
            "a clip that cuts off zero",
            vec![node("Clip", "a lo hi", "b", &[])],
            vec![floats("lo", &[], &[0.1]), floats("hi", &[], &[0.4])],
            &[],
        ),
        between(
            "a gate",
            vec![
                node("GlobalAveragePool", "x", "p", &[]),
                node("Conv", "p g_w", "g", &[]),
                node("Sigmoid", "g", "h", &[]),
                node("Mul", "h a", "b", &[]),
            ],
            vec![weights("g_w", &[4, 3, 1, 1])],
            &[4],
        ),
        between(
            "a gate made of what it gates",
            vec![node("Sigmoid", "a", "h", &[]), node("Mul", "a h", "b", &[])],
            vec![],
            &[],
        ),
        between("a square", vec![node("Mul", "a a", "b", &[])], vec![], &[]),
        between("a constant factor", vec![node("Mul", "a k", "b", &[])], vec![weights("k", &[1, 4, 1, 1])], &[4]),
        between(
            "a constant a channel is added",
            vec![node("Add", "a k", "b", &[])],
            vec![weights("k", &[4, 1, 1])],
            &[4],
        ),
        between("one constant is added", vec![node("Sub", "k a", "b", &[])], vec![floats("k", &[], &[0.7])], &[4]),
        between("a constant a pixel is added", vec![node("Add", "a k", "b", &[])], vec![weights("k", &[4, 4])], &[]),
        between(
            "depthwise",
            vec![
                node("Relu", "a", "r", &[]),
                node("Conv", "r d_w", "d", &[int("group", 4), list("pads", &[1, 1, 1, 1])]),
                node("Relu", "d", "b", &[]),
            ],
            vec![weights("d_w", &[4, 1, 3, 3])],
            &[4, 4],
        ),
        between(
            "in groups",
            vec![
                node("Relu", "a", "r", &[]),
                node("Conv", "r d_w", "d", &[int("group", 2)]),
                node("Relu", "d", "b", &[]),
            ],
            vec![weights("d_w", &[4, 2, 1, 1])],
            &[4, 4],
        ),
        between(
            "transposed convolution in groups",
            vec![
                node("Relu", "a", "r", &[]),
                node("ConvTranspose", "r d_w d_b", "d", &[int("group", 2)]),
                node("Relu", "d", "b", &[]),
            ],
            vec![weights("d_w", &[4, 2, 1, 1]), weights("d_b", &[4])],
            &[4, 4],
        ),
        between(
            "a residual",
            vec![
                node("Relu", "a", "r", &[]),
                conv("r", "c"),
                node("Relu", "c", "d", &[]),
                conv("d", "e"),
                node("Add", "e r", "b", &[]),
            ],
            [conv_weights("c", &[5, 4, 1, 1]), conv_weights("e", &[4, 5, 1, 1])].concat(),
            &[4, 5],
        ),
        between(
            "a sum with what cannot be scaled",
            vec![node("Conv", "x c_w", "c", &[]), node("Tanh", "c", "t", &[]), node("Add", "a t", "b", &[])],
            vec![weights("c_w", &[4, 3, 1, 1])],
            &[],
        ),
        between(
            "a branch that cannot be scaled",
            vec![
                node("Relu", "a", "r", &[]),
                node("Tanh", "r", "t", &[]),
                node("Conv", "t t_w", "u", &[]),
                node("Conv", "r r_w", "v", &[]),
                node("Add", "u v", "b", &[]),
            ],
            vec![weights("t_w", &[4, 4, 1, 1]), weights("r_w", &[4, 4, 1, 1])],
            &[4],
        ),
        between(
            "split, half scaled, joined again",
            vec![
                node("Split", "a", "p q", &[int("axis", 1)]),
                node("Tanh", "q", "t", &[]),
                node("Concat", "t p", "b", &[int("axis", 1)]),
            ],
            vec![],
            &[2],
        ),
        between(
            "two layers joined",
            vec![
                node("Slice", "a start end axis", "p", &[]),
                node("Conv", "x c_w", "c", &[]),
                node("Relu", "c", "r", &[]),
                node("Concat", "r p", "b", &[int("axis", -3)]),
            ],
            vec![weights("c_w", &[2, 3, 1, 1]), ints("start", &[1]), ints("end", &[3]), ints("axis", &[1])],
            &[6],
        ),
        between(
            "joined along the height",
            vec![
                node("Slice", "a start end axis", "p", &[]),
                node("Slice", "a end far axis", "q", &[]),
                node("Concat", "q p", "b", &[int("axis", 2)]),
            ],
            vec![ints("start", &[0]), ints("end", &[1]), ints("far", &[4]), ints("axis", &[2])],
            &[4],
        ),
        between(
            "a shuffle of channels",
            vec![
                node("Reshape", "a five", "s", &[]),
                node("Transpose", "s", "t", &[list("perm", &[0, 2, 1, 3, 4])]),
                node("Reshape", "t four", "b", &[]),
            ],
            vec![ints("five", &[1, 2, 2, 4, 4]), ints("four", &[1, 4, 4, 4])],
            &[4],
        ),
        between(
            "channels of zeros in front",
            vec![
                node("Slice", "a start end axis", "p", &[]),
                node("Pad", "p pads", "q", &[]),
                node("Add", "q a", "b", &[]),
            ],
            vec![ints("start", &[0]), ints("end", &[2]), ints("axis", &[1]), ints("pads", &[0, 2, 0, 0, 0, 0, 0, 0])],
            &[2],
        ),
        between(
            "channels picked",
            vec![node("Gather", "a picks", "b", &[int("axis", 1)])],
            vec![ints("picks", &[3, 3, -4, 1])],
            &[4],
        ),
        between(
            "a mean over pixels",
            vec![
                node("ReduceMean", "a", "m", &[list("axes", &[2, 3]), int("keepdims", 1)]),
                node("Add", "a m", "b", &[]),
            ],
            vec![],
            &[4],
        ),
        between(
            "squeezed and unsqueezed",
            vec![node("Unsqueeze", "a at", "u", &[]), node("Squeeze", "u at", "b", &[])],
            vec![ints("at", &[1])],
            &[4],
        ),
        between(
            "a maximum over channels",
            vec![node("ReduceMax", "a", "m", &[list("axes", &[1])]), node("Add", "a m", "b", &[])],
            vec![],
            &[],
        ),
        between(
            "a weight that is read twice",
            vec![node("Conv", "x a_w", "c", &[]), node("Add", "a c", "b", &[])],
            vec![],
            &[],
        ),
        between("a graph output", vec![node("Relu", "a", "b", &[])], vec![], &[4]),
    ];
    cases.push(Case {
        about: "flattened into a Gemm",
        shape: image,
        nodes: vec![
            conv("x", "a"),
            node("Relu", "a", "r", &[]),
            node("Flatten", "r", "f", &[]),
            node("Gemm", "f g_w g_b", "g", &[int("transB", 1), attribute::float("alpha", 0.5)]),
            node("Relu", "g", "h", &[]),
            node("Gemm", "h y_w c", "y", &[attribute::float("beta", 2.0)]),
        ],
        constants: [
            conv_weights("a", &[4, 3, 1, 1]),
            vec![weights("g_w", &[5, 64]), weights("g_b", &[5]), weights("y_w", &[5, 2]), floats("c", &[], &[0.3])],
        ]
        .concat(),
        output: &[1, 2],
        groups: &[4, 5],
    });
    cases.push(Case {
        about: "pixels from channels",
        shape: image,
        nodes: vec![
            conv("x", "a"),
            node("DepthToSpace", "a", "d", &[int("blocksize", 2)]),
            conv("d", "e"),
            node("DepthToSpace", "e", "f", &[int("blocksize", 2), attribute::string("mode", "CRD")]),
            conv("f", "y"),
        ],
        constants: [
            conv_weights("a", &[8, 3, 1, 1]),
            conv_weights("e", &[8, 2, 1, 1]),
            conv_weights("y", &[1, 2, 1, 1]),
        ]
        .concat(),
        output: &[1, 1, 16, 16],
        groups: &[2, 2],
    });
    cases.push(Case {
        about: "attention",
        shape: &[1, 5, 6],
        nodes: vec![
            node("LayerNormalization", "x n_s n_b", "n", &[int("axis", -1)]),
            node("MatMul", "n q_w", "q", &[]),
            node("MatMul", "n k_w", "k", &[]),
            node("MatMul", "n v_w", "v0", &[]),
            node("Add", "v_b v0", "v", &[]),
            node("Reshape", "v heads", "v1", &[]),
            node("Transpose", "v1", "v2", &[list("perm", &[0, 2, 1, 3])]),
            node("Transpose", "k", "k1", &[list("perm", &[0, 2, 1])]),
            node("MatMul", "q k1", "s", &[]),
            node("Softmax", "s", "p", &[int("axis", -1)]),
            node("Unsqueeze", "p one", "p1", &[]),
            node("MatMul", "p1 v2", "o", &[]),
            node("Transpose", "o", "o1", &[list("perm", &[0, 2, 1, 3])]),
            node("Reshape", "o1 whole", "o2", &[]),
            node("MatMul", "o2 y_w", "y", &[]),
        ],
        constants: vec![
            weights("n_s", &[6]),
            weights("n_b", &[6]),
            weights("q_w", &[6, 6]),
            weights("k_w", &[6, 6]),
            weights("v_w", &[6, 6]),
            weights("v_b", &[6]),
            weights("y_w", &[6, 6]),
            ints("heads", &[1, 5, 2, 3]),
            ints("whole", &[1, 5, 6]),
            ints("one", &[1]),
        ],
        output: &[1, 5, 6],
        groups: &[6, 6],
    });
    cases.push(Case {
        about: "root mean square normalization",
        shape: &[1, 5, 6],
        nodes: vec![
            node("Mul", "x x", "s", &[]),
            node("ReduceMean", "s", "m", &[list("axes", &[-1])]),
            node("Sqrt", "m", "r", &[]),
            node("Div", "x r", "d", &[]),
            node("Mul", "gain d", "n", &[]),
            node("MatMul", "n a_w", "a", &[]),
            node("MatMul", "n b_w", "b", &[]),
            node("Sigmoid", "b", "c", &[]),
            node("Mul", "c a", "e", &[]),
            node("MatMul", "e y_w", "y", &[]),
        ],
        constants: vec![
            weights("gain", &[6]),
            weights("a_w", &[6, 4]),
            weights("b_w", &[6, 4]),
            weights("y_w", &[4, 6]),
        ],
        output: &[1, 5, 6],
        groups: &[6, 4],
    });
    cases
}

/// Factors from a hundredth to a hundred.
fn random(seed: usize, count: usize) -> Vec<f64> {
    noise(seed as u64 + 11, count).into_iter().map(|x| 100f64.powf(x.into())).collect()
}

fn scaled(model: &Model, bounds: Bounds) -> (Model, Scaling) {
    let scaling = Scaling::of(&model.graph, &Tract.shapes(model).unwrap()).unwrap();
    let factors = |(i, g): (usize, &Group)| random(i, g.channels);
    let groups = scaling.groups.iter().enumerate().map(|(i, g)| (g, factors((i, g)))).collect();
    let mut copy = model.clone();
    pass::run(&Rescale { groups, bounds }, &mut copy, &mut Context::new(Some(&Tract), &Silent)).unwrap();
    (copy, scaling)
}

#[test]
fn any_factors_leave_the_function_as_it_is() {
    for case in cases() {
        let mut case = case;
        let mut outputs = vec![("y", case.output)];
        if case.about == "a sigmoid ends it" {
            case.groups = &[];
        }
        if case.about == "a graph output" {
            outputs.push(("b", &[1, 4, 4, 4]));
            case.groups = &[];
        }
        let original = model(13, case.shape, case.nodes, case.constants, &outputs);
        let (other, scaling) = scaled(&original, Bounds::Exact);
        let channels: Vec<usize> = scaling.groups.iter().map(|g| g.channels).collect();
        assert_eq!(channels, case.groups, "{}: {:?}", case.about, scaling.blocked);
        assert!(case.groups.is_empty() || original.graph.to_proto() != other.graph.to_proto(), "{}", case.about);
        let off = difference(&original, &other, &noise_samples(case.shape, 3));
        assert!(off < 2e-5, "{}: {off:e}", case.about);
    }
}

#[test]
fn what_is_blocked_says_why() {
    let reasons: Vec<(&str, &str)> = vec![
        ("a sigmoid ends it", "does not scale its output alike"),
        ("a clip that cuts off zero", "cuts off zero"),
        ("a square", "both be scaled"),
        ("a constant a pixel is added", "no element a channel"),
        ("a sum with what cannot be scaled", "cannot be scaled alike"),
        ("a branch that cannot be scaled", "node `t_node` (Tanh)"),
        ("a maximum over channels", "reduces along its channels"),
        ("a weight that is read twice", "`a_w` is read elsewhere too"),
        ("attention", "multiplies it with another value"),
    ];
    for (about, reason) in reasons {
        let case = cases().into_iter().find(|c| c.about == about).unwrap();
        let model = model(13, case.shape, case.nodes, case.constants, &[("y", case.output)]);
        let scaling = Scaling::of(&model.graph, &Tract.shapes(&model).unwrap()).unwrap();
        assert!(scaling.blocked.iter().any(|b| b.reason.contains(reason)), "{about}: {:?}", scaling.blocked);
        let text: String = scaling.tables(&model.graph).iter().map(|t| t.text(None)).collect();
        assert!(text.contains("Channels that cannot"), "{text}");
    }
}

#[test]
fn what_a_subgraph_captures_stays_as_it_is() {
    let body = |value: &str| GraphProto {
        name: Some("body".into()),
        node: vec![node("Neg", value, "n", &[])],
        output: vec![common::value("n", None)],
        ..Default::default()
    };
    let branch = |name: &str, value: &str| AttributeProto {
        name: Some(name.into()),
        g: Some(body(value)),
        r#type: Some(qdq::proto::attribute_proto::AttributeType::Graph as i32),
        ..Default::default()
    };
    let nodes = vec![
        conv("x", "a"),
        node("If", "c", "z", &[branch("then_branch", "a"), branch("else_branch", "a")]),
        node("Relu", "a", "b", &[]),
        conv("b", "y"),
    ];
    let condition = Tensor::new(DataType::Bool, vec![], vec![1u8].into()).unwrap().to_proto("c");
    let constants = [conv_weights("a", &[4, 3, 1, 1]), conv_weights("y", &[2, 4, 1, 1]), vec![condition]].concat();
    let model = model(13, &[1, 3, 4, 4], nodes, constants, &[("y", &[1, 2, 4, 4])]);
    let scaling = Scaling::of(&model.graph, &Default::default()).unwrap();
    assert!(scaling.groups.is_empty() && scaling.blocked[0].reason.contains("captured"), "{:?}", scaling.blocked);
}
