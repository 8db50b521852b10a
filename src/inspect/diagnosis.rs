//! A closer look at weights: what clipping and equalizing would gain.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use super::statistics::{INT8, sqnr};
use super::walk::Walk;
use super::weights::floats;
use crate::error::Result;
use crate::events::Silent;
use crate::exec::Executor;
use crate::model::{Graph, Model, NodeId};
use crate::number::min_max;
use crate::observe::{Method, Profile};
use crate::pass::{self, Bounds, Context, Equalize};
use crate::rule::OpRule;

/// What a closer look at a weight tells. Both are of symmetric INT8 with one scale.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Diagnosis {
    /// SQNR in dB of the numbers after rounding to the clip of least squared error, which is `-20 log10` of the relative loss
    /// `|W - Q(W)| / |W|`; `None` if the weight is not float or not finite.
    pub sqnr_clip_db: Option<f64>,
    /// By how many dB equalizing its channels with its neighbours' would raise the SQNR of the weight, as it is once batch
    /// normalizations are folded into it. `None` if its channels cannot be scaled.
    pub equalize_gain_db: Option<f64>,
}

/// Looks closer at the weights of a model, in the order of execution: those that [`inspect`](super::inspect()) lists.
///
/// What equalizing gains is found by equalizing a copy, by its weights alone; a model that cannot be made ready for that has
/// no such gains. Errors as `inspect`.
pub fn diagnose(model: &Model, executor: &dyn Executor) -> Result<Vec<Diagnosis>> {
    let gains = gains(model, executor).unwrap_or_default();
    let walk = Walk::of(model);
    floats(&walk, |weight, x| {
        Ok(Diagnosis {
            sqnr_clip_db: x.map(|x| clipped(x, weight.shape)).transpose()?.flatten(),
            equalize_gain_db: gains.get(weight.path).copied(),
        })
    })
}

/// The SQNR at the clip of least squared error; `None` where numbers are not finite, or none.
fn clipped(x: &[f32], shape: &[usize]) -> Result<Option<f64>> {
    let (low, high, bad) = min_max(x);
    if bad > 0 || low > high {
        return Ok(None);
    }
    let Some(range) = Method::Mse(2.0).range(&Profile::of(x), &INT8) else { return Ok(None) };
    let (whole, clipped) =
        (sqnr(x, shape, &INT8, &[(low, high)])?, sqnr(x, shape, &INT8, &[(range.min(), range.max())])?);
    // The search looks at a histogram: where that is too coarse, the whole range is better.
    Ok(Some(whole.max(clipped)))
}

/// What equalizing gains, by the path of the node that reads the weight.
fn gains(model: &Model, executor: &dyn Executor) -> Result<HashMap<String, f64>> {
    let mut prepared = model.clone();
    let mut cx = Context::new(Some(executor), &Silent);
    for pass in pass::exact(model.opset()) {
        pass::run(pass.as_ref(), &mut prepared, &mut cx)?;
    }
    cx.statistics = Default::default();
    let shapes = executor.shapes(&prepared).unwrap_or_default();
    let mut equal = prepared.clone();
    let equalize = Equalize { shapes: &shapes, per_channel: false, bounds: Bounds::Exact };
    pass::run(&equalize, &mut equal, &mut cx)?;
    let changed = |(id, node): (NodeId, _)| {
        let slot = OpRule::of(node)?.weight_slot()?;
        let name = |graph: &Graph| graph.node(id).and_then(|n| n.input.get(slot).cloned());
        let (before, after) = (name(&prepared.graph)?, name(&equal.graph)?);
        let same = match (prepared.graph.initializer(&before), equal.graph.initializer(&after)) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        (!same).then_some((prepared.graph.path(node), before, after))
    };
    let changed: Vec<_> = prepared.graph.nodes().filter_map(changed).collect();
    let loss = |graph: &Graph, name: &str| -> Result<Option<f64>> {
        let Some(tensor) = graph.constant(name)? else { return Ok(None) };
        let x = tensor.f32s()?;
        let (low, high, bad) = min_max(&x);
        if bad > 0 || low > high { Ok(None) } else { sqnr(&x, tensor.shape(), &INT8, &[(low, high)]).map(Some) }
    };
    let gain = |(path, before, after): &(String, String, String)| -> Result<Option<(String, f64)>> {
        let (before, after) = (loss(&prepared.graph, before)?, loss(&equal.graph, after)?);
        let gain = before.zip(after).map(|(b, a)| a - b).filter(|g| g.is_finite());
        Ok(gain.map(|g| (path.clone(), g)))
    };
    let found: Vec<Result<Option<(String, f64)>>> = changed.par_iter().map(gain).collect();
    Ok(found.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}
