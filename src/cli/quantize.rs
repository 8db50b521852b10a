//! `qdq quantize`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use qdq::error::{Error, ErrorKind, Result};
use qdq::exec::Tract;
use qdq::model::{InputSpec, Model, Scratch, folder_of};
use qdq::number::{Format, Range};
use qdq::observe::Method;
use qdq::plan::{Patterns, Policy, Steps, Switch};
use qdq::quantize::{Quantized, Recipe, Source, quantize_from, quantize_weights};
use qdq::round::Rounding;
use qdq::sample::Samples;
use qdq::target::Target;

use super::calibrate::read_ranges;
use super::data::HowArgs;
use super::gate::Gate;
use super::memory;
use super::output;
use super::print::FormArgs;
use super::progress::Progress;
use super::write::WriteArgs;

/// Quantizes a float model to INT8, or fewer bits, and proves it by running both.
///
/// Calibrates with samples, decides for each node and value whether and how to quantize, inserts
/// QuantizeLinear and DequantizeLinear, writes a standard ONNX model, runs it beside the float one on samples that were
/// held back, and says how far apart they are.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct QuantizeArgs {
    /// The float ONNX model
    model: PathBuf,

    /// Where the quantized model goes
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,

    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,

    /// What the model is for
    #[arg(long, value_name = "NAME", default_value = "ort-cpu", value_parser = target)]
    target: &'static Target,

    /// One scale for a whole weight, not one a channel
    #[arg(long)]
    per_tensor: bool,

    /// The format of activations [default: the target's]
    #[arg(long, value_name = "FORMAT", value_enum)]
    activations: Option<ActivationFormat>,

    /// Activations have their zero point in the middle of the format
    #[arg(long)]
    symmetric_activations: bool,

    /// The format of weights [default: the target's]
    #[arg(long, value_name = "FORMAT", value_enum)]
    weights: Option<WeightFormat>,

    /// How codes of fewer than 8 bits are stored
    #[arg(long, value_name = "FORM", value_enum, default_value = "native")]
    storage: StorageForm,

    /// One scale for N neighbours along the inputs of a weight, where it has as many; one a channel elsewhere, and for a
    /// MatMul of bytes whose input is quantized too
    #[arg(long, value_name = "N")]
    block_size: Option<NonZeroUsize>,

    /// Take what `qdq calibrate` learned instead of running samples
    #[arg(long, value_name = "FILE")]
    ranges: Option<PathBuf>,

    /// Take ranges of activations from what training left in batch normalizations; samples, if there are any, only verify
    #[arg(long, conflicts_with = "ranges")]
    data_free: bool,

    /// The range of an input, as the mode without data cannot know it: LOW,HIGH for the only input, or NAME=LOW,HIGH; may be
    /// given several times
    #[arg(long, value_name = "[NAME=]LOW,HIGH", allow_hyphen_values = true, requires = "data_free")]
    input_range: Vec<InputRange>,

    /// How ranges of activations are chosen: min-max, moving-average, percentile:99.999, entropy, mse (mse:2.4 for
    /// another norm), octav, aciq, mean:5, isotone, auto
    #[arg(long, value_name = "METHOD", default_value_t)]
    calibration: Method,

    /// How ranges of weights are chosen: min-max, percentile:99.999, entropy, mse, octav, aciq, mean:5 (so many times the
    /// mean magnitude), auto
    #[arg(long, value_name = "METHOD", default_value_t)]
    weight_clip: Method,

    /// How weights become codes: nearest, or by what that does to the outputs of their layers, as samples show: descent,
    /// gptq, adaround:300, stochastic:100, auto (the better of descent and gptq) [default: auto for formats of fewer than 8 bits
    /// where there are samples, else nearest]
    #[arg(long, value_name = "METHOD")]
    round: Option<Rounding>,

    /// Choose codes of weights in so many stages, from the input on: the first layers of each make good what they can of what
    /// those before it lost. Nearer, and two more runs of the samples a stage; 8 stages where no number is given
    #[arg(long, value_name = "STAGES", num_args = 0..=1, default_missing_value = "8")]
    sequential: Option<NonZeroUsize>,

    /// Quantize these operators only
    #[arg(long, value_name = "OP,OP", value_delimiter = ',')]
    ops: Option<Vec<String>>,

    /// Leave these nodes float: names or globs; may be given several times
    #[arg(long, value_name = "NODE|GLOB")]
    exclude: Vec<String>,

    /// Quantize these nodes only: names or globs; may be given several times
    #[arg(long, value_name = "NODE|GLOB")]
    only: Vec<String>,

    /// What is quantized: activations and weights, or weights alone
    #[arg(long, value_name = "MODE", default_value = "static")]
    mode: Mode,

    /// Where samples come from: a .npy, .npz or .safetensors file, a folder of JPEG or PNG images, a folder of ONNX
    /// test data, or random:N. The static mode needs some; with weights alone they only verify
    #[arg(long, value_name = "SOURCE", help_heading = "Samples")]
    data: Option<String>,

    #[command(flatten)]
    steps: StepArgs,

    #[command(flatten)]
    how: HowArgs,

    #[command(flatten)]
    write: WriteArgs,

    #[command(flatten)]
    gate: QuantizeGate,

    #[command(flatten)]
    form: FormArgs,
}

