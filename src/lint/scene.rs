//! What rules look at: a graph with QuantizeLinear and DequantizeLinear, and what is decided of its nodes.

use std::collections::HashMap;

use crate::model::{Graph, Linear, NodeExt, NodeId, NodeProto, Tensor};
use crate::plan::{Plan, Verdict};
use crate::rule::{OpRule, Role};

/// A graph, and what is decided of its nodes.
pub struct Scene<'a> {
    /// The graph, quantized.
    pub graph: &'a Graph,
    /// The opset of the model.
    pub opset: i64,
    /// Whether the graph is what a plan makes of a float model, rather than a model as it was found.
    pub planned: bool,
    /// Why nodes compute in float.
    float: HashMap<NodeId, &'a str>,
}

/// A constant behind DequantizeLinear.
pub struct Stored {
    /// The constant's name.
    pub name: String,
    /// Its codes.
    pub codes: Tensor,
    /// Its scales and zero points.
    pub linear: Linear,
}

impl<'a> Scene<'a> {
    /// The graph with what a plan of it, or of the graph that it was made from, says.
    pub fn new(graph: &'a Graph, opset: i64, plan: &'a Plan, planned: bool) -> Scene<'a> {
        let float = plan.nodes.iter().filter(|d| d.verdict == Verdict::Float);
        Scene { graph, opset, planned, float: float.map(|d| (d.node, d.reason.as_str())).collect() }
    }

    /// Why the node computes in float; `None` if it does not.
    pub fn float(&self, node: NodeId) -> Option<&'a str> {
        self.float.get(&node).copied()
    }

    /// The node that makes a value.
    pub fn producer(&self, value: &str) -> Option<(NodeId, &'a NodeProto)> {
        let (id, _) = self.graph.producer(value)?;
        Some((id, self.graph.node(id)?))
    }

    /// The DequantizeLinear that a value comes out of.
    pub fn dequantize(&self, value: &str) -> Option<(NodeId, &'a NodeProto)> {
        self.producer(value).filter(|(_, n)| Linear::dequantizes(n))
    }

    /// The DequantizeLinear that a value comes out of, unless its codes are a constant.
    pub fn activation(&self, value: &str) -> Option<(NodeId, &'a NodeProto)> {
        self.dequantize(value).filter(|(_, n)| n.input_at(0).is_some_and(|codes| !self.graph.is_constant(codes)))
    }

    /// The constant behind DequantizeLinear that a value is; `None` also where it cannot be read.
    pub fn stored(&self, value: &str) -> Option<Stored> {
        let (_, node) = self.dequantize(value)?;
        let name = node.input_at(0)?.to_owned();
        let codes = self.graph.constant(&name).ok()??;
        Some(Stored { name, codes, linear: Linear::read(self.graph, node).ok()? })
    }

    /// The scales of a constant behind DequantizeLinear, one or one a channel; `None` where they are those of blocks.
    pub fn weight_scales(&self, value: &str) -> Option<Vec<f32>> {
        let linear = Linear::read(self.graph, self.dequantize(value)?.1).ok()?;
        Some(linear.scales).filter(|s| linear.blocks.is_none() && !s.is_empty())
    }

    /// The QuantizeLinear nodes that read a value.
    pub fn quantizes(&self, value: &str) -> impl Iterator<Item = (NodeId, &'a NodeProto)> {
        let readers = self.graph.uses(value).iter().filter(|u| u.slot == 0);
        readers.filter_map(|u| Some((u.node, self.graph.node(u.node)?))).filter(|(_, n)| Linear::quantizes(n))
    }

    /// Whether nothing but QuantizeLinear reads a value, and something does.
    pub fn goes_into_codes(&self, value: &str) -> bool {
        let uses = self.graph.uses(value);
        let all = uses.iter().all(|u| u.slot == 0 && self.graph.node(u.node).is_some_and(Linear::quantizes));
        !uses.is_empty() && all && !self.graph.is_pinned(value)
    }

    /// The one scale and zero point of a Q/DQ node, as a [`Linear`]; `None` where there are more, or they are no constants.
    pub fn one_scale(&self, node: &NodeProto) -> Option<Linear> {
        Linear::read(self.graph, node).ok().filter(|l| l.scales.len() == 1)
    }

    /// The data that a node reads, by its rule.
    pub fn data<'n>(&self, node: &'n NodeProto) -> Vec<&'n str> {
        let slots = OpRule::of(node).into_iter().flat_map(|rule| rule.data_slots(node));
        slots.filter_map(|slot| node.input_at(slot)).collect()
    }

    /// The layers: nodes that multiply and accumulate.
    pub fn layers(&self) -> impl Iterator<Item = (NodeId, &'a NodeProto, &'static OpRule)> {
        let layer = |(id, node): (NodeId, &'a NodeProto)| {
            Some((id, node, OpRule::of(node).filter(|r| r.role == Role::Compute)?))
        };
        self.graph.nodes().filter_map(layer)
    }
}
