//! Dense values: what initializers hold, what samples are made of, what a session takes and gives.

use std::borrow::Cow;

use bytes::Bytes;

use super::{DataType, TensorProto, dtype_name, width};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::tensor_proto::DataLocation;

#[cfg(target_endian = "big")]
compile_error!("ONNX stores tensors little endian, and this crate reads them in place");

/// A dense tensor of fixed-width elements: row major, little endian, shared and never changed in place.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    dtype: DataType,
    shape: Vec<usize>,
    bytes: Bytes,
}

/// Owns numbers and lends their bytes.
struct Numbers<T>(Vec<T>);

impl<T: bytemuck::NoUninit> AsRef<[u8]> for Numbers<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn malformed(message: String) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

/// The most axes of a tensor, as in numpy: who states more is not in earnest, and engines take steps for pairs of axes.
const MOST_AXES: usize = 64;

/// Refuses a shape of more axes than are supported.
pub(crate) fn hold_axes(axes: usize) -> Result<()> {
    let what = || format!("its shape has {axes} axes; more than {MOST_AXES} are not supported");
    if axes > MOST_AXES { Err(Error::new(ErrorKind::Unsupported, what())) } else { Ok(()) }
}

impl Tensor {
    /// A tensor over bytes as they are.
    ///
    /// Errors when their number does not fit the shape, or the type has no fixed width.
    pub fn new(dtype: DataType, shape: Vec<usize>, bytes: Bytes) -> Result<Tensor> {
        let width = width(dtype).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("tensors of type {} are not supported yet", dtype_name(dtype)))
        })?;
        hold_axes(shape.len())?;
        // Also beside a dimension of 0 the others must have a product: parts of the shape are multiplied.
        let product = shape.iter().filter(|&&d| d > 0).try_fold(width, |n, &d| n.checked_mul(d));
        if product.map(|n| if shape.contains(&0) { 0 } else { n }) != Some(bytes.len()) {
            return Err(malformed(format!(
                "{} bytes of {} do not fill the shape {shape:?}",
                bytes.len(),
                dtype_name(dtype)
            )));
        }
        Ok(Tensor { dtype, shape, bytes })
    }

    fn from_numbers<T: bytemuck::NoUninit + Send + Sync>(dtype: DataType, shape: Vec<usize>, x: Vec<T>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), x.len(), "numbers fill the shape");
        Tensor { dtype, shape, bytes: Bytes::from_owner(Numbers(x)) }
    }

    /// A float32 tensor; the numbers must fill the shape.
    pub fn from_f32(shape: Vec<usize>, x: Vec<f32>) -> Tensor {
        Self::from_numbers(DataType::Float, shape, x)
    }

    /// An int64 tensor; the numbers must fill the shape.
    pub fn from_i64(shape: Vec<usize>, x: Vec<i64>) -> Tensor {
        Self::from_numbers(DataType::Int64, shape, x)
    }

    /// The value of an initializer, a Constant node or a test data file.
    ///
    /// Raw data is shared, not copied. Errors on strings, on types packed below a byte, on data that is
    /// still outside the file, and where dimensions and data do not agree.
    pub fn from_proto(t: &TensorProto) -> Result<Tensor> {
        let place = || format!("tensor `{}`", t.name());
        let dtype = DataType::try_from(t.data_type())
            .map_err(|_| malformed(format!("element type {} is unknown", t.data_type())).at(place()))?;
        let shape = t
            .dims
            .iter()
            .map(|&d| usize::try_from(d).map_err(|_| malformed(format!("dimension {d} is negative")).at(place())))
            .collect::<Result<Vec<_>>>()?;
        if t.data_location() == DataLocation::External {
            return Err(malformed("its data is in another file, which was not read".into()).at(place()));
        }
        let bytes = match &t.raw_data {
            Some(raw) => raw.clone(),
            None => typed_bytes(t, dtype),
        };
        Tensor::new(dtype, shape, bytes).map_err(|e| e.at(place()))
    }

    /// As an initializer of that name; the bytes are shared.
    pub fn to_proto(&self, name: &str) -> TensorProto {
        TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(self.dtype as i32),
            dims: self.shape.iter().map(|&d| d as i64).collect(),
            raw_data: Some(self.bytes.clone()),
            ..Default::default()
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// The dimensions; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes, row major, little endian.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same elements in another shape; `None` if that has another number of them.
    pub fn reshaped(&self, shape: Vec<usize>) -> Option<Tensor> {
        (shape.iter().product::<usize>() == self.len()).then(|| Tensor { shape, ..self.clone() })
    }

    /// The elements of a float32 tensor: borrowed where the bytes lie right in memory, else copied.
    ///
    /// float16, bfloat16 and float64 are converted. Errors for every other type.
    pub fn f32s(&self) -> Result<Cow<'_, [f32]>> {
        let b = &self.bytes;
        Ok(match self.dtype {
            DataType::Float => match bytemuck::try_cast_slice(b) {
                Ok(x) => Cow::Borrowed(x),
                Err(_) => Cow::Owned(b.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect()),
            },
            DataType::Float16 => {
                Cow::Owned(b.as_chunks().0.iter().map(|&x| half::f16::from_le_bytes(x).to_f32()).collect())
            }
            DataType::Bfloat16 => {
                Cow::Owned(b.as_chunks().0.iter().map(|&x| half::bf16::from_le_bytes(x).to_f32()).collect())
            }
            DataType::Double => Cow::Owned(b.as_chunks().0.iter().map(|&x| f64::from_le_bytes(x) as f32).collect()),
            other => return Err(malformed(format!("expected floats, found {}", dtype_name(other)))),
        })
    }

    /// The elements of a float tensor of any width, widened. Errors for every other type.
    pub fn f64s(&self) -> Result<Vec<f64>> {
        Ok(match self.dtype {
            DataType::Double => self.bytes.as_chunks().0.iter().map(|&x| f64::from_le_bytes(x)).collect(),
            _ => self.f32s()?.iter().map(|&x| x.into()).collect(),
        })
    }

    /// A float tensor of that element type; the numbers, which must fill the shape, are rounded to nearest, ties to
    /// even.
    ///
    /// Errors when the type is not a float type.
    pub fn from_f64(dtype: DataType, shape: Vec<usize>, x: &[f64]) -> Result<Tensor> {
        let bytes = match dtype {
            DataType::Float => return Ok(Self::from_f32(shape, x.iter().map(|&x| x as f32).collect())),
            DataType::Double => x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(),
            DataType::Float16 => x.iter().flat_map(|&x| half::f16::from_f64(x).to_le_bytes()).collect(),
            DataType::Bfloat16 => x.iter().flat_map(|&x| half::bf16::from_f64(x).to_le_bytes()).collect(),
            other => return Err(malformed(format!("expected a float type, found {}", dtype_name(other)))),
        };
        Tensor::new(dtype, shape, bytes.into())
    }

    /// The elements of an integer or boolean tensor, widened. Errors for every other type, and for uint64
    /// values past the range of int64.
    pub fn i64s(&self) -> Result<Vec<i64>> {
        let b = &self.bytes;
        Ok(match self.dtype {
            DataType::Int64 => b.as_chunks().0.iter().map(|&x| i64::from_le_bytes(x)).collect(),
            DataType::Int32 => b.as_chunks().0.iter().map(|&x| i32::from_le_bytes(x).into()).collect(),
            DataType::Uint32 => b.as_chunks().0.iter().map(|&x| u32::from_le_bytes(x).into()).collect(),
            DataType::Int16 => b.as_chunks().0.iter().map(|&x| i16::from_le_bytes(x).into()).collect(),
            DataType::Uint16 => b.as_chunks().0.iter().map(|&x| u16::from_le_bytes(x).into()).collect(),
            DataType::Int8 => b.iter().map(|&x| (x as i8).into()).collect(),
            DataType::Uint8 | DataType::Bool => b.iter().map(|&x| x.into()).collect(),
            DataType::Uint64 => b
                .as_chunks()
                .0
                .iter()
                .map(|&x| i64::try_from(u64::from_le_bytes(x)).map_err(|_| malformed("integer past int64".into())))
                .collect::<Result<_>>()?,
            other => return Err(malformed(format!("expected integers, found {}", dtype_name(other)))),
        })
    }

    /// Whether the elements are floating-point numbers.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
    }
}