/// What is quantized.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Activations, by ranges seen in samples, and weights
    Static,
    /// Weights alone: needs no samples and little memory; everything computes in float
    Weights,
}

/// The range of an input.
#[derive(Clone)]
struct InputRange {
    name: Option<String>,
    range: Range,
}

impl FromStr for InputRange {
    type Err = String;

    fn from_str(text: &str) -> Result<InputRange, String> {
        let (name, ends) = match text.rsplit_once('=') {
            Some((name, ends)) => (Some(name.to_owned()), ends),
            None => (None, text),
        };
        let number = |x: &str| x.trim().parse::<f32>().ok();
        let range = ends.split_once(',').and_then(|(low, high)| {
            let (low, high) = (number(low)?, number(high)?);
            Range::new(low, high).filter(|_| low < high)
        });
        match range {
            Some(range) => Ok(InputRange { name, range }),
            None => Err("expected LOW,HIGH or NAME=LOW,HIGH, as in -2.2,2.7".to_owned()),
        }
    }
}

/// Steps toward accuracy.
#[derive(Args)]
#[command(next_help_heading = "Accuracy")]
struct StepArgs {
    /// Scale channels so that their ranges become alike; auto: where it helps in a trial
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    equalize: When,

    /// Move what a bias lifts far above a ReLU into the next layer; auto: where it helps in a trial
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    absorb_bias: When,

    /// End ranges of activations where batch normalizations let them end; auto: where it helps in a trial
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    limit_ranges: When,

    /// Take from biases what rounding the weights adds to the mean; auto: where it helps in a trial
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    correct_bias: When,
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    On,
    Off,
    Auto,
}

impl When {
    fn switch(self) -> Switch {
        match self {
            When::On => Switch::On,
            When::Off => Switch::Off,
            When::Auto => Switch::Auto,
        }
    }
}

impl StepArgs {
    fn steps(&self) -> Steps {
        Steps {
            equalize: self.equalize.switch(),
            absorb_bias: self.absorb_bias.switch(),
            limit_ranges: self.limit_ranges.switch(),
            correct_bias: self.correct_bias.switch(),
        }
    }
}

/// Gates.
#[derive(Args)]
#[command(next_help_heading = "Gates")]
struct QuantizeGate {
    /// Every output must reach this SQNR in dB, or qdq exits with 1
    #[arg(long, value_name = "DB", allow_hyphen_values = true)]
    min_sqnr: Option<f64>,

    /// At most this share of samples, in percent, may change their top-1 class
    #[arg(long, value_name = "PERCENT")]
    max_drop: Option<f64>,

