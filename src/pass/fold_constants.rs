//! Computes what does not depend on the input.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Context, Effect, Pass};
use crate::error::Result;
use crate::model::{Graph, Model, NodeExt, NodeId, NodeProto, Tensor, ValueInfoProto, bits, domain_of};
use crate::proto::{GraphProto, ModelProto, TypeProto, type_proto};
use crate::sample::Sample;

/// Results larger than this, in bytes, are only kept when they are not larger than what they were computed from:
/// a model must not grow by its Expand and Tile nodes.
const LARGE: usize = 1 << 16;

/// The same where a body computes from a constant that something outside of the body reads too: that stays, and each
/// body that does so would hold a copy.
const LARGE_COPY: usize = 1 << 10;

/// Operators that engines compute as the specification says, and that exporters leave between constants.
const FOLDED: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "ConstantOfShape",
    "Cos",
    "CumSum",
    "DepthToSpace",
    "Div",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "Less",
    "LessOrEqual",
    "Log",
    "MatMul",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "OneHot",
    "Or",
    "Pad",
    "Pow",
    "Range",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Reshape",
    "Round",
    "ScatterND",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
    "Xor",
];

/// Replaces nodes whose inputs are all constant by their results.
///
/// Does: runs the constant part of the graph once in the engine; takes Shape (with the Gather and Slice behind it)
/// for a constant where the sizes it reads are the same for every input.
///
/// Skips when there is no engine, the operator is none of those that engines are known to compute exactly, or the
/// result is large and larger than its sources. Nodes whose operator the engine cannot run are left, with its reason.
///
/// ```text
/// before: W -> Reshape(shape) -> MatMul      Shape(x) -> Gather(1) -> Concat -> Reshape
/// after:  W'                  -> MatMul      [constant]            -> Concat -> Reshape
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn effect(&self) -> Effect {
        Effect::Rounding
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        if cx.executor.is_none() {
            return Ok(());
        }
        fold_shapes(model, cx)?;
        let candidates = constant_nodes(&model.graph);
        if candidates.is_empty() {
            return Ok(());
        }
        match evaluate(model, &candidates, cx) {
            Ok(results) => take_over(&mut model.graph, &candidates, &results, cx)?,
            // One node that the engine cannot run must not keep the others: try each for itself.
            Err(_) => {
                for id in candidates {
                    let Some(node) = model.graph.node(id) else { continue };
                    if node.input.iter().any(|n| !n.is_empty() && model.graph.initializer(n).is_none()) {
                        cx.skip(self, model, id, "an input could not be computed");
                        continue;
                    }
                    match evaluate(model, &[id], cx) {
                        Ok(results) => take_over(&mut model.graph, &[id], &results, cx)?,
                        Err(e) => cx.skip(self, model, id, e.to_string()),
                    }
                }
            }
        }
        model.graph.drop_unused_initializers();
        model.graph.prune_value_info(|_| false);
        Ok(())
    }
}

/// Nodes all of whose inputs are constants or results of such nodes, in order.
fn constant_nodes(graph: &Graph) -> Vec<NodeId> {
    let mut constant: HashSet<&str> = HashSet::new();
    let mut found = Vec::new();
    for (id, node) in graph.nodes() {
        let plain = domain_of(node.domain()).is_empty()
            && FOLDED.contains(&node.op_type())
            && node.input.iter().any(|n| !n.is_empty());
        // Engines hold codes below 8 bits in wider types, and would give back those: only Cast leaves them behind.
        let held = |n: &str| match graph.stated_dtype(n).and_then(bits) {
            Some(bits) if bits < 8 => node.is("Cast"),
            _ => true,
        };
        let known =
            |n: &String| n.is_empty() || constant.contains(n.as_str()) || (graph.initializer(n).is_some() && held(n));
        if plain && node.input.iter().all(known) {
            constant.extend(node.output.iter().map(String::as_str));
            found.push(id);
        }
    }
    found
}

