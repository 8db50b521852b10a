//! Dense numbers: what initializers hold, what samples are made of, what a session takes and gives.

use std::borrow::Cow;

use bytes::Bytes;

use super::encoding::Checked;
use super::{DataType, TensorProto, dtype_name, format_of, is_float, minifloat_of, raw_len};
use crate::error::{Error, ErrorKind, Result, listed};
use crate::number::{unpack, unpack_bits};

#[cfg(target_endian = "big")]
compile_error!("ONNX stores tensors little endian, and this crate reads them in place");

/// A dense tensor of numbers: row major, little endian, packed where they are narrower than a byte, as `raw_data` of
/// ONNX has them. The bytes are shared and never changed in place.
///
/// Strings are no numbers: see [`strings`](super::strings).
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
    /// Errors when their number does not fit the shape, and on strings.
    pub fn new(dtype: DataType, shape: Vec<usize>, bytes: Bytes) -> Result<Tensor> {
        hold_axes(shape.len())?;
        // Also beside a dimension of 0 the others must have a product: parts of the shape are multiplied.
        let product = shape.iter().filter(|&&d| d > 0).try_fold(1usize, |n, &d| n.checked_mul(d));
        let elements = product.map(|n| if shape.contains(&0) { 0 } else { n });
        if elements.and_then(|n| raw_len(dtype, n)) != Some(bytes.len()) {
            let (shape, name) = (listed(&shape), dtype_name(dtype));
            return Err(malformed(format!("{} bytes of {name} do not fill the shape {shape}", bytes.len())));
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

    /// A tensor of an element type of 16 bits, of its codes. Errors when their number does not fit the shape, and when the type is
    /// of another width.
    pub fn from_codes(dtype: DataType, shape: Vec<usize>, codes: Vec<u16>) -> Result<Tensor> {
        Tensor::new(dtype, shape, Bytes::from_owner(Numbers(codes)))
    }

    /// The value of an initializer, a Constant node or a test data file.
    ///
    /// Raw data is shared, not copied; typed fields are converted. Errors, naming the tensor, on strings, on data that
    /// is still outside the file, and where type, dimensions and data do not agree.
    pub fn from_proto(t: &TensorProto) -> Result<Tensor> {
        let checked = Checked::of(t)?;
        let bytes = checked.raw()?;
        Ok(Tensor { dtype: checked.dtype, shape: checked.shape, bytes })
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

    /// The bytes, row major, little endian, packed where elements are narrower than a byte.
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
    /// Floats of other widths are converted: float64 rounded, narrower ones exactly. Errors for every other type.
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
            other => {
                let wrong = || malformed(format!("expected floats, found {}", dtype_name(other)));
                let format = minifloat_of(other).ok_or_else(wrong)?;
                let reals = format.reals();
                let real = |&code: &u8| reals[usize::from(code)];
                Cow::Owned(match format.bits() {
                    8 => b.iter().map(real).collect(),
                    bits => unpack_bits(bits, b, self.len()).iter().map(real).collect(),
                })
            }
        })
    }

    /// The elements as float32: floats as [`Tensor::f32s`] has them, integers rounded to nearest where they are past
    /// 2^24. Errors for complex numbers, and as [`Tensor::i64s`].
    pub fn reals(&self) -> Result<Cow<'_, [f32]>> {
        if is_float(self.dtype) || minifloat_of(self.dtype).is_some() {
            return self.f32s();
        }
        Ok(Cow::Owned(match format_of(self.dtype) {
            Some(_) => self.codes()?.into_iter().map(|q| q as f32).collect(),
            None => self.i64s()?.into_iter().map(|x| x as f32).collect(),
        }))
    }

    /// The elements of an integer tensor whose type stores codes of a [`Format`](crate::number::Format). Errors for
    /// every other type.
    pub fn codes(&self) -> Result<Vec<i32>> {
        let wrong = || malformed(format!("expected codes, found {}", dtype_name(self.dtype)));
        let format = format_of(self.dtype).ok_or_else(wrong)?;
        Ok(unpack(format.storage, &self.bytes, self.len()))
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
            DataType::Uint32 => b.as_chunks().0.iter().map(|&x| u32::from_le_bytes(x).into()).collect(),
            DataType::Bool => b.iter().map(|&x| (x != 0).into()).collect(),
            DataType::Uint64 => b
                .as_chunks()
                .0
                .iter()
                .map(|&x| i64::try_from(u64::from_le_bytes(x)).map_err(|_| malformed("integer past int64".into())))
                .collect::<Result<_>>()?,
            other if format_of(other).is_some() => self.codes()?.into_iter().map(i64::from).collect(),
            other => return Err(malformed(format!("expected integers, found {}", dtype_name(other)))),
        })
    }

    /// Whether the elements are floats that operators compute with: those of 16 bits and more.
    pub fn is_float(&self) -> bool {
        is_float(self.dtype)
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
        let make = |dtype, shape: &[usize], n| Tensor::new(dtype, shape.to_vec(), vec![0; n].into());
        assert!(make(DataType::Float, &[3], 8).unwrap_err().to_string().starts_with("8 bytes of float32"));
        assert!(make(DataType::Float, &[usize::MAX, 2], 8).is_err());
        assert!(make(DataType::Float, &[0, usize::MAX, 2], 0).is_err());
        assert!(make(DataType::String, &[0], 0).is_err());
        assert!(make(DataType::Int4, &[3], 2).is_ok() && make(DataType::Int4, &[3], 3).is_err());
    }

    #[test]
    fn packed_elements_keep_their_bytes() {
        let t = Tensor::new(DataType::Int4, vec![3], vec![0x87, 0x0f].into()).unwrap();
        assert_eq!((t.i64s().unwrap(), t.codes().unwrap()), (vec![7, -8, -1], vec![7, -8, -1]));
        assert_eq!(t.reals().unwrap()[..], [7.0, -8.0, -1.0]);
        assert!(t.f32s().is_err());
        assert_eq!(t.to_proto("w").raw_data.unwrap()[..], [0x87, 0x0f]);
        let t = Tensor::new(DataType::Float4e2m1, vec![3], vec![0xf7, 0x01].into()).unwrap();
        assert_eq!(t.f64s().unwrap(), [6.0, -6.0, 0.5]);
        assert!(t.codes().is_err() && t.i64s().is_err());
        let t = Tensor::new(DataType::Complex64, vec![1], vec![0; 8].into()).unwrap();
        assert!(t.f32s().is_err() && t.i64s().is_err() && t.reals().is_err());
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
