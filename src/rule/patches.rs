//! What of its input one output of a layer is computed from.

use crate::model::{NodeExt, NodeProto};

/// The patches of a layer's input: with the weight as a matrix, each output is a row of it times a patch.
///
/// Gemm and MatMul: the rows of the input (its columns with `transA`). Conv: the window under the kernel, channels outermost, as
/// in the weight, zeros where it is padded; one kind for each group. ConvTranspose: the channels of one place, since every tap
/// of the kernel reads that place alone; that the taps are added up to one output is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patches {
    kind: Kind,
    groups: usize,
    columns: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Along the last axis.
    Rows,
    /// Along the first of two axes.
    Columns,
    /// Windows of an image, which lies along two axes (the first of size 1 for a signal).
    Windows(Window),
}

/// A window: numbers for the vertical and the horizontal axis.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    padding: Padding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Padding {
    /// In front and behind.
    Given([usize; 2], [usize; 2]),
    /// As much as makes the output as large as the input over the stride; the odd one in front if `true`.
    Same(bool),
}

/// The patches of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    batch: usize,
    channels: usize,
    /// Sizes of the image, or the rows of a matrix.
    size: [usize; 2],
    /// How many windows there are along both axes.
    windows: [usize; 2],
    /// Zeros in front of the image.
    front: [usize; 2],
}

impl Places {
    /// How many patches there are.
    pub fn count(&self) -> usize {
        self.batch * self.windows[0] * self.windows[1]
    }

    /// The rows of windows that are looked at where so many windows of an image are enough: all, or some evenly spread.
    fn rows(&self, enough: usize) -> Vec<usize> {
        let [down, along] = self.windows;
        let kept = (enough / along.max(1)).clamp(1, down.max(1)).min(down);
        (0..kept).map(|i| i * down / kept).collect()
    }
}

/// How patches are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// So many at a time where they must be laid out.
    pub at_a_time: usize,
    /// So many windows of an image are enough: whole rows of windows, evenly spread.
    pub enough: usize,
}

/// Some patches, where they lie or laid out: number `c` of patch `p` is `numbers[c * column_stride + p * patch_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct PatchView<'a> {
    /// The numbers.
    pub numbers: &'a [f32],
    /// How far neighbours in a patch lie apart.
    pub column_stride: usize,
    /// How far patches lie apart.
    pub patch_stride: usize,
    /// How many patches there are.
    pub count: usize,
}

impl Patches {
    /// Those of the node whose weight, in slot 1, has this shape; `None` for operators without, for images of more than two axes,
    /// and where the shape does not fit.
    pub fn of(node: &NodeProto, weight: &[usize]) -> Option<Patches> {
        let product = |shape: &[usize]| shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let groups = usize::try_from(node.int("group").unwrap_or(1)).ok().filter(|&g| g > 0)?;
        match node.op_type() {
            op if !node.is(op) => None,
            "MatMul" if weight.len() == 2 => Some(Patches { kind: Kind::Rows, groups: 1, columns: weight[0] }),
            "Gemm" if weight.len() == 2 => {
                let set = |name: &str| node.int(name).unwrap_or(0) != 0;
                let kind = if set("transA") { Kind::Columns } else { Kind::Rows };
                Some(Patches { kind, groups: 1, columns: weight[usize::from(set("transB"))] })
            }
            "Conv" if (3..=4).contains(&weight.len()) && weight[0].is_multiple_of(groups) => {
                let window = Window::of(node, &weight[2..])?;
                Some(Patches { kind: Kind::Windows(window), groups, columns: product(&weight[1..])? })
            }
            "ConvTranspose" if (3..=4).contains(&weight.len()) && weight[0].is_multiple_of(groups) => {
                Some(Patches { kind: Kind::Windows(Window::POINT), groups, columns: weight[0] / groups })
            }
            _ => None,
        }
    }

