//! ONNX Runtime as the engine, beside the embedded one. Runs where ORT_DYLIB_PATH names a library, and says so where not.

use std::path::{Path, PathBuf};
use std::process::Command as System;
use std::sync::LazyLock;

use crate::common::{self, floats, model, model_of, node, noise_samples, samples_of, value, weights};
use crate::desk::{CALIB, DIGITS, Desk, Outcome};
use assert_cmd::Command;
use qdq::calibrate::RangesFile;
use qdq::events::Silent;
use qdq::exec::{Executor, OnnxRuntime, Optimization, Runner, Tract};
use qdq::model::{DataType, GraphProto, Model, ModelProto, Tensor, ValueInfoProto, attribute};
use qdq::number::Format;
use qdq::plan::Policy;
use qdq::proto::{OperatorSetIdProto, TypeProto, type_proto};
use qdq::quantize::{Recipe, learn_ranges, quantize, quantize_weights};
use qdq::sample::{Sample, Samples, Share};
use qdq::target::ORT_CPU;
use qdq::validate::{Questions, Validation, validate};

static LIBRARY: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let named = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()).map(PathBuf::from);
    if named.is_none() {
        eprintln!("skipped: ORT_DYLIB_PATH names no library of ONNX Runtime");
    }
    named
});

/// The engine, where there is a library.
fn engine(optimization: Optimization) -> Option<OnnxRuntime> {
    LIBRARY.as_ref().map(|library| OnnxRuntime::load(library, optimization).unwrap())
}

fn policy() -> Policy {
    Policy::of(&ORT_CPU)
}

fn ranges(model: &Model, samples: &dyn Samples, engine: &dyn Executor) -> RangesFile {
    learn_ranges(model, samples, Share::ALL, &policy(), engine, &Silent).unwrap()
}

/// Fails unless every value has the same range, to within rounding of floats in sums, and none is missing.
fn same_ranges(model: &Model, samples: &dyn Samples, engine: &dyn Executor) {
    let (ours, theirs) = (ranges(model, samples, &Tract), ranges(model, samples, engine));
    assert_eq!(ours.others, theirs.others);
    let names = |r: &RangesFile| r.ranges.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for ((name, a), (_, b)) in ours.ranges.iter().zip(theirs.ranges.iter()) {
        assert_eq!(a.count, b.count, "{name}");
        let (a, b) = (a.range().unwrap(), b.range().unwrap());
        let slack = 1e-4 * (a.max() - a.min()).max(f32::MIN_POSITIVE);
        let near = |a: f32, b: f32| (a - b).abs() <= slack;
        assert!(near(a.min(), b.min()) && near(a.max(), b.max()), "{name}: {a:?} {b:?}");
    }
}

#[test]
fn both_engines_calibrate_alike() {
    let Some(engine) = engine(Optimization::All) else { return };
    let digits = model_of("digits/model.onnx");
    same_ranges(&digits, samples_of("digits/calib.npz", &digits).as_ref(), &engine);
    let Some(zoo) = std::env::var_os("QDQ_ZOO").map(PathBuf::from) else { return };
    let mobilenet = Model::read(&zoo.join("mobilenet_v2_dfq/model.onnx")).unwrap();
    same_ranges(&mobilenet, &noise_samples(&[1, 3, 224, 224], 2), &engine);
}

fn validated(float: &Model, made: &Model, samples: &dyn Samples, engine: &dyn Executor) -> Validation {
    validate(float, made, samples, &Questions::default(), engine, &Silent).unwrap()
}

