//! The types of values, as operators' schemas state them.

use std::fmt;

use crate::proto::tensor_proto::DataType;
use crate::proto::{TypeProto, type_proto};

/// The type of a value without its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// A tensor.
    Tensor(DataType),
    /// A sequence of tensors.
    Sequence(DataType),
    /// A tensor or nothing.
    Optional(DataType),
    /// A sequence of tensors or nothing.
    OptionalSequence(DataType),
    /// A map, keys and values.
    Map(DataType, DataType),
    /// A sequence of maps.
    Maps(DataType, DataType),
}

use ValueType::{Map, Maps, Optional, OptionalSequence, Sequence, Tensor};

impl ValueType {
    /// The type a message states; `None` where it leaves something open, and for types that no operator takes.
    pub fn of(message: &TypeProto) -> Option<ValueType> {
        use type_proto::Value;
        match message.value.as_ref()? {
            Value::TensorType(t) => dtype(t.elem_type()).map(Tensor),
            Value::SequenceType(s) => match Self::of_plain(s.elem_type.as_deref()?)? {
                Tensor(d) => Some(Sequence(d)),
                Map(k, v) => Some(Maps(k, v)),
                _ => None,
            },
            Value::OptionalType(o) => match o.elem_type.as_deref()?.value.as_ref()? {
                Value::TensorType(t) => dtype(t.elem_type()).map(Optional),
                Value::SequenceType(s) => match Self::of_plain(s.elem_type.as_deref()?)? {
                    Tensor(d) => Some(OptionalSequence(d)),
                    _ => None,
                },
                _ => None,
            },
            _ => Self::of_plain(message),
        }
    }

    /// A tensor or a map of tensors.
    fn of_plain(message: &TypeProto) -> Option<ValueType> {
        match message.value.as_ref()? {
            type_proto::Value::TensorType(t) => dtype(t.elem_type()).map(Tensor),
            type_proto::Value::MapType(m) => match Self::of(m.value_type.as_deref().filter(|v| is_tensor(v))?)? {
                Tensor(v) => Some(Map(dtype(m.key_type())?, v)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The type that ONNX writes so: `tensor(float)`.
    pub(super) fn parse(text: &str) -> Option<ValueType> {
        named(text.strip_prefix("tensor(")?.strip_suffix(')')?).map(Tensor)
    }
}

fn is_tensor(message: &TypeProto) -> bool {
    matches!(message.value, Some(type_proto::Value::TensorType(_)))
}

/// The element type of that number; `None` for the undefined and unknown ones.
fn dtype(number: i32) -> Option<DataType> {
    DataType::try_from(number).ok().filter(|&d| d != DataType::Undefined)
}

/// The element type that ONNX writes so: `float`, `int8`.
fn named(name: &str) -> Option<DataType> {
    DataType::from_str_name(&name.to_uppercase())
}

impl fmt::Display for ValueType {
    /// As ONNX writes it: `seq(tensor(float))`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |d: DataType| d.as_str_name().to_lowercase();
        match *self {
            Tensor(d) => write!(f, "tensor({})", name(d)),
            Sequence(d) => write!(f, "seq(tensor({}))", name(d)),
            Optional(d) => write!(f, "optional(tensor({}))", name(d)),
            OptionalSequence(d) => write!(f, "optional(seq(tensor({})))", name(d)),
            Map(k, v) => write!(f, "map({}, tensor({}))", name(k), name(v)),
            Maps(k, v) => write!(f, "seq(map({}, tensor({})))", name(k), name(v)),
        }
    }
}

/// A set of types.
#[derive(Debug, Default)]
pub struct TypeSet(Vec<ValueType>);

impl TypeSet {
    /// Reads a set as the table writes it: `seq: double float | tensor: float`.
    pub(super) fn parse(text: &str) -> TypeSet {
        let mut types = Vec::new();
        for (kind, elements) in text.split('|').filter_map(|part| part.split_once(':')) {
            types.extend(elements.split_whitespace().filter_map(|e| element(kind.trim(), e)));
        }
        TypeSet(types)
    }

    /// Whether the type is in it.
    pub fn has(&self, value: ValueType) -> bool {
        self.0.contains(&value)
    }

    /// Whether no type is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a tensor is in it.
    pub fn has_tensors(&self) -> bool {
        self.0.iter().any(|t| matches!(t, Tensor(_)))
    }

    /// The only type in it.
    pub fn only(&self) -> Option<ValueType> {
        match self.0[..] {
            [only] => Some(only),
            _ => None,
        }
    }
}

fn element(kind: &str, text: &str) -> Option<ValueType> {
    let pair = |text: &str| text.split_once(',').and_then(|(k, v)| Some((named(k)?, named(v)?)));
    Some(match kind {
        "tensor" => Tensor(named(text)?),
        "seq" => Sequence(named(text)?),
        "optional" => Optional(named(text)?),
        "optional seq" => OptionalSequence(named(text)?),
        "map" => pair(text).map(|(k, v)| Map(k, v))?,
        "seq map" => pair(text).map(|(k, v)| Maps(k, v))?,
        _ => return None,
    })
}

impl fmt::Display for TypeSet {
    /// `tensor(double), tensor(float)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.0.iter().enumerate() {
            write!(f, "{}{t}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(d: DataType) -> TypeProto {
        let t = type_proto::Tensor { elem_type: Some(d as i32), ..Default::default() };
        TypeProto { value: Some(type_proto::Value::TensorType(t)), ..Default::default() }
    }

    #[test]
    fn messages_and_sets_speak_of_the_same_types() {
        let sequence = |inner: TypeProto| TypeProto {
            value: Some(type_proto::Value::SequenceType(Box::new(type_proto::Sequence {
                elem_type: Some(Box::new(inner)),
            }))),
            ..Default::default()
        };
        let map = |inner: TypeProto| TypeProto {
            value: Some(type_proto::Value::MapType(Box::new(type_proto::Map {
                key_type: Some(DataType::String as i32),
                value_type: Some(Box::new(inner)),
            }))),
            ..Default::default()
        };
        let optional = |inner: TypeProto| TypeProto {
            value: Some(type_proto::Value::OptionalType(Box::new(type_proto::Optional {
                elem_type: Some(Box::new(inner)),
            }))),
            ..Default::default()
        };
        let float = || tensor(DataType::Float);
        let set = TypeSet::parse(
            "tensor: float | seq: float | optional: float | optional seq: float | map: string,float | seq map: string,float",
        );
        let written = [
            (float(), "tensor(float)"),
            (sequence(float()), "seq(tensor(float))"),
            (optional(float()), "optional(tensor(float))"),
            (optional(sequence(float())), "optional(seq(tensor(float)))"),
            (map(float()), "map(string, tensor(float))"),
            (sequence(map(float())), "seq(map(string, tensor(float)))"),
        ];
        for (message, text) in written {
            let t = ValueType::of(&message).unwrap();
            assert!(set.has(t) && t.to_string() == text, "{text}: {t}");
        }
        assert_eq!(ValueType::parse("tensor(int64)"), Some(Tensor(DataType::Int64)));
        for open in [tensor(DataType::Undefined), TypeProto::default(), sequence(sequence(float())), map(map(float()))]
        {
            assert_eq!(ValueType::of(&open), None);
        }
    }
}
