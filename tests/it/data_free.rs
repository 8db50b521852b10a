//! What is known of channels without samples, beside what samples show, and what is made of it.

use std::collections::BTreeMap;

use crate::common::{self, InMemory, difference, floats, ints, model, node, noise_samples, weights};
use qdq::calibrate::{Channels, Spread, Statistics, measure_channels, propagate};
use qdq::events::Silent;
use qdq::exec::{Executor, Runner, Tract};
use qdq::model::{Model, NodeProto, Tensor, TensorProto, attribute};
use qdq::number::{Format, Range, fake_quantize};
use qdq::pass::{self, Context, CorrectBias};
use qdq::plan::{Plan, Policy, Steps, Switch, watch_list};
use qdq::quantize::{Quantized, Recipe, Source, prepare, quantize_from};
use qdq::sample::{Sample, Samples, Share};
use qdq::target::ORT_CPU;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Samples whose numbers are drawn from `N(0, 1)`.
fn normal_samples(shape: &[usize], count: usize) -> InMemory {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let size = shape.iter().product();
    let mut draw = || (0..size).map(|_| StandardNormal.sample(&mut random)).collect::<Vec<f32>>();
    InMemory((0..count).map(|_| Sample { inputs: vec![Tensor::from_f32(shape.to_vec(), draw())] }).collect())
}

/// The means and standard deviations that the two normalizations of [`normalized`] give their three channels.
const A: [(f32, f32); 3] = [(0.5, 1.0), (-1.0, 0.5), (3.0, 2.0)];
const B: [(f32, f32); 3] = [(-2.0, 1.5), (0.0, 1.0), (0.2, 0.1)];

