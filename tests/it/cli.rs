//! `qdq quantize` and `qdq validate` as a user meets them: streams, files, gates, options and sources of samples.

use crate::common;
use crate::desk::{CALIB, DIGITS, Desk, bytes_of, run};
use qdq::model::{Model, NodeExt, Tensor};

/// The text with the folder, the times, the memory and what a processor may round differently masked.
fn masked(text: &str) -> String {
    let line = |l: &str| match l.split_whitespace().next() {
        Some("time") => {
            let numbers = |w: &str| if w.parse::<f64>().is_ok() { "T".to_owned() } else { w.to_owned() };
            l.split(' ').map(numbers).collect::<Vec<_>>().join(" ") + "\n"
        }
        Some("peak") => "peak memory      M\n".to_owned(),
        Some("logits") => {
            let words: Vec<&str> = l.split_whitespace().collect();
            format!("logits {} ... {}\n", words[1], words[4..].join(" "))
        }
        _ => format!("{l}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn quantize_writes_the_model_and_shows_what_it_did() {
    let desk = Desk::new();
    let outcome = desk.quantize_digits(&[]);
    let expected = "\
Quantized
target           ort-cpu
size             64.7 KiB -> 37.9 KiB (1.7 times smaller)
opset            17
samples          `fixtures/digits/calib.npz`: 100 samples
split            84 calibrate, 16 others verify
nodes            16 quantized, 9 absorbed into ranges, 0 float
stored as codes  12 constants, 12 biases
Q/DQ pairs       16
weights          int8, 9.27 bits each with scales
equalize         3 places, +0.8 dB in trial
absorb-bias      nothing to do
smooth           nothing to do
limit-ranges     nothing to do
correct-bias     12 places, +0.4 dB in trial
time             prepare T s, reshape T s, calibrate T s, plan T s, insert T s, verify T s
peak memory      M
engine           tract 0.23.9

Drift against the float model
output  SQNR dB    cosine  max abs error  same top-1
────────────────────────────────────────────────────
logits 30.8 ... 100.0 %

Nodes
operator           quantized  absorbed  float
─────────────────────────────────────────────
Add                        2         -      -
Clip                       -         9      -
Conv                      11         -      -
Flatten                    1         -      -
Gemm                       1         -      -
GlobalAveragePool          1         -      -
";
    assert_eq!(masked(&outcome.data), expected);
    assert_eq!((outcome.code, outcome.words), (0, format!("wrote `{}`\n", desk.path("out.onnx"))));
    assert_eq!(desk.names(), ["out.onnx"]);
    let written = Model::read(desk.path("out.onnx").as_ref()).unwrap();
    assert!(written.graph.nodes().any(|(_, n)| n.op_type() == "QuantizeLinear"));

    let quiet = desk.quantize_digits(&["--force", "--quiet"]);
    assert_eq!((quiet.code, quiet.words.as_str(), masked(&quiet.data).as_str()), (0, "", expected));
}

#[test]
fn quantize_prints_json_and_markdown() {
    let desk = Desk::new();
    let report = desk.report(DIGITS, CALIB, &[]);
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    let expected = [
        "qdq",
        "target",
        "engine",
        "opset",
        "size",
        "samples",
        "counts",
        "weights",
        "nodes",
        "steps",
        "kept",
        "rounding",
        "reformed",
        "skipped",
        "outputs",
        "warnings",
        "stages",
        "peak_memory",
    ];
    assert_eq!(keys, expected);
    assert_eq!(report["size"][1], std::fs::metadata(desk.path("out.onnx")).unwrap().len());
    assert_eq!(report["samples"]["verification"], 16);
    assert_eq!(report["outputs"][0]["name"], "logits");
    assert!(report["nodes"].as_array().unwrap().iter().all(|n| n["reason"].is_string()));
    let markdown = desk.quantize_digits(&["--markdown", "--force"]).data;
    assert!(markdown.contains("\n| Conv | 11 |"), "{markdown}");
    desk.quantize_digits(&["--json", "--markdown", "--force"]).is_usage();
}

#[test]
fn the_same_command_writes_the_same_bytes() {
    let (a, b) = (Desk::new(), Desk::new());
    a.quantize_digits(&[]);
    b.quantize_digits(&[]);
    assert_eq!(std::fs::read(a.path("out.onnx")).unwrap(), std::fs::read(b.path("out.onnx")).unwrap());
}

#[test]
fn gates_of_quantize_decide_the_exit_code() {
    // Options, exit code, and whether the model is there.
    let cases: &[(&[&str], i32, bool)] = &[
        (&["--min-sqnr", "20"], 0, true),
        (&["--min-sqnr", "-3"], 0, true),
        (&["--min-sqnr", "60"], 1, true),
        (&["--min-sqnr", "60", "--strict"], 1, false),
        (&["--min-sqnr", "20", "--strict"], 0, true),
        (&["--max-drop", "0"], 0, true),
        (&["--max-drop", "0", "--exclude", "stem.conv"], 0, true),
        (&["--max-drop", "100", "--min-sqnr", "60"], 1, true),
        (&["--strict"], 0, true),
    ];
    for (options, code, written) in cases {
        let desk = Desk::new();
        let outcome = desk.quantize_digits(options);
        assert_eq!((outcome.code, outcome.data.starts_with("Quantized\n")), (*code, true), "{options:?}");
        assert_eq!(desk.names(), if *written { vec!["out.onnx"] } else { vec![] }, "{options:?}");
        assert_eq!(outcome.words.contains("wrote `"), *written, "{}", outcome.words);
        assert_eq!(outcome.words.contains("gate missed: output `logits` has an SQNR of 30.8 dB, and 60 "), *code == 1);
    }
}

#[test]
fn strict_leaves_the_old_model_where_it_is() {
    let desk = Desk::new();
    desk.file("out.onnx", b"old");
    assert_eq!(desk.quantize_digits(&["--force", "--strict", "--min-sqnr", "60"]).code, 1);
    assert_eq!(std::fs::read(desk.path("out.onnx")).unwrap(), b"old");
    assert_eq!(desk.names(), ["out.onnx"]);
}

#[test]
fn gates_of_validate_decide_the_exit_code() {
    let desk = Desk::new();
    // Per tensor and with random samples, so that classes change.
    assert_eq!(desk.quantize(DIGITS, "random:4", &["--per-tensor", "--quiet"]).code, 0);
    let out = desk.path("out.onnx");
    let base = ["validate", DIGITS, &out, "--data", "fixtures/digits/eval.npz", "--quiet"];
    let labels = ["--labels", "fixtures/digits/eval_labels.npy"];
    let outcome = run(&[&base[..], &labels, &["--json"]].concat());
    let facts: serde_json::Value = serde_json::from_str(&outcome.data).unwrap();
    let (a, share) = (&facts["accuracy"], facts["outputs"][0]["top1_agreement"].as_f64().unwrap() * 100.0);
    let drop = (a["float_top1"].as_f64().unwrap() - a["quantized_top1"].as_f64().unwrap()) * 100.0;
    assert!(share < 100.0 && drop.abs() < 1.0, "{share} {drop}");

    let number = |x: f64| format!("{x:.4}");
    let cases = [
        (vec!["--min-sqnr".to_owned(), "-40".to_owned()], 0, ""),
        (vec!["--min-sqnr".to_owned(), "40".to_owned()], 1, "has an SQNR of "),
        (vec!["--min-agreement".to_owned(), number(share - 0.01)], 0, ""),
        (vec!["--min-agreement".to_owned(), number(share + 0.01)], 1, "of top-1 classes, and "),
        (vec!["--max-top1-drop".to_owned(), number(drop + 0.01)], 0, ""),
        (vec!["--max-top1-drop".to_owned(), number(drop - 0.01)], 1, "top-1 accuracy drops by "),
        (vec!["--max-top1-drop".to_owned(), "-1".to_owned()], 1, "top-1 accuracy drops by "),
    ];
    for (options, code, sentence) in &cases {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let outcome = run(&[&base[..], &labels, &options].concat());
        assert_eq!(outcome.code, *code, "{options:?}: {}", outcome.words);
        assert!(outcome.words.contains(sentence) && outcome.words.is_empty() == (*code == 0), "{}", outcome.words);
        assert!(outcome.data.starts_with("Validated\n"));
    }
    run(&[&base[..], &["--max-top1-drop", "1"]].concat()).is_usage();
    run(&[&base[..], &["--top", "1"]].concat()).is_usage();
    assert_eq!(desk.names(), ["out.onnx"]);
}

#[test]
fn validate_shows_drift_accuracy_and_layers() {
    let desk = Desk::new();
    desk.quantize_digits(&["-q"]);
    let out = desk.path("out.onnx");
    let labels = "fixtures/digits/eval_labels.npy";
    let base = ["validate", DIGITS, &out, "--data", "fixtures/digits/eval.npz", "--labels", labels];
    let text = run(&[&base[..], &["--samples", "50", "--layers", "--top", "2"]].concat());
    assert_eq!((text.code, text.words.as_str()), (0, ""));
    let heads = ["Validated", "Drift against the float model", "Accuracy by `logits`", "Drift of the layers"];
    let found: Vec<&str> = text.data.split("\n\n").filter_map(|t| t.lines().next()).collect();
    assert_eq!(found, heads);
    assert!(text.data.contains("50 (`fixtures/digits/eval.npz`: 500 samples; 50 of them, evenly spread)"));

    let json = run(&[&base[..], &["--layers", "--top", "2", "--json"]].concat());
    let facts: serde_json::Value = serde_json::from_str(&json.data).unwrap();
    let keys: Vec<&String> = facts.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["qdq", "engine", "source", "samples", "outputs", "accuracy", "layers", "deployed"]);
    assert_eq!(facts["accuracy"]["float_top1"], 0.974);
    assert_eq!(facts["layers"].as_array().unwrap().len(), 2);

    let same = run(&["validate", DIGITS, DIGITS, "--data", CALIB, "--json", "--min-sqnr", "200"]);
    let facts: serde_json::Value = serde_json::from_str(&same.data).unwrap();
    assert_eq!((same.code, &facts["outputs"][0]["exact"]), (0, &true.into()));
}

#[test]
fn inspect_shows_activations_of_samples() {
    let outcome = run(&["inspect", DIGITS, "--data", CALIB, "--samples", "5", "--json"]);
    let facts: serde_json::Value = serde_json::from_str(&outcome.data).unwrap();
    let rows = facts["activations"].as_array().unwrap();
    assert!(rows.iter().any(|r| r["value"] == "input") && rows.len() > 10, "{rows:?}");
    run(&["inspect", DIGITS, "--data", "nowhere.npz"]).is_error_with_hint("`nowhere.npz`: no such file");
}

/// A float model of images of 8 x 9 pixels.
fn image_model() -> Model {
    let nodes = vec![
        common::node("Conv", "x w", "c", &[]),
        common::node("GlobalAveragePool", "c", "p", &[]),
        common::node("Flatten", "p", "y", &[]),
    ];
    common::model(17, &[1, 3, 8, 9], nodes, vec![common::weights("w", &[4, 3, 3, 3])], &[("y", &[1, 4])])
}

#[test]
fn every_source_of_samples_calibrates() {
    let desk = Desk::new();
    let images = desk.model("images.onnx", &image_model());
    let x = ndarray::Array4::from_shape_fn((12, 1, 8, 8), |(i, _, h, w)| ((i * 64 + h * 8 + w) % 17) as f32 / 16.0);
    let npy = desk.path("x.npy");
    ndarray_npy::write_npy(&npy, &x).unwrap();
    // Model, source, options, what the report calls it.
    let cases: &[(&str, &str, &[&str], &str)] = &[
        (DIGITS, &npy, &[], "12 samples"),
        (DIGITS, CALIB, &["--samples", "7"], "100 samples; 7 of them, evenly spread"),
        (DIGITS, "fixtures/small/test_data", &[], "4 sets of ONNX test data"),
        (DIGITS, "fixtures/small/safetensors/digits.safetensors", &[], "3 samples"),
        (DIGITS, "random:4", &["--seed", "7"], "random noise: 4 samples, seed 7"),
        (DIGITS, "fixtures/small/images", &["--resize", "8x8", "--channels", "gray"], "6 images"),
        (&images, "fixtures/small/images", &["--resize", "12", "--crop", "8x9"], "6 images"),
        (&images, "fixtures/small/images", &["--resize", "8x9", "--mean", "-0.1,0,0.2", "--std", "0.5"], "6 images"),
        (&images, "fixtures/small/images", &["--resize", "8x9", "--scale", "1", "--channels", "bgr"], "6 images"),
        ("fixtures/small/external/model.onnx", "fixtures/small/external/data.npz", &[], "samples"),
        ("fixtures/small/float16/model.onnx", "fixtures/small/float16/data.npz", &[], "samples"),
        ("fixtures/small/legacy/model.onnx", "fixtures/small/legacy/data.npz", &[], "samples"),
        ("fixtures/small/transformer/model.onnx", "fixtures/small/transformer/data.npz", &[], "16 samples"),
        ("fixtures/ppocr_cls/model.onnx", "fixtures/ppocr_cls/calib.npz", &["--samples", "12"], "48 samples; 12"),
    ];
    for (model, source, options, description) in cases {
        let report = desk.report(model, source, options);
        let found = report["samples"]["source"].as_str().unwrap();
        assert!(found.contains(description), "{source}: {found}");
        assert!(report["counts"]["quantized"].as_u64() > Some(0), "{source}: {}", report["counts"]);
        assert_eq!(report["outputs"][0]["broken"], false, "{source}");
    }
}

#[test]
fn sequences_of_any_length_calibrate() {
    let desk = Desk::new();
    for (i, length) in [3, 12, 1, 7, 16, 5, 2, 9, 11, 4, 8].into_iter().enumerate() {
        let ids = (0..length).map(|k| (k * 5 + i) as i64 % 24).collect();
        let mask = (0..length).map(|k| i64::from(k <= length / 2)).collect();
        let tensor = |x| Tensor::from_i64(vec![1, length], x);
        desk.test_data("ragged", i, &[tensor(ids), tensor(mask)]);
    }
    let report = desk.report("fixtures/small/transformer/model.onnx", &desk.path("ragged"), &[]);
    assert_eq!(report["samples"]["calibration"], 9);
    for output in report["outputs"].as_array().unwrap() {
        assert!(output["sqnr_db"].as_f64() > Some(10.0), "{output}");
    }
    let out = desk.path("out.onnx");
    let (model, data) = ("fixtures/small/transformer/model.onnx", desk.path("ragged"));
    assert_eq!(run(&["validate", model, &out, "--data", &data, "--layers"]).code, 0);
}

#[test]
fn samples_that_are_not_numbers_are_told_of_and_leave_their_values_float() {
    let desk = Desk::new();
    let mut x = common::noise(1, 12 * 64);
    x[7 * 64 + 3] = f32::NAN;
    let data = desk.npz("nan.npz", &[("input", &[12, 1, 8, 8], x)]);
    let report = desk.report(DIGITS, &data, &[]);
    assert_eq!(report["warnings"][0], "`input` held numbers that are not finite (1); it stays float");
    let stem = report["nodes"].as_array().unwrap().iter().find(|n| n["node"] == "stem.conv").unwrap();
    assert_eq!(stem["verdict"], "float");
}

#[test]
fn options_choose_what_is_quantized() {
    // Options, and how many nodes of digits are quantized, of which operators.
    let cases: &[(&[&str], u64, &[&str])] = &[
        (&["--ops", "Gemm"], 1, &["Gemm"]),
        (&["--ops", "Conv,Gemm"], 12, &["Conv", "Gemm"]),
        (&["--only", "stem.conv"], 1, &["Conv"]),
        (&["--only", "block?.depthwise.*", "--only", "stem.*"], 5, &["Conv"]),
        (&["--exclude", "*.conv", "--exclude", "*.add"], 1, &["Gemm"]),
    ];
    let desk = Desk::new();
    for (options, count, operators) in cases {
        let report = desk.report(DIGITS, CALIB, options);
        assert_eq!(report["counts"]["quantized"], *count, "{options:?}");
        for node in report["nodes"].as_array().unwrap().iter().filter(|n| n["verdict"] == "quantized") {
            assert!(operators.contains(&node["operator"].as_str().unwrap()), "{options:?}: {node}");
        }
    }
    for (options, text) in [
        (["--ops", "conv"], "`conv` is no operator that can be quantized"),
        (["--only", "nobody"], "no node is called `nobody`"),
        (["--exclude", "nobody*"], "no node is called `nobody*`"),
        (["--exclude", "*"], "nothing in the model can be quantized"),
    ] {
        desk.quantize_digits(&[&options[..], &["--force"]].concat()).is_error_with_hint(text);
    }
    desk.quantize_digits(&["--exclude", "[a", "--force"]).is_error("`[a` is not a pattern");
}

#[test]
fn options_choose_the_formats() {
    use qdq::model::DataType::{Int8, Int16, Uint8, Uint16};
    let cases = [
        (&[][..], Uint8, Int8, 17),
        (&["--target", "ort-cpu"], Uint8, Int8, 17),
        (&["--activations", "uint8"], Uint8, Int8, 17),
        (&["--activations", "int8"], Int8, Int8, 17),
        (&["--activations", "uint16"], Uint16, Int8, 21),
        (&["--activations", "int16", "--symmetric-activations"], Int16, Int8, 21),
        (&["--weights", "int8"], Uint8, Int8, 17),
        (&["--weights", "uint8", "--per-tensor"], Uint8, Uint8, 17),
        (&["--weights", "uint8", "--activations", "int8"], Int8, Uint8, 17),
    ];
    let desk = Desk::new();
    for (options, activations, weights, opset) in cases {
        let report = desk.report(DIGITS, CALIB, options);
        assert_eq!(report["opset"][1], opset, "{options:?}");
        let written = Model::read(desk.path("out.onnx").as_ref()).unwrap();
        let codes = |op: &str, input: usize| {
            let node = written.graph.nodes().find(|(_, n)| n.op_type() == op).unwrap().1;
            written.graph.constant(node.input_at(input).unwrap()).unwrap().unwrap()
        };
        let first = codes("QuantizeLinear", 2);
        assert_eq!(first.dtype(), activations, "{options:?}");
        let dequantized = written.graph.nodes().filter(|(_, n)| n.op_type() == "DequantizeLinear");
        let mut stored = dequantized.filter_map(|(_, n)| written.graph.constant(n.input_at(0)?).ok()?);
        assert!(stored.any(|w| w.shape() == [16, 1, 3, 3] && w.dtype() == weights), "{options:?}");
    }
    for wrong in [["--activations", "int4"], ["--weights", "int9"], ["--target", "moon"]] {
        desk.quantize_digits(&[&wrong[..], &["--force"]].concat()).is_usage();
    }
}

#[test]
fn an_output_that_would_hurt_is_refused() {
    let desk = Desk::new();
    let model = desk.file("m.onnx", &bytes_of(DIGITS));
    let link = desk.path("link.onnx");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&model, &link).unwrap();
    let detour = desk.path("./m.onnx");
    let folder = desk.path("");
    let before = desk.names();
    let quantize = |out: &str, more: &[&str]| run(&[&["quantize", &model, "--data", CALIB, "-o", out], more].concat());
    for out in [&model, &detour].into_iter().chain(Some(&link).filter(|_| cfg!(unix))) {
        quantize(out, &["--force"]).is_error_with_hint("is the given model itself");
    }
    quantize(&folder, &["--force"]).is_error_with_hint("is a directory");
    quantize(&desk.path("none/out.onnx"), &[]).is_error_with_hint("there is no folder");
    assert_eq!((desk.names(), std::fs::read(&model).unwrap()), (before, bytes_of(DIGITS)));

    let old = desk.file("old.onnx", b"old");
    quantize(&old, &[]).is_error_with_hint("exists");
    assert_eq!(std::fs::read(&old).unwrap(), b"old");
    assert_eq!(quantize(&old, &["--force"]).code, 0);
    assert!(Model::read(old.as_ref()).is_ok());
}

