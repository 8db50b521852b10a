//! `qdq formats`.

use std::process::ExitCode;

use clap::Args;
use qdq::error::Result;
use qdq::number::WeightFormat;
use qdq::target::{FormatRow, format_table};

use super::print::FormArgs;

/// Lists the formats of weights: what they take, what runs them, and how near they come to numbers of known distributions.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct FormatsArgs {
    /// These formats only, as `--weights` takes them
    #[arg(value_name = "FORMAT")]
    formats: Vec<String>,

    #[command(flatten)]
    form: FormArgs,
}

const AFTER: &str = "\
Examples:
  qdq formats
  qdq formats int4 int4/b32 nf4 mxfp4 nvfp4
  qdq quantize model.onnx --weights nf4 --mode weights -o model.nf4.onnx

Exit codes:
  0  the formats were listed
  2  there is no such format";

impl FormatsArgs {
    /// Prints the list.
    pub fn run(self) -> Result<ExitCode> {
        let rows = match self.formats.is_empty() {
            true => FormatRow::all()?,
            false => self.formats.iter().map(|f| FormatRow::of(&f.parse::<WeightFormat>()?)).collect::<Result<_>>()?,
        };
        self.form.print(&rows, || format_table(&rows))?;
        Ok(ExitCode::SUCCESS)
    }
}
