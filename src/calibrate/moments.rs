//! Second moments of what layers read: the sums of `x x^T` over all places and samples that rounding weighs its errors by.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

use nalgebra::{DMatrixView, DMatrixViewMut, Dyn};

use crate::error::{Place, Result};
use crate::events::Events;
use crate::exec::{Runner, Seen, spread};
use crate::number::sum;
use crate::rule::{PatchView, Patches};
use crate::sample::Samples;

/// Patches that are laid out at a time.
const CHUNK: usize = 1024;

/// The first and second moments of the patches that a layer reads, one set for each group of channels.
///
/// With `x` a patch (what one output is computed from: a row of a matrix, a window of an image) and `n` of them, `sums` is the
/// sum of `x` and `products` that of `x x^T`.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchMoments {
    /// How many numbers a patch has.
    pub columns: usize,
    /// How many patches were seen.
    pub count: f64,
    /// For each group, `columns` sums.
    pub sums: Vec<Vec<f64>>,
    /// For each group, `columns * columns` sums, symmetric.
    pub products: Vec<Vec<f64>>,
}

impl PatchMoments {
    fn new(patches: &Patches) -> PatchMoments {
        let (groups, columns) = (patches.groups(), patches.columns());
        PatchMoments {
            columns,
            count: 0.0,
            sums: vec![vec![0.0; columns]; groups],
            products: vec![vec![0.0; columns * columns]; groups],
        }
    }

    /// The mean of each number of a patch, group after group.
    pub fn means(&self) -> Vec<f64> {
        self.sums.iter().flatten().map(|sum| sum / self.count.max(1.0)).collect()
    }

    /// The products with the mean taken off: what is left of errors when their mean is made good by a bias.
    pub fn centered(&self) -> Vec<Vec<f64>> {
        let center = |(sums, products): (&Vec<f64>, &Vec<f64>)| {
            let mut centered = products.clone();
            for (row, &sum) in centered.chunks_mut(self.columns.max(1)).zip(sums) {
                row.iter_mut().zip(sums).for_each(|(x, &other)| *x -= sum * other / self.count.max(1.0));
            }
            centered
        };
        self.sums.iter().zip(&self.products).map(center).collect()
    }

    /// Copies the half that was added up to the other.
    fn complete(&mut self) {
        for products in &mut self.products {
            for row in 1..self.columns {
                let (above, below) = products.split_at_mut(row * self.columns);
                below[..row].iter().enumerate().for_each(|(i, &x)| above[i * self.columns + row] = x);
            }
        }
    }

    /// Bytes that the moments of such patches take.
    pub fn size(patches: &Patches) -> usize {
        8 * patches.groups() * patches.columns() * (patches.columns() + 1)
    }

    /// Adds those of other patches of the same kind.
    pub fn merge(&mut self, other: &PatchMoments) {
        self.count += other.count;
        let add = |(all, part): (&mut Vec<f64>, &Vec<f64>)| all.iter_mut().zip(part).for_each(|(all, x)| *all += x);
        self.sums.iter_mut().zip(&other.sums).for_each(add);
        self.products.iter_mut().zip(&other.products).for_each(add);
    }

    /// Adds those of a sample.
    fn add(&mut self, part: &Part) {
        self.count += part.count;
        let columns = self.columns.max(1);
        for (sums, part) in self.sums.iter_mut().zip(part.sums.chunks(columns)) {
            sums.iter_mut().zip(part).for_each(|(all, &x)| *all += x);
        }
        for (products, part) in self.products.iter_mut().zip(part.products.chunks(columns * columns)) {
            for (row, (all, part)) in products.chunks_mut(columns).zip(part.chunks(columns)).enumerate() {
                all[..=row].iter_mut().zip(&part[..=row]).for_each(|(all, &x)| *all += f64::from(x));
            }
        }
    }
}

/// The moments of one sample: of the products the half up to the diagonal, row by row.
#[derive(Default)]
struct Part {
    count: f64,
    sums: Vec<f64>,
    products: Vec<f32>,
}

impl Part {
    /// Makes it those of a value of this shape; `false` where patches do not fit it.
    fn take(&mut self, x: &[f32], shape: &[usize], patches: &Patches) -> bool {
        let Some(places) = patches.places(shape) else { return false };
        let (groups, columns) = (patches.groups(), patches.columns());
        self.count = places.count() as f64;
        self.sums.clear();
        self.sums.resize(groups * columns, 0.0);
        self.products.clear();
        self.products.resize(groups * columns * columns, 0.0);
        if columns > 0 {
            let sums = self.sums.chunks_mut(columns);
            let parts = sums.zip(self.products.chunks_mut(columns * columns));
            for (group, (sums, products)) in parts.enumerate() {
                patches.visit(x, &places, group, CHUNK, |view| {
                    add_sums(&view, sums);
                    add_products(&view, columns, products);
                });
            }
        }
        true
    }

    fn is_finite(&self) -> bool {
        self.products.iter().all(|x| x.is_finite())
    }
}

