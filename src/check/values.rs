//! The numbers in float tensors: whether they are finite.

use std::collections::HashMap;

use bytes::Bytes;
use rayon::prelude::*;

use super::{Checker, Place, rules, shown};
use crate::model::{DataType, External, TensorProto, release};

/// A float tensor that is to be read: a large one, or one whose data are in another file.
pub(super) struct Numbers<'m> {
    place: String,
    tensor: &'m TensorProto,
    dtype: DataType,
    bytes: Option<Bytes>,
}

/// Whether elements of this type may be NaN or infinite.
fn is_read(dtype: DataType) -> bool {
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

/// Bytes that one thread reads at a time; a multiple of every width. Smaller tensors are read where they are met.
const PIECE: usize = 1 << 18;

impl<'m> Checker<'m> {
    /// Reads a sound tensor if it is small, or notes it to be read later; `bytes` are its raw data.
    pub(super) fn finite(&mut self, tensor: &'m TensorProto, dtype: DataType, bytes: Option<Bytes>, place: &Place<'_>) {
        if !is_read(dtype) {
            return;
        }
        let typed = tensor.float_data.len().max(tensor.double_data.len()).max(tensor.int32_data.len());
        let large = bytes.as_ref().map_or(0, Bytes::len).max(typed) >= PIECE;
        if large || External::holds(tensor) {
            self.values.push(Numbers { place: shown(&place.to_string()), tensor, dtype, bytes });
        } else {
            self.tell(count(tensor, dtype, bytes.as_ref()), place);
        }
    }

    /// Reads the tensors that were noted: a part of a file that several of them are once, and none of those in other
    /// files where parts overlap, which is told elsewhere.
    pub(super) fn values(&mut self) {
        let mut tensors = std::mem::take(&mut self.values);
        if self.overlaps() {
            tensors.retain(|t| !External::holds(t.tensor));
        }
        let mut first = HashMap::new();
        let part = |t: &Numbers<'_>| t.bytes.as_ref().map(|b| (b.as_ptr() as usize, b.len(), t.dtype as i32));
        let same: Vec<usize> =
            tensors.iter().enumerate().map(|(i, t)| part(t).map_or(i, |p| *first.entry(p).or_insert(i))).collect();
        let read = |(i, t): (usize, &Numbers<'_>)| match same[i] == i {
            true => count(t.tensor, t.dtype, t.bytes.as_ref()),
            false => Count::default(),
        };
        let counts: Vec<Count> = tensors.par_iter().enumerate().map(read).collect();
        for (t, same) in tensors.iter().zip(same) {
            self.tell(counts[same], &Place::new(&t.place));
        }
    }

    fn tell(&mut self, count: Count, place: &Place<'_>) {
        let parts = [(count.nan, "NaN"), (count.infinite, "infinite")].into_iter().filter(|(n, _)| *n > 0);
        let parts: Vec<String> = parts.map(|(n, what)| format!("{n} {what}")).collect();
        if !parts.is_empty() {
            let why = format!("of the elements of the tensor are {}", parts.join(" and "));
            self.add(&rules::NOT_FINITE, place, why);
        }
    }
}

fn count(t: &TensorProto, dtype: DataType, bytes: Option<&Bytes>) -> Count {
    let Some(bytes) = bytes.filter(|b| !b.is_empty()) else {
        let of = |nan: bool, infinite: bool| Count { nan: nan.into(), infinite: infinite.into() };
        let sum = |all: Count, one: Count| all + one;
        let t16 = |limit: u16| {
            let bits = t.int32_data.par_iter().map(|&x| x as u16 & 0x7fff);
            bits.map(|b| of(b > limit, b == limit)).reduce(Count::default, sum)
        };
        return match dtype {
            DataType::Float => {
                let all = t.float_data.par_iter();
                all.map(|x| of(x.is_nan(), x.is_infinite())).reduce(Count::default, sum)
            }
            DataType::Double => {
                let all = t.double_data.par_iter();
                all.map(|x| of(x.is_nan(), x.is_infinite())).reduce(Count::default, sum)
            }
            DataType::Float16 => t16(0x7c00),
            _ => t16(0x7f80),
        };
    };
    let piece = |piece: &[u8]| {
        let count = match dtype {
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
