//! Which channel each element of a weight belongs to.

use std::ops::{MulAssign, Range};

use crate::model::{NodeExt, NodeProto};

/// The channels of a weight's elements, along its outputs or its inputs.
///
/// Element `i`, row major, belongs to channel `i / outer * stride + i / inner % count`: `outer` elements form a group
/// of `count` channels, in which `inner` neighbours share one. Without groups `stride` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelIndex {
    outer: usize,
    stride: usize,
    inner: usize,
    count: usize,
    channels: usize,
}

impl ChannelIndex {
    /// The channels along one axis. `None` if the shape has no such axis.
    pub fn along(shape: &[usize], axis: usize) -> Option<ChannelIndex> {
        let count = *shape.get(axis)?;
        let inner = shape[axis + 1..].iter().product();
        Some(ChannelIndex { outer: usize::MAX, stride: 0, inner, count, channels: count })
    }

    /// The output channels of a weight of this shape in slot 1 of Conv, ConvTranspose, Gemm or MatMul.
    ///
    /// Conv `[M, C/g, ..]`: axis 0. ConvTranspose `[C, M/g, ..]`: `group * M/g + i` for index `i` of axis 1. Gemm:
    /// columns, rows with `transB`. MatMul `[K, N]`: columns. `None` for other operators and for shapes that do not fit.
    pub fn outputs(node: &NodeProto, shape: &[usize]) -> Option<ChannelIndex> {
        match node.op_type() {
            op if !node.is(op) => None,
            "Conv" if shape.len() >= 3 => Self::along(shape, 0),
            "ConvTranspose" if shape.len() >= 3 => Self::within_groups(shape, groups(node)),
            "Gemm" if shape.len() == 2 => Self::along(shape, usize::from(!transposed(node))),
            "MatMul" if shape.len() == 2 => Self::along(shape, 1),
            _ => None,
        }
    }

    /// The input channels of such a weight.
    ///
    /// Conv: `group * C/g + i` for index `i` of axis 1. ConvTranspose: axis 0. Gemm: rows, columns with `transB`.
    /// MatMul: rows.
    pub fn inputs(node: &NodeProto, shape: &[usize]) -> Option<ChannelIndex> {
        match node.op_type() {
            op if !node.is(op) => None,
            "Conv" if shape.len() >= 3 => Self::within_groups(shape, groups(node)),
            "ConvTranspose" if shape.len() >= 3 => Self::along(shape, 0),
            "Gemm" if shape.len() == 2 => Self::along(shape, usize::from(transposed(node))),
            "MatMul" if shape.len() == 2 => Self::along(shape, 0),
            _ => None,
        }
    }

    /// Axis 1 counted on from group to group, where axis 0 is divided into groups.
    fn within_groups(shape: &[usize], groups: usize) -> Option<ChannelIndex> {
        if groups == 0 || !shape[0].is_multiple_of(groups) {
            return None;
        }
        let inner: usize = shape[2..].iter().product();
        let outer = (shape[0] / groups).checked_mul(shape[1])?.checked_mul(inner)?;
        Some(ChannelIndex { outer, stride: shape[1], inner, count: shape[1], channels: shape[1].checked_mul(groups)? })
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Visits `len` elements in runs that share a channel.
    pub fn each_run(&self, len: usize, mut visit: impl FnMut(usize, Range<usize>)) {
        self.each_row(len, |base, row| {
            for (c, start) in row.clone().step_by(self.inner.max(1)).enumerate() {
                visit(base + c, start..start + self.inner);
            }
        });
    }

    /// Visits `len` elements in rows that hold neighbouring channels, the first of which is named.
    fn each_row(&self, len: usize, mut visit: impl FnMut(usize, Range<usize>)) {
        let row = self.count * self.inner;
        if row == 0 || self.outer == 0 {
            return;
        }
        for start in (0..len).step_by(row) {
            visit(start / self.outer * self.stride, start..(start + row).min(len));
        }
    }

    /// Each channel's largest magnitude; NaN is passed over.
    pub fn magnitudes(&self, x: &[f32]) -> Vec<f32> {
        let mut most = vec![0f32; self.channels];
        if self.inner == 1 {
            self.each_row(x.len(), |base, row| {
                most[base..].iter_mut().zip(&x[row]).for_each(|(m, x)| *m = m.max(x.abs()));
            });
        } else {
            self.each_run(x.len(), |c, run| most[c] = x[run].iter().fold(most[c], |m, x| m.max(x.abs())));
        }
        most
    }

    /// The sum of each channel's elements.
    pub fn sums(&self, x: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.channels];
        if self.inner == 1 {
            self.each_row(x.len(), |base, row| sums[base..].iter_mut().zip(&x[row]).for_each(|(s, x)| *s += x));
        } else {
            self.each_run(x.len(), |c, run| sums[c] += x[run].iter().sum::<f64>());
        }
        sums
    }

