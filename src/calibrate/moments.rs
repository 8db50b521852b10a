//! Second moments of what layers read: the sums of `x x^T` over all places and samples that rounding weighs its errors by.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

use multiversion::multiversion;
use nalgebra::{DMatrixView, DMatrixViewMut, Dyn};

use crate::error::{Place, Result};
use crate::events::Events;
use crate::exec::{Runner, Seen, spread};
use crate::number::sum;
use crate::rule::{Look, PatchView, Patches};
use crate::sample::Samples;

/// How many bytes the moments of several values may take together. One whose moments are larger is taken by itself; what does
/// not fit together takes another run of the samples.
pub(crate) const MOST_MOMENTS: usize = 384 << 20;

/// Windows of an image that are enough of it: neighbours tell little that is new.
const LOOK: Look = Look { at_a_time: 1024, enough: 2048 };
/// Where a sample has fewer patches than the columns over this, those of several samples are multiplied together: the products
/// are many more numbers than the patches then.
const FEW: usize = 6;
/// So many numbers of patches wait to be multiplied at most.
const WAITING: usize = 1 << 19;

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
    /// What the layer reads in the float model instead, where that was gathered.
    pub float: Option<FloatSide>,
}

/// The patches `f` that a layer reads in the float model, beside those that it reads behind what is quantized, `x`.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatSide {
    /// For each group, the sums of `f`.
    pub sums: Vec<Vec<f64>>,
    /// For each group, the sums of `f x^T`, `columns * columns`, row by row.
    pub products: Vec<Vec<f64>>,
}

impl FloatSide {
    /// The products with the means taken off, where `sums` are those of `x`, of so many patches.
    pub fn centered(&self, sums: &[Vec<f64>], count: f64) -> Vec<Vec<f64>> {
        let groups = self.products.iter().zip(&self.sums).zip(sums);
        groups.map(|((products, down), along)| centered(products, down, along, count)).collect()
    }
}

/// Products of patches with the means taken off.
fn centered(products: &[f64], down: &[f64], along: &[f64], count: f64) -> Vec<f64> {
    let mut centered = products.to_vec();
    for (row, &sum) in centered.chunks_mut(along.len().max(1)).zip(down) {
        row.iter_mut().zip(along).for_each(|(x, &other)| *x -= sum * other / count.max(1.0));
    }
    centered
}

impl PatchMoments {
    fn new(patches: &Patches, beside: bool) -> PatchMoments {
        let (groups, columns) = (patches.groups(), patches.columns());
        let (sums, products) = (vec![vec![0.0; columns]; groups], vec![vec![0.0; columns * columns]; groups]);
        let float = beside.then(|| FloatSide { sums: sums.clone(), products: products.clone() });
        PatchMoments { columns, count: 0.0, sums, products, float }
    }

