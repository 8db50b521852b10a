//! Who can be scaled by whom: channels that can be divided by a factor on one side and multiplied by it on the other
//! without changing what a model computes.
//!
//! Dividing an output channel of a layer by `s` and multiplying the weights that read it by `s` changes nothing as long as
//! everything between is homogeneous, `f(x / s) = f(x) / s` for `s > 0`: ReLU, pools, additions of what is scaled alike,
//! and whatever only moves values. [`Scaling::of`] follows every channel of every value through the graph, ties those
//! that must be scaled alike, and finds for each set of them the constants on both sides. It decides nothing and changes
//! nothing: cross-layer equalization (Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias
//! Correction*, 2019, section 4.1) and every other diagonal rescaling start from it.

mod lay;
mod ties;
mod walk;

use std::collections::HashMap;

use serde::Serialize;

use crate::error::Result;
use crate::model::{Graph, NodeId, Use};
use crate::report::{Cell, Column, Table};
use crate::rule::ChannelIndex;

pub(crate) use lay::Lay;

/// The shapes of values, as [`Executor::shapes`](crate::exec::Executor::shapes) finds them: `None` for a size that
/// depends on the input.
pub type Shapes = HashMap<String, Vec<Option<usize>>>;

/// All channels of a graph that can be scaled, and why the others cannot.
#[derive(Debug, Clone)]
pub struct Scaling {
    /// Sets of channels, in the order in which the graph makes them. Each can be scaled by itself.
    pub groups: Vec<Group>,
    /// Layers some of whose output channels cannot be scaled, in the graph's order.
    pub blocked: Vec<Blocked>,
}

/// Channels that share weights or values. Channel `c` can be scaled by any `s[c] > 0`: what `producers` and `shifts` hold
/// for it is divided by `s[c]`, what `consumers` hold is multiplied by it, and every value in `values` comes out divided.
#[derive(Debug, Clone)]
pub struct Group {
    /// How many channels there are.
    pub channels: usize,
    /// Constants that make the channels: weights, by their output channels, and gains of normalizations.
    pub producers: Vec<Site>,
    /// Constants that are added to the channels: biases.
    pub shifts: Vec<Site>,
    /// Weights that read the channels, by their input channels.
    pub consumers: Vec<Site>,
    /// The values that hold the channels, in the graph's order.
    pub values: Vec<Member>,
    /// The ReLU6 and Clip nodes on the way, whose bounds have to follow, in the graph's order.
    pub bounds: Vec<Bound>,
}

/// A constant with an element or more for each channel.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where it is read.
    pub at: Use,
    /// What it is.
    pub part: Part,
    /// Its shape; one that has a single element is to be repeated to this shape first.
    pub shape: Vec<usize>,
    /// Which of its own channels its elements belong to.
    pub index: ChannelIndex,
    /// For each of its own channels the channel of the group; `None` for one that stays as it is.
    pub channels: Vec<Option<usize>>,
}

/// What a constant is to the channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The weight of Conv, ConvTranspose, Gemm or MatMul.
    Weight,
    /// A factor for each channel: the scale of a normalization, or what a Mul multiplies with.
    Gain,
    /// What is added to each channel.
    Shift,
}

/// A value that holds channels of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The value.
    pub value: String,
    /// The axis along which its channels lie; `None` if they lie along several.
    pub axis: Option<usize>,
    /// For each of its channels (row major, if they lie along several axes) the channel of the group; `None` for one
    /// that stays as it is.
    pub channels: Vec<Option<usize>>,
}

/// A Clip on the way, `min(max(x, low), high)` with `low <= 0 <= high`. After scaling each channel has bounds of its own:
/// `low / s[c]` and `high / s[c]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// The node.
    pub node: NodeId,
    /// The lower bound; may be infinite.
    pub low: f32,
    /// The upper bound; may be infinite.
    pub high: f32,
    /// How many axes its output has.
    pub rank: usize,
    /// The axis along which the channels lie.
    pub axis: usize,
    /// For each of its channels the channel of the group; `None` for one that stays as it is.
    pub channels: Vec<Option<usize>>,
}

/// Output channels of a layer that cannot be scaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// The layer, as messages name it.
    pub node: String,
    /// How many of its channels cannot be scaled for this reason.
    pub channels: usize,
    /// How many it has.
    pub of: usize,
    /// Why.
    pub reason: String,
}

impl Scaling {
    /// Finds them.
    ///
    /// `shapes` says how values are shaped; where it says nothing of a value, channels are not followed through what
    /// depends on the shape. Errors when a constant cannot be read.
    pub fn of(graph: &Graph, shapes: &Shapes) -> Result<Scaling> {
        walk::Walk::new(graph, shapes)?.finish()
    }

    /// A row for each group, and one for each layer that is blocked.
    pub fn tables(&self, graph: &Graph) -> Vec<Table> {
        let mut groups = Table::new(
            "Channels that can be scaled",
            vec![
                Column::right("channels"),
                Column::left("made by"),
                Column::left("read by"),
                Column::left("bounds").spare(1),
            ],
        );
        let list = |nodes: Vec<NodeId>| {
            let mut names: Vec<String> = Vec::new();
            for name in nodes.into_iter().map(|id| graph.label(id)) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            Cell::Text(names.join(", "))
        };
        for g in &self.groups {
            groups.rows.push(vec![
                Cell::Count(g.channels as u64),
                list(g.producers.iter().map(|s| s.at.node).collect()),
                list(g.consumers.iter().map(|s| s.at.node).collect()),
                if g.bounds.is_empty() { Cell::None } else { list(g.bounds.iter().map(|b| b.node).collect()) },
            ]);
        }
        let mut blocked = Table::new(
            "Channels that cannot",
            vec![Column::left("layer"), Column::right("channels"), Column::right("of"), Column::left("why")],
        );
        for b in &self.blocked {
            let count = |n: usize| Cell::Count(n as u64);
            blocked.rows.push(vec![
                Cell::Text(b.node.clone()),
                count(b.channels),
                count(b.of),
                Cell::Text(b.reason.clone()),
            ]);
        }
        [groups, blocked].into_iter().filter(|t| !t.rows.is_empty()).collect()
    }
}

impl Group {
    /// Every constant of the group with whether it is multiplied by the factors (or else divided).
    pub fn sites(&self) -> impl Iterator<Item = (&Site, bool)> {
        let divided = self.producers.iter().chain(&self.shifts).map(|s| (s, false));
        divided.chain(self.consumers.iter().map(|s| (s, true)))
    }

    /// The factors of a list of channels: 1 for those that stay as they are.
    pub fn spread(channels: &[Option<usize>], factors: &[f64]) -> Vec<f64> {
        channels.iter().map(|c| c.map_or(1.0, |c| factors[c])).collect()
    }
}