/// Adds up each number of the patches.
fn add_sums(view: &PatchView<'_>, sums: &mut [f64]) {
    if view.patch_stride == 1 {
        let columns = view.numbers.chunks(view.column_stride.max(1));
        sums.iter_mut().zip(columns).for_each(|(all, x)| *all += sum(&x[..view.count]));
    } else {
        for patch in view.numbers.chunks(view.patch_stride).take(view.count) {
            sums.iter_mut().zip(patch).for_each(|(all, &x)| *all += f64::from(x));
        }
    }
}

/// So many columns of products are made together, with the rows up to their diagonal.
const PANEL: usize = 192;

/// Adds up the product of each patch with itself.
fn add_products(view: &PatchView<'_>, columns: usize, products: &mut [f32]) {
    let (count, numbers, down, along) = (view.count, view.numbers, view.column_stride, view.patch_stride);
    // The crate's own loops, which take over below six rows or columns, run out of a view whose rows are not next to each other.
    if columns.min(count) <= 5 {
        let mut patch = vec![0.0; columns];
        for p in 0..count {
            patch.iter_mut().enumerate().for_each(|(c, x)| *x = numbers[c * down + p * along]);
            for (row, all) in products.chunks_mut(columns).enumerate() {
                let by = patch[row];
                all[..=row].iter_mut().zip(&patch).for_each(|(all, x)| *all += by * x);
            }
        }
        return;
    }
    // The rows of the slice are the columns of the matrix. The last panel is not narrower than the crate's loops want.
    let panels = columns.div_ceil(PANEL);
    for panel in 0..panels {
        let (first, end) = (panel * columns / panels, (panel + 1) * columns / panels);
        let above = view_of(numbers, (end, count), (down, along));
        let these = view_of(&numbers[first * down..], (count, end - first), (along, down));
        let mut out =
            DMatrixViewMut::from_slice_with_strides_mut(&mut products[first * columns..], end, end - first, 1, columns);
        out.gemm(1.0, &above, &these, 1.0);
    }
}

fn view_of(x: &[f32], (rows, columns): (usize, usize), strides: (usize, usize)) -> DMatrixView<'_, f32, Dyn, Dyn> {
    DMatrixView::from_slice_with_strides(x, rows, columns, strides.0, strides.1)
}

/// Sums that take what samples bring in the order of the samples, whichever thread comes first.
struct Desk {
    line: Mutex<Line>,
    moved: Condvar,
}

struct Line {
    next: usize,
    moments: PatchMoments,
    broken: bool,
}

impl Desk {
    /// Waits for a sample's turn, and takes what it brings: `None` where it brings nothing. The samples before it are being run
    /// on other threads, since steps are taken in their order.
    fn hand_in(&self, sample: usize, part: Option<&Part>) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        while line.next < sample {
            line = self.moved.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
        if line.next > sample {
            return;
        }
        match part {
            Some(part) if part.is_finite() => line.moments.add(part),
            Some(_) => line.broken = true,
            None => {}
        }
        line.next += 1;
        self.moved.notify_all();
    }
}

/// A watched value, by its place, and the patches that layers read of it.
pub(crate) type Tap = (usize, Patches);

/// Runs the samples in `picks` and gathers the moments of what the taps see; `None` for those whose value never fits the patches,
/// or holds numbers that are not finite.
///
/// Products are made in f32 for each sample, and added up in f64 in the order of the samples: the outcome does not depend on
/// the number of threads. Memory is that of the moments, and a sample's for each thread.
pub(crate) fn gather_moments(
    runner: &Runner<'_>,
    taps: &[Tap],
    samples: &dyn Samples,
    picks: &[usize],
    events: &dyn Events,
) -> Result<Vec<Option<PatchMoments>>> {
    let desk = |(_, patches): &Tap| Desk {
        line: Mutex::new(Line { next: 0, moments: PatchMoments::new(patches), broken: false }),
        moved: Condvar::new(),
    };
    let desks: Vec<Desk> = taps.iter().map(desk).collect();
    let mut by_value: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    taps.iter().enumerate().for_each(|(tap, (value, _))| by_value.entry(*value).or_default().push(tap));
    let make = || Ok((runner.worker(), Part::default()));
    spread(picks.len(), events, make, |(worker, part), i| {
        // Every desk gets something from every sample, whatever becomes of it: others wait for their turns.
        let _turns = Turns { desks: &desks, sample: i };
        let sample = samples.get(picks[i])?;
        let mut see = |seen: Seen<'_>| {
            for &tap in by_value.get(&seen.value).into_iter().flatten() {
                let fits = part.take(seen.numbers, seen.shape, &taps[tap].1);
                desks[tap].hand_in(i, fits.then_some(&*part));
            }
        };
        worker.run(&sample, &mut see).at(|| format!("sample {}", picks[i])).map(drop)
    })?;
    let found = |desk: Desk| {
        let mut line = desk.line.into_inner().unwrap_or_else(PoisonError::into_inner);
        line.moments.complete();
        (line.moments.count > 0.0 && !line.broken).then_some(line.moments)
    };
    Ok(desks.into_iter().map(found).collect())
}

/// The turns of a sample at all desks, which end with it.
struct Turns<'a> {
    desks: &'a [Desk],
    sample: usize,
}

impl Drop for Turns<'_> {
    fn drop(&mut self) {
        self.desks.iter().for_each(|desk| desk.hand_in(self.sample, None));
    }
}
