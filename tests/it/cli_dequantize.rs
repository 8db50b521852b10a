//! `qdq dequantize` as a user meets it, and what broken scales lead to.

use crate::desk::{DIGITS, Desk, Outcome, bytes_of, run};
use qdq::model::{Model, ModelProto, NodeExt, NodeProto};

const QDQ: &str = "fixtures/quantized/cnn/qdq.onnx";
const QOPERATOR: &str = "fixtures/quantized/cnn/qoperator.onnx";
const DATA: &str = "fixtures/quantized/cnn/data.npz";

fn dequantize(desk: &Desk, model: &str, more: &[&str]) -> Outcome {
    run(&[&["dequantize", model, "-o", &desk.path("out.onnx"), "--force"], more].concat())
}

#[test]
fn it_writes_the_model_and_shows_what_it_did() {
    let desk = Desk::new();
    let outcome = dequantize(&desk, QOPERATOR, &["--data", DATA]);
    assert_eq!((outcome.code, outcome.words.as_str()), (0, &*format!("wrote `{}`\n", desk.path("out.onnx"))));
    let facts: Vec<Vec<&str>> = outcome.data.lines().map(|l| l.split_whitespace().collect()).collect();
    let has = |line: &str| facts.contains(&line.split_whitespace().collect::<Vec<_>>());
    for line in [
        "Dequantized",
        "style QOperator in 6 layers and 13 other nodes",
        "left 0 nodes",
        "samples `fixtures/quantized/cnn/data.npz`: 6 samples",
        "Drift against the float model",
    ] {
        assert!(has(line), "`{line}` in {}", outcome.data);
    }
    assert!(!outcome.data.contains("Still quantized"));
    let written = Model::read(desk.path("out.onnx").as_ref()).unwrap();
    assert!(written.graph.nodes().all(|(_, n)| n.domain().is_empty() && !n.op_type().contains("Linear")));
    assert_eq!(desk.names(), ["out.onnx"]);

    let quiet = dequantize(&desk, QOPERATOR, &["--quiet"]);
    assert_eq!((quiet.code, quiet.words.as_str()), (0, ""));
    assert!(quiet.data.contains("none: neither model was run"), "{}", quiet.data);
}

#[test]
fn it_prints_json_and_markdown_and_has_a_gate() {
    let desk = Desk::new();
    let outcome = dequantize(&desk, QDQ, &["--json", "--data", DATA]);
    let report: serde_json::Value = serde_json::from_str(&outcome.data).unwrap();
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    let expected =
        ["qdq", "styles", "opset", "size", "nodes", "counts", "left", "verified", "stages", "warnings", "peak_memory"];
    assert_eq!(keys, expected);
    assert_eq!(report["styles"][0]["style"], "qdq");
    assert_eq!((&report["counts"]["constants"], &report["counts"]["pairs"]), (&10.into(), &20.into()));
    let db = report["verified"]["outputs"][0]["sqnr_db"].as_f64().unwrap();
    assert!(dequantize(&desk, QDQ, &["--markdown"]).data.contains("| style |"));

    let gate = |db: f64| dequantize(&desk, QDQ, &["--data", DATA, "--min-sqnr", &format!("{db}")]);
    assert_eq!(gate(10.0).code, 0);
    let missed = gate(db + 1.0);
    assert!(missed.code == 1 && missed.words.contains("gate missed: output `logits`"), "{}", missed.words);
    dequantize(&desk, QDQ, &["--min-sqnr", "10"]).is_usage();
}

#[test]
fn open_ranges_have_no_clip() {
    let desk = Desk::new();
    let clips = |more: &[&str]| {
        assert_eq!(dequantize(&desk, QDQ, more).code, 0);
        let written = Model::read(desk.path("out.onnx").as_ref()).unwrap();
        written.graph.nodes().filter(|(_, n)| n.is("Clip")).count()
    };
    assert!(clips(&[]) > 5);
    assert_eq!(clips(&["--open-ranges"]), 0);
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_nothing() {
    let desk = Desk::new();
    let out = desk.path("out.onnx");
    dequantize(&desk, DIGITS, &[]).is_error_with_hint("nothing in the model is quantized");
    dequantize(&desk, &desk.path("none.onnx"), &[]).is_error("no such file");
    let model = desk.file("m.onnx", &bytes_of(QDQ));
    run(&["dequantize", &model, "-o", &model, "--force"]).is_error_with_hint("is the given model itself");
    dequantize(&desk, QDQ, &["--data", "fixtures/digits/calib.npz"]).is_error("expected `input: float32");
    assert_eq!(desk.names(), ["m.onnx"]);
    let old = desk.file("out.onnx", b"old");
    run(&["dequantize", QDQ, "-o", &out]).is_error_with_hint("exists");
    assert_eq!(std::fs::read(old).unwrap(), b"old");
}

/// The first node of that operator that reads, or makes, a value of this name.
fn with<'a>(model: &'a mut ModelProto, op: &str, value: &str) -> &'a mut NodeProto {
    let nodes = &mut model.graph.as_mut().unwrap().node;
    let reads = |n: &&mut NodeProto| n.op_type() == op && n.input.iter().chain(&n.output).any(|v| v == value);
    nodes.iter_mut().find(reads).unwrap()
}

