//! How a TensorProto holds its elements: as `raw_data`, or in the typed field of its element type.
//!
//! Source: onnx.proto of ONNX 1.23, message TensorProto; where that leaves something open (typed values out of the range
//! of a narrow type; two fields filled), `numpy_helper.to_array`, which keeps the low bits and takes `raw_data`.

use bytes::Bytes;

use super::{DataType, TensorProto, bits, dtype_name, raw_len};
use crate::error::{Error, ErrorKind, Place, Result, listed};
use crate::number::pack_bits;
use crate::proto::tensor_proto::DataLocation;

/// The repeated field that holds the elements of a type, if `raw_data` does not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Float,
    Int32,
    String,
    Int64,
    Double,
    Uint64,
}

impl Field {
    const ALL: [Field; 6] = [Field::Float, Field::Int32, Field::String, Field::Int64, Field::Double, Field::Uint64];

    fn of(dtype: DataType) -> Field {
        match dtype {
            DataType::Float | DataType::Complex64 => Field::Float,
            DataType::Double | DataType::Complex128 => Field::Double,
            DataType::Int64 => Field::Int64,
            DataType::Uint32 | DataType::Uint64 => Field::Uint64,
            DataType::String => Field::String,
            _ => Field::Int32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Field::Float => "float_data",
            Field::Int32 => "int32_data",
            Field::String => "string_data",
            Field::Int64 => "int64_data",
            Field::Double => "double_data",
            Field::Uint64 => "uint64_data",
        }
    }

    fn len(self, t: &TensorProto) -> usize {
        match self {
            Field::Float => t.float_data.len(),
            Field::Int32 => t.int32_data.len(),
            Field::String => t.string_data.len(),
            Field::Int64 => t.int64_data.len(),
            Field::Double => t.double_data.len(),
            Field::Uint64 => t.uint64_data.len(),
        }
    }
}

/// How many entries of its typed field so many elements take: complex numbers two each; types of 4 bits one for two
/// elements, those of 2 bits one for four.
fn entries(dtype: DataType, elements: usize) -> Option<usize> {
    match dtype {
        DataType::Complex64 | DataType::Complex128 => elements.checked_mul(2),
        _ => match bits(dtype) {
            Some(4) => Some(elements.div_ceil(2)),
            Some(2) => Some(elements.div_ceil(4)),
            _ => Some(elements),
        },
    }
}

fn malformed(message: String) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

/// Dimensions as sizes.
///
/// Errors when one is negative, and when their product is past every memory, zeros left out of it: then the product of
/// any of them can be computed.
pub fn sizes(dims: &[i64]) -> Result<Vec<usize>> {
    let size = |&d: &i64| usize::try_from(d).map_err(|_| malformed(format!("dimension {d} is negative")));
    let shape = dims.iter().map(size).collect::<Result<Vec<_>>>()?;
    let product = shape.iter().filter(|&&d| d > 0).try_fold(1usize, |n, &d| n.checked_mul(d));
    match product.filter(|&n| isize::try_from(n).is_ok()) {
        Some(_) => Ok(shape),
        None => Err(malformed(format!("the shape {} is past every memory", listed(dims)))),
    }
}

/// A tensor whose elements are known to fill its shape.
pub(super) struct Checked<'a> {
    pub dtype: DataType,
    pub shape: Vec<usize>,
    /// How many bytes its elements take as raw data; for strings, their bytes.
    pub bytes: usize,
    tensor: &'a TensorProto,
}

