//! Raises the version of ONNX's own operator set, a file for each family of operators whose form changed.

mod axes;
mod batch_norm;
mod broadcast;
mod cast;
mod clip;
mod concat;
mod consumed;
mod dft;
mod dropout;
mod floats_only;
mod function;
mod grid_sample;
mod group_norm;
mod lp_pool;
mod pad;
mod recurrent;
mod reshape;
mod resize;
mod roi_align;
mod scan;
mod scatter;
mod scope;
mod selu;
mod slice;
mod softmax;
mod split;
mod steps;
mod tile;
mod top_k;

use std::collections::BTreeSet;

pub(super) use function::raise as raise_function;
use scope::Scope;
use steps::{GREW, STEPS, Step};

use super::{Context, Effect, Pass};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{AttributeExt, Model, NodeExt, NodeProto, domain_of, imported};
use crate::schema::{self, Operator};

/// The newest opset that the tables of steps know.
const NEWEST: i64 = 28;

/// Operators that were experimental, in the same form, before they became part of ONNX.
const TRIED_BEFORE: &[&str] = &["ThresholdedRelu"];

/// Raises ONNX's own operator set to a version, up to 28. A model that states that version or a later one stays.
///
/// - **Does**: applies, opset by opset, what changed in the form of each operator in the graph, its subgraphs and the
///   model's functions (attributes that became inputs become constants, a Softmax over several axes is flattened,
///   Upsample becomes Resize, ...), and states the new opset, and the IR version that goes with it where the model's is
///   lower.
/// - **Skips**: nothing. What cannot be raised without changing what it computes is refused, naming the node: operators
///   that ONNX does not have, or not at the opset the model states (experimental ones of old exporters); what trains
///   (BatchNormalization or Dropout without `is_test` before opset 7, BatchNormalization with more than one output, a
///   used mask of Dropout) or has statistics for each element; broadcasting from an axis on, before opset 7, where the
///   numbers of axes are not known; Pad, and Split with sizes that are not constant, of opset 1; Tile before opset 6
///   likewise; the batched Scan of opset 8; Erf and ReduceLogSum of integers; Resize of opset 10 to the nearest
///   neighbour whose scales are not constant, or enlarge and shrink; Resize by `tf_half_pixel_for_nn` that rounds up; a
///   Clip or Pad whose float type is not known; attributes that stand for those of a function.
/// - **Before** (12): `y = ReduceSum(x) axes=[1]`. **After** (13): `y = ReduceSum(x, axes)`, initializer `axes`.
/// - **Source**: docs/Changelog.md of ONNX; the tables of steps are checked against [`schema`].
#[derive(Debug, Clone, Copy)]
pub struct RaiseOpset {
    /// The version to raise to.
    pub to: i64,
}

impl Pass for RaiseOpset {
    fn name(&self) -> &'static str {
        "raise-opset"
    }

    fn effect(&self) -> Effect {
        Effect::Same
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        one_version(model)?;
        if model.opset() >= self.to {
            return Ok(());
        }
        let only_float32 = only_float32(model);
        cx.changed += raise_graph(model, self.to)?;
        model.edit_functions(|f| {
            cx.changed += function::raise(f, self.to, only_float32)?;
            Ok(())
        })?;
        model.graph.drop_unused_initializers();
        model.graph.prune_value_info(|_| false);
        Ok(())
    }
}

/// Refuses a model that imports ONNX's own operator set in two versions: ONNX binds nodes to the higher, engines to the
/// last.
fn one_version(model: &Model) -> Result<()> {
    let imports = &model.metadata().opset_import;
    let versions: BTreeSet<i64> =
        imports.iter().filter(|o| domain_of(o.domain()).is_empty()).map(|o| o.version()).collect();
    if versions.len() < 2 {
        return Ok(());
    }
    let what = format!("the model imports {} versions of ONNX's operator set: {versions:?}", versions.len());
    Err(Error::new(ErrorKind::InvalidModel, what)
        .hint("engines differ in which one they take: state one in `opset_import`"))
}

