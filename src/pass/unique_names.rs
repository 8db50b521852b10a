//! A name means one value in the whole model.

use std::collections::HashSet;

use super::{Context, Effect, Pass};
use crate::error::Result;
use crate::model::{Graph, Model, Renamed};

/// Gives the values of subgraphs names that no value outside of them has.
///
/// - **Does**: renames what a subgraph makes (inputs, initializers and what its nodes produce) where a graph before it
///   in the order of execution, or around it, makes a value of the same name. A node without a name gets that which its
///   output had. The branches of an If may share names in ONNX, and what is found out about a value is kept by its name.
/// - **Skips**: nothing.
/// - **Before**: `z = If(c)`, then: `y = Neg(x)`, else: `y = Abs(x)`. **After**: else: `y_2 = Abs(x)`.
/// - **Source**: docs/IR.md of ONNX, "Names Within a Graph".
#[derive(Debug, Clone, Copy)]
pub struct UniqueNames;

impl Pass for UniqueNames {
    fn name(&self) -> &'static str {
        "unique-names"
    }

    fn effect(&self) -> Effect {
        Effect::Same
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        if model.graph.bodies().is_empty() {
            return Ok(());
        }
        let mut known: HashSet<String> = model.graph.own_values().into_iter().collect();
        inside(&mut model.graph, &mut known, cx)
    }
}

/// Renames what the bodies in a graph make of `known` names; afterwards theirs are known too.
fn inside(graph: &mut Graph, known: &mut HashSet<String>, cx: &mut Context<'_>) -> Result<()> {
    for id in graph.bodies() {
        graph.edit_body(id, |body| {
            let mut renamed = Renamed::new();
            for name in body.own_values() {
                if !known.insert(name.clone()) {
                    let fresh = body.fresh_name(&name);
                    known.insert(fresh.clone());
                    renamed.insert(name, fresh);
                }
            }
            if !renamed.is_empty() {
                cx.changed += renamed.len();
                body.rename(&renamed)?;
            }
            inside(body, known, cx)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sketch::{self, floats, graph, lines, model, node, subgraph};
    use super::*;

    #[test]
    fn branches_and_bodies_inside_them_get_names_of_their_own() {
        let inner = graph("", vec![node("Neg", "w", "y", &[])], vec![], "y");
        let branches = [subgraph("then_branch", inner.clone()), subgraph("else_branch", inner)];
        let outer = |op: &str| {
            let nodes = vec![node(op, "x w", "t", &[]), node("If", "t", "y", &branches)];
            graph("", nodes, vec![floats("w", &[1], &[2.0])], "y")
        };
        let choose =
            node("If", "c", "z", &[subgraph("then_branch", outer("Add")), subgraph("else_branch", outer("Mul"))]);
        let mut m = model(13, graph("x c", vec![choose], vec![], "z"));
        assert_eq!(sketch::run(&UniqueNames, &mut m).unwrap(), (7, vec![]));
        let bodies = m.graph.bodies();
        let (then, other) = (m.graph.body(bodies[0]).unwrap(), m.graph.body(bodies[1]).unwrap());
        assert_eq!(lines(&then.to_proto()), ["t = Add(x, w)", "y = If(t) then_branch else_branch"]);
        assert_eq!(lines(&other.to_proto()), ["t_2 = Mul(x, w_2)", "y_4 = If(t_2) then_branch else_branch"]);
        assert!(other.initializer("w_2").is_some() && other.is_output("y_4"));
        let names = |g: &Graph| {
            g.bodies().iter().map(|&b| lines(&g.body(b).unwrap().to_proto())[0].clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&then), ["y_2 = Neg(w)", "y_3 = Neg(w)"]);
        assert_eq!(names(&other), ["y_4_2 = Neg(w_2)", "y_4_3 = Neg(w_2)"]);
        assert_eq!(sketch::run(&UniqueNames, &mut m).unwrap().0, 0);
    }
}
