//! Weights of every format: what is stored natively and portably stands for the same numbers, bit for bit.

use crate::common::{self, InMemory, emit, emit_storage, median_sqnr, model, model_of, node, noise, run, samples_of};
use qdq::error::ErrorKind;
use qdq::events::Silent;
use qdq::exec::{Runner, Tract};
use qdq::model::{Model, Tensor};
use qdq::number::{Format, Grid, WeightFormat, dequantize, fake_quantize};
use qdq::observe::Method;
use qdq::plan::{Emit, Policy, StorageForm};
use qdq::quantize::{Quantized, Recipe, quantize, quantize_weights};
use qdq::round::{Rounding, nearest};
use qdq::sample::Sample;
use qdq::target::{ORT_CPU, TENSORRT, TRACT, onnxruntime_runs};
use qdq::validate::{Questions, validate};

/// Inputs that fill no block of 16, 32 or 64.
const INPUTS: usize = 70;

const OUTPUTS: usize = 6;

/// Two products, whose weights have their inputs along the first and along the last axis.
fn products() -> Model {
    let mut w = noise(1, INPUTS * OUTPUTS);
    // A weight that stands out, one of them small, and a channel of zeros.
    w[7] = 5.0;
    w[8] = 1e-5;
    (0..INPUTS).for_each(|i| w[i * OUTPUTS + 3] = 0.0);
    let v = noise(2, INPUTS * OUTPUTS);
    let nodes =
        vec![node("MatMul", "x w", "y", &[]), node("Gemm", "x v", "z", &[qdq::model::attribute::int("transB", 1)])];
    let constants = vec![common::floats("w", &[INPUTS, OUTPUTS], &w), common::floats("v", &[OUTPUTS, INPUTS], &v)];
    let shape: &[usize] = &[INPUTS, OUTPUTS];
    model(13, &[INPUTS, INPUTS], nodes, constants, &[("y", shape), ("z", shape)])
}

/// Whose products with weights are the weights.
fn identity() -> InMemory {
    let mut x = vec![0.0; INPUTS * INPUTS];
    (0..INPUTS).for_each(|i| x[i * INPUTS + i] = 1.0);
    InMemory(vec![Sample { inputs: vec![Tensor::from_f32(vec![INPUTS, INPUTS], x)] }])
}

fn policy(format: &WeightFormat, storage: StorageForm) -> Policy {
    let mut policy = Policy { storage, ..Policy::of(&ORT_CPU) };
    policy.set_weight_format(format);
    if storage == StorageForm::Portable {
        policy.weights = policy.weights.widened();
    }
    policy
}

fn quantized(float: &Model, policy: &Policy) -> Quantized {
    quantize_weights(float, policy, None, None, &Silent).unwrap()
}

fn bits(x: &[f32]) -> Vec<u32> {
    // A zero may lose its sign in a sum.
    x.iter().map(|x| (x + 0.0).to_bits()).collect()
}

#[test]
fn both_storages_stand_for_the_same_numbers() {
    let (float, samples) = (products(), identity());
    let joined = ["int4/g4", "uint4/g4", "int8/g4", "fp8e4m3/g4", "nf4/g4", "ternary/g4", "kmeans3/g4"];
    for format in WeightFormat::ALL.into_iter().chain(joined.map(|f| f.parse().unwrap())) {
        for clip in [Method::MinMax, Method::Mse(2.0)] {
            let made = [StorageForm::Native, StorageForm::Portable].map(|storage| {
                let policy = Policy { weight_clip: clip, ..policy(&format, storage) };
                quantized(&float, &policy)
            });
            // What codes and parameters of the plan stand for, by the kernels.
            let wanted: Vec<Vec<f32>> = ["w", "v"]
                .iter()
                .map(|name| {
                    let decision = made[0].plan.constants.values().find(|d| &d.initializer == name).unwrap();
                    let w = float.graph.constant(name).unwrap().unwrap();
                    let codes = nearest(&w.f32s().unwrap(), w.shape(), &decision.params).unwrap();
                    let x = dequantize(&codes, w.shape(), &decision.params).unwrap();
                    match *name {
                        "v" => (0..x.len()).map(|i| x[i % OUTPUTS * INPUTS + i / OUTPUTS]).collect(),
                        _ => x,
                    }
                })
                .collect();
            for made in &made {
                let outputs = run(&made.model, &samples);
                for (wanted, got) in wanted.iter().zip(&outputs[0]) {
                    assert_eq!(bits(wanted), bits(&got.f32s().unwrap()), "{format} {clip}");
                }
            }
            if clip == Method::MinMax {
                let name = format!("storage_{}", format.to_string().replace('/', "_"));
                emit_storage(&name, &made[1].model, &made[0].model, &samples, onnxruntime_runs(&format));
            }
        }
    }
}

