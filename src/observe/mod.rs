//! What is remembered of a stream of values, and how a range comes out of it.
//!
//! - [`MinMax`]: the extremes, for those who ask for no more;
//! - [`Profile`]: a [`Histogram`], a [`MovingAverage`] of the extremes, and the [`Classes`] of scores;
//! - [`Method`]: the list of ways to make a range of it, one file each, with the paper it is from;
//! - [`Density`]: the histogram as methods compute with it, and the error that a grid would leave.

mod aciq;
mod classes;
mod density;
mod entropy;
mod histogram;
mod isotone;
mod mean;
mod method;
mod min_max;
mod moving_average;
mod mse;
mod octav;
mod percentile;
mod profile;
#[cfg(test)]
mod samples;

use crate::number::Range;

pub use classes::Classes;
pub use density::{Cell, Density};
pub use histogram::{Histogram, HistogramParts};
pub use method::Method;
pub use min_max::MinMax;
pub use moving_average::MovingAverage;
pub use profile::Profile;

/// Sees every slice of a value, in whatever order, and can be merged with what another thread saw.
pub trait Observer: Default + Send {
    /// Takes in more of the stream.
    fn observe(&mut self, x: &[f32]);

    /// Takes in what another observer saw; the outcome does not depend on the order.
    fn merge(&mut self, other: &Self);

    /// The range to quantize; `None` when nothing finite was seen.
    fn range(&self) -> Option<Range>;
}