    /// Multiplies every element by its channel's factor.
    pub fn scale<T: Copy + MulAssign>(&self, x: &mut [T], factors: &[T]) {
        if self.inner == 1 {
            self.each_row(x.len(), |base, row| {
                x[row].iter_mut().zip(&factors[base..]).for_each(|(x, &f)| *x *= f);
            });
        } else {
            self.each_run(x.len(), |c, run| x[run].iter_mut().for_each(|x| *x *= factors[c]));
        }
    }
}

fn groups(node: &NodeProto) -> usize {
    usize::try_from(node.int("group").unwrap_or(1)).unwrap_or(0)
}

fn transposed(node: &NodeProto) -> bool {
    node.int("transB").unwrap_or(0) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attribute;

    fn node(op: &str, attributes: Vec<crate::model::AttributeProto>) -> NodeProto {
        NodeProto { op_type: Some(op.into()), attribute: attributes, ..Default::default() }
    }

    fn table(index: ChannelIndex, len: usize) -> Vec<usize> {
        let mut of = vec![usize::MAX; len];
        index.each_run(len, |c, run| of[run].fill(c));
        of
    }

    #[test]
    fn channels_lie_where_the_operators_say() {
        let grouped = || vec![attribute::int("group", 2)];
        let trans = || vec![attribute::int("transB", 1)];
        type Case = (NodeProto, &'static [usize], &'static [usize], &'static [usize]);
        let cases: Vec<Case> = vec![
            (node("Conv", vec![]), &[2, 2, 2], &[0, 0, 0, 0, 1, 1, 1, 1], &[0, 0, 1, 1, 0, 0, 1, 1]),
            (node("Conv", grouped()), &[4, 2, 1], &[0, 0, 1, 1, 2, 2, 3, 3], &[0, 1, 0, 1, 2, 3, 2, 3]),
            (node("ConvTranspose", grouped()), &[4, 2, 1], &[0, 1, 0, 1, 2, 3, 2, 3], &[0, 0, 1, 1, 2, 2, 3, 3]),
            (node("Gemm", vec![]), &[2, 3], &[0, 1, 2, 0, 1, 2], &[0, 0, 0, 1, 1, 1]),
            (node("Gemm", trans()), &[2, 3], &[0, 0, 0, 1, 1, 1], &[0, 1, 2, 0, 1, 2]),
            (node("MatMul", vec![]), &[2, 3], &[0, 1, 2, 0, 1, 2], &[0, 0, 0, 1, 1, 1]),
        ];
        for (node, shape, outputs, inputs) in cases {
            let len = shape.iter().product();
            for (index, want) in
                [(ChannelIndex::outputs(&node, shape), outputs), (ChannelIndex::inputs(&node, shape), inputs)]
            {
                let index = index.unwrap();
                assert_eq!(table(index, len), want, "{} {shape:?}", node.op_type());
                assert_eq!(index.channels(), want.iter().max().unwrap() + 1);
                let x: Vec<f32> = (0..len).map(|i| if i % 2 == 0 { i as f32 } else { -(i as f32) }).collect();
                let most = |c| (0..len).filter(|&i| want[i] == c).map(|i| i as f32).fold(0.0, f32::max);
                assert_eq!(index.magnitudes(&x), (0..index.channels()).map(most).collect::<Vec<_>>());
                let sum = |c| (0..len).filter(|&i| want[i] == c).map(|i| f64::from(x[i])).sum::<f64>();
                let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
                assert_eq!(index.sums(&wide), (0..index.channels()).map(sum).collect::<Vec<_>>());
                let factors: Vec<f64> = (0..index.channels()).map(|c| (c + 2) as f64).collect();
                let mut scaled = vec![1.0; len];
                index.scale(&mut scaled, &factors);
                assert!((0..len).all(|i| scaled[i] == (want[i] + 2) as f64));
            }
        }
        assert_eq!(ChannelIndex::outputs(&node("MatMul", vec![]), &[2, 3, 4]), None);
        assert_eq!(ChannelIndex::inputs(&node("Conv", grouped()), &[3, 2, 1]), None);
        assert_eq!(ChannelIndex::outputs(&node("Relu", vec![]), &[3, 2, 1]), None);
    }
}
