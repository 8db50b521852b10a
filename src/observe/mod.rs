//! What is remembered of a stream of values, and how a range comes out of it.

mod histogram;
mod min_max;

use crate::number::Range;

pub use histogram::Histogram;
pub use min_max::MinMax;

/// Sees every slice of a value, in whatever order, and can be merged with what another thread saw.
pub trait Observer: Default + Send {
    /// Takes in more of the stream.
    fn observe(&mut self, x: &[f32]);

    /// Takes in what another observer saw; the outcome does not depend on the order.
    fn merge(&mut self, other: &Self);

    /// The range to quantize; `None` when nothing finite was seen.
    fn range(&self) -> Option<Range>;
}
