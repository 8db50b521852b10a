//! The rules of ONNX as a check of a model: [`check`] lists every place where one is broken.
//!
//! It looks at the message as it was decoded, so that it can speak of models that [`Model::read`] refuses.
//! The rules of names are those of [`Graph::check`](crate::model::Graph::check), from the same [`Names`]; what operators
//! take is [`schema`](crate::schema).
//!
//! # Rules
//!
//! Errors break the specification (docs/IR.md and the comments in onnx.proto), or are refused by every runtime:
//!
//! | of | rules |
//! |---|---|
//! | the model | `ir-version`, `opset-import`, `metadata`, `no-graph`, `nesting` |
//! | names | `graph-name`, `name-twice`, `shadowing`, `reads-nothing`, `order`, `graph-output`, `initializer-name`, `initializer-input` |
//! | nodes | `node`, `domain`, `operator`, `inputs`, `outputs`, `subgraph`, `type`, `value-type` |
//! | attributes | `attribute`, `attribute-twice`, `attribute-unknown`, `attribute-type`, `attribute-missing`, `attribute-reference` |
//! | tensors | `tensor-type`, `tensor-shape`, `tensor-data`, `tensor-size`, `external-data`, `sparse` |
//! | functions | `function`, `function-cycle`, `function-opset`, `call` |
//! | quantization | `scale`, `quantization-parameters`, `zero-point` |
//!
//! Warnings are allowed, and seldom meant: `scalar-scale`, `runtime`, `newer`, `experimental`, `domain-spelling`,
//! `node-name`, `output-twice`, `dimension`, `unused-initializer`, `unused-node`, `unused-functions`, `not-finite`,
//! `link`.
//!
//! # Beside `onnx.checker`
//!
//! A model has errors here where `onnx.checker.check_model` of `onnx` 1.23.2 refuses it, with these exceptions, which
//! `.ci/agreement.py` holds for the models of ONNX's backend tests and for mutants of them.
//!
//! Refused here, and not looked at by the checker:
//!
//! | rule | what |
//! |---|---|
//! | `type` | element types of inputs against those the operator takes (`full_check` infers some) |
//! | `scale`, `quantization-parameters`, `zero-point` | the numbers of QuantizeLinear and DequantizeLinear |
//! | `subgraph`, `call` | how many values go in and out of the subgraphs of If, Loop and Scan, and of functions |
//! | `tensor-size` | more data than the shape wants; less than the file has; 4-bit and 2-bit types in `int32_data`, of which the checker allows half |
//! | `tensor-type` | element types that ONNX does not have, when the data are raw |
//! | `attribute-reference` | a reference outside of functions, or to an attribute that the function does not have |
//! | `function` | outputs that nothing in the function produces |
//! | `operator` | operators that the preview domains do not have |
//! | `opset-import` | versions below 1 of domains that no node is of |
//! | `nesting` | subgraphs more than 64 deep |
//!
//! Refused by the checker, and not here:
//!
//! | what | why not |
//! |---|---|
//! | nodes whose domain is written `ai.onnx` | the specification says it is the empty one; `domain-spelling` warns |
//! | operators of ONNX's own domain that the model defines as functions | the specification leaves that to runtimes |
//! | external data behind links that stay in the folder, `..` inside of file names | nothing leaves the folder; `link` warns |
//!
//! Older checkers know less: that of 1.17.0 takes IR versions up to 10 and opsets up to 22, and does not look at sizes of
//! data, at duplicate or recursive functions, or at names of opaque types.

mod attribute;
mod function;
mod graph;
mod node;
mod quantized;
mod rules;
mod tensor;
mod types;
mod values;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::error::Result;
use crate::model::{External, Model, ModelProto};
use crate::proto::{FunctionProto, OperatorSetIdProto};
use crate::report::printable;
use crate::schema;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The model breaks a rule.
    Error,
    /// It is allowed, and seldom meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// Something that is wrong with a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The rule that is broken.
    pub rule: &'static str,
    /// Where, from the outside in: `If_0 > then_branch > Conv_3`. Nodes without a name are called as their first output.
    pub place: String,
    /// What: lower case, no final stop, names in backticks.
    pub message: String,
    /// The way out.
    pub hint: String,
}

