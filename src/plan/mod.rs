//! The decision table: for every node, value and weight whether it is quantized, how, and why. Everything is decided
//! here and nothing is done; the emitter obeys.
//!
//! [`select`](Plan::decide) chooses the nodes (file `select`, with `wish` for what the target alone leaves float and `pattern`
//! for primitives that are one operation), then the values that carry Q/DQ (file `place`), then those that share their
//! parameters (file `tie`) and the weights that are stored as one with a table (file `tables`), then scales and zero points (file `fit`), for the values that are kept out of the format of the
//! others too (file `width`).

mod fit;
mod inputs;
mod pattern;
mod place;
mod policy;
mod present;
mod residual;
mod select;
mod steps;
mod tables;
mod tie;
mod types;
mod unseen;
mod weights;
mod width;
mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::calibrate::Ranges;
use crate::error::Result;
use crate::model::{BodyId, Graph, NodeExt, NodeId, Use};
use crate::number::{QuantParams, Range};
use crate::rule::{OpRule, Role, Twin};

use present::Present;

pub use policy::{Emit, Patterns, Policy, StorageForm};
pub use steps::{Steps, Switch};
pub(crate) use types::element_types;
pub use weights::{Mode, opset_of_weights};
pub(crate) use weights::{nodes_with_weights, params_of_weight};
pub use width::{Kept, Turned};

/// Every decision about a graph and the bodies in it.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// What becomes of each node, in the graph's order.
    pub nodes: Vec<NodeDecision>,
    /// The activations that get a Q/DQ pair, by name.
    pub values: BTreeMap<String, ValueDecision>,
    /// The constants that are stored as codes, by where they are read.
    pub constants: BTreeMap<Use, ConstantDecision>,
    /// How constants are stored.
    pub storage: StorageForm,
    /// What is decided inside the bodies of its nodes.
    pub bodies: BTreeMap<BodyId, Plan>,
}

/// What becomes of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeDecision {
    /// The node.
    pub node: NodeId,
    /// What is done with it.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
}

/// What is done with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Reads and writes quantized values.
    Quantized,
    /// Goes, because the quantized range of its output does its work.
    Absorbed,
    /// Computes in integers: what it reads is quantized by the range that it has in each run.
    Dynamic,
    /// Computes in float, with a weight that is stored as codes.
    WeightOnly,
    /// Becomes MatMulNBits, whose weight is codes packed in blocks.
    Packed,
    /// Computes in float.
    Float,
    /// Was quantized in the given model, and stays as it is.
    Already,
}

/// A Q/DQ pair on a value.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueDecision {
    /// Scale and zero point, per tensor.
    pub params: QuantParams,
    /// The range they were made from.
    pub range: Range,
    /// Where the range comes from.
    pub origin: Origin,
    /// The value whose parameters these are: another name where an operator passes them through.
    pub source: String,
    /// The places that read the dequantized value; others read the float one.
    pub readers: Vec<Use>,
    /// Whether graph outputs and subgraphs, which hold on to the name, are shown the dequantized value.
    pub at_output: bool,
    /// A pair behind this one, for readers that compute in another width.
    pub turned: Option<Turned>,
    /// The QuantizeLinear of the given model that quantizes the value already: its codes are what the readers get.
    pub present: Option<NodeId>,
    /// Why, in words.
    pub reason: String,
}

impl ValueDecision {
    /// The parameters of the codes that are read at a place.
    pub fn params_at(&self, at: Use) -> &QuantParams {
        match &self.turned {
            Some(turned) if turned.readers.contains(&at) => &turned.params,
            _ => &self.params,
        }
    }
}

/// Where the range of a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// What was seen of the value of that name: this one, or the one that comes out of the ReLU and Clip behind it.
    Seen(String),
    /// What samples would show of it, and none were run ([`Plan::unseen`]): range and parameters are made up.
    Unseen(String),
    /// The operator, which gives no other numbers.
    Fixed,
    /// The value that is passed on: [`ValueDecision::source`], which may be a constant.
    Passed,
    /// The QuantizeLinear of the given model.
    Present,
}

/// A constant that is stored as codes.
#[derive(Debug, Clone, PartialEq)]
pub struct ConstantDecision {
    /// The initializer.
    pub initializer: String,
    /// Scales and zero points.
    pub params: QuantParams,
    /// What the constant is to the node that reads it.
    pub part: Part,
    /// Its codes, where they were chosen; the nearest elsewhere.
    pub chosen: Option<ChosenCodes>,
    /// The table that holds the same numbers, and is stored in its place: codes and parameters are the same there.
    pub twin: Option<Twin>,
}

