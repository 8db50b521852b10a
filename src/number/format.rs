//! The number formats, as a table.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The integer type that holds the codes of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Signed, 2 bits, four codes a byte.
    I2,
    /// Unsigned, 2 bits, four codes a byte.
    U2,
    /// Signed, 4 bits, two codes a byte.
    I4,
    /// Unsigned, 4 bits, two codes a byte.
    U4,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 32 bits.
    I32,
}

impl Storage {
    /// Bits a code takes.
    pub fn bits(self) -> u32 {
        match self {
            Storage::I2 | Storage::U2 => 2,
            Storage::I4 | Storage::U4 => 4,
            Storage::I8 | Storage::U8 => 8,
            Storage::I16 | Storage::U16 => 16,
            Storage::I32 => 32,
        }
    }
}

/// A linear integer format: which codes there are, and how they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    /// The name users write, `int8`.
    pub name: &'static str,
    /// Bits of a code.
    pub bits: u32,
    /// The smallest code.
    pub min: i32,
    /// The largest code.
    pub max: i32,
    /// The type the codes are stored in.
    pub storage: Storage,
    /// The first `ai.onnx` opset whose QuantizeLinear and DequantizeLinear know the format.
    pub opset: i64,
}

impl Format {
    /// Signed 2 bits.
    pub const INT2: Format = Format { name: "int2", bits: 2, min: -2, max: 1, storage: Storage::I2, opset: 25 };
    /// Unsigned 2 bits.
    pub const UINT2: Format = Format { name: "uint2", bits: 2, min: 0, max: 3, storage: Storage::U2, opset: 25 };
    /// Signed 3 bits, in a byte each: no element type of ONNX has 3.
    pub const INT3: Format = Format { name: "int3", bits: 3, min: -4, max: 3, storage: Storage::I8, opset: 10 };
    /// Unsigned 3 bits, in a byte each.
    pub const UINT3: Format = Format { name: "uint3", bits: 3, min: 0, max: 7, storage: Storage::U8, opset: 10 };
    /// Signed 4 bits.
    pub const INT4: Format = Format { name: "int4", bits: 4, min: -8, max: 7, storage: Storage::I4, opset: 21 };
    /// Unsigned 4 bits.
    pub const UINT4: Format = Format { name: "uint4", bits: 4, min: 0, max: 15, storage: Storage::U4, opset: 21 };
    /// Signed 7 bits, in a byte each: two products with codes of uint8 fit 16 bits, where a sum of two is saturated.
    pub const INT7: Format = Format { name: "int7", bits: 7, min: -64, max: 63, storage: Storage::I8, opset: 10 };
    /// Signed 8 bits.
    pub const INT8: Format = Format { name: "int8", bits: 8, min: -128, max: 127, storage: Storage::I8, opset: 10 };
    /// Unsigned 8 bits.
    pub const UINT8: Format = Format { name: "uint8", bits: 8, min: 0, max: 255, storage: Storage::U8, opset: 10 };
    /// Signed 16 bits.
    pub const INT16: Format =
        Format { name: "int16", bits: 16, min: -32768, max: 32767, storage: Storage::I16, opset: 21 };
    /// Unsigned 16 bits.
    pub const UINT16: Format =
        Format { name: "uint16", bits: 16, min: 0, max: 65535, storage: Storage::U16, opset: 21 };
    /// Signed 32 bits: biases. DequantizeLinear only, with a zero point of 0.
    pub const INT32: Format =
        Format { name: "int32", bits: 32, min: i32::MIN, max: i32::MAX, storage: Storage::I32, opset: 10 };

    /// Every format, in the order they are listed to users.
    pub const ALL: [Format; 12] = [
        Format::INT2,
        Format::UINT2,
        Format::INT3,
        Format::UINT3,
        Format::INT4,
        Format::UINT4,
        Format::INT7,
        Format::INT8,
        Format::UINT8,
        Format::INT16,
        Format::UINT16,
        Format::INT32,
    ];

    /// The format of that name.
    pub fn by_name(name: &str) -> Option<Format> {
        Self::ALL.into_iter().find(|f| f.name == name)
    }

    /// The format whose codes are stored as `storage` in full width.
    pub fn by_storage(storage: Storage) -> Format {
        match storage {
            Storage::I2 => Format::INT2,
            Storage::U2 => Format::UINT2,
            Storage::I4 => Format::INT4,
            Storage::U4 => Format::UINT4,
            Storage::I8 => Format::INT8,
            Storage::U8 => Format::UINT8,
            Storage::I16 => Format::INT16,
            Storage::U16 => Format::UINT16,
            Storage::I32 => Format::INT32,
        }
    }

    /// The same codes in a byte each, for runtimes that do not know the element type.
    pub fn widened(self) -> Format {
        match (self.bits < 8, self.signed()) {
            (true, true) => Format { storage: Storage::I8, opset: Format::INT8.opset, ..self },
            (true, false) => Format { storage: Storage::U8, opset: Format::UINT8.opset, ..self },
            (false, _) => self,
        }
    }

    /// Whether negative codes exist.
    pub fn signed(self) -> bool {
        self.min < 0
    }

    /// The code that stands for zero when the scheme is symmetric: 0, or the middle of an unsigned format.
    pub fn middle(self) -> i32 {
        if self.signed() { 0 } else { self.max / 2 + 1 }
    }
}

/// As its name.
impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

/// By its name.
impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Format, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = || Format::ALL.map(|f| f.name).join(", ");
        Format::by_name(&name)
            .ok_or_else(|| de::Error::custom(format!("`{name}` is no format; formats are {}", known())))
    }
}
