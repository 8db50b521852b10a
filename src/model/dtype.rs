//! ONNX's element types: names, widths, and how they meet the number formats.

use super::DataType;
use crate::number::{Format, Minifloat, Storage, packed_len};

/// The name users know: `float32`, `uint8`, `float8e4m3fn`, `int4`.
pub fn name_of(dtype: DataType) -> &'static str {
    match dtype {
        DataType::Undefined => "undefined",
        DataType::Float => "float32",
        DataType::Float16 => "float16",
        DataType::Bfloat16 => "bfloat16",
        DataType::Double => "float64",
        DataType::Float8e4m3fn => "float8e4m3fn",
        DataType::Float8e4m3fnuz => "float8e4m3fnuz",
        DataType::Float8e5m2 => "float8e5m2",
        DataType::Float8e5m2fnuz => "float8e5m2fnuz",
        DataType::Float8e8m0 => "float8e8m0",
        DataType::Float6e2m3 => "float6e2m3",
        DataType::Float6e3m2 => "float6e3m2",
        DataType::Float4e2m1 => "float4e2m1",
        DataType::Int2 => "int2",
        DataType::Uint2 => "uint2",
        DataType::Int4 => "int4",
        DataType::Uint4 => "uint4",
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
    }
}

/// Bits of an element in `raw_data`, where types below a byte are packed as [`crate::number::pack_bits`] does; `None` for
/// strings, and for the type that is undefined.
pub fn bits(dtype: DataType) -> Option<u32> {
    Some(match dtype {
        DataType::Undefined | DataType::String => return None,
        DataType::Int2 | DataType::Uint2 => 2,
        DataType::Int4 | DataType::Uint4 | DataType::Float4e2m1 => 4,
        DataType::Float6e2m3 | DataType::Float6e3m2 => 6,
        DataType::Int8 | DataType::Uint8 | DataType::Bool => 8,
        DataType::Float8e4m3fn | DataType::Float8e4m3fnuz | DataType::Float8e5m2 | DataType::Float8e5m2fnuz => 8,
        DataType::Float8e8m0 => 8,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 16,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 32,
        DataType::Double | DataType::Int64 | DataType::Uint64 | DataType::Complex64 => 64,
        DataType::Complex128 => 128,
    })
}

/// Bytes of an element in `raw_data`; `None` for types packed below a byte and where [`bits`] has none.
pub fn width(dtype: DataType) -> Option<usize> {
    bits(dtype).filter(|b| b % 8 == 0).map(|b| b as usize / 8)
}

/// Bytes that so many elements take in `raw_data`; `None` where [`bits`] has none, and past the range of `usize`.
pub fn raw_len(dtype: DataType, elements: usize) -> Option<usize> {
    packed_len(bits(dtype)?, elements)
}

/// Whether the type is one of the floats that operators compute with: those of 16 bits and more.
pub fn is_float(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
}

/// The floating-point format of a type of at most 8 bits; `None` for every other type.
pub fn minifloat_of(dtype: DataType) -> Option<Minifloat> {
    Some(match dtype {
        DataType::Float8e4m3fn => Minifloat::E4M3FN,
        DataType::Float8e4m3fnuz => Minifloat::E4M3FNUZ,
        DataType::Float8e5m2 => Minifloat::E5M2,
        DataType::Float8e5m2fnuz => Minifloat::E5M2FNUZ,
        DataType::Float8e8m0 => Minifloat::E8M0,
        DataType::Float6e2m3 => Minifloat::E2M3,
        DataType::Float6e3m2 => Minifloat::E3M2,
        DataType::Float4e2m1 => Minifloat::E2M1,
        _ => return None,
    })
}

/// The element type that stores codes of this format.
pub fn of_format(format: Format) -> DataType {
    match format.storage {
        Storage::I2 => DataType::Int2,
        Storage::U2 => DataType::Uint2,
        Storage::I4 => DataType::Int4,
        Storage::U4 => DataType::Uint4,
        Storage::I8 => DataType::Int8,
        Storage::U8 => DataType::Uint8,
        Storage::I16 => DataType::Int16,
        Storage::U16 => DataType::Uint16,
        Storage::I32 => DataType::Int32,
        Storage::Float(float) => {
            let types = (0..64).filter_map(|i| DataType::try_from(i).ok());
            types.into_iter().find(|&d| minifloat_of(d) == Some(float)).unwrap_or_default()
        }
    }
}

/// The format whose codes this element type stores; `None` for every other type.
pub fn format_of(dtype: DataType) -> Option<Format> {
    Some(match dtype {
        DataType::Int2 => Format::INT2,
        DataType::Uint2 => Format::UINT2,
        DataType::Int4 => Format::INT4,
        DataType::Uint4 => Format::UINT4,
        DataType::Int8 => Format::INT8,
        DataType::Uint8 => Format::UINT8,
        DataType::Int16 => Format::INT16,
        DataType::Uint16 => Format::UINT16,
        DataType::Int32 => Format::INT32,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_formats_agree() {
        for format in Format::ALL.into_iter().filter(|f| f.bits == f.storage.bits()) {
            let dtype = of_format(format);
            assert_eq!(format_of(dtype), Some(format));
            assert_eq!((name_of(dtype), bits(dtype)), (format.name, Some(format.storage.bits())));
        }
        let types: Vec<DataType> = (0..64).filter_map(|i| DataType::try_from(i).ok()).collect();
        let floats: Vec<_> = types.iter().filter_map(|&d| Some((d, minifloat_of(d)?))).collect();
        assert_eq!(floats.len(), Minifloat::ALL.len());
        for (dtype, format) in floats {
            assert_eq!((name_of(dtype), bits(dtype)), (format.name, Some(format.bits())));
        }
        for dtype in types {
            // Where a name has digits, the first are the bits.
            let name = name_of(dtype);
            assert_eq!(name, name.to_lowercase());
            let digits: String = name.chars().skip_while(|c| !c.is_numeric()).take_while(|c| c.is_numeric()).collect();
            assert!(digits.is_empty() || digits.parse().ok() == bits(dtype), "{name}");
        }
        assert_eq!(raw_len(DataType::Int4, 3), Some(2));
        assert_eq!(raw_len(DataType::Double, usize::MAX), None);
        assert_eq!(raw_len(DataType::String, 1), None);
    }
}