/// `x`, of `N(0, 1)`, becomes `a` and `b` of three independent channels each, which `nodes` make `y` of.
fn normalized(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Model {
    let eye = |name: &str, first: usize| {
        let x: Vec<f32> = (0..18).map(|i| f32::from(u8::from(i % 6 == i / 6 + first))).collect();
        floats(name, &[3, 6, 1, 1], &x)
    };
    let column = |name: &str, x: [f32; 3]| floats(name, &[3], &x);
    let first = vec![
        node("Conv", "x wa", "ca", &[]),
        node("BatchNormalization", "ca ga ma zero one", "a", &[attribute::float("epsilon", 0.0)]),
        node("Conv", "x wb", "cb", &[]),
        node("BatchNormalization", "cb gb mb zero one", "b", &[attribute::float("epsilon", 0.0)]),
    ];
    let given = vec![
        eye("wa", 0),
        eye("wb", 3),
        column("ga", A.map(|x| x.1)),
        column("ma", A.map(|x| x.0)),
        column("gb", B.map(|x| x.1)),
        column("mb", B.map(|x| x.0)),
        column("zero", [0.0; 3]),
        column("one", [1.0; 3]),
    ];
    model(13, &[1, 6, 64, 64], [first, nodes].concat(), [given, constants].concat(), &[("a", &[1, 3, 64, 64])])
}

/// What is known of `y`, and what samples show of it.
fn known_and_seen(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> (Option<Channels>, Option<Channels>) {
    let mut m = normalized(nodes, constants);
    let mut cx = Context::new(Some(&Tract), &Silent);
    prepare(&mut m, 13, &mut cx).unwrap();
    propagate(&m.graph, &Tract.shapes(&m).unwrap(), &mut cx.statistics).unwrap();
    let known = cx.statistics.get("y").cloned();
    let axis = known.as_ref().map_or(1, |k| k.axis);
    let runner = Runner::new(&Tract, &m, vec!["y".into()]).unwrap();
    let seen = measure_channels(&runner, &[axis], &normal_samples(&[1, 6, 64, 64], 12), &picks(12), &Silent).unwrap();
    (known, seen.get("y").cloned())
}

fn picks(count: usize) -> Vec<usize> {
    (0..count).collect()
}

#[test]
fn what_is_known_of_a_value_is_what_samples_show() {
    let (axis, float) = (|n| attribute::int("axis", n), attribute::float);
    let scalar = |name: &str, x: f32| floats(name, &[], &[x]);
    let three = |name: &str, x: [f32; 3]| floats(name, &[3, 1, 1], &x);
    type Case = (&'static str, Vec<NodeProto>, Vec<TensorProto>);
    let one = |op: &str, inputs: &str| vec![node(op, inputs, "y", &[])];
    let cases: Vec<Case> = vec![
        ("relu", one("Relu", "a"), vec![]),
        ("a slope", vec![node("LeakyRelu", "a", "y", &[float("alpha", 0.2)])], vec![]),
        ("a slope a channel", one("PRelu", "a s"), vec![three("s", [0.5, 0.1, -0.3])]),
        ("relu6", one("Clip", "a lo hi"), vec![scalar("lo", 0.0), scalar("hi", 6.0)]),
        ("cut on both sides", one("Clip", "a lo hi"), vec![scalar("lo", -0.7), scalar("hi", 0.4)]),
        ("cut above", one("Clip", "a _ hi"), vec![scalar("hi", 0.4)]),
        ("turned around", one("Neg", "a"), vec![]),
        ("added", one("Add", "a b"), vec![]),
        ("taken away", one("Sub", "a b"), vec![]),
        ("a constant a channel taken away", one("Sub", "a k"), vec![three("k", [1.0, 2.0, 3.0])]),
        ("taken from a constant", one("Sub", "k a"), vec![scalar("k", 1.5)]),
        ("times a constant a channel", one("Mul", "k a"), vec![three("k", [2.0, -1.0, 0.0])]),
        ("behind each other", vec![node("Concat", "a b", "y", &[axis(1)])], vec![]),
        ("channels split off", vec![node("Split", "a n", "z y", &[axis(1)])], vec![ints("n", &[1, 2])]),
        ("rows split off", vec![node("Split", "a", "y z", &[axis(2)])], vec![]),
        ("rows cut out", one("Slice", "a from to at"), vec![ints("from", &[3]), ints("to", &[40]), ints("at", &[-1])]),
        ("channels last", vec![node("Transpose", "a", "y", &[attribute::ints("perm", &[0, 2, 3, 1])])], vec![]),
        ("in one row", one("Reshape", "a s"), vec![ints("s", &[1, 3, -1])]),
        ("channels of zeros", one("Pad", "a p"), vec![ints("p", &[0, 1, 0, 0, 0, 2, 0, 0])]),
        ("relu of a sum", vec![node("Add", "a b", "s", &[]), node("Relu", "s", "y", &[])], vec![]),
    ];
    for (about, nodes, constants) in cases {
        let (Some(known), Some(seen)) = known_and_seen(nodes, constants) else { panic!("{about}: nothing is known") };
        assert_eq!(known.spreads.len(), seen.spreads.len(), "{about}");
        for (k, s) in known.spreads.iter().zip(&seen.spreads) {
            let near = |a: f64, b: f64| (a - b).abs() <= 0.08 * s.std + 1e-6;
            assert!(near(k.mean, s.mean) && near(k.std, s.std), "{about}: {k:?} {s:?}");
            assert!(k.min <= s.min + 1e-6 && k.max >= s.max - 1e-6, "{about}: {k:?} {s:?}");
        }
    }
}

#[test]
fn means_pass_through_pools() {
    let kernel = [attribute::ints("kernel_shape", &[2, 2]), attribute::ints("strides", &[2, 2])];
    let over = [attribute::ints("axes", &[2, 3]), attribute::int("keepdims", 0)];
    for pool in [
        node("AveragePool", "a", "y", &kernel),
        node("GlobalAveragePool", "a", "y", &[]),
        node("ReduceMean", "a", "y", &over),
    ] {
        let about = pool.op_type().to_owned();
        let (Some(known), Some(seen)) = known_and_seen(vec![pool], vec![]) else { panic!("{about}") };
        for (k, s) in known.spreads.iter().zip(&seen.spreads) {
            assert!((k.mean - s.mean).abs() < 0.03 * k.std && k.std >= s.std, "{about}: {k:?} {s:?}");
        }
    }
}

#[test]
fn nothing_is_said_of_what_is_not_known() {
    let axis = |n| attribute::int("axis", n);
    let over = [attribute::ints("axes", &[1]), attribute::int("keepdims", 0)];
    let cases = [
        (vec![node("Conv", "a w", "y", &[])], vec![weights("w", &[2, 3, 1, 1])]),
        (vec![node("Sigmoid", "a", "y", &[])], vec![]),
        (vec![node("ReduceMean", "a", "y", &over)], vec![]),
        (vec![node("Softmax", "a", "y", &[axis(1)])], vec![]),
        (
            vec![node("Pad", "a p fill", "y", &[])],
            vec![ints("p", &[0, 0, 1, 0, 0, 0, 0, 0]), floats("fill", &[], &[1.0])],
        ),
        (vec![node("Add", "a k", "y", &[])], vec![weights("k", &[64])]),
        (vec![node("Mul", "a b", "y", &[])], vec![]),
        (vec![node("Concat", "a b", "y", &[axis(2)])], vec![]),
    ];
    for (nodes, constants) in cases {
        let op = nodes[0].op_type().to_owned();
        let (known, seen) = known_and_seen(nodes, constants);
        assert!(known.is_none() && seen.is_some(), "{op}");
    }
}

#[test]
fn channels_are_measured_along_their_axis() {
    let nodes = vec![node("Relu", "x", "y", &[])];
    let float = model(13, &[2, 3, 5], nodes, vec![], &[("y", &[2, 3, 5])]);
    let samples = noise_samples(&[2, 3, 5], 4);
    let all: Vec<f32> = (0..4).flat_map(|i| samples.0[i].inputs[0].f32s().unwrap().into_owned()).collect();
    let runner = Runner::new(&Tract, &float, vec!["y".into()]).unwrap();
    for (axis, count, channel) in
        [(1, 3, (|i: usize| i / 5 % 3) as fn(usize) -> usize), (2, 5, |i| i % 5), (0, 2, |i| i / 15 % 2)]
    {
        let seen = measure_channels(&runner, &[axis], &samples, &picks(4), &Silent).unwrap();
        let seen = seen.get("y").unwrap();
        assert_eq!((seen.axis, seen.spreads.len()), (axis, count));
        for (c, s) in seen.spreads.iter().enumerate() {
            let own = all.iter().enumerate().filter(|(i, _)| channel(*i) == c).map(|(_, x)| f64::from(x.max(0.0)));
            let own: Vec<f64> = own.collect();
            let mean = own.iter().sum::<f64>() / own.len() as f64;
            let std = (own.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / own.len() as f64).sqrt();
            assert!((s.mean - mean).abs() < 1e-9 && (s.std - std).abs() < 1e-6, "{s:?} {mean} {std}");
            let most = own.iter().fold(0.0, |m: f64, x| m.max(*x));
            assert_eq!((s.min, s.max), (own.iter().fold(f64::INFINITY, |m, x| m.min(*x)), most));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let again = pool.install(|| measure_channels(&runner, &[axis], &samples, &picks(4), &Silent).unwrap());
        assert_eq!(again.get("y"), Some(seen));
    }
    let none = measure_channels(&runner, &[3], &samples, &picks(4), &Silent).unwrap();
    assert!(none.is_empty(), "there is no such axis");
    assert!(measure_channels(&runner, &[], &samples, &picks(4), &Silent).is_err());
    let mut wild = samples.0;
    wild[2].inputs[0] = Tensor::from_f32(vec![2, 3, 5], vec![f32::NAN; 30]);
    let nodes = vec![node("Neg", "x", "y", &[])];
    let float = model(13, &[2, 3, 5], nodes, vec![], &[("y", &[2, 3, 5])]);
    let runner = Runner::new(&Tract, &float, vec!["y".into()]).unwrap();
    assert!(measure_channels(&runner, &[1], &InMemory(wild), &picks(4), &Silent).unwrap().is_empty());
}

/// A layer behind a Relu: `x -> Relu -> r -> layer -> y`.
struct Layer {
    about: &'static str,
    shape: &'static [usize],
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    /// The axis of the channels of `r` and of `y`.
    axes: (usize, usize),
}

fn layers() -> Vec<Layer> {
    let (int, float) = (attribute::int, attribute::float);
    let image: &[usize] = &[1, 6, 5, 5];
    let one = |op: &str, inputs: &str, attributes: &[_]| vec![node(op, inputs, "y", attributes)];
    vec![
        Layer {
            about: "convolution without a bias",
            shape: image,
            nodes: one("Conv", "r w", &[]),
            constants: vec![weights("w", &[4, 6, 1, 1])],
            axes: (1, 1),
        },
        Layer {
            about: "in groups, with a bias",
            shape: image,
            nodes: one("Conv", "r w b", &[int("group", 3)]),
            constants: vec![weights("w", &[6, 2, 1, 1]), weights("b", &[6])],
            axes: (1, 1),
        },
        Layer {
            about: "transposed, in groups",
            shape: image,
            nodes: one("ConvTranspose", "r w b", &[int("group", 2)]),
            constants: vec![weights("w", &[6, 4, 1, 1]), weights("b", &[8])],
            axes: (1, 1),
        },
        Layer {
            about: "gemm with factors",
            shape: &[7, 6],
            nodes: one("Gemm", "r w b", &[int("transB", 1), float("alpha", 0.5), float("beta", 2.0)]),
            constants: vec![weights("w", &[4, 6]), weights("b", &[4])],
            axes: (1, 1),
        },
        Layer {
            about: "gemm with one number for all biases",
            shape: &[7, 6],
            nodes: one("Gemm", "r w b", &[]),
            constants: vec![weights("w", &[6, 4]), floats("b", &[], &[0.25])],
            axes: (1, 1),
        },
        Layer {
            about: "an addition behind a product",
            shape: &[1, 7, 6],
            nodes: vec![node("MatMul", "r w", "p", &[]), node("Add", "b p", "y", &[])],
            constants: vec![weights("w", &[6, 4]), weights("b", &[4])],
            axes: (2, 2),
        },
    ]
}

/// The same model with the weights that the plan rounds.
fn rounded(model: &Model, plan: &Plan) -> Model {
    let mut other = model.clone();
    for (&at, decision) in plan.constants.iter().filter(|(_, d)| d.part == qdq::plan::Part::Weight) {
        let weight = model.graph.constant(&decision.initializer).unwrap().unwrap();
        let mut x = weight.f32s().unwrap().into_owned();
        fake_quantize(&mut x, weight.shape(), &decision.params).unwrap();
        let weight = Tensor::from_f32(weight.shape().to_vec(), x);
        other.graph.give_constant(at, "rounded", &weight).unwrap();
    }
    other
}

fn channels_of(model: &Model, value: &str, axis: usize, samples: &dyn Samples) -> Channels {
    let runner = Runner::new(&Tract, model, vec![value.into()]).unwrap();
    let all = picks(samples.len());
    measure_channels(&runner, &[axis], samples, &all, &Silent).unwrap().get(value).unwrap().clone()
}

#[test]
fn a_corrected_bias_takes_the_error_of_the_mean_away() {
    for Layer { about, shape, mut nodes, constants, axes } in layers() {
        let samples = noise_samples(shape, 10);
        nodes.insert(0, node("Relu", "x", "r", &[]));
        let mut float = model(13, shape, nodes, constants, &[]).to_proto();
        float.graph.as_mut().unwrap().output.push(common::value("y", None));
        let float = Model::from_proto(float).unwrap();
        let runner = Runner::new(&Tract, &float, watch_list(&float.graph).unwrap()).unwrap();
        let ranges =
            qdq::calibrate::calibrate(&runner, &samples, &picks(10), qdq::calibrate::Keep::Extremes, &Silent).unwrap();
        for weights in [Format::INT8, Format::UINT8] {
            let policy = Policy { weights, per_channel: false, ..Policy::of(&ORT_CPU) };
            let plan = Plan::decide(&float.graph, &ranges, &policy).unwrap();
            let mut corrected = float.clone();
            let mut cx = Context::new(Some(&Tract), &Silent);
            cx.statistics.insert("r", channels_of(&float, "r", axes.0, &samples));
            let changed = pass::run(&CorrectBias { plan: &plan }, &mut corrected, &mut cx).unwrap();
            assert_eq!(changed, 1, "{about}: {:?}", cx.skipped);
            let right = channels_of(&float, "y", axes.1, &samples);
            let errors = |model: &Model| {
                let found = channels_of(&rounded(model, &plan), "y", axes.1, &samples);
                let errors: Vec<f64> =
                    found.spreads.iter().zip(&right.spreads).map(|(a, b)| (a.mean - b.mean).abs()).collect();
                errors.iter().fold(0.0, |m: f64, e| m.max(*e))
            };
            let (before, after) = (errors(&float), errors(&corrected));
            assert!(before > 1e-4 && after < 2e-6, "{about} {}: {before:e} {after:e}", weights.name);
        }
    }
}

#[test]
fn what_cannot_be_corrected_says_why() {
    let run = |nodes, constants, shape: &[usize], known: Option<&str>| {
        let mut float = model(13, shape, nodes, constants, &[]).to_proto();
        float.graph.as_mut().unwrap().output.push(common::value("y", None));
        let mut float = Model::from_proto(float).unwrap();
        let samples = noise_samples(shape, 3);
        let runner = Runner::new(&Tract, &float, watch_list(&float.graph).unwrap()).unwrap();
        let keep = qdq::calibrate::Keep::Extremes;
        let ranges = qdq::calibrate::calibrate(&runner, &samples, &picks(3), keep, &Silent).unwrap();
        let plan = Plan::decide(&float.graph, &ranges, &Policy::of(&ORT_CPU)).unwrap();
        let mut cx = Context::new(Some(&Tract), &Silent);
        if let Some(value) = known {
            cx.statistics.insert(value, channels_of(&float, value, shape.len() - 1, &samples));
        }
        assert_eq!(pass::run(&CorrectBias { plan: &plan }, &mut float, &mut cx).unwrap(), 0);
        cx.skipped[0].reason.clone()
    };
    let w = || vec![weights("w", &[6, 4])];
    let relu = || node("Relu", "x", "r", &[]);
    let product = || vec![relu(), node("MatMul", "r w", "y", &[])];
    assert_eq!(run(product(), w(), &[7, 6], None), "nothing is known of the mean of `r`");
    assert_eq!(run(product(), w(), &[7, 6], Some("r")), "`y` is read elsewhere too");
    let scaled = vec![relu(), node("MatMul", "r w", "p", &[]), node("Neg", "p", "y", &[])];
    assert_eq!(run(scaled, w(), &[7, 6], Some("r")), "nothing is added behind it");
}

/// A small network of normalized layers, with a residual sum and depthwise layers whose channels differ a hundredfold.
fn network() -> Model {
    let mut nodes = Vec::new();
    let mut constants = vec![weights("head_w", &[10, 16]), weights("head_b", &[10])];
    let mut layer = |name: &str, from: &str, shape: &[usize; 4], group: i64, relu: bool| {
        let count = shape[0];
        let spread: Vec<f32> = common::noise(count as u64, count).iter().map(|x| 10f32.powf(*x)).collect();
        let pads = vec![shape[2] as i64 / 2; 4];
        let s = |end: &str| format!("{name}_{end}");
        nodes.push(node(
            "Conv",
            &format!("{from} {}", s("w")),
            &s("c"),
            &[attribute::int("group", group), attribute::ints("pads", &pads)],
        ));
        let out = if relu { s("n") } else { name.to_owned() };
        let inputs = format!("{} {} {} {} {}", s("c"), s("g"), s("b"), s("m"), s("v"));
        nodes.push(node("BatchNormalization", &inputs, &out, &[]));
        if relu {
            nodes.push(node("Relu", &out, name, &[]));
        }
        constants.push(weights(&s("w"), shape));
        constants.push(floats(&s("g"), &[count], &spread));
        constants.push(floats(&s("b"), &[count], &spread.iter().map(|x| x * 0.5).collect::<Vec<_>>()));
        constants.push(floats(&s("m"), &[count], &vec![0.0; count]));
        constants.push(floats(&s("v"), &[count], &vec![1.0; count]));
    };
    layer("stem", "x", &[16, 3, 3, 3], 1, true);
    layer("deep", "stem", &[16, 1, 3, 3], 16, true);
    layer("flat", "deep", &[16, 16, 1, 1], 1, false);
    layer("side", "stem", &[16, 16, 1, 1], 1, false);
    nodes.push(node("Add", "flat side", "sum", &[]));
    nodes.push(node("Relu", "sum", "cut", &[]));
    nodes.push(node("GlobalAveragePool", "cut", "pool", &[]));
    nodes.push(node("Flatten", "pool", "vector", &[]));
    nodes.push(node("Gemm", "vector head_w head_b", "y", &[attribute::int("transB", 1)]));
    let mut network = model(13, &[1, 3, 16, 16], nodes, constants, &[("y", &[1, 10])]);
    // Training: every normalization takes the mean and variance of what comes in.
    let samples = normal_samples(&[1, 3, 16, 16], 24);
    for name in ["stem", "deep", "flat", "side"] {
        let seen = channels_of(&network, &format!("{name}_c"), 1, &samples).spreads;
        let list = |end: &str, of: fn(&Spread) -> f64| {
            floats(&format!("{name}_{end}"), &[seen.len()], &seen.iter().map(|s| of(s) as f32).collect::<Vec<_>>())
        };
        network.graph.set_initializer(list("m", |s| s.mean));
        network.graph.set_initializer(list("v", |s| s.std * s.std));
    }
    network
}

fn data_free(model: &Model, given: &[(&str, f32, f32)], policy: Policy) -> qdq::error::Result<Quantized> {
    let given: BTreeMap<String, Range> =
        given.iter().map(|&(name, low, high)| (name.to_owned(), Range::new(low, high).unwrap())).collect();
    let samples = normal_samples(&[1, 3, 16, 16], 8);
    quantize_from(model, Source::Statistics(&given, Some(&samples)), &Recipe { policy }, &Tract, &Silent)
}

#[test]
fn a_model_is_quantized_by_its_normalizations() {
    let float = network();
    let policy = |steps, per_channel| Policy { steps, per_channel, ..Policy::of(&ORT_CPU) };
    let input = [("x", -4.5f32, 4.5f32)];
    let db = |steps, per_channel| {
        let made = data_free(&float, &input, policy(steps, per_channel)).unwrap();
        assert!(made.report.counts.quantized > 5, "{:?}", made.report.nodes);
        made.report.outputs[0].sqnr_db.unwrap()
    };
    let (plain, better) = (db(Steps::NONE, false), db(Steps::default(), false));
    assert!(better > plain + 3.0 && better > 20.0, "{plain} {better}");
    let (plain, better) = (db(Steps::NONE, true), db(Steps::default(), true));
    assert!(better > plain && better > 20.0, "{plain} {better}");
}

#[test]
fn the_first_value_without_statistics_is_named() {
    let default = || Policy { steps: Steps::NONE, ..Policy::of(&ORT_CPU) };
    let nodes = vec![
        node("Relu", "a", "r", &[]),
        node("Conv", "r v", "h", &[]),
        node("Relu", "h", "k", &[]),
        node("Conv", "k w", "l", &[]),
        node("Conv", "l u", "y", &[]),
    ];
    let constants = vec![weights("v", &[4, 3, 1, 1]), weights("w", &[5, 4, 1, 1]), weights("u", &[2, 5, 1, 1])];
    let mut proto = normalized(nodes, constants).to_proto();
    proto.graph.as_mut().unwrap().output = vec![common::value("y", Some(&[1, 2, 64, 64]))];
    let unknown = Model::from_proto(proto).unwrap();
    let given = BTreeMap::from([("x".to_owned(), Range::new(-4.5, 4.5).unwrap())]);
    let without_data = |policy| {
        let source = Source::Statistics(&given, None);
        quantize_from(&unknown, source, &Recipe { policy }, &Tract, &Silent)
    };
    let e = without_data(default()).unwrap_err();
    assert_eq!(e.to_string(), "node `k_node` (Relu): nothing tells the range of `k`");
    let exclude = qdq::plan::Patterns::new(&["h_node".into(), "l_node".into(), "y_node".into()]).unwrap();
    let made = without_data(Policy { exclude, ..default() }).unwrap();
    assert!(made.report.outputs.is_empty() && made.report.counts.quantized > 0);

    let float = network();
    let e = data_free(&float, &[("z", -1.0, 1.0)], default()).unwrap_err();
    assert_eq!(e.to_string(), "the model has no input `z`");
    // Without the range of the input, what reads it stays float.
    let made = data_free(&float, &[], default()).unwrap();
    assert!(made.report.warnings.iter().any(|w| w.contains("the input `x`")), "{:?}", made.report.warnings);
    let stem = made.report.nodes.iter().find(|n| n.node == "stem_c_node").unwrap();
    assert_eq!(stem.verdict, "float");
}

#[test]
fn ranges_end_where_normalizations_let_them_end() {
    let float = network();
    // One sample of many has a pixel far out.
    let mut samples = normal_samples(&[1, 3, 16, 16], 30);
    let mut x = samples.0[5].inputs[0].f32s().unwrap().into_owned();
    x[100] = 400.0;
    samples.0[5].inputs[0] = Tensor::from_f32(vec![1, 3, 16, 16], x);
    let range = |limit_ranges| {
        let policy = Policy { steps: Steps { limit_ranges, ..Steps::NONE }, ..Policy::of(&ORT_CPU) };
        let source = Source::Samples(&samples);
        let made = quantize_from(&float, source, &Recipe { policy }, &Tract, &Silent).unwrap();
        (made.plan.values["stem"].range.max(), made.report.outputs[0].sqnr_db.unwrap())
    };
    let (on, off) = (range(Switch::On), range(Switch::Off));
    // The widest channel: its bias and six times its gain.
    let widest = common::noise(16, 16).iter().map(|x| 6.5 * 10f32.powf(*x)).fold(0.0, f32::max);
    assert!((on.0 / widest - 1.0).abs() < 1e-3 && off.0 > 2.0 * widest, "{on:?} {off:?} {widest}");
    assert!(on.1 > off.1 + 3.0, "{on:?} {off:?}");
}

#[test]
fn steps_that_change_values_do_not_go_with_ranges_learned_before() {
    let float = network();
    let samples = normal_samples(&[1, 3, 16, 16], 8);
    let policy = Policy::of(&ORT_CPU);
    let file = qdq::quantize::learn_ranges(&float, &samples, Share::ALL, &policy, &Tract, &Silent).unwrap();
    let with = |steps| {
        let recipe = Recipe { policy: Policy { steps, ..policy.clone() } };
        quantize_from(&float, Source::Ranges(&file, None), &recipe, &Tract, &Silent)
    };
    with(Steps::default()).unwrap();
    let equalize = Steps { equalize: Switch::On, ..Steps::default() };
    let absorb = Steps { absorb_bias: Switch::On, ..Steps::default() };
    for steps in [equalize, absorb] {
        assert!(with(steps).unwrap_err().to_string().contains("learned before"));
    }
}

#[test]
fn the_network_of_these_tests_keeps_its_function_through_every_step_without_rounding() {
    let float = network();
    let samples = normal_samples(&[1, 3, 16, 16], 4);
    let mut prepared = float.clone();
    let mut cx = Context::new(Some(&Tract), &Silent);
    prepare(&mut prepared, 13, &mut cx).unwrap();
    let known: Statistics = cx.statistics.clone();
    assert!(known.get("flat").is_some() && known.get("stem_n").is_some());
    let shapes = Tract.shapes(&prepared).unwrap();
    let equalize = pass::Equalize { shapes: &shapes, per_channel: false, bounds: pass::Bounds::Exact };
    assert!(pass::run(&equalize, &mut prepared, &mut cx).unwrap() > 0);
    assert!(difference(&float, &prepared, &samples) < 1e-5);
    // What holds other numbers has another name, so that nobody compares the two.
    assert!(prepared.graph.producer("stem").is_none() && prepared.graph.producer("stem_scaled").is_some());
    assert!(cx.statistics.get("stem_n").is_none() && cx.statistics.get("stem_n_scaled").is_some());
}
