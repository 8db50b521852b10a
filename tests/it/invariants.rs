//! The invariants of the crate, each on every fixture.

use crate::common::{self, difference, fixture, model_of, samples_of};
use qdq::error::Result;
use qdq::events::Silent;
use qdq::exec::{Executor, Tract};
use qdq::model::{InputSpec, Linear, Model, NodeExt, ValueInfoProto};
use qdq::pass::{self, Bounds, Context, Effect, Equalize, Pass};
use qdq::plan::Policy;
use qdq::quantize::{Recipe, prepare, quantize};
use qdq::target::ORT_CPU;

/// The models among the fixtures, with samples for each.
const FIXTURES: &[(&str, &str)] = &[
    ("digits/model.onnx", "digits/calib.npz"),
    ("ppocr_cls/model.onnx", "ppocr_cls/calib.npz"),
    ("small/external/model.onnx", "small/external/data.npz"),
    ("small/legacy/model.onnx", "small/legacy/data.npz"),
    ("small/legacy_upsample/model.onnx", "small/legacy_upsample/data.npz"),
    ("small/float16/model.onnx", "small/float16/data.npz"),
    ("small/transformer/model.onnx", "small/transformer/data.npz"),
    ("small/sparse/model.onnx", "small/sparse/data.npz"),
];

#[test]
fn reading_and_writing_an_untouched_model_gives_the_same_bytes() {
    for (name, _) in FIXTURES.iter().filter(|(name, _)| !name.contains("external")) {
        assert!(model_of(name).to_bytes().unwrap() == std::fs::read(fixture(name)).unwrap(), "{name}");
    }
    let Some(zoo) = common::zoo() else { return };
    for entry in std::fs::read_dir(zoo).unwrap() {
        let path = entry.unwrap().path().join("model.onnx");
        if path.is_file() {
            assert!(Model::read(&path).unwrap().to_bytes().unwrap() == std::fs::read(&path).unwrap(), "{path:?}");
        }
    }
}

/// What must not change: names, types and shapes of inputs (those that are not constants) and outputs.
fn interface(model: &Model) -> (Vec<InputSpec>, Vec<ValueInfoProto>) {
    (InputSpec::all(&model.graph).unwrap(), model.graph.outputs().to_vec())
}

#[test]
fn every_exact_pass_keeps_the_interface_and_the_function() {
    for (name, data) in FIXTURES {
        let mut model = model_of(name);
        let samples = samples_of(data, &model);
        let before = interface(&model);
        let mut changed = 0;
        // The float16 model is compared with itself in float32: its own rounding is the difference.
        let tolerance = if name.contains("float16") { 2e-3 } else { 2e-5 };
        for pass in pass::exact(13) {
            let original = model.clone();
            let mut cx = Context::new(Some(&Tract), &Silent);
            changed += pass::run(pass.as_ref(), &mut model, &mut cx).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(interface(&model), before, "{name}: {}", pass.name());
            assert_ne!(pass.effect(), Effect::Lossy);
            let off = difference(&original, &model, samples.as_ref());
            assert!(off <= tolerance, "{name}: {} moves the outputs by {off:e}", pass.name());
            let again = Model::from_bytes(model.to_bytes().unwrap().into()).unwrap();
            assert!(again.to_bytes().unwrap() == model.to_bytes().unwrap());
        }
        assert!(
            changed > 0 || name.contains("external") || name.contains("transformer"),
            "{name}: no pass had anything to do"
        );
    }
}

#[test]
fn equalizing_keeps_the_function() {
    for (name, data) in FIXTURES {
        let original = model_of(name);
        let samples = samples_of(data, &original);
        let mut prepared = original.clone();
        let mut cx = Context::new(Some(&Tract), &Silent);
        prepare(&mut prepared, 13, &mut cx).unwrap();
        for per_channel in [false, true] {
            let mut equal = prepared.clone();
            let shapes = Tract.shapes(&equal).unwrap_or_default();
            let pass = Equalize { shapes: &shapes, per_channel, bounds: Bounds::Exact };
            let changed = pass::run(&pass, &mut equal, &mut cx).unwrap();
            println!("{name} {per_channel} {changed}");
            assert_ne!(pass.effect(), Effect::Lossy);
            assert_eq!(interface(&equal), interface(&prepared), "{name}");
            let off = difference(&prepared, &equal, samples.as_ref());
            assert!(off <= 2e-5, "{name}: equalizing moves the outputs by {off:e}");
        }
    }
}