#[test]
fn chosen_codes_are_no_worse_than_the_nearest() {
    let float = products();
    let sample = |i| Sample { inputs: vec![Tensor::from_f32(vec![INPUTS, INPUTS], noise(i, INPUTS * INPUTS))] };
    let samples = InMemory((10..14).map(sample).collect());
    for name in [
        "mxfp4",
        "nvfp4",
        "nf4",
        "kmeans4",
        "kmeans2/channel",
        "kmeans3/b16",
        "ttq/b16",
        "vsq4",
        "mx6",
        "pow2-4",
        "ternary",
        "ttq",
        "fp8e4m3",
        "int4/b32",
        "int4/g4",
        "uint4/g4",
        "kmeans3/g4",
    ] {
        let format: WeightFormat = name.parse().unwrap();
        for rounding in [Rounding::Descent, Rounding::AUTO, Rounding::Auto { adaround: Some(Default::default()) }] {
            let policy = Policy { rounding, ..policy(&format, StorageForm::Portable) };
            let made = quantize_weights(&float, &policy, Some((&samples, &Tract)), None, &Silent).unwrap();
            assert_eq!(made.report.rounding.len(), 2, "{name}");
            for row in &made.report.rounding {
                assert!(row.after <= row.before, "{name} {rounding}: {row:?}");
            }
            let better = made.report.rounding.iter().any(|r| r.gain_db().is_some_and(|db| db > 0.1));
            assert!(better, "{name} {rounding}: {:?}", made.report.rounding);
        }
    }
}

/// A weight of each output would saturate where its scale is the power of two of the largest. Few samples show it: all others
/// tell whether they paid for making it good.
#[test]
fn weights_that_saturate_are_not_made_good_for_by_all_others() {
    let (rows, inputs, outputs) = (4, 64, 12);
    let mut w: Vec<f32> = noise(5, inputs * outputs).iter().map(|x| 0.7 * x).collect();
    w[9 * outputs..10 * outputs].fill(1.95);
    let constants = vec![common::floats("w", &[inputs, outputs], &w)];
    let float =
        model(13, &[rows, inputs], vec![node("MatMul", "x w", "y", &[])], constants, &[("y", &[rows, outputs])]);
    let sample = |i: u64, rare: bool| {
        let mut x: Vec<f32> = noise(i, rows * inputs).iter().map(|x| 1.7 * x).collect();
        if rare {
            x.iter_mut().for_each(|x| *x = 0.3 * *x + 1.0);
            x.iter_mut().skip(9).step_by(inputs).for_each(|x| *x = 10.0);
        }
        Sample { inputs: vec![Tensor::from_f32(vec![rows, inputs], x)] }
    };
    let shown = InMemory((0..60).map(|i| sample(100 + i, i % 4 == 0)).collect());
    let others = InMemory((0..20).map(|i| sample(200 + i, false)).collect());
    let db = |rounding| {
        let policy = Policy { rounding, ..policy(&"mxfp4".parse().unwrap(), StorageForm::Portable) };
        let made = quantize_weights(&float, &policy, Some((&shown, &Tract)), None, &Silent).unwrap();
        median_sqnr(&float, &made.model, &others)
    };
    let (nearest, chosen) = (db(Rounding::Nearest), db(Rounding::AUTO));
    assert!(chosen > nearest - 0.5, "{chosen} {nearest}");
}

#[test]
fn what_a_target_does_not_run_is_refused() {
    let check = |name: &str, target, storage| {
        let mut policy = Policy { storage, ..Policy::of(target) };
        policy.set_weight_format(&name.parse().unwrap());
        policy.check_formats()
    };
    for (name, target) in [("mxfp4", &*ORT_CPU), ("fp4e2m1", &ORT_CPU), ("nf4", &TENSORRT), ("fp8e4m3", &TRACT)] {
        let e = check(name, target, StorageForm::Native).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage);
        assert!(e.to_string().contains(&format!("does not run `{name}`")), "{e}");
        assert!(e.way_out().unwrap().contains("--storage portable"));
        check(name, target, StorageForm::Portable).unwrap();
    }
    for (name, target) in [("nf4", &*ORT_CPU), ("fp8e4m3", &ORT_CPU), ("vsq4", &ORT_CPU), ("nvfp4", &TENSORRT)] {
        check(name, target, StorageForm::Native).unwrap();
    }
}

