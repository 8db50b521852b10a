//! Nodes that hand their input on vanish.

use super::refusal::{Refusal, no, settle};
use super::{Context, Effect, Pass};
use crate::error::Result;
use crate::model::{DataType, Graph, Model, NodeExt, NodeId, NodeProto};

/// Removes nodes that give back what they were given.
///
/// - **Does**: removes Identity; Dropout at inference; Cast to the type its input is stated to have; Sum, Mean, Max,
///   Min and Concat of one input. Their readers read the input instead; where the output is a graph output, the
///   producer of the input takes over its name.
/// - **Skips when** the mask of a Dropout is used, a Dropout trains or may train, a subgraph captures the output, or
///   the output is a graph output and the input is one too, a graph input, a constant, or captured.
/// - **Before**: `b = Identity(a)`, `y = Relu(b)`. **After**: `y = Relu(a)`.
/// - **Source**: operators Identity-1, Dropout-7 (inference unless `is_test` = 0 before opset 7), Dropout-12 (inference
///   unless `training_mode`), Cast-6.
#[derive(Debug, Clone, Copy)]
pub struct DropIdentity;

impl Pass for DropIdentity {
    fn name(&self) -> &'static str {
        "drop-identity"
    }

    fn effect(&self) -> Effect {
        Effect::Same
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        let opset = model.opset();
        for id in model.graph.node_ids() {
            let Some(node) = model.graph.node(id) else { continue };
            let hands_on = match node.is("Dropout") {
                true => dropout(&model.graph, node, opset),
                false => Ok(is_identity(&model.graph, node)),
            };
            let outcome = match hands_on {
                Ok(false) => continue,
                Ok(true) => bypass(&mut model.graph, id),
                Err(refusal) => Err(refusal),
            };
            settle(outcome, self, model, id, cx)?;
        }
        model.graph.drop_unused_initializers();
        model.graph.prune_value_info(|_| false);
        Ok(())
    }
}

fn is_identity(graph: &Graph, node: &NodeProto) -> bool {
    match node.op_type() {
        _ if !node.is(node.op_type()) => false,
        "Identity" => true,
        "Sum" | "Mean" | "Max" | "Min" | "Concat" => node.input.len() == 1,
        "Cast" => {
            let to = node.int("to").and_then(|t| DataType::try_from(t as i32).ok());
            to.is_some() && node.input_at(0).and_then(|x| graph.stated_dtype(x)) == to
        }
        _ => false,
    }
}

/// Whether a Dropout does nothing; the reason where it does, or might.
fn dropout(graph: &Graph, node: &NodeProto, opset: i64) -> Result<bool, Refusal> {
    if opset < 7 && node.int("is_test").unwrap_or(0) == 0 {
        return no("it trains: `is_test` is not set");
    }
    if let Some(mode) = node.input_at(2) {
        let Some(mode) = graph.constant(mode)?.filter(|_| !graph.is_input(mode)) else {
            return no(format!("`{mode}` decides at run time whether it trains"));
        };
        if mode.i64s()?.iter().any(|&x| x != 0) {
            return no("it trains: `training_mode` is set");
        }
    }
    match node.output_at(1) {
        Some(mask) if graph.is_pinned(mask) || !graph.uses(mask).is_empty() => no(format!("its mask `{mask}` is used")),
        _ => Ok(true),
    }
}

