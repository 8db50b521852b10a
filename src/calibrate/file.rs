//! What calibration learned, as a file.
//!
//! The file is JSON, one object:
//!
//! | key | what it holds |
//! |---|---|
//! | `format` | `"qdq ranges"` |
//! | `version` | 1: this table |
//! | `model` | the [fingerprint](crate::model::fingerprint) of the float model |
//! | `samples` | how many samples were run |
//! | `bins` | how many bins a histogram has at most: 2048 |
//! | `values` | an object: what was seen of each float value, by its name |
//! | `taken` | the branches (operator If) that samples took, each by the first value that it makes |
//! | `others` | the names of values that were asked for and are no floats, or were never computed |
//!
//! and of each value:
//!
//! | key | what it holds |
//! |---|---|
//! | `shape` | a list of sizes; `null` for those that changed from sample to sample |
//! | `count` | how many numbers were seen |
//! | `non_finite` | how many of them were infinite or not a number; everything below leaves them out |
//! | `min`, `max` | the extremes; `null` if there is no number |
//! | `zeros` | how many numbers are zero |
//! | `exponent` | the binary logarithm of the width of a bin |
//! | `below` | counts of the bins below zero, from that of the smallest number inwards; bin `k` from zero on is `(-k - 1, -k]` widths |
//! | `above` | counts of the bins above zero, outwards to that of the largest number; bin `k` is `[k, k + 1)` widths. Zeros are in no bin |
//! | `powers` | the sums of `x`, `x^2`, `x^3` and `x^4`, each exact: a list of numbers to add up |
//! | `average` | for the moving average: the sums of weighted minima, weighted maxima and weights, likewise |
//! | `classes` | for scores: counts of the second largest score and of the gap to the largest, as pairs of bin and count, where a bin is the bits of an f32 without the last 18; `null` for what holds no scores |
//!
//! Numbers are the shortest decimals that read back as the same f32 or f64. Values are sorted by name; whoever saw the
//! same samples writes the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Ranges, Stats};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::number::{BINS, ExactSum};
use crate::observe::{Classes, Histogram, HistogramParts, MovingAverage, Profile};

/// What the file is known by.
const FORMAT: &str = "qdq ranges";

/// The version that is read and written.
const VERSION: u64 = 1;

