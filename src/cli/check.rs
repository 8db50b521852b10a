//! `qdq check`.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qdq::check::{Findings, check_file};
use qdq::error::Result;
use qdq::report;

use super::print;

/// Checks whether a model keeps the rules of ONNX, and lists every place where it does not.
///
/// Errors break the specification, or no runtime takes them; warnings are allowed, and seldom meant. Names and their
/// order, operators and their attributes, element types, tensors and their data, functions, scales and zero points are
/// looked at, inside of subgraphs too.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct CheckArgs {
    /// The ONNX model
    model: PathBuf,

    /// Count warnings as errors
    #[arg(long)]
    strict: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

const AFTER: &str = "\
Examples:
  qdq check model.onnx
  qdq check model.onnx --strict
  qdq check model.onnx --json | jq -r '.findings[] | select(.rule == \"unused-node\") | .place'

Exit codes:
  0  no errors (with --strict: no warnings either)
  1  errors were found
  2  the file cannot be read, or the arguments are wrong";

impl CheckArgs {
    /// Checks and lists.
    pub fn run(self) -> Result<ExitCode> {
        let found = check_file(&self.model)?;
        print::data(&if self.json { report::json(&found)? } else { text(&found) })?;
        let bad = found.errors > 0 || (self.strict && found.warnings > 0);
        Ok(ExitCode::from(u8::from(bad)))
    }
}

/// A line a finding, its hint below it where that was not given before, and the counts.
fn text(found: &Findings) -> String {
    let mut text = String::new();
    let mut hints = HashSet::new();
    for f in &found.findings {
        let _ = writeln!(text, "{}: {}: {}", f.severity, f.place, f.message);
        if hints.insert(&f.hint) {
            let _ = writeln!(text, "hint: {}", f.hint);
        }
    }
    let missing = found.errors + found.warnings - found.findings.len();
    if missing > 0 {
        let _ = writeln!(text, "and {missing} more");
    }
    let count = |n: usize, what: &str| match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    let _ = writeln!(text, "{}, {}", count(found.errors, "error"), count(found.warnings, "warning"));
    text
}
