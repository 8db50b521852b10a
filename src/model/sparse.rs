//! Sparse constants: the values that are not zero, and where they stand.

use super::encoding::{Checked, sizes};
use super::{DataType, SparseTensorProto, Tensor, bits, dtype_name, raw_len};
use crate::error::{Error, ErrorKind, Place, Result, listed};
use crate::number::{pack_bits, unpack_bits};

/// Bytes that the dense form may take whatever is stored.
const ROOM: usize = 1 << 20;

/// How many times the bytes stored the dense form may take beyond that.
const GROWTH: usize = 256;

/// The name of a sparse tensor: that of its values.
pub fn sparse_name(tensor: &SparseTensorProto) -> &str {
    tensor.values.as_ref().map_or("", |v| v.name())
}

/// A sparse tensor as its head says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseHead {
    /// The element type.
    pub dtype: DataType,
    /// The dimensions of the dense form, none of them zero, whose number of bytes is in the range of `usize`.
    pub shape: Vec<usize>,
    /// How many values are stored.
    pub stored: usize,
    /// How many bytes values and indices take, as raw data would hold them.
    pub bytes: usize,
}

impl SparseHead {
    /// Reads the head.
    ///
    /// Errors, naming the tensor, when values or indices are missing, of the wrong type or shape, or do not fill it, and
    /// when a dimension is not positive.
    pub fn of(tensor: &SparseTensorProto) -> Result<SparseHead> {
        Self::unnamed(tensor).at(|| place(tensor))
    }

    fn unnamed(tensor: &SparseTensorProto) -> Result<SparseHead> {
        let values = tensor.values.as_ref().ok_or_else(|| malformed("it has no values"))?;
        let values = Checked::of(values)?;
        let [stored] = values.shape[..] else {
            return Err(malformed(format!("its values have the shape {}, not one dimension", listed(&values.shape))));
        };
        let shape = sizes(&tensor.dims)?;
        if shape.is_empty() || shape.contains(&0) {
            return Err(malformed(format!("the shape {} holds no element", listed(&shape))));
        }
        if values.dtype != DataType::String && raw_len(values.dtype, shape.iter().product()).is_none() {
            return Err(malformed(format!("the shape {} is past every memory", listed(&shape))));
        }
        let mut bytes = values.bytes;
        match &tensor.indices {
            Some(indices) => {
                let indices = Checked::of(indices).at(|| "indices".to_owned())?;
                if indices.dtype != DataType::Int64 {
                    return Err(malformed(format!("its indices are {}, not int64", dtype_name(indices.dtype))));
                }
                if indices.shape != [stored] && indices.shape != [stored, shape.len()] {
                    let (found, rank) = (listed(&indices.shape), shape.len());
                    return Err(malformed(format!(
                        "its indices have the shape {found}, where {stored} values of rank {rank} take [{stored}] or \
                         [{stored}, {rank}]"
                    )));
                }
                bytes = bytes.saturating_add(indices.bytes);
            }
            None if stored > 0 => return Err(malformed("it has values and no indices")),
            None => {}
        }
        Ok(SparseHead { dtype: values.dtype, shape, stored, bytes })
    }
}

impl Tensor {
    /// The dense value of a sparse tensor, zero where nothing is stored.
    ///
    /// Both forms of indices are read: places in row-major order, `[NNZ]`, and coordinates, `[NNZ, rank]`. Errors, naming
    /// the tensor, as [`SparseHead::of`], when an index is outside the shape, not above the one before it, on strings,
    /// and when the dense form would take more than 256 times the bytes stored (and more than 1 MiB): nothing of that
    /// size is then allocated.
    ///
    /// Source: message SparseTensorProto of onnx.proto.
    pub fn from_sparse(tensor: &SparseTensorProto) -> Result<Tensor> {
        let head = SparseHead::of(tensor)?;
        dense(tensor, head).at(|| place(tensor))
    }
}

