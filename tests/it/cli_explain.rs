//! `qdq explain` as a user meets it: exit codes, streams and forms of output.

use crate::desk::{DIGITS, qdq, stdout};

fn stderr(args: &[&str], code: i32) -> String {
    let assert = qdq(args).assert().code(code);
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

const DATA: [&str; 2] = ["--data", "fixtures/digits/calib.npz"];

#[test]
fn says_of_everything_what_becomes_of_it() {
    let text = stdout(&["explain", DIGITS]);
    for words in [
        "\nValues (26)\n",
        "block1.expand.relu6",
        "absorbed",
        "samples will tell its range",
        "Weights and other constants (",
        "int8 symmetric per channel (axis 0)",
        "Ranges are not known",
    ] {
        assert!(text.contains(words), "`{words}` is missing in\n{text}");
    }
    let seen = stdout(&["explain", DIGITS, DATA[0], DATA[1], "--quiet"]);
    assert!(seen.contains("range seen in calibration") && !seen.contains("Ranges are not known"), "{seen}");
}

#[test]
fn the_options_are_those_of_quantize() {
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&stdout(&[&["explain", DIGITS, "--json"], args].concat())).unwrap()
    };
    let plain = json(&[]);
    let node = |v: &serde_json::Value, name: &str| {
        let nodes = v["nodes"].as_array().unwrap().iter();
        nodes.clone().find(|n| n["node"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    assert_eq!(node(&plain, "stem.conv")["verdict"], "quantized");
    let out = json(&["--exclude", "stem.*"]);
    assert_eq!(node(&out, "stem.conv")["reason"], "excluded by the user");
    let tensor = json(&["--per-tensor", "--weights", "uint8", "--activations", "int8"]);
    let first = |v: &serde_json::Value, list: &str| v[list][0]["how"].clone();
    assert_eq!(first(&tensor, "constants")["format"], "uint8");
    assert_eq!(first(&tensor, "constants")["grain"], "tensor");
    assert_eq!(first(&tensor, "values")["format"], "int8");
    assert_eq!(first(&plain, "values")["scale"], serde_json::Value::Null);
    let weights = json(&["--mode", "weights"]);
    assert_eq!(node(&weights, "stem.conv")["verdict"], "weight-only");
    let free = json(&["--data-free", "--input-range", "0,1", "--quiet"]);
    assert_eq!(free["values"][0]["range"], serde_json::json!({"min": 0.0, "max": 1.0}));
}

#[test]
fn one_name_is_told_of_and_a_wrong_one_is_an_error() {
    let text = stdout(&["explain", DIGITS, "--value", "block1.add"]);
    assert!(text.contains("Node block1.add") && text.contains("Value block1.add"), "{text}");
    let error = stderr(&["explain", DIGITS, "--value", "block1.ad"], 2);
    assert!(error.contains("no value, weight or node is called `block1.ad`"), "{error}");
    assert!(error.contains("hint: near it are `block1.add`"), "{error}");
    let folded = stderr(&["explain", DIGITS, "--value", "stem.bn.scale"], 2);
    assert!(folded.contains("folded"), "{folded}");
    assert!(stderr(&["explain", "nowhere.onnx"], 2).contains("nowhere.onnx"));
    assert!(stderr(&["explain", DIGITS, "--fail-on-lint"], 2).contains("--lint"));
}

#[test]
fn lint_is_a_gate_only_where_it_is_asked_to_be() {
    let text = stdout(&["explain", DIGITS, "--lint"]);
    assert!(text.contains("int16-sum") && text.contains("\nint16-sum: "), "{text}");
    let error = stderr(&["explain", DIGITS, "--lint", "--fail-on-lint"], 1);
    assert!(error.starts_with("gate missed: ") && error.contains("findings"), "{error}");
    // Signed activations and no residual sums: nothing to say.
    let clean = ["explain", DIGITS, "--lint", "--fail-on-lint", "--ops", "Gemm", "--activations", "int8"];
    assert!(stdout(&clean).contains("Nothing was found."));
    let json: serde_json::Value = serde_json::from_str(&stdout(&["explain", DIGITS, "--lint", "--json"])).unwrap();
    assert_eq!(json["planned"], true);
    assert!(json["findings"][0]["why"].is_string() && json["findings"][0]["way_out"].is_string());
}

#[test]
fn a_quantized_model_is_looked_at_as_it_is() {
    let model = "fixtures/quantized/cnn/qdq.onnx";
    let text = stdout(&["explain", model]);
    assert!(text.contains("already") && text.contains("comes out of DequantizeLinear"), "{text}");
    assert!(stdout(&["explain", model, "--lint"]).contains("Findings in the model ("));
}
