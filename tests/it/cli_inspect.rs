//! `qdq inspect` as a user meets it: exit codes, streams and forms of output.

use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;

use crate::desk::{DIGITS, qdq, stdout};

#[test]
fn shows_a_model_as_text() {
    let text = stdout(&["inspect", DIGITS, "--sort", "sqnr-tensor", "--top", "2"]);
    let expected = "\
Model
format      IR version 8, opset ai.onnx 17
producer    make_digits.py
inputs      input: float32 [batch, 1, 8, 8]
outputs     logits: float32 [batch, 10]
parameters  14,748, constants of 57.6 KiB
operators   36 nodes: BatchNormalization 11, Conv 11, Clip 9, Add 2, Flatten 1, Gemm 1, GlobalAveragePool 1

Weights (2 of 12)
node                   operator  weight                   shape               min     max  spread  kurtosis  tensor dB  channel dB
──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
block4.pointwise.conv  Conv      block4.pointwise.weight  [64, 32, 1, 1]  -0.9353   1.299     2.9       3.2       39.8        45.3
block3.project.conv    Conv      block3.project.weight    [32, 96, 1, 1]  -0.6171  0.8136     2.0       3.3       39.9        43.5
tensor dB, channel dB: SQNR of the weight in symmetric INT8, with one scale, and with one a channel. \
spread: range of the widest channel over that of the narrowest. \
kurtosis: 3 for a Gauss distribution, more with outliers.
";
    assert_eq!(text, expected);
}

#[test]
fn shows_a_model_as_json_and_as_markdown() {
    let json: serde_json::Value = serde_json::from_str(&stdout(&["inspect", DIGITS, "--json"])).unwrap();
    assert_eq!(json["weights"].as_array().unwrap().len(), 12);
    assert_eq!(json["model"]["inputs"][0]["shape"], serde_json::json!(["batch", 1, 8, 8]));
    let markdown = stdout(&["inspect", DIGITS, "--markdown", "--top", "1"]);
    assert!(markdown.contains("\n| `stem.conv` | Conv | `stem.weight` | [16, 1, 3, 3] |"), "{markdown}");
}

#[test]
fn every_fixture_can_be_shown() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for name in [
        "ppocr_cls",
        "small/coded",
        "small/encodings",
        "small/external",
        "small/float16",
        "small/legacy",
        "small/legacy_upsample",
        "small/sparse",
    ] {
        let text = stdout(&["inspect", fixtures.join(name).join("model.onnx").to_str().unwrap()]);
        assert!(text.contains("\nWeights ("), "{name}: {text}");
    }
}

#[test]
fn says_what_is_wrong_and_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(DIGITS)).unwrap();
    for (path, message) in [
        (file("short.onnx", &whole[..whole.len() / 2]), "cut short"),
        (file("empty.onnx", b""), "the file is empty"),
        (file("text.onnx", b"version https://git-lfs.github.com/spec/v1\n"), "not an ONNX model"),
        (folder.path().to_str().unwrap().to_owned(), "is a directory"),
        (folder.path().join("none.onnx").to_str().unwrap().to_owned(), "no such file"),
    ] {
        let assert = qdq(&["inspect", &path]).assert().code(2).stdout("");
        let words = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(words.starts_with(&format!("error: `{path}`: ")) && words.contains(message), "{words}");
    }
    qdq(&["inspect", DIGITS, "--sort", "color"]).assert().code(2);
    qdq(&["inspect", DIGITS, "--json", "--markdown"]).assert().code(2);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_qdq"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["inspect", "fixtures/ppocr_cls/model.onnx", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert!(child.wait().unwrap().success() && words.is_empty(), "{words}");
}

#[test]
fn weights_are_shown_in_formats_that_they_are_not_in() {
    let formats = ["--formats", "int8,int4/tensor,int4,vsq4"];
    let text = stdout(&[&["inspect", DIGITS, "--sort", "elements", "--top", "1"], &formats[..]].concat());
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    let row = |first: &str| rows.iter().find(|r| r.first() == Some(&first)).unwrap_or_else(|| panic!("{text}")).clone();
    assert_eq!(row("node")[3..], ["int8", "int4/tensor", "int4", "vsq4"]);
    let number = |cell: &str| cell.trim_start_matches('*').parse::<f64>().unwrap();
    for r in [row("block3.expand.conv"), row("all")] {
        let cells = &r[r.len() - 4..];
        // Of 8 bits there is one format: nothing to choose from. Of 4 bits the one with most scales is nearest.
        assert!(!cells[0].starts_with('*') && cells[3].starts_with('*') && !cells[1].starts_with('*'), "{r:?}");
        assert!(cells[1..].is_sorted_by(|a, b| number(a) < number(b)) && number(cells[0]) > 40.0, "{r:?}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&[&["inspect", DIGITS, "--json"], &formats[..]].concat())).unwrap();
    let cell = &json["weights"][0]["formats"][2];
    assert_eq!((&cell["format"], json["formats"].as_array().unwrap().len()), (&"int4".into(), 4));
    assert!(cell["sqnr_db"].as_f64().unwrap() > 20.0 && cell["bits_per_weight"].as_f64().unwrap() > 4.0);
    assert!(stdout(&["inspect", DIGITS, "--json"]).find("\"formats\"").is_none());
    let wrong = qdq(&["inspect", DIGITS, "--formats", "int4,int9"]).assert().code(2);
    assert!(String::from_utf8_lossy(&wrong.get_output().stderr).contains("there is no format `int9`"));
}

#[test]
fn heads_of_attentions_are_shown_one_by_one() {
    let shown = |form: &[&str]| {
        let args = ["inspect", "fixtures/small/transformer/model.onnx", "--data", "random:3", "--quiet"];
        let assert = qdq(&[&args, form].concat()).assert().success();
        String::from_utf8(assert.get_output().stdout.clone()).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&shown(&["--json"])).unwrap();
    let rows = json["activations"].as_array().unwrap();
    let with_heads: Vec<_> = rows.iter().filter(|r| r.get("heads").is_some()).collect();
    // Queries, keys, scores, what Softmax makes of them, values, and what is mixed, in two layers.
    assert_eq!(with_heads.len(), 12);
    for row in with_heads {
        let heads = row["heads"].as_array().unwrap();
        assert_eq!(heads.len() as u64, row["shape"][1].as_u64().unwrap(), "{row}");
        let end = |key: &str, pick: fn(f64, f64) -> f64| {
            heads.iter().map(|h| h[key].as_f64().unwrap()).reduce(pick) == row[key].as_f64()
        };
        assert!(heads.len() > 1 && end("min", f64::min) && end("max", f64::max), "{row}");
    }
    let text = shown(&[]);
    assert!(text.contains("\nHeads\n") && text.contains("largest magnitude of each"), "{text}");
}
