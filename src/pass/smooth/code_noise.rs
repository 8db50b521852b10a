//! Noise by the codes of weights.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::super::Context;
use super::super::refusal::{Refusal, no};
use super::{EXPONENTS, Place, WORTH, Weight, around_one};
use crate::calibrate::{MOST_MOMENTS, PatchMoments, Tap, gather_moments};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Runner;
use crate::model::{Graph, Model, NodeId, NodeProto, Tensor};
use crate::number::fake_quantize;
use crate::plan::{Mode, Policy, nodes_with_weights, params_of_weight};
use crate::round::power_of_errors;
use crate::rule::{ChannelIndex, OpRule, WeightMatrix};
use crate::sample::Samples;

/// The noise of rounding weights alone, so that channels with large numbers, whose weights count most, lose least.
///
/// With `H` the second moments of the value, the factors are `sqrt(H[j, j])^a`. The exponent is chosen for each value, from 0 to 1
/// in twentieths, as the one with which the nearest codes, on the grids that the policy gives the scaled weights, add least noise
/// to the outputs of all readers whose weights become codes:
///
/// ```text
/// noise = sum tr((Q(S W) S^-1 - W) H (Q(S W) S^-1 - W)^T)
/// ```
///
/// Factors of one half of the samples are judged by the moments of the other half, so that those are not taken that hold for the
/// samples alone that made them; the ones that are applied are of all samples. At most 128 outputs of a weight are looked at.
///
/// Source: Lin et al., *AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration*, 2024, equations 4 and 5,
/// with the root of the mean square of a channel in place of its mean magnitude.
#[derive(Clone, Copy)]
pub struct CodeNoise<'a> {
    /// How weights become codes.
    pub policy: &'a Policy,
    /// What shows the values.
    pub samples: &'a dyn Samples,
    /// Which of the samples are run.
    pub picks: &'a [usize],
}

/// So many outputs of a weight are looked at.
const OUTPUTS: usize = 128;
/// Outputs are looked at in runs of so many neighbours, which may share a scale.
const RUN: usize = 16;

impl CodeNoise<'_> {
    /// What each channel of each value is divided by.
    ///
    /// Samples are run as often as the moments of all values take more memory than they may together. Errors when the model
    /// cannot be run.
    pub(super) fn factors(
        &self,
        model: &Model,
        places: &[Place],
        cx: &Context<'_>,
    ) -> Result<Vec<Result<Vec<f64>, Refusal>>> {
        let Some(executor) = cx.executor else { return Err(Error::new(ErrorKind::Usage, "there is no engine")) };
        let coded = nodes_with_weights(&model.graph, self.policy);
        let mut chosen = Vec::with_capacity(places.len());
        let mut rest = places;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(fitting(rest));
            let runner = Runner::up_to(executor, model, now.iter().map(|place| place.value.clone()).collect())?;
            let taps: Vec<Tap> = now.iter().enumerate().map(|(i, place)| (i, place.patches.clone())).collect();
            let moments = gather_moments(&runner, None, &taps, self.samples, self.picks, cx.events)?;
            for (place, halves) in now.iter().zip(moments) {
                chosen.push(match halves {
                    Some(halves) => self.choose(&model.graph, place, &coded, &halves),
                    None => no(format!("samples show no finite rows of `{}`", place.value)),
                });
            }
            rest = later;
        }
        Ok(chosen)
    }

    fn choose(
        &self,
        graph: &Graph,
        place: &Place,
        coded: &BTreeSet<NodeId>,
        halves: &[PatchMoments; 2],
    ) -> Result<Vec<f64>, Refusal> {
        let weights = place.weights.iter().filter(|w| coded.contains(&w.at.node));
        let readers = weights.filter_map(|w| Reader::of(graph, w).transpose()).collect::<Result<Vec<_>>>()?;
        let held = halves.each_ref().map(root_mean_squares);
        let noise = |exponent: u32| -> Result<f64> {
            let mut noise = 0.0;
            for (chooses, judges) in [(0, 1), (1, 0)] {
                let factors = salient(&held[chooses], exponent);
                for reader in &readers {
                    noise += reader.noise(self.policy, &factors, &halves[judges])?;
                }
            }
            Ok(noise)
        };
        let found: Vec<f64> = (0..=EXPONENTS).into_par_iter().map(noise).collect::<Result<_>>()?;
        // With the exponent 0 all factors are 1.
        let plain = found[0];
        let best = (0..=EXPONENTS).zip(&found).min_by(|a, b| a.1.total_cmp(b.1));
        let Some((exponent, _)) = best.filter(|(_, noise)| **noise < WORTH * plain) else {
            return no("factors would not take a fifth of the noise of its weights");
        };
        let [mut all, other] = halves.clone();
        all.merge(&other);
        Ok(salient(&root_mean_squares(&all), exponent))
    }
}