/// The typed fields of a tensor, as raw data would hold them. Types that share a field are narrowed as the
/// schema says: `int32_data` also carries the small integers, booleans and 16-bit floats.
fn typed_bytes(t: &TensorProto, dtype: DataType) -> Bytes {
    fn le<T: Copy, const N: usize>(x: &[T], f: impl Fn(T) -> [u8; N]) -> Bytes {
        x.iter().flat_map(|&x| f(x)).collect::<Vec<u8>>().into()
    }
    match dtype {
        DataType::Float | DataType::Complex64 => le(&t.float_data, f32::to_le_bytes),
        DataType::Double | DataType::Complex128 => le(&t.double_data, f64::to_le_bytes),
        DataType::Int64 => le(&t.int64_data, i64::to_le_bytes),
        DataType::Uint64 => le(&t.uint64_data, u64::to_le_bytes),
        DataType::Uint32 => le(&t.uint64_data, |x| (x as u32).to_le_bytes()),
        DataType::Int32 => le(&t.int32_data, i32::to_le_bytes),
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => {
            le(&t.int32_data, |x| (x as u16).to_le_bytes())
        }
        _ => le(&t.int32_data, |x| [x as u8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_fields_and_raw_data_read_alike() {
        let t = TensorProto {
            name: Some("h".into()),
            data_type: Some(DataType::Float16 as i32),
            dims: vec![2],
            int32_data: vec![0x3c00, 0xc000],
            ..Default::default()
        };
        let read = Tensor::from_proto(&t).unwrap();
        assert_eq!(read.f32s().unwrap()[..], [1.0, -2.0]);
        assert_eq!(Tensor::from_proto(&read.to_proto("h")).unwrap(), read);
    }

    #[test]
    fn wrong_sizes_are_errors() {
        let mut t = Tensor::from_f32(vec![2], vec![1.0, 2.0]).to_proto("w");
        t.dims = vec![3];
        assert!(Tensor::from_proto(&t).unwrap_err().to_string().contains("tensor `w`"));
        t.dims = vec![-1];
        assert!(Tensor::from_proto(&t).is_err());
        t.dims = vec![i64::MAX, i64::MAX];
        assert!(Tensor::from_proto(&t).is_err());
        t.dims = vec![0, i64::MAX, i64::MAX];
        t.raw_data = Some(Bytes::new());
        assert!(Tensor::from_proto(&t).is_err());
        t.data_type = Some(99);
        assert!(Tensor::from_proto(&t).is_err());
    }

    #[test]
    fn floats_of_every_width_go_through_f64() {
        for dtype in [DataType::Float, DataType::Double, DataType::Float16, DataType::Bfloat16] {
            let t = Tensor::from_f64(dtype, vec![3], &[0.5, -2.0, 1.0 + 1.0 / 8192.0]).unwrap();
            let wide = matches!(dtype, DataType::Float | DataType::Double);
            assert_eq!(t.f64s().unwrap(), [0.5, -2.0, if wide { 1.0 + 1.0 / 8192.0 } else { 1.0 }], "{dtype:?}");
        }
        assert!(Tensor::from_f64(DataType::Int8, vec![1], &[1.0]).is_err());
    }

    #[test]
    fn unaligned_bytes_are_copied() {
        let raw = Bytes::from(vec![0, 0, 0, 128, 63, 0]);
        let t = Tensor::new(DataType::Float, vec![1], raw.slice(1..5)).unwrap();
        assert_eq!(t.f32s().unwrap()[..], [1.0]);
    }
}