/// Codes that were chosen for a weight by what they do to the output of its layer.
#[derive(Debug, Clone, PartialEq)]
pub struct ChosenCodes {
    /// A code for each element.
    pub codes: Arc<[i32]>,
    /// What the outputs of the layer are off by on average with these codes, row after row of the weight
    /// ([`WeightMatrix`](crate::rule::WeightMatrix)), where the codes count on a bias that takes it away.
    pub shift: Option<Arc<[f64]>>,
}

/// Parameters and codes that were chosen for weights, by the names of the initializers.
pub type Reconstructed = BTreeMap<String, (QuantParams, ChosenCodes)>;

/// What a constant is to the node that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The weight of a node that computes.
    Weight,
    /// A bias, at the scale of the accumulator.
    Bias,
    /// An operand that stands where activations stand.
    Operand,
}

impl Plan {
    /// Decides everything about a graph and the bodies in it. The branches of an If are decided like graphs; the bodies
    /// of Loop and Scan stay float, since what changes from turn to turn is not watched.
    ///
    /// What is quantized already stays: values that come out of DequantizeLinear or go into QuantizeLinear keep their
    /// parameters, and get no second pair.
    ///
    /// `ranges` must hold what [`watch_list`] asked for. Errors when a constant cannot be read.
    pub fn decide(graph: &Graph, ranges: &Ranges, policy: &Policy) -> Result<Plan> {
        Plan::decide_with(graph, ranges, policy, &Reconstructed::new())
    }

    /// As [`Plan::decide`], with weights of the graph for which parameters and codes were chosen before.
    pub fn decide_with(graph: &Graph, ranges: &Ranges, policy: &Policy, weights: &Reconstructed) -> Result<Plan> {
        Plan::decide_by(graph, ranges, &fit::choose(ranges, policy)?, policy, &Present::default(), weights)
    }

    /// Decides with the ranges that were chosen for the values, inside a graph in which that is quantized already.
    fn decide_by(
        graph: &Graph,
        ranges: &Ranges,
        chosen: &fit::Chosen,
        policy: &Policy,
        around: &Present,
        weights: &Reconstructed,
    ) -> Result<Plan> {
        let present = Present::of(graph, around);
        let selection = select::select(graph, ranges, policy, &present)?;
        let places = place::place(graph, &selection, policy, &present);
        let mut plan = fit::fit(graph, chosen, policy, &present, selection, places, weights)?;
        plan.storage = policy.storage;
        for id in graph.bodies() {
            let body = graph.body(id)?;
            let inner = match shut(graph, id, ranges) {
                Some(reason) => Plan::float(&body, &reason)?,
                None => Plan::decide_by(&body, ranges, chosen, policy, &present, &Reconstructed::new())?,
            };
            plan.bodies.insert(id, inner);
        }
        Ok(plan)
    }

    /// Leaves everything float, for one reason.
    fn float(graph: &Graph, reason: &str) -> Result<Plan> {
        let decision = |(node, _)| NodeDecision { node, verdict: Verdict::Float, reason: reason.to_owned() };
        let mut plan = Plan { nodes: graph.nodes().map(decision).collect(), ..Plan::default() };
        for id in graph.bodies() {
            plan.bodies.insert(id, Plan::float(&graph.body(id)?, reason)?);
        }
        Ok(plan)
    }

    /// Takes parameters and codes of weights of its graph that were chosen for it.
    pub fn take_weights(&mut self, graph: &Graph, weights: &Reconstructed) {
        let mut layers = Vec::new();
        for decision in self.constants.values_mut().filter(|d| d.part == Part::Weight) {
            if let Some((params, chosen)) = weights.get(&decision.initializer) {
                (decision.params, decision.chosen) = (params.clone(), Some(chosen.clone()));
                layers.push(decision.clone());
            }
        }
        tables::follow(graph, &layers, &mut self.constants);
    }

    /// Leaves weights float for which no codes were chosen, and their biases, and bodies; what computes with codes that were chosen
    /// does so behind DequantizeLinear.
    pub fn keep_chosen_weights(&mut self) {
        let chosen: BTreeSet<NodeId> =
            self.constants.iter().filter(|(_, d)| d.chosen.is_some()).map(|(at, _)| at.node).collect();
        self.constants.retain(|at, d| d.part == Part::Operand || chosen.contains(&at.node));
        for decision in self.nodes.iter_mut().filter(|d| matches!(d.verdict, Verdict::Dynamic | Verdict::Packed)) {
            decision.verdict = Verdict::WeightOnly;
        }
        self.bodies.clear();
    }

