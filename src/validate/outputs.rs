//! Drift of a model's outputs.

use serde::Serialize;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Events;
use crate::exec::{Runner, Worker, spread, warm_up};
use crate::model::{Tensor, dtype_name};
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
    /// For outputs that are not floats: the share of elements (0 to 1) that are equal.
    pub equal: Option<f64>,
    /// In how many samples the output has another shape than the float model's; those are not in the other numbers.
    pub other_shape: usize,
    /// Whether the two are equal in every element of every sample.
    pub exact: bool,
    /// Whether not-a-number or infinity came out where the float model gave numbers.
    pub broken: bool,
}

/// Share of the samples (0 to 1) that each model puts in the right class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Accuracy {
    /// The output that holds the scores.
    pub output: String,
    /// The float model's largest score is the right class.
    pub float_top1: f64,
    /// The right class is among the float model's five largest scores; `None` with five classes or fewer.
    pub float_top5: Option<f64>,
    /// The same for the quantized model.
    pub quantized_top1: f64,
    /// The same for the quantized model.
    pub quantized_top5: Option<f64>,
}

/// What one sample says of one output.
#[derive(Default)]
struct Seen {
    drift: Drift,
    /// Equal elements and all elements, of outputs that are not floats.
    equal: Option<(usize, usize)>,
    other_shape: bool,
    /// What the two models say, if this is a vector of scores.
    scores: Option<Scores>,
}

struct Scores {
    agree: bool,
    classes: usize,
    /// How many classes have a larger score than the right one, for the float and the quantized model.
    ranks: Option<(usize, usize)>,
}

/// Runs both models on the samples in `picks` and compares their float outputs, by name.
///
/// Errors when an output of the float model is missing in the other, or is of another type there.
pub fn compare<'a>(
    float: &Runner<'a>,
    quantized: &Runner<'a>,
    samples: &dyn Samples,
    picks: &[usize],
    events: &dyn Events,
) -> Result<Vec<OutputDrift>> {
    let sides = Sides { float, quantized, deployed: None };
    Ok(compare_with(&sides, samples, picks, None, events)?.outputs)
}

/// What is run on every sample.
pub(super) struct Sides<'r, 'a> {
    pub float: &'r Runner<'a>,
    pub quantized: &'r Runner<'a>,
    /// The quantized model in another engine.
    pub deployed: Option<&'r Runner<'a>>,
}

/// What came of running it.
pub(super) struct Compared {
    /// The quantized model against the float one.
    pub outputs: Vec<OutputDrift>,
    /// Of both, where there are labels.
    pub accuracy: Option<Accuracy>,
    /// The same of the quantized model in the other engine.
    pub deployed: Option<InOther>,
}

pub(super) struct InOther {
    /// Against the float model.
    pub outputs: Vec<OutputDrift>,
    pub accuracy: Option<Accuracy>,
    /// Against the quantized model in the first engine.
    pub departures: Vec<OutputDrift>,
}

/// As [`compare`]; with a label for each pick, also the accuracy of the models.
pub(super) fn compare_with(
    sides: &Sides<'_, '_>,
    samples: &dyn Samples,
    picks: &[usize],
    labels: Option<&[usize]>,
    events: &dyn Events,
) -> Result<Compared> {
    let names = sides.float.output_names();
    let theirs = sides.quantized.output_names();
    let places = names
        .iter()
        .map(|n| {
            theirs.iter().position(|t| t == n).ok_or_else(|| {
                Error::new(ErrorKind::Data, format!("the quantized model has no output `{n}`"))
                    .hint("give the float model that this one was made from")
            })
        })
        .collect::<Result<Vec<usize>>>()?;
    if let Some(&first) = picks.first() {
        warm_up(sides.float, sides.quantized, &samples.get(first).at(|| format!("sample {first}"))?);
    }
    let make = || Ok((sides.float.worker(), sides.quantized.worker(), sides.deployed.map(Runner::worker)));
    let (_, seen) = spread(picks.len(), events, make, |(a, b, c), i| -> Result<Vec<[Seen; 3]>> {
        let at = || format!("sample {}", picks[i]);
        let sample = samples.get(picks[i]).at(at)?;
        let mut quantized = |w: &mut Worker<'_, '_>| w.outputs(&sample).at(|| "quantized model".to_owned()).at(at);
        let reference = a.outputs(&sample).at(|| "float model".to_owned()).at(at)?;
        let got = quantized(b)?;
        let other = c.as_mut().map(&mut quantized).transpose()?;
        let label = labels.map(|l| l[i]);
        let outputs = names.iter().zip(&reference).zip(&places);
        outputs
            .map(|((name, r), &p)| {
                let drift = compare_one(name, r, &got[p], label)?;
                let Some(other) = &other else { return Ok([drift, Seen::default(), Seen::default()]) };
                let departure = compare_one(name, &got[p], &other[p], None)?;
                Ok([drift, compare_one(name, r, &other[p], label)?, departure])
            })
            .collect()
    })?;
    let column = |i: usize, which: usize| seen.iter().map(move |s: &Vec<[Seen; 3]>| &s[i][which]);
    let drifts = |which: usize| -> Vec<OutputDrift> {
        names.iter().enumerate().map(|(i, name)| total(name, column(i, which))).collect()
    };
    let outputs = drifts(0);
    let scores = match labels {
        Some(_) => Some(outputs.iter().position(|d| d.top1_agreement.is_some()).ok_or_else(|| {
            Error::new(ErrorKind::Data, "no output of the model is a vector of class scores")
                .hint("leave the labels out")
        })?),
        None => None,
    };
    let accuracy = |which: usize| scores.map(|i| accuracy(&names[i], column(i, which)));
    let deployed = sides.deployed.map(|_| InOther { outputs: drifts(1), accuracy: accuracy(1), departures: drifts(2) });
    Ok(Compared { accuracy: accuracy(0), outputs, deployed })
}

