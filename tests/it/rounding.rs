//! Codes of weights chosen by what they do to outputs: what is foretold from second moments is what the layer does.

use crate::common::{InMemory, emit, floats, model, model_of, node, noise, samples_of};
use qdq::events::Silent;
use qdq::exec::{Runner, Tract};
use qdq::model::{AttributeProto, Model, Tensor, attribute};
use qdq::number::Format;
use qdq::plan::{Policy, Switch};
use qdq::quantize::{Quantized, Recipe, quantize, quantize_weights};
use qdq::round::{AdaRoundOptions, Rounding};
use qdq::sample::{Sample, Samples};
use qdq::target::ORT_CPU;
use qdq::validate::{Questions, validate};

/// A model of one layer, and the shape of its input.
struct Layer {
    about: &'static str,
    op: &'static str,
    attributes: Vec<AttributeProto>,
    input: &'static [usize],
    weight: &'static [usize],
    bias: Option<usize>,
    output: &'static [usize],
}

impl Layer {
    fn model(&self) -> Model {
        let size = self.weight.iter().product();
        let weight: Vec<f32> = noise(7, size).iter().map(|x| 0.3 * x * x * x).collect();
        let mut constants = vec![floats("w", self.weight, &weight)];
        let behind = self.op == "MatMul" && self.bias.is_some();
        let inputs = if self.bias.is_some() && !behind { "x w b" } else { "x w" };
        if let Some(channels) = self.bias {
            constants.push(floats("b", &[channels], &noise(8, channels)));
        }
        let mut nodes = vec![node(self.op, inputs, if behind { "z" } else { "y" }, &self.attributes)];
        if behind {
            nodes.push(node("Add", "z b", "y", &[]));
        }
        model(17, self.input, nodes, constants, &[("y", self.output)])
    }

    /// Samples whose numbers are far from independent, and not around zero.
    fn samples(&self, count: usize) -> InMemory {
        let size: usize = self.input.iter().product();
        let sample = |i| {
            let x = noise(100 + i as u64, size + 2);
            let x = (0..size).map(|j| (x[j] + 0.7 * x[j + 1] + 0.5 * x[j + 2] + 0.4).max(-0.3)).collect();
            Sample { inputs: vec![Tensor::from_f32(self.input.to_vec(), x)] }
        };
        InMemory((0..count).map(sample).collect())
    }
}

fn layers() -> Vec<Layer> {
    let ints = attribute::ints;
    let int = attribute::int;
    let layer = |about, op, attributes, input, weight, bias, output| Layer {
        about,
        op,
        attributes,
        input,
        weight,
        bias,
        output,
    };
    vec![
        layer("a kernel of one", "Conv", vec![], &[1, 6, 5, 4], &[8, 6, 1, 1], None, &[1, 8, 5, 4]),
        layer("pads", "Conv", vec![ints("pads", &[1, 0, 2, 1])], &[1, 3, 6, 5], &[4, 3, 3, 2], None, &[1, 4, 7, 5]),
        layer("strides", "Conv", vec![ints("strides", &[2, 3])], &[1, 3, 8, 9], &[4, 3, 2, 2], None, &[1, 4, 4, 3]),
        layer(
            "strides, pads and dilations",
            "Conv",
            vec![ints("strides", &[2, 1]), ints("dilations", &[1, 2]), ints("pads", &[1, 2, 1, 2])],
            &[1, 2, 7, 8],
            &[4, 2, 3, 3],
            Some(4),
            &[1, 4, 4, 8],
        ),
        layer("groups", "Conv", vec![int("group", 2)], &[1, 6, 5, 5], &[4, 3, 3, 3], Some(4), &[1, 4, 3, 3]),
        layer(
            "depthwise",
            "Conv",
            vec![int("group", 6), ints("pads", &[1, 1, 1, 1])],
            &[2, 6, 5, 5],
            &[6, 1, 3, 3],
            Some(6),
            &[2, 6, 5, 5],
        ),
        layer(
            "the same size, the odd one behind",
            "Conv",
            vec![attribute::string("auto_pad", "SAME_UPPER"), ints("strides", &[2, 2])],
            &[1, 3, 7, 8],
            &[4, 3, 4, 3],
            None,
            &[1, 4, 4, 4],
        ),
        layer(
            "the same size, the odd one in front",
            "Conv",
            vec![attribute::string("auto_pad", "SAME_LOWER"), ints("strides", &[1, 2])],
            &[1, 3, 6, 8],
            &[4, 3, 2, 4],
            None,
            &[1, 4, 6, 4],
        ),
        layer(
            "a signal",
            "Conv",
            vec![ints("pads", &[2, 1]), ints("strides", &[2])],
            &[1, 4, 9],
            &[3, 4, 4],
            Some(3),
            &[1, 3, 5],
        ),
        layer(
            "taps side by side",
            "ConvTranspose",
            vec![ints("strides", &[2, 2])],
            &[1, 4, 4, 3],
            &[4, 3, 2, 2],
            None,
            &[1, 3, 8, 6],
        ),
        layer(
            "taps in groups",
            "ConvTranspose",
            vec![ints("strides", &[2, 2]), int("group", 2)],
            &[1, 6, 3, 4],
            &[6, 2, 2, 2],
            None,
            &[1, 4, 6, 8],
        ),
        layer("columns", "MatMul", vec![], &[2, 5, 12], &[12, 6], None, &[2, 5, 6]),
        layer("columns and a sum", "MatMul", vec![], &[5, 12], &[12, 6], Some(6), &[5, 6]),
        layer("columns of Gemm", "Gemm", vec![], &[4, 10], &[10, 5], Some(5), &[4, 5]),
        layer("rows of Gemm", "Gemm", vec![int("transB", 1)], &[4, 10], &[5, 10], None, &[4, 5]),
        layer("an input of columns", "Gemm", vec![int("transA", 1)], &[10, 4], &[10, 5], None, &[4, 5]),
    ]
}