/// Raises the graph of a model, and leaves its functions as they are; returns how many nodes it changed. Errors as
/// [`RaiseOpset`] says, and leaves the model as it was.
pub(super) fn raise_graph(model: &mut Model, to: i64) -> Result<usize> {
    let stated = imported(&model.metadata().opset_import, "").is_some();
    let from = if stated { model.opset() } else { 0 };
    let mut scope = Scope::of(model.graph.clone(), to, only_float32(model));
    let changed = raise(&mut scope, from)?;
    if let Some(graph) = scope.leave() {
        model.graph = graph;
    }
    model.state_opset(to);
    Ok(changed)
}

/// Whether the model speaks of no float type other than float32, so that every float value has this type.
pub(super) fn only_float32(model: &Model) -> bool {
    let (graph, functions) = (&model.graph, &model.metadata().functions);
    graph.initializers().all(scope::tensor_is_float32)
        && graph.value_infos().all(scope::value_is_float32)
        && graph.nodes().map(|(_, n)| n).chain(functions.iter().flat_map(|f| &f.node)).all(scope::node_is_float32)
}

/// Raises the innermost graph and its subgraphs; returns how many nodes it changed.
fn raise(scope: &mut Scope, from: i64) -> Result<usize> {
    if scope.to > NEWEST {
        return Err(Error::new(ErrorKind::Unsupported, format!("opset {} is not known", scope.to))
            .hint(format!("the newest opset that is supported is {NEWEST}")));
    }
    for (id, node) in scope.graph().nodes() {
        check(node, from, scope.to).at(|| scope.graph().label(id))?;
    }
    let mut changed = 0;
    // Opsets begin at 1, whatever a model states.
    for version in from.max(0) + 1..=scope.to {
        for id in scope.graph().node_ids() {
            let Some(step) = scope.graph().node(id).and_then(|n| step(n, version)) else { continue };
            let label = scope.graph().label(id);
            function::refuse_references(scope.node(id)?).at(|| label.clone())?;
            (step.convert)(scope, id).at(|| label)?;
            changed += 1;
        }
    }
    for id in scope.graph().node_ids() {
        let Some(node) = scope.graph().node(id).filter(|n| n.subgraphs().next().is_some()) else { continue };
        let (label, mut attributes) = (node.label(), node.attribute.clone());
        for graph in attributes.iter_mut().flat_map(|a| a.subgraphs_mut()) {
            scope.enter(std::mem::take(graph)).at(|| label.clone())?;
            changed += raise(scope, from).at(|| label.clone())?;
            if let Some(raised) = scope.leave() {
                *graph = raised.to_proto();
            }
        }
        scope.graph_mut().edit(id, |n| n.attribute = attributes)?;
    }
    Ok(changed)
}

/// The step that takes the node to this version, if there is one.
fn step(node: &NodeProto, version: i64) -> Option<&'static Step> {
    STEPS.iter().find(|s| s.to == version && node.is(s.op))
}

/// Refuses a node that no step knows how to raise.
fn check(node: &NodeProto, from: i64, to: i64) -> Result<()> {
    let op = node.op_type();
    if !node.is(op) {
        return Ok(());
    }
    let refuse = |why: String| Err(Error::new(ErrorKind::Unsupported, why));
    if from < 1 {
        return refuse("the model does not state an opset of ONNX's own operators".to_owned())
            .map_err(|e| e.hint("every model must import the operator sets of its nodes; export the model again"));
    }
    let Some(operator) = schema::operator(op) else {
        return refuse(format!("ONNX has no operator `{op}`, so opset {from} cannot be raised to {to}")).map_err(|e| {
            e.hint("before opset 9 ONNX had experimental operators, which were removed; export the model again with a current exporter")
        });
    };
    let first = operator.since();
    if first > from && !TRIED_BEFORE.contains(&op) {
        return refuse(format!("`{op}` exists since opset {first}, and the model states opset {from}"))
            .map_err(|e| e.hint("export the model again with a current exporter"));
    }
    if let Some(gone) = operator.gone().filter(|&g| g <= from) {
        return refuse(format!("`{op}` was removed in opset {gone}, and the model states opset {from}"))
            .map_err(|e| e.hint("export the model again with a current exporter"));
    }
    match unknown_change(operator, from, to) {
        Some(version) => refuse(format!("how to raise `{op}` to opset {version} is not known"))
            .map_err(|e| e.hint(format!("opset {} can be reached", version - 1))),
        None => Ok(()),
    }
}

