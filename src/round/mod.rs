//! From float weights to integer codes. Knows matrices, not ONNX.

use crate::error::Result;
use crate::number::{QuantParams, quantize};

/// Rounds each weight to the nearest code, ties to even.
///
/// `shape` is the tensor's; the parameters may be per channel along any axis of it.
pub fn nearest(weights: &[f32], shape: &[usize], params: &QuantParams) -> Result<Vec<i32>> {
    quantize(weights, shape, params)
}