#[test]
fn weights_alone_need_no_samples_and_lie_where_they_are_told() {
    let desk = Desk::new();
    let out = desk.path("w.onnx");
    let quantize =
        |more: &[&str]| run(&[&["quantize", DIGITS, "--mode", "weights", "-o", &out, "--force"], more].concat());
    let outcome = quantize(&[]);
    assert_eq!(outcome.code, 0, "{}", outcome.words);
    assert!(outcome.data.contains("12 with a quantized weight") && outcome.data.contains("not verified"));
    let whole = Model::read(out.as_ref()).unwrap();
    let count = |op: &str| whole.graph.nodes().filter(|(_, n)| n.is(op)).count();
    assert_eq!((count("DequantizeLinear"), count("QuantizeLinear")), (12, 0));

    let outcome = quantize(&["--external-data", "always", "--external-threshold", "64"]);
    assert_eq!(outcome.code, 0, "{}", outcome.words);
    let slim = bytes_of(&out).len();
    let apart = Model::read(out.as_ref()).unwrap();
    assert!(slim < apart.encoded_len());
    assert_eq!(apart.to_bytes().unwrap(), whole.to_bytes().unwrap());

    let outcome = quantize(&["--data", CALIB, "--min-sqnr", "30"]);
    assert_eq!(outcome.code, 0, "{}", outcome.words);
    let outcome = quantize(&["--min-sqnr", "30"]);
    assert!(outcome.code == 2 && outcome.words.contains("a gate needs samples"), "{}", outcome.words);
    let outcome = run(&["quantize", DIGITS, "-o", &out, "--force"]);
    assert!(outcome.code == 2 && outcome.words.contains("`--mode weights`"), "{}", outcome.words);
}

