//! The DequantizeLinear nodes in front of a float operator, and the QuantizeLinear nodes behind it.

use crate::error::{ErrorKind, Refusal, no};
use crate::model::{DataType, Graph, Linear, NodeExt, NodeId, NodeProto, dtype_name};
use crate::number::{Grid, QuantParams};
use crate::rule::{OpRule, Role, bounds};

use super::source::code_type;

/// Codes of 8 bits, and the initializers that say what they stand for.
pub(super) struct Codes {
    pub name: String,
    pub scale: String,
    /// `None` where the zero point is 0, and not stored.
    pub zero: Option<String>,
    pub linear: Linear,
}

/// The codes that are made of a value.
pub(super) struct Quantized {
    pub codes: Codes,
    /// The QuantizeLinear nodes that make them, and the ReLU and Clip in front whose work they do.
    pub gone: Vec<NodeId>,
    /// Other names of the same codes.
    pub twins: Vec<String>,
}

impl Codes {
    /// What a QuantizeLinear or DequantizeLinear says of the codes that it makes or reads.
    fn read(graph: &Graph, node: &NodeProto, codes: &str) -> Result<Codes, Refusal> {
        let mut linear = match Linear::read(graph, node) {
            Err(e) if e.kind() == ErrorKind::Unsupported => return no(e.to_string()),
            linear => linear?,
        };
        let zero = node.input_at(2).map(str::to_owned);
        if zero.is_none() && Linear::dequantizes(node) {
            linear.dtype = code_type(graph, codes).unwrap_or(linear.dtype);
        }
        if !matches!(linear.dtype, DataType::Int8 | DataType::Uint8) {
            return no(format!("`{codes}` is {}, and kernels take 8 bits", dtype_name(linear.dtype)));
        }
        if linear.blocks.is_some() {
            return no(format!("the scales of `{codes}` are those of blocks"));
        }
        if let Err(e) = linear.params_of_any_rank() {
            return no(format!("`{codes}`: {e}"));
        }
        let scale = node.input_at(1).unwrap_or_default().to_owned();
        match graph.stated_dtype(&scale) {
            Some(DataType::Float) => Ok(Codes { name: codes.to_owned(), scale, zero, linear }),
            other => no(format!("the scale of `{codes}` is {}", other.map_or("of no known type", dtype_name))),
        }
    }

    /// The parameters, if all codes share them.
    pub fn per_tensor(&self) -> Result<QuantParams, Refusal> {
        match self.linear.params_of_any_rank() {
            Ok(params) if params.axis().is_none() => Ok(params),
            _ => no(format!("`{}` has {} scales", self.name, self.linear.scales.len())),
        }
    }
}

/// The DequantizeLinear that makes a value.
pub(super) fn dequantizer<'a>(graph: &'a Graph, value: &str) -> Option<&'a NodeProto> {
    graph.producer(value).and_then(|(id, _)| graph.node(id)).filter(|n| Linear::dequantizes(n))
}

/// The codes that a value is made of.
pub(super) fn in_front(graph: &Graph, value: &str) -> Result<Codes, Refusal> {
    match dequantizer(graph, value).and_then(|d| Some((d, d.input_at(0)?))) {
        Some((dequantize, codes)) => Codes::read(graph, dequantize, codes),
        None => no(format!("its input `{value}` is not quantized")),
    }
}

/// The codes that are made of a value, where nothing reads it but QuantizeLinear nodes that agree. A ReLU or Clip in
/// between is seen through where the ends of the codes cut off all that it does.
pub(super) fn behind(graph: &Graph, value: &str) -> Result<Quantized, Refusal> {
    let (mut value, mut gone, mut cuts) = (value, Vec::new(), Vec::new());
    // A graph has no cycle: this ends.
    while let Some((id, bound)) = bound_behind(graph, value) {
        let Some(cut) = bounds(graph, bound) else { return no(format!("the bounds of `{value}` are no constants")) };
        cuts.push(cut);
        gone.push(id);
        value = bound.output_at(0).unwrap_or_default();
    }
    let mut quantized: Option<Codes> = None;
    let mut twins = Vec::new();
    for at in graph.uses(value) {
        let maker = graph.node(at.node).filter(|n| at.slot == 0 && Linear::quantizes(n));
        let Some((node, codes)) = maker.and_then(|n| Some((n, n.output_at(0)?))) else {
            return no(format!("its output `{value}` is read as float"));
        };
        let read = Codes::read(graph, node, codes)?;
        match &quantized {
            None => quantized = Some(read),
            Some(first) if first.per_tensor()? == read.per_tensor()? && !graph.is_pinned(codes) => {
                twins.push(codes.to_owned())
            }
            Some(_) => return no(format!("its output `{value}` is quantized in two ways")),
        }
        gone.push(at.node);
    }
    let Some(codes) = quantized else { return no(format!("its output `{value}` is not quantized")) };
    if graph.is_pinned(value) {
        return no(format!("its output `{value}` is read as float"));
    }
    let params = codes.per_tensor()?;
    let grid = Grid::of(&params, 0);
    match cuts.iter().all(|&(low, high)| grid.code(low) == grid.lowest && grid.code(high) == grid.highest) {
        true => Ok(Quantized { codes, gone, twins }),
        false => no(format!("a ReLU or Clip cuts more off than the codes of `{value}` do")),
    }
}

/// The ReLU or Clip that is the only reader of a value.
fn bound_behind<'a>(graph: &'a Graph, value: &str) -> Option<(NodeId, &'a NodeProto)> {
    let only = graph.only_use(value).filter(|u| u.slot == 0)?;
    let node = graph.node(only.node)?;
    let bound = OpRule::of(node).is_some_and(|r| r.role == Role::Bound) && node.output_at(0).is_some();
    bound.then_some((only.node, node))
}
