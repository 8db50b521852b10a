//! Which numbers of a tensor share a scale.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result, listed};

/// Which numbers of a tensor share a scale: they are a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// All of them.
    Tensor,
    /// Those with the same index along an axis: one group for each index.
    Channel {
        /// The axis, counted from the front.
        axis: usize,
    },
    /// So many neighbours along an axis; the last block of a row may be shorter. The groups have the shape of the
    /// tensor but for the axis, which has `ceil(dimension / size)` (DequantizeLinear-21, "blocked").
    Block {
        /// The axis, counted from the front.
        axis: usize,
        /// How many neighbours, at least 1.
        size: usize,
    },
}

/// A tensor as the groups see it: `outer` times `length` times `inner` numbers, the axis in the middle.
pub(super) struct Split {
    pub outer: usize,
    pub length: usize,
    pub inner: usize,
}

impl Granularity {
    /// The axis along which the scales change, counted from the front; `None` where there is one scale.
    pub fn axis(self) -> Option<usize> {
        match self {
            Granularity::Tensor => None,
            Granularity::Channel { axis } | Granularity::Block { axis, .. } => Some(axis),
        }
    }

    /// How many groups a tensor of this shape has. Groups are counted in row-major order.
    ///
    /// Errors when the axis is outside the shape.
    pub fn groups(self, shape: &[usize]) -> Result<usize> {
        let Split { outer, length, inner } = self.split(shape)?;
        Ok(match self {
            Granularity::Tensor => 1,
            Granularity::Channel { .. } => length,
            Granularity::Block { size, .. } => outer.saturating_mul(length.div_ceil(size.max(1))).saturating_mul(inner),
        })
    }

    /// The shape of the scales of a tensor of this shape, as DequantizeLinear takes them: none for a tensor, rank 1 for
    /// channels, and the rank of the tensor for blocks.
    ///
    /// Errors when the axis is outside the shape.
    pub fn scale_shape(self, shape: &[usize]) -> Result<Vec<usize>> {
        let groups = self.groups(shape)?;
        Ok(match self {
            Granularity::Tensor => Vec::new(),
            Granularity::Channel { .. } => vec![groups],
            Granularity::Block { axis, size } => {
                let mut shape = shape.to_vec();
                shape[axis] = shape[axis].div_ceil(size.max(1));
                shape
            }
        })
    }

    /// Visits a tensor in runs of neighbouring numbers, each with the groups they belong to: one group for the whole
    /// run, or one for each number.
    ///
    /// Errors when the axis is outside the shape.
    pub fn each_run(self, shape: &[usize], mut visit: impl FnMut(Range<usize>, Range<usize>)) -> Result<()> {
        let Split { outer, length, inner } = self.split(shape)?;
        if shape.contains(&0) {
            return Ok(());
        }
        let mut run = |start: usize, len: usize, groups: Range<usize>| visit(start..start + len, groups);
        match self {
            Granularity::Tensor => run(0, length, 0..1),
            Granularity::Channel { .. } if inner == 1 => (0..outer).for_each(|o| run(o * length, length, 0..length)),
            Granularity::Channel { .. } => (0..outer * length).for_each(|s| {
                let c = s % length;
                run(s * inner, inner, c..c + 1);
            }),
            Granularity::Block { size, .. } => {
                let size = size.clamp(1, length);
                let blocks = length.div_ceil(size);
                for o in 0..outer {
                    if inner == 1 {
                        (0..blocks).for_each(|b| {
                            let (start, group) = (b * size, o * blocks + b);
                            run(o * length + start, size.min(length - start), group..group + 1);
                        });
                    } else {
                        (0..length).for_each(|i| {
                            let group = (o * blocks + i / size) * inner;
                            run((o * length + i) * inner, inner, group..group + inner);
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// The tensor around the axis of the groups; all numbers along it where there is none.
    ///
    /// Errors when the axis is outside the shape.
    pub(super) fn split(self, shape: &[usize]) -> Result<Split> {
        let product = |dims: &[usize]| dims.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        let Some(axis) = self.axis() else { return Ok(Split { outer: 1, length: product(shape), inner: 1 }) };
        let Some(&length) = shape.get(axis) else {
            let what = format!("axis {axis} is outside the shape {}", listed(shape));
            return Err(Error::new(ErrorKind::InvalidModel, what));
        };
        Ok(Split { outer: product(&shape[..axis]), length, inner: product(&shape[axis + 1..]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_are_cut_along_their_axis() {
        let runs = |axis, size, shape: &[usize]| {
            let mut found = Vec::new();
            Granularity::Block { axis, size }.each_run(shape, |span, groups| found.push((span, groups))).unwrap();
            found
        };
        assert_eq!(runs(1, 2, &[2, 3]), [(0..2, 0..1), (2..3, 1..2), (3..5, 2..3), (5..6, 3..4)]);
        assert_eq!(runs(0, 2, &[3, 2]), [(0..2, 0..2), (2..4, 0..2), (4..6, 2..4)]);
        assert_eq!(runs(0, usize::MAX, &[2, 2]), [(0..2, 0..2), (2..4, 0..2)]);
        assert_eq!(runs(0, 2, &[usize::MAX, 0, usize::MAX]), []);
        assert!(
            Granularity::Channel { axis: 1 }.groups(&[3]).unwrap_err().to_string().contains("outside the shape [3]")
        );
    }

    proptest! {
        #[test]
        fn every_number_belongs_to_the_group_that_its_place_says(
            shape in proptest::collection::vec(0usize..5, 1..4), axis in 0usize..3, size in 0usize..6,
        ) {
            let axis = axis % shape.len();
            let inner: usize = shape[axis + 1..].iter().product();
            for g in [Granularity::Tensor, Granularity::Channel { axis }, Granularity::Block { axis, size: size.max(1) }] {
                let mut seen = vec![None; shape.iter().product()];
                g.each_run(&shape, |span, groups| {
                    assert!(groups.len() == 1 || groups.len() == span.len());
                    for (k, i) in span.enumerate() {
                        seen[i] = Some(groups.start + if groups.len() == 1 { 0 } else { k });
                    }
                }).unwrap();
                let groups = g.groups(&shape).unwrap();
                for (i, group) in seen.into_iter().enumerate() {
                    let along = i / inner % shape[axis];
                    let want = match g {
                        Granularity::Tensor => 0,
                        Granularity::Channel { .. } => along,
                        Granularity::Block { size, .. } => {
                            let blocks = shape[axis].div_ceil(size);
                            (i / inner / shape[axis] * blocks + along / size) * inner + i % inner
                        }
                    };
                    prop_assert!(group == Some(want) && want < groups, "{g:?} {i}: {group:?}");
                }
            }
        }
    }
}
