//! What samples make of the activations of a model.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::calibrate::calibrate;
use crate::error::Result;
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{Graph, Model, NodeExt};
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
}

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
    values.retain(|c| model.graph.initializer(&c.value).is_none() && known.insert(c.value.clone()));
    let runner = Runner::new(executor, &model, values.iter().map(|c| c.value.clone()).collect())?;
    events.stage("run samples");
    let picks: Vec<usize> = (0..samples.len()).collect();
    let ranges = calibrate(&runner, samples, &picks, events)?;
    let row = |c: Candidate| {
        let stats = ranges.get(&c.value)?;
        Some(ActivationRow {
            shape: stats.shape.clone(),
            min: stats.min,
            max: stats.max,
            non_finite: stats.non_finite,
            value: c.value,
            node: c.node,
            operator: c.operator,
        })
    };
    Ok(values.into_iter().filter_map(row).collect())
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
