//! How an array becomes the samples of one input: shapes and element types.

use super::array::{ArraySpec, Element};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{DataType, Dim, InputSpec, Tensor, dtype_name};

/// How the samples of one input lie in an array: one after the other, each of the same shape.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fit {
    /// How many samples there are; at least one.
    pub count: usize,
    /// The shape of each.
    pub shape: Vec<usize>,
    /// Rows at the end that do not fill a sample.
    pub left: usize,
}

/// Says how an array's shape gives samples of an input; `None` if it does not.
pub(super) fn fit(spec: &InputSpec, shape: &[usize]) -> Option<Fit> {
    if shape.contains(&0) {
        return None;
    }
    let Some(dims) = &spec.shape else {
        let count = shape.first().copied().unwrap_or(1);
        return Some(Fit {
            count,
            shape: shape.iter().enumerate().map(|(i, &d)| if i == 0 { 1 } else { d }).collect(),
            left: 0,
        });
    };
    if let [count, sample @ ..] = shape
        && agree(dims, sample)
    {
        return Some(Fit { count: *count, shape: sample.to_vec(), left: 0 });
    }
    match (&dims[..], shape) {
        ([], []) => Some(Fit { count: 1, shape: Vec::new(), left: 0 }),
        ([first, dims @ ..], [rows, rest @ ..]) if agree(dims, rest) => {
            let batch = match first {
                Dim::Fixed(n) => *n,
                Dim::Symbol(_) => 1,
            };
            let shape = [&[batch], rest].concat();
            Some(Fit { count: rows.checked_div(batch)?, shape, left: rows % batch }).filter(|fit| fit.count > 0)
        }
        _ => None,
    }
}

/// Whether an input of these dimensions takes this shape.
pub(super) fn agree(dims: &[Dim], shape: &[usize]) -> bool {
    dims.len() == shape.len() && dims.iter().zip(shape).all(|(d, n)| !matches!(d, Dim::Fixed(fixed) if fixed != n))
}

fn is_float(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float16 | DataType::Bfloat16 | DataType::Float | DataType::Double)
}

fn is_integer(dtype: DataType) -> bool {
    use DataType::{Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64};
    matches!(dtype, Int8 | Uint8 | Int16 | Uint16 | Int32 | Uint32 | Int64 | Uint64)
}

/// Whether elements of one type are taken for an input of another.
pub(super) fn converts(from: DataType, to: DataType) -> bool {
    from == to || is_float(from) && is_float(to) || is_integer(from) && is_integer(to)
}

/// The same numbers in the element type of an input; [`converts`] must hold.
///
/// Floats are rounded to nearest even. Errors when a finite float becomes infinite or an integer does not fit.
pub(super) fn convert(tensor: Tensor, to: DataType) -> Result<Tensor> {
    let from = tensor.dtype();
    if from == to {
        return Ok(tensor);
    }
    let bytes = if is_float(from) { floats(&f64s(&tensor)?, to)? } else { integers(&tensor.i64s()?, to)? };
    Tensor::new(to, tensor.shape().to_vec(), bytes.into())
}

fn f64s(tensor: &Tensor) -> Result<Vec<f64>> {
    match tensor.dtype() {
        DataType::Double => Ok(tensor.bytes().as_chunks().0.iter().map(|&x| f64::from_le_bytes(x)).collect()),
        _ => Ok(tensor.f32s()?.iter().map(|&x| x.into()).collect()),
    }
}

fn does_not_fit(number: impl std::fmt::Display, to: DataType) -> Error {
    Error::new(ErrorKind::Data, format!("{number} does not fit {}", dtype_name(to)))
}

fn floats(numbers: &[f64], to: DataType) -> Result<Vec<u8>> {
    fn all<const N: usize>(numbers: &[f64], to: DataType, round: impl Fn(f64) -> ([u8; N], bool)) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(numbers.len() * N);
        for &x in numbers {
            let (rounded, infinite) = round(x);
            if infinite && x.is_finite() {
                return Err(does_not_fit(x, to));
            }
            bytes.extend(rounded);
        }
        Ok(bytes)
    }
    let half = |x| half::f16::from_f64(x);
    let brain = |x| half::bf16::from_f64(x);
    match to {
        DataType::Float16 => all(numbers, to, |x| (half(x).to_le_bytes(), half(x).is_infinite())),
        DataType::Bfloat16 => all(numbers, to, |x| (brain(x).to_le_bytes(), brain(x).is_infinite())),
        DataType::Float => all(numbers, to, |x| ((x as f32).to_le_bytes(), (x as f32).is_infinite())),
        _ => all(numbers, to, |x| (x.to_le_bytes(), false)),
    }
}

