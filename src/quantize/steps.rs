//! The two steps that do not change the float model: one acts on ranges, one on what is planned.

use crate::calibrate::{Ranges, Statistics};
use crate::error::Result;
use crate::model::Model;
use crate::pass::{self, Context, CorrectBias};
use crate::plan::{Plan, Policy, Reconstructed};

/// Limits ranges to what training left of values in batch normalizations; returns how many became narrower.
///
/// A few numbers far out among those of many samples widen a range for all others. What training saw reaches
/// [`REACH`](crate::calibrate::REACH) standard deviations.
pub(super) fn limit(ranges: &mut Ranges, statistics: &Statistics) -> usize {
    let known = statistics.iter().filter(|(value, _)| !statistics.was_seen(value));
    known.filter(|(value, channels)| ranges.limit(value, channels.reach())).count()
}

/// Corrects the biases of what is planned, and plans again; returns the new plan and how many biases changed.
pub(super) fn correct(
    prepared: &mut Model,
    plan: Plan,
    ranges: &Ranges,
    policy: &Policy,
    weights: &Reconstructed,
    cx: &mut Context<'_>,
) -> Result<(Plan, usize)> {
    let places = pass::run(&CorrectBias { plan: &plan }, prepared, cx)?;
    Ok((Plan::decide_with(&prepared.graph, ranges, policy, weights)?, places))
}
