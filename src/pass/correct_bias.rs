//! Biases take back what rounding the weights adds to the mean of a layer's output.

use rayon::prelude::*;

use super::layer_bias::LayerBias;
use super::{Context, Effect, Pass, Skipped};
use crate::calibrate::{Channels, Statistics};
use crate::error::{Place, Result};
use crate::model::{Graph, Model, NodeExt, NodeProto, Use};
use crate::number::{dequantize, fake_quantize};
use crate::plan::{ConstantDecision, Part, Plan};
use crate::rule::ChannelIndex;

/// Subtracts from each bias what the rounding of its weight shifts the mean of the output by:
/// `b[o] -= sum over i of (Q(W) - W)[o, i] E[x[i]]`, kernels summed up.
///
/// The error of one weight is the same for every input, so where the input is not zero on average (behind a ReLU it never
/// is) the output is off on average. `E[x]` comes from [`Context::statistics`]: of batch normalizations, followed through
/// the graph, or of samples. The edges of padded images, where part of a kernel sees zeros, are taken like the rest.
///
/// - **Does**: changes the bias of Conv, ConvTranspose and Gemm (a new one where there is none) and the constant of an Add
///   behind a MatMul. Weights stay as they are; plan again afterwards, since the biases' codes change.
/// - **Skips when** nothing is known of the input's mean; the bias is not constant; nothing is added behind a MatMul.
/// - **Before**: `y = W x + b`. **After**: `y = W x + b - (Q(W) - W) E[x]`.
/// - **Source**: Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, section 4.2,
///   equations 16 to 18.
#[derive(Debug, Clone, Copy)]
pub struct CorrectBias<'a> {
    /// Which weights are rounded, and how.
    pub plan: &'a Plan,
}

impl Pass for CorrectBias<'_> {
    fn name(&self) -> &'static str {
        "correct-bias"
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        // What picks rows of a table has no bias.
        let picks = |at: &Use| model.graph.node(at.node).is_some_and(|n| n.is("Gather"));
        let weights = self.plan.constants.iter().filter(|(at, d)| d.part == Part::Weight && !picks(at));
        let weights: Vec<_> = weights.collect();
        let (graph, statistics) = (&model.graph, &cx.statistics);
        let shifts: Vec<_> =
            weights.par_iter().map(|&(&at, decision)| shift(graph, at, decision, statistics)).collect();
        for ((&at, _), shift) in weights.into_iter().zip(shifts) {
            match shift.at(|| model.graph.label(at.node))? {
                Ok(Shift { bias, errors }) => {
                    bias.shift(&mut model.graph, &errors)?;
                    cx.changed += 1;
                }
                Err(reason) => {
                    let (pass, node) = (self.name(), model.graph.label(at.node));
                    cx.skipped.push(Skipped { pass, node, reason });
                }
            }
        }
        if cx.changed > 0 {
            model.allow_constants();
        }
        model.graph.drop_unused_initializers();
        Ok(())
    }
}

/// What is to be added to a bias, an output channel each.
struct Shift {
    bias: LayerBias,
    errors: Vec<f64>,
}

fn shift(
    graph: &Graph,
    at: Use,
    decision: &ConstantDecision,
    statistics: &Statistics,
) -> Result<std::result::Result<Shift, String>> {
    let Some(node) = graph.node(at.node) else { return Ok(Err("it was removed".into())) };
    let Some(weight) = graph.constant(&decision.initializer)? else { return Ok(Err("its weight is gone".into())) };
    let indices = (ChannelIndex::inputs(node, weight.shape()), ChannelIndex::outputs(node, weight.shape()));
    let (Some(inputs), Some(outputs)) = indices else { return Ok(Err("its weight has an unusual shape".into())) };
    let errors = match decision.chosen.as_ref().and_then(|c| c.shift.as_ref()) {
        // What the codes were chosen to leave to it.
        Some(shift) => shift.to_vec(),
        None => match input_means(graph, node, &inputs, statistics) {
            Ok(means) => {
                let mut errors = rounding_errors(&weight.f32s()?, weight.shape(), decision)?;
                inputs.scale(&mut errors, &means);
                outputs.sums(&errors)
            }
            Err(reason) => return Ok(Err(reason)),
        },
    };
    let bias = match LayerBias::of(graph, at.node, outputs.channels(), &weight)? {
        Ok(bias) => bias,
        Err(reason) => return Ok(Err(reason)),
    };
    let alpha = if node.is("Gemm") { node.float("alpha").unwrap_or(1.0) } else { 1.0 };
    let errors: Vec<f64> = errors.into_iter().map(|e| -e * f64::from(alpha)).collect();
    if errors.iter().any(|e| !e.is_finite()) {
        return Ok(Err("the correction would not be finite".into()));
    }
    Ok(Ok(Shift { bias, errors }))
}

/// What rounding adds to each weight.
fn rounding_errors(exact: &[f32], shape: &[usize], decision: &ConstantDecision) -> Result<Vec<f64>> {
    let rounded = match &decision.chosen {
        Some(chosen) => dequantize(&chosen.codes, shape, &decision.params)?,
        None => {
            let mut rounded = exact.to_vec();
            fake_quantize(&mut rounded, shape, &decision.params)?;
            rounded
        }
    };
    Ok(rounded.iter().zip(exact).map(|(q, w)| f64::from(*q) - f64::from(*w)).collect())
}

/// The mean of each channel of a layer's input, or why it is not known.
fn input_means(
    graph: &Graph,
    node: &NodeProto,
    inputs: &ChannelIndex,
    statistics: &Statistics,
) -> std::result::Result<Vec<f64>, String> {
    let input = node.input_at(0).unwrap_or_default();
    let fits = |c: &&Channels| {
        let axis = if node.is("MatMul") { graph.stated_rank(input).map(|r| r.saturating_sub(1)) } else { Some(1) };
        c.spreads.len() == inputs.channels() && axis.is_none_or(|a| a == c.axis)
    };
    match statistics.get(input).filter(fits) {
        Some(known) => Ok(known.spreads.iter().map(|s| s.mean).collect()),
        None => Err(format!("nothing is known of the mean of `{input}`")),
    }
}