#[test]
fn both_engines_measure_an_int8_model_alike() {
    let (Some(all), Some(basic)) = (engine(Optimization::All), engine(Optimization::Basic)) else { return };
    let float = model_of("digits/model.onnx");
    let (calib, eval) = (samples_of("digits/calib.npz", &float), samples_of("digits/eval.npz", &float));
    let made = quantize(&float, calib.as_ref(), &Recipe { policy: policy() }, &Tract, &Silent).unwrap().model;
    let ours = validated(&float, &made, eval.as_ref(), &Tract).outputs[0].sqnr_db.unwrap();
    for engine in [&all, &basic] {
        let theirs = validated(&float, &made, eval.as_ref(), engine).outputs[0].sqnr_db.unwrap();
        assert!((ours - theirs).abs() < 0.3, "{ours} {theirs}");
    }
    let questions = Questions { deployed: Some(&all), ..Default::default() };
    let deployed = validate(&float, &made, eval.as_ref(), &questions, &Tract, &Silent).unwrap().deployed.unwrap();
    let nodes = |operator: &str| deployed.rewrites.iter().find(|r| r.operator == operator).map(|r| (r.written, r.run));
    // Every Conv computes on codes: nothing that the emitted model holds keeps it from that.
    assert_eq!((nodes("Conv"), nodes("com.microsoft.QLinearConv")), (Some((11, 0)), Some((0, 11))), "{deployed:?}");
    assert_eq!(deployed.rounding_inputs, 0);
}

/// A layer whose weight is codes of 4 bits in blocks of 32.
fn blocks_of_four_bits() -> (Model, Model) {
    let layers = vec![node("MatMul", "x w", "h", &[]), node("MatMul", "h v", "y", &[])];
    let float = model(21, &[4, 64], layers, vec![weights("w", &[64, 96]), weights("v", &[96, 32])], &[("y", &[4, 32])]);
    let mut policy = policy();
    policy.weights = Format::UINT4;
    policy.block_size = std::num::NonZeroUsize::new(32);
    let made = quantize_weights(&float, &policy, None, None, &Silent).unwrap().model;
    (float, made)
}

#[test]
fn the_rewrite_of_blocks_of_four_bits_is_found() {
    let (Some(all), Some(basic)) = (engine(Optimization::All), engine(Optimization::Basic)) else { return };
    let (float, made) = blocks_of_four_bits();
    let samples = noise_samples(&[4, 64], 8);
    let find = |engine: &OnnxRuntime| {
        let questions = Questions { deployed: Some(engine), ..Default::default() };
        validate(&float, &made, &samples, &questions, &Tract, &Silent).unwrap()
    };
    let found = find(&all);
    let deployed = found.deployed.as_ref().unwrap();
    let rewrites: Vec<_> = deployed.rewrites.iter().map(|r| (r.operator.as_str(), r.written, r.run)).collect();
    assert_eq!(rewrites, [("DequantizeLinear", 2, 0), ("MatMul", 2, 0), ("com.microsoft.MatMulNBits", 0, 2)]);
    assert_eq!(deployed.rounding_inputs, 2);
    // Two layers read codes of 8 bits a block: noise far above that of sums of floats, and far below that of 4 bits.
    let departure = deployed.departures[0].sqnr_db.unwrap();
    assert!((35.0..60.0).contains(&departure), "{departure}");
    let share = deployed.share_of_noise(0, &found.outputs).unwrap();
    assert!((1e-5..0.1).contains(&share), "{share}");
    let told: Vec<String> = found.tables().into_iter().flat_map(|t| t.notes).collect();
    assert!(told.iter().any(|n| n.starts_with("It runs MatMulNBits with accuracy_level 4 (2), ")), "{told:?}");

    let plain = find(&basic).deployed.unwrap();
    assert_eq!((plain.rounding_inputs, plain.rewrites.len()), (0, 0), "{plain:?}");
    assert!(plain.departures[0].exact || plain.departures[0].sqnr_db.unwrap() > 110.0, "{plain:?}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let Some(engine) = engine(Optimization::All) else { return };
    let float = model_of("digits/model.onnx");
    let calib = samples_of("digits/calib.npz", &float);
    let made = quantize(&float, calib.as_ref(), &Recipe { policy: policy() }, &Tract, &Silent).unwrap().model;
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let found = validated(&float, &made, calib.as_ref(), &engine);
            (ranges(&float, calib.as_ref(), &engine).to_json().unwrap(), serde_json::to_string(&found).unwrap())
        })
    };
    let one = on(1);
    assert!(one == on(3) && one == on(7));
}