fn dense(tensor: &SparseTensorProto, head: SparseHead) -> Result<Tensor> {
    let SparseHead { dtype, shape, bytes: stored, .. } = head;
    let places = places(tensor, &shape)?;
    let strings = || Error::new(ErrorKind::Unsupported, "it holds strings, not numbers");
    let width = bits(dtype).ok_or_else(strings)?;
    let elements: usize = shape.iter().product();
    let len = raw_len(dtype, elements).unwrap_or(usize::MAX);
    if len > ROOM.max(stored.saturating_mul(GROWTH)) {
        let what = format!("its {stored} bytes would be {len} in dense form, which is out of proportion");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let Some(values) = &tensor.values else { return Err(malformed("it has no values")) };
    let values = Checked::of(values)?.raw()?;
    let mut bytes;
    if width < 8 {
        let mut codes = vec![0; elements];
        let values = unpack_bits(width, &values, places.len());
        places.iter().zip(values).for_each(|(&place, code)| codes[place] = code);
        bytes = pack_bits(width, codes);
    } else {
        let width = width as usize / 8;
        bytes = vec![0; len];
        for (&place, value) in places.iter().zip(values.chunks_exact(width)) {
            bytes[place * width..][..width].copy_from_slice(value);
        }
    }
    Tensor::new(dtype, shape, bytes.into())
}

/// Where the values stand, in row-major order; each is inside the shape and above the one before it.
fn places(tensor: &SparseTensorProto, shape: &[usize]) -> Result<Vec<usize>> {
    let Some(indices) = &tensor.indices else { return Ok(Vec::new()) };
    let indices = Tensor::from_proto(indices)?;
    let (numbers, rank) = (indices.i64s()?, indices.shape().get(1).copied());
    let outside = |index: &[i64]| malformed(format!("index {} is outside the shape {}", listed(index), listed(shape)));
    let elements: usize = shape.iter().product();
    let mut places = Vec::with_capacity(indices.shape()[0]);
    for index in numbers.chunks(rank.unwrap_or(1)) {
        let place = match rank {
            None => usize::try_from(index[0]).ok().filter(|&i| i < elements),
            Some(_) => index.iter().zip(shape).try_fold(0, |place, (&i, &size)| {
                let i = usize::try_from(i).ok().filter(|&i| i < size)?;
                Some(place * size + i)
            }),
        };
        let place = place.ok_or_else(|| outside(index))?;
        if places.last().is_some_and(|&last| place <= last) {
            return Err(malformed(format!("index {} is not above the one before it", listed(index))));
        }
        places.push(place);
    }
    Ok(places)
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

fn place(tensor: &SparseTensorProto) -> String {
    format!("sparse tensor `{}`", sparse_name(tensor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TensorProto;

    fn sparse(values: Tensor, indices: Option<Tensor>, dims: &[i64]) -> SparseTensorProto {
        SparseTensorProto {
            values: Some(values.to_proto("s")),
            indices: indices.map(|i| i.to_proto("")),
            dims: dims.to_vec(),
        }
    }

    fn floats(x: &[f32]) -> Tensor {
        Tensor::from_f32(vec![x.len()], x.to_vec())
    }

    fn ints(shape: &[usize], x: &[i64]) -> Option<Tensor> {
        Some(Tensor::from_i64(shape.to_vec(), x.to_vec()))
    }

    #[test]
    fn both_forms_of_indices_say_the_same() {
        let linear = Tensor::from_sparse(&sparse(floats(&[1.0, 2.0]), ints(&[2], &[1, 5]), &[2, 3])).unwrap();
        assert_eq!((linear.shape(), &linear.f32s().unwrap()[..]), (&[2, 3][..], &[0.0, 1.0, 0.0, 0.0, 0.0, 2.0][..]));
        let pairs = ints(&[2, 2], &[0, 1, 1, 2]);
        assert_eq!(Tensor::from_sparse(&sparse(floats(&[1.0, 2.0]), pairs, &[2, 3])).unwrap(), linear);
        let none = Tensor::from_sparse(&sparse(floats(&[]), None, &[2])).unwrap();
        assert_eq!(none.f32s().unwrap()[..], [0.0, 0.0]);
        let packed = Tensor::new(DataType::Int4, vec![3], vec![0xf7, 0x08].into()).unwrap();
        let dense = Tensor::from_sparse(&sparse(packed, ints(&[3], &[0, 2, 4]), &[5])).unwrap();
        assert_eq!(dense.i64s().unwrap(), [7, 0, -1, 0, -8]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let two = || floats(&[1.0, 2.0]);
        let cases = [
            (sparse(two(), ints(&[2], &[1, 6]), &[2, 3]), "index [6] is outside the shape [2, 3]"),
            (sparse(two(), ints(&[2], &[-1, 1]), &[2, 3]), "index [-1] is outside"),
            (sparse(two(), ints(&[2, 2], &[0, 0, 0, 3]), &[2, 3]), "index [0, 3] is outside the shape [2, 3]"),
            (sparse(two(), ints(&[2], &[2, 2]), &[2, 3]), "index [2] is not above the one before it"),
            (sparse(two(), ints(&[2, 2], &[1, 0, 0, 2]), &[2, 3]), "index [0, 2] is not above"),
            (sparse(two(), ints(&[3], &[0, 1, 2]), &[2, 3]), "take [2] or [2, 2]"),
            (sparse(two(), ints(&[2, 1], &[0, 1]), &[2, 3]), "take [2] or [2, 2]"),
            (sparse(two(), Some(two()), &[2, 3]), "its indices are float32, not int64"),
            (sparse(two(), None, &[2, 3]), "it has values and no indices"),
            (
                sparse(Tensor::from_f32(vec![], vec![1.0]), None, &[2]),
                "its values have the shape [], not one dimension",
            ),
            (sparse(floats(&[]), None, &[]), "the shape [] holds no element"),
            (sparse(floats(&[]), None, &[2, 0]), "the shape [2, 0] holds no element"),
            (sparse(floats(&[]), None, &[2, -1]), "dimension -1 is negative"),
            (sparse(floats(&[]), None, &[1 << 40, 1 << 40]), "past every memory"),
            (sparse(floats(&[]), None, &[1 << 62]), "past every memory"),
            (SparseTensorProto { values: None, ..sparse(two(), None, &[2]) }, "it has no values"),
        ];
        for (t, message) in cases {
            let e = Tensor::from_sparse(&t).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Malformed, "{e}");
            let name = if t.values.is_some() { "sparse tensor `s`: " } else { "sparse tensor ``: " };
            assert!(e.to_string().starts_with(name) && e.to_string().contains(message), "{e}");
        }
        let strings = TensorProto {
            data_type: Some(DataType::String as i32),
            dims: vec![1],
            string_data: vec![b"a".to_vec()],
            ..Default::default()
        };
        let t = SparseTensorProto { values: Some(strings), ..sparse(two(), ints(&[1], &[1]), &[2]) };
        assert_eq!(SparseHead::of(&t).unwrap().bytes, 9);
        assert_eq!(Tensor::from_sparse(&t).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_dense_form_out_of_proportion_is_refused() {
        let t = sparse(floats(&[1.0]), ints(&[1], &[1 << 37]), &[1 << 38]);
        assert_eq!(SparseHead::of(&t).unwrap().shape, [1 << 38]);
        let e = Tensor::from_sparse(&t).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(
            e.to_string().ends_with("its 12 bytes would be 1099511627776 in dense form, which is out of proportion")
        );
        assert_eq!(Tensor::from_sparse(&sparse(floats(&[1.0]), ints(&[1], &[9]), &[1 << 18])).unwrap().len(), 1 << 18);
    }
}