impl<'a> Checked<'a> {
    /// Looks at everything but the elements themselves.
    ///
    /// Where `raw_data` is filled, typed fields are not looked at. Errors, naming the tensor, when type or dimensions are
    /// impossible, when the data are in another file or field than the type's own, or are more or fewer than the shape
    /// takes.
    pub fn of(tensor: &'a TensorProto) -> Result<Checked<'a>> {
        Self::unnamed(tensor).at(|| format!("tensor `{}`", tensor.name()))
    }

    fn unnamed(t: &'a TensorProto) -> Result<Checked<'a>> {
        let dtype = DataType::try_from(t.data_type()).ok().filter(|&d| d != DataType::Undefined);
        let dtype = dtype.ok_or_else(|| malformed(format!("element type {} is unknown", t.data_type())))?;
        let shape = sizes(&t.dims)?;
        if t.data_location() == DataLocation::External {
            return Err(malformed("its data is in another file, which was not read".into()));
        }
        if t.segment.is_some() {
            let what = "it is a segment of a larger tensor, which is not supported";
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let own = Field::of(dtype);
        let raw = t.raw_data.as_ref().filter(|raw| !raw.is_empty() && own != Field::String);
        let elements: usize = shape.iter().product();
        if raw.is_none() && own.len(t) == 0 && elements > 0 {
            let stray = Field::ALL.into_iter().find(|f| f.len(t) > 0).map(Field::name);
            let stray = stray.or_else(|| t.raw_data.as_ref().filter(|raw| !raw.is_empty()).map(|_| "raw_data"));
            if let Some(stray) = stray {
                let (dtype, own) = (dtype_name(dtype), own.name());
                return Err(malformed(format!(
                    "its elements are in `{stray}`, and those of {dtype} belong in `{own}`"
                )));
            }
        }
        let misfit = |found: String| malformed(format!("{found} do not fill the shape {}", listed(&shape)));
        let name = dtype_name(dtype);
        let Some(bytes) = raw_len(dtype, elements).or((dtype == DataType::String).then_some(0)) else {
            return Err(malformed(format!("{name} of the shape {} is past every memory", listed(&shape))));
        };
        let bytes = match raw {
            Some(raw) if raw.len() != bytes => return Err(misfit(format!("{} bytes of {name}", raw.len()))),
            None if Some(own.len(t)) != entries(dtype, elements) => {
                return Err(match own.len(t) {
                    0 => misfit(format!("0 bytes of {name}")),
                    n => misfit(format!("{n} entries of `{}` with {name}", own.name())),
                });
            }
            None if dtype == DataType::String => t.string_data.iter().map(Vec::len).sum(),
            _ => bytes,
        };
        Ok(Checked { dtype, shape, bytes, tensor: t })
    }

    /// The elements as raw data: shared where they are, converted from a typed field where not. Errors on strings.
    pub fn raw(&self) -> Result<Bytes> {
        if self.dtype == DataType::String {
            let e = Error::new(ErrorKind::Unsupported, "it holds strings, not numbers");
            return Err(e.at(format!("tensor `{}`", self.tensor.name())));
        }
        match &self.tensor.raw_data {
            Some(raw) if raw.len() == self.bytes => Ok(raw.clone()),
            _ => Ok(self.typed()),
        }
    }

    fn typed(&self) -> Bytes {
        fn le<T: Copy, const N: usize>(x: &[T], f: impl Fn(T) -> [u8; N]) -> Bytes {
            x.iter().flat_map(|&x| f(x)).collect::<Vec<u8>>().into()
        }
        let t = self.tensor;
        match (Field::of(self.dtype), bits(self.dtype)) {
            (Field::Float, _) => le(&t.float_data, f32::to_le_bytes),
            (Field::Double, _) => le(&t.double_data, f64::to_le_bytes),
            (Field::Int64, _) => le(&t.int64_data, i64::to_le_bytes),
            (Field::Uint64, Some(32)) => le(&t.uint64_data, |x| (x as u32).to_le_bytes()),
            (Field::Uint64, _) => le(&t.uint64_data, u64::to_le_bytes),
            (_, Some(32)) => le(&t.int32_data, i32::to_le_bytes),
            (_, Some(16)) => le(&t.int32_data, |x| (x as u16).to_le_bytes()),
            // One element an entry, unlike the types of 4 and 2 bits, whose entries are packed bytes.
            (_, Some(6)) => pack_bits(6, t.int32_data.iter().map(|&x| x as u8)).into(),
            _ => le(&t.int32_data, |x| [x as u8]),
        }
    }
}

/// How many bytes the elements take as raw data; of strings, their own bytes.
///
/// Errors, naming the tensor, when its data do not fit its shape, as [`Tensor::from_proto`](super::Tensor::from_proto).
pub fn data_len(tensor: &TensorProto) -> Result<usize> {
    Ok(Checked::of(tensor)?.bytes)
}

/// The elements of a string tensor, row major.
///
/// They are bytes that should be UTF-8. They are read from the message, not through [`Tensor`](super::Tensor): that
/// holds elements of a fixed width in one piece of memory, and everything that computes relies on it.
/// Errors, naming the tensor, when it is of another type or its data do not fit its shape.
pub fn strings(tensor: &TensorProto) -> Result<&[Vec<u8>]> {
    match Checked::of(tensor)?.dtype {
        DataType::String => Ok(&tensor.string_data),
        other => {
            let e = malformed(format!("expected strings, found {}", dtype_name(other)));
            Err(e.at(format!("tensor `{}`", tensor.name())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tensor;

    fn tensor(dtype: DataType, dims: &[i64]) -> TensorProto {
        TensorProto { name: Some("t".into()), data_type: Some(dtype as i32), dims: dims.to_vec(), ..Default::default() }
    }

    #[test]
    fn every_misfit_names_the_tensor() {
        let raw = |n: usize| Some(Bytes::from(vec![0; n]));
        let t = tensor;
        let past = "is past every memory";
        let cases = [
            (
                TensorProto { raw_data: raw(16), ..t(DataType::Float, &[2, 3]) },
                "16 bytes of float32 do not fill the shape [2, 3]",
            ),
            (TensorProto { raw_data: raw(3), ..t(DataType::Int4, &[3]) }, "3 bytes of int4 do not fill the shape [3]"),
            (
                TensorProto { raw_data: raw(1), ..t(DataType::Float, &[0]) },
                "1 bytes of float32 do not fill the shape [0]",
            ),
            (t(DataType::Float, &[]), "0 bytes of float32 do not fill the shape []"),
            (
                TensorProto { int32_data: vec![0; 3], ..t(DataType::Uint4, &[3]) },
                "3 entries of `int32_data` with uint4 do not fill the shape [3]",
            ),
            (
                TensorProto { float_data: vec![0.0; 3], ..t(DataType::Complex64, &[3]) },
                "3 entries of `float_data` with complex64 do not fill the shape [3]",
            ),
            (
                TensorProto { raw_data: raw(3), float_data: vec![0.0], ..t(DataType::Float, &[1]) },
                "3 bytes of float32 do not fill the shape [1]",
            ),
            (
                TensorProto { int32_data: vec![1], ..t(DataType::Int64, &[1]) },
                "its elements are in `int32_data`, and those of int64 belong in `int64_data`",
            ),
            (
                TensorProto { raw_data: raw(1), ..t(DataType::String, &[1]) },
                "its elements are in `raw_data`, and those of string belong in `string_data`",
            ),
            (t(DataType::String, &[1]), "0 bytes of string do not fill the shape [1]"),
            (t(DataType::Float, &[1, -1]), "dimension -1 is negative"),
            (t(DataType::Float, &[1 << 62, 4, 0]), past),
            (t(DataType::Double, &[1 << 61]), past),
            (t(DataType::Undefined, &[1]), "element type 0 is unknown"),
            (TensorProto { data_type: Some(99), ..t(DataType::Float, &[1]) }, "element type 99 is unknown"),
        ];
        for (t, message) in cases {
            for e in [Tensor::from_proto(&t).unwrap_err(), strings(&t).unwrap_err()] {
                assert_eq!(e.kind(), ErrorKind::Malformed, "{e}");
                let e = e.to_string();
                assert!(e.starts_with("tensor `t`: ") && e.ends_with(message), "{e}");
            }
        }
    }

    #[test]
    fn ten_million_dimensions_make_a_short_message() {
        let many = tensor(DataType::Float, &vec![1; 10_000_000]);
        let e = Tensor::from_proto(&many).unwrap_err().to_string();
        assert!(e.ends_with("... 10000000 in all]") && e.len() < 200, "{e}");
        let wide = tensor(DataType::Float, &vec![2; 10_000_000]);
        let e = Tensor::from_proto(&wide).unwrap_err().to_string();
        assert!(e.ends_with("... 10000000 in all] is past every memory") && e.len() < 200, "{e}");
    }

    #[test]
    fn what_is_empty_or_scalar_is_read() {
        for dtype in (1..64).filter_map(|i| DataType::try_from(i).ok()).filter(|&d| d != DataType::String) {
            for raw_data in [None, Some(Bytes::new())] {
                let t = Tensor::from_proto(&TensorProto { raw_data, ..tensor(dtype, &[3, 0, 1 << 40]) }).unwrap();
                assert!(t.is_empty() && t.bytes().is_empty());
            }
            let one = Bytes::from(vec![0; raw_len(dtype, 1).unwrap()]);
            let t = Tensor::from_proto(&TensorProto { raw_data: Some(one), ..tensor(dtype, &[]) }).unwrap();
            assert_eq!((t.len(), t.shape()), (1, &[][..]));
        }
    }

    #[test]
    fn raw_data_goes_before_typed_data() {
        let t = TensorProto {
            raw_data: Some(2f32.to_le_bytes().to_vec().into()),
            float_data: vec![1.0],
            int32_data: vec![3],
            ..tensor(DataType::Float, &[])
        };
        assert_eq!(Tensor::from_proto(&t).unwrap().f32s().unwrap()[..], [2.0]);
        let t = TensorProto { raw_data: Some(Bytes::new()), ..t };
        assert_eq!(Tensor::from_proto(&t).unwrap().f32s().unwrap()[..], [1.0]);
    }

    #[test]
    fn strings_are_read_as_they_are() {
        let t = TensorProto { string_data: vec![b"a".to_vec(), vec![0xff]], ..tensor(DataType::String, &[2, 1]) };
        assert_eq!(strings(&t).unwrap(), [&b"a"[..], &[0xff]]);
        assert_eq!(Tensor::from_proto(&t).unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(strings(&tensor(DataType::String, &[0])).unwrap().is_empty());
        let e = strings(&TensorProto { float_data: vec![1.0], ..tensor(DataType::Float, &[]) }).unwrap_err();
        assert_eq!(e.to_string(), "tensor `t`: expected strings, found float32");
    }
}