/// Runs nodes as a model of their own; their results by name.
fn evaluate(model: &Model, nodes: &[NodeId], cx: &Context<'_>) -> Result<HashMap<String, Tensor>> {
    let Some(executor) = cx.executor else { return Ok(HashMap::new()) };
    let graph = &model.graph;
    let nodes: Vec<NodeProto> = nodes.iter().filter_map(|&id| graph.node(id).cloned()).collect();
    let made: HashSet<&String> = nodes.iter().flat_map(|n| &n.output).collect();
    let read: BTreeSet<&String> = nodes.iter().flat_map(|n| &n.input).filter(|n| !made.contains(n)).collect();
    let outputs: Vec<&String> = nodes.iter().flat_map(|n| &n.output).filter(|n| !n.is_empty()).collect();
    // The element types of the outputs are what the engine finds; UNDEFINED asks it to say.
    let any = |name: &String| ValueInfoProto {
        name: Some(name.clone()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(0), shape: None })),
            ..Default::default()
        }),
        ..Default::default()
    };
    let part = ModelProto {
        graph: Some(GraphProto {
            name: Some("constants".into()),
            initializer: read.iter().filter_map(|n| graph.initializer(n).cloned()).collect(),
            output: outputs.iter().map(|n| any(n)).collect(),
            node: nodes.clone(),
            ..Default::default()
        }),
        functions: Vec::new(),
        ..model.metadata().clone()
    };
    let part = Model::from_proto(part)?;
    let results = executor.prepare(&part, &[], &[])?.session()?.outputs(&Sample { inputs: Vec::new() })?;
    Ok(outputs.into_iter().cloned().zip(results).collect())
}

/// Puts results in the place of the nodes that made them.
fn take_over(
    graph: &mut Graph,
    nodes: &[NodeId],
    results: &HashMap<String, Tensor>,
    cx: &mut Context<'_>,
) -> Result<()> {
    for &id in nodes {
        let Some(node) = graph.node(id) else { continue };
        let bytes = |name: &String| graph.initializer(name).and_then(|t| Tensor::from_proto(t).ok());
        let source: usize = node.input.iter().filter_map(bytes).map(|t| t.bytes().len()).sum();
        let shared = node.input.iter().any(|n| graph.is_shared(n));
        let most = if shared { LARGE_COPY } else { LARGE.max(source) };
        let outputs: Vec<(String, Option<&Tensor>)> =
            node.output.iter().filter(|n| !n.is_empty()).map(|n| (n.clone(), results.get(n))).collect();
        let fits = |t: &Tensor| t.bytes().len() <= most;
        // Where an input was too large to be kept, this node still computes from what is there.
        let ready = node.input.iter().all(|n| n.is_empty() || graph.initializer(n).is_some());
        let output_of_graph = outputs.iter().any(|(n, _)| graph.is_output(n));
        if !ready || output_of_graph || !outputs.iter().all(|(_, t)| t.is_some_and(fits)) {
            continue;
        }
        let values: Vec<_> = outputs.into_iter().filter_map(|(n, t)| Some(t?.to_proto(&n))).collect();
        graph.remove(id);
        values.into_iter().for_each(|v| graph.set_initializer(v));
        cx.changed += 1;
    }
    Ok(())
}

/// Replaces Shape, and Gather or Slice behind it, where the sizes they read do not depend on the input.
fn fold_shapes(model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
    let Some(executor) = cx.executor else { return Ok(()) };
    if !model.graph.nodes().any(|(_, n)| n.is("Shape") || n.is("Size")) {
        return Ok(());
    }
    let Some(alone) = alone(model)? else { return Ok(()) };
    let shapes = match executor.shapes(&alone) {
        Ok(shapes) => shapes,
        Err(e) => {
            cx.events.warn(&format!("shapes could not be inferred, so shape arithmetic stays: {e}"));
            return Ok(());
        }
    };
    let graph = &mut model.graph;
    for id in graph.node_ids() {
        let Some(node) = graph.node(id).filter(|n| n.is("Shape")) else { continue };
        let (Some(input), Some(output)) = (node.input_at(0), node.output_at(0)) else { continue };
        let Some(dims) = shapes.get(input) else { continue };
        let rank = dims.len() as i64;
        let clamp = |i: i64| (if i < 0 { i + rank } else { i }).clamp(0, rank) as usize;
        let (start, end) = (clamp(node.int("start").unwrap_or(0)), clamp(node.int("end").unwrap_or(rank)));
        let dims = dims[start.min(end)..end].to_vec();
        let output = output.to_owned();
        if !graph.is_output(&output)
            && let Some(known) = dims.iter().map(|d| d.map(|d| d as i64)).collect::<Option<Vec<i64>>>()
        {
            graph.remove(id);
            graph.set_initializer(Tensor::from_i64(vec![known.len()], known).to_proto(&output));
            cx.changed += 1;
            continue;
        }
        for reader in graph.uses(&output).to_vec() {
            let Some(value) = part_of_shape(graph, reader.node, &dims)? else { continue };
            let Some(node) = graph.node(reader.node) else { continue };
            let name = node.output[0].clone();
            if !graph.is_output(&name) {
                graph.remove(reader.node);
                graph.set_initializer(value.to_proto(&name));
                cx.changed += 1;
            }
        }
        if graph.uses(&output).is_empty() && !graph.is_pinned(&output) {
            graph.remove(id);
        }
    }
    Ok(())
}