    /// The products with the mean taken off: what is left of errors when their mean is made good by a bias.
    pub fn centered(&self) -> Vec<Vec<f64>> {
        let groups = self.products.iter().zip(&self.sums);
        groups.map(|(products, sums)| centered(products, sums, sums, self.count)).collect()
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

    fn is_finite(&self) -> bool {
        self.products.iter().chain(self.float.iter().flat_map(|f| &f.products)).flatten().all(|x| x.is_finite())
    }

    /// Bytes that both halves of the moments of such patches take; `beside` those of the float model.
    pub fn size(patches: &Patches, beside: bool) -> usize {
        16 * (1 + usize::from(beside)) * patches.groups() * patches.columns() * (patches.columns() + 1)
    }

    /// Adds those of other patches of the same kind.
    pub fn merge(&mut self, other: &PatchMoments) {
        self.count += other.count;
        let add = |(all, part): (&mut Vec<f64>, &Vec<f64>)| all.iter_mut().zip(part).for_each(|(all, x)| *all += x);
        self.sums.iter_mut().zip(&other.sums).for_each(add);
        self.products.iter_mut().zip(&other.products).for_each(add);
        if let (Some(float), Some(other)) = (&mut self.float, &other.float) {
            float.sums.iter_mut().zip(&other.sums).for_each(add);
            float.products.iter_mut().zip(&other.products).for_each(add);
        }
    }

    /// Adds products of patches of one group: the half up to the diagonal, row by row.
    fn add_products(&mut self, group: usize, part: &[f32]) {
        let columns = self.columns.max(1);
        for (row, (all, part)) in self.products[group].chunks_mut(columns).zip(part.chunks(columns)).enumerate() {
            all[..=row].iter_mut().zip(&part[..=row]).for_each(|(all, &x)| *all += f64::from(x));
        }
    }
}

impl FloatSide {
    /// Adds products of patches of one group.
    fn add_products(&mut self, group: usize, part: &[f32]) {
        self.products[group].iter_mut().zip(part).for_each(|(all, &x)| *all += f64::from(x));
    }
}

/// The moments of one value of one sample, or its patches where those are few.
#[derive(Default)]
struct Part {
    count: usize,
    own: Side,
    /// Of the same value in the float model, where that is gathered beside the other.
    float: Option<Side>,
}

#[derive(Default)]
struct Side {
    sums: Vec<f64>,
    /// Of each group the half up to the diagonal, row by row; all of those of the float model with the others.
    products: Vec<f32>,
    /// Of each group `[count, columns]`.
    patches: Vec<f32>,
}

impl Side {
    fn clear(&mut self, groups: usize, columns: usize, few: bool) {
        self.sums.clear();
        self.sums.resize(groups * columns, 0.0);
        self.products.clear();
        self.patches.clear();
        if !few {
            self.products.resize(groups * columns * columns, 0.0);
        }
    }

    /// Adds up patches of a group; the products too where a way to add them is given, else the patches are kept.
    fn add(&mut self, view: &PatchView<'_>, group: usize, columns: usize, multiply: Option<impl FnOnce(&mut [f32])>) {
        add_sums(view, &mut self.sums[group * columns..(group + 1) * columns]);
        match multiply {
            Some(multiply) => multiply(&mut self.products[group * columns * columns..(group + 1) * columns * columns]),
            None => {
                let at = |p: usize, c: usize| view.numbers[c * view.column_stride + p * view.patch_stride];
                self.patches.extend((0..view.count).flat_map(|p| (0..columns).map(move |c| at(p, c))));
            }
        }
    }
}

impl Part {
    /// Makes it those of a value of this shape, and of what it is in the float model; `false` where patches do not fit it.
    fn take(&mut self, x: &[f32], float: Option<&[f32]>, shape: &[usize], patches: &Patches) -> bool {
        let Some(places) = patches.places(shape) else { return false };
        let (groups, columns) = (patches.groups(), patches.columns());
        let few = places.count() * FEW < columns;
        self.count = 0;
        self.own.clear(groups, columns, few);
        self.float = float.map(|_| self.float.take().unwrap_or_default());
        self.float.iter_mut().for_each(|side| side.clear(groups, columns, few));
        for group in 0..groups {
            let mut count = 0;
            let own = &mut self.own;
            let mut add_own = |view: &PatchView<'_>| {
                let multiply = |all: &mut [f32]| add_products(view, columns, all);
                own.add(view, group, columns, (!few).then_some(multiply));
            };
            match (float, &mut self.float) {
                (Some(float), Some(side)) => patches.visit([x, float], &places, group, LOOK, |[view, float]| {
                    count += view.count;
                    add_own(&view);
                    let multiply = |all: &mut [f32]| add_cross_products(&float, &view, columns, all);
                    side.add(&float, group, columns, (!few).then_some(multiply));
                }),
                _ => patches.visit([x], &places, group, LOOK, |[view]| {
                    count += view.count;
                    add_own(&view);
                }),
            }
            self.count = count;
        }
        true
    }

    fn is_finite(&self) -> bool {
        let finite = |side: &Side| side.products.iter().chain(&side.patches).all(|x| x.is_finite());
        finite(&self.own) && self.float.as_ref().is_none_or(finite)
    }
}

/// Every other sample of a tap: its moments, and patches that wait to be multiplied.
struct Half {
    moments: PatchMoments,
    /// Of each group, `[patches, columns]`.
    waiting: Vec<Vec<f32>>,
    /// Those of the float model.
    waiting_float: Vec<Vec<f32>>,
}

