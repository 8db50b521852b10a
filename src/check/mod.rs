//! The rules of ONNX as a check of a model: [`check`] lists every place where one is broken.
//!
//! It looks at the message as it was decoded, so that it can speak of models that [`Model::read`] refuses.
//! The rules of names are those of [`Graph::check`](crate::model::Graph::check), from the same
//! [`Names`](crate::model::Names); what operators take is [`schema`](crate::schema).
//!
//! # Rules
//!
//! Errors break the specification (docs/IR.md and the comments in onnx.proto), or are refused by every runtime:
//!
//! | of | rules |
//! |---|---|
//! | the model | `ir-version`, `opset-import`, `metadata`, `no-graph`, `nesting` |
//! | names | `graph-name`, `name-twice`, `shadowing`, `reads-nothing`, `order`, `graph-output`, `initializer-name`, `initializer-input`, `hidden-initializer` |
//! | nodes | `node`, `domain`, `operator`, `inputs`, `outputs`, `subgraph`, `type`, `value-type` |
//! | attributes | `attribute`, `attribute-twice`, `attribute-unknown`, `attribute-type`, `attribute-missing`, `attribute-reference` |
//! | tensors | `tensor-type`, `tensor-shape`, `tensor-data`, `tensor-size`, `external-data`, `sparse` |
//! | functions | `function`, `function-cycle`, `function-opset`, `call` |
//! | quantization | `scale`, `quantization-parameters`, `zero-point` |
//!
//! Warnings are allowed, and seldom meant: `scalar-scale`, `runtime`, `import-twice`, `newer`, `experimental`,
//! `domain-spelling`, `node-name`, `output-twice`, `dimension`, `unused-initializer`, `unused-node`, `unused-functions`,
//! `not-finite`, `link`.
//!
//! # Beside `onnx.checker`
//!
//! A model has errors here where `onnx.checker.check_model` of `onnx` 1.23.2 refuses its file, but for what follows.
//! `.ci/agreement.py` holds this for the models of ONNX's backend tests and for mutants of them.
//!
//! Refused here; the checker does not look at it:
//!
//! | rule | what |
//! |---|---|
//! | `type` | the types of inputs against those the operator takes, and of values against those stated |
//! | `value-type` | element types of inputs and outputs that are undefined, or that ONNX does not have |
//! | `scale`, `quantization-parameters`, `zero-point` | the numbers of QuantizeLinear and DequantizeLinear |
//! | `subgraph`, `call` | how many values go through the subgraphs of If, Loop and Scan, and through functions |
//! | `tensor-size` | more data than the shape wants; data in other files; types of 4 and 2 bits in `int32_data`, of which the checker lets a part pass |
//! | `tensor-type` | element types that ONNX does not have, of raw data |
//! | `external-data` | offset and length; parts that overlap; paths with `..` that come back into the folder |
//! | `attribute-reference` | references outside of functions, to attributes that the function does not have, or beside a value |
//! | `function` | outputs that nothing in the function produces; attributes with and without a default |
//! | `operator` | operators that the preview domains do not have |
//! | `opset-import` | versions below 1 of domains that no node of ONNX's operators is of |
//! | `nesting` | subgraphs more than 64 deep |
//!
//! Refused by the checker, and not here:
//!
//! | what | why not |
//! |---|---|
//! | nodes, and imports of functions, whose domain is written `ai.onnx` | the specification says it is the empty one; `domain-spelling` warns |
//! | operators of ONNX's own domain that only a function of the model defines | the specification leaves them to runtimes |
//! | external data behind links, where they stay in the folder | nothing leaves the folder; `link` warns |
//! | external data in files with `..` in their name | nothing leaves the folder |
//! | attributes in subgraphs with a value and a `ref_attr_name` that is empty | the empty name refers to nothing |
//! | more than 10,000 functions | the specification has no limit |
//!
//! Where a domain is imported twice (`import-twice`), the checker takes the version that stands last, and this the
//! highest, as the specification says.
//!
//! The checker of `onnx` 1.17.0 knows IR versions up to 10 and opsets up to 22, does not look at sizes of data, negative
//! dimensions, links, opaque types, recursive functions or two functions of a name, and does not know a domain that is
//! imported as `ai.onnx`.

mod around;
mod attribute;
mod function;
mod graph;
mod model;
mod node;
mod quantized;
mod rules;
mod tensor;
mod types;
mod values;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::error::Result;
use crate::model::{External, Model, ModelProto};
use crate::proto::FunctionProto;
use crate::report::printable;

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
/// Messages and places are not longer than this, in characters.
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
        links: HashSet::new(),
        missing: HashSet::new(),
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
    functions: HashMap<around::Id<'m>, &'m FunctionProto>,
    external: Option<External>,
    folder: Option<&'m Path>,
    found: Findings,
    /// Float tensors to be read at the end.
    values: Vec<values::Numbers<'m>>,
    /// The links that were told of.
    links: HashSet<&'m str>,
    /// The domains that were told to be missing, by the function that does not import them.
    missing: HashSet<(Option<around::Id<'m>>, &'m str)>,
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
        f.write_str(&if self.name.is_empty() { "(no name)".to_owned() } else { shown(self.name) })
    }
}

/// Text as it may be shown: control characters as escapes, and the beginning and the end of what is too long.
fn shown(text: &str) -> String {
    let half = LONGEST / 2;
    match (text.char_indices().nth(half), text.char_indices().nth_back(half)) {
        (Some((head, _)), Some((tail, _))) if head < tail => printable(&text[..head]) + "…" + &printable(&text[tail..]),
        _ => printable(text),
    }
}

/// A number of things: `1 input`, `2 inputs`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
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
                place: shown(&place.to_string()),
                message: shown(message.as_ref()),
                hint: hint.to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests;