#[test]
fn both_engines_know_the_same_shapes() {
    let Some(engine) = engine(Optimization::All) else { return };
    for name in ["digits/model.onnx", "ppocr_cls/model.onnx"] {
        let model = model_of(name);
        let (ours, theirs) = (Tract.shapes(&model).unwrap(), engine.shapes(&model).unwrap());
        // Only scalars are left out.
        for (name, known) in ours.iter().filter(|(_, shape)| !shape.is_empty()) {
            let shape = theirs.get(name).unwrap_or_else(|| panic!("`{name}` {known:?} is missing"));
            assert_eq!(known.len(), shape.len(), "{name}");
            let agree = known.iter().zip(shape).all(|(a, b)| a.is_none() || b.is_none() || a == b);
            assert!(agree, "{name}: {known:?} {shape:?}");
        }
    }
}

fn typed(name: &str, dtype: DataType) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(dtype as i32), shape: None };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..Default::default() }
}

#[test]
fn values_of_every_type_go_in_and_come_out() {
    let Some(engine) = engine(Optimization::All) else { return };
    use DataType as T;
    let types = [
        (T::Bool, 1),
        (T::Uint8, 1),
        (T::Uint16, 2),
        (T::Uint32, 4),
        (T::Uint64, 8),
        (T::Int8, 1),
        (T::Int16, 2),
        (T::Int32, 4),
        (T::Int64, 8),
        (T::Float16, 2),
        (T::Bfloat16, 2),
        (T::Float, 4),
        (T::Double, 8),
    ];
    for (dtype, width) in types {
        let graph = GraphProto {
            name: Some("test".into()),
            node: vec![node("Reshape", "x s", "y", &[])],
            initializer: vec![common::ints("s", &[3, 2])],
            input: vec![typed("x", dtype)],
            output: vec![typed("y", dtype)],
            ..Default::default()
        };
        let proto = ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
            graph: Some(graph),
            ..Default::default()
        };
        let reshape = Model::from_proto(proto).unwrap();
        let bytes: Vec<u8> =
            (0..6 * width).map(|i| if dtype == T::Bool { i as u8 % 2 } else { (i as u8).wrapping_mul(37) }).collect();
        let x = Tensor::new(dtype, vec![2, 3], bytes.into()).unwrap();
        let runner = Runner::new(&engine, &reshape, Vec::new()).unwrap();
        let y = runner.worker().outputs(&Sample { inputs: vec![x.clone()] }).unwrap();
        assert_eq!(y, [x.reshaped(vec![3, 2]).unwrap()], "{dtype:?}");
    }
}

#[test]
fn watched_values_are_the_floats_among_those_asked_for() {
    let Some(engine) = engine(Optimization::All) else { return };
    let half = attribute::int("to", DataType::Float16 as i64);
    let nodes = vec![
        node("Add", "x c", "a", &[]),
        node("Cast", "a", "half", &[half]),
        node("Shape", "a", "sizes", &[]),
        node("Relu", "a", "y", &[]),
    ];
    let float = model(17, &[1, 4], nodes, vec![floats("c", &[4], &[0.5, -0.5, 0.25, 0.0])], &[("y", &[1, 4])]);
    let watch = ["x", "c", "a", "half", "sizes", "y", "nowhere"].map(String::from);
    let sample = || Sample { inputs: vec![Tensor::from_f32(vec![1, 4], vec![1.0, -2.0, 3.0, -4.0])] };
    let runner = Runner::new(&engine, &float, watch.to_vec()).unwrap();
    let mut seen = Vec::new();
    let outputs = runner.worker().run(&sample(), &mut |s| seen.push((s.value, s.shape.to_vec(), s.numbers.to_vec())));
    seen.sort_by_key(|s| s.0);
    let a = vec![1.5f32, -2.5, 3.25, -4.0];
    let y = vec![1.5f32, 0.0, 3.25, 0.0];
    let wide = vec![1, 4];
    let expected = [
        (0, wide.clone(), vec![1.0, -2.0, 3.0, -4.0]),
        (1, vec![4], vec![0.5, -0.5, 0.25, 0.0]),
        (2, wide.clone(), a.clone()),
        (3, wide.clone(), a),
        (5, wide.clone(), y.clone()),
    ];
    assert_eq!(seen, expected);
    assert_eq!(outputs.unwrap(), [Tensor::from_f32(wide, y)]);
}

