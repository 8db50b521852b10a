//! The numbers in float tensors: whether they are finite.

use bytes::Bytes;
use rayon::prelude::*;

use super::{Checker, Place, rules};
use crate::model::{DataType, TensorProto, release};

/// A float tensor that is to be read.
pub(super) struct Numbers<'m> {
    pub place: String,
    pub tensor: &'m TensorProto,
    pub dtype: DataType,
    /// The data, where they are raw.
    pub bytes: Option<Bytes>,
}

/// Whether elements of this type may be NaN or infinite.
pub(super) fn is_read(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16)
}

/// How many elements are not finite.
#[derive(Clone, Copy, Default)]
struct Count {
    nan: u64,
    infinite: u64,
}

impl std::ops::Add for Count {
    type Output = Count;

    fn add(self, other: Count) -> Count {
        Count { nan: self.nan + other.nan, infinite: self.infinite + other.infinite }
    }
}

/// Bytes that one thread reads at a time; a multiple of every width.
const PIECE: usize = 1 << 20;

impl Checker<'_> {
    /// Reads the float tensors that were noted, and tells of those that are not finite.
    pub(super) fn values(&mut self) {
        let tensors = std::mem::take(&mut self.values);
        let counts: Vec<Count> = tensors.par_iter().map(count).collect();
        for (t, count) in tensors.iter().zip(counts) {
            let mut parts = Vec::new();
            for (n, what) in [(count.nan, "NaN"), (count.infinite, "infinite")] {
                if n > 0 {
                    parts.push(format!("{n} {what}"));
                }
            }
            if !parts.is_empty() {
                let why = format!("of the elements of the tensor are {}", parts.join(" and "));
                self.add(&rules::NOT_FINITE, &Place::new(&t.place), why);
            }
        }
    }
}

fn count(t: &Numbers<'_>) -> Count {
    let Some(bytes) = t.bytes.as_ref().filter(|b| !b.is_empty()) else {
        let of = |nan: bool, infinite: bool| Count { nan: nan.into(), infinite: infinite.into() };
        let sum = |all: Count, one: Count| all + one;
        let t16 = |limit: u16| {
            let bits = t.tensor.int32_data.par_iter().map(|&x| x as u16 & 0x7fff);
            bits.map(|b| of(b > limit, b == limit)).reduce(Count::default, sum)
        };
        return match t.dtype {
            DataType::Float => {
                let all = t.tensor.float_data.par_iter();
                all.map(|x| of(x.is_nan(), x.is_infinite())).reduce(Count::default, sum)
            }
            DataType::Double => {
                let all = t.tensor.double_data.par_iter();
                all.map(|x| of(x.is_nan(), x.is_infinite())).reduce(Count::default, sum)
            }
            DataType::Float16 => t16(0x7c00),
            _ => t16(0x7f80),
        };
    };
    let piece = |piece: &[u8]| {
        let count = match t.dtype {
            DataType::Float => in_bits(piece.as_chunks().0, |b| u32::from_le_bytes(b) & 0x7fff_ffff, 0x7f80_0000),
            DataType::Double => {
                in_bits(piece.as_chunks().0, |b| u64::from_le_bytes(b) & (u64::MAX >> 1), 0x7ff0_0000_0000_0000)
            }
            DataType::Float16 => in_bits(piece.as_chunks().0, |b| u16::from_le_bytes(b) & 0x7fff, 0x7c00),
            _ => in_bits(piece.as_chunks().0, |b| u16::from_le_bytes(b) & 0x7fff, 0x7f80),
        };
        release(piece);
        count
    };
    bytes.par_chunks(PIECE).map(piece).reduce(Count::default, |a, b| a + b)
}

/// Counts the magnitudes, as bits, that are above infinity, and those that are infinity.
fn in_bits<T: Copy, U: PartialOrd + Copy>(all: &[T], magnitude: impl Fn(T) -> U, infinity: U) -> Count {
    // Most tensors are finite throughout, which one comparison tells.
    let odd = all.iter().filter(|&&x| magnitude(x) >= infinity).count() as u64;
    if odd == 0 {
        return Count::default();
    }
    let infinite = all.iter().filter(|&&x| magnitude(x) == infinity).count() as u64;
    Count { nan: odd - infinite, infinite }
}
