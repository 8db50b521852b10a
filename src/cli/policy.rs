//! The options that say how to quantize, and what.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use qdq::calibrate::RangesFile;
use qdq::error::{Error, ErrorKind, Result};
use qdq::events::Events;
use qdq::model::{InputSpec, Model};
use qdq::number::{Format, Range, ScaleForm, Share, WeightFormat};
use qdq::observe::Method;
use qdq::plan::{Patterns, Policy, Steps, StorageForm, Switch};
use qdq::quantize::Source;
use qdq::round::Rounding;
use qdq::sample::Samples;
use qdq::target::Target;

use super::calibrate::read_ranges;
use super::data::{HowArgs, MaskArgs};
use super::target::target;

/// How to quantize, what, and by what samples.
#[derive(Args)]
pub struct PolicyArgs {
    /// What the model is for: a name that `qdq targets` lists, or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "ort-cpu", value_parser = target)]
    target: Arc<Target>,

    /// One scale for a whole weight, not one a channel
    #[arg(long)]
    per_tensor: bool,

    /// The format of activations; auto: the target's, but for values that are measured to lose too much in it, which get 16
    /// bits, or stay float where the target has no use for these; powers of two, or of its root, are simulated in float
    /// [default: the target's]
    #[arg(long, value_name = "FORMAT", value_enum)]
    activations: Option<ActivationFormat>,

    /// Activations have their zero point in the middle of the format
    #[arg(long)]
    symmetric_activations: bool,

    /// Scales of activations are powers of two
    #[arg(long)]
    power_activations: bool,

    /// The format of weights, as `qdq formats` lists them: int4, int4/b32, int4/g16, nf4, mxfp4, kmeans4, ... [default: the
    /// target's]
    #[arg(long, value_name = "FORMAT", value_parser = weight_format)]
    weights: Option<WeightFormat>,

    /// How weights are stored
    #[arg(long, value_name = "FORM", value_enum, default_value = "native")]
    storage: Storage,

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
    /// those before it lost, and scales are refined with the codes in turn. Nearer, and two more runs of the samples a stage; 8
    /// stages where no number is given
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

    /// What is quantized, and by what
    #[arg(long, value_name = "MODE", default_value = "static")]
    pub mode: Mode,

    /// Where samples come from: a .npy, .npz or .safetensors file, a folder of JPEG or PNG images, a folder of ONNX
    /// test data, or random:N. To quantize in the static mode takes some; the others are verified by them, and round weights by
    /// them where `--round` asks for it
    #[arg(long, value_name = "SOURCE", help_heading = "Samples")]
    data: Option<String>,

    #[command(flatten)]
    steps: StepArgs,

    #[command(flatten)]
    how: HowArgs,

    #[command(flatten)]
    pub mask: MaskArgs,
}

/// What is quantized.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Activations, by ranges seen in samples, and weights
    Static,
    /// Weights, and what Conv, Gemm and MatMul read, by the range it has in each run: needs no samples
    Dynamic,
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

/// What is known of activations before samples are run.
pub struct Known {
    file: Option<RangesFile>,
    inputs: Option<BTreeMap<String, Range>>,
}

