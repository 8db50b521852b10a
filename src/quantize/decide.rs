//! The way of the data up to the plan, for whoever wants to know what would be done.

use super::weights::prepare_weights;
use super::{Clock, Recipe, Source, check_patterns, decide_on, prepare};
use crate::error::Result;
use crate::events::Events;
use crate::exec::Executor;
use crate::model::Model;
use crate::pass::{self, Context, Insert};
use crate::plan::{Mode, Plan, Policy};
use crate::validate::modern;

/// What [`quantize_from`](super::quantize_from) would do.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The model that the plan is for: the given one after the exact passes and the steps toward accuracy.
    pub model: Model,
    /// What would become of it. One that changes nothing ([`Plan::is_idle`]) is no error here.
    pub plan: Plan,
}

impl Decision {
    /// The model with the plan inserted: what would be written. Errors as the pass [`Insert`].
    pub fn carried_out(&self, events: &dyn Events) -> Result<Model> {
        let mut model = self.model.clone();
        pass::run(&Insert { plan: &self.plan }, &mut model, &mut Context::new(None, events))?;
        Ok(model)
    }
}

/// Decides as [`quantize_from`](super::quantize_from) does, and stops there. Without a source, no step toward accuracy is
/// taken and ranges stay open ([`Plan::unseen`]).
///
/// Errors as [`quantize_from`](super::quantize_from), but for models in which nothing can be quantized.
pub fn decide(
    model: &Model,
    source: Option<Source<'_>>,
    recipe: &Recipe,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Decision> {
    let mut cx = Context::new(Some(executor), events);
    let Some(source) = source else {
        recipe.policy.check_choice(false)?;
        check_patterns(model, &recipe.policy, events)?;
        let mut model = model.clone();
        prepare(&mut model, recipe.policy.opset(), &mut cx)?;
        let plan = Plan::unseen(&model.graph, &recipe.policy)?;
        return Ok(Decision { model, plan });
    };
    let original = modern(model);
    let decided = decide_on(model, &original, source, recipe, &mut cx, &mut Clock::new(events))?;
    Ok(Decision { model: decided.prepared, plan: decided.plan })
}

/// Decides as [`quantize_weights`](super::quantize_weights) or [`quantize_dynamic`](super::quantize_dynamic) do without samples,
/// and stops there. Errors as they do, but for models without a weight to quantize.
pub fn decide_weights(model: &Model, policy: &Policy, mode: Mode, events: &dyn Events) -> Result<Decision> {
    policy.check_mode(mode)?;
    let model = prepare_weights(model, policy, &mut Context::new(None, events))?;
    let plan = Plan::of_weights(&model.graph, policy, mode)?;
    Ok(Decision { model, plan })
}
