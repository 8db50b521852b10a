//! What samples make of the activations of a model.

use std::collections::BTreeSet;

use rayon::prelude::*;
use serde::Serialize;

use super::heads::{self, HeadRange};
use crate::calibrate::{Keep, calibrate};
use crate::error::Result;
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{Graph, Model, NodeExt};
use crate::number::{Format, Granularity, Grid, Scheme};
use crate::observe::{Density, Method, Profile};
use crate::pass::{self, Context, InlineFunctions, Pass, UniqueNames};
use crate::sample::Samples;

/// What was seen of an activation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActivationRow {
    /// The value.
    pub value: String,
    /// The node that produces it, behind the nodes around it; empty for an input of the model.
    pub node: String,
    /// The operator of that node; empty for an input of the model.
    pub operator: String,
    /// Its shape; `None` for sizes that changed from sample to sample.
    pub shape: Vec<Option<usize>>,
    /// The smallest finite number; `None` if there was none.
    pub min: Option<f32>,
    /// The largest finite number; `None` if there was none.
    pub max: Option<f32>,
    /// How many numbers were NaN or infinite.
    pub non_finite: u64,
    /// 99.9 % of the magnitudes are no larger; `None` if there was no number.
    pub magnitude_999: Option<f32>,
    /// Pearson's kurtosis: 3 for a Gauss distribution, more where few numbers are far out. `None` if all are equal.
    pub kurtosis: Option<f64>,
    /// What each method makes of it, in the order of [`Method::ALL`]; those that are told a number, with the one in that
    /// list. Empty if there was no number.
    pub ranges: Vec<MethodRange>,
    /// What each head takes of it, where it has four axes and a product of two activations reads or makes it, as in an
    /// attention; empty elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<HeadRange>,
}

/// The range that a method chooses, and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodRange {
    /// The method.
    pub method: String,
    /// The lower end.
    pub min: f32,
    /// The upper end.
    pub max: f32,
    /// SQNR in dB after rounding to this range in affine uint8, as the histogram predicts it; infinite if nothing is
    /// lost.
    pub sqnr_db: f64,
}

/// In what activations are judged.
const UINT8: Scheme = Scheme::new(Format::UINT8, false, Granularity::Tensor);

/// A value that may be an activation.
struct Candidate {
    value: String,
    node: String,
    operator: String,
}

/// Runs all samples and tells of every float value what was seen, in the order of execution; of values in branches
/// (operator If) when samples took them, and of those in functions once for each call.
///
/// Errors when the engine cannot run the model, or samples do not fit it.
pub fn activations(
    model: &Model,
    samples: &dyn Samples,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Vec<ActivationRow>> {
    let mut model = model.clone();
    for pass in [&InlineFunctions as &dyn Pass, &UniqueNames] {
        pass::run(pass, &mut model, &mut Context::new(None, events))?;
    }
    let mut values = Vec::new();
    for input in model.graph.inputs() {
        values.push(Candidate { value: input.name().to_owned(), node: String::new(), operator: String::new() });
    }
    collect(&model.graph, &mut values)?;
    let mut known = BTreeSet::new();
    values.retain(|c| !model.graph.is_constant(&c.value) && known.insert(c.value.clone()));
    let runner = Runner::new(executor, &model, values.iter().map(|c| c.value.clone()).collect())?;
    events.stage("run samples");
    let picks: Vec<usize> = (0..samples.len()).collect();
    let ranges = calibrate(&runner, samples, &picks, Keep::Profile, events)?;
    let has_heads = |value: &str| ranges.get(value).is_some_and(|s| s.shape.len() == 4);
    let heads = heads::ranges(&model, has_heads, samples, executor, events)?;
    let row = |c: &Candidate| {
        let stats = ranges.get(&c.value)?;
        let seen = stats.profile.as_ref().filter(|p| p.histogram.finite() > 0);
        Some(ActivationRow {
            shape: stats.shape.clone(),
            min: stats.min,
            max: stats.max,
            non_finite: stats.non_finite,
            magnitude_999: seen.and_then(|p| {
                let magnitudes = Scheme { symmetric: true, ..UINT8 };
                Some(Method::Percentile(99.9).range(p, &magnitudes)?.magnitude())
            }),
            kurtosis: seen.map(|p| p.histogram.moments()).filter(|m| m.std > 0.0).map(|m| m.kurtosis),
            ranges: seen.map(by_method).unwrap_or_default(),
            heads: heads.get(&c.value).cloned().unwrap_or_default(),
            value: c.value.clone(),
            node: c.node.clone(),
            operator: c.operator.clone(),
        })
    };
    Ok(values.par_iter().filter_map(row).collect())
}

fn by_method(seen: &Profile) -> Vec<MethodRange> {
    let density = Density::of(&seen.histogram);
    let one = |method: Method| {
        let range = method.range(seen, &UINT8)?;
        let sqnr_db = density.sqnr(Grid::fit(&UINT8, range));
        Some(MethodRange { method: method.to_string(), min: range.min(), max: range.max(), sqnr_db })
    };
    Method::ALL.into_iter().filter_map(one).collect()
}

/// Adds what the nodes of a graph make, and those in the branches of its Ifs.
fn collect(graph: &Graph, values: &mut Vec<Candidate>) -> Result<()> {
    for (id, node) in graph.nodes() {
        if node.is("If") {
            for body in graph.bodies().into_iter().filter(|b| b.node == id) {
                collect(&graph.body(body)?, values)?;
            }
        }
        for value in node.output.iter().filter(|o| !o.is_empty() && !node.is("Constant")) {
            values.push(Candidate { value: value.clone(), node: graph.path(node), operator: node.operator() });
        }
    }
    Ok(())
}
