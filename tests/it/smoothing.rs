//! Channels scaled for weights that alone become codes: the function stays, the codes come nearer, and nobody gets it unasked.

use std::num::NonZeroUsize;

use crate::common::{InMemory, difference, emit, floats, median_sqnr, model, node, noise, weights};
use qdq::events::Silent;
use qdq::exec::{Runner, Tract};
use qdq::model::{DataType, Model, NodeExt, NodeProto, Tensor, TensorProto, attribute};
use qdq::number::Format;
use qdq::pass::{self, CodeNoise, Context, Noise, Smooth};
use qdq::plan::{Patterns, Policy, Switch};
use qdq::quantize::{Quantized, quantize_weights};
use qdq::sample::Sample;
use qdq::target::ORT_CPU;
use qdq::validate::compare;

const CHANNELS: usize = 64;

/// Samples of six rows in which two channels of each 32 are much larger than the others.
fn samples(count: usize) -> InMemory {
    let size = |j: usize| if j % 16 == 3 { 25.0 } else { 0.4 + 0.1 * (j % 5) as f32 };
    let sample = |i| {
        let x = noise(50 + i as u64, 6 * CHANNELS).iter().enumerate().map(|(j, x)| x * size(j % CHANNELS)).collect();
        Sample { inputs: vec![Tensor::from_f32(vec![6, CHANNELS], x)] }
    };
    InMemory((0..count).map(sample).collect())
}

/// A normalization whose output two layers read, and a layer that reads the input.
fn layers(more: Vec<NodeProto>, constants: Vec<TensorProto>) -> Model {
    let gain: Vec<f32> = (0..CHANNELS).map(|j| if j % 16 == 5 { 18.0 } else { 0.6 }).collect();
    let mut nodes = vec![
        node("LayerNormalization", "x gain", "n", &[]),
        node("MatMul", "n w1", "y1", &[]),
        node("Gemm", "n w2", "y2", &[attribute::int("transB", 1)]),
        node("MatMul", "x w3", "y3", &[]),
    ];
    let mut all = vec![
        floats("gain", &[CHANNELS], &gain),
        weights("w1", &[CHANNELS, 40]),
        weights("w2", &[24, CHANNELS]),
        weights("w3", &[CHANNELS, 160]),
    ];
    nodes.extend(more);
    all.extend(constants);
    model(21, &[6, CHANNELS], nodes, all, &[("y1", &[6, 40]), ("y2", &[6, 24]), ("y3", &[6, 160])])
}

fn policy(weights: Format, smooth: Switch) -> Policy {
    let mut policy = Policy { weights, block_size: NonZeroUsize::new(32), ..Policy::of(&ORT_CPU) };
    policy.steps.smooth = smooth;
    policy
}

fn quantized(float: &Model, policy: &Policy) -> Quantized {
    quantize_weights(float, policy, Some((&samples(24), &Tract)), None, &Silent).unwrap()
}

/// The model after the pass alone, how many places it changed, and why it left others.
fn smoothed(float: &Model, policy: &Policy, samples: &InMemory) -> (Model, usize, Vec<String>) {
    let (mut model, mut cx) = (float.clone(), Context::new(Some(&Tract), &Silent));
    let picks: Vec<usize> = (0..samples.0.len()).collect();
    let smooth = Smooth { noise: Noise::Codes(CodeNoise { policy, samples, picks: &picks }) };
    let places = pass::run(&smooth, &mut model, &mut cx).unwrap();
    (model, places, cx.skipped.into_iter().map(|s| s.reason).collect())
}

fn count(model: &Model, op: &str) -> usize {
    model.graph.nodes().filter(|(_, n)| n.is(op)).count()
}

#[test]
fn the_function_stays_and_a_mul_stands_only_where_no_normalization_does() {
    let float = layers(vec![], vec![]);
    for format in [Format::INT4, Format::UINT4] {
        let (after, places, skipped) = smoothed(&float, &policy(format, Switch::On), &samples(12));
        assert_eq!((places, count(&after, "Mul"), skipped.len()), (2, 1, 0), "{skipped:?}");
        assert!(difference(&float, &after, &samples(30)) < 1e-5);
        assert_ne!(float.graph.initializer("gain"), after.graph.initializer("gain"));
    }
}