    /// Write nothing when a gate is missed
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ActivationFormat {
    Uint8,
    Int8,
    Uint16,
    Int16,
}

#[derive(Clone, Copy, ValueEnum)]
enum WeightFormat {
    Int2,
    Uint2,
    Int3,
    Uint3,
    Int4,
    Uint4,
    Int8,
    Uint8,
}

/// How codes of fewer than 8 bits are stored.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StorageForm {
    /// As the element type of ONNX, packed; 3 bits, for which there is none, in a byte each
    Native,
    /// In a byte each, for runtimes that do not know the type
    Int8,
}

impl ActivationFormat {
    fn format(self) -> Format {
        match self {
            ActivationFormat::Uint8 => Format::UINT8,
            ActivationFormat::Int8 => Format::INT8,
            ActivationFormat::Uint16 => Format::UINT16,
            ActivationFormat::Int16 => Format::INT16,
        }
    }
}

impl WeightFormat {
    fn format(self) -> Format {
        match self {
            WeightFormat::Int2 => Format::INT2,
            WeightFormat::Uint2 => Format::UINT2,
            WeightFormat::Int3 => Format::INT3,
            WeightFormat::Uint3 => Format::UINT3,
            WeightFormat::Int4 => Format::INT4,
            WeightFormat::Uint4 => Format::UINT4,
            WeightFormat::Int8 => Format::INT8,
            WeightFormat::Uint8 => Format::UINT8,
        }
    }
}

const AFTER: &str = "\
Examples:
  qdq quantize model.onnx --data calib.npz -o model.int8.onnx
  qdq quantize model.onnx --data images/ --resize 256 --crop 224x224 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 -o model.int8.onnx
  qdq quantize model.onnx --data calib.npy --exclude '/head/*' --min-sqnr 20 -o model.int8.onnx
  qdq quantize model.onnx --ranges ranges.json --calibration entropy -o model.int8.onnx
  qdq quantize model.onnx --data-free --input-range -2.2,2.7 -o model.int8.onnx
  qdq quantize huge.onnx --mode weights -o huge.int8.onnx
  qdq quantize model.onnx --data calib.npz --weights uint4 -o model.int4.onnx

Exit codes:
  0  the model was written, and every gate was met
  1  a gate was missed; the model was written, unless --strict was given
  2  an error; nothing was written";

/// The target of that name.
pub fn target(name: &str) -> Result<&'static Target, String> {
    let names = || Target::ALL.map(|t| format!("`{}` ({})", t.name, t.about)).join(", ");
    Target::by_name(name).ok_or_else(|| format!("targets are {}", names()))
}

impl QuantizeArgs {
    /// Quantizes, writes, reports.
    pub fn run(self) -> Result<ExitCode> {
        output::check(Some(&self.model), &self.output, self.force, "the float model is needed to validate")?;
        let progress = Progress::new(self.form.quiet);
        let model = Model::read(&self.model)?;
        let place = || format!("`{}`", self.model.display());
        let samples = match &self.data {
            Some(source) => Some(self.how.open(source, &model, &progress)?),
            None => None,
        };
        let outcome = self.quantize(&model, samples.as_deref(), &progress);
        progress.finish();
        let mut quantized = outcome.map_err(|e| e.at(place()))?;
        let gate = Gate {
            min_sqnr: self.gate.min_sqnr,
            min_agreement: self.gate.max_drop.map(|drop| 1.0 - drop / 100.0),
            max_top1_drop: None,
        };
        let missed = gate.missed(&quantized.report.outputs, None);
        let write = missed.is_empty() || !self.gate.strict;
        if write {
            quantized.model.write(&self.output, &self.write.options())?;
        }
        quantized.report.peak_memory = memory::peak();
        let report = &quantized.report;
        self.form.print_beside(&self.output, report, || report.tables())?;
        if write && !self.form.quiet {
            eprintln!("wrote `{}`", self.output.display());
        }
        Ok(Gate::verdict(&missed))
    }

