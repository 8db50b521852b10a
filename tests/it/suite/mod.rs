//! The ONNX backend test suite, model by model: read, written, inspected, prepared, raised and run.
//!
//! `QDQ_SUITE` names the folder `onnx/backend/test/data` of a release of the `onnx` package, `QDQ_SUITE_OLDER` those of
//! older ones, separated as in `PATH`: what they hold of older opsets. A model that an earlier folder holds too, byte for
//! byte, is passed over. Where `QDQ_EMIT` names a folder, what was found and the models that were made go to `suite` in it,
//! for `.ci/suite.py` to run before and after in other engines.

mod case;
mod found;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::common::{self, node};
use case::{Case, Run, cases};
use found::Found;
use qdq::check::{Severity, check};
use qdq::error::{Error, ErrorKind, Result};
use qdq::events::Silent;
use qdq::exec::{Runner, Tract};
use qdq::inspect::inspect;
use qdq::model::{InputSpec, Model, NodeExt, Tensor, attribute};
use qdq::pass::{self, Context, RaiseOpset};
use qdq::sample::{self, Sample};
use rayon::prelude::*;
use serde_json::json;

/// The opset that models are prepared for by default, and a new one that other engines run.
const PREPARED: [i64; 2] = [13, 25];

/// The opsets to raise to, the newest last.
const RAISED: [i64; 4] = [13, 21, 25, 28];

/// What must come of release 1.17.0, at the least: how many of its models are prepared at the first opset, and how many
/// of those the engine gives the expected outputs for.
const LEAST: (usize, usize) = (1400, 1000);