fn integers(numbers: &[i64], to: DataType) -> Result<Vec<u8>> {
    fn all<T: TryFrom<i64>, const N: usize>(
        numbers: &[i64],
        to: DataType,
        bytes: impl Fn(T) -> [u8; N],
    ) -> Result<Vec<u8>> {
        let mut narrowed = Vec::with_capacity(numbers.len() * N);
        for &x in numbers {
            narrowed.extend(bytes(T::try_from(x).map_err(|_| does_not_fit(x, to))?));
        }
        Ok(narrowed)
    }
    match to {
        DataType::Int8 => all(numbers, to, i8::to_le_bytes),
        DataType::Uint8 => all(numbers, to, u8::to_le_bytes),
        DataType::Int16 => all(numbers, to, i16::to_le_bytes),
        DataType::Uint16 => all(numbers, to, u16::to_le_bytes),
        DataType::Int32 => all(numbers, to, i32::to_le_bytes),
        DataType::Uint32 => all(numbers, to, u32::to_le_bytes),
        DataType::Uint64 => all(numbers, to, u64::to_le_bytes),
        _ => all(numbers, to, i64::to_le_bytes),
    }
}

/// What is wrong between an input and the array that should fill it, and the way out of it.
///
/// The message: expected `x: float32 [batch, 3]`, found `x: float32 [100, 4]` in `calib.npz`.
pub(super) fn misfit(spec: &InputSpec, found: &ArraySpec, source: &str) -> Error {
    Error::new(ErrorKind::Data, format!("expected `{spec}`, found `{found}` in `{source}`")).hint(way_out(spec, found))
}

