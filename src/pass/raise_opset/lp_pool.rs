//! LpPool and GlobalLpPool: the power of their norm is a whole number since opset 2.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{NodeExt, NodeId, attribute};

/// Opset 2: `p` becomes an integer; refuses one that is none.
pub(super) fn whole_power(scope: &mut Scope, id: NodeId) -> Result<()> {
    let Some(p) = scope.node(id)?.float("p") else { return Ok(()) };
    if p.fract() != 0.0 {
        return Err(Error::new(ErrorKind::Unsupported, format!("`p` is {p}, and since opset 2 it is a whole number"))
            .hint("export the model again with a whole `p`"));
    }
    scope.graph_mut().edit(id, |n| n.set(attribute::int("p", p as i64)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, refused};
    use crate::model::attribute::float;
    use crate::pass::sketch::node;

    #[test]
    fn the_power_becomes_whole() {
        let pool = |p: f32| vec![node("GlobalLpPool", "x", "y", &[float("p", p)])];
        assert_eq!(raised(1, 22, pool(3.0)).unwrap(), ["y = GlobalLpPool(x) p=3"]);
        assert_eq!(raised(1, 22, vec![node("GlobalLpPool", "x", "y", &[])]).unwrap(), ["y = GlobalLpPool(x)"]);
        assert!(refused(1, 2, pool(2.5)).contains("`p` is 2.5"));
    }
}