/// What is wrong with a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// How many errors there are.
    pub errors: usize,
    /// How many warnings there are.
    pub warnings: usize,
    /// Errors, then warnings, each in the order of the model. Of more than 10,000 only so many are kept.
    pub findings: Vec<Finding>,
}

/// Findings beyond this many are counted and not kept: a model may be wrong in every byte.
const KEPT: usize = 10_000;
/// Messages and the names in places are not longer than this, in characters.
const LONGEST: usize = 400;
/// How deep subgraphs may be nested. Protobuf's own limit of 100 messages ends at 33.
const DEEPEST: usize = 64;

/// A rule.
struct Rule {
    name: &'static str,
    severity: Severity,
    hint: &'static str,
}

/// Checks the model in a file, with the data beside it. Errors where it cannot be decoded, as [`Model::read_proto`].
pub fn check_file(path: &Path) -> Result<Findings> {
    Ok(check(&Model::read_proto(path)?, Some(path)))
}

/// Checks a model; `file` is where it was read from: data in other files are looked for beside it, or not at all.
///
/// Every weight is read once, in parallel; the result does not depend on the number of threads. Time and memory are
/// bounded by the size of the model.
pub fn check(model: &ModelProto, file: Option<&Path>) -> Findings {
    let mut checker = Checker {
        ir: model.ir_version(),
        functions: HashMap::new(),
        external: file.map(External::beside),
        folder: file.and_then(Path::parent),
        found: Findings::default(),
        values: Vec::new(),
        links: Default::default(),
        spelled_out: false,
    };
    checker.model(model);
    checker.values();
    let mut found = checker.found;
    found.findings.sort_by_key(|f| f.severity);
    found
}

/// What the walk through a model carries along.
struct Checker<'m> {
    ir: i64,
    functions: HashMap<function::Id<'m>, &'m FunctionProto>,
    external: Option<External>,
    folder: Option<&'m Path>,
    found: Findings,
    /// The float tensors, to be read at the end.
    values: Vec<values::Numbers<'m>>,
    /// The links that were told of.
    links: std::collections::HashSet<&'m str>,
    /// Whether it was told that a domain is written `ai.onnx`.
    spelled_out: bool,
}

/// Where something is: a chain of names from the inside out.
#[derive(Clone, Copy)]
struct Place<'a> {
    outer: Option<&'a Place<'a>>,
    name: &'a str,
}

impl<'a> Place<'a> {
    fn new(name: &'a str) -> Place<'a> {
        Place { outer: None, name }
    }

    /// A place inside of another, or of the model's graph.
    fn inside(outer: Option<&'a Place<'a>>, name: &'a str) -> Place<'a> {
        Place { outer, name }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(outer) = self.outer {
            write!(f, "{outer} > ")?;
        }
        f.write_str(&shown(self.name))
    }
}

/// Text as it may be shown: control characters as escapes, and not too long.
fn shown(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => printable(&text[..end]) + "…",
        None => printable(text),
    }
}

/// The versions of operator sets that a model or function imports, by domain; that of ONNX is the empty one.
#[derive(Default)]
struct Imports<'m>(HashMap<&'m str, i64>);

