//! A layer's weight as a matrix.

use std::borrow::Cow;

use crate::model::{NodeExt, NodeProto};

/// The weight of a layer as matrices, one for each group: a row for what an output is computed by, a column for each number of
/// a patch of the input ([`Patches`](super::Patches)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightMatrix {
    /// How many matrices there are, one behind the other.
    pub groups: usize,
    /// Rows of a matrix.
    pub rows: usize,
    /// Columns of a matrix.
    pub columns: usize,
    /// Whether it lies column by column.
    transposed: bool,
}

impl WeightMatrix {
    /// That of a weight of this shape in slot 1 of Conv, ConvTranspose, Gemm or MatMul; `None` for other operators and for
    /// shapes that do not fit.
    pub fn of(node: &NodeProto, shape: &[usize]) -> Option<WeightMatrix> {
        let groups = usize::try_from(node.int("group").unwrap_or(1)).ok().filter(|&g| g > 0)?;
        let inner = shape.get(1..)?.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        let grouped = shape.len() >= 3 && shape[0].is_multiple_of(groups);
        let transposed = |yes: bool| match yes {
            true => WeightMatrix { groups: 1, rows: inner, columns: shape[0], transposed: true },
            false => WeightMatrix { groups: 1, rows: shape[0], columns: inner, transposed: false },
        };
        match node.op_type() {
            op if !node.is(op) => None,
            "Conv" if grouped => {
                Some(WeightMatrix { groups, rows: shape[0] / groups, columns: inner, transposed: false })
            }
            "ConvTranspose" if grouped => {
                Some(WeightMatrix { groups, rows: inner, columns: shape[0] / groups, transposed: true })
            }
            "Gemm" if shape.len() == 2 => Some(transposed(node.int("transB").unwrap_or(0) == 0)),
            "MatMul" if shape.len() == 2 => Some(transposed(true)),
            _ => None,
        }
    }

    /// Where an element is in the weight.
    pub fn place(&self, group: usize, row: usize, column: usize) -> usize {
        let inside = if self.transposed { column * self.rows + row } else { row * self.columns + column };
        group * self.rows * self.columns + inside
    }

    /// The matrix of a group, row by row.
    pub fn matrix<'a, T: Copy>(&self, group: usize, weight: &'a [T]) -> Cow<'a, [T]> {
        let size = self.rows * self.columns;
        let part = &weight[group * size..(group + 1) * size];
        match self.transposed {
            false => Cow::Borrowed(part),
            true => Cow::Owned(self.turned(part, self.rows, self.columns)),
        }
    }

    /// Puts the matrix of a group, row by row, into the weight.
    pub fn put<T: Copy>(&self, group: usize, matrix: &[T], weight: &mut [T]) {
        let size = self.rows * self.columns;
        let part = &mut weight[group * size..(group + 1) * size];
        match self.transposed {
            false => part.copy_from_slice(matrix),
            true => part.copy_from_slice(&self.turned(matrix, self.columns, self.rows)),
        }
    }

    /// A matrix that lies in columns of `rows` numbers, row by row.
    fn turned<T: Copy>(&self, x: &[T], rows: usize, columns: usize) -> Vec<T> {
        let mut turned = Vec::with_capacity(x.len());
        (0..rows).for_each(|row| turned.extend((0..columns).map(|column| x[column * rows + row])));
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attribute;

    #[test]
    fn rows_are_outputs_and_columns_are_inputs() {
        let node =
            |op: &str, attributes| NodeProto { op_type: Some(op.into()), attribute: attributes, ..Default::default() };
        let (grouped, trans) = (|| vec![attribute::int("group", 2)], || vec![attribute::int("transB", 1)]);
        type Case = (NodeProto, &'static [usize], [usize; 3], &'static [usize]);
        // The elements of the second matrix, or of the only one, row by row.
        let cases: [Case; 5] = [
            (node("Conv", grouped()), &[4, 1, 2], [2, 2, 2], &[4, 5, 6, 7]),
            (node("ConvTranspose", grouped()), &[4, 1, 2], [2, 2, 2], &[4, 6, 5, 7]),
            (node("Gemm", vec![]), &[2, 3], [1, 3, 2], &[0, 3, 1, 4, 2, 5]),
            (node("Gemm", trans()), &[2, 3], [1, 2, 3], &[0, 1, 2, 3, 4, 5]),
            (node("MatMul", vec![]), &[2, 3], [1, 3, 2], &[0, 3, 1, 4, 2, 5]),
        ];
        for (node, shape, [groups, rows, columns], last) in cases {
            let matrix = WeightMatrix::of(&node, shape).unwrap();
            assert_eq!((matrix.groups, matrix.rows, matrix.columns), (groups, rows, columns), "{}", node.op_type());
            let weight: Vec<usize> = (0..shape.iter().product()).collect();
            let found = matrix.matrix(groups - 1, &weight);
            assert_eq!(*found, *last, "{}", node.op_type());
            let places = (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c)));
            assert!(places.zip(&*found).all(|((r, c), &at)| matrix.place(groups - 1, r, c) == at));
            let mut back = vec![0; weight.len()];
            (0..groups).for_each(|g| matrix.put(g, &matrix.matrix(g, &weight), &mut back));
            assert_eq!(back, weight);
        }
        assert_eq!(WeightMatrix::of(&node("Add", vec![]), &[2, 2]), None);
        assert_eq!(WeightMatrix::of(&node("Conv", grouped()), &[3, 1, 2]), None);
    }
}