fn policy(format: Format, rounding: Rounding) -> Policy {
    Policy { weights: format, rounding, ..Policy::of(&ORT_CPU) }
}

fn quantized(model: &Model, samples: &dyn Samples, policy: &Policy) -> Quantized {
    quantize_weights(model, policy, Some((samples, &Tract)), None, &Silent).unwrap()
}

fn db(found: &Quantized) -> f64 {
    found.report.outputs[0].sqnr_db.unwrap()
}

#[test]
fn the_error_that_is_foretold_is_that_of_the_layer() {
    for layer in layers() {
        // Few samples calibrate and verify.
        let (model, samples) = (layer.model(), layer.samples(6));
        let nearest = quantized(&model, &samples, &policy(Format::INT4, Rounding::Nearest));
        for corrects in [Switch::Off, Switch::Auto] {
            for block in [None, std::num::NonZeroUsize::new(2)] {
                let mut policy = policy(Format::INT4, Rounding::AUTO);
                (policy.steps.correct_bias, policy.block_size) = (corrects, block);
                let found = quantized(&model, &samples, &policy);
                let [row] = &found.report.rounding[..] else { panic!("{}: {:?}", layer.about, found.report.rounding) };
                let (before, after) = (row.before.unwrap(), row.after.unwrap());
                assert!(after < before, "{}: {row:?}", layer.about);
                if block.is_none() {
                    assert!(db(&found) > db(&nearest), "{}: {} dB", layer.about, db(&found));
                }
                // The output has a bias, the products have none: the errors are the same.
                if layer.bias.is_none() {
                    let foretold = -10.0 * after.log10();
                    assert!((db(&found) - foretold).abs() < 0.01, "{}: {} dB, not {foretold}", layer.about, db(&found));
                }
            }
        }
    }
}

#[test]
fn a_bias_makes_good_what_is_left_of_the_mean() {
    for layer in layers().into_iter().filter(|l| l.bias.is_some()) {
        let (model, samples) = (layer.model(), layer.samples(8));
        let with = |correct_bias| {
            let mut policy = policy(Format::INT3, Rounding::Descent);
            policy.steps.correct_bias = correct_bias;
            db(&quantized(&model, &samples, &policy))
        };
        let (on, off) = (with(Switch::Auto), with(Switch::Off));
        assert!(on > off, "{}: {on} dB, {off} without", layer.about);
    }
}