impl<'m> Imports<'m> {
    fn of(list: &'m [OperatorSetIdProto]) -> Imports<'m> {
        let mut imports = Imports::default();
        for import in list {
            // The specification binds nodes to the highest version.
            let version = imports.0.entry(normal(import.domain())).or_insert(import.version());
            *version = import.version().max(*version);
        }
        imports
    }

    fn version(&self, domain: &str) -> Option<i64> {
        self.0.get(normal(domain)).copied()
    }
}

/// A domain by its one name: `ai.onnx` is the empty one.
fn normal(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

impl<'m> Checker<'m> {
    fn add(&mut self, rule: &Rule, place: &Place<'_>, message: impl AsRef<str>) {
        self.add_with_hint(rule, place, message, rule.hint);
    }

    fn add_with_hint(&mut self, rule: &Rule, place: &Place<'_>, message: impl AsRef<str>, hint: &str) {
        match rule.severity {
            Severity::Error => self.found.errors += 1,
            Severity::Warning => self.found.warnings += 1,
        }
        if self.found.findings.len() < KEPT {
            self.found.findings.push(Finding {
                severity: rule.severity,
                rule: rule.name,
                place: place.to_string(),
                message: shown(message.as_ref()),
                hint: hint.to_owned(),
            });
        }
    }

    fn model(&mut self, model: &'m ModelProto) {
        let place = Place::new("model");
        self.ir_version(&place);
        self.opset_imports(model, &place);
        let mut keys = std::collections::HashSet::new();
        for key in model.metadata_props.iter().map(|p| p.key()).filter(|k| !keys.insert(*k)) {
            self.add(&rules::METADATA, &place, format!("two entries of its metadata have the key `{key}`"));
        }
        let mut imports = Imports::of(&model.opset_import);
        if self.ir < 3 && imports.0.is_empty() {
            imports.0.insert("", 1);
        }
        self.functions = model.functions.iter().map(|f| (function::id_of(f), f)).collect();
        match &model.graph {
            Some(graph) => drop(self.graph(graph, None, None, &graph::Around::model(&imports))),
            None => self.add(&rules::NO_GRAPH, &place, "it has no graph"),
        }
        self.model_functions(model, imports);
    }

    fn ir_version(&mut self, place: &Place<'_>) {
        let newest = crate::proto::Version::IrVersion as i64;
        match self.ir {
            0 => self.add(&rules::IR_VERSION, place, "it states no IR version"),
            ..0 => self.add(&rules::IR_VERSION, place, format!("{} is no IR version", self.ir)),
            ir if ir > newest => {
                let why = format!("IR version {ir} is newer than {newest}, the newest that is known");
                self.add_with_hint(&rules::IR_VERSION, place, why, rules::NEWER.hint);
            }
            ir if ir > RUNTIME_IR => {
                let why = format!("IR version {ir} is newer than {RUNTIME_IR}, the newest that ONNX Runtime 1.31 reads");
                self.add(&rules::RUNTIME, place, why);
            }
            _ => {}
        }
    }

    fn opset_imports(&mut self, model: &ModelProto, place: &Place<'_>) {
        let imports = &model.opset_import;
        match (self.ir, imports.is_empty()) {
            (3.., true) => self.add(&rules::OPSET_IMPORT, place, "it imports no operator set"),
            (..3, false) => {
                let why = format!("it imports operator sets, which IR version {} does not know", self.ir);
                self.add(&rules::OPSET_IMPORT, place, why);
            }
            _ => {}
        }
        let mut versions = HashMap::new();
        for import in imports {
            let (domain, version) = (normal(import.domain()), import.version());
            let name = if domain.is_empty() { "ai.onnx" } else { domain };
            if !(1..=i64::from(i32::MAX)).contains(&version) {
                self.add(&rules::OPSET_IMPORT, place, format!("{version} is no version of domain `{name}`"));
                continue;
            }
            if versions.insert(domain, version).is_some_and(|before| before != version) {
                self.add(&rules::OPSET_IMPORT, place, format!("it imports two versions of domain `{name}`"));
            }
            let Some(known) = schema::domain(domain) else { continue };
            if version > known.newest {
                let why = format!("it imports version {version} of domain `{name}`; {} is checked", known.newest);
                self.add(&rules::NEWER, place, why);
            } else if domain.is_empty() && !RUNTIME_OPSETS.contains(&version) {
                let (oldest, newest) = (RUNTIME_OPSETS.start(), RUNTIME_OPSETS.end());
                let why = format!("ONNX Runtime 1.31 reads opset {oldest} to {newest}, and the model states {version}");
                self.add(&rules::RUNTIME, place, why);
            }
        }
    }
}

/// The opsets of ONNX's own domain that ONNX Runtime 1.31 reads: it promises nothing below 7, and refuses those past 26.
const RUNTIME_OPSETS: std::ops::RangeInclusive<i64> = 7..=26;
/// The newest IR version that ONNX Runtime 1.31 reads.
const RUNTIME_IR: i64 = 13;
