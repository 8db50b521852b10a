//! Where samples come from.
//!
//! A [`Sample`] is what a model takes for one run with a batch of one. A source knows how many samples it has and
//! reads each when it is asked for, so that memory does not grow with their number.

use crate::error::Result;
use crate::model::Tensor;

/// One run's inputs, in the order of the model's inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// A tensor for each input, batch axis included.
    pub inputs: Vec<Tensor>,
}

/// A source of samples that fit a model.
pub trait Samples: Send + Sync {
    /// How many samples there are; at least one.
    fn len(&self) -> usize;

    /// Reads sample `i`. Errors name the file and, where shapes or types differ, expected and found.
    fn get(&self, i: usize) -> Result<Sample>;

    /// What the samples are, for reports: `images: 100 files, resized to 224x224`.
    fn describe(&self) -> String;

    /// Never: a source without samples is an error when it is opened.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
