//! The number formats, as a table.

use super::{Levels, Minifloat};
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
    /// The bits of a floating-point number, packed where they are fewer than 8.
    Float(Minifloat),
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
            Storage::Float(float) => float.bits(),
        }
    }
}

/// A number format: which codes there are, what they stand for before the scale, and how they are stored.
///
/// Codes of a linear format stand for whole numbers. Codes of other formats count the numbers of an ascending table from 0
/// on, and have no zero point.
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
    /// What the codes stand for.
    pub levels: Levels,
}

/// A linear format of so many bits.
const fn linear(name: &'static str, bits: u32, signed: bool, storage: Storage, opset: i64) -> Format {
    let (min, max) = match signed {
        true => (-1 << (bits - 1), ((1u32 << (bits - 1)) - 1) as i32),
        false => (0, (1 << bits) - 1),
    };
    Format { name, bits, min, max, storage, opset, levels: Levels::Linear }
}

/// A format of so many numbers in a table.
const fn table(name: &'static str, bits: u32, count: i32, storage: Storage, opset: i64, levels: Levels) -> Format {
    Format { name, bits, min: 0, max: count - 1, storage, opset, levels }
}

/// The narrowest type for places in a table of so many bits, and its opset.
const fn places(bits: u32) -> (Storage, i64) {
    match bits {
        0..=2 => (Storage::U2, 25),
        3..=4 => (Storage::U4, 21),
        _ => (Storage::U8, 13),
    }
}

/// A floating-point format, of which so many numbers are finite and differ.
const fn float(float: Minifloat, count: i32, opset: i64) -> Format {
    let bits = float.exponent + float.mantissa + float.signed as u32;
    table(float.name, bits, count, Storage::Float(float), opset, Levels::Float(float))
}

impl Format {
    /// Signed 2 bits.
    pub const INT2: Format = linear("int2", 2, true, Storage::I2, 25);
    /// Unsigned 2 bits.
    pub const UINT2: Format = linear("uint2", 2, false, Storage::U2, 25);
    /// Signed 3 bits, in a byte each: no element type of ONNX has 3.
    pub const INT3: Format = linear("int3", 3, true, Storage::I8, 10);
    /// Unsigned 3 bits, in a byte each.
    pub const UINT3: Format = linear("uint3", 3, false, Storage::U8, 10);
    /// Signed 4 bits.
    pub const INT4: Format = linear("int4", 4, true, Storage::I4, 21);
    /// Unsigned 4 bits.
    pub const UINT4: Format = linear("uint4", 4, false, Storage::U4, 21);
    /// Signed 5 bits, in a byte each.
    pub const INT5: Format = linear("int5", 5, true, Storage::I8, 10);
    /// Unsigned 5 bits, in a byte each.
    pub const UINT5: Format = linear("uint5", 5, false, Storage::U8, 10);
    /// Signed 6 bits, in a byte each.
    pub const INT6: Format = linear("int6", 6, true, Storage::I8, 10);
    /// Unsigned 6 bits, in a byte each.
    pub const UINT6: Format = linear("uint6", 6, false, Storage::U8, 10);
    /// Signed 7 bits, in a byte each: two products with codes of uint8 fit 16 bits, where a sum of two is saturated.
    pub const INT7: Format = linear("int7", 7, true, Storage::I8, 10);
    /// Unsigned 7 bits, in a byte each.
    pub const UINT7: Format = linear("uint7", 7, false, Storage::U8, 10);
    /// Signed 8 bits.
    pub const INT8: Format = linear("int8", 8, true, Storage::I8, 10);
    /// Unsigned 8 bits.
    pub const UINT8: Format = linear("uint8", 8, false, Storage::U8, 10);
    /// Signed 16 bits.
    pub const INT16: Format = linear("int16", 16, true, Storage::I16, 21);
    /// Unsigned 16 bits.
    pub const UINT16: Format = linear("uint16", 16, false, Storage::U16, 21);
    /// Signed 32 bits: biases. DequantizeLinear only, with a zero point of 0.
    pub const INT32: Format = linear("int32", 32, true, Storage::I32, 10);