impl Known {
    /// Where ranges come from, with these samples; `None` if from nowhere.
    pub fn source<'a>(&'a self, samples: Option<&'a dyn Samples>) -> Option<Source<'a>> {
        match (&self.inputs, &self.file) {
            (Some(inputs), _) => Some(Source::Statistics(inputs, samples)),
            (None, Some(file)) => Some(Source::Ranges(file, samples)),
            (None, None) => samples.map(Source::Samples),
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

    /// Divide channels of activations that MatMul and Gemm read, and multiply their weights (SmoothQuant); auto: where it helps in
    /// a trial. With `--mode weights` and samples by what codes of weights alone lose (AWQ); auto is off there, since it leaves
    /// a Mul where no normalization takes the factors, and gains little behind `--round auto`
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    smooth: When,

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
            smooth: self.smooth.switch(),
            limit_ranges: self.limit_ranges.switch(),
            correct_bias: self.correct_bias.switch(),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum ActivationFormat {
    Uint8,
    Int8,
    Uint16,
    Int16,
    Fp8e4m3,
    Fp8e5m2,
    #[value(name = "pow2-3")]
    Pow2B3,
    #[value(name = "pow2-4")]
    Pow2B4,
    #[value(name = "pow2-5")]
    Pow2B5,
    #[value(name = "sqrt2-4")]
    Sqrt2B4,
    #[value(name = "sqrt2-5")]
    Sqrt2B5,
    #[value(name = "sqrt2-6")]
    Sqrt2B6,
    Auto,
}

/// How weights are stored.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Storage {
    /// In the element types and attributes of ONNX, packed; where there are none for so many bits, in a byte each
    Native,
    /// As native, but for integers of fewer than 8 bits: in a byte each, for runtimes that do not know the type
    Int8,
    /// In bytes, float scales and operators of opset 13, whatever the format: runs wherever these do, with the same numbers
    Portable,
}

/// A format of weights by its name.
fn weight_format(name: &str) -> Result<WeightFormat, String> {
    name.parse().map_err(|e: Error| match e.way_out() {
        Some(hint) => format!("{e}; {hint}"),
        None => e.to_string(),
    })
}

impl ActivationFormat {
    /// The format; `None` where it is left to measuring.
    fn format(self) -> Option<Format> {
        match self {
            ActivationFormat::Uint8 => Some(Format::UINT8),
            ActivationFormat::Int8 => Some(Format::INT8),
            ActivationFormat::Uint16 => Some(Format::UINT16),
            ActivationFormat::Int16 => Some(Format::INT16),
            ActivationFormat::Fp8e4m3 => Some(Format::E4M3FN),
            ActivationFormat::Fp8e5m2 => Some(Format::E5M2),
            ActivationFormat::Pow2B3 => Some(Format::POWERS[0]),
            ActivationFormat::Pow2B4 => Some(Format::POWERS[1]),
            ActivationFormat::Pow2B5 => Some(Format::POWERS[2]),
            ActivationFormat::Sqrt2B4 => Some(Format::POWERS[3]),
            ActivationFormat::Sqrt2B5 => Some(Format::POWERS[4]),
            ActivationFormat::Sqrt2B6 => Some(Format::POWERS[5]),
            ActivationFormat::Auto => None,
        }
    }
}

impl PolicyArgs {
    /// Opens the samples, if there are any.
    pub fn samples(&self, model: &Model, events: &dyn Events) -> Result<Option<Box<dyn Samples>>> {
        self.data.as_ref().map(|source| self.how.open(source, model, events)).transpose()
    }

    /// What is known of activations: a file of ranges, or ranges of inputs.
    pub fn known(&self, model: &Model) -> Result<Known> {
        let inputs = self.data_free.then(|| self.input_ranges(model)).transpose()?;
        Ok(Known { file: self.ranges.as_deref().map(read_ranges).transpose()?, inputs })
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

    /// How to quantize, and what. Errors when the options contradict each other.
    pub fn policy(&self) -> Result<Policy> {
        let no_ranges = match self.mode {
            Mode::Static => None,
            Mode::Dynamic => Some(("activations take the range of each run, and need no other", "`--mode dynamic`")),
            Mode::Weights => Some(("weights alone need no ranges", "`--mode weights`")),
        };
        let given = [(self.ranges.is_some(), "`--ranges`"), (self.data_free, "`--data-free`")];
        if let (Some((what, mode)), Some((_, option))) = (no_ranges, given.into_iter().find(|(given, _)| *given)) {
            return Err(Error::new(ErrorKind::Usage, what).hint(format!("leave {option} out, or {mode}")));
        }
        let mut policy = Policy::of(&self.target);
        policy.steps = self.steps.steps();
        policy.symmetric_activations |= self.symmetric_activations;
        policy.power_activations = self.power_activations;
        if let Some(a) = self.activations {
            policy.activations = a.format().unwrap_or(policy.activations);
            policy.choose_activations = a.format().is_none();
        }
        if let Some(w) = &self.weights {
            if let (Share::Block(size), Some(other), false) = (w.share, self.block_size, w.scales == ScaleForm::Float) {
                let what = format!("`{w}` has blocks of {size}, not of {other}");
                return Err(Error::new(ErrorKind::Usage, what).hint("leave out `--block-size`"));
            }
            policy.set_weight_format(w);
        }
        policy.storage = if self.storage == Storage::Portable { StorageForm::Portable } else { StorageForm::Native };
        if self.storage != Storage::Native {
            policy.weights = policy.weights.widened();
        }
        policy.block_size = self.block_size.or(policy.block_size);
        policy.per_channel &= !self.per_tensor;
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
        policy.check_formats()?;
        Ok(policy)
    }
}
