//! `qdq check` as a user meets it, and over models that are sound.

use crate::common;
use std::path::{Path, PathBuf};

use crate::desk::{self, DIGITS, Desk};
use qdq::check::{Findings, check_file};
use qdq::model::attribute;

/// The files below a folder that end in `.onnx`, sorted.
fn models(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(models(&path));
        } else if path.extension().is_some_and(|e| e == "onnx") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Fails for every model below the folder that has errors; returns how many models there are.
fn all_sound(folder: &Path) -> usize {
    let models = models(folder);
    let check = |path: &PathBuf| (check_file(path).unwrap(), path.clone());
    let unsound: Vec<(Findings, PathBuf)> = models.iter().map(check).filter(|(f, _)| f.errors > 0).collect();
    assert!(unsound.is_empty(), "{unsound:#?}");
    models.len()
}

#[test]
fn the_fixtures_are_sound() {
    assert!(all_sound(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")) >= 7);
}

#[test]
fn the_models_of_the_backend_tests_are_sound() {
    let Some(suite) = std::env::var_os("QDQ_SUITE").map(PathBuf::from).filter(|p| p.is_dir()) else {
        return eprintln!("skipped: QDQ_SUITE names no folder of ONNX's backend tests");
    };
    let count = all_sound(&suite);
    assert!(count > 1400, "{count}");
    println!("{count} models without errors");
}

#[test]
fn the_real_models_are_sound() {
    if let Some(zoo) = common::zoo() {
        assert!(all_sound(&zoo) > 10);
    }
}

#[test]
fn what_quantize_writes_is_sound() {
    let desk = Desk::new();
    for more in [&[][..], &["--activations", "int16", "--per-tensor"]] {
        assert_eq!(desk.quantize_digits(&[more, &["--force"]].concat()).code, 0);
        let outcome = desk::run(&["check", &desk.path("out.onnx"), "--strict"]);
        assert_eq!((outcome.code, outcome.data.as_str()), (0, "no errors, no warnings\n"));
    }
}

/// The small CNN with an operator that does not exist, a name without a producer, and a node that nothing needs.
fn broken(desk: &Desk) -> String {
    desk.changed("broken.onnx", DIGITS, |m| {
        let graph = m.graph.as_mut().unwrap();
        graph.node[2].op_type = Some("Nonsense".into());
        graph.node[3].input[0] = "nowhere".into();
        graph.node[4].attribute.push(attribute::int("axis", 1));
        graph.name = None;
    })
}

#[test]
fn findings_are_listed_and_counted() {
    let desk = Desk::new();
    let outcome = desk::run(&["check", &broken(&desk)]);
    assert_eq!(outcome.code, 1);
    let expected = "\
error: graph: the graph has no name
hint: set `name` of the graph
error: stem.relu6: ONNX has no operator `Nonsense`
hint: export the model again with a current exporter
error: block1.expand.conv: reads `nowhere`, which nothing produces
hint: a node, an initializer or an input with this name is missing
error: block1.expand.bn: `BatchNormalization` of opset 15 has no attribute `axis`
hint: see the operator's page in docs/Operators.md of ONNX for the opset that the model imports
4 errors, no warnings
";
    assert_eq!(outcome.data, expected);
    assert_eq!(outcome.words, "");
}

#[test]
fn findings_are_json() {
    let desk = Desk::new();
    let outcome = desk::run(&["check", &broken(&desk), "--json"]);
    assert_eq!(outcome.code, 1);
    let found: serde_json::Value = serde_json::from_str(&outcome.data).unwrap();
    let list = found["findings"].as_array().unwrap();
    let errors = list.iter().filter(|f| f["severity"] == "error").count();
    assert_eq!(found["errors"], errors);
    assert_eq!(found["warnings"], list.len() - errors);
    let first = &list[0];
    assert_eq!((&first["rule"], &first["place"]), (&"graph-name".into(), &"graph".into()));
    assert!(["message", "hint"].iter().all(|k| first[k].as_str().is_some_and(|s| !s.is_empty())));
}

#[test]
fn warnings_count_when_it_is_strict() {
    let desk = Desk::new();
    let model = desk.changed("unused.onnx", DIGITS, |m| {
        let graph = m.graph.as_mut().unwrap();
        let mut tensor = graph.initializer[0].clone();
        tensor.name = Some("spare".into());
        graph.initializer.push(tensor);
    });
    let text = "warning: spare: nothing reads the initializer\nhint: drop the tensor\nno errors, 1 warning\n";
    for (more, code) in [(&[][..], 0), (&["--strict"], 1)] {
        let outcome = desk::run(&[&["check", &model], more].concat());
        assert_eq!((outcome.code, outcome.data.as_str()), (code, text));
    }
}

#[test]
fn what_is_no_model_is_an_error() {
    let desk = Desk::new();
    for (path, text) in [
        (desk.path("none.onnx"), "no such file"),
        (desk.path(""), "is a directory"),
        (desk.file("empty.onnx", b""), "the file is empty"),
        (desk.file("text.onnx", b"version https://git-lfs.github.com/spec/v1\n"), "not an ONNX model"),
        (desk.file("short.onnx", &desk::bytes_of(DIGITS)[..5000]), "not an ONNX model"),
    ] {
        desk::run(&["check", &path]).is_error(text);
    }
    desk::run(&["check"]).is_usage();
    desk::run(&["check", DIGITS, "--markdown"]).is_usage();
}

/// What `quantize` refuses for its graph, `check` names too.
#[test]
fn what_cannot_be_read_can_be_checked() {
    let desk = Desk::new();
    for (name, rule, change) in [
        ("cycle", "order", (|g| g.node[0].input[0] = "logits".into()) as fn(&mut qdq::model::GraphProto)),
        ("twice", "name-twice", |g| g.node[1].output[0] = g.node[0].output[0].clone()),
        ("missing", "reads-nothing", |g| drop(g.initializer.remove(0))),
        ("output", "graph-output", |g| g.output[0].name = Some("nowhere".into())),
    ] {
        let model = desk.changed(name, DIGITS, |m| change(m.graph.as_mut().unwrap()));
        let refused = desk.quantize(&model, desk::CALIB, &[]);
        assert_eq!(refused.code, 2, "{name}");
        let found = check_file(model.as_ref()).unwrap();
        let message = &found.findings.iter().find(|f| f.rule == rule).unwrap_or_else(|| panic!("{found:?}")).message;
        assert!(rule == "order" || refused.words.contains(message.as_str()), "{message}: {}", refused.words);
    }
}