#[test]
fn what_the_engine_refuses_is_an_error_that_names_the_node() {
    let Some(engine) = engine(Optimization::All) else { return };
    let unknown = model(17, &[1, 4], vec![node("NoSuchOperator", "x", "y", &[])], vec![], &[("y", &[1, 4])]);
    let wrong = model(17, &[1, 4], vec![node("Add", "x c", "y", &[])], vec![weights("c", &[3])], &[("y", &[1, 4])]);
    let samples = |n: usize| noise_samples(&[1, n], 1);
    for (model, said) in [(&unknown, "NoSuchOperator"), (&wrong, "y_node")] {
        let runner = Runner::new(&engine, model, Vec::new()).unwrap();
        let e = runner.worker().outputs(&samples(4).0[0]).unwrap_err().to_string();
        assert!(e.starts_with("ONNX Runtime cannot load the model: ") && e.contains(said), "{e}");
    }
    // What shows only with the sample: a shape that the model leaves open.
    let mut open = wrong.to_proto();
    let graph = open.graph.as_mut().unwrap();
    (graph.input, graph.output) = (vec![value("x", None)], vec![value("y", None)]);
    let open = Model::from_proto(open).unwrap();
    let runner = Runner::new(&engine, &open, Vec::new()).unwrap();
    let mut worker = runner.worker();
    let e = worker.outputs(&samples(4).0[0]).unwrap_err().to_string();
    assert!(e.starts_with("ONNX Runtime cannot run the model: ") && e.contains("y_node"), "{e}");
    assert_eq!(worker.outputs(&samples(3).0[0]).unwrap()[0].shape(), [1, 3]);
}

/// `qdq` with that library.
fn with_library(library: &str, args: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qdq"));
    let command = command.current_dir(env!("CARGO_MANIFEST_DIR")).env("ORT_DYLIB_PATH", library);
    let output = command.args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code().unwrap(), data: text(output.stdout), words: text(output.stderr) }
}

