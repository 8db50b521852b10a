//! Tensors: element type, shape, and data that fit them.

use super::{Checker, Place, rules};
use crate::error::{ErrorKind, listed};
use crate::model::{DataType, External, Tensor, TensorProto, bits, dtype_name};
use crate::proto::SparseTensorProto;

impl<'m> Checker<'m> {
    /// Checks a tensor; returns whether it can be read. Those of floats are noted, to be read at the end.
    pub(super) fn tensor(&mut self, t: &'m TensorProto, place: &Place<'_>) -> bool {
        let errors = self.found.errors;
        let number = t.data_type();
        let dtype = DataType::try_from(number).ok().filter(|&d| d != DataType::Undefined);
        if dtype.is_none() {
            let why = match number {
                0 => "the tensor states no element type".to_owned(),
                _ => format!("the tensor is of element type {number}, which ONNX does not have"),
            };
            self.add(&rules::TENSOR_TYPE, place, why);
        }
        let fields = filled(t);
        if External::holds(t) {
            if let Some(field) = fields.first() {
                let why = format!("the data are in another file, and in the field `{field}` too");
                self.add(&rules::TENSOR_DATA, place, why);
            }
            self.external_data(t, dtype, place);
            return self.found.errors == errors;
        }
        let elements = self.elements(t, place);
        if let (Some(dtype), Some(elements)) = (dtype, elements) {
            self.data(t, dtype, elements, &fields, place);
        }
        let sound = self.found.errors == errors;
        if sound && let Some(dtype) = dtype {
            self.finite(t, dtype, t.raw_data.clone(), place);
        }
        sound
    }

    /// How many elements the shape has.
    fn elements(&mut self, t: &TensorProto, place: &Place<'_>) -> Option<u64> {
        if let Some(d) = t.dims.iter().find(|&&d| d < 0) {
            self.add(&rules::TENSOR_SHAPE, place, format!("dimension {d} of the tensor is negative"));
            return None;
        }
        let elements = t.dims.iter().try_fold(1i64, |n, &d| n.checked_mul(d)).map(i64::cast_unsigned);
        if elements.is_none() {
            self.add(&rules::TENSOR_SHAPE, place, "the shape of the tensor has more than 2^63 elements");
        }
        elements
    }

