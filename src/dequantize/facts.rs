//! What `dequantize` found, as plain facts.

use std::collections::HashSet;

use serde::Serialize;

use crate::inspect::StyleCount;
use crate::model::{Model, NodeExt, NodeProto};
use crate::pass::{DropPairs, Ends, ExpandInteger, FloatLstm, FoldCodes, Pass, Skipped};
use crate::quantize::Stage;
use crate::validate::OutputDrift;

/// What `dequantize` found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this library.
    pub qdq: &'static str,
    /// The styles that the model was in, and how much of it.
    pub styles: Vec<StyleCount>,
    /// The opset, which stays.
    pub opset: i64,
    /// Bytes of the model before and after.
    pub size: (usize, usize),
    /// Nodes before and after.
    pub nodes: (usize, usize),
    /// What was done.
    pub counts: Counts,
    /// What is still quantized, and why.
    pub left: Vec<Left>,
    /// The drift of the quantized model against the float one, where samples were given.
    pub verified: Option<Verified>,
    /// Time of each stage, in seconds.
    pub stages: Vec<Stage>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// The most memory the process had, in bytes, where the system tells.
    pub peak_memory: Option<u64>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Operators on codes that became float operators.
    pub operators: usize,
    /// DequantizeLinear nodes whose codes became float constants.
    pub constants: usize,
    /// DequantizeLinear nodes of activations that were taken out.
    pub pairs: usize,
    /// Relu and Clip nodes that keep the ends of a range.
    pub ends: usize,
}

/// A node that is still quantized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// The node, as messages name it.
    pub node: String,
    /// Why.
    pub reason: String,
}

/// How the two models were compared.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// The engine that ran the models.
    pub engine: String,
    /// What the samples are.
    pub source: String,
    /// How many were run.
    pub samples: usize,
    /// Drift of each output of the quantized model against that of the float one.
    pub outputs: Vec<OutputDrift>,
}

impl Counts {
    /// Takes in what a pass changed, and how many Relu and Clip nodes came with it.
    pub(super) fn add(&mut self, pass: &str, changed: usize, bounds: usize) {
        if pass == ExpandInteger.name() || pass == FloatLstm.name() {
            self.operators += changed;
        } else if pass == FoldCodes.name() {
            self.constants += changed;
        } else if pass == (DropPairs { ends: Ends::Kept }).name() {
            self.pairs += changed;
            self.ends += bounds;
        }
    }

    /// Everything that was turned back.
    pub fn total(&self) -> usize {
        self.operators + self.constants + self.pairs
    }
}

/// How many Relu and Clip nodes there are, in subgraphs too.
pub(super) fn count_bounds(model: &Model) -> usize {
    fn count(node: &NodeProto) -> usize {
        let inside: usize = node.subgraphs().flat_map(|g| &g.node).map(count).sum();
        inside + usize::from(node.is("Relu") || node.is("Clip"))
    }
    model.graph.nodes().map(|(_, n)| count(n)).sum()
}

/// What the passes had to leave.
pub(super) fn left(skipped: &[Skipped]) -> Vec<Left> {
    let pairs = DropPairs { ends: Ends::Kept };
    let passes = [FloatLstm.name(), ExpandInteger.name(), FoldCodes.name(), pairs.name()];
    // Of an LSTM, the pass that is for it knows why.
    let lstms: HashSet<&str> = skipped.iter().filter(|s| s.pass == FloatLstm.name()).map(|s| &*s.node).collect();
    let told = |s: &&Skipped| s.pass == ExpandInteger.name() && lstms.contains(&*s.node);
    let of_passes = skipped.iter().filter(|s| passes.contains(&s.pass) && !told(s));
    of_passes.map(|s| Left { node: s.node.clone(), reason: s.reason.clone() }).collect()
}
