//! What a model takes: its inputs without the initializers that older IR versions list among them.

use super::{DataType, Graph, ValueInfoProto, dtype_name, hold_axes};
use crate::error::{Error, ErrorKind, Place, Result, listed};
use crate::proto::{tensor_shape_proto::dimension, type_proto};

/// One dimension of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Always this size.
    Fixed(usize),
    /// Any size; equal symbols stand for equal sizes. Dimensions without a name have an empty symbol.
    Symbol(String),
}

/// Name, type and shape of an input.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSpec {
    /// The name.
    pub name: String,
    /// The element type.
    pub dtype: DataType,
    /// The dimensions; `None` where the model leaves even their number open.
    pub shape: Option<Vec<Dim>>,
}

impl InputSpec {
    /// What a value_info says. Errors for types that are no dense tensor, and for more than 64 axes.
    pub fn of(info: &ValueInfoProto) -> Result<InputSpec> {
        let name = info.name().to_owned();
        let Some(type_proto::Value::TensorType(t)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
            let what = format!("the value `{name}` is not a tensor");
            return Err(Error::new(ErrorKind::Unsupported, what)
                .hint("only models whose inputs and outputs are dense tensors can be run"));
        };
        let dtype = DataType::try_from(t.elem_type()).unwrap_or(DataType::Undefined);
        hold_axes(t.shape.as_ref().map_or(0, |s| s.dim.len())).at(|| format!("value `{name}`"))?;
        let shape = t.shape.as_ref().map(|s| {
            s.dim
                .iter()
                .map(|d| match &d.value {
                    Some(dimension::Value::DimValue(n)) if *n > 0 => Dim::Fixed(*n as usize),
                    Some(dimension::Value::DimParam(s)) => Dim::Symbol(s.clone()),
                    _ => Dim::Symbol(String::new()),
                })
                .collect()
        });
        Ok(InputSpec { name, dtype, shape })
    }

    /// The inputs of a graph that are not initializers, in their order. Errors as [`InputSpec::of`].
    pub fn all(graph: &Graph) -> Result<Vec<InputSpec>> {
        graph.inputs().iter().filter(|v| !graph.is_constant(v.name())).map(InputSpec::of).collect()
    }
}

impl std::fmt::Display for InputSpec {
    /// `input: float32 [batch, 3, 224, 224]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, dtype_name(self.dtype))?;
        let Some(shape) = &self.shape else { return write!(f, " of any shape") };
        let dims: Vec<String> = shape
            .iter()
            .map(|d| match d {
                Dim::Fixed(n) => n.to_string(),
                Dim::Symbol(s) if s.is_empty() => "?".to_owned(),
                Dim::Symbol(s) => s.clone(),
            })
            .collect();
        write!(f, " {}", listed(&dims))
    }
}
