//! Which values hold what, without running anything.

use std::collections::HashMap;

use crate::integer::code_type;
use crate::model::{DataType, Graph, NodeExt, NodeProto};
use crate::schema::{self, Kind, ValueType};

/// The element types of a graph's values inside graphs whose types are known: as the file states them, or else as the
/// operators' newest definitions tell. Values of which neither tells are left out.
pub(crate) fn element_types(graph: &Graph, around: &HashMap<String, DataType>) -> HashMap<String, DataType> {
    let mut types = around.clone();
    let named = graph.inputs().iter().map(|v| v.name()).chain(graph.captured_values());
    for name in named {
        types.extend(graph.stated_dtype(name).map(|t| (name.to_owned(), t)));
    }
    for (_, node) in graph.nodes() {
        for (place, output) in node.output.iter().enumerate().filter(|(_, o)| !o.is_empty()) {
            let told = graph.stated_dtype(output).filter(|&t| t != DataType::Undefined);
            let known = |name: &str| types.get(name).copied().or_else(|| graph.stated_dtype(name));
            let told = told.or_else(|| output_type(node, place, &known)).or_else(|| code_type(graph, output));
            types.extend(told.map(|t| (output.clone(), t)));
        }
    }
    types
}

/// The element type of an output, by the types of the inputs.
fn output_type(node: &NodeProto, place: usize, known: &dyn Fn(&str) -> Option<DataType>) -> Option<DataType> {
    if node.is("Cast") {
        return DataType::try_from(i32::try_from(node.int("to")?).ok()?).ok();
    }
    if node.is("ConstantOfShape") {
        let filled = node.tensor("value").map_or(Some(DataType::Float), |t| DataType::try_from(t.data_type()).ok());
        return filled;
    }
    let version = schema::domain(node.domain())?.operator(node.op_type())?.versions.last()?;
    let tensor = |t: ValueType| match t {
        ValueType::Tensor(dtype) => Some(dtype),
        _ => None,
    };
    match schema::parameter(&version.outputs, place)?.kind {
        Kind::Is(t) => tensor(t),
        Kind::Any => None,
        Kind::Variable(variable) => {
            let same = |slot: &usize| {
                schema::parameter(&version.inputs, *slot).is_some_and(|p| p.kind == Kind::Variable(variable))
            };
            let read = (0..node.input.len()).filter(same).find_map(|slot| known(node.input_at(slot)?));
            read.or_else(|| tensor(version.types(variable)?.1.only()?))
        }
    }
}