#[test]
fn every_model_of_the_backend_suite_is_kept_raised_and_run() {
    let Some(suite) = std::env::var_os("QDQ_SUITE").map(PathBuf::from).filter(|p| p.is_dir()) else {
        return eprintln!("skipped: QDQ_SUITE names no folder of ONNX's backend tests");
    };
    let older = std::env::var_os("QDQ_SUITE_OLDER").unwrap_or_default();
    let older = std::env::split_paths(&older).filter(|p| !p.as_os_str().is_empty());
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !qdq::exec::guards_panics() {
            loud(panic);
        }
    }));
    let mut seen = HashSet::new();
    let mut faults = Vec::new();
    for data in std::iter::once(suite).chain(older) {
        let release = release_of(&data);
        let all = cases(&data);
        let new: Vec<&Case> = all.iter().filter(|c| seen.insert(std::fs::read(&c.path).unwrap())).collect();
        let emitted = emitted_folder(&release);
        // One model a task: the few large ones stand side by side.
        let found: Vec<(Found, serde_json::Value)> =
            new.par_iter().with_max_len(1).map(|case| examine(case, emitted.as_deref())).collect();
        let (found, index): (Vec<Found>, Vec<_>) = found.into_iter().unzip();
        let title = format!("Suite of onnx {release}: {} models, {} of them new here", all.len(), new.len());
        let text = found::text(&title, &rows(), &found);
        println!("\n{text}");
        if let Some(folder) = &emitted {
            std::fs::write(folder.join("index.json"), serde_json::Value::from(index).to_string()).unwrap();
            std::fs::write(folder.join("found.txt"), text).unwrap();
        }
        if release == "1.17.0" {
            let counts = found::counts(&found);
            assert_eq!(all.len(), 1437);
            assert!(counts[&*prepared_row(PREPARED[0])] >= LEAST.0 && counts["equal"] >= LEAST.1, "{counts:?}");
        }
        for (case, found) in new.iter().zip(&found) {
            faults.extend(found.faults.iter().map(|fault| format!("{release} {}: {fault}", case.name)));
        }
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

/// Changes of form that no model of the releases has behind it: models that do, for the other engines.
#[test]
fn changes_that_the_suite_lacks_are_raised_too() {
    let Some(folder) = emitted_folder("made") else { return };
    let x = [1, 2, 4, 4];
    let pool = node("LpPool", "x", "y", &[attribute::ints("kernel_shape", &[2, 2]), attribute::int("p", 3)]);
    let made = [
        ("LpPool", common::model(11, &x, vec![pool], vec![], &[("y", &[1, 2, 3, 3])])),
        ("Attention", common::model(23, &x, vec![node("Attention", "x x x", "y", &[])], vec![], &[("y", &x)])),
    ];
    let index = made.map(|(name, model)| {
        let file = |what: &str| folder.join(format!("{name}.{what}.onnx"));
        std::fs::write(file("model"), model.to_bytes().unwrap()).unwrap();
        let forms = RAISED.into_iter().filter(|&o| o > model.opset()).map(|opset| {
            let file = file(&opset.to_string());
            std::fs::write(&file, raised(&model, opset).unwrap().to_bytes().unwrap()).unwrap();
            json!({"what": "raised", "opset": opset, "file": file})
        });
        json!({
            "name": name, "model": file("model"), "sets": [], "expected": false, "rtol": 1e-3, "atol": 1e-7,
            "opset": model.opset(), "doubtful": false, "forms": forms.collect::<Vec<_>>(),
        })
    });
    std::fs::write(folder.join("index.json"), json!(index).to_string()).unwrap();
}

/// The folder for what other engines are to run, if the environment names one.
fn emitted_folder(name: &str) -> Option<PathBuf> {
    let folder = Path::new(&std::env::var_os("QDQ_EMIT")?).join("suite").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    Some(folder)
}

/// The version of the package that the folder belongs to, as its metadata beside it tells.
fn release_of(data: &Path) -> String {
    let packages = data.ancestors().nth(4).unwrap();
    let names = std::fs::read_dir(packages).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let version = |name: String| Some(name.strip_prefix("onnx-")?.strip_suffix(".dist-info")?.to_owned());
    names.into_iter().find_map(version).unwrap_or_else(|| panic!("{packages:?} holds no package `onnx`"))
}

fn prepared_row(opset: i64) -> String {
    format!("prepared at opset {opset}")
}

fn raised_row(opset: i64) -> String {
    format!("raised to opset {opset}")
}

/// The rows of the counts, in their order.
fn rows() -> Vec<String> {
    let mut rows: Vec<String> = ["byte-identical", "inspected", "test data read"].map(str::to_owned).into();
    rows.extend(PREPARED.map(prepared_row));
    rows.extend(["run", "equal"].map(str::to_owned));
    rows.extend(RAISED.map(raised_row));
    rows
}

/// Puts a model through everything; says what was found, and how other engines find what was made.
fn examine(case: &Case, emitted: Option<&Path>) -> (Found, serde_json::Value) {
    let mut found = Found::default();
    let bytes = std::fs::read(&case.path).unwrap();
    let model = Model::read(&case.path).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    found.hold("byte-identical", model.to_bytes().unwrap() == bytes);
    let shown = inspect(&model).map(|i| qdq::report::text(&i.tables(), Some(100)));
    found.hold("inspected", shown.is_ok_and(|text| text.contains("\noperators")));

    let mut forms = Vec::new();
    let sound = errors(&model).is_empty();
    let mut unsound = Vec::new();
    let mut keep = |what: &str, opset: i64, made: &Model| {
        if sound {
            unsound.extend(errors(made).into_iter().map(|e| format!("{what} to opset {opset}: {e}")));
        }
        if let Some(folder) = emitted {
            let file = folder.join(format!("{}.{what}.{opset}.onnx", case.name.replace('/', ".")));
            std::fs::write(&file, made.to_bytes().unwrap()).unwrap();
            forms.push(json!({"what": what, "opset": opset, "file": file}));
        }
    };
    let mut ready = Vec::new();
    for opset in PREPARED {
        match prepared(&model, opset) {
            Ok(made) => {
                found.count(prepared_row(opset));
                keep("prepared", opset, &made);
                ready.push(opset);
            }
            Err(e) => refused(&mut found, prepared_row(opset), &model, &e),
        }
    }
    for opset in RAISED.into_iter().filter(|&o| o > model.opset()) {
        match raised(&model, opset) {
            Ok(made) => {
                found.count(raised_row(opset));
                keep("raised", opset, &made);
            }
            Err(e) => refused(&mut found, raised_row(opset), &model, &e),
        }
    }
    found.faults.extend(unsound);
    let doubtful = match case.runs(&model) {
        Ok(runs) => {
            read_by_the_library(case, &model, &runs, &mut found);
            run_all(case, &model, &runs, &ready, &mut found)
        }
        Err(why) => {
            found.leave_out("run", why, operators(&model));
            false
        }
    };
    let index = json!({
        "name": case.name, "model": case.path, "sets": case.sets, "expected": true, "rtol": case.rtol, "atol": case.atol,
        "opset": model.opset(), "doubtful": doubtful, "forms": forms,
    });
    (found, index)
}

/// The errors that the model has by the rules of ONNX.
fn errors(model: &Model) -> Vec<String> {
    let found = check(&model.to_proto(), None);
    let errors = found.findings.iter().filter(|f| f.severity == Severity::Error);
    errors.map(|f| format!("{}: {}", f.place, f.message)).collect()
}

/// Notes what could not be made; it is a fault where that is not said in a way that helps.
fn refused(found: &mut Found, row: String, model: &Model, e: &Error) {
    let text = e.to_string();
    if e.kind() != ErrorKind::Unsupported || e.way_out().is_none() {
        found.faults.push(format!("not {row}: {text}"));
    }
    // `pass: node (operator): why`, with names that differ from model to model.
    let why = text.rsplit("): ").next().unwrap_or(&text).to_owned();
    found.leave_out(row, why, operator_in(model, &text));
}

/// Holds the library's own reading of test data against what the files hold.
fn read_by_the_library(case: &Case, model: &Model, runs: &[Run], found: &mut Found) {
    let Some(folder) = case.path.parent().filter(|_| !case.sets.is_empty()) else { return };
    let specs = InputSpec::all(&model.graph).unwrap();
    match sample::open(folder.to_str().unwrap(), &Default::default(), &specs, &Silent) {
        Ok(samples) => {
            let same = |(i, run): (usize, &Run)| samples.get(i).is_ok_and(|s| s == run.sample);
            found.hold("test data read", samples.len() == runs.len() && runs.iter().enumerate().all(same));
        }
        Err(e) => {
            let empty = runs.iter().flat_map(|r| &r.sample.inputs).any(Tensor::is_empty);
            let why = if empty { "an input without elements" } else { "the model has no input" };
            if !empty && !specs.is_empty() {
                found.faults.push(format!("its test data are not read: {e}"));
            }
            found.leave_out("test data read", why, operators(model));
        }
    }
}

/// What came of running a model on all its test data.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The outputs are the expected ones.
    Right,
    /// They are not, and where.
    Wrong(String),
    /// The engine could not run it, and why.
    Failed(String),
}

