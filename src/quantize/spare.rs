//! Which values are kept out of the format of activations, because they lose too much in it.

use serde::Serialize;

use super::switches::measure;
use super::trial::{Gain, Trial};
use crate::calibrate::Ranges;
use crate::error::{Place, Result};
use crate::model::{Graph, Model, NodeExt, Use};
use crate::number::decibels;
use crate::plan::{Kept, NodeDecision, Plan, Policy, Verdict};
use crate::rule::{OpRule, Role};

/// A group is worth keeping out if at least this share of the noise that is left is its.
const WORTH: f64 = 0.02;

/// What is left may add so much to the noise of the weights: 1.8 dB.
const LEFT: f64 = 0.5;

/// At most this share of the products, nodes that multiply and accumulate, may go to 16 bits, which take twice the time.
const MOST_WIDE: f64 = 0.5;

/// At most this share of them may become float, which takes four times the time, and the weight with it.
const MOST_FLOAT: f64 = 0.25;

/// What became of a value that was kept out of the format of activations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeptRow {
    /// The value, first of its group.
    pub value: String,
    /// The node that makes it; empty for inputs of the graph.
    pub node: String,
    /// How many values share its codes, itself among them.
    pub values: usize,
    /// The format it has instead; `float` if none.
    pub format: &'static str,
    /// SQNR of the outputs in dB when it alone is quantized, and no weight.
    pub alone_db: f64,
    /// Its share of the noise of all values, each by itself.
    pub share: f64,
}

/// What was found of the values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeptReport {
    /// The values that were kept out, those that do most harm first.
    pub values: Vec<KeptRow>,
    /// How many groups of values were measured.
    pub groups: usize,
    /// The products, nodes that multiply and accumulate, that left the format, and all that would have it.
    pub products: (usize, usize),
    /// SQNR of the outputs in dB when weights alone are quantized.
    pub weights_db: f64,
    /// By how many dB all of it raised the SQNR in the trial; `None` where nothing was kept out.
    pub gain_db: Option<f64>,
    /// Whether it was done: not where the trial gained too little.
    pub taken: bool,
}

/// Keeps values out of the format of activations, those first that do most harm by themselves, until the others add no
/// more than 1.8 dB to the noise of the weights, or each of them little; writes them into the policy.
///
/// Values that share codes are kept out together. Where the target computes on 16 bits they have these, and stay float
/// elsewhere. What would take too many products out of the format is left in it.
pub(super) fn spare(
    prepared: &Model,
    ranges: &Ranges,
    policy: &mut Policy,
    mut trial: Trial<'_>,
) -> Result<KeptReport> {
    let graph = &prepared.graph;
    let plan = Plan::decide(graph, ranges, policy)?;
    let groups = plan.groups(graph);
    trial.refer(prepared)?;
    let noise = measure(&trial, prepared, &plan, &groups).at(|| "the choice of activations".to_owned())?;
    let format = policy.target.wide_activations(policy.activations);
    let all = products(graph, &plan, policy);
    let most = (all as f64 * if format.is_some() { MOST_WIDE } else { MOST_FLOAT }).floor() as usize;
    let total: f64 = noise.groups.iter().sum();
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by(|&a, &b| noise.groups[b].total_cmp(&noise.groups[a]).then(a.cmp(&b)));
    let mut report = KeptReport {
        values: Vec::new(),
        groups: groups.len(),
        products: (0, all),
        weights_db: decibels(1.0, noise.constants),
        gain_db: None,
        taken: false,
    };
    let (mut left, mut chosen) = (total, policy.clone());
    for place in order {
        let own = noise.groups[place];
        if left <= LEFT * noise.constants || own < WORTH * left {
            break;
        }
        let alone_db = decibels(1.0, own);
        let share = own / total;
        let reason = format!("it loses too much in {}", policy.activations.name);
        let mut tried = chosen.clone();
        for value in &groups[place] {
            tried.kept.insert(value.clone(), Kept { format, reason: reason.clone() });
        }
        let lost = all.saturating_sub(products(graph, &Plan::decide(graph, ranges, &tried)?, policy));
        if lost > most {
            continue;
        }
        let value = groups[place].iter().find(|v| plan.values.contains_key(*v)).unwrap_or(&groups[place][0]);
        report.values.push(KeptRow {
            value: value.clone(),
            node: graph.producer(value).and_then(|(id, _)| graph.node(id)).map_or(String::new(), |n| graph.path(n)),
            values: groups[place].len(),
            format: format.map_or("float", |f| f.name),
            alone_db,
            share,
        });
        (chosen, left, report.products.0) = (tried, left - own, lost);
    }
    if report.values.is_empty() {
        return Ok(report);
    }
    let before = trial.score(prepared, ranges, None, None)?;
    trial.keep(chosen.kept.clone());
    let gain = Gain::of(&trial.score(prepared, ranges, None, None)?, &before);
    report.gain_db = Some(gain.mean);
    report.taken = gain.mean > trial.needed();
    if report.taken {
        policy.kept = chosen.kept;
    }
    Ok(report)
}

/// The nodes that multiply and accumulate codes of the format of activations.
fn products(graph: &Graph, plan: &Plan, policy: &Policy) -> usize {
    let computes = |d: &&NodeDecision| {
        let Some(node) = graph.node(d.node).filter(|_| d.verdict == Verdict::Quantized) else { return false };
        let read = node.input_at(0).and_then(|x| plan.values.get(x));
        let narrow = read.is_none_or(|v| v.params_at(Use { node: d.node, slot: 0 }).format() == policy.activations);
        narrow && OpRule::of(node).is_some_and(|r| r.role == Role::Compute)
    };
    plan.nodes.iter().filter(computes).count()
}
