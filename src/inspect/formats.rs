//! What weights would lose in formats they are not in.

use std::collections::HashSet;

use serde::Serialize;

use super::walk::Walk;
use super::weights::floats;
use crate::error::Result;
use crate::model::Model;
use crate::number::{Clip, WeightFormat, decibels, fit, rounding_loss};

/// A weight in a format.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InFormat {
    /// The format, as users write it: `int4/b32`.
    pub format: String,
    /// SQNR in dB of the numbers after rounding at the clip of least squared error; infinite, which JSON has as `null`, if
    /// nothing is lost. `None` if a number is not finite, or there is none.
    pub sqnr_db: Option<f64>,
    /// Bits a number takes, with its share of scales, zero points and tables.
    pub bits_per_weight: f64,
    /// Sums of squares: of the numbers, and of what rounding takes off them.
    #[serde(skip)]
    sums: (f64, f64),
    #[serde(skip)]
    numbers: usize,
}

/// All weights in a format.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FormatTotal {
    /// The format, as users write it.
    pub format: String,
    /// Bits of a code.
    pub bits: u32,
    /// SQNR in dB of all weights together: the sum of their signals over that of their noises.
    pub sqnr_db: Option<f64>,
    /// Bits a number takes, with its share of scales, zero points and tables.
    pub bits_per_weight: f64,
}

/// What the weights of a model would lose.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// For each weight that [`inspect`](super::inspect()) lists, in the order of execution, a cell for each format; none for
    /// weights that are codes already, and for constants that no operator takes as a weight.
    pub(super) rows: Vec<Vec<InFormat>>,
    /// All of them; a weight that several nodes read counts once.
    pub total: Vec<FormatTotal>,
}

/// Rounds the weights of a model to each of the formats, and tells how near they stay: by the weights alone, without
/// samples.
///
/// Scales are those of [`fit`] with [`Clip::Best`], for the channels and the inputs that the operator gives the weight; where a
/// weight has too few inputs for a block, its channels have one each. One weight after the other is read for each thread,
/// so that memory depends on the largest only. Errors as [`inspect`](super::inspect()).
pub fn forecast(model: &Model, formats: &[WeightFormat]) -> Result<Forecast> {
    let walk = Walk::of(model);
    let rows = floats(&walk, |weight, x| {
        let Some(x) = x.filter(|_| weight.placed) else { return Ok((weight.constant, Vec::new())) };
        let cells = formats.iter().map(|f| cell(f, x, weight.shape, weight.axis, weight.summed));
        Ok((weight.constant, cells.collect::<Result<Vec<_>>>()?))
    })?;
    let mut known = HashSet::new();
    let once: Vec<&Vec<InFormat>> = rows.iter().filter(|(c, _)| known.insert(*c)).map(|(_, cells)| cells).collect();
    let total = |(i, format): (usize, &WeightFormat)| {
        let cells = || once.iter().filter_map(|cells| cells.get(i));
        let (signal, noise) = cells().fold((0.0, 0.0), |(s, n), c| (s + c.sums.0, n + c.sums.1));
        let numbers: usize = cells().map(|c| c.numbers).sum();
        let bits: f64 = cells().map(|c| c.bits_per_weight * c.numbers as f64).sum();
        FormatTotal {
            format: format.to_string(),
            bits: format.format.bits,
            sqnr_db: cells().any(|c| c.sqnr_db.is_some()).then(|| decibels(signal, noise)),
            bits_per_weight: bits / numbers.max(1) as f64,
        }
    };
    let total = formats.iter().enumerate().map(total).collect();
    Ok(Forecast { rows: rows.into_iter().map(|(_, cells)| cells).collect(), total })
}

fn cell(
    format: &WeightFormat,
    x: &[f32],
    shape: &[usize],
    channels: Option<usize>,
    inputs: Option<usize>,
) -> Result<InFormat> {
    let none =
        InFormat { format: format.to_string(), sqnr_db: None, bits_per_weight: 0.0, sums: (0.0, 0.0), numbers: 0 };
    if x.is_empty() || x.iter().any(|x| !x.is_finite()) {
        return Ok(none);
    }
    let params = fit(x, shape, &format.scheme(shape, channels, inputs), Clip::Best, |scale| scale)?;
    let (signal, noise) = rounding_loss(x, shape, &params)?;
    Ok(InFormat {
        sqnr_db: Some(decibels(signal, noise)),
        bits_per_weight: params.bits(x.len()) as f64 / x.len() as f64,
        sums: (signal, noise),
        numbers: x.len(),
        ..none
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::inspect;
    use crate::model::{GraphProto, ModelProto, NodeProto, Tensor, attribute};
    use crate::number::Distribution;
    use crate::proto::OperatorSetIdProto;

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    fn formats(names: &[&str]) -> Vec<WeightFormat> {
        names.iter().map(|n| n.parse().unwrap()).collect()
    }

    /// Channels of a Gemm lie along axis 0, its inputs along axis 1, where `transB` says so: the columns differ in size, and so
    /// only blocks of inputs see small numbers beside large ones.
    #[test]
    fn scales_lie_as_the_operator_says_and_shared_weights_count_once() {
        let large = |i: usize| if i % 128 < 64 { 1.0 } else { 0.01 };
        let draw = Distribution::Gauss.draw(64 * 128, 1);
        let x: Vec<f32> = draw.iter().enumerate().map(|(i, x)| x * large(i)).collect();
        let w = Tensor::from_f32(vec![64, 128], x).to_proto("w");
        let bad = Tensor::from_f32(vec![2, 2], vec![1.0, f32::NAN, 0.0, 0.0]).to_proto("bad");
        let mut gemm = node("Gemm", &["a", "w"], "b");
        gemm.attribute.push(attribute::int("transB", 1));
        let again = NodeProto { output: vec!["c".into()], ..gemm.clone() };
        let graph = GraphProto {
            node: vec![gemm, again, node("MatMul", &["d", "bad"], "e")],
            initializer: vec![w, bad],
            ..Default::default()
        };
        let model = Model::from_proto(ModelProto {
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
            graph: Some(GraphProto {
                input: ["a", "d"]
                    .map(|n| crate::model::ValueInfoProto { name: Some(n.into()), ..Default::default() })
                    .into(),
                ..graph
            }),
            ..Default::default()
        })
        .unwrap();
        let formats = formats(&["int8/tensor", "int4", "int4/b32"]);
        let found = forecast(&model, &formats).unwrap();
        assert_eq!((found.rows.len(), inspect(&model).unwrap().weights.len()), (3, 3));
        assert_eq!(found.rows[0], found.rows[1]);
        assert!(found.rows[2].iter().all(|c| c.sqnr_db.is_none()));
        let bits: Vec<f64> = found.rows[0].iter().map(|c| c.bits_per_weight).collect();
        assert_eq!(bits, [8.0 + 32.0 / 8192.0, 4.0 + 32.0 / 128.0, 5.0]);
        let row: Vec<f64> = found.rows[0].iter().map(|c| c.sqnr_db.unwrap()).collect();
        assert!(row[0] > 35.0 && row[2] > row[1], "{row:?}");
        for (total, cell) in found.total.iter().zip(&found.rows[0]) {
            assert_eq!((total.sqnr_db, total.bits_per_weight), (cell.sqnr_db, cell.bits_per_weight));
        }
    }
}
