//! A node on codes in the making.

use crate::error::Result;
use crate::model::{Graph, NodeId, NodeProto, Tensor};

/// The node that takes the place of another.
pub(super) struct Made {
    pub at: NodeId,
    /// Without its inputs.
    pub node: NodeProto,
    pub inputs: Vec<Input>,
    /// Nodes that go.
    pub gone: Vec<NodeId>,
    /// Values that are another one now.
    pub twins: Vec<(String, String)>,
}

/// An input of a node on codes.
pub(super) enum Input {
    Value(String),
    /// A constant that is not there yet, named after a value and what it is to it.
    Constant(String, Tensor),
}

impl Made {
    /// Puts it there.
    pub fn put(self, graph: &mut Graph) -> Result<()> {
        for gone in self.gone {
            graph.remove(gone);
        }
        let mut node = self.node;
        for input in self.inputs {
            node.input.push(match input {
                Input::Value(name) => name,
                Input::Constant(base, value) => graph.add_constant(&base, &value),
            });
        }
        while node.input.last().is_some_and(String::is_empty) {
            node.input.pop();
        }
        graph.edit(self.at, |n| *n = node)?;
        self.twins.iter().try_for_each(|(old, new)| graph.redirect(old, new))
    }
}
