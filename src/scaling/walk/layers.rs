//! Layers, which end channels and make new ones.

use super::super::Part;
use super::super::lay::Lay;
use super::Walk;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, NodeProto, Tensor, Use};
use crate::rule::ChannelIndex;

impl Walk<'_> {
    pub(super) fn weighted(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let matrix = matches!(node.op_type(), "Gemm" | "MatMul");
        let Some(weight) = self.constant(node, 1)?.filter(Tensor::is_float) else {
            return self.product(id, node);
        };
        let shape = weight.shape();
        let (inputs, outputs) = (ChannelIndex::inputs(node, shape), ChannelIndex::outputs(node, shape));
        let (Some(inputs), Some(outputs)) = (inputs, outputs) else {
            self.refuse(id, node, [0], "its weight has an unusual shape");
            return Ok(());
        };
        let name = node.input_at(1).unwrap_or_default();
        // What is stored with a table would no longer be.
        let shared = self.graph.only_use(name).is_none() || self.twins.contains_key(name);
        let at = Use { node: id, slot: 1 };
        let axis = match node.op_type() {
            "MatMul" => node.input_at(0).and_then(|x| self.rank(x)).and_then(|r| r.checked_sub(1)),
            "Gemm" if node.int("transA").unwrap_or(0) != 0 => None,
            _ => Some(1),
        };
        if let Some(lay) = self.lay(node, 0) {
            let ids = axis.and_then(|a| lay.only_along(a)).filter(|ids| ids.len() == inputs.channels());
            match ids {
                _ if shared => self.refuse(id, node, [0], &format!("its weight `{name}` is read elsewhere too")),
                Some(ids) => self.site(at, Part::Weight, true, shape, inputs, ids),
                None => self.refuse(id, node, [0], "reads its channels along another axis"),
            }
        }
        let Some(axis) = axis else { return Ok(()) };
        let ids = self.ties.fresh(outputs.channels());
        if shared {
            self.ties.fix(&ids, format!("the weight `{name}` is read elsewhere too"));
        }
        self.site(at, Part::Weight, false, shape, outputs, &ids);
        self.put(node, 0, Lay::along(axis, ids.clone()));
        if let Some(bias) = node.input_at(2) {
            self.refuse(id, node, [2], "reads it as a bias");
            let rank = if matrix { 2 } else { 1 };
            if !self.shift(Use { node: id, slot: 2 }, rank, rank - 1, &ids)? {
                self.ties.fix(&ids, format!("the bias `{bias}` has no element a channel"));
            }
        }
        Ok(())
    }

    /// A product of two activations keeps the columns of the second: each is a sum of numbers of that column.
    pub(super) fn product(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let ranks = [0, 1].map(|s| node.input_at(s).and_then(|x| self.rank(x)));
        self.refuse(id, node, (0..node.input.len()).filter(|&s| s != 1), "multiplies it with another value");
        match (node.is("MatMul"), ranks, self.lay(node, 1)) {
            (true, [Some(a), Some(b)], Some(lay)) if a == b && b >= 2 && lay.place(b - 2).is_none() => {
                self.put(node, 0, lay);
            }
            _ => self.refuse(id, node, [1], "multiplies it with another value"),
        }
        Ok(())
    }

    /// Notes a constant that is added to channels along `axis` of a value of this rank; false where it is no constant, or
    /// has neither one element nor one a channel.
    pub(super) fn shift(&mut self, at: Use, rank: usize, axis: usize, ids: &[u32]) -> Result<bool> {
        let Some(node) = self.graph.node(at.node) else { return Ok(false) };
        let Some(tensor) = self.constant(node, at.slot)?.filter(Tensor::is_float) else { return Ok(false) };
        let whole: Vec<usize> = match (tensor.len(), tensor.shape().len() + axis) {
            (1, _) => std::iter::once(ids.len()).chain(std::iter::repeat_n(1, rank - 1 - axis)).collect(),
            (_, place) if place >= rank && tensor.shape().get(place - rank) == Some(&ids.len()) => {
                tensor.shape().to_vec()
            }
            _ => return Ok(false),
        };
        let place = whole.len() + axis - rank;
        let Some(index) = ChannelIndex::along(&whole, place) else { return Ok(false) };
        self.site(at, Part::Shift, false, &whole, index, ids);
        Ok(true)
    }

    /// Scale and bias of a normalization make new channels.
    pub(super) fn normalize(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        self.refuse(id, node, 0..node.input.len(), "normalizes it");
        let axis = match node.op_type() {
            "BatchNormalization" => Some(1),
            _ => self.axis(node, node.int("axis").unwrap_or(-1)),
        };
        let Some(gain) = self.constant(node, 1)?.filter(|t| t.is_float() && t.shape().len() == 1) else {
            return Ok(());
        };
        let last = node.is("BatchNormalization")
            || axis.zip(node.input_at(0).and_then(|x| self.rank(x))).is_some_and(|(a, r)| a + 1 == r);
        let (Some(axis), Some(index), true) = (axis, ChannelIndex::along(gain.shape(), 0), last) else { return Ok(()) };
        let ids = self.ties.fresh(gain.len());
        self.site(Use { node: id, slot: 1 }, Part::Gain, false, gain.shape(), index, &ids);
        if node.input_at(2).is_some() && !self.shift(Use { node: id, slot: 2 }, 1, 0, &ids)? {
            self.ties.fix(&ids, format!("the bias of {} has no element a channel", self.graph.label(id)));
        }
        self.put(node, 0, Lay::along(axis, ids));
        Ok(())
    }
}