    /// Holds the data in the message against type and shape.
    fn data(&mut self, t: &TensorProto, dtype: DataType, elements: u64, fields: &[&'static str], place: &Place<'_>) {
        let name = dtype_name(dtype);
        match fields {
            [] if elements == 0 => return,
            [] => {
                return self.add(&rules::TENSOR_DATA, place, format!("the tensor has {elements} elements and no data"));
            }
            [_, _, ..] => {
                let why = format!("the tensor has data in `{}` and in `{}`", fields[0], fields[1]);
                return self.add(&rules::TENSOR_DATA, place, why);
            }
            [_] if elements == 0 => {
                return self.add(&rules::TENSOR_DATA, place, "the tensor has no elements, and holds data");
            }
            [_] => {}
        }
        let (field, unit, stored, wanted) = match &t.raw_data {
            Some(raw) if !raw.is_empty() => {
                let Some(bits) = bits(dtype) else {
                    let why = format!("{name} cannot be stored in `raw_data`, but in `string_data`");
                    return self.add(&rules::TENSOR_DATA, place, why);
                };
                ("raw_data", "bytes", raw.len(), u128::from(elements) * u128::from(bits))
            }
            _ => {
                let (field, found, per) = typed(t, dtype);
                if found == 0 {
                    let why = format!("{name} is stored in `{field}`, and not in `{}`", fields[0]);
                    return self.add(&rules::TENSOR_DATA, place, why);
                }
                if six_bits(dtype) && t.int32_data.iter().any(|x| !(0..64).contains(x)) {
                    self.add(&rules::TENSOR_DATA, place, format!("{name} in `int32_data` has six bits, and no more"));
                }
                (field, "numbers", found, u128::from(elements) * u128::from(per))
            }
        };
        let wanted = wanted.div_ceil(8);
        if wanted != stored as u128 {
            let why = format!(
                "the tensor has {stored} {unit} in `{field}`, and {name} of shape {} needs {wanted}",
                listed(&t.dims)
            );
            return self.add(&rules::TENSOR_SIZE, place, why);
        }
        // Six bits an element: four elements fill three bytes.
        let used = elements % 4 * 6 % 8;
        if let Some(last) = t.raw_data.as_ref().and_then(|raw| raw.last())
            && six_bits(dtype)
            && used != 0
            && last >> used != 0
        {
            self.add(&rules::TENSOR_DATA, place, format!("the bits behind the last {name} are not zero"));
        }
    }

    /// Looks for data in another file.
    fn external_data(&mut self, t: &'m TensorProto, dtype: Option<DataType>, place: &Place<'_>) {
        let elements = self.elements(t, place);
        let Some(external) = &mut self.external else { return };
        let bytes = match external.bytes_of(t) {
            Ok(bytes) => bytes,
            Err(e) => {
                let hint = e.way_out().unwrap_or(rules::EXTERNAL_DATA.hint).to_owned();
                return self.add_with_hint(&rules::EXTERNAL_DATA, place, e.to_string(), &hint);
            }
        };
        self.links(t, place);
        let Some((dtype, elements)) = dtype.zip(elements) else { return };
        let Some(bits) = bits(dtype) else {
            let name = dtype_name(dtype);
            return self.add(&rules::TENSOR_DATA, place, format!("{name} cannot be stored in another file"));
        };
        let wanted = (u128::from(elements) * u128::from(bits)).div_ceil(8);
        if wanted == bytes.len() as u128 {
            return self.finite(t, dtype, Some(bytes), place);
        }
        let (name, found) = (dtype_name(dtype), bytes.len());
        let why = format!(
            "the tensor has {found} bytes in another file, and {name} of shape {} needs {wanted}",
            listed(&t.dims)
        );
        self.add(&rules::TENSOR_SIZE, place, why);
    }

    /// Tells of tensors in other files that share some of their bytes, but not all; returns whether there are any.
    pub(super) fn overlaps(&mut self) -> bool {
        let Some(Err(e)) = self.external.as_mut().map(External::check_overlaps) else { return false };
        self.add(&rules::EXTERNAL_DATA, &Place::new("model"), e.to_string());
        true
    }

    /// Tells of files that are links: not every tool follows them.
    fn links(&mut self, t: &'m TensorProto, place: &Place<'_>) {
        let Some(location) = t.external_data.iter().find(|e| e.key() == "location").map(|e| e.value()) else { return };
        let path = self.folder.unwrap_or("".as_ref()).join(location);
        let Ok(meta) = path.symlink_metadata() else { return };
        #[cfg(unix)]
        let names = std::os::unix::fs::MetadataExt::nlink(&meta);
        #[cfg(not(unix))]
        let names = 1;
        let what = match meta.is_symlink() {
            true => "is a symbolic link".to_owned(),
            false if names > 1 => format!("is a hard link, one of {names}"),
            false => return,
        };
        if self.links.insert(location) {
            self.add(&rules::LINK, place, format!("`{location}` {what}, which not all tools take"));
        }
    }

    /// Checks a sparse tensor.
    pub(super) fn sparse_tensor(&mut self, t: &'m SparseTensorProto, place: &Place<'_>) {
        let Some(values) = &t.values else {
            return self.add(&rules::SPARSE, place, "the sparse tensor has no values");
        };
        self.tensor(values, place);
        let [count] = values.dims[..] else {
            let why = format!("the values of the sparse tensor have rank {}, and not 1", values.dims.len());
            return self.add(&rules::SPARSE, place, why);
        };
        if t.dims.is_empty() {
            return self.add(&rules::SPARSE, place, "the sparse tensor has no dimensions");
        }
        if let Some(d) = t.dims.iter().find(|&&d| d <= 0) {
            return self.add(&rules::SPARSE, place, format!("dimension {d} of the sparse tensor is not above zero"));
        }
        let Some(indices) = &t.indices else {
            if count != 0 {
                self.add(&rules::SPARSE, place, format!("the sparse tensor has {count} values and no indices"));
            }
            return;
        };
        if !self.tensor(indices, place) {
            return;
        }
        if External::holds(indices) {
            return self.add(&rules::SPARSE, place, "the indices of the sparse tensor are in another file");
        }
        if indices.data_type() != DataType::Int64 as i32 {
            return self.add(&rules::SPARSE, place, "the indices of the sparse tensor are not int64");
        }
        let wanted = match indices.dims[..] {
            [n] => n == count,
            [n, rank] => n == count && rank == t.dims.len() as i64,
            _ => false,
        };
        if !wanted {
            let why = format!(
                "the indices of the sparse tensor have shape {}, and {count} values of rank {} need [{count}] or [{count}, {}]",
                listed(&indices.dims),
                t.dims.len(),
                t.dims.len()
            );
            return self.add(&rules::SPARSE, place, why);
        }
        if let Some(why) = disorder(indices, &t.dims) {
            self.add(&rules::SPARSE, place, why);
        }
    }
}

/// What is wrong with the indices of a sparse tensor of this shape.
fn disorder(indices: &TensorProto, dims: &[i64]) -> Option<String> {
    let numbers = match Tensor::from_proto(indices).and_then(|t| t.i64s()) {
        Ok(numbers) => numbers,
        Err(e) if e.kind() == ErrorKind::Unsupported => return None,
        Err(e) => return Some(e.to_string()),
    };
    let rank = if indices.dims.len() == 2 { dims.len() } else { 1 };
    let whole = [dims.iter().fold(1i64, |n, &d| n.saturating_mul(d))];
    let limits = if rank == dims.len() && indices.dims.len() == 2 { dims } else { &whole };
    let mut before: Option<&[i64]> = None;
    for (i, index) in numbers.chunks_exact(rank).enumerate() {
        if index.iter().zip(limits).any(|(x, d)| !(0..*d).contains(x)) {
            return Some(format!(
                "index {i} of the sparse tensor, {}, is outside of {}",
                listed(index),
                listed(limits)
            ));
        }
        if before.is_some_and(|b| b >= index) {
            return Some(format!("index {i} of the sparse tensor, {}, is not above the one before", listed(index)));
        }
        before = Some(index);
    }
    None
}

/// The fields that hold data.
fn filled(t: &TensorProto) -> Vec<&'static str> {
    let fields = [
        ("float_data", !t.float_data.is_empty()),
        ("int32_data", !t.int32_data.is_empty()),
        ("string_data", !t.string_data.is_empty()),
        ("int64_data", !t.int64_data.is_empty()),
        ("raw_data", t.raw_data.as_ref().is_some_and(|r| !r.is_empty())),
        ("double_data", !t.double_data.is_empty()),
        ("uint64_data", !t.uint64_data.is_empty()),
    ];
    fields.into_iter().filter(|(_, holds)| *holds).map(|(name, _)| name).collect()
}

/// The field for data of this type, how many numbers are in it, and how many eighths of one an element takes.
fn typed(t: &TensorProto, dtype: DataType) -> (&'static str, usize, u32) {
    match dtype {
        DataType::Float => ("float_data", t.float_data.len(), 8),
        DataType::Complex64 => ("float_data", t.float_data.len(), 16),
        DataType::Double => ("double_data", t.double_data.len(), 8),
        DataType::Complex128 => ("double_data", t.double_data.len(), 16),
        DataType::Int64 => ("int64_data", t.int64_data.len(), 8),
        DataType::Uint32 | DataType::Uint64 => ("uint64_data", t.uint64_data.len(), 8),
        DataType::String => ("string_data", t.string_data.len(), 8),
        DataType::Uint4 | DataType::Int4 | DataType::Float4e2m1 => ("int32_data", t.int32_data.len(), 4),
        DataType::Uint2 | DataType::Int2 => ("int32_data", t.int32_data.len(), 2),
        _ => ("int32_data", t.int32_data.len(), 8),
    }
}

fn six_bits(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float6e2m3 | DataType::Float6e3m2)
}
