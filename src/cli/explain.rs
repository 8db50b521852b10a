//! `qdq explain`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use qdq::error::{Error, Place, Result};
use qdq::exec::Tract;
use qdq::explain::{Findings, explain};
use qdq::inspect::quantization;
use qdq::model::{Graph, Model, NodeExt};
use qdq::plan;
use qdq::quantize::{Decision, Recipe, decide, decide_weights};

use super::gate::Gate;
use super::policy::{Mode, PolicyArgs};
use super::print::FormArgs;
use super::progress::Progress;
use super::target::TargetsArgs;

/// Says of every node, value and weight of a model whether it is quantized, how, and why; nothing is written.
///
/// The options are those of `quantize`, and so is what is decided. Without samples and ranges the scales and zero points of
/// activations are open, and no step toward accuracy is taken. Of a quantized model it says what is there.
#[derive(Args)]
#[command(after_help = AFTER, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ExplainArgs {
    #[command(subcommand)]
    other: Option<Other>,

    /// The ONNX model, float or quantized
    #[arg(required = true)]
    model: Option<PathBuf>,

    /// Say all that is known of one value, weight or node
    #[arg(long, value_name = "NAME")]
    value: Option<String>,

    /// Show what will keep runtimes from computing in integers, or cost accuracy: in a quantized model, or in what would be
    /// made of a float one
    #[arg(long, conflicts_with = "value")]
    lint: bool,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    gate: LintGate,

    #[command(flatten)]
    form: FormArgs,
}

/// What can be explained beside models.
#[derive(Subcommand)]
enum Other {
    /// What a target wants of a quantized model, as `qdq targets`
    Target(TargetsArgs),
}

/// The gate.
#[derive(Args)]
#[command(next_help_heading = "Gates")]
struct LintGate {
    /// There must be no finding, or qdq exits with 1
    #[arg(long, requires = "lint")]
    fail_on_lint: bool,
}

const AFTER: &str = "\
Examples:
  qdq explain model.onnx
  qdq explain model.onnx --data calib.npz --value layer1.add
  qdq explain model.onnx --ranges ranges.json --exclude '/head/*' --json
  qdq explain model.int8.onnx --markdown > model.md
  qdq explain model.int8.onnx --lint --fail-on-lint
  qdq explain target tensorrt

Exit codes:
  0  it was explained
  1  `--fail-on-lint` was given, and something was found
  2  the model could not be read, or the arguments are wrong";

impl ExplainArgs {
    /// Decides, and says what and why.
    pub fn run(mut self) -> Result<ExitCode> {
        if let Some(Other::Target(target)) = self.other.take() {
            return target.run();
        }
        let progress = Progress::new(self.form.quiet);
        let path = self.model.take().unwrap_or_default();
        let model = Model::read(&path)?;
        let place = || format!("`{}`", path.display());
        if self.lint {
            let findings = self.findings(&model, &progress);
            progress.finish();
            return self.show(&findings.at(place)?);
        }
        let decision = self.decide(&model, &progress);
        progress.finish();
        let decision = decision.at(place)?;
        let found = explain(&decision.model.graph, &decision.plan)?;
        match &self.value {
            Some(name) => {
                let about = found.about(name).map_err(|e| gone(e, &model.graph, name))?;
                self.form.print(&about, || about.tables())?;
            }
            None => self.form.print(&found, || found.tables())?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn findings(&self, model: &Model, progress: &Progress) -> Result<Findings> {
        match quantization(model)? {
            Some(_) => Findings::of_model(model, &self.policy.policy()?, progress),
            None => Findings::of_decision(&self.decide(model, progress)?, progress),
        }
    }

    fn show(&self, found: &Findings) -> Result<ExitCode> {
        self.form.print(found, || found.tables())?;
        let count = found.findings.len();
        let missed = (self.gate.fail_on_lint && count > 0).then(|| format!("{count} findings, and none may be"));
        Ok(Gate::verdict(missed.as_slice()))
    }

    fn decide(&self, model: &Model, progress: &Progress) -> Result<Decision> {
        let policy = self.policy.policy()?;
        match self.policy.mode {
            Mode::Weights => return decide_weights(model, &policy, plan::Mode::Weights, progress),
            Mode::Dynamic => return decide_weights(model, &policy, plan::Mode::Dynamic, progress),
            Mode::Static => {}
        }
        let samples = self.policy.samples(model, progress)?;
        let known = self.policy.known(model)?;
        let executor = self.policy.mask.engine(Box::new(Tract), model)?;
        decide(model, known.source(samples.as_deref()), &Recipe { policy }, executor.as_ref(), progress)
    }
}

/// Says of a name that the given model has and the prepared one has not where it went.
fn gone(e: Error, given: &Graph, name: &str) -> Error {
    let node = |n: &&str| given.nodes().any(|(_, node)| node.title() == *n);
    if given.producer(name).is_some() || given.is_constant(name) || node(&name) {
        return e.hint("the model had it, and it was folded into what stands around it before anything was decided");
    }
    e
}
