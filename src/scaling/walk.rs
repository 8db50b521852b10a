//! Follows channels through the nodes of a graph, in their order.

mod arithmetic;
mod groups;
mod layers;
mod movement;

use std::collections::{BTreeMap, HashMap};

use super::lay::Lay;
use super::ties::Ties;
use super::{Part, Scaling, Shapes};
use crate::error::Result;
use crate::model::{Graph, NodeExt, NodeId, NodeProto, Tensor, Use};
use crate::rule::{ChannelIndex, Twin, twins};

/// A constant whose channels are still numbers of the walk.
struct RawSite {
    at: Use,
    part: Part,
    /// Multiplied by the factors, not divided.
    reads: bool,
    shape: Vec<usize>,
    index: ChannelIndex,
    ids: Vec<u32>,
}

/// Where channels were seen so far.
pub(super) struct Walk<'a> {
    graph: &'a Graph,
    shapes: &'a Shapes,
    twins: BTreeMap<String, Twin>,
    lays: HashMap<String, Lay>,
    ties: Ties,
    sites: Vec<RawSite>,
    bounds: Vec<(NodeId, f32, f32, usize)>,
}

impl<'a> Walk<'a> {
    /// Errors when a constant does not fill its shape.
    pub fn new(graph: &'a Graph, shapes: &'a Shapes) -> Result<Self> {
        let (ties, sites, bounds) = Default::default();
        Ok(Walk { graph, shapes, twins: twins(graph)?, lays: HashMap::new(), ties, sites, bounds })
    }

    pub fn finish(mut self) -> Result<Scaling> {
        for (id, node) in self.graph.nodes() {
            self.visit(id, node)?;
        }
        let mut held: Vec<(String, String)> = Vec::new();
        for (value, _) in self.values() {
            if self.graph.is_output(&value) {
                held.push((value.clone(), format!("`{value}` is a graph output")));
            } else if let Some(&node) = self.graph.captured_by(&value).first() {
                held.push((
                    value.clone(),
                    format!("`{value}` is captured by a subgraph of {}", self.graph.label(node)),
                ));
            }
        }
        for (value, reason) in held {
            self.fix(&value, &reason);
        }
        Ok(Scaling { blocked: self.blocked(), groups: self.groups() })
    }

    // ---- what is known ----

    /// The values with channels, in the graph's order.
    fn values(&self) -> Vec<(String, Lay)> {
        let outputs = self.graph.nodes().flat_map(|(_, n)| n.output.iter());
        outputs.filter_map(|o| Some((o.clone(), self.lays.get(o)?.clone()))).collect()
    }

    fn shape(&self, value: &str) -> Option<Vec<Option<usize>>> {
        if let Some(t) = self.graph.initializer(value) {
            return Some(t.dims.iter().map(|&d| usize::try_from(d).ok()).collect());
        }
        self.shapes.get(value).cloned()
    }

    fn rank(&self, value: &str) -> Option<usize> {
        self.shape(value).map(|s| s.len()).or_else(|| self.graph.stated_rank(value))
    }

    fn is_constant(&self, value: &str) -> bool {
        self.graph.initializer(value).is_some() && !self.graph.is_input(value)
    }

    fn constant(&self, node: &NodeProto, slot: usize) -> Result<Option<Tensor>> {
        match node.input_at(slot).filter(|n| self.is_constant(n)) {
            Some(name) => self.graph.constant(name),
            None => Ok(None),
        }
    }

    fn integers(&self, node: &NodeProto, slot: usize) -> Result<Option<Vec<i64>>> {
        Ok(self.constant(node, slot)?.and_then(|t| t.i64s().ok()))
    }

    fn lay(&self, node: &NodeProto, slot: usize) -> Option<Lay> {
        self.lays.get(node.input_at(slot)?).cloned()
    }

    // ---- what is found ----

    fn fix(&mut self, value: &str, reason: &str) {
        if let Some(lay) = self.lays.get(value) {
            self.ties.fix(&lay.ids, reason);
        }
    }

    /// Keeps what the node reads in these slots from being scaled.
    fn refuse(&mut self, id: NodeId, node: &NodeProto, slots: impl IntoIterator<Item = usize>, why: &str) {
        let reason = format!("{}: {why}", self.graph.label(id));
        slots.into_iter().filter_map(|s| node.input_at(s)).for_each(|value| self.fix(value, &reason));
    }

    /// Says how the channels of an output lie.
    fn put(&mut self, node: &NodeProto, output: usize, lay: Lay) {
        let Some(value) = node.output_at(output) else { return };
        let fits = |dims: &Vec<Option<usize>>| {
            let size = |(&a, &n): (&usize, &usize)| dims.get(a).is_some_and(|d| d.is_none_or(|d| d == n));
            lay.axes.iter().zip(&lay.sizes).all(size)
        };
        if self.shape(value).is_none_or(|dims| fits(&dims)) {
            self.lays.insert(value.to_owned(), lay);
        } else {
            self.ties.fix(&lay.ids, format!("`{value}` is not shaped as expected"));
        }
    }

    /// Hands on an outcome of a lay: where there is none, the channels that went in are fixed.
    fn put_or_refuse(&mut self, id: NodeId, node: &NodeProto, lay: Option<Lay>, why: &str) {
        match lay {
            Some(lay) => self.put(node, 0, lay),
            None => self.refuse(id, node, 0..node.input.len(), why),
        }
    }

    fn site(&mut self, at: Use, part: Part, reads: bool, shape: &[usize], index: ChannelIndex, ids: &[u32]) {
        self.sites.push(RawSite { at, part, reads, shape: shape.to_vec(), index, ids: ids.to_vec() });
    }

    fn visit(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let all = 0..node.input.len();
        match node.op_type() {
            op if !node.is(op) => self.refuse(id, node, all, "an operator that is not known"),
            "Conv" | "ConvTranspose" | "Gemm" | "MatMul" => self.weighted(id, node)?,
            "Relu" | "LeakyRelu" | "Dropout" | "Identity" | "Abs" | "Neg" => self.pass_on(node),
            "PRelu" => match self.constant(node, 1)? {
                Some(_) => self.pass_on(node),
                None => self.refuse(id, node, all, "its slope is not constant"),
            },
            "Clip" => self.clip(id, node)?,
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                let lay = self.lay(node, 0).filter(|l| l.axes.iter().all(|&a| a < 2));
                self.put_or_refuse(id, node, lay, "pools along its channels");
            }
            "Pad" => self.pad(id, node)?,
            "Resize" | "Upsample" => self.resize(id, node),
            "Transpose" => self.transpose(id, node),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshape(id, node),
            "Split" => self.split(id, node)?,
            "Slice" => self.slice(id, node)?,
            "Gather" => self.gather(id, node)?,
            "Concat" => self.concat(id, node),
            "DepthToSpace" => self.depth_to_space(id, node),
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" => self.reduce(id, node)?,
            "Add" | "Sub" => self.add(id, node)?,
            "Mul" => self.multiply(id, node)?,
            "Div" => {
                self.refuse(id, node, [1], "divides by it");
                self.pass_on(node);
            }
            "LayerNormalization" | "BatchNormalization" => self.normalize(id, node)?,
            "Shape" | "Size" => {}
            _ => self.refuse(id, node, all, "scaling its input does not scale its output alike"),
        }
        Ok(())
    }

    /// The first output has the channels of the first input.
    fn pass_on(&mut self, node: &NodeProto) {
        if let Some(lay) = self.lay(node, 0) {
            self.put(node, 0, lay);
        }
    }
}
