//! Drift of a quantized model against its float original, measured by running both.

use serde::Serialize;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Events;
use crate::exec::{Runner, spread};
use crate::model::Tensor;
use crate::number::Drift;
use crate::sample::Samples;

/// Drift of one output over all samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputDrift {
    /// The output.
    pub name: String,
    /// Signal to quantization noise ratio in dB; `None` when the two are equal, or nothing could be compared.
    pub sqnr_db: Option<f64>,
    /// Cosine of the angle between the two.
    pub cosine: Option<f64>,
    /// The largest absolute difference.
    pub max_abs: Option<f64>,
    /// Share of the samples (0 to 1) for which both have their largest number in the same place; for outputs that look
    /// like class scores.
    pub top1_agreement: Option<f64>,
    /// Whether the two are equal to the last bit.
    pub exact: bool,
    /// Whether not-a-number or infinity came out where the float model gave numbers.
    pub broken: bool,
}

/// What one sample says of one output.
struct Seen {
    drift: Drift,
    /// Whether both have their largest number in the same place; `None` if this is no vector of scores.
    agrees: Option<bool>,
}

/// Runs both models on the samples in `picks` and compares their float outputs, by name.
///
/// Errors when an output of the float model is missing in the other, or has another shape there.
pub fn compare(
    float: &Runner<'_>,
    quantized: &Runner<'_>,
    samples: &dyn Samples,
    picks: &[usize],
    events: &dyn Events,
) -> Result<Vec<OutputDrift>> {
    let names = float.output_names();
    let theirs = quantized.output_names();
    let places = names
        .iter()
        .map(|n| {
            theirs.iter().position(|t| t == n).ok_or_else(|| {
                Error::new(ErrorKind::Data, format!("the quantized model has no output `{n}`"))
                    .hint("give the float model that this one was made from")
            })
        })
        .collect::<Result<Vec<usize>>>()?;
    let make = || Ok((float.worker(), quantized.worker()));
    let (_, seen) = spread(picks.len(), events, make, |(a, b), i| {
        let at = || format!("sample {}", picks[i]);
        let sample = samples.get(picks[i]).at(at)?;
        let reference = a.outputs(&sample).at(|| "float model".to_owned()).at(at)?;
        let got = b.outputs(&sample).at(|| "quantized model".to_owned()).at(at)?;
        names.iter().zip(&reference).zip(&places).map(|((n, r), &p)| compare_one(n, r, &got[p])).collect()
    })?;
    Ok(names.iter().enumerate().map(|(i, name)| total(name, seen.iter().map(|s: &Vec<Seen>| &s[i]))).collect())
}

fn compare_one(name: &str, reference: &Tensor, got: &Tensor) -> Result<Seen> {
    if reference.shape() != got.shape() {
        let what = format!("output `{name}`: expected shape {:?}, found {:?}", reference.shape(), got.shape());
        return Err(Error::new(ErrorKind::Data, what));
    }
    let mut drift = Drift::default();
    if !reference.is_float() {
        return Ok(Seen { drift, agrees: None });
    }
    let (r, g) = (reference.f32s()?, got.f32s()?);
    drift.add(&r, &g);
    let scores = reference.shape().iter().filter(|&&d| d > 1).count() == 1;
    Ok(Seen { drift, agrees: scores.then(|| arg_max(&r) == arg_max(&g)) })
}

/// The place of the largest number, the first of equals.
pub(crate) fn arg_max(x: &[f32]) -> Option<usize> {
    (0..x.len()).reduce(|best, i| if x[i] > x[best] { i } else { best })
}

fn total<'a>(name: &str, seen: impl Iterator<Item = &'a Seen> + Clone) -> OutputDrift {
    let mut drift = Drift::default();
    seen.clone().for_each(|s| drift.merge(&s.drift));
    let votes: Vec<bool> = seen.clone().filter_map(|s| s.agrees).collect();
    let all = votes.len() == seen.count() && !votes.is_empty();
    let finite = |x: f64| x.is_finite().then_some(x);
    OutputDrift {
        name: name.to_owned(),
        sqnr_db: finite(drift.sqnr()),
        cosine: finite(drift.cosine()),
        max_abs: finite(drift.max_abs()),
        top1_agreement: all.then(|| votes.iter().filter(|&&v| v).count() as f64 / votes.len() as f64),
        exact: drift.max_abs() == 0.0,
        broken: !drift.max_abs().is_finite(),
    }
}
