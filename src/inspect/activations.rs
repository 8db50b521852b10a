//! What samples make of the activations of a model.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::calibrate::{Keep, calibrate};
use crate::error::Result;
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{Model, NodeExt};
use crate::sample::Samples;

/// What was seen of an activation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActivationRow {
    /// The value.
    pub value: String,
    /// The node that produces it; empty for an input of the model.
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
}

/// Runs all samples and tells of every float value what was seen, in the order of execution.
///
/// Errors when the engine cannot run the model, or samples do not fit it.
pub fn activations(
    model: &Model,
    samples: &dyn Samples,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Vec<ActivationRow>> {
    let graph = &model.graph;
    let mut known = BTreeSet::new();
    let inputs = graph.inputs().iter().map(|v| (v.name(), None));
    let outputs = graph.nodes().flat_map(|(_, n)| n.output.iter().map(move |o| (o.as_str(), Some(n))));
    let values: Vec<_> = inputs
        .chain(outputs)
        .filter(|(v, _)| !v.is_empty() && graph.initializer(v).is_none() && known.insert(*v))
        .collect();
    let runner = Runner::new(executor, model, values.iter().map(|(v, _)| (*v).to_owned()).collect())?;
    events.stage("run samples");
    let picks: Vec<usize> = (0..samples.len()).collect();
    let ranges = calibrate(&runner, samples, &picks, Keep::Extremes, events)?;
    let row = |(value, node): (&str, Option<&crate::model::NodeProto>)| {
        let stats = ranges.get(value)?;
        Some(ActivationRow {
            value: value.to_owned(),
            node: node.map_or("", |n| if n.name().is_empty() { value } else { n.name() }).to_owned(),
            operator: node.map(NodeExt::operator).unwrap_or_default(),
            shape: stats.shape.clone(),
            min: stats.min,
            max: stats.max,
            non_finite: stats.non_finite,
        })
    };
    Ok(values.into_iter().filter_map(row).collect())
}
