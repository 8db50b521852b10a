//! The rewrites, one file each, and the runner that holds them to the rules.
//!
//! A pass reads the graph, edits it through its methods, and says of each node it had to leave alone why.

mod absorb_bias;
mod correct_bias;
mod dequantize;
mod drop_identity;
mod equalize;
mod fold_batch_norm;
mod fold_constants;
mod fold_gemm_scale;
mod freeze_inputs;
mod gather_codes;
mod inline_functions;
mod insert;
mod insert_dynamic;
mod layer_bias;
mod lift_constants;
mod look_up;
mod narrow;
mod pack_blocks;
mod raise_opset;
mod refusal;
mod rescale;
#[cfg(test)]
pub(crate) mod sketch;
mod smooth;
mod store;
mod to_qdq;
mod to_qoperator;
mod unique_names;
mod widen_float16;

use std::collections::BTreeMap;

use crate::calibrate::Statistics;
use crate::error::{Place, Result};
use crate::events::Events;
use crate::exec::Executor;
use crate::integer::Outcome;
use crate::model::{Model, NodeId, Scratch};

pub use absorb_bias::AbsorbBias;
pub use correct_bias::CorrectBias;
pub use dequantize::{DropPairs, Ends, ExpandInteger, FloatLstm, FoldCodes, dequantizing};
pub use drop_identity::DropIdentity;
pub use equalize::Equalize;
pub use fold_batch_norm::FoldBatchNorm;
pub use fold_constants::FoldConstants;
pub use fold_gemm_scale::FoldGemmScale;
pub use freeze_inputs::FreezeInputs;
pub use inline_functions::InlineFunctions;
pub use insert::Insert;
pub(crate) use layer_bias::has_bias;
pub use lift_constants::LiftConstants;
pub use narrow::{Narrow, Narrowed, Narrowing, Rounded, narrow, rounding};
pub use raise_opset::RaiseOpset;
pub use rescale::{Bounds, Rescale};
pub use smooth::{CodeNoise, Noise, Smooth, StepNoise};
pub use to_qdq::ToQdq;
pub use to_qoperator::ToQOperator;
pub use unique_names::UniqueNames;
pub use widen_float16::WidenFloat16;

/// What a pass does to the function of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Effect {
    /// The outputs stay the same bit for bit, or would with exact arithmetic in the same order.
    Same,
    /// The outputs stay the same up to float rounding.
    Rounding,
    /// The outputs change: that is the point.
    Lossy,
}

/// A rewrite of a model.
pub trait Pass {
    /// Its name in reports: `fold-batch-norm`.
    fn name(&self) -> &'static str;
    /// What it does to the function of the model.
    fn effect(&self) -> Effect;
    /// Whether it looks at one graph at a time. The bodies of If, Loop and Scan are then rewritten too, each as if it
    /// were the graph of a model, after the graph around it.
    fn enters_bodies(&self) -> bool {
        false
    }
    /// Does it.
    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()>;
}

/// What a pass may use beside the model, and where it says what it did.
pub struct Context<'a> {
    /// The engine, where there is one, for passes that compute.
    pub executor: Option<&'a dyn Executor>,
    /// Who listens.
    pub events: &'a dyn Events,
    /// Where codes wait to be written; `None` for in memory.
    pub scratch: Option<Scratch>,
    /// What was left alone, and why.
    pub skipped: Vec<Skipped>,
    /// How many places the present pass changed.
    pub changed: usize,
    /// How many nodes changed their form: from which operator into which.
    pub reformed: BTreeMap<(String, String), usize>,
    /// What is known of the values of the model, channel by channel: passes that find it out add to it, passes that
    /// change values change it alike.
    pub statistics: Statistics,
}

/// A node that a pass left alone.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// The pass.
    pub pass: &'static str,
    /// The node, as messages name it.
    pub node: String,
    /// Why.
    pub reason: String,
}

impl<'a> Context<'a> {
    /// A context in which nothing happened yet.
    pub fn new(executor: Option<&'a dyn Executor>, events: &'a dyn Events) -> Self {
        Context {
            executor,
            events,
            scratch: None,
            skipped: Vec::new(),
            changed: 0,
            reformed: BTreeMap::new(),
            statistics: Statistics::default(),
        }
    }

    /// Notes that the pass leaves a node alone.
    pub fn skip(&mut self, pass: &dyn Pass, model: &Model, node: NodeId, reason: impl Into<String>) {
        let (pass, node, reason) = (pass.name(), model.graph.label(node), reason.into());
        self.skipped.push(Skipped { pass, node, reason });
    }

    /// Notes what came of a node whose form the pass was to change.
    pub fn tell(&mut self, pass: &dyn Pass, outcome: Outcome) {
        match outcome.became {
            Ok(operator) => *self.reformed.entry((outcome.operator, operator)).or_default() += 1,
            Err(reason) => self.skipped.push(Skipped { pass: pass.name(), node: outcome.node, reason }),
        }
    }
}

/// The exact passes that make a model ready to be quantized into nodes of that opset, in their order:
///
/// 1. `freeze-inputs`, `inline-functions`, `unique-names`: what functions hide is seen, and a name means one value;
/// 2. `lift-constants`: afterwards a constant is an initializer, and the others need look no further;
/// 3. `raise-opset`: the others meet each operator in one form;
/// 4. `widen-float16`: constants are float32 from here on;
/// 5. `drop-identity`: what stands between two nodes must not hide them from each other;
/// 6. `fold-constants`: weights that were computed become constants (CNTK reshapes them in the graph);
/// 7. `fold-batch-norm`, `fold-gemm-scale`: need constants next to the layers.
pub fn exact(opset: i64) -> Vec<Box<dyn Pass>> {
    vec![
        Box::new(FreezeInputs),
        Box::new(InlineFunctions),
        Box::new(UniqueNames),
        Box::new(LiftConstants),
        Box::new(RaiseOpset { to: opset }),
        Box::new(WidenFloat16),
        Box::new(DropIdentity),
        Box::new(FoldConstants),
        Box::new(FoldBatchNorm),
        Box::new(FoldGemmScale),
    ]
}

/// Runs a pass: on a copy (which shares the weights), checked afterwards, taken over only when all is well.
///
/// Returns how many places it changed. Errors name the pass; the model is then as it was.
pub fn run(pass: &dyn Pass, model: &mut Model, cx: &mut Context<'_>) -> Result<usize> {
    let place = || format!("pass `{}`", pass.name());
    let mut copy = model.clone();
    cx.changed = 0;
    rewrite(pass, &mut copy, cx).at(place)?;
    *model = copy;
    Ok(cx.changed)
}

/// Runs a pass on a graph, and on the bodies in it where the pass works on those: from the outside in, since what
/// becomes constant around a body is constant in it.
fn rewrite(pass: &dyn Pass, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
    pass.run(model, cx)?;
    if pass.enters_bodies() {
        for id in model.graph.bodies() {
            model.edit_body(id, |inner| rewrite(pass, inner, cx))?;
        }
    }
    model.graph.check()
}
