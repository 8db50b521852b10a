//! What samples make of each head of an attention.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::calibrate::measure_channels;
use crate::error::Result;
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{Graph, Model, NodeExt};
use crate::sample::Samples;

/// The axis along which the heads of `[batch, heads, positions, depth]` lie.
const AXIS: usize = 1;

/// The numbers that a head takes in an activation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HeadRange {
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
}

impl HeadRange {
    /// The largest magnitude.
    pub fn magnitude(&self) -> f32 {
        self.min.abs().max(self.max.abs())
    }
}

/// The values that products of two activations read and make.
fn of_attention(graph: &Graph) -> Vec<&str> {
    let products = graph
        .nodes()
        .map(|(_, n)| n)
        .filter(|n| n.is("MatMul") && n.input.len() == 2 && n.input.iter().all(|i| !graph.is_constant(i)));
    products.flat_map(|n| n.input.iter().chain(&n.output)).map(String::as_str).collect()
}

/// The range of each head in the values of four axes, as `has_heads` says, that products of two activations read and make;
/// left out are values that hold numbers that are not finite.
///
/// Runs all samples, through what of the model the values need; none where there are no such values.
pub(super) fn ranges(
    model: &Model,
    has_heads: impl Fn(&str) -> bool,
    samples: &dyn Samples,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<BTreeMap<String, Vec<HeadRange>>> {
    let mut values: Vec<String> =
        of_attention(&model.graph).into_iter().filter(|v| has_heads(v)).map(str::to_owned).collect();
    values.sort();
    values.dedup();
    if values.is_empty() {
        return Ok(BTreeMap::new());
    }
    let runner = Runner::up_to(executor, model, values.clone())?;
    let picks: Vec<usize> = (0..samples.len()).collect();
    let seen = measure_channels(&runner, &vec![AXIS; values.len()], samples, &picks, events)?;
    let heads = |value: String| {
        let spreads = &seen.get(&value)?.spreads;
        let heads = spreads.iter().map(|s| HeadRange { min: s.min as f32, max: s.max as f32 }).collect();
        Some((value, heads))
    };
    Ok(values.into_iter().filter_map(heads).collect())
}
