//! Tile: repeats along every axis since opset 6, along one before.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{NodeExt, NodeId, Tensor};

/// Opset 6: `tiles` and `axis`, which must be constant, become the numbers of repeats along all axes.
pub(super) fn every_axis(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    let name = |slot| node.input_at(slot).unwrap_or_default();
    // They have the type of the data, one element each.
    let whole = |slot: usize| -> Result<Option<i64>> {
        let Some(t) = scope.constant(name(slot))? else { return Ok(None) };
        let first = match t.is_float() {
            true => t.f64s()?.first().map(|&x| x as i64),
            false => t.i64s()?.first().copied(),
        };
        Ok(first)
    };
    let (Some(tiles), Some(axis), Some(rank)) = (whole(1)?, whole(2)?, scope.rank(name(0))) else {
        let what = format!(
            "the repeats `{}` and the axis `{}` must be constant, and the number of axes of `{}` known",
            name(1),
            name(2),
            name(0)
        );
        return Err(Error::new(ErrorKind::Unsupported, what).hint("export the model again with a current exporter"));
    };
    let at = if axis < 0 { axis + rank } else { axis };
    let repeats: Vec<i64> = (0..rank).map(|i| if i == at { tiles } else { 1 }).collect();
    let repeats = scope.add_constant(id, "repeats", &Tensor::from_i64(vec![repeats.len()], repeats))?;
    scope.graph_mut().edit(id, |n| n.input.truncate(1))?;
    scope.set_input(id, 1, &repeats)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, raised_from, refused};
    use crate::pass::sketch::{floats, graph, lines, node, value};

    #[test]
    fn one_axis_becomes_all() {
        let constants = vec![floats("n", &[1], &[3.0]), floats("a", &[1], &[1.0])];
        let mut g = graph("", vec![node("Tile", "x n a", "y", &[])], constants, "y");
        g.input = vec![value("x", Some(3))];
        assert_eq!(lines(&raised_from(5, 13, g).unwrap().graph.to_proto()), ["y = Tile(x, [1, 3, 1])"]);
        assert!(refused(5, 6, vec![node("Tile", "x n a", "y", &[])]).contains("`n` and the axis `a` must be constant"));
        assert_eq!(raised(6, 13, vec![node("Tile", "x n", "y", &[])]).unwrap(), ["y = Tile(x, n)"]);
    }
}