/// Changes an initializer of the model.
fn tensor<'a>(model: &'a mut ModelProto, name: &str) -> &'a mut qdq::model::TensorProto {
    let tensors = &mut model.graph.as_mut().unwrap().initializer;
    tensors.iter_mut().find(|t| t.name() == name).unwrap()
}

#[test]
fn broken_scales_are_told_of() {
    let desk = Desk::new();
    let floats = |x: f32| Some(bytes::Bytes::from(x.to_le_bytes().to_vec()));
    // A change of the QDQ model; whether all commands refuse it; what is said.
    type Change = fn(&mut ModelProto);
    let cases: &[(&str, Change, &str)] = &[
        ("cut", |m| tensor(m, "stem_scale").raw_data = Some(vec![0, 0, 128].into()), "3 bytes of float32 do not fill"),
        ("lies", |m| tensor(m, "gate.weight_scale").dims = vec![1 << 40], "do not fill the shape"),
        ("type", |m| tensor(m, "stem_scale").data_type = Some(6), "those of int32 belong in `int32_data`"),
        ("negative", |m| tensor(m, "gate.weight_scale").dims = vec![-8], "dimension -8 is negative"),
    ];
    for (name, change, text) in cases {
        let model = desk.changed(&format!("{name}.onnx"), QDQ, change);
        dequantize(&desk, &model, &[]).is_error(text);
        desk.quantize(&model, DATA, &[]).is_error(text);
    }
    // What cannot be dequantized is left, listed with the reason, and cannot be run.
    type Left<'a> = (&'a str, Box<dyn Fn(&mut ModelProto)>, &'a str, bool);
    let cases: &[Left] = &[
        ("zero", Box::new(move |m| tensor(m, "stem_scale").raw_data = floats(0.0)), "scale 0 is not a positive", false),
        ("nan", Box::new(move |m| tensor(m, "stem_scale").raw_data = floats(f32::NAN)), "scale NaN is not", false),
        (
            "axis",
            Box::new(|m| with(m, "DequantizeLinear", "stem.weight_scale").set(qdq::model::attribute::int("axis", 9))),
            "axis 9 is outside rank 4",
            false,
        ),
        (
            "lonely",
            Box::new(|m| with(m, "DequantizeLinear", "stem_QuantizeLinear_Output").op_type = Some("Abs".into())),
            "reads its codes",
            true,
        ),
    ];
    for (name, change, text, runs) in cases {
        let model = desk.changed(&format!("{name}.onnx"), QDQ, change);
        let outcome = dequantize(&desk, &model, &[]);
        assert!(outcome.code == 0 && outcome.data.contains(text), "{name}: {} {}", outcome.data, outcome.words);
        assert!(outcome.data.contains("\nStill quantized\n"), "{name}");
        assert_eq!(run(&["inspect", &model]).code, 0, "{name}");
        if !runs {
            let outcome = desk.quantize(&model, DATA, &["--force"]);
            assert_eq!(outcome.code, 2, "{name}: {}", outcome.data);
        }
    }
}

#[test]
fn zero_points_may_be_left_out() {
    let desk = Desk::new();
    let model = desk.changed("m.onnx", QDQ, |m| {
        for node in m.graph.as_mut().unwrap().node.iter_mut() {
            // The weights are symmetric: their zero points are zeros.
            if node.input.get(2).is_some_and(|z| z.ends_with(".weight_zero_point")) {
                node.input.truncate(2);
            }
        }
    });
    assert_eq!(dequantize(&desk, &model, &[]).code, 0);
    let without = std::fs::read(desk.path("out.onnx")).unwrap();
    assert_eq!(dequantize(&desk, QDQ, &[]).code, 0);
    assert_eq!(without, std::fs::read(desk.path("out.onnx")).unwrap());
}