#[test]
fn the_command_line_runs_it() {
    let Some(library) = LIBRARY.as_deref().and_then(Path::to_str) else { return };
    let desk = Desk::new();
    let (ranges, out) = (desk.path("ranges.json"), desk.path("out.onnx"));
    let by = ["--engine", "onnxruntime", "--ort-lib", library];
    let calibrated = with_library("", &[&["calibrate", DIGITS, "--data", CALIB, "-o", &ranges][..], &by].concat());
    assert_eq!((calibrated.code, calibrated.data.as_str()), (0, ""), "{}", calibrated.words);
    let quantize = ["quantize", DIGITS, "--data", CALIB, "-o", &out, "--json", "--engine", "onnxruntime"];
    let made = with_library(library, &quantize);
    let facts: serde_json::Value = serde_json::from_str(&made.data).unwrap();
    assert!(facts["engine"].as_str().unwrap().starts_with("ONNX Runtime ("), "{}", made.data);

    let base = ["validate", DIGITS, &out, "--data", "fixtures/digits/eval.npz", "--samples", "50", "--engine", "both"];
    let text = with_library(library, &base);
    assert_eq!((text.code, text.words.as_str()), (0, ""));
    for shown in
        ["\nDeparture of ONNX Runtime (", "`logits` departs from the specification by ", "com.microsoft.QLinearConv"]
    {
        assert!(text.data.contains(shown), "{}", text.data);
    }
    let json = with_library(library, &[&base[..], &["--json"]].concat());
    let facts: serde_json::Value = serde_json::from_str(&json.data).unwrap();
    assert_eq!(facts["engine"], Tract.name());
    assert_eq!(facts["deployed"]["departures"][0]["name"], "logits");
    // A gate holds in both engines.
    let missed = with_library(library, &[&base[..], &["--quiet", "--min-sqnr", "60"]].concat());
    let sentences: Vec<&str> = missed.words.lines().collect();
    assert_eq!((missed.code, sentences.len()), (1, 2), "{}", missed.words);
    assert!(
        sentences[1].starts_with("gate missed: in ONNX Runtime, output `logits` has an SQNR of "),
        "{}",
        missed.words
    );
    // Q/DQ stay where that is asked for.
    let basic = with_library(library, &[&base[..], &["--ort-opt", "basic"]].concat());
    assert!(!basic.data.contains("QLinearConv"), "{}", basic.data);
}

#[test]
fn libraries_that_cannot_be_used_are_told_apart() {
    let desk = Desk::new();
    let out = desk.path("out.json");
    let calibrate = ["calibrate", DIGITS, "--data", CALIB, "-o", &out, "--engine", "onnxruntime"];
    let refused = |library: &str, said: &str| {
        let outcome = with_library(library, &calibrate);
        assert_eq!((outcome.code, outcome.data.as_str()), (2, ""), "{}", outcome.words);
        assert!(outcome.words.contains(said) && outcome.words.contains("\nhint: "), "{}", outcome.words);
        assert!(!outcome.words.contains("panicked"), "{}", outcome.words);
    };
    refused("", "error: no library of ONNX Runtime is named");
    refused("nowhere.so", "error: `nowhere.so`: no such file or directory");
    refused("fixtures", "it cannot be loaded: ");
    refused(&desk.file("words.so", b"no library"), "words.so`: it cannot be loaded: ");
    // Libraries made for the purpose; where there is no C compiler, there is none to make them with.
    let library = |name: &str, source: &str| {
        let (source, made) = (desk.file(&format!("{name}.c"), source.as_bytes()), desk.path(&format!("{name}.so")));
        let built = System::new("cc").args(["-shared", "-fPIC", "-o", &made, &source]).status();
        built.is_ok_and(|s| s.success()).then_some(made)
    };
    let (Some(other), Some(old)) = (library("other", "int x;"), library("old", OLD)) else { return };
    refused(&other, "other.so`: it is not ONNX Runtime: it has no `OrtGetApiBase`");
    refused(&old, "old.so`: it is ONNX Runtime 1.8.1, and 1.17 or later is needed");
    assert!(!Path::new(&out).exists());
}

/// The one door of the library (onnxruntime_c_api.h, `OrtApiBase`), for a version of long ago.
const OLD: &str = r#"
static const void *api(unsigned version) { return 0; }
static const char *version(void) { return "1.8.1"; }
static const struct { const void *(*api)(unsigned); const char *(*version)(void); } base = { api, version };
const void *OrtGetApiBase(void) { return &base; }
"#;

#[test]
fn one_process_loads_one_library() {
    let Some(library) = &*LIBRARY else { return };
    engine(Optimization::All);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("another.so");
    std::fs::write(&copy, b"not looked at").unwrap();
    let e = OnnxRuntime::load(&copy, Optimization::All).unwrap_err();
    assert!(e.to_string().contains("another.so`: ONNX Runtime is loaded from `"), "{e}");
    OnnxRuntime::load(library, Optimization::Basic).unwrap();
}
