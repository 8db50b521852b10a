//! Cast: names its type by a number since opset 6.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{DataType, NodeExt, NodeId, attribute};

/// Opset 6: the name in `to`, as TensorProto spells it, becomes its number.
pub(super) fn type_by_number(scope: &mut Scope, id: NodeId) -> Result<()> {
    let name = scope.node(id)?.string("to").unwrap_or_default().to_owned();
    let Some(dtype) = DataType::from_str_name(&name).filter(|&d| d != DataType::Undefined) else {
        return Err(Error::new(ErrorKind::InvalidModel, format!("it casts to `{name}`, which is no element type")));
    };
    scope.graph_mut().edit(id, |n| n.set(attribute::int("to", dtype as i64)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::string;
    use crate::pass::sketch::node;

    #[test]
    fn the_name_becomes_a_number() {
        let cast = |to| raised(5, 13, vec![node("Cast", "x", "y", &[string("to", to)])]);
        assert_eq!(cast("FLOAT").unwrap(), ["y = Cast(x) to=1"]);
        assert_eq!(cast("INT64").unwrap(), ["y = Cast(x) to=7"]);
        assert!(cast("float99").unwrap_err().to_string().contains("`float99`, which is no element type"));
    }
}