/// The graph without the bodies in it and without the graphs around it: what those hand over becomes an input, of the type
/// and rank that are stated; sizes that are stated between nodes may be stale. `None` where no type is stated.
fn alone(model: &Model) -> Result<Option<Cow<'_, Model>>> {
    let graph = &model.graph;
    if graph.bodies().is_empty() && graph.captured_values().next().is_none() {
        return Ok(Some(Cow::Borrowed(model)));
    }
    let (closed, open): (Vec<_>, Vec<_>) = graph.nodes().map(|(_, n)| n).partition(|n| n.subgraphs().next().is_some());
    let handed = closed.iter().flat_map(|n| n.output.iter().map(String::as_str)).filter(|o| !o.is_empty());
    let mut inputs = graph.inputs().to_vec();
    for name in graph.captured_values().chain(handed) {
        let Some(mut value) = graph.value_info(name).cloned() else { return Ok(None) };
        let Some(type_proto::Value::TensorType(t)) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
            return Ok(None);
        };
        if t.elem_type() == 0 {
            return Ok(None);
        }
        t.shape.iter_mut().flat_map(|s| &mut s.dim).for_each(|d| *d = Default::default());
        inputs.push(value);
    }
    let read: BTreeSet<&str> = open.iter().flat_map(|n| &n.input).map(String::as_str).collect();
    let own = graph.outputs().iter().map(|v| v.name());
    let constants: BTreeSet<&str> = read.into_iter().chain(own).collect();
    let part = GraphProto {
        input: inputs,
        output: graph.outputs().to_vec(),
        initializer: constants.iter().filter_map(|n| graph.initializer(n).cloned()).collect(),
        sparse_initializer: constants.iter().filter_map(|n| graph.sparse_initializer(n).cloned()).collect(),
        node: open.into_iter().cloned().collect(),
        ..Default::default()
    };
    let part = ModelProto { graph: Some(part), functions: Vec::new(), ..model.metadata().clone() };
    Model::from_proto(part).map(|m| Some(Cow::Owned(m)))
}

/// What a Gather (axis 0) or Slice with constant places takes out of a shape, if those sizes are known.
fn part_of_shape(graph: &Graph, reader: NodeId, dims: &[Option<usize>]) -> Result<Option<Tensor>> {
    let Some(node) = graph.node(reader) else { return Ok(None) };
    let constant =
        |slot: usize| -> Result<Option<Tensor>> { node.input_at(slot).map_or(Ok(None), |n| graph.constant(n)) };
    let at = |i: i64| usize::try_from(if i < 0 { i + dims.len() as i64 } else { i }).ok();
    if node.is("Gather") && node.int("axis").unwrap_or(0) == 0 {
        let Some(indices) = constant(1)? else { return Ok(None) };
        let sizes: Option<Vec<i64>> =
            indices.i64s()?.into_iter().map(|i| dims.get(at(i)?).copied().flatten().map(|d| d as i64)).collect();
        return Ok(sizes.map(|s| Tensor::from_i64(indices.shape().to_vec(), s)));
    }
    if node.is("Slice") && node.input.len() >= 3 {
        let (Some(starts), Some(ends)) = (constant(1)?, constant(2)?) else { return Ok(None) };
        let step = match (node.input_at(4), constant(4)?) {
            (None, _) => vec![1],
            (Some(_), Some(step)) => step.i64s()?,
            (Some(_), None) => return Ok(None),
        };
        let (starts, ends) = (starts.i64s()?, ends.i64s()?);
        if let ([start], [end], [1]) = (&starts[..], &ends[..], &step[..]) {
            let rank = dims.len() as i64;
            let clamp = |i: i64| (if i < 0 { i.saturating_add(rank) } else { i }).clamp(0, rank) as usize;
            let part = &dims[clamp(*start).min(clamp(*end))..clamp(*end)];
            let sizes: Option<Vec<i64>> = part.iter().map(|d| d.map(|d| d as i64)).collect();
            return Ok(sizes.map(|s| Tensor::from_i64(vec![s.len()], s)));
        }
    }
    Ok(None)
}
