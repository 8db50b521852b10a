//! What `quantize` found, as plain facts.

use serde::Serialize;

use super::{KeptReport, Reformed, RoundRow, StepRow};
use crate::error::Result;
use crate::model::{Graph, NodeExt};
use crate::pass::Skipped;
use crate::plan::{ConstantDecision, Part, Plan, Policy, StorageForm, Verdict};
use crate::validate::OutputDrift;

/// What `quantize` found. Everything in it was measured on the model that is returned.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this library.
    pub qdq: &'static str,
    /// The target's name.
    pub target: String,
    /// The engine that ran the models; `None` if they were not run.
    pub engine: Option<String>,
    /// Opset before and after.
    pub opset: (i64, i64),
    /// Bytes of the model before and after.
    pub size: (usize, usize),
    /// The samples and how they were split; `None` if there were none.
    pub samples: Option<Split>,
    /// How many nodes are what.
    pub counts: Counts,
    /// What weights became, with what they take.
    pub weights: WeightFacts,
    /// Every node that was considered, in the graph's order.
    pub nodes: Vec<NodeRow>,
    /// The steps toward accuracy that were considered, in their order.
    pub steps: Vec<StepRow>,
    /// The values that were kept out of the format of activations; `None` where that was not asked for.
    pub kept: Option<KeptReport>,
    /// The weights whose codes were chosen by what they do to outputs, in the order of their layers.
    pub rounding: Vec<RoundRow>,
    /// The nodes that became operators on codes, where these were asked for.
    pub reformed: Vec<Reformed>,
    /// What the passes left alone.
    pub skipped: Vec<Skipped>,
    /// Drift of each output against the float model; empty if they were not run.
    pub outputs: Vec<OutputDrift>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Time of each stage, in seconds.
    pub stages: Vec<Stage>,
    /// The most memory the process had, in bytes, where the system tells.
    pub peak_memory: Option<u64>,
}

/// The samples and how they were split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Split {
    /// What the samples are.
    pub source: String,
    /// How many calibrated.
    pub calibration: usize,
    /// How many verified.
    pub verification: usize,
    /// Whether these are the same samples, because there are few.
    pub shared: bool,
    /// Whether the calibration was done before, by samples that are not known here.
    pub before: bool,
}

/// What weights became.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightFacts {
    /// The format, as users write it.
    pub format: String,
    /// How it is stored: `native` or `portable`.
    pub storage: &'static str,
    /// How many weights there are, tables whose rows are picked with them; one that is read in several places counts once.
    pub numbers: u64,
    /// Bits that a weight takes, with its share of scales, zero points and tables; `None` where there is none.
    pub bits_per_weight: Option<f64>,
}

impl WeightFacts {
    /// Of a plan for that graph, bodies included.
    pub(super) fn of(graph: &Graph, plan: &Plan, policy: &Policy) -> Result<WeightFacts> {
        let (numbers, bits) = taken(graph, plan)?;
        Ok(WeightFacts {
            format: policy.weight_format().to_string(),
            storage: match policy.storage {
                StorageForm::Native => "native",
                StorageForm::Portable => "portable",
            },
            numbers,
            bits_per_weight: (numbers > 0).then(|| bits as f64 / numbers as f64),
        })
    }
}

/// How many weights a plan stores, and in how many bits.
fn taken(graph: &Graph, plan: &Plan) -> Result<(u64, u64)> {
    let mut known: Vec<ConstantDecision> = Vec::new();
    let (mut numbers, mut bits) = (0, 0);
    let weights = plan.constants.values().filter(|d| d.part == Part::Weight);
    for decision in weights.filter_map(|d| d.stored(graph)) {
        let same = |d: &ConstantDecision| d.initializer == decision.initializer && d.params == decision.params;
        if known.iter().any(same) {
            continue;
        }
        let dims = graph.constant_dims(&decision.initializer).unwrap_or_default();
        let count = dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).product::<usize>();
        numbers += count as u64;
        bits += decision.params.bits(count);
        known.push(decision);
    }
    for (&id, inner) in &plan.bodies {
        let (n, b) = taken(&graph.body(id)?, inner)?;
        (numbers, bits) = (numbers + n, bits + b);
    }
    Ok((numbers, bits))
}

/// How many nodes are what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Nodes that read and write integers.
    pub quantized: usize,
    /// Nodes that a range took the place of.
    pub absorbed: usize,
    /// Nodes that compute in integers, by the range of their input in each run.
    pub dynamic: usize,
    /// Nodes that compute in float with a weight that is stored as codes.
    pub weight_only: usize,
    /// Nodes that compute in float.
    pub float: usize,
    /// Nodes that were quantized before.
    pub already: usize,
    /// Constants stored as codes: weights and operands.
    pub constants: usize,
    /// Biases stored as int32.
    pub biases: usize,
    /// Values with a new Q/DQ pair.
    pub pairs: usize,
}

impl Counts {
    /// Whether they are of the static mode, in which values have ranges that are known before.
    pub(super) fn by_ranges(&self) -> bool {
        self.pairs > 0 || (self.dynamic == 0 && self.weight_only == 0)
    }
}

/// What became of a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeRow {
    /// Its name, or that of its first output, behind the nodes around it: `If_0 > then_branch > Conv_3`.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// `quantized`, `absorbed`, `dynamic`, `weight-only`, `float`, or `already`: quantized before.
    pub verdict: &'static str,
    /// Why.
    pub reason: String,
}

/// How long a stage took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Seconds of wall time.
    pub seconds: f64,
}

/// What is in a plan, bodies included.
pub(super) fn count(plan: &Plan) -> Counts {
    let with = |v: Verdict| plan.nodes.iter().filter(|d| d.verdict == v).count();
    let biases = plan.constants.values().filter(|c| c.part == Part::Bias).count();
    let mut counts = Counts {
        quantized: with(Verdict::Quantized),
        absorbed: with(Verdict::Absorbed),
        dynamic: with(Verdict::Dynamic),
        weight_only: with(Verdict::WeightOnly) + with(Verdict::Packed),
        float: with(Verdict::Float),
        already: with(Verdict::Already),
        constants: plan.constants.len() - biases,
        biases,
        pairs: plan.values.values().filter(|v| v.present.is_none()).count(),
    };
    for inner in plan.bodies.values().map(count) {
        counts.quantized += inner.quantized;
        counts.absorbed += inner.absorbed;
        counts.dynamic += inner.dynamic;
        counts.weight_only += inner.weight_only;
        counts.float += inner.float;
        counts.already += inner.already;
        counts.constants += inner.constants;
        counts.biases += inner.biases;
        counts.pairs += inner.pairs;
    }
    counts
}

/// A row for each node of the plan; those in a body stand behind the node that holds it.
pub(crate) fn rows(graph: &Graph, plan: &Plan) -> Result<Vec<NodeRow>> {
    let mut rows = Vec::new();
    for d in &plan.nodes {
        let Some(node) = graph.node(d.node) else { continue };
        let verdict = match d.verdict {
            Verdict::Quantized => "quantized",
            Verdict::Absorbed => "absorbed",
            Verdict::Dynamic => "dynamic",
            Verdict::WeightOnly | Verdict::Packed => "weight-only",
            Verdict::Float => "float",
            Verdict::Already => "already",
        };
        rows.push(NodeRow { node: graph.path(node), operator: node.operator(), verdict, reason: d.reason.clone() });
        for (&id, inner) in plan.bodies.iter().filter(|(id, _)| id.node == d.node) {
            rows.extend(self::rows(&graph.body(id)?, inner)?);
        }
    }
    Ok(rows)
}
