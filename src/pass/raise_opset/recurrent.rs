//! GRU, LSTM and RNN: whether they give the whole sequence is said by their outputs alone since opset 7.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId};

/// Opset 7: drops `output_sequence`; an output that is named is given.
pub(super) fn outputs_alone(scope: &mut Scope, id: NodeId) -> Result<()> {
    scope.graph_mut().edit(id, |n| drop(n.take("output_sequence")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::int;
    use crate::pass::sketch::node;

    #[test]
    fn the_attribute_vanishes() {
        let gru = node("GRU", "x x x", "y", &[int("hidden_size", 3), int("output_sequence", 1)]);
        assert_eq!(raised(1, 14, vec![gru]).unwrap(), ["y = GRU(x, x, x) hidden_size=3"]);
    }
}
