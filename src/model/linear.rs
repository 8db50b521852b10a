//! QuantizeLinear and DequantizeLinear nodes, as graphs hold them (ai.onnx 10 to 25, and com.microsoft).

use super::{DataType, Graph, NodeExt, NodeProto, Tensor, format_of};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::number::{Format, QuantParams, dequantize, unpack};

/// What a QuantizeLinear or DequantizeLinear node says of its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// The format of the codes.
    pub format: Format,
    /// One scale, or one a channel.
    pub scales: Vec<f32>,
    /// As many zero points.
    pub zero_points: Vec<i32>,
    /// The axis of the channels where there are several scales; negative counts from the back.
    pub axis: i64,
}

impl Linear {
    /// Whether the node is a QuantizeLinear.
    pub fn quantizes(node: &NodeProto) -> bool {
        node.op_type() == "QuantizeLinear" && matches!(node.domain(), "" | "ai.onnx" | "com.microsoft")
    }

    /// Whether the node is a DequantizeLinear.
    pub fn dequantizes(node: &NodeProto) -> bool {
        node.op_type() == "DequantizeLinear" && matches!(node.domain(), "" | "ai.onnx" | "com.microsoft")
    }

    /// Reads scales, zero points and format of such a node.
    ///
    /// Errors when they are no constants, or of a kind that is not supported yet: blocks, formats below 8 bits
    /// and floating-point formats.
    pub fn read(graph: &Graph, node: &NodeProto) -> Result<Linear> {
        Self::read_parts(graph, node).at(|| node.label())
    }

    fn read_parts(graph: &Graph, node: &NodeProto) -> Result<Linear> {
        let unsupported = |what: String| Error::new(ErrorKind::Unsupported, what);
        if node.int("block_size").unwrap_or(0) != 0 {
            return Err(unsupported("blocked quantization is not supported yet".into()));
        }
        let constant = |slot: usize, what: &str| -> Result<Option<Tensor>> {
            let Some(name) = node.input_at(slot) else { return Ok(None) };
            let missing = || unsupported(format!("its {what} `{name}` is not a constant"));
            graph.constant(name)?.map_or_else(|| Err(missing()), |t| Ok(Some(t)))
        };
        let scale = constant(1, "scale")?.ok_or_else(|| Error::new(ErrorKind::InvalidModel, "it has no scale"))?;
        let scales = scale.f32s()?.into_owned();
        let zero_point = constant(2, "zero point")?;
        let stated = match &zero_point {
            Some(z) => Some(z.dtype()),
            None if Self::dequantizes(node) => node.input_at(0).and_then(|x| graph.stated_dtype(x)),
            None => node.int("output_dtype").filter(|&d| d != 0).and_then(|d| DataType::try_from(d as i32).ok()),
        };
        let dtype = stated.unwrap_or(DataType::Uint8);
        let format = format_of(dtype)
            .ok_or_else(|| unsupported(format!("codes of type {} are not supported yet", super::dtype_name(dtype))))?;
        let zero_points = match &zero_point {
            Some(z) => unpack(format.storage, z.bytes()),
            None => vec![0; scales.len()],
        };
        Ok(Linear { format, scales, zero_points, axis: node.int("axis").unwrap_or(1) })
    }

    /// The parameters for a tensor of this rank.
    ///
    /// Errors when the axis is outside the rank, or scales and zero points do not agree.
    pub fn params(&self, rank: usize) -> Result<QuantParams> {
        if let ([scale], [zero]) = (&self.scales[..], &self.zero_points[..]) {
            return QuantParams::per_tensor(self.format, *scale, *zero);
        }
        let axis = usize::try_from(if self.axis < 0 { self.axis + rank as i64 } else { self.axis })
            .map_err(|_| Error::new(ErrorKind::InvalidModel, format!("axis {} is outside rank {rank}", self.axis)))?;
        QuantParams::per_channel(self.format, axis, self.scales.clone(), self.zero_points.clone())
    }

    /// The real numbers that a constant's codes stand for.
    pub fn dequantize(&self, codes: &Tensor) -> Result<Tensor> {
        let params = self.params(codes.shape().len())?;
        let x = dequantize(&unpack(self.format.storage, codes.bytes()), codes.shape(), &params)?;
        Ok(Tensor::from_f32(codes.shape().to_vec(), x))
    }
}