    /// How many kinds of patches there are, each for some of the outputs.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// How many numbers a patch has.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The patches of a value of this shape; `None` where it has none.
    pub fn places(&self, shape: &[usize]) -> Option<Places> {
        let rows = |rows: usize, columns: usize| {
            let (size, windows) = ([rows, 1], [rows, 1]);
            (columns == self.columns).then_some(Places { batch: 1, channels: columns, size, windows, front: [0, 0] })
        };
        match (&self.kind, shape) {
            (Kind::Rows, [outer @ .., last]) => rows(outer.iter().product(), *last),
            (Kind::Columns, [first, second]) => rows(*second, *first),
            (Kind::Windows(window), [batch, channels, size @ ..]) if (1..=2).contains(&size.len()) => {
                let size = if let [length] = size { [1, *length] } else { [size[0], size[1]] };
                let (windows, front) = window.along(size)?;
                let taps = window.kernel[0] * window.kernel[1];
                let fits = channels / self.groups * taps == self.columns && channels.is_multiple_of(self.groups);
                let fits = fits && size[0] * size[1] > 0;
                fits.then_some(Places { batch: *batch, channels: *channels, size, windows, front })
            }
            _ => None,
        }
    }

    /// Shows the patches of a group, those of all the values side by side.
    pub fn visit<const N: usize>(
        &self,
        values: [&[f32]; N],
        places: &Places,
        group: usize,
        look: Look,
        mut show: impl FnMut([PatchView<'_>; N]),
    ) {
        let count = places.windows[0];
        match &self.kind {
            _ if places.count() == 0 || self.columns == 0 => {}
            Kind::Rows => {
                show(values.map(|numbers| PatchView { numbers, column_stride: 1, patch_stride: self.columns, count }));
            }
            Kind::Columns => {
                show(values.map(|numbers| PatchView { numbers, column_stride: count, patch_stride: 1, count }));
            }
            Kind::Windows(window) => {
                let area = places.size[0] * places.size[1];
                let depth = places.channels / self.groups;
                let rows = places.rows(look.enough);
                for item in 0..places.batch {
                    let start = (item * places.channels + group * depth) * area;
                    let images = values.map(|x| &x[start..start + depth * area]);
                    let point = |start: usize, count| {
                        images.map(|image| {
                            let numbers = &image[start..];
                            PatchView { numbers, column_stride: area, patch_stride: 1, count }
                        })
                    };
                    match *window {
                        Window::POINT if rows.len() == places.windows[0] => show(point(0, area)),
                        Window::POINT => rows.iter().for_each(|row| show(point(row * places.size[1], places.size[1]))),
                        _ => window.lay_out(images, places, &rows, look.at_a_time, &mut show),
                    }
                }
            }
        }
    }
}

impl Window {
    const POINT: Window =
        Window { kernel: [1, 1], strides: [1, 1], dilations: [1, 1], padding: Padding::Given([0, 0], [0, 0]) };

    fn of(node: &NodeProto, kernel: &[usize]) -> Option<Window> {
        let pair = |values: Option<&[i64]>, missing: usize| -> Option<[usize; 2]> {
            let Some(values) = values.filter(|v| !v.is_empty()) else { return Some([missing; 2]) };
            let values: Vec<usize> = values.iter().map(|&v| usize::try_from(v).ok()).collect::<Option<_>>()?;
            match (&values[..], kernel.len()) {
                (&[along], 1) => Some([missing, along]),
                (&[down, along], 2) => Some([down, along]),
                _ => None,
            }
        };
        let positive = |values: [usize; 2]| values.iter().all(|&v| v > 0).then_some(values);
        let padding = match node.string("auto_pad").unwrap_or("NOTSET") {
            "SAME_UPPER" => Padding::Same(false),
            "SAME_LOWER" => Padding::Same(true),
            "VALID" => Padding::Given([0, 0], [0, 0]),
            _ => {
                let pads = node.ints("pads").unwrap_or_default();
                let half = pads.len() / 2;
                Padding::Given(pair(pads.get(..half), 0)?, pair(pads.get(half..), 0)?)
            }
        };
        let kernel = if let [along] = kernel { [1, *along] } else { [kernel[0], kernel[1]] };
        Some(Window {
            kernel: positive(kernel)?,
            strides: positive(pair(node.ints("strides"), 1)?)?,
            dilations: positive(pair(node.ints("dilations"), 1)?)?,
            padding,
        })
    }

    /// How many windows an image of this size has along both axes, and the zeros in front of it.
    fn along(&self, size: [usize; 2]) -> Option<([usize; 2], [usize; 2])> {
        let (mut windows, mut front) = ([0; 2], [0; 2]);
        for axis in 0..2 {
            let reach = self.dilations[axis].checked_mul(self.kernel[axis] - 1)?.checked_add(1)?;
            let (zeros, count) = match self.padding {
                Padding::Given(before, behind) => {
                    let whole = size[axis].checked_add(before[axis])?.checked_add(behind[axis])?;
                    (before[axis], whole.checked_sub(reach).map_or(0, |room| room / self.strides[axis] + 1))
                }
                Padding::Same(lower) => {
                    let count = size[axis].div_ceil(self.strides[axis]);
                    let needed = (count.saturating_sub(1) * self.strides[axis] + reach).saturating_sub(size[axis]);
                    (if lower { needed.div_ceil(2) } else { needed / 2 }, count)
                }
            };
            (windows[axis], front[axis]) = (count, zeros);
        }
        Some((windows, front))
    }

    /// Lays some rows of windows out, so many windows at a time.
    fn lay_out<const N: usize>(
        &self,
        images: [&[f32]; N],
        places: &Places,
        rows: &[usize],
        most: usize,
        show: &mut impl FnMut([PatchView<'_>; N]),
    ) {
        let along = places.windows[1];
        let area = places.size[0] * places.size[1];
        let columns = images.first().map_or(0, |image| image.len() / area * self.kernel[0] * self.kernel[1]);
        let most = (most / along).clamp(1, rows.len());
        let column_stride = most * along;
        let mut laid = images.map(|_| vec![0f32; columns * column_stride]);
        for rows in rows.chunks(most) {
            let count = rows.len() * along;
            for (image, laid) in images.iter().zip(&mut laid) {
                for (column, tap) in laid.chunks_mut(column_stride).enumerate() {
                    self.lay_tap(image, places, column, rows, &mut tap[..count]);
                }
            }
            show(laid.each_ref().map(|numbers| PatchView { numbers, column_stride, patch_stride: 1, count }));
        }
    }

    /// Lays out one number of each window of some rows.
    fn lay_tap(&self, image: &[f32], places: &Places, column: usize, rows: &[usize], tap: &mut [f32]) {
        let [height, width] = places.size;
        let along = places.windows[1];
        let taps = self.kernel[0] * self.kernel[1];
        let (ky, kx) = (column % taps / self.kernel[1], column % self.kernel[1]);
        let plane = &image[column / taps * height * width..][..height * width];
        // Of the windows of a row, those whose tap lies inside of the image.
        let (shift, stride) = (kx * self.dilations[1], self.strides[1]);
        let first = places.front[1].saturating_sub(shift).div_ceil(stride).min(along);
        let end = (width + places.front[1]).saturating_sub(shift).div_ceil(stride).clamp(first, along);
        let from = (first * stride + shift).saturating_sub(places.front[1]);
        for (row, out) in rows.iter().zip(tap.chunks_mut(along)) {
            let y = row * self.strides[0] + ky * self.dilations[0];
            let line = y.checked_sub(places.front[0]).filter(|&y| y < height);
            let Some(line) = line.map(|y| &plane[y * width..(y + 1) * width]) else {
                out.fill(0.0);
                continue;
            };
            out[..first].fill(0.0);
            out[end..].fill(0.0);
            let inside = &mut out[first..end];
            match stride {
                1 => inside.copy_from_slice(&line[from..from + inside.len()]),
                _ => {
                    let taken = line[from.min(width)..].iter().step_by(stride);
                    inside.iter_mut().zip(taken).for_each(|(out, &x)| *out = x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attribute;

    #[test]
    fn windows_are_where_the_operator_says() {
        // One channel of 2 x 3, numbered from 1, in windows of 2 x 2 with a column of zeros on both sides.
        let attributes = vec![attribute::ints("pads", &[0, 1, 0, 1]), attribute::ints("strides", &[1, 2])];
        let node = NodeProto { op_type: Some("Conv".into()), attribute: attributes, ..Default::default() };
        let patches = Patches::of(&node, &[1, 1, 2, 2]).unwrap();
        let places = patches.places(&[1, 1, 2, 3]).unwrap();
        let x: Vec<f32> = (1..=6).map(|x| x as f32).collect();
        assert_eq!(seen(&patches, &x, &places, 100), [[0.0, 1.0, 0.0, 4.0], [2.0, 3.0, 5.0, 6.0]]);
        assert_eq!(places.count(), 2);
    }

    /// The patches of the first group, where so many of an image are enough.
    fn seen(patches: &Patches, x: &[f32], places: &Places, enough: usize) -> Vec<Vec<f32>> {
        let mut seen = Vec::new();
        patches.visit([x], places, 0, Look { at_a_time: 10, enough }, |[view]| {
            for p in 0..view.count {
                let at = |c: usize| view.numbers[c * view.column_stride + p * view.patch_stride];
                seen.push((0..patches.columns()).map(at).collect::<Vec<f32>>());
            }
        });
        seen
    }

    #[test]
    fn of_many_windows_some_rows_are_seen() {
        for kernel in [1, 3] {
            let attributes = vec![attribute::ints("pads", &[kernel / 2; 4])];
            let node = NodeProto { op_type: Some("Conv".into()), attribute: attributes, ..Default::default() };
            let patches = Patches::of(&node, &[4, 2, kernel as usize, kernel as usize]).unwrap();
            let places = patches.places(&[2, 2, 9, 7]).unwrap();
            let x: Vec<f32> = (0..2 * 2 * 9 * 7).map(|x| x as f32).collect();
            let all = seen(&patches, &x, &places, 63);
            assert_eq!((all.len(), seen(&patches, &x, &places, usize::MAX)), (2 * 63, all.clone()));
            let some = seen(&patches, &x, &places, 22);
            let rows = [0, 3, 6].into_iter().chain([9, 12, 15]);
            let expected: Vec<Vec<f32>> = rows.flat_map(|row| all[row * 7..(row + 1) * 7].to_vec()).collect();
            assert_eq!(some, expected, "{kernel}");
            assert_eq!(seen(&patches, &x, &places, 0).len(), 2 * 7);
        }
    }

    #[test]
    fn what_does_not_fit_has_no_patches() {
        let node = |op: &str, group| {
            let attribute = vec![attribute::int("group", group)];
            NodeProto { op_type: Some(op.into()), attribute, ..Default::default() }
        };
        for (op, group, shape) in [
            ("Conv", 0, &[4, 1, 1, 1][..]),
            ("Conv", 3, &[4, 1, 1, 1]),
            ("Conv", 1, &[1; 5]),
            ("Add", 1, &[2, 2]),
            ("MatMul", 1, &[2; 3]),
        ] {
            assert_eq!(Patches::of(&node(op, group), shape), None, "{op} {shape:?}");
        }
        let patches = Patches::of(&node("Conv", 1), &[4, 3, 2, 2]).unwrap();
        for shape in [&[1, 2, 5, 5][..], &[1, 5], &[3], &[1, 3, 0, 5]] {
            assert_eq!(patches.places(shape), None, "{shape:?}");
        }
        // Smaller than the kernel: there is no window.
        assert_eq!(patches.places(&[1, 3, 1, 5]).unwrap().count(), 0);
    }
}