#[test]
fn activations_that_are_looked_up_are_those_of_the_kernels() {
    let weights = common::weights("w", &[4, 3]);
    let float = model(13, &[64, 4], vec![node("MatMul", "x w", "y", &[])], vec![weights], &[("y", &[64, 3])]);
    let mut x = noise(3, 256);
    x[..6].copy_from_slice(&[0.0, -0.0, 1e-40, -1e-40, 1.0, -1.0]);
    let samples = InMemory(vec![Sample { inputs: vec![Tensor::from_f32(vec![64, 4], x.clone())] }]);
    for format in Format::POWERS {
        let policy = Policy { activations: format, ..Policy::of(&ORT_CPU) };
        let made = quantize(&float, &samples, &Recipe { policy: policy.clone() }, &Tract, &Silent).unwrap();
        assert_eq!(made.model.opset(), 13);
        assert!(made.model.graph.nodes().all(|(_, n)| n.op_type() != "QuantizeLinear"));
        let params = &made.plan.values["x"].params;
        // Numbers at thresholds, and next to them.
        let thresholds = Grid::of(params, 0).thresholds();
        let near: Vec<f32> = thresholds.iter().flat_map(|&t| [t, t.next_down(), t.next_up()]).collect();
        let mut hard = x.clone();
        near.iter().cycle().zip(&mut hard[8..]).for_each(|(&near, x)| *x = near);
        let sample = Sample { inputs: vec![Tensor::from_f32(vec![64, 4], hard.clone())] };
        let runner = Runner::new(&Tract, &made.model, vec!["x_dequantized".to_owned()]).unwrap();
        let mut seen = Vec::new();
        runner.worker().run(&sample, &mut |s| seen = s.numbers.to_vec()).unwrap();
        fake_quantize(&mut hard, &[64, 4], params).unwrap();
        assert_eq!(bits(&seen), bits(&hard), "{}", format.name);
        let e = Policy { emit: Emit::QOperator { contrib: false }, ..policy }.check_emit().unwrap_err();
        assert!(e.to_string().contains(format.name), "{e}");
    }
    let e = Policy { activations: Format::POWERS[0], ..Policy::of(&TENSORRT) }.check_formats().unwrap_err();
    assert!(e.to_string().contains("takes no activations of pow2-3"), "{e}");
    assert!(e.way_out().unwrap().contains("--target ort-cpu"));
}

#[test]
fn activations_are_floats_of_8_bits_or_have_powers_of_two_as_scales() {
    let float = model_of("digits/model.onnx");
    let samples = samples_of("digits/calib.npz", &float);
    let cases = [
        (&*TENSORRT, Format::E4M3FN, false, 20.0),
        (&TENSORRT, Format::E4M3FN, true, 20.0),
        (&ORT_CPU, Format::UINT8, true, 20.0),
        (&ORT_CPU, Format::INT16, true, 20.0),
        (&ORT_CPU, Format::POWERS[1], false, 4.0),
        (&ORT_CPU, Format::POWERS[5], true, 6.0),
        (&TRACT, Format::POWERS[4], false, 9.0),
    ];
    for (target, format, power, least) in cases {
        let policy = Policy { activations: format, power_activations: power, ..Policy::of(target) };
        policy.check_formats().unwrap();
        let made = quantize(&float, samples.as_ref(), &Recipe { policy }, &Tract, &Silent).unwrap();
        let found = validate(&float, &made.model, samples.as_ref(), &Questions::default(), &Tract, &Silent).unwrap();
        let db = found.outputs[0].sqnr_db.unwrap();
        assert!(db > least, "{} {power}: {db}", format.name);
        for decision in made.plan.values.values() {
            assert_eq!(decision.params.format(), format);
            let whole = decision.params.scales().iter().all(|s| s.to_bits() & 0x7f_ffff == 0);
            assert!(whole || !power, "{:?}", decision.params);
        }
        if format == Format::E4M3FN {
            // ONNX Runtime 1.31 stumbles over a Clip ahead of a QuantizeLinear to float8.
            continue;
        }
        let name = format!("activations_{}{}", format.name, if power { "_power" } else { "" });
        emit(&name, &float, &made.model, samples.as_ref(), &found.outputs);
    }
    let policy = Policy { activations: Format::E4M3FN, calibration: Method::Entropy, ..Policy::of(&ORT_CPU) };
    assert!(policy.check_methods().unwrap_err().to_string().contains("`entropy` chooses ranges of integers"));
}