fn way_out(spec: &InputSpec, found: &ArraySpec) -> String {
    let wanted = dtype_name(spec.dtype);
    match &found.element {
        Element::Strange { way_out, .. } => return way_out.clone(),
        Element::Known(DataType::Uint8) if is_float(spec.dtype) => {
            return format!(
                "arrays are taken as they are: scale and normalise the pixels as in training, then save them as {wanted}"
            );
        }
        Element::Known(from) if !converts(*from, spec.dtype) => {
            return format!("save it as {wanted}, for instance with `x.astype(np.{wanted})`");
        }
        Element::Known(_) => {}
    }
    if found.shape.contains(&0) {
        return "the array is empty: save at least one sample".to_owned();
    }
    if let [n, a, b, c] = found.shape[..] {
        for (axes, shape) in [("0, 3, 1, 2", [n, c, a, b]), ("0, 2, 3, 1", [n, b, c, a])] {
            if fit(spec, &shape).is_some() {
                return format!("the channels lie on another axis: `np.transpose(x, ({axes}))`");
            }
        }
    }
    if fit(spec, &[&[1], &found.shape[..]].concat()).is_some() {
        return "this looks like one sample without the axis of the samples: `x[np.newaxis]`".to_owned();
    }
    "samples lie on the first axis, and each must have the shape that the model takes".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `0` stands for a symbolic dimension.
    fn spec(dtype: DataType, dims: &[usize]) -> InputSpec {
        let dim = |&d| if d == 0 { Dim::Symbol("n".into()) } else { Dim::Fixed(d) };
        InputSpec { name: "x".into(), dtype, shape: Some(dims.iter().map(dim).collect()) }
    }

    #[test]
    fn shapes_give_samples_as_documented() {
        // The input's dimensions, the array's shape, and count, shape and rest of the samples.
        type Case = (&'static [usize], &'static [usize], Option<(usize, &'static [usize], usize)>);
        let cases: &[Case] = &[
            (&[0, 3, 4], &[10, 3, 4], Some((10, &[1, 3, 4], 0))),
            (&[0, 3, 4], &[10, 2, 3, 4], Some((10, &[2, 3, 4], 0))),
            (&[4, 3], &[10, 3], Some((2, &[4, 3], 2))),
            (&[4, 3], &[3, 3], None),
            (&[3, 0, 0], &[10, 3, 5, 6], Some((10, &[3, 5, 6], 0))),
            (&[1, 3], &[1, 3], Some((1, &[1, 3], 0))),
            (&[0, 3], &[10, 4], None),
            (&[0, 3], &[10], None),
            (&[0, 3], &[0, 3], None),
            (&[0, 0], &[2, 0], None),
            (&[], &[], Some((1, &[], 0))),
            (&[], &[7], Some((7, &[], 0))),
            (&[], &[7, 1], None),
            (&[0], &[7], Some((7, &[1], 0))),
        ];
        for (dims, shape, expected) in cases {
            let expected = expected.map(|(count, shape, left)| Fit { count, shape: shape.to_vec(), left });
            assert_eq!(fit(&spec(DataType::Float, dims), shape), expected, "{dims:?} {shape:?}");
        }
        let open = InputSpec { shape: None, ..spec(DataType::Float, &[]) };
        assert_eq!(fit(&open, &[5, 2]), Some(Fit { count: 5, shape: vec![1, 2], left: 0 }));
        assert_eq!(fit(&open, &[]), Some(Fit { count: 1, shape: vec![], left: 0 }));
    }

    #[test]
    fn numbers_are_converted_where_they_survive() {
        let f64s = [1.0, -0.5, f64::INFINITY];
        let t = Tensor::new(DataType::Double, vec![3], f64s.map(f64::to_le_bytes).concat().into()).unwrap();
        for to in [DataType::Float, DataType::Float16, DataType::Bfloat16, DataType::Double] {
            let converted = convert(t.clone(), to).unwrap();
            assert_eq!((converted.dtype(), &converted.f32s().unwrap()[..]), (to, &[1.0, -0.5, f32::INFINITY][..]));
        }
        let large = Tensor::from_f32(vec![1], vec![70000.0]);
        assert!(convert(large, DataType::Float16).unwrap_err().to_string().contains("70000 does not fit float16"));
        let exact = Tensor::new(DataType::Float16, vec![1], half::f16::from_f32(0.1).to_le_bytes().to_vec().into());
        assert_eq!(convert(exact.unwrap(), DataType::Float).unwrap().f32s().unwrap()[0], 0.099975586);

        let t = Tensor::from_i64(vec![2], vec![1, -2]);
        assert_eq!(convert(t.clone(), DataType::Int32).unwrap().i64s().unwrap(), [1, -2]);
        assert!(convert(t, DataType::Uint8).unwrap_err().to_string().contains("-2 does not fit uint8"));
        let t = Tensor::from_i64(vec![1], vec![1 << 40]);
        assert!(convert(t, DataType::Int32).is_err());
        assert!(!converts(DataType::Uint8, DataType::Float) && !converts(DataType::Bool, DataType::Int64));
    }

    #[test]
    fn errors_show_expected_and_found_and_the_way_out() {
        let image = spec(DataType::Float, &[0, 3, 8, 9]);
        let cases: &[(DataType, &[usize], &str)] = &[
            (DataType::Float, &[10, 8, 9, 3], "np.transpose(x, (0, 3, 1, 2))"),
            (DataType::Float, &[3, 8, 9], "x[np.newaxis]"),
            (DataType::Uint8, &[10, 3, 8, 9], "scale and normalise"),
            (DataType::Int64, &[10, 3, 8, 9], "x.astype(np.float32)"),
            (DataType::Float, &[0, 3, 8, 9], "empty"),
            (DataType::Float, &[10, 3, 8], "first axis"),
        ];
        for (dtype, shape, hint) in cases {
            let found = ArraySpec { name: "y".into(), element: Element::Known(*dtype), shape: shape.to_vec() };
            let e = misfit(&image, &found, "calib.npz");
            let message = format!("expected `x: float32 [n, 3, 8, 9]`, found `{found}` in `calib.npz`");
            assert_eq!(e.to_string(), message);
            assert!(e.way_out().unwrap().contains(hint), "{:?}", e.way_out());
        }
    }
}