fn compare_one(name: &str, reference: &Tensor, got: &Tensor, label: Option<usize>) -> Result<Seen> {
    if reference.dtype() != got.dtype() {
        let (a, b) = (dtype_name(reference.dtype()), dtype_name(got.dtype()));
        return Err(Error::new(ErrorKind::Data, format!("output `{name}`: expected {a}, found {b}")));
    }
    if reference.shape() != got.shape() {
        return Ok(Seen { other_shape: true, ..Seen::default() });
    }
    if !reference.is_float() {
        let width = reference.bytes().len() / reference.len().max(1);
        let pairs = reference.bytes().chunks(width.max(1)).zip(got.bytes().chunks(width.max(1)));
        let equal = pairs.filter(|(a, b)| a == b).count();
        return Ok(Seen { equal: Some((equal, reference.len())), ..Seen::default() });
    }
    let mut drift = Drift::default();
    let (r, g) = (reference.f32s()?, got.f32s()?);
    drift.add(&r, &g);
    if reference.shape().iter().filter(|&&d| d > 1).count() != 1 {
        return Ok(Seen { drift, ..Seen::default() });
    }
    let rank = |x: &[f32], label: usize| {
        x.get(label).map(|right| x.iter().enumerate().filter(|&(i, v)| v > right || (v == right && i < label)).count())
    };
    let ranks = match label {
        Some(label) => Some(rank(&r, label).zip(rank(&g, label)).ok_or_else(|| {
            Error::new(ErrorKind::Data, format!("label {label} is past the {} classes of output `{name}`", r.len()))
        })?),
        None => None,
    };
    let scores = Scores { agree: arg_max(&r) == arg_max(&g), classes: r.len(), ranks };
    Ok(Seen { drift, scores: Some(scores), ..Seen::default() })
}

fn accuracy<'a>(output: &str, seen: impl Iterator<Item = &'a Seen>) -> Accuracy {
    let scores: Vec<&Scores> = seen.filter_map(|s| s.scores.as_ref()).collect();
    let ranks: Vec<(usize, usize)> = scores.iter().filter_map(|s| s.ranks).collect();
    let share = |hit: &dyn Fn(&(usize, usize)) -> bool| {
        ranks.iter().filter(|r| hit(r)).count() as f64 / ranks.len().max(1) as f64
    };
    let five = scores.iter().all(|s| s.classes > 5);
    Accuracy {
        output: output.to_owned(),
        float_top1: share(&|r| r.0 == 0),
        float_top5: five.then(|| share(&|r| r.0 < 5)),
        quantized_top1: share(&|r| r.1 == 0),
        quantized_top5: five.then(|| share(&|r| r.1 < 5)),
    }
}

/// The place of the largest number, the first of equals.
fn arg_max(x: &[f32]) -> Option<usize> {
    (0..x.len()).reduce(|best, i| if x[i] > x[best] { i } else { best })
}

fn total<'a>(name: &str, seen: impl Iterator<Item = &'a Seen> + Clone) -> OutputDrift {
    let mut drift = Drift::default();
    seen.clone().for_each(|s| drift.merge(&s.drift));
    let votes: Vec<bool> = seen.clone().filter_map(|s| Some(s.scores.as_ref()?.agree)).collect();
    let all = votes.len() == seen.clone().count() && !votes.is_empty();
    let other_shape = seen.clone().filter(|s| s.other_shape).count();
    let equal = seen.clone().filter_map(|s| s.equal).reduce(|(a, n), (b, m)| (a + b, n + m));
    let is_float = equal.is_none() && drift.count() > 0;
    let finite = |x: f64| (is_float && x.is_finite()).then_some(x);
    OutputDrift {
        name: name.to_owned(),
        sqnr_db: finite(drift.sqnr()),
        cosine: finite(drift.cosine()),
        max_abs: finite(drift.max_abs()),
        top1_agreement: all.then(|| votes.iter().filter(|&&v| v).count() as f64 / votes.len() as f64),
        equal: equal.map(|(equal, all)| if all == 0 { 1.0 } else { equal as f64 / all as f64 }),
        other_shape,
        exact: other_shape == 0 && drift.max_abs() == 0.0 && equal.is_none_or(|(equal, all)| equal == all),
        broken: !drift.max_abs().is_finite(),
    }
}