#[test]
fn modes_and_forms_that_do_not_go_together_are_refused() {
    let desk = Desk::new();
    let out = desk.path("d.onnx");
    let quantize = |more: &[&str]| run(&[&["quantize", DIGITS, "-o", &out, "--force"], more].concat());
    let outcome = quantize(&["--mode", "dynamic"]);
    assert_eq!(outcome.code, 0, "{}", outcome.words);
    assert!(outcome.data.contains(" dynamic, ") && outcome.data.contains("not verified"), "{}", outcome.data);
    let model = Model::read(out.as_ref()).unwrap();
    assert!(model.graph.nodes().any(|(_, n)| n.is("ConvInteger")));
    let outcome = quantize(&["--mode", "dynamic", "--data", CALIB, "--min-sqnr", "25"]);
    assert_eq!(outcome.code, 0, "{}", outcome.words);

    for (options, word) in [
        (&["--mode", "dynamic", "--weights", "int4"][..], "multiply bytes"),
        (&["--mode", "dynamic", "--block-size", "32"], "one scale"),
        (&["--mode", "dynamic", "--activations", "int8"], "affine uint8"),
        (&["--mode", "dynamic", "--ranges", "r.json"], "need no other"),
        (&["--mode", "dynamic", "--data-free"], "need no other"),
        (&["--mode", "dynamic", "--emit", "matmulnbits"], "reads floats"),
        (&["--mode", "weights", "--emit", "matmulnbits", "--block-size", "20"], "16, 32, 64"),
        (&["--data", CALIB, "--emit", "matmulnbits"], "static mode"),
    ] {
        quantize(options).is_error_with_hint(word);
    }
}