    /// Whether scale and zero point of a value are those that will be written: not where they hang on a range that no
    /// sample has shown yet. Values of other graphs and such without a pair count as known.
    pub fn knows(&self, value: &str) -> bool {
        let Some(decision) = self.values.get(value) else { return true };
        match decision.origin {
            Origin::Unseen(_) => false,
            Origin::Passed if decision.source != value => self.knows(&decision.source),
            _ => true,
        }
    }

    /// Whether any range is not known yet, in a body too.
    pub fn has_unseen(&self) -> bool {
        let unseen = |d: &ValueDecision| matches!(d.origin, Origin::Unseen(_));
        self.values.values().any(unseen) || self.bodies.values().any(Plan::has_unseen)
    }

    /// Whether it changes nothing.
    pub fn is_idle(&self) -> bool {
        let absorbs = self.nodes.iter().any(|d| d.verdict == Verdict::Absorbed);
        self.values.is_empty() && self.constants.is_empty() && !absorbs && self.bodies.values().all(Plan::is_idle)
    }
}

/// Why nothing inside a body can be quantized.
fn shut(graph: &Graph, body: BodyId, ranges: &Ranges) -> Option<String> {
    let node = graph.node(body.node)?;
    if !node.is("If") {
        return Some(format!("what the body of a {} makes from turn to turn is not watched", node.operator()));
    }
    let taken = graph.body_proto(body).is_some_and(|b| ranges.took(b));
    (!taken).then(|| "no sample took this branch".to_owned())
}

/// The values whose ranges [`Plan::decide`] may need: data inputs and outputs of nodes that compute with them, in the
/// branches of an If too.
///
/// Left out is what a ReLU or Clip right behind replaces, so that the engine can fuse the two. Errors when a branch
/// breaks the rules of graphs.
pub fn watch_list(graph: &Graph) -> Result<Vec<String>> {
    let mut names = BTreeSet::new();
    watched(graph, &mut names)?;
    Ok(names.into_iter().collect())
}

fn watched(graph: &Graph, all: &mut BTreeSet<String>) -> Result<()> {
    let mut names = BTreeSet::new();
    for (_, node) in graph.nodes() {
        let Some(rule) = OpRule::of(node) else { continue };
        // What is passed on gets its parameters from where it came from; what stays float needs none.
        if matches!(rule.role, Role::Pass | Role::Float(_)) {
            continue;
        }
        let read = rule.data_slots(node).filter_map(|slot| node.input_at(slot));
        let values = read.chain(node.output.iter().map(String::as_str));
        names.extend(values.filter(|n| !n.is_empty() && !graph.is_constant(n)).map(str::to_owned));
    }
    all.extend(names.into_iter().filter(|n| bound_behind(graph, n).is_none()));
    for id in graph.bodies() {
        if graph.node(id.node).is_some_and(|n| n.is("If")) {
            watched(&graph.body(id)?, all)?;
        }
    }
    Ok(())
}

/// The ReLU or Clip that is the only reader of a value.
fn bound_behind(graph: &Graph, value: &str) -> Option<NodeId> {
    graph.producer(value)?;
    let only = graph.only_use(value).filter(|u| u.slot == 0)?;
    let rule = OpRule::of(graph.node(only.node)?)?;
    (rule.role == Role::Bound).then_some(only.node)
}

/// The most ReLU and Clip in a row that are looked past.
const MOST_BOUNDS: usize = 16;

/// The value whose range stands for that of `value`: what comes out of the ReLU and Clip behind it, which nothing else
/// reads it past. What they cut off is lost anyway.
fn seen_as<'a>(graph: &'a Graph, value: &'a str) -> &'a str {
    let mut value = value;
    for _ in 0..MOST_BOUNDS {
        match bound_behind(graph, value).and_then(|id| graph.node(id)?.output_at(0)) {
            Some(output) => value = output,
            None => break,
        }
    }
    value
}

/// The bounds of a ReLU or Clip: `None` where Clip's are no constants.
fn bounds(graph: &Graph, node: NodeId) -> Option<(f32, f32)> {
    crate::rule::bounds(graph, graph.node(node)?)
}
