//! Operators that no longer take integers: Erf since opset 13, ReduceLogSum and ReduceLogSumExp since 28.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{DataType, NodeExt, NodeId};

/// Refuses data that is known to be integers.
pub(super) fn refuse_integers(scope: &mut Scope, id: NodeId) -> Result<()> {
    let dtype = scope.node(id)?.input_at(0).and_then(|x| scope.dtype(x));
    match dtype {
        None | Some(DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double) => Ok(()),
        Some(other) => {
            let what =
                format!("it reads {}, and later opsets let it take floats only", crate::model::dtype_name(other));
            Err(Error::new(ErrorKind::Unsupported, what).hint("put a Cast to float32 before it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, refused};
    use crate::model::{DataType, attribute::int};
    use crate::pass::sketch::node;

    #[test]
    fn floats_stay_and_integers_are_refused() {
        let cast = |to: DataType| vec![node("Cast", "x", "c", &[int("to", to as i64)]), node("Erf", "c", "y", &[])];
        assert_eq!(raised(12, 13, cast(DataType::Double)).unwrap()[1], "y = Erf(c)");
        assert_eq!(raised(12, 13, vec![node("Erf", "x", "y", &[])]).unwrap(), ["y = Erf(x)"]);
        assert!(refused(12, 13, cast(DataType::Int32)).contains("reads int32"));
        let sum =
            |to: DataType| vec![node("Cast", "x", "c", &[int("to", to as i64)]), node("ReduceLogSum", "c", "y", &[])];
        assert_eq!(raised(18, 28, sum(DataType::Float16)).unwrap()[1], "y = ReduceLogSum(c)");
        assert!(refused(18, 28, sum(DataType::Uint64)).contains("reads uint64"));
        assert!(raised(18, 27, sum(DataType::Uint64)).is_ok());
    }
}