#[test]
fn codes_of_few_samples_are_good_for_others() {
    let layer = Layer {
        about: "more columns than patches",
        op: "MatMul",
        attributes: vec![],
        input: &[2, 48],
        weight: &[48, 16],
        bias: None,
        output: &[2, 16],
    };
    let (model, few, others) = (layer.model(), layer.samples(8), InMemory(layer.samples(120).0.split_off(8)));
    let on_others = |rounding| {
        let found = quantized(&model, &few, &policy(Format::INT4, rounding));
        let seen = validate(&model, &found.model, &others, &Questions::default(), &Tract, &Silent).unwrap();
        (seen.outputs[0].sqnr_db.unwrap(), found.report.rounding.first().map(|row| row.shrinkage))
    };
    let (nearest, _) = on_others(Rounding::Nearest);
    for rounding in [Rounding::Descent, Rounding::Gptq(Default::default()), Rounding::AUTO] {
        let (chosen, shrinkage) = on_others(rounding);
        assert!(shrinkage.unwrap() > 0.0, "{rounding}");
        assert!(chosen > nearest + 1.0, "{rounding}: {chosen} dB, nearest {nearest}");
    }
}

/// Three layers in a row, the first of which makes many numbers of few: what one loses can be seen in the others.
fn deep() -> (Model, Samplings) {
    let weight = |name, seed, rows: usize, columns: usize| {
        let x: Vec<f32> = noise(seed, rows * columns).iter().map(|x| 0.4 * x).collect();
        floats(name, &[rows, columns], &x)
    };
    let constants =
        vec![weight("u", 1, 8, 48), weight("v", 2, 48, 48), weight("w", 3, 48, 12), floats("b", &[48], &noise(4, 48))];
    let nodes = vec![
        node("Gemm", "x u b", "h", &[]),
        node("Relu", "h", "r", &[]),
        node("MatMul", "r v", "g", &[]),
        node("Relu", "g", "s", &[]),
        node("MatMul", "s w", "y", &[]),
    ];
    let sample = |i: u64| Sample { inputs: vec![Tensor::from_f32(vec![4, 8], noise(1000 + i, 4 * 8))] };
    (
        model(17, &[4, 8], nodes, constants, &[("y", &[4, 12])]),
        Box::new(move |span| InMemory(span.map(sample).collect())),
    )
}

/// Makes samples with these numbers.
type Samplings = Box<dyn Fn(std::ops::Range<u64>) -> InMemory>;

fn in_stages(stages: usize) -> Policy {
    Policy { stages: std::num::NonZeroUsize::new(stages), ..policy(Format::INT3, Rounding::AUTO) }
}

#[test]
fn layers_make_good_what_those_before_them_lost() {
    let (model, samples) = deep();
    let others = samples(5000..5100);
    let on_others = |model_of: &Model| {
        let seen = validate(&model, model_of, &others, &Questions::default(), &Tract, &Silent).unwrap();
        seen.outputs[0].sqnr_db.unwrap()
    };
    for mode in ["weights", "static"] {
        let with = |stages: usize, count: u64| {
            let (policy, samples) = (in_stages(stages), samples(0..count));
            let found = match mode {
                "weights" => quantized(&model, &samples, &policy),
                _ => quantize(&model, &samples, &Recipe { policy }, &Tract, &Silent).unwrap(),
            };
            let order: Vec<String> = found.report.rounding.iter().map(|row| row.node.clone()).collect();
            assert_eq!(order.len(), 3, "{order:?}");
            let retargeted: Vec<f64> = found.report.rounding.iter().map(|row| row.retargeted).collect();
            (on_others(&found.model), retargeted)
        };
        let (at_once, none) = with(0, 80);
        assert_eq!(none, [0.0; 3]);
        let (by_depth, parts) = with(3, 80);
        assert!(by_depth > at_once + 0.3, "{mode}: {by_depth} dB one after the other, {at_once} at once");
        assert!(parts[1] > 0.0 && parts[2] > 0.0, "{mode}: {parts:?}");
        // Few samples do no harm.
        for count in [1, 2, 3, 6] {
            let (at_once, by_depth) = (with(0, count).0, with(3, count).0);
            assert!(by_depth > at_once - 0.5, "{mode}, {count} samples: {by_depth} dB, {at_once} at once");
        }
    }
}