    /// FP8 with the larger mantissa; 448 is the largest number.
    pub const E4M3FN: Format = float(Minifloat::E4M3FN, 253, 19);
    /// FP8 without negative zero; 240 is the largest number.
    pub const E4M3FNUZ: Format = float(Minifloat::E4M3FNUZ, 255, 19);
    /// FP8 with the larger exponent; 57344 is the largest number.
    pub const E5M2: Format = float(Minifloat::E5M2, 247, 19);
    /// FP8 with the larger exponent, without negative zero; 57344 is the largest number.
    pub const E5M2FNUZ: Format = float(Minifloat::E5M2FNUZ, 255, 19);
    /// FP6, a place in a table in a byte each: no DequantizeLinear reads the element type.
    pub const E2M3: Format = table("float6e2m3", 6, 63, Storage::U8, 13, Levels::Float(Minifloat::E2M3));
    /// FP6 with the larger exponent, as the other.
    pub const E3M2: Format = table("float6e3m2", 6, 63, Storage::U8, 13, Levels::Float(Minifloat::E3M2));
    /// FP4: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and their negatives.
    pub const E2M1: Format = float(Minifloat::E2M1, 15, 23);
    /// NF4: quantiles of a normal distribution.
    pub const NF4: Format = table("nf4", 4, 16, Storage::U4, 21, Levels::NormalFloat);
    /// -1, 0 and 1.
    pub const TERNARY: Format = table("ternary", 2, 3, Storage::I2, 25, Levels::Ternary);
    /// -1 and 1.
    pub const BINARY: Format = table("binary", 1, 2, Storage::I2, 25, Levels::Binary);
    /// Zero and a number on each side of it.
    pub const TTQ: Format = table("ttq", 2, 3, Storage::U2, 25, Levels::TwoScales);

    /// Every format whose codes are places in a table, in the order they are listed to users.
    pub const TABLES: [Format; 24] = [
        Format::E4M3FN,
        Format::E4M3FNUZ,
        Format::E5M2,
        Format::E5M2FNUZ,
        Format::E2M3,
        Format::E3M2,
        Format::E2M1,
        Format::NF4,
        Format::powers("pow2-3", 3, false),
        Format::powers("pow2-4", 4, false),
        Format::powers("pow2-5", 5, false),
        Format::powers("sqrt2-4", 4, true),
        Format::powers("sqrt2-5", 5, true),
        Format::powers("sqrt2-6", 6, true),
        Format::TERNARY,
        Format::BINARY,
        Format::TTQ,
        Format::means("kmeans2", 2),
        Format::means("kmeans3", 3),
        Format::means("kmeans4", 4),
        Format::means("kmeans5", 5),
        Format::means("kmeans6", 6),
        Format::means("kmeans7", 7),
        Format::means("kmeans8", 8),
    ];

    /// Zero and powers of two, or of its root: what activations may be, besides weights.
    pub const POWERS: [Format; 6] = [
        Format::TABLES[8],
        Format::TABLES[9],
        Format::TABLES[10],
        Format::TABLES[11],
        Format::TABLES[12],
        Format::TABLES[13],
    ];

    /// Every linear format, in the order they are listed to users.
    pub const ALL: [Format; 17] = [
        Format::INT2,
        Format::UINT2,
        Format::INT3,
        Format::UINT3,
        Format::INT4,
        Format::UINT4,
        Format::INT5,
        Format::UINT5,
        Format::INT6,
        Format::UINT6,
        Format::INT7,
        Format::UINT7,
        Format::INT8,
        Format::UINT8,
        Format::INT16,
        Format::UINT16,
        Format::INT32,
    ];

    /// The format of that name.
    pub fn by_name(name: &str) -> Option<Format> {
        Self::ALL.into_iter().chain(Self::TABLES).find(|f| f.name == name)
    }

    const fn powers(name: &'static str, bits: u32, half: bool) -> Format {
        let (storage, opset) = places(bits);
        table(name, bits, (1 << bits) - 1, storage, opset, Levels::Powers { half })
    }

    const fn means(name: &'static str, bits: u32) -> Format {
        let (storage, opset) = places(bits);
        table(name, bits, 1 << bits, storage, opset, Levels::Means)
    }

    /// The format of the numbers of a floating-point format; `None` for scales, E8M0.
    pub fn of_float(float: Minifloat) -> Option<Format> {
        Self::TABLES.into_iter().find(|f| f.levels == Levels::Float(float))
    }

    /// The same codes of a linear format in a byte each, for runtimes that do not know the element type.
    pub fn widened(self) -> Format {
        match (self.bits < 8 && self.levels == Levels::Linear, self.signed()) {
            (true, true) => Format { storage: Storage::I8, opset: Format::INT8.opset, ..self },
            (true, false) => Format { storage: Storage::U8, opset: Format::UINT8.opset, ..self },
            (false, _) => self,
        }
    }

    /// Whether no element type holds its numbers: codes are places in a table, and numbers are looked up.
    pub fn is_looked_up(self) -> bool {
        self.levels.is_table() && !matches!(self.storage, Storage::Float(_))
    }

    /// Whether codes stand for numbers on both sides of zero without a zero point.
    pub fn signed(self) -> bool {
        self.min < 0 || self.levels.is_table()
    }

    /// The zero point when the scheme is symmetric: 0, or the middle of an unsigned format.
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