/// Whether a node of ONNX's own operator may mean one thing in one opset and another in the other.
pub(super) fn means_another(op: &str, a: i64, b: i64) -> bool {
    let (from, to) = (a.min(b), a.max(b));
    let changes = STEPS.iter().any(|s| s.op == op && from < s.to && s.to <= to);
    changes || schema::operator(op).is_none_or(|o| unknown_change(o, from, to).is_some())
}

/// The first version after `from` that changed the operator's form, and that neither a step nor [`GREW`] knows.
fn unknown_change(operator: &Operator, from: i64, to: i64) -> Option<i64> {
    let known = |v: i64| STEPS.iter().any(|s| s.op == operator.name && s.to == v) || GREW.contains(&(operator.name, v));
    operator.changes().find(|&v| from < v && v <= to && !known(v))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::sketch::{self, floats, graph, lines, model, node, subgraph};
    use super::*;
    use crate::model::GraphProto;
    use crate::model::attribute::{float, int, ints};

    #[test]
    fn two_versions_of_the_operator_set_are_refused() {
        let twice = |versions: [i64; 2]| {
            let mut proto = model(11, graph("x", vec![node("Neg", "x", "y", &[])], vec![], "y")).to_proto();
            let import = |v| crate::proto::OperatorSetIdProto { domain: None, version: Some(v) };
            proto.opset_import = versions.map(import).to_vec();
            sketch::run(&RaiseOpset { to: 13 }, &mut Model::from_proto(proto).unwrap())
        };
        assert!(twice([11, 13]).unwrap_err().to_string().contains("2 versions of ONNX's operator set: {11, 13}"));
        assert!(twice([11, 11]).is_ok());
    }

    /// The graph after raising.
    pub(super) fn raised_from(from: i64, to: i64, graph: GraphProto) -> Result<Model> {
        let mut m = model(from, graph);
        sketch::run(&RaiseOpset { to }, &mut m)?;
        assert_eq!(m.opset(), to);
        Ok(m)
    }

    /// As [`raised_from`]; what the nodes read and do not produce is fed, and the last one gives the output.
    pub(super) fn raised_model(from: i64, to: i64, nodes: Vec<NodeProto>) -> Result<Model> {
        let produced: HashSet<_> = nodes.iter().flat_map(|n| n.output.clone()).collect();
        let mut fed: Vec<&str> =
            nodes.iter().flat_map(|n| &n.input).filter(|i| !produced.contains(*i)).map(|i| &**i).collect();
        fed.sort_unstable();
        fed.dedup();
        let last = nodes.last().unwrap().output[0].clone();
        raised_from(from, to, graph(&fed.join(" "), nodes.clone(), vec![], &last))
    }

    /// As [`raised_model`]; the nodes as lines.
    pub(super) fn raised(from: i64, to: i64, nodes: Vec<NodeProto>) -> Result<Vec<String>> {
        Ok(lines(&raised_model(from, to, nodes)?.graph.to_proto()))
    }

    /// The error that refuses the nodes, which must have a way out.
    pub(super) fn refused(from: i64, to: i64, nodes: Vec<NodeProto>) -> String {
        let e = raised_model(from, to, nodes).unwrap_err();
        assert!(e.kind() == ErrorKind::Unsupported && e.way_out().is_some(), "{e}");
        e.to_string()
    }

    #[test]
    fn steps_follow_one_another() {
        let old = vec![
            node("Slice", "x", "s", &[ints("starts", &[0]), ints("ends", &[2])]),
            node("Clip", "s", "c", &[float("max", 6.0)]),
            node("ReduceMean", "c", "m", &[ints("axes", &[1])]),
            node("Softmax", "m", "y", &[int("axis", -1)]),
        ];
        let new =
            ["s = Slice(x, [0], [2])", "c = Clip(s, , c_max)", "m = ReduceMean(c, [1])", "y = Softmax(m) axis=-1"];
        assert_eq!(raised(7, 28, old).unwrap(), new);
    }

    #[test]
    fn what_is_new_enough_stays() {
        let mut m = model(17, graph("x", vec![node("Relu", "x", "y", &[])], vec![], "y"));
        assert_eq!(sketch::run(&RaiseOpset { to: 13 }, &mut m).unwrap().0, 0);
        assert_eq!(m.opset(), 17);
        assert!(sketch::run(&RaiseOpset { to: NEWEST + 1 }, &mut m).is_err());
    }

    #[test]
    fn initializers_need_no_graph_input_afterwards() {
        let m = raised_model(7, 10, vec![node("TopK", "x", "y i", &[int("k", 1)])]).unwrap();
        assert_eq!(m.metadata().ir_version(), 5);
    }

    #[test]
    fn subgraphs_are_raised_and_their_names_stay_unique() {
        let squeeze = |y: &str| node("Squeeze", "x", y, &[ints("axes", &[0])]);
        let inner = |y: &str| graph("", vec![squeeze(y)], vec![], y);
        let deep = node("If", "b", "d", &[subgraph("then_branch", inner("p")), subgraph("else_branch", inner("q"))]);
        let branches =
            [subgraph("then_branch", graph("", vec![deep], vec![], "d")), subgraph("else_branch", inner("y_axes"))];
        let nodes = vec![squeeze("y"), node("If", "b", "z", &branches)];
        let m = raised_from(11, 13, graph("b x", nodes, vec![], "y z")).unwrap();
        let g = m.graph.to_proto();
        assert_eq!(lines(&g)[0], "y = Squeeze(x, [0])");
        assert_eq!(g.initializer[0].name(), "y_axes_2");
        let [then, other] = [0, 1].map(|i| g.node[1].attribute[i].g.clone().unwrap());
        assert_eq!(lines(&other), ["y_axes = Squeeze(x, [0])"]);
        assert_eq!(lines(then.node[0].attribute[1].g.as_ref().unwrap()), ["q = Squeeze(x, [0])"]);
    }

    #[test]
    fn a_subgraph_knows_the_types_around_it() {
        let clip = node("Clip", "h", "c", &[float("max", 6.0)]);
        let body = graph("", vec![clip], vec![], "c");
        let half = crate::model::Tensor::from_f64(crate::model::DataType::Float16, vec![1], &[1.0]).unwrap();
        let nodes = vec![node("If", "b", "z", &[subgraph("then_branch", body)])];
        let m = raised_from(10, 11, graph("b", nodes, vec![half.to_proto("h")], "z")).unwrap();
        let body = m.graph.to_proto().node[0].attribute[0].g.clone().unwrap();
        assert_eq!(body.initializer[0].data_type(), crate::model::DataType::Float16 as i32);
    }

    #[test]
    fn other_domains_stay() {
        let foreign = NodeProto { domain: Some("com.example".into()), ..node("Clip", "x", "y", &[float("max", 6.0)]) };
        assert_eq!(raised(6, 13, vec![foreign]).unwrap(), ["y = com.example.Clip(x) max=6"]);
    }

    #[test]
    fn what_cannot_be_raised_is_named() {
        let cases = [
            (0, 13, "Relu", "does not state an opset"),
            (7, 13, "ImageScaler", "ONNX has no operator `ImageScaler`"),
            (8, 13, "MeanVarianceNormalization", "exists since opset 9, and the model states opset 8"),
            (10, 13, "Upsample", "`Upsample` was removed in opset 10"),
        ];
        for (from, to, op, reason) in cases {
            let named = NodeProto { name: Some("n".into()), ..node(op, "x", "y", &[]) };
            let e = refused(from, to, vec![named.clone()]);
            assert!(e.starts_with(&format!("pass `raise-opset`: node `n` ({op}): ")) && e.contains(reason), "{e}");
            if from >= 1 {
                let body = graph("", vec![named], vec![], "y");
                let e = refused(from, to, vec![node("If", "x", "z", &[subgraph("then_branch", body)])]);
                assert!(e.contains(reason) && e.contains("node of `z` (If): node `n` "), "{e}");
            }
        }
    }

    #[test]
    fn constants_that_nothing_reads_any_more_vanish() {
        let nodes = vec![node("Resize", "x e s", "y", &[])];
        let constants = vec![floats("e", &[0], &[]), floats("s", &[1], &[2.0])];
        let m = raised_from(11, 13, graph("x", nodes, constants, "y")).unwrap();
        assert!(m.graph.initializer("e").is_none() && m.graph.initializer("s").is_some());
    }
}