/// Runs the model as it is and as it was prepared; returns whether the engine may be to blame for wrong outputs.
///
/// Engines want shapes, axes and the like to be constant, which the suite feeds: where nothing can be run as it is, the
/// inputs from the second on become constants, and then all of them.
fn run_all(case: &Case, model: &Model, runs: &[Run], ready: &[i64], found: &mut Found) -> bool {
    if ready.is_empty() {
        return false;
    }
    let inputs = runs.iter().map(|r| r.sample.inputs.len()).max().unwrap_or(0);
    let mut fed = vec![inputs, 1, 0];
    fed.retain(|&n| n <= inputs);
    fed.dedup();
    let mut why = String::new();
    for n in fed {
        let before = run(case, model, runs, n, &|m| Ok(m.clone()));
        let after: Vec<(i64, Outcome)> =
            ready.iter().map(|&opset| (opset, run(case, model, runs, n, &|m| prepared(m, opset)))).collect();
        if let Some((_, Outcome::Failed(e))) = after.iter().find(|(_, o)| matches!(o, Outcome::Failed(_))) {
            if before == Outcome::Right {
                found.faults.push(format!("runs no longer: {e}"));
            }
            why.clone_from(e);
            continue;
        }
        found.count("run");
        if let Some((opset, wrong)) = after.iter().find(|(_, o)| *o != Outcome::Right) {
            if before == Outcome::Right {
                found.faults.push(format!("no longer right at opset {opset}: {wrong:?}"));
            }
            found.leave_out("equal", "the engine is wrong, before and after", operators(model));
            return true;
        }
        found.count("equal");
        return false;
    }
    let class = match () {
        () if why.contains("panicked") => "the engine panics",
        () if why.contains("Unimplemented(") => "the engine has no such operator",
        () => "the engine does not run this form",
    };
    found.leave_out("run", class, operator_in(model, &why));
    false
}