/// What calibration learned of a model, to be kept, merged and used later.
#[derive(Debug, Clone, PartialEq)]
pub struct RangesFile {
    /// The fingerprint of the float model.
    pub model: String,
    /// How many samples were run.
    pub samples: u64,
    /// What was seen, with profiles.
    pub ranges: Ranges,
    /// The values that were asked for and not seen as floats.
    pub others: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    format: String,
    version: u64,
    model: String,
    samples: u64,
    bins: u64,
    values: BTreeMap<String, ValueForm>,
    taken: BTreeSet<String>,
    others: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueForm {
    shape: Vec<Option<usize>>,
    count: u64,
    non_finite: u64,
    min: Option<f32>,
    max: Option<f32>,
    zeros: u64,
    exponent: i32,
    below: Vec<u64>,
    above: Vec<u64>,
    powers: [Vec<f64>; 4],
    average: [Vec<f64>; 3],
    classes: Option<ClassesForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassesForm {
    seconds: Vec<(u32, u64)>,
    gaps: Vec<(u32, u64)>,
}

/// As much of any version as tells which one it is.
#[derive(Deserialize)]
struct Head {
    format: Option<String>,
    version: Option<u64>,
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

impl RangesFile {
    /// The text of the file. Errors when a value has no profile.
    pub fn to_json(&self) -> Result<String> {
        let values = self.ranges.iter().map(|(name, stats)| {
            let form = value_form(stats).ok_or_else(|| Error::new(ErrorKind::Usage, "no profile was kept"));
            Ok((name.to_owned(), form.at(|| format!("`{name}`"))?))
        });
        let form = FileForm {
            format: FORMAT.to_owned(),
            version: VERSION,
            model: self.model.clone(),
            samples: self.samples,
            bins: BINS as u64,
            values: values.collect::<Result<_>>()?,
            taken: self.ranges.taken.clone(),
            others: self.others.clone(),
        };
        let text = serde_json::to_string(&form);
        Ok(text.map_err(|e| Error::new(ErrorKind::Unsupported, "ranges that JSON cannot express").caused_by(e))? + "\n")
    }

    /// Reads the text of a file.
    ///
    /// Errors when it is no such file, is of another version, or contradicts itself.
    pub fn from_json(text: &str) -> Result<RangesFile> {
        let hint = "such files are written by `qdq calibrate`";
        let not_one = |e: serde_json::Error| malformed(format!("no file of ranges: {e}")).hint(hint).caused_by(e);
        let head: Head = serde_json::from_str(text).map_err(not_one)?;
        if head.format.as_deref() != Some(FORMAT) {
            return Err(malformed("no file of ranges").hint(hint));
        }
        if head.version != Some(VERSION) {
            let found = head.version.map_or("no version".to_owned(), |v| format!("version {v}"));
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the file has {found}, and version {VERSION} is read"),
            )
            .hint("calibrate again with this version of qdq"));
        }
        let form: FileForm = serde_json::from_str(text).map_err(not_one)?;
        if form.bins != BINS as u64 {
            let what = format!("histograms of {} bins, and {BINS} are read", form.bins);
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let values = form.values.into_iter().map(|(name, value)| {
            let stats = value_stats(value).at(|| format!("`{name}`"))?;
            Ok((name, stats))
        });
        let ranges = Ranges { values: values.collect::<Result<_>>()?, taken: form.taken };
        Ok(RangesFile { model: form.model, samples: form.samples, ranges, others: form.others })
    }

    /// Takes in what was learned of other samples. The order of merging does not matter.
    ///
    /// Errors when the other file is of another model.
    pub fn merge(&mut self, other: RangesFile) -> Result<()> {
        if self.model != other.model {
            return Err(Error::new(ErrorKind::Data, "the files are of different models")
                .hint("merge what was learned of one float model on several shares of the samples"));
        }
        self.samples += other.samples;
        self.ranges.merge(other.ranges);
        self.others.extend(other.others);
        // What any of them saw was seen.
        self.others.retain(|name| self.ranges.get(name).is_none());
        Ok(())
    }

    /// The ranges, for the model with this fingerprint, of which `wanted` are needed.
    ///
    /// Errors when they are of another model, or when one of the values was not asked for.
    pub fn for_model<'a>(&self, model: &str, wanted: impl IntoIterator<Item = &'a str>) -> Result<&Ranges> {
        if self.model != model {
            return Err(Error::new(ErrorKind::Data, "the ranges are of another model")
                .hint("calibrate this one: `qdq calibrate MODEL --data SOURCE -o ranges.json`"));
        }
        let missing = |name: &&str| self.ranges.get(name).is_none() && !self.others.contains(*name);
        if let Some(name) = wanted.into_iter().find(missing) {
            return Err(Error::new(ErrorKind::Data, format!("the ranges hold nothing about `{name}`"))
                .hint("calibrate again, for the same target and formats as it is quantized for"));
        }
        Ok(&self.ranges)
    }
}

fn value_form(stats: &Stats) -> Option<ValueForm> {
    let profile = stats.profile.as_ref()?;
    let histogram = &profile.histogram;
    let list = |sum: &ExactSum| sum.parts().to_vec();
    let pairs = |counts: &BTreeMap<u32, u64>| counts.iter().map(|(&bin, &n)| (bin, n)).collect::<Vec<_>>();
    Some(ValueForm {
        shape: stats.shape.clone(),
        count: stats.count,
        non_finite: stats.non_finite,
        min: stats.min,
        max: stats.max,
        zeros: histogram.zeros(),
        exponent: histogram.exponent(),
        below: histogram.below().to_vec(),
        above: histogram.above().to_vec(),
        powers: histogram.powers().each_ref().map(list),
        average: profile.average.sums().map(list),
        classes: (!profile.classes.is_empty()).then(|| {
            let [seconds, gaps] = profile.classes.counts().map(pairs);
            ClassesForm { seconds, gaps }
        }),
    })
}

fn value_stats(form: ValueForm) -> Result<Stats> {
    let sum = |parts: &Vec<f64>| ExactSum::of(parts);
    let histogram = Histogram::from_parts(HistogramParts {
        extremes: form.min.zip(form.max),
        count: form.count,
        non_finite: form.non_finite,
        zeros: form.zeros,
        exponent: form.exponent,
        below: form.below,
        above: form.above,
        powers: form.powers.each_ref().map(sum),
    })?;
    let average = MovingAverage::from_sums(form.average.each_ref().map(sum));
    let classes = match form.classes {
        Some(c) => Classes::from_counts([c.seconds, c.gaps].map(|pairs| pairs.into_iter().collect()))?,
        None => Classes::default(),
    };
    Ok(Stats {
        min: form.min,
        max: form.max,
        count: form.count,
        non_finite: form.non_finite,
        shape: form.shape,
        profile: Some(Profile { histogram, average, classes }),
    })
}