#[test]
fn raising_to_the_newest_opset_keeps_the_function() {
    for (name, data) in FIXTURES {
        let original = model_of(name);
        let samples = samples_of(data, &original);
        for opset in [13, 21] {
            let mut raised = original.clone();
            prepare(&mut raised, opset, &mut Context::new(Some(&Tract), &Silent)).unwrap();
            assert_eq!(raised.opset(), opset.max(original.opset()), "{name}");
            let off = difference(&original, &raised, samples.as_ref());
            assert!(off <= if name.contains("float16") { 2e-3 } else { 2e-5 }, "{name} at {opset}: {off:e}");
        }
    }
}

#[test]
fn inserting_keeps_the_interface_and_what_it_emits_is_valid() {
    for (name, data) in FIXTURES {
        let model = model_of(name);
        let samples = samples_of(data, &model);
        let recipe = Recipe { policy: Policy::of(&ORT_CPU) };
        let made = quantize(&model, samples.as_ref(), &recipe, &Tract, &Silent).unwrap();
        let written = made.model.clone();
        assert_eq!(interface(&written), interface(&model), "{name}");
        assert!(made.report.outputs.iter().all(|o| !o.broken), "{name}");
        let mut pairs = 0;
        for (_, node) in written.graph.nodes().filter(|(_, n)| Linear::quantizes(n) || Linear::dequantizes(n)) {
            let rank = usize::from(node.int("axis").is_some());
            for slot in [1, 2] {
                let constant = written.graph.initializer(node.input_at(slot).unwrap()).unwrap();
                assert_eq!(constant.dims.len(), rank, "{name}: `{}` of {}", constant.name(), node.label());
            }
            pairs += 1;
        }
        assert!(pairs > 0, "{name}");
    }
}

#[test]
fn the_same_bytes_come_out_whatever_the_number_of_threads() {
    for (name, data) in [FIXTURES[0], FIXTURES[6]] {
        let model = model_of(name);
        let samples = samples_of(data, &model);
        let recipe = Recipe { policy: Policy::of(&ORT_CPU) };
        let outcomes: Vec<_> = [1, 2, 5]
            .iter()
            .map(|&n| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
                let made = pool.install(|| quantize(&model, samples.as_ref(), &recipe, &Tract, &Silent).unwrap());
                (made.model.to_bytes().unwrap(), made.report.outputs)
            })
            .collect();
        assert!(outcomes.windows(2).all(|w| w[0] == w[1]), "{name}");
    }
}

/// Takes out the node that makes the first output, and says that all went well.
struct Breaks;

impl Pass for Breaks {
    fn name(&self) -> &'static str {
        "breaks"
    }

    fn effect(&self) -> Effect {
        Effect::Same
    }

    fn run(&self, model: &mut Model, _: &mut Context<'_>) -> Result<()> {
        let output = model.graph.outputs()[0].name().to_owned();
        let (node, _) = model.graph.producer(&output).unwrap();
        model.graph.remove(node);
        Ok(())
    }
}

#[test]
fn a_pass_that_fails_is_named_and_leaves_the_model_as_it_was() {
    let mut model = model_of("digits/model.onnx");
    let before = model.to_bytes().unwrap();
    let mut cx = Context::new(None, &Silent);
    let broken = pass::run(&Breaks, &mut model, &mut cx).unwrap_err();
    assert_eq!(broken.to_string(), "pass `breaks`: nothing produces the graph output `logits`");
    assert!(model.to_bytes().unwrap() == before);
}
