//! Arithmetic between channels and with constants.

use super::super::Part;
use super::super::lay::Lay;
use super::Walk;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, NodeProto, Tensor, Use};
use crate::rule::ChannelIndex;

impl Walk<'_> {
    pub(super) fn clip(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(lay) = self.lay(node, 0) else { return Ok(()) };
        let mut bounds = [f32::NEG_INFINITY, f32::INFINITY];
        for (slot, bound) in bounds.iter_mut().enumerate() {
            if node.input_at(slot + 1).is_none() {
                continue;
            }
            let value = self.constant(node, slot + 1)?.filter(Tensor::is_float);
            match value.as_ref().map(Tensor::f32s).transpose()?.and_then(|x| x.first().copied()) {
                Some(x) => *bound = x,
                None => {
                    self.refuse(id, node, [0], "its bounds are not constant");
                    return Ok(());
                }
            }
        }
        let [low, high] = bounds;
        if !(low <= 0.0 && 0.0 <= high) {
            self.refuse(id, node, [0], "cuts off zero");
            return Ok(());
        }
        if (low.is_finite() && low != 0.0) || high.is_finite() {
            let rank = node.input_at(0).and_then(|x| self.rank(x));
            let (Some(rank), 1) = (rank, lay.axes.len()) else {
                self.refuse(id, node, [0], "where its channels lie is not known");
                return Ok(());
            };
            self.bounds.push((id, low, high, rank));
        }
        self.put(node, 0, lay);
        Ok(())
    }

    /// Add and Sub: of a constant, or of two values.
    pub(super) fn add(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        for (slot, other) in [(1, 0), (0, 1)] {
            let (Some(constant), Some(value)) = (node.input_at(slot), node.input_at(other)) else { return Ok(()) };
            if !self.is_constant(constant) {
                continue;
            }
            let Some(lay) = self.lays.get(value).cloned() else { return Ok(()) };
            let place = (self.rank(value), self.rank(constant));
            let added = match (&lay.axes[..], place) {
                (&[axis], (Some(rank), Some(own))) if own <= rank => {
                    self.shift(Use { node: id, slot }, rank, axis, &lay.ids)?
                }
                _ => false,
            };
            match added {
                true => self.put(node, 0, lay),
                false => self.refuse(id, node, [other], "adds a constant that has no element a channel"),
            }
            return Ok(());
        }
        let (a, b) = (self.lay(node, 0), self.lay(node, 1));
        let ranks = [0, 1].map(|s| node.input_at(s).and_then(|x| self.rank(x)));
        match (a, b) {
            (Some(a), Some(b)) if ranks[0] == ranks[1] && self.tie(&a, &b) => self.put(node, 0, a),
            (None, None) => {}
            _ => self.refuse(id, node, [0, 1], "adds values that cannot be scaled alike"),
        }
        Ok(())
    }

    /// Mul by what is not scaled, a constant or a gate, hands channels on. Where nothing can be scaled in front of it, a
    /// constant with an element a channel makes new ones.
    pub(super) fn multiply(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(output) = node.output_at(0) else { return Ok(()) };
        if let (Some(a), Some(_)) = (self.lay(node, 0), self.lay(node, 1)) {
            self.refuse(id, node, [1], "multiplies two values that could both be scaled");
            self.put(node, 0, a);
            return Ok(());
        }
        for (slot, other) in [(0, 1), (1, 0)] {
            let (Some(value), Some(factor)) = (node.input_at(slot), node.input_at(other)) else { return Ok(()) };
            if let Some(lay) = self.lays.get(value).cloned() {
                let same = self.rank(value).zip(self.rank(factor)).is_some_and(|(a, b)| b <= a);
                self.put_or_refuse(id, node, same.then_some(lay), "multiplies by a value of higher rank");
                return Ok(());
            }
        }
        for slot in [0, 1] {
            let Some(gain) = self.constant(node, slot)?.filter(|t| t.is_float() && t.len() > 1) else { continue };
            let wide = gain.shape().iter().position(|&d| d == gain.len());
            let (Some(place), Some(rank)) = (wide, self.rank(output)) else { continue };
            let Some(axis) = (rank + place).checked_sub(gain.shape().len()) else { continue };
            let Some(index) = ChannelIndex::along(gain.shape(), place) else { continue };
            let ids = self.ties.fresh(gain.len());
            self.site(Use { node: id, slot }, Part::Gain, false, gain.shape(), index, &ids);
            self.put(node, 0, Lay::along(axis, ids));
            return Ok(());
        }
        Ok(())
    }

    /// Ties two values channel by channel; false, and nothing is tied, where they lie differently.
    pub(super) fn tie(&mut self, a: &Lay, b: &Lay) -> bool {
        if a.axes != b.axes || a.sizes != b.sizes {
            return false;
        }
        a.ids.iter().zip(&b.ids).for_each(|(&a, &b)| self.ties.tie(a, b));
        true
    }
}
