//! QuantizeLinear and DequantizeLinear nodes, as graphs hold them (ai.onnx 10 to 25, and com.microsoft).

use super::{DataType, Graph, NodeExt, NodeProto, Tensor, domain_of, dtype_name, format_of, minifloat_of};
use crate::error::{Error, ErrorKind, Place, Result, listed};
use crate::number::{Format, Granularity, QuantParams, rescale};

/// What a QuantizeLinear or DequantizeLinear node says of its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// The element type of the codes: integers, or floats of at most 8 bits.
    pub dtype: DataType,
    /// One scale, one a channel, or one a block in row-major order.
    pub scales: Vec<f32>,
    /// As many zero points; 0 where the codes are floats.
    pub zero_points: Vec<i32>,
    /// The axis of the channels or blocks where there are several scales; negative counts from the back.
    pub axis: i64,
    /// The blocks, if so many neighbours along the axis share a scale.
    pub blocks: Option<Blocks>,
}

/// Blocks of codes that share a scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    /// How many neighbours a block has, at least 1; the last one of a row may have fewer.
    pub size: usize,
    /// The shape of the scales: that of the codes with fewer along the axis.
    pub shape: Vec<usize>,
}

fn unsupported(what: String) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::InvalidModel, what)
}

impl Linear {
    /// Whether the node is a QuantizeLinear.
    pub fn quantizes(node: &NodeProto) -> bool {
        node.op_type() == "QuantizeLinear" && matches!(domain_of(node.domain()), "" | "com.microsoft")
    }

    /// Whether the node is a DequantizeLinear.
    pub fn dequantizes(node: &NodeProto) -> bool {
        node.op_type() == "DequantizeLinear" && matches!(domain_of(node.domain()), "" | "com.microsoft")
    }

    /// Reads scales, zero points and element type of such a node.
    ///
    /// Errors when they are no constants, do not agree, or codes are of a type that holds none.
    pub fn read(graph: &Graph, node: &NodeProto) -> Result<Linear> {
        Self::read_parts(graph, node).at(|| node.label())
    }

    fn read_parts(graph: &Graph, node: &NodeProto) -> Result<Linear> {
        let constant = |slot: usize, what: &str| -> Result<Option<Tensor>> {
            let Some(name) = node.input_at(slot) else { return Ok(None) };
            let missing = || unsupported(format!("its {what} `{name}` is not a constant"));
            graph.constant(name)?.map_or_else(|| Err(missing()), |t| Ok(Some(t)))
        };
        let scale = constant(1, "scale")?.ok_or_else(|| invalid("it has no scale".into()))?;
        let zero_point = constant(2, "zero point")?;
        let stated = match &zero_point {
            Some(z) => Some(z.dtype()),
            None if Self::dequantizes(node) => node.input_at(0).and_then(|x| graph.stated_dtype(x)),
            None => node.int("output_dtype").filter(|&d| d != 0).and_then(|d| DataType::try_from(d as i32).ok()),
        };
        let dtype = stated.unwrap_or(DataType::Uint8);
        Linear::of(dtype, &scale, zero_point.as_ref(), node.int("axis").unwrap_or(1), node.int("block_size"))
    }

    /// What scale and zero point say of codes of that type; `axis` and `block_size` are the node's attributes.
    ///
    /// Errors when the type holds no codes, the scale holds no floats, the block size is negative, and when there is a
    /// zero point that is not of the codes' type or, for floats, not zero.
    pub fn of(
        dtype: DataType,
        scale: &Tensor,
        zero_point: Option<&Tensor>,
        axis: i64,
        block_size: Option<i64>,
    ) -> Result<Linear> {
        let name = dtype_name(dtype);
        if let Some(z) = zero_point.filter(|z| z.dtype() != dtype) {
            return Err(invalid(format!("its codes are {name} and its zero point is {}", dtype_name(z.dtype()))));
        }
        let scales = scale.f32s()?.into_owned();
        let zero_points = match (zero_point, minifloat_of(dtype)) {
            _ if minifloat_of(dtype).is_none() && format_of(dtype).is_none() => {
                return Err(unsupported(format!("codes of type {name} are not supported")));
            }
            (Some(z), Some(_)) if z.f32s()?.iter().any(|&z| z != 0.0) => {
                return Err(invalid(format!("the zero point of {name} must be 0")));
            }
            (Some(z), None) => z.codes()?,
            _ => vec![0; scales.len()],
        };
        let size = block_size
            .filter(|&size| size != 0)
            .map(|size| usize::try_from(size).map_err(|_| invalid(format!("its block_size {size} is negative"))));
        let blocks = size.transpose()?.map(|size| Blocks { size, shape: scale.shape().to_vec() });
        Ok(Linear { dtype, scales, zero_points, axis, blocks })
    }

    /// The format of the codes, for what computes with it on activations. Errors when codes are floats, or in blocks.
    pub fn format(&self) -> Result<Format> {
        if self.blocks.is_some() {
            return Err(unsupported("blocked quantization of activations is not supported yet".into()));
        }
        let wrong = || unsupported(format!("codes of type {} are not supported yet", dtype_name(self.dtype)));
        format_of(self.dtype).ok_or_else(wrong)
    }

    /// The axis, counted from the front. Errors when it is outside the rank.
    fn axis(&self, rank: usize) -> Result<usize> {
        let axis = if self.axis < 0 { self.axis.saturating_add_unsigned(rank as u64) } else { self.axis };
        let outside = || invalid(format!("axis {} is outside rank {rank}", self.axis));
        usize::try_from(axis).ok().filter(|&a| a < rank).ok_or_else(outside)
    }

