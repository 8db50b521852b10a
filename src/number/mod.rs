//! Number formats, quantization parameters and the kernels on slices. Nothing here knows ONNX.
//!
//! - [`Format`]: bits, code range, storage, minimum opset, as data;
//! - [`Minifloat`]: the floating-point formats of at most 8 bits, as data;
//! - [`Levels`]: what codes stand for before the scale;
//! - [`ScaleForm`], [`StoredScales`]: which numbers scales can be, and how they are stored;
//! - [`WeightFormat`]: formats of weights with their scales, as users name them;
//! - [`fit`], [`means`], [`lloyd`]: from the numbers of a tensor to the parameters of any of them;
//! - [`Range`], [`Scheme`], [`QuantParams`]: from a range of reals to scale and zero point;
//! - [`Granularity`]: which numbers share them;
//! - [`quantize`], [`dequantize`], [`fake_quantize`]: the specification's arithmetic;
//! - [`extremes`], [`encode`]: weights to bytes, on all threads;
//! - [`pack`], [`unpack`], [`pack_bits`], [`unpack_bits`]: codes as bytes;
//! - [`survey`], [`Tally`]: what histograms ask of a slice;
//! - [`ExactSum`]: sums that merge without rounding;
//! - [`Drift`], [`Moments`]: how far two streams of numbers are apart, and how one is spread;
//! - [`Normal`]: what a cut makes of a normal distribution.

mod bins;
mod channels;
mod cluster;
mod distribution;
mod exact_sum;
mod extremes;
mod fit;
mod format;
mod granularity;
mod kernel;
mod levels;
mod metric;
mod minifloat;
mod normal;
mod packed;
mod params;
mod range;
mod scales;
mod stream;
mod thresholds;
mod weight_format;

pub use bins::{BINS, Survey, Tally, survey};
pub use channels::each_channel;
pub use cluster::{lloyd, means};
pub use distribution::Distribution;
pub use exact_sum::ExactSum;
pub use fit::{Clip, fit, fit_tables, gather};
pub use format::{Format, Storage};
pub use granularity::Granularity;
pub use kernel::{
    Grid, dequantize, fake_quantize, min_max, min_max_channels, pack, power_sums, quantize, rescale, rounding_loss,
    unpack,
};
pub use levels::{Levels, nearest};
pub use metric::{Drift, Moments, decibels, sum};
pub use minifloat::{Minifloat, Specials};
pub use normal::Normal;
pub use packed::{pack_bits, packed_len, unpack_bits};
pub use params::{QuantParams, Scheme};
pub use range::Range;
pub use scales::{Over, ScaleCodes, ScaleForm, StoredScales};
pub use stream::{encode, extremes};
pub use weight_format::{Share, WeightFormat};
