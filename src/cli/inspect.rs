//! `qdq inspect`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qdq::error::{Place, Result};
use qdq::exec::Tract;
use qdq::inspect::{SortKey, activations, diagnose, forecast, inspect};
use qdq::model::Model;
use qdq::number::WeightFormat;

use super::data::{HowArgs, MaskArgs};
use super::print::FormArgs;
use super::progress::Progress;

/// Shows what is in a model, and which weights are hard to quantize.
///
/// For each weight: its range, the spread of its channels, its kurtosis, and the SQNR that INT8 would leave with one
/// scale and with one scale a channel. Of a quantized model: scales and zero points, and what is quantized.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct InspectArgs {
    /// The ONNX model
    model: PathBuf,

    /// Sort the weights, the hardest first
    #[arg(long, value_name = "KEY", value_enum, default_value_t)]
    sort: SortKey,

    /// Show only the first N rows of each list
    #[arg(long, value_name = "N")]
    top: Option<usize>,

    /// Look closer at the weights: the SQNR at the best clip, and what equalizing channels would gain. Takes several times as
    /// long
    #[arg(long)]
    diagnose: bool,

    /// Show what each weight would lose in these formats, as `--weights` of quantize takes them: int8,int4/b32,mxfp4. Found by
    /// the weights alone, at the best clip; `qdq formats` lists the formats
    #[arg(long, value_name = "FORMAT,FORMAT", value_delimiter = ',')]
    formats: Vec<WeightFormat>,

    /// Run samples, and show the ranges of all activations: a .npy, .npz or .safetensors file, a folder of JPEG or PNG
    /// images, a folder of ONNX test data, or random:N
    #[arg(long, value_name = "SOURCE", help_heading = "Samples")]
    data: Option<String>,

    #[command(flatten)]
    how: HowArgs,

    #[command(flatten)]
    mask: MaskArgs,

    #[command(flatten)]
    form: FormArgs,
}

const AFTER: &str = "\
Examples:
  qdq inspect model.onnx
  qdq inspect model.onnx --sort spread --top 10
  qdq inspect model.onnx --diagnose --sort sqnr-tensor
  qdq inspect model.onnx --formats int8,int4,int4/b32,nf4,mxfp4
  qdq inspect model.onnx --data calib.npz
  qdq inspect model.int8.onnx --markdown > model.md
  qdq inspect model.onnx --json | jq '.weights[] | select(.sqnr_tensor_db < 20) | .node'

Exit codes:
  0  the model was shown
  2  it could not be read, or the arguments are wrong";

impl InspectArgs {
    /// Reads the model and prints what is in it.
    pub fn run(self) -> Result<ExitCode> {
        let model = Model::read(&self.model)?;
        let mut inspection = inspect(&model).map_err(|e| e.at(format!("`{}`", self.model.display())))?;
        if self.diagnose {
            inspection.with_diagnosis(&diagnose(&model, &Tract)?);
        }
        if !self.formats.is_empty() {
            inspection.with_forecast(forecast(&model, &self.formats)?);
        }
        if let Some(source) = &self.data {
            let progress = Progress::new(self.form.quiet);
            let samples = self.how.open(source, &model, &progress)?;
            let executor = self.mask.engine(Box::new(Tract), &model).at(|| format!("`{}`", self.model.display()))?;
            let rows = activations(&model, samples.as_ref(), executor.as_ref(), &progress);
            progress.finish();
            inspection.with_activations(rows?);
        }
        inspection.sort(self.sort);
        if let Some(n) = self.top {
            inspection.truncate(n);
        }
        self.form.print(&inspection, || inspection.tables())?;
        Ok(ExitCode::SUCCESS)
    }
}