    /// The parameters for a tensor of this rank, to compute with.
    ///
    /// Errors as [`Linear::format`], when the axis is outside the rank, and when scales and zero points do not agree or
    /// are none to quantize with (a scale of zero).
    pub fn params(&self, rank: usize) -> Result<QuantParams> {
        let format = self.format()?;
        if let ([scale], [zero]) = (&self.scales[..], &self.zero_points[..]) {
            return QuantParams::per_tensor(format, *scale, *zero);
        }
        QuantParams::per_channel(format, self.axis(rank)?, self.scales.clone(), self.zero_points.clone())
    }

    /// As [`Linear::params`], for what does not depend on the rank, which only says from where a negative axis counts.
    pub fn params_of_any_rank(&self) -> Result<QuantParams> {
        self.params(usize::try_from(self.axis.unsigned_abs()).unwrap_or(usize::MAX).saturating_add(1))
    }

    /// Which codes of a tensor of this shape share a scale. Errors when the scales do not fit the shape.
    pub fn granularity(&self, shape: &[usize]) -> Result<Granularity> {
        if self.scales.len() == 1 {
            return Ok(Granularity::Tensor);
        }
        let axis = self.axis(shape.len())?;
        let Some(Blocks { size, shape: found }) = &self.blocks else { return Ok(Granularity::Channel { axis }) };
        let mut wanted = shape.to_vec();
        wanted[axis] = wanted[axis].div_ceil((*size).max(1));
        if *found != wanted {
            return Err(invalid(format!(
                "scales of the shape {} are not those of blocks of {size} along axis {axis} of {}",
                listed(found),
                listed(shape)
            )));
        }
        Ok(Granularity::Block { axis, size: *size })
    }

    /// The real numbers that a constant's codes stand for, as float32: what DequantizeLinear makes of it. Scales may be
    /// zero or negative, as blocks of weights have them.
    ///
    /// Errors when the constant is of another type than the codes, when scales and zero points do not fit it or each
    /// other, and when a scale is not finite.
    pub fn dequantize(&self, codes: &Tensor) -> Result<Tensor> {
        if let Some(s) = self.scales.iter().find(|s| !s.is_finite()) {
            return Err(invalid(format!("scale {s} is not a finite number")));
        }
        if codes.dtype() != self.dtype {
            let (found, wanted) = (dtype_name(codes.dtype()), dtype_name(self.dtype));
            return Err(invalid(format!("its codes are {found}, not {wanted} as the zero point says")));
        }
        let shape = codes.shape().to_vec();
        let mut x = codes.reals()?.into_owned();
        let zeros: Vec<f32> = self.zero_points.iter().map(|&z| z as f32).collect();
        rescale(&mut x, &shape, self.granularity(&shape)?, &self.scales, &zeros)?;
        Ok(Tensor::from_f32(shape, x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DataType, shape: &[usize], bytes: &[u8]) -> Tensor {
        Tensor::new(dtype, shape.to_vec(), bytes.to_vec().into()).unwrap()
    }

    #[test]
    fn blocks_and_floats_are_dequantized() {
        let codes = tensor(DataType::Int4, &[3, 2], &[0x21, 0x43, 0xf8]);
        let scale = Tensor::from_f32(vec![2, 2], vec![1.0, 10.0, -100.0, 0.0]);
        let zero = tensor(DataType::Int4, &[2, 2], &[0x10, 0x0f]);
        let linear = Linear::of(DataType::Int4, &scale, Some(&zero), 0, Some(2)).unwrap();
        let real = linear.dequantize(&codes).unwrap();
        assert_eq!(real.f32s().unwrap()[..], [1.0, 10.0, 3.0, 30.0, 700.0, -0.0]);
        let codes = tensor(DataType::Float8e4m3fn, &[2], &[0x38, 0xc0]);
        let linear = Linear::of(DataType::Float8e4m3fn, &Tensor::from_f32(vec![], vec![0.5]), None, 1, None).unwrap();
        assert_eq!(linear.dequantize(&codes).unwrap().f32s().unwrap()[..], [0.5, -1.0]);
        assert!(linear.params(1).is_err());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let scale = |shape: &[usize]| Tensor::from_f32(shape.to_vec(), vec![1.0; shape.iter().product()]);
        let of = |dtype, zero, axis, block| Linear::of(dtype, &scale(&[2, 3]), zero, axis, block);
        let message = |r: Result<Linear>| r.unwrap_err().to_string();
        let int8 = tensor(DataType::Int8, &[], &[1]);
        assert!(message(of(DataType::Uint8, Some(&int8), 1, None)).contains("uint8 and its zero point is int8"));
        assert!(message(of(DataType::Float, None, 1, None)).contains("codes of type float32"));
        assert!(message(of(DataType::Int8, None, 1, Some(-2))).contains("negative"));
        let one = tensor(DataType::Float8e5m2, &[], &[1]);
        assert!(message(of(DataType::Float8e5m2, Some(&one), 1, None)).contains("must be 0"));
        let codes = tensor(DataType::Int8, &[2, 6], &[0; 12]);
        let fit = |axis, block| of(DataType::Int8, None, axis, block).unwrap().dequantize(&codes);
        assert!(fit(-1, Some(2)).is_ok() && fit(-1, Some(3)).is_err() && fit(0, Some(2)).is_err());
        assert!(fit(2, Some(2)).is_err() && fit(i64::MIN, Some(2)).is_err() && fit(0, None).is_err());
        assert!(of(DataType::Uint8, None, 1, Some(2)).unwrap().dequantize(&codes).is_err());
    }
}
