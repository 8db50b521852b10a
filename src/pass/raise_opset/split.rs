//! Split: its sizes were an attribute or an input in opset 1, an attribute in 2, and are an input since 13; without them
//! it must say how many parts since 18.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{NodeExt, NodeId, attribute};

/// Opset 2: sizes that are an input become the attribute `split`; refuses those that are not constant, and a node that
/// does not say its axis, for which opset 1 had no default.
pub(super) fn sizes_to_attribute(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    let refuse = |what: &str| {
        Err(Error::new(ErrorKind::Unsupported, what).hint("export the model again with a current exporter"))
    };
    if node.int("axis").is_none() {
        return refuse("it does not say its axis");
    }
    let Some(sizes) = node.input_at(1) else { return Ok(()) };
    let Some(sizes) = scope.constant(sizes)? else { return refuse("its sizes are not constant") };
    // They have the type of the data.
    let sizes: Vec<i64> = match sizes.is_float() {
        true => sizes.f64s()?.into_iter().map(|x| x as i64).collect(),
        false => sizes.i64s()?,
    };
    scope.graph_mut().edit(id, |n| {
        n.input.truncate(1);
        n.set(attribute::ints("split", &sizes));
    })
}

/// Opset 13: `split` becomes the second input.
pub(super) fn sizes_to_input(scope: &mut Scope, id: NodeId) -> Result<()> {
    scope.ints_to_input(id, "split", 1).map(drop)
}

/// Opset 18: without sizes, `num_outputs` says how many equal parts.
pub(super) fn state_how_many(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    if node.input_at(1).is_some() {
        return Ok(());
    }
    let parts = node.output.len() as i64;
    scope.graph_mut().edit(id, |n| n.set(attribute::int("num_outputs", parts)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, raised_from, refused};
    use crate::model::attribute::{int, ints};
    use crate::pass::sketch::{floats, graph, lines, node};

    #[test]
    fn sizes_that_were_an_input_become_an_attribute() {
        let split = || vec![node("Split", "x n", "y z", &[int("axis", 1)])];
        let g = graph("x", split(), vec![floats("n", &[2], &[1.0, 2.0])], "y");
        assert_eq!(lines(&raised_from(1, 2, g).unwrap().graph.to_proto()), ["y, z = Split(x) axis=1 split=[1, 2]"]);
        assert!(refused(1, 2, split()).contains("its sizes are not constant"));
        assert!(refused(1, 2, vec![node("Split", "x", "y z", &[])]).contains("does not say its axis"));
        assert_eq!(raised(2, 7, vec![node("Split", "x", "y z", &[])]).unwrap(), ["y, z = Split(x)"]);
    }

    #[test]
    fn sizes_become_an_input_or_a_number() {
        let sized = || vec![node("Split", "x", "y z", &[int("axis", 1), ints("split", &[1, 2])])];
        assert_eq!(raised(11, 13, sized()).unwrap(), ["y, z = Split(x, [1, 2]) axis=1"]);
        assert_eq!(raised(11, 18, sized()).unwrap(), ["y, z = Split(x, [1, 2]) axis=1"]);
        let equal = || vec![node("Split", "x", "y z", &[])];
        assert_eq!(raised(7, 13, equal()).unwrap(), ["y, z = Split(x)"]);
        assert_eq!(raised(7, 18, equal()).unwrap(), ["y, z = Split(x) num_outputs=2"]);
    }
}