/// Layers whose output channels lie on each axis there is: convolutions in one group, in two and in one a channel, transposed
/// ones, and products.
fn layers() -> Model {
    let group = |n: i64| qdq::model::attribute::int("group", n);
    let constants = [
        ("conv", vec![6, 4, 3, 3]),
        ("groups", vec![6, 3, 1, 1]),
        ("depthwise", vec![6, 1, 3, 3]),
        ("transposed", vec![6, 7, 2, 2]),
        ("gemm", vec![28, 10]),
        ("turned", vec![9, 10]),
        ("matmul", vec![9, 5]),
    ];
    let constants = constants
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| common::floats(name, shape, &noise(i as u64 + 20, shape.iter().product())))
        .collect();
    let nodes = vec![
        node("Conv", "x conv", "a", &[]),
        node("Conv", "a groups", "b", &[group(2)]),
        node("Conv", "b depthwise", "c", &[group(6)]),
        node("ConvTranspose", "c transposed", "d", &[]),
        node("Flatten", "d", "e", &[]),
        node("Gemm", "e gemm", "f", &[]),
        node("Gemm", "f turned", "g", &[qdq::model::attribute::int("transB", 1)]),
        node("MatMul", "g matmul", "y", &[]),
    ];
    model(13, &[1, 4, 5, 5], nodes, constants, &[("y", &[1, 5])])
}

#[test]
fn joined_channels_have_one_scale_whatever_chooses_it() {
    let float = layers();
    let sample = |i| Sample { inputs: vec![Tensor::from_f32(vec![1, 4, 5, 5], noise(i, 100))] };
    let samples = InMemory((50..70).map(sample).collect());
    // The axis of the channels, and how many there are.
    let lie = [
        ("conv", 0, 6),
        ("groups", 0, 6),
        ("depthwise", 0, 6),
        ("transposed", 1, 7),
        ("gemm", 1, 10),
        ("turned", 0, 9),
        ("matmul", 1, 5),
    ];
    for name in ["int4/g4", "uint4/g4", "int3/g100"] {
        let format: WeightFormat = name.parse().unwrap();
        for clip in [Method::MinMax, Method::Mse(2.0)] {
            for rounding in [Rounding::Nearest, Rounding::AUTO] {
                let policy = Policy { rounding, weight_clip: clip, ..policy(&format, StorageForm::Native) };
                let made = quantize_weights(&float, &policy, Some((&samples, &Tract)), None, &Silent).unwrap();
                made.model.graph.check().unwrap();
                let recipe = made.model.metadata().metadata_props.iter().find(|p| p.key() == "qdq.recipe").unwrap();
                let count = name.split_once('g').unwrap().1;
                assert!(recipe.value().contains(&format!("per {count} channels")), "{}", recipe.value());
                let own = |d: &qdq::plan::ConstantDecision| {
                    let params = &d.params;
                    let pairs: Vec<_> = (0..params.scales().len()).map(|c| params.channel(c)).collect();
                    (params.axis(), pairs)
                };
                for (weight, axis, channels) in lie {
                    let decision = made.plan.constants.values().find(|d| d.initializer == weight).unwrap();
                    let (found, pairs) = own(decision);
                    assert_eq!((found, pairs.len()), (Some(axis), channels), "{name} {weight}");
                    let together = decision.params.joined().get();
                    for group in pairs.chunks(together) {
                        assert!(group.iter().all(|pair| pair == &group[0]), "{name} {weight} {clip}: {pairs:?}");
                    }
                    let groups = pairs.windows(2).filter(|p| p[0] != p[1]).count() + 1;
                    assert_eq!(groups, channels.div_ceil(together), "{name} {weight} {clip}: {pairs:?}");
                }
            }
        }
    }
}

/// More scales are no worse, on the weights of a trained model.
#[test]
fn errors_grow_with_the_channels_that_share_a_scale() {
    let float = model_of("digits/model.onnx");
    let formats: Vec<WeightFormat> =
        ["int4", "int4/g2", "int4/g8", "int4/tensor"].iter().map(|f| f.parse().unwrap()).collect();
    let forecast = qdq::inspect::forecast(&float, &formats).unwrap();
    let db: Vec<f64> = forecast.total.iter().map(|t| t.sqnr_db.unwrap()).collect();
    assert!(db.windows(2).all(|pair| pair[0] > pair[1]), "{db:?}");
    // What is stored is a scale a channel all the same.
    let bits: Vec<f64> = forecast.total.iter().map(|t| t.bits_per_weight).collect();
    assert!(bits[0] == bits[1] && bits[1] == bits[2] && bits[2] > bits[3], "{bits:?}");
}