#[test]
fn every_method_and_format_is_better_than_the_nearest_codes() {
    let layer = &layers()[1];
    let (model, samples) = (layer.model(), layer.samples(8));
    let methods = [
        Rounding::Stochastic { tries: 50, seed: 1 },
        Rounding::AdaRound(AdaRoundOptions::DEFAULT),
        Rounding::Gptq(Default::default()),
        Rounding::Descent,
        Rounding::AUTO,
    ];
    let formats = [Format::INT2, Format::UINT2, Format::INT3, Format::INT4, Format::UINT4, Format::INT8, Format::UINT8];
    for format in formats {
        for format in [format, format.widened()] {
            let nearest = db(&quantized(&model, &samples, &policy(format, Rounding::Nearest)));
            for method in methods {
                for per_channel in [true, false] {
                    let policy = Policy { per_channel, ..policy(format, method) };
                    let found = quantized(&model, &samples, &policy);
                    let row = &found.report.rounding[0];
                    assert!(row.after <= row.before, "{method} {}", format.name);
                    assert!(
                        !per_channel || db(&found) > nearest,
                        "{method} {}: {}, {nearest}",
                        format.name,
                        db(&found)
                    );
                }
            }
        }
    }
}

#[test]
fn threads_do_not_matter() {
    for layer in layers() {
        let (model, samples) = (layer.model(), layer.samples(9));
        let bytes = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let policy = policy(Format::UINT4, Rounding::AUTO);
            pool.install(|| quantized(&model, &samples, &policy).model.to_bytes().unwrap())
        };
        let one = bytes(1);
        assert!(one == bytes(2) && one == bytes(5), "{}", layer.about);
    }
    let (model, samples) = deep();
    let samples = samples(0..9);
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| quantized(&model, &samples, &in_stages(2)).model.to_bytes().unwrap())
    };
    let one = bytes(1);
    assert!(one == bytes(2) && one == bytes(5), "stages");
}

#[test]
fn few_bits_run_in_other_runtimes() {
    // The least SQNR in dB with weights of 4 bits; with 2 bits little is left, but it runs.
    let models = [
        ("digits/model.onnx", "digits/calib.npz", "small/safetensors/digits.safetensors", 12.0),
        ("small/transformer/model.onnx", "small/transformer/data.npz", "small/transformer/data.npz", 8.0),
    ];
    let formats = [Format::INT4, Format::UINT4, Format::INT4.widened(), Format::UINT3, Format::INT2.widened()];
    for (path, calib, eval, least) in models {
        let float = model_of(path);
        let (calib, eval) = (samples_of(calib, &float), samples_of(eval, &float));
        for (i, format) in formats.into_iter().enumerate() {
            for block in [None, std::num::NonZeroUsize::new(8)] {
                let policy = Policy { block_size: block, ..policy(format, Rounding::AUTO) };
                let made = [
                    quantize(&float, calib.as_ref(), &Recipe { policy: policy.clone() }, &Tract, &Silent).unwrap(),
                    quantized(&float, calib.as_ref(), &policy),
                ];
                for (made, mode) in made.iter().zip(["static", "weights"]) {
                    let found =
                        validate(&float, &made.model, eval.as_ref(), &Questions::default(), &Tract, &Silent).unwrap();
                    let db = found.outputs.iter().filter_map(|o| o.sqnr_db).fold(f64::INFINITY, f64::min);
                    let name = format!(
                        "{}_{mode}_{}_{i}_{}",
                        path.split('/').rev().nth(1).unwrap(),
                        format.name,
                        block.is_some()
                    );
                    assert!(db > if format.bits == 4 { least } else { 1.0 }, "{name}: {db:.2} dB");
                    emit(&name, &float, &made.model, eval.as_ref(), &found.outputs);
                }
            }
        }
    }
}

#[test]
fn a_part_of_a_model_makes_what_the_whole_makes() {
    let (model, samples) = deep();
    let sample = samples(0..1).get(0).unwrap();
    let watch = || vec!["h".to_owned(), "x".to_owned(), "r".to_owned()];
    let seen = |runner: Runner<'_>| {
        let mut seen = vec![Vec::new(); 3];
        let outputs = runner.worker().run(&sample, &mut |one| seen[one.value] = one.numbers.to_vec()).unwrap();
        (seen, runner.output_names(), outputs.len())
    };
    let (whole, names, _) = seen(Runner::new(&Tract, &model, watch()).unwrap());
    assert_eq!(names, ["y"]);
    let (part, names, count) = seen(Runner::up_to(&Tract, &model, watch()).unwrap());
    assert!(part == whole && part.iter().all(|x| !x.is_empty()));
    // `h` is on the way to it.
    assert_eq!((names, count), (vec!["r".to_owned()], 1));
}
