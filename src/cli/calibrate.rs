//! `qdq calibrate`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use qdq::calibrate::RangesFile;
use qdq::error::{Error, ErrorKind, Place, Result};
use qdq::model::{Model, replace_file};
use qdq::plan::Policy;
use qdq::quantize::learn_ranges;
use qdq::sample::Share;
use qdq::target::Target;

use super::data::{HowArgs, MaskArgs};
use super::engine::EngineArgs;
use super::output;
use super::progress::Progress;
use super::target::target;

/// Runs samples through a float model and keeps what was seen of its values, for `qdq quantize --ranges`.
///
/// The file is JSON: histograms, exact extremes and moments of every value, from which every method makes its ranges. It
/// does not grow with the number of samples. Shares of the samples may be run on many machines of one kind; their files, merged in
/// any order, are the file of one run.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct CalibrateArgs {
    /// The float ONNX model
    #[arg(required_unless_present = "merge", conflicts_with = "merge")]
    model: Option<PathBuf>,

    /// Where the ranges go
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,

    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,

    /// Merge these files instead of running samples
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["data", "shard"])]
    merge: Vec<PathBuf>,

    /// What the model is for: a name that `qdq targets` lists, or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "ort-cpu", value_parser = target)]
    target: Arc<Target>,

    /// Where samples come from: a .npy, .npz or .safetensors file, a folder of JPEG or PNG images, a folder of ONNX
    /// test data, or random:N
    #[arg(long, value_name = "SOURCE", help_heading = "Samples", required_unless_present = "merge")]
    data: Option<String>,

    /// Run the i-th of n shares of the samples only
    #[arg(long, value_name = "I/N", help_heading = "Samples")]
    shard: Option<Share>,

    #[command(flatten)]
    how: HowArgs,

    #[command(flatten)]
    mask: MaskArgs,

    #[command(flatten)]
    engine: EngineArgs,

    /// No progress; warnings only
    #[arg(short, long)]
    quiet: bool,
}

const AFTER: &str = "\
Examples:
  qdq calibrate model.onnx --data calib.npz -o ranges.json
  qdq quantize model.onnx --ranges ranges.json --calibration mse -o model.int8.onnx
  qdq calibrate model.onnx --data images/ --shard 1/2 -o 1.json
  qdq calibrate model.onnx --data images/ --shard 2/2 -o 2.json
  qdq calibrate --merge 1.json 2.json -o ranges.json

Exit codes:
  0  the ranges were written
  2  an error; nothing was written";

impl CalibrateArgs {
    /// Calibrates or merges, and writes.
    pub fn run(self) -> Result<ExitCode> {
        output::check(self.model.as_deref(), &self.output, self.force, "the float model is needed to quantize")?;
        let learned = match (&self.model, &self.data) {
            (Some(model), Some(source)) => self.learn(model, source)?,
            _ => self.merged()?,
        };
        replace_file(&self.output, learned.to_json()?.as_bytes())?;
        if !self.quiet {
            let (values, samples) = (learned.ranges.iter().count(), learned.samples);
            eprintln!("wrote `{}`: {values} values, {samples} samples", self.output.display());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn learn(&self, path: &Path, source: &str) -> Result<RangesFile> {
        let executor = self.engine.executor()?;
        let progress = Progress::new(self.quiet);
        let model = Model::read(path)?;
        let samples = self.how.open(source, &model, &progress)?;
        let executor = self.mask.engine(executor, &model).at(|| format!("`{}`", path.display()))?;
        let share = self.shard.unwrap_or(Share::ALL);
        let policy = Policy::of(&self.target);
        let learned = learn_ranges(&model, samples.as_ref(), share, &policy, executor.as_ref(), &progress);
        progress.finish();
        learned.at(|| format!("`{}`", path.display()))
    }

    fn merged(&self) -> Result<RangesFile> {
        let mut all: Option<RangesFile> = None;
        for path in &self.merge {
            let file = read_ranges(path)?;
            match &mut all {
                Some(all) => all.merge(file).at(|| format!("`{}`", path.display()))?,
                None => all = Some(file),
            }
        }
        all.ok_or_else(|| Error::new(ErrorKind::Usage, "there is nothing to merge"))
    }
}

/// Reads a file of ranges; errors name it.
pub fn read_ranges(path: &Path) -> Result<RangesFile> {
    let text = std::fs::read_to_string(path).map_err(Error::io);
    text.and_then(|text| RangesFile::from_json(&text)).at(|| format!("`{}`", path.display()))
}