/// How many of the places, the first ones, have moments that fit memory together. At least one.
fn fitting(places: &[Place]) -> usize {
    let sizes = places.iter().scan(0, |bytes: &mut usize, place| {
        *bytes = bytes.saturating_add(PatchMoments::size(&place.patches, false));
        Some(*bytes)
    });
    sizes.take_while(|&bytes| bytes <= MOST_MOMENTS).count().max(1)
}

/// The root of the mean square of each channel.
fn root_mean_squares(moments: &PatchMoments) -> Vec<f64> {
    let (columns, products) = (moments.columns, &moments.products[0]);
    (0..columns).map(|j| (products[j * columns + j].max(0.0) / moments.count.max(1.0)).sqrt()).collect()
}

/// `x^(exponent / 20)`, around 1; channels that hold nothing stay.
fn salient(held: &[f64], exponent: u32) -> Vec<f64> {
    let power = f64::from(exponent) / f64::from(EXPONENTS);
    around_one(&held.iter().map(|&x| (x > 0.0).then(|| power * x.ln())).collect::<Vec<_>>())
}

/// Some outputs of a weight whose node stores it as codes.
struct Reader<'a> {
    node: &'a NodeProto,
    rule: &'a OpRule,
    weight: Tensor,
    inputs: ChannelIndex,
    matrix: WeightMatrix,
}

impl Reader<'_> {
    /// `None` where the node has no rule.
    fn of<'a>(graph: &'a Graph, weight: &Weight) -> Result<Option<Reader<'a>>> {
        let Some(node) = graph.node(weight.at.node) else { return Ok(None) };
        let shape = weight.tensor.shape();
        let rule = OpRule::of(node).and_then(|rule| Some((rule, rule.channel_axis(node, shape.len())?)));
        let Some(((rule, axis), matrix)) = rule.zip(WeightMatrix::of(node, shape)) else { return Ok(None) };
        let numbers = weight.tensor.f64s()?;
        let rows = matrix.matrix(0, &numbers);
        let runs = matrix.rows.div_ceil(RUN);
        let looked = runs.min(OUTPUTS / RUN);
        let picks =
            (0..looked).map(|i| i * runs / looked * RUN).flat_map(|first| first..(first + RUN).min(matrix.rows));
        let some: Vec<f64> =
            picks.flat_map(|row| rows[row * matrix.columns..(row + 1) * matrix.columns].iter().copied()).collect();
        let mut shape = shape.to_vec();
        shape[axis] = some.len() / matrix.columns.max(1);
        let Some((matrix, inputs)) = WeightMatrix::of(node, &shape).zip(ChannelIndex::inputs(node, &shape)) else {
            return Ok(None);
        };
        let mut numbers = vec![0.0; some.len()];
        matrix.put(0, &some, &mut numbers);
        let weight = Tensor::from_f64(weight.tensor.dtype(), shape, &numbers)?;
        Ok(Some(Reader { node, rule, weight, inputs, matrix }))
    }

    /// The noise of the nearest codes, where the channels of the value are divided by the factors and those of the weight are
    /// multiplied. It is infinite where the scaled weight does not fit its type.
    fn noise(&self, policy: &Policy, factors: &[f64], moments: &PatchMoments) -> Result<f64> {
        let mut scaled = self.weight.f64s()?;
        self.inputs.scale(&mut scaled, factors);
        let shape = self.weight.shape();
        let tensor = Tensor::from_f64(self.weight.dtype(), shape.to_vec(), &scaled)?;
        let Some(params) = params_of_weight(policy, Mode::Weights, self.rule, self.node, &tensor, false)? else {
            return Ok(f64::INFINITY);
        };
        let mut rounded = tensor.f32s()?.into_owned();
        fake_quantize(&mut rounded, shape, &params)?;
        let mut errors: Vec<f64> = rounded.iter().zip(&scaled).map(|(&q, w)| f64::from(q) - w).collect();
        self.inputs.scale(&mut errors, &factors.iter().map(|f| 1.0 / f).collect::<Vec<f64>>());
        Ok(power_of_errors(&self.matrix.matrix(0, &errors), &moments.products[0], self.matrix.columns))
    }
}