impl Half {
    fn new(patches: &Patches, beside: bool) -> Half {
        let waiting = vec![Vec::new(); patches.groups()];
        Half { moments: PatchMoments::new(patches, beside), waiting_float: waiting.clone(), waiting }
    }

    fn add(&mut self, part: &Part) {
        let columns = self.moments.columns.max(1);
        self.moments.count += part.count as f64;
        let add_sums = |all: &mut [Vec<f64>], part: &[f64]| {
            for (sums, part) in all.iter_mut().zip(part.chunks(columns)) {
                sums.iter_mut().zip(part).for_each(|(all, &x)| *all += x);
            }
        };
        let size = (part.count * columns).max(1);
        let wait = |waiting: &mut [Vec<f32>], part: &[f32]| {
            waiting.iter_mut().zip(part.chunks(size)).for_each(|(waiting, part)| waiting.extend(part));
        };
        add_sums(&mut self.moments.sums, &part.own.sums);
        for (group, products) in part.own.products.chunks(columns * columns).enumerate() {
            self.moments.add_products(group, products);
        }
        wait(&mut self.waiting, &part.own.patches);
        if let (Some(float), Some(part)) = (&mut self.moments.float, &part.float) {
            add_sums(&mut float.sums, &part.sums);
            for (group, products) in part.products.chunks(columns * columns).enumerate() {
                float.add_products(group, products);
            }
            wait(&mut self.waiting_float, &part.patches);
        }
        if self.waiting.iter().map(Vec::len).sum::<usize>() >= WAITING {
            self.settle();
        }
    }

    /// Multiplies what waits.
    fn settle(&mut self) {
        let columns = self.moments.columns;
        let mut products = vec![0f32; columns * columns];
        let sides = self.waiting.iter_mut().zip(&mut self.waiting_float);
        for (group, (waiting, waiting_float)) in sides.enumerate().filter(|(_, (waiting, _))| !waiting.is_empty()) {
            let count = waiting.len() / columns;
            let view = |numbers| PatchView { numbers, column_stride: 1, patch_stride: columns, count };
            products.fill(0.0);
            add_products(&view(waiting), columns, &mut products);
            self.moments.add_products(group, &products);
            if let Some(float) = &mut self.moments.float {
                products.fill(0.0);
                add_cross_products(&view(waiting_float), &view(waiting), columns, &mut products);
                float.add_products(group, &products);
            }
            waiting.clear();
            waiting_float.clear();
        }
    }

