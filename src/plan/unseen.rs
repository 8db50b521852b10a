//! A plan before any sample was run: what would be quantized, and how, but for the ranges that only samples tell.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::select::MASK;
use super::types::element_types;
use super::{Origin, Plan, Policy, bounds, watch_list};
use crate::calibrate::{Ranges, Statistics, data_free_ranges};
use crate::error::Result;
use crate::model::{DataType, Graph, NodeExt, NodeId, Tensor};
use crate::number::{Range, min_max};
use crate::observe::Method;
use crate::rule::{OpRule, Role};

/// The ends of a range that is not known: wide enough for the bias of any weight, far from what masks, and not symmetric.
const UNKNOWN: (f32, f32) = (-1024.0, 4096.0);

/// The most nodes in a row that are looked through for the constant that masks.
const MOST_STEPS: usize = 8;

impl Plan {
    /// Decides as [`Plan::decide`] does where samples show ordinary numbers, and every branch is taken.
    ///
    /// Verdicts, places, formats and what is made of constants are those that samples lead to, unless these show what
    /// keeps a node float: numbers that are not finite or too large to be quantized. Ranges and parameters of values
    /// that only samples tell are made up, and marked as such ([`Origin::Unseen`]; [`Plan::knows`]).
    /// What is put in front of a Softmax to mask is known by the constant that it is made of. Element types
    /// are taken from the file and the operators' definitions; what these leave open counts as float.
    ///
    /// Errors as [`Plan::decide`].
    pub fn unseen(graph: &Graph, policy: &Policy) -> Result<Plan> {
        let mut ranges = BTreeMap::new();
        fill(graph, &HashMap::new(), &mut ranges)?;
        let watch: Vec<String> = watch_list(graph)?.into_iter().filter(|v| ranges.contains_key(v)).collect();
        let mut made_up = data_free_ranges(&watch, &Statistics::default(), &ranges);
        take_branches(graph, &mut made_up)?;
        let policy = Policy { calibration: Method::MinMax, ..policy.clone() };
        let mut plan = Plan::decide(graph, &made_up, &policy)?;
        plan.mark_unseen();
        Ok(plan)
    }

    fn mark_unseen(&mut self) {
        for decision in self.values.values_mut() {
            if let Origin::Seen(value) = &decision.origin {
                decision.reason = match *value == decision.source {
                    true => "samples will tell its range".to_owned(),
                    false => format!("samples will tell the range of `{value}` behind it"),
                };
                decision.origin = Origin::Unseen(value.clone());
            }
        }
        self.bodies.values_mut().for_each(Plan::mark_unseen);
    }
}

/// Makes up a range for every value of the graph, and of the branches in it, that may hold floats.
fn fill(graph: &Graph, around: &HashMap<String, DataType>, ranges: &mut BTreeMap<String, Range>) -> Result<()> {
    let types = element_types(graph, around);
    let outputs = graph.nodes().flat_map(|(_, n)| n.output.iter().map(String::as_str));
    let values = graph.inputs().iter().map(|v| v.name()).chain(graph.captured_values()).chain(outputs);
    let masks = masks(graph);
    for value in values.filter(|v| !v.is_empty() && types.get(*v).is_none_or(|&t| t == DataType::Float)) {
        let (low, high) = if masks.contains(value) { (MASK, UNKNOWN.1) } else { UNKNOWN };
        let cut = graph.producer(value).filter(|(id, _)| is_bound(graph, *id)).and_then(|(id, _)| bounds(graph, id));
        let (least, most) = cut.unwrap_or((low, high));
        ranges.extend(Range::new(low, high).map(|r| (value.to_owned(), r.clamp(least, most))));
    }
    for id in graph.bodies() {
        fill(&graph.body(id)?, &types, ranges)?;
    }
    Ok(())
}

fn is_bound(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).and_then(OpRule::of).is_some_and(|r| r.role == Role::Bound)
}

fn take_branches(graph: &Graph, ranges: &mut Ranges) -> Result<()> {
    for id in graph.bodies() {
        graph.body_proto(id).into_iter().for_each(|b| ranges.take(b));
        take_branches(&graph.body(id)?, ranges)?;
    }
    Ok(())
}

/// The values in front of a Softmax that hold a mask: made of an Add, Sub, Mul or Where with a constant that no score is
/// below.
fn masks(graph: &Graph) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, node) in graph.nodes().filter(|(_, n)| n.is("Softmax") || n.is("LogSoftmax")) {
        let mut value = node.input_at(0);
        // What only moves values has no range of its own.
        while let Some(name) = value {
            let Some(producer) = graph.producer(name).and_then(|(id, _)| graph.node(id)) else { break };
            if OpRule::of(producer).is_some_and(|r| r.role == Role::Pass) {
                value = producer.input_at(0);
                continue;
            }
            if is_low(graph, name, MOST_STEPS) {
                found.insert(name.to_owned());
            }
            break;
        }
    }
    found
}