    fn quantize(&self, model: &Model, samples: Option<&dyn Samples>, progress: &Progress) -> Result<Quantized> {
        let policy = self.policy()?;
        if samples.is_none() && (self.gate.min_sqnr.is_some() || self.gate.max_drop.is_some()) {
            return Err(Error::new(ErrorKind::Usage, "a gate needs samples to measure by")
                .hint("say where samples come from with `--data SOURCE`"));
        }
        if self.mode == Mode::Weights {
            if self.ranges.is_some() {
                return Err(Error::new(ErrorKind::Usage, "weights alone need no ranges")
                    .hint("leave `--ranges` out, or `--mode weights`"));
            }
            let verify = samples.map(|s| (s, &Tract as _));
            // What is verified by running it fits memory; what is not may be larger.
            let scratch = samples.is_none().then(|| Scratch::new(folder_of(&self.output)));
            return quantize_weights(model, &policy, verify, scratch, progress);
        }
        let file = self.ranges.as_deref().map(read_ranges).transpose()?;
        let given = self.input_ranges(model)?;
        let source = match (&file, samples) {
            _ if self.data_free => Source::Statistics(&given, samples),
            (Some(file), samples) => Source::Ranges(file, samples),
            (None, Some(samples)) => Source::Samples(samples),
            (None, None) => {
                let what = "activations are quantized by what samples show, and there are none";
                return Err(Error::new(ErrorKind::Usage, what)
                    .hint("say where samples come from with `--data SOURCE`, go `--data-free`, or quantize `--mode weights` alone"));
            }
        };
        quantize_from(model, source, &Recipe { policy }, &Tract, progress)
    }

    /// The ranges that were given, by the names of the inputs.
    fn input_ranges(&self, model: &Model) -> Result<BTreeMap<String, Range>> {
        let inputs = InputSpec::all(&model.graph)?;
        let name = |given: &InputRange| match (&given.name, &inputs[..]) {
            (Some(name), _) => Ok(name.clone()),
            (None, [only]) => Ok(only.name.clone()),
            (None, _) => {
                let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
                Err(Error::new(ErrorKind::Usage, "`--input-range` does not say which input it means")
                    .hint(format!("write NAME=LOW,HIGH; the inputs are {}", names.join(", "))))
            }
        };
        self.input_range.iter().map(|given| Ok((name(given)?, given.range))).collect()
    }

    fn policy(&self) -> Result<Policy> {
        let mut policy = Policy::of(self.target);
        policy.per_channel &= !self.per_tensor;
        policy.steps = self.steps.steps();
        policy.symmetric_activations |= self.symmetric_activations;
        if let Some(a) = self.activations {
            policy.activations = a.format();
        }
        if let Some(w) = self.weights {
            policy.weights = w.format();
        }
        if self.storage == StorageForm::Int8 {
            policy.weights = policy.weights.widened();
        }
        policy.block_size = self.block_size;
        policy.calibration = self.calibration;
        policy.weight_clip = self.weight_clip;
        let shown = self.data.is_some() && self.ranges.is_none() && !self.data_free;
        policy.rounding = match self.round {
            Some(rounding) if rounding.needs_moments() && !shown => {
                let what = format!("`--round {rounding}` looks at what layers read, and no samples show it");
                return Err(Error::new(ErrorKind::Usage, what)
                    .hint("say where samples come from with `--data SOURCE`, without `--ranges` and `--data-free`"));
            }
            Some(rounding) => rounding,
            None if shown && policy.weights.bits < 8 => Rounding::AUTO,
            None => Rounding::Nearest,
        };
        if self.sequential.is_some() && !policy.rounding.needs_moments() {
            let what = "`--sequential` is about how codes are chosen by samples, and each weight takes the nearest";
            return Err(Error::new(ErrorKind::Usage, what).hint("choose codes, for instance with `--round auto`"));
        }
        policy.stages = self.sequential;
        policy.operators = self.ops.clone();
        policy.exclude = Patterns::new(&self.exclude)?;
        policy.only = Patterns::new(&self.only)?;
        policy.check_operators()?;
        policy.check_methods()?;
        Ok(policy)
    }
}