    fn finish(mut self) -> PatchMoments {
        self.settle();
        self.moments.complete();
        self.moments
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

/// Up to so many columns are multiplied one by one: a matrix product's preparation would take longer than the product.
const NARROW: usize = 16;

/// The sum of the products of two columns.
#[multiversion(targets = "simd")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let (mut lanes, whole) = ([0f32; LANES], a.len() / LANES * LANES);
    for (a, b) in a[..whole].chunks_exact(LANES).zip(b[..whole].chunks_exact(LANES)) {
        (0..LANES).for_each(|i| lanes[i] += a[i] * b[i]);
    }
    lanes.iter().sum::<f32>() + a[whole..].iter().zip(&b[whole..]).map(|(a, b)| a * b).sum::<f32>()
}

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
    if columns <= NARROW && along == 1 {
        let column = |c: usize| &numbers[c * down..c * down + count];
        for (row, all) in products.chunks_mut(columns).enumerate() {
            all[..=row].iter_mut().enumerate().for_each(|(c, all)| *all += dot(column(row), column(c)));
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

/// Adds up the product of each patch of the float model with the same of the other.
fn add_cross_products(float: &PatchView<'_>, view: &PatchView<'_>, columns: usize, products: &mut [f32]) {
    let (count, down, along) = (view.count, view.column_stride, view.patch_stride);
    if columns.min(count) <= 5 {
        for p in 0..count {
            for (row, all) in products.chunks_mut(columns).enumerate() {
                let by = float.numbers[row * down + p * along];
                all.iter_mut().enumerate().for_each(|(c, all)| *all += by * view.numbers[c * down + p * along]);
            }
        }
        return;
    }
    if columns <= NARROW && along == 1 {
        for (row, all) in products.chunks_mut(columns).enumerate() {
            let of_float = &float.numbers[row * down..row * down + count];
            let column = |c: usize| &view.numbers[c * down..c * down + count];
            all.iter_mut().enumerate().for_each(|(c, all)| *all += dot(of_float, column(c)));
        }
        return;
    }
    // The rows of the slice are the columns of the matrix.
    let rows = view_of(view.numbers, (columns, count), (down, along));
    let turned = view_of(float.numbers, (count, columns), (along, down));
    DMatrixViewMut::from_slice(products, columns, columns).gemm(1.0, &rows, &turned, 1.0);
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
    halves: [Half; 2],
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
            Some(part) if part.is_finite() => line.halves[sample % 2].add(part),
            Some(_) => line.broken = true,
            None => {}
        }
        line.next += 1;
        self.moved.notify_all();
    }
}

/// A watched value, by its place, and the patches that layers read of it.
pub(crate) type Tap = (usize, Patches);

/// Runs the samples in `picks` and gathers the moments of what the taps see, those of every other sample apart from those of the
/// samples between; `None` for taps whose value never fits the patches, or holds numbers that are not finite.
///
/// Products are made in f32 for each sample, and added up in f64 in the order of the samples: the outcome does not depend on
/// the number of threads. Memory is that of the moments, and a sample's for each thread.
///
/// With a runner of a model that is not moved, which watches as many values, what those are is gathered `beside` the others.
pub(crate) fn gather_moments(
    runner: &Runner<'_>,
    beside: Option<&Runner<'_>>,
    taps: &[Tap],
    samples: &dyn Samples,
    picks: &[usize],
    events: &dyn Events,
) -> Result<Vec<Option<[PatchMoments; 2]>>> {
    let desk = |(_, patches): &Tap| Desk {
        line: Mutex::new(Line {
            next: 0,
            halves: [(); 2].map(|()| Half::new(patches, beside.is_some())),
            broken: false,
        }),
        moved: Condvar::new(),
    };
    let desks: Vec<Desk> = taps.iter().map(desk).collect();
    let mut by_value: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    taps.iter().enumerate().for_each(|(tap, (value, _))| by_value.entry(*value).or_default().push(tap));
    let make = || Ok((runner.worker(), beside.map(Runner::worker), Part::default()));
    spread(picks.len(), events, make, |(worker, float, part), i| {
        // Every desk gets something from every sample, whatever becomes of it: others wait for their turns.
        let _turns = Turns { desks: &desks, sample: i };
        let at = || format!("sample {}", picks[i]);
        let sample = samples.get(picks[i])?;
        let mut exact: BTreeMap<usize, (Vec<f32>, Vec<usize>)> = BTreeMap::new();
        if let Some(float) = float {
            let mut keep =
                |seen: Seen<'_>| drop(exact.insert(seen.value, (seen.numbers.to_vec(), seen.shape.to_vec())));
            float.run(&sample, &mut keep).at(at)?;
        }
        let mut see = |seen: Seen<'_>| {
            let known = exact.get(&seen.value).filter(|(_, shape)| shape == seen.shape).map(|(x, _)| &x[..]);
            for &tap in by_value.get(&seen.value).into_iter().flatten() {
                let fits = known.is_some() == beside.is_some();
                let fits = fits && part.take(seen.numbers, known, seen.shape, &taps[tap].1);
                desks[tap].hand_in(i, fits.then_some(&*part));
            }
        };
        worker.run(&sample, &mut see).at(at).map(drop)
    })?;
    let found = |desk: Desk| {
        let line = desk.line.into_inner().unwrap_or_else(PoisonError::into_inner);
        let halves = line.halves.map(Half::finish);
        let seen = halves.iter().any(|half| half.count > 0.0);
        let finite = halves.iter().all(PatchMoments::is_finite);
        (seen && finite && !line.broken).then_some(halves)
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
