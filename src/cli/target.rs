//! `qdq targets`, and what `--target` takes.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use qdq::error::Result;
use qdq::target::{Target, list};

use super::print::{self, FormArgs};

/// Shows what a target wants of a quantized model, or lists the targets.
///
/// Whoever wants something else writes it as TOML: the keys that `--toml` prints, those of `based_on` where they are left out.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct TargetsArgs {
    /// The target, by name or TOML file; all are listed without
    #[arg(value_name = "NAME|FILE", value_parser = target)]
    target: Option<Arc<Target>>,

    /// Print TOML, as `--target` reads it
    #[arg(long, requires = "target", conflicts_with_all = ["json", "markdown"], help_heading = "Output")]
    toml: bool,

    #[command(flatten)]
    form: FormArgs,
}

const AFTER: &str = "\
Examples:
  qdq targets
  qdq targets tensorrt
  qdq targets tensorrt --toml > mine.toml
  qdq quantize model.onnx --data calib.npz --target mine.toml -o model.int8.onnx

A file may say no more than what is otherwise:
  based_on = \"tensorrt\"
  bias = \"int32\"

Exit codes:
  0  the target was shown
  2  there is no such target, or the file is wrong";

impl TargetsArgs {
    /// Prints the target, or the list.
    pub fn run(self) -> Result<ExitCode> {
        match &self.target {
            Some(target) if self.toml => print::data(&target.to_toml()?)?,
            Some(target) => self.form.print(&**target, || target.tables())?,
            None => self.form.print(&Target::all(), || list(&Target::all()))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The target of that name, or of that file where the name ends in `.toml`.
pub fn target(name: &str) -> Result<Arc<Target>, String> {
    let path = Path::new(name);
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) {
        let told = |e: qdq::error::Error| match e.way_out() {
            Some(hint) => format!("{e}; {hint}"),
            None => e.to_string(),
        };
        return Target::read(path).map(Arc::new).map_err(told);
    }
    let names = || Target::all().map(|t| t.name.as_str()).join(", ");
    let known = Target::by_name(name).map(|t| Arc::new(t.clone()));
    known.ok_or_else(|| format!("targets are {}, or a file that ends in .toml", names()))
}
