//! Noise by the steps of values and weights.

use rayon::prelude::*;

use super::super::refusal::{Refusal, no};
use super::{EXPONENTS, Place, WORTH, Weight, around_one};
use crate::calibrate::{Channels, Statistics};
use crate::error::Result;
use crate::number::power_sums;

/// The noise of rounding both values and weights, so that few channels with large numbers do not set the step of all others.
///
/// With `x[j]` the largest magnitude of channel `j` and `w[j]` that of the weights that read it, the factors are
/// `x[j]^a / w[j]^(1 - a)`. The exponent is chosen for each value, from 0 to 1 in twentieths, as the one with which rounding is
/// predicted to add least noise to the outputs of all its readers:
///
/// ```text
/// noise = step_x^2 / 12  sum_jk (s[j] w[j, k])^2  +  sum_k step_k^2 / 12  sum_j E[x[j]^2] / s[j]^2
/// ```
///
/// with one step for the value and one for each output channel of a weight (or for the whole weight). Channels are those of
/// [`Context::statistics`](crate::pass::Context::statistics).
///
/// Source: Xiao et al., *SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models*, 2023,
/// equations 3 and 4; the exponent is searched for each value instead of one half for all.
#[derive(Debug, Clone, Copy)]
pub struct StepNoise {
    /// How many steps the range of an activation has: 255 for 8 bits.
    pub activation_steps: f64,
    /// The same for weights.
    pub weight_steps: f64,
    /// Whether weights have a step for each output channel.
    pub per_channel: bool,
}

impl StepNoise {
    /// What each channel of the value is divided by.
    pub(super) fn factors(&self, place: &Place, statistics: &Statistics) -> Result<Vec<f64>, Refusal> {
        let Place { value, channels, weights, .. } = place;
        let Some(known) = statistics.get(value) else {
            return no(format!("nothing is known of the channels of `{value}`"));
        };
        if known.spreads.len() != *channels {
            return no(format!("`{value}` is read otherwise than by its channels"));
        }
        let numbers: Vec<_> = weights.iter().map(|w| w.tensor.f32s()).collect::<Result<_>>()?;
        let weights_of = || weights.iter().zip(&numbers).map(|(w, x)| (w, &**x));
        let mut read = vec![0f64; *channels];
        for (weight, x) in weights_of() {
            read.iter_mut().zip(weight.inputs.magnitudes(x)).for_each(|(most, m)| *most = most.max(m.into()));
        }
        let held: Vec<f64> = known.spreads.iter().map(|s| s.magnitude()).collect();
        let noise = |factors: &[f64]| weights_of().map(|(w, x)| self.noise(known, w, x, factors)).sum::<f64>();
        let found: Vec<(Vec<f64>, f64)> = (0..=EXPONENTS)
            .into_par_iter()
            .map(|exponent| {
                let factors = balanced(&held, &read, f64::from(exponent) / f64::from(EXPONENTS));
                let noise = noise(&factors);
                (factors, noise)
            })
            .collect();
        let plain = noise(&vec![1.0; *channels]);
        let best = found.into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
        match best.filter(|(_, noise)| *noise < WORTH * plain) {
            Some((factors, _)) => Ok(factors),
            None => no("its channels are alike enough"),
        }
    }

    /// The noise that rounding is predicted to add to what a weight makes of the value, channels divided by factors.
    fn noise(&self, known: &Channels, weight: &Weight, x: &[f32], factors: &[f64]) -> f64 {
        let mut scaled = x.to_vec();
        weight.inputs.scale(&mut scaled, &factors.iter().map(|&f| f as f32).collect::<Vec<f32>>());
        let spreads = || known.spreads.iter().zip(factors).map(|(s, f)| s.scaled(1.0 / f));
        let (low, high) = spreads().fold((0.0, 0.0), |(low, high): (f64, f64), s| (low.min(s.min), high.max(s.max)));
        let step = (high - low) / self.activation_steps;
        let power: f64 = spreads().map(|s| s.mean * s.mean + s.std * s.std).sum();
        let widest = weight.outputs.magnitudes(&scaled);
        let steps = widest.iter().map(|&m| (2.0 * f64::from(m) / self.weight_steps).powi(2));
        let steps: f64 = match self.per_channel {
            true => steps.sum(),
            false => steps.fold(0.0, f64::max) * widest.len() as f64,
        };
        (step * step * power_sums(&scaled).1 + steps * power) / 12.0
    }
}

/// `x^a / w^(1 - a)`, around 1; channels that hold nothing, or that nothing reads, stay.
fn balanced(held: &[f64], read: &[f64], exponent: f64) -> Vec<f64> {
    let log = |(&x, &w): (&f64, &f64)| (x > 0.0 && w > 0.0).then(|| exponent * x.ln() - (1.0 - exponent) * w.ln());
    around_one(&held.iter().zip(read).map(log).collect::<Vec<_>>())
}