/// Whether a value may be as low as a mask, by the constants that it is made of.
fn is_low(graph: &Graph, value: &str, steps: usize) -> bool {
    if let Some(tensor) = graph.initializer(value) {
        let lowest = |t: &Tensor| t.f32s().is_ok_and(|x| min_max(&x).0 <= MASK || x.contains(&f32::NEG_INFINITY));
        return Tensor::from_proto(tensor).is_ok_and(|t| t.is_float() && lowest(&t));
    }
    let Some(node) = graph.producer(value).and_then(|(id, _)| graph.node(id)).filter(|_| steps > 0) else {
        return false;
    };
    let keeps = ["Add", "Sub", "Mul", "Where", "Expand", "Cast", "Identity"].iter().any(|op| node.is(op))
        || OpRule::of(node).is_some_and(|r| r.role == Role::Pass);
    let filled = || node.tensor("value").and_then(|t| Tensor::from_proto(t).ok()?.f32s().ok()?.first().copied());
    (node.is("ConstantOfShape") && filled().is_some_and(|x| x <= MASK))
        || (keeps && node.input.iter().any(|input| is_low(graph, input, steps - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AttributeProto, GraphProto, NodeProto, ValueInfoProto, attribute};
    use crate::plan::Verdict;
    use crate::target::ORT_CPU;

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    fn verdicts(nodes: Vec<NodeProto>, change: impl FnOnce(&mut Policy)) -> Vec<Verdict> {
        let constant = |name: &str, shape: &[usize], x: f32| {
            Tensor::from_f32(shape.to_vec(), vec![x; shape.iter().product()]).to_proto(name)
        };
        let input = ValueInfoProto { name: Some("x".into()), ..Default::default() };
        let initializer =
            vec![constant("w", &[2, 2, 1, 1], 0.5), constant("low", &[], -1.0), constant("high", &[], 6.0)];
        let graph = GraphProto { node: nodes, input: vec![input], initializer, ..Default::default() };
        let mut policy = Policy::of(&ORT_CPU);
        change(&mut policy);
        let plan = Plan::unseen(&Graph::from_proto(graph).unwrap(), &policy).unwrap();
        plan.nodes.iter().map(|d| d.verdict).collect()
    }

    #[test]
    fn bounds_are_absorbed_whatever_the_range_is() {
        let of = |bound: NodeProto, change: fn(&mut Policy)| {
            let nodes = vec![node("Conv", &["x", "w"], "c"), bound, node("Conv", &["r", "w"], "y")];
            verdicts(nodes, change)[1]
        };
        let (relu, clip) = (node("Relu", &["c"], "r"), node("Clip", &["c", "low", "high"], "r"));
        assert_eq!(of(relu.clone(), |_| ()), Verdict::Absorbed);
        assert_eq!(of(clip.clone(), |_| ()), Verdict::Absorbed);
        assert_eq!(of(relu, |p| p.symmetric_activations = true), Verdict::Quantized);
        assert_eq!(of(clip, |p| p.symmetric_activations = true), Verdict::Quantized);
    }

    #[test]
    fn masks_are_known_by_their_constants() {
        let of = |constant: &str| {
            let nodes = vec![
                node("MatMul", &["x", "x"], "scores"),
                node("Where", &["cond", "scores", constant], "masked"),
                node("Reshape", &["masked", "shape"], "shaped"),
                node("Softmax", &["shaped"], "p"),
            ];
            let graph = GraphProto {
                node: nodes,
                initializer: vec![
                    Tensor::from_f32(vec![], vec![f32::NEG_INFINITY]).to_proto("mask"),
                    Tensor::from_f32(vec![], vec![-50.0]).to_proto("shift"),
                ],
                ..Default::default()
            };
            masks(&Graph::from_proto(graph).unwrap()).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(of("mask"), ["masked"]);
        assert!(of("shift").is_empty());
    }

    #[test]
    fn bodies_of_if_count_as_taken_and_those_of_loop_do_not() {
        let body = GraphProto {
            node: vec![node("MatMul", &["x", "matrix"], "inner")],
            output: vec![ValueInfoProto { name: Some("inner".into()), ..Default::default() }],
            ..Default::default()
        };
        for (op, name, verdict) in [("If", "then_branch", Verdict::Quantized), ("Loop", "body", Verdict::Float)] {
            let mut around = node(op, &["x"], "y");
            around.attribute.push(AttributeProto { g: Some(body.clone()), ..attribute::int(name, 0) });
            let graph = GraphProto {
                node: vec![around],
                input: vec![ValueInfoProto { name: Some("x".into()), ..Default::default() }],
                initializer: vec![Tensor::from_f32(vec![2, 2], vec![0.5; 4]).to_proto("matrix")],
                ..Default::default()
            };
            let graph = Graph::from_proto(graph).unwrap();
            let plan = Plan::unseen(&graph, &Policy::of(&ORT_CPU)).unwrap();
            let inner = &plan.bodies[&graph.bodies()[0]];
            assert_eq!(inner.nodes[0].verdict, verdict, "{op}");
            assert_eq!(plan.has_unseen(), verdict == Verdict::Quantized, "{op}");
            assert_eq!(inner.knows("x"), verdict == Verdict::Float, "{op}");
        }
    }
}
