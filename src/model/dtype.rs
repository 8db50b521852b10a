//! ONNX's element types: names, widths, and how they meet the number formats.

use super::DataType;
use crate::number::{Format, Storage};

/// The name users know: `float32`, `uint8`.
pub fn name_of(dtype: DataType) -> &'static str {
    match dtype {
        DataType::Float => "float32",
        DataType::Float16 => "float16",
        DataType::Bfloat16 => "bfloat16",
        DataType::Double => "float64",
        DataType::Int8 => "int8",
        DataType::Uint8 => "uint8",
        DataType::Int16 => "int16",
        DataType::Uint16 => "uint16",
        DataType::Int32 => "int32",
        DataType::Uint32 => "uint32",
        DataType::Int64 => "int64",
        DataType::Uint64 => "uint64",
        DataType::Bool => "bool",
        DataType::String => "string",
        DataType::Complex64 => "complex64",
        DataType::Complex128 => "complex128",
        other => other.as_str_name(),
    }
}

/// Bytes of an element in `raw_data`; `None` for strings and for types packed below a byte.
pub fn width(dtype: DataType) -> Option<usize> {
    Some(match dtype {
        DataType::Int8 | DataType::Uint8 | DataType::Bool => 1,
        DataType::Float8e4m3fn | DataType::Float8e4m3fnuz | DataType::Float8e5m2 | DataType::Float8e5m2fnuz => 1,
        DataType::Float8e8m0 => 1,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Double | DataType::Int64 | DataType::Uint64 | DataType::Complex64 => 8,
        DataType::Complex128 => 16,
        _ => return None,
    })
}

/// The element type that stores codes of this format.
pub fn of_format(format: Format) -> DataType {
    match format.storage {
        Storage::I8 => DataType::Int8,
        Storage::U8 => DataType::Uint8,
        Storage::I16 => DataType::Int16,
        Storage::U16 => DataType::Uint16,
        Storage::I32 => DataType::Int32,
    }
}

/// The format whose codes this element type stores; `None` for every other type.
pub fn format_of(dtype: DataType) -> Option<Format> {
    Some(match dtype {
        DataType::Int8 => Format::INT8,
        DataType::Uint8 => Format::UINT8,
        DataType::Int16 => Format::INT16,
        DataType::Uint16 => Format::UINT16,
        DataType::Int32 => Format::INT32,
        _ => return None,
    })
}