/// Runs what `make` makes of the model whose inputs from `fed` on are constants.
fn run(case: &Case, model: &Model, runs: &[Run], fed: usize, make: &dyn Fn(&Model) -> Result<Model>) -> Outcome {
    let outputs = |run: &Run| -> Result<Vec<Tensor>> {
        let mut model = model.clone();
        for (spec, value) in InputSpec::all(&model.graph)?.iter().zip(&run.sample.inputs).skip(fed) {
            model.graph.drop_inputs(|_, name| name == spec.name);
            model.graph.set_initializer(value.to_proto(&spec.name));
            model.allow_constants();
        }
        let sample = Sample { inputs: run.sample.inputs[..fed].to_vec() };
        Runner::new(&Tract, &make(&model)?, Vec::new())?.worker().outputs(&sample)
    };
    for run in runs {
        match outputs(run).map(|got| case.difference(&run.expected, &got)) {
            Err(e) => return Outcome::Failed(e.to_string()),
            Ok(Some(why)) => return Outcome::Wrong(why),
            Ok(None) => {}
        }
    }
    Outcome::Right
}

/// The model as it is made ready to be quantized into nodes of that opset.
fn prepared(model: &Model, opset: i64) -> Result<Model> {
    let mut model = model.clone();
    let mut cx = Context::new(Some(&Tract), &Silent);
    for pass in pass::exact(opset) {
        pass::run(pass.as_ref(), &mut model, &mut cx)?;
    }
    Ok(model)
}

/// The model at a later opset.
fn raised(model: &Model, opset: i64) -> Result<Model> {
    let mut model = model.clone();
    pass::run(&RaiseOpset { to: opset }, &mut model, &mut Context::new(None, &Silent))?;
    Ok(model)
}

/// The operator of the model, if it has only one.
fn operators(model: &Model) -> String {
    let mut all: Vec<String> = model.graph.nodes().map(|(_, n)| n.operator()).collect();
    all.sort();
    all.dedup();
    if all.len() == 1 { all.remove(0) } else { "several".to_owned() }
}

/// The operator of the node that a message names, else that of the model.
fn operator_in(model: &Model, message: &str) -> String {
    if let Some((_, rest)) = message.split_once("Unimplemented(") {
        return rest.split(')').next().unwrap_or_default().to_owned();
    }
    let named = |n: &&qdq::model::NodeProto| {
        let names = [n.name(), n.output_at(0).unwrap_or_default()];
        message.contains(&n.label()) || names.iter().any(|name| message.contains(&format!("\"{name}\"")))
    };
    let node = model.graph.nodes().map(|(_, n)| n).find(named);
    node.map_or_else(|| operators(model), NodeExt::operator)
}
