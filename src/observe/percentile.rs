//! Cuts off a share of the numbers, whatever their size.

use super::{Density, Histogram};
use crate::number::{Range, Scheme};

/// The range that holds `percent` of the numbers, in `0..=100`.
///
/// Symmetric schemes cut the largest magnitudes off; affine ones cut half of the share off at each end. Zeros count as
/// numbers. Percentiles are those between two order statistics, linearly (R. J. Hyndman and Y. Fan, "Sample Quantiles
/// in Statistical Packages", The American Statistician 50 (1996), definition 7), each known to within its bin.
pub(super) fn range(histogram: &Histogram, scheme: &Scheme, percent: f64) -> Option<Range> {
    let share = (percent / 100.0).clamp(0.0, 1.0);
    let extremes = histogram.extremes();
    let whole = Range::new(extremes.min(), extremes.max())?;
    let density = Density::of(histogram);
    if scheme.symmetric {
        let magnitude = quantile(magnitudes(&density), share).min(whole.magnitude().into()) as f32;
        return Some(whole.clamp(-magnitude, magnitude));
    }
    let values = || in_order(&density);
    let (low, high) = (quantile(values(), 0.5 * (1.0 - share)), quantile(values(), 0.5 * (1.0 + share)));
    Some(whole.clamp(low as f32, high as f32))
}

/// Numbers in rising order: how many are spread evenly from where to where.
type Spread = (f64, f64, f64);

fn in_order(density: &Density) -> Vec<Spread> {
    let zeros = (density.zeros() > 0.0).then_some((0.0, 0.0, density.zeros()));
    let cells = density.cells().iter().map(|c| (c.low, c.high, c.count));
    let mut all: Vec<Spread> = cells.chain(zeros).collect();
    all.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
    all
}

/// The magnitudes of the numbers. Bins are mirrored at zero, so that those of both signs lie over each other.
fn magnitudes(density: &Density) -> Vec<Spread> {
    let mut all: Vec<Spread> = in_order(density)
        .into_iter()
        .map(|(a, b, n)| if b <= 0.0 && a < 0.0 { (-b, -a, n) } else { (a, b, n) })
        .collect();
    all.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
    all
}

/// The quantile of `share` between order statistics; zero without numbers.
fn quantile(all: Vec<Spread>, share: f64) -> f64 {
    let count: f64 = all.iter().map(|s| s.2).sum();
    let place = share * (count - 1.0).max(0.0);
    let statistic = |rank: f64| {
        let mut passed = 0.0;
        for &(low, high, n) in &all {
            if rank < passed + n {
                return low + (high - low) * (rank - passed + 0.5) / n;
            }
            passed += n;
        }
        all.last().map_or(0.0, |s| s.1)
    };
    let (lower, upper) = (statistic(place.floor()), statistic(place.ceil()));
    lower + (upper - lower) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Format, Granularity};
    use crate::observe::samples::{gauss, laplace};

    /// `numpy.percentile(x, percent)`: linear between order statistics.
    fn reference(mut x: Vec<f64>, percent: f64) -> f64 {
        x.sort_by(f64::total_cmp);
        let place = percent / 100.0 * (x.len() - 1) as f64;
        let (a, b) = (x[place.floor() as usize], x[place.ceil() as usize]);
        a + (b - a) * place.fract()
    }

    #[test]
    fn agrees_with_sorting_to_within_a_bin() {
        let mut sparse = laplace(1000);
        sparse[3] = 80.0;
        sparse[5] = -30.0;
        let relu: Vec<f32> = gauss(50_000).iter().map(|x| x.max(0.0)).collect();
        let cases = [gauss(50_000), laplace(777), relu, sparse, vec![1.0, 2.0], vec![-3.0], vec![0.0, 0.0, 5.0]];
        for (case, x) in cases.iter().enumerate() {
            let h = Histogram::of(x);
            for percent in [100.0, 99.999, 99.9, 99.0, 90.0, 51.0] {
                let scheme = |symmetric| Scheme::new(Format::UINT8, symmetric, Granularity::Tensor);
                let wide = |x: &f32| f64::from(*x);
                let near = |got: f32, want: f64| {
                    assert!(
                        (f64::from(got) - want).abs() <= h.width(),
                        "case {case}, {percent} %: {got}, expected {want}"
                    )
                };
                let affine = range(&h, &scheme(false), percent).unwrap();
                let cut = (100.0 - percent) / 2.0;
                near(affine.min(), reference(x.iter().map(wide).collect(), cut).min(0.0));
                near(affine.max(), reference(x.iter().map(wide).collect(), 100.0 - cut).max(0.0));
                let symmetric = range(&h, &scheme(true), percent).unwrap();
                near(symmetric.magnitude(), reference(x.iter().map(|x| wide(x).abs()).collect(), percent));
            }
        }
    }
}