#[test]
fn codes_come_nearer_on_samples_that_chose_nothing() {
    let float = layers(vec![], vec![]);
    let others = InMemory(samples(60).0.split_off(24));
    for format in [Format::INT4, Format::UINT4] {
        let (off, on) =
            (quantized(&float, &policy(format, Switch::Off)), quantized(&float, &policy(format, Switch::On)));
        let [before, after] = [&off, &on].map(|q| median_sqnr(&float, &q.model, &others));
        assert!(after > before + 3.0, "{}: {before:.2} dB, then {after:.2}", format.name);
        let step = &on.report.steps[0];
        assert_eq!((step.step, step.taken, step.places), ("smooth", true, 2));
        let runner = |model| Runner::new(&Tract, model, Vec::new()).unwrap();
        let picks: Vec<usize> = (0..others.0.len()).collect();
        let drifts = compare(&runner(&float), &runner(&on.model), &others, &picks, &Silent).unwrap();
        emit(&format!("smoothing-{}", format.name), &float, &on.model, &others, &drifts);
    }
}

#[test]
fn nothing_is_scaled_where_it_is_not_asked_for() {
    let float = layers(vec![], vec![]);
    let off = quantized(&float, &policy(Format::INT4, Switch::Off));
    let auto = quantized(&float, &policy(Format::INT4, Switch::Auto));
    assert_eq!(count(&auto.model, "Mul"), 0);
    assert!(auto.report.steps.is_empty());
    assert_eq!(off.model.to_bytes().unwrap(), auto.model.to_bytes().unwrap());
}

#[test]
fn the_bytes_do_not_depend_on_the_threads() {
    let float = layers(vec![], vec![]);
    let made = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| quantized(&float, &policy(Format::UINT4, Switch::On)).model.to_bytes().unwrap())
    };
    let first = made(1);
    assert!([1, 2, 5].into_iter().all(|threads| made(threads) == first));
}

#[test]
fn what_is_read_elsewhere_or_stays_float_or_is_alike_is_left_alone() {
    let on = policy(Format::INT4, Switch::On);
    // Another layer reads the weight.
    let shared = layers(vec![node("MatMul", "x w1", "y4", &[])], vec![]);
    let (after, places, skipped) = smoothed(&shared, &on, &samples(12));
    assert_eq!((places, count(&after, "Mul")), (0, 0), "{skipped:?}");
    assert!(skipped.iter().any(|why| why.contains("`w1` is read elsewhere too")), "{skipped:?}");

    // A table is what the weight is, turned: both are stored once.
    let weight: Vec<f32> = weights_of(&shared, "w3");
    let turned = (0..160 * CHANNELS).map(|i| weight[i % CHANNELS * 160 + i / CHANNELS]).collect::<Vec<_>>();
    let gather = vec![
        node("Cast", "x", "ids", &[attribute::int("to", DataType::Int64 as i64)]),
        node("Gather", "table ids", "rows", &[]),
    ];
    let tied = layers(gather, vec![floats("table", &[160, CHANNELS], &turned)]);
    let (_, places, skipped) = smoothed(&tied, &on, &samples(12));
    assert_eq!(places, 1, "{skipped:?}");
    assert!(skipped.iter().any(|why| why.contains("`w3` is read elsewhere too")), "{skipped:?}");

    // Layers whose weights stay float bear no noise.
    let exclude = Patterns::new(&["y1_node".into(), "y2_node".into()]).unwrap();
    let (after, places, skipped) = smoothed(&layers(vec![], vec![]), &Policy { exclude, ..on.clone() }, &samples(12));
    assert_eq!((places, count(&after, "Mul"), skipped.len()), (1, 1, 1), "{skipped:?}");

    // Channels of one size.
    let even = |i| Sample { inputs: vec![Tensor::from_f32(vec![6, CHANNELS], noise(i, 6 * CHANNELS))] };
    let plain = model(
        21,
        &[6, CHANNELS],
        vec![node("MatMul", "x w", "y", &[])],
        vec![weights("w", &[CHANNELS, 40])],
        &[("y", &[6, 40])],
    );
    let (_, places, skipped) = smoothed(&plain, &on, &InMemory((0..12).map(even).collect()));
    assert_eq!(places, 0);
    assert!(skipped[0].contains("a fifth of the noise"), "{skipped:?}");
}

#[test]
fn it_takes_samples() {
    let refused = quantize_weights(&layers(vec![], vec![]), &policy(Format::INT4, Switch::On), None, None, &Silent);
    let error = refused.unwrap_err();
    assert!(
        error.to_string().contains("`--smooth on`") && error.way_out().is_some_and(|h| h.contains("--data")),
        "{error}"
    );
}

fn weights_of(model: &Model, name: &str) -> Vec<f32> {
    model.graph.constant(name).unwrap().unwrap().f32s().unwrap().into_owned()
}