fn bypass(graph: &mut Graph, id: NodeId) -> Result<(), Refusal> {
    let names = graph.node(id).and_then(|n| Some((n.input_at(0)?.to_owned(), n.output_at(0)?.to_owned())));
    let Some((input, output)) = names else { return no("its input or output is missing") };
    if let Some(&holder) = graph.captured_by(&output).first() {
        return no(format!("`{output}` is captured by a subgraph of {}", graph.label(holder)));
    }
    match graph.bypass(id, &input, &output)? {
        true => Ok(()),
        false => no(format!("`{output}` is a graph output, and `{input}` cannot take its name")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sketch::{self, floats, graph, lines, model, node, subgraph, value};
    use super::*;
    use crate::model::{Tensor, attribute};

    fn chain(op: NodeProto) -> Model {
        let mut g = graph("", vec![node("Relu", "x", "a", &[]), op, node("Abs", "b", "y", &[])], vec![], "y");
        g.input = vec![value("x", Some(2))];
        g.value_info = vec![value("a", Some(2)), value("b", Some(2))];
        let on = Tensor::new(DataType::Bool, vec![], vec![1].into()).unwrap();
        let off = Tensor::new(DataType::Bool, vec![], vec![0].into()).unwrap();
        g.initializer = vec![floats("r", &[], &[0.5]), on.to_proto("on"), off.to_proto("off")];
        model(13, g)
    }

    #[test]
    fn identities_vanish() {
        let cases = [
            node("Identity", "a", "b", &[]),
            node("Dropout", "a", "b", &[]),
            node("Dropout", "a r", "b m", &[]),
            node("Dropout", "a r off", "b", &[]),
            node("Cast", "a", "b", &[attribute::int("to", DataType::Float as i64)]),
            node("Sum", "a", "b", &[]),
            node("Concat", "a", "b", &[attribute::int("axis", 0)]),
        ];
        for op in cases {
            let mut m = chain(op);
            assert_eq!(sketch::run(&DropIdentity, &mut m).unwrap(), (1, vec![]));
            assert_eq!(lines(&m.graph.to_proto()), ["a = Relu(x)", "y = Abs(a)"]);
            assert!(m.graph.value_info("b").is_none() && m.graph.value_info("a").is_some());
            assert_eq!(m.graph.initializers().count(), 0);
        }
    }

    #[test]
    fn what_computes_stays() {
        let cases = [
            (node("Dropout", "a r on", "b", &[]), "trains"),
            (node("Dropout", "a r x", "b", &[]), "at run time"),
            (node("Cast", "a", "b", &[attribute::int("to", DataType::Double as i64)]), ""),
            (node("Sum", "a a", "b", &[]), ""),
        ];
        for (op, reason) in cases {
            let mut m = chain(op);
            let (changed, skipped) = sketch::run(&DropIdentity, &mut m).unwrap();
            assert_eq!(changed, 0);
            assert!(skipped.iter().all(|s| s.reason.contains(reason)) && skipped.is_empty() == reason.is_empty());
        }
        let mut old =
            model(6, graph("x", vec![node("Dropout", "x", "b", &[]), node("Abs", "b", "y", &[])], vec![], "y"));
        assert!(sketch::run(&DropIdentity, &mut old).unwrap().1[0].reason.contains("is_test"));
    }

    #[test]
    fn names_that_are_held_stay() {
        let nodes = vec![node("Identity", "x", "y", &[])];
        let mut m = model(13, graph("x", nodes, vec![], "y"));
        assert!(sketch::run(&DropIdentity, &mut m).unwrap().1[0].reason.contains("graph output"));

        let nodes = vec![node("Dropout", "x", "b mask", &[]), node("Foo", "b mask", "y", &[])];
        let mut m = model(13, graph("x", nodes, vec![], "y"));
        assert!(sketch::run(&DropIdentity, &mut m).unwrap().1[0].reason.contains("mask `mask`"));

        let body = graph("", vec![node("Neg", "b", "n", &[])], vec![], "n");
        let nodes = vec![node("Identity", "x", "b", &[]), node("If", "c", "y", &[subgraph("then_branch", body)])];
        let mut m = model(13, graph("x c", nodes, vec![], "y"));
        assert!(sketch::run(&DropIdentity, &mut m).unwrap().1[0].reason.contains("captured"));
    }

    #[test]
    fn a_graph_output_keeps_its_name() {
        let nodes = vec![node("Relu", "x", "a", &[]), node("Identity", "a", "y", &[]), node("Identity", "a", "z", &[])];
        let mut m = model(13, graph("x", nodes, vec![], "y z"));
        let (changed, skipped) = sketch::run(&DropIdentity, &mut m).unwrap();
        assert_eq!((changed, skipped.len()), (1, 1));
        assert_eq!(lines(&m.graph.to_proto()), ["y = Relu(x)", "z = Identity(y)"]);
    }
}
