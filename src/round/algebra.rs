//! The linear algebra that the methods ask for, on matrices stored row by row.

use multiversion::multiversion;
use nalgebra::{Cholesky, DMatrix, DMatrixView, DMatrixViewMut, Dyn, RealField};

use super::Problem;

/// `c = a b` for `a` `[m, k]` and `b` `[k, n]`, the sizes given as `[m, k, n]`.
pub(super) fn product<T: RealField + Copy>(c: &mut [T], a: &[T], b: &[T], [m, k, n]: [usize; 3]) {
    product_with(c, a, (b, n), [m, k, n]);
}

/// As [`product`], with `b` inside a matrix whose rows begin `stride` numbers apart.
pub(super) fn product_with<T: RealField + Copy>(
    c: &mut [T],
    a: &[T],
    (b, stride): (&[T], usize),
    [m, k, n]: [usize; 3],
) {
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        c.fill(T::zero());
        return;
    }
    // Stored row by row a matrix is its own transpose stored column by column: c^T = b^T a^T.
    let a = DMatrixView::from_slice(a, k, m);
    let b = DMatrixView::from_slice_with_strides(b, n, k, 1, stride);
    DMatrixViewMut::from_slice(c, n, m).gemm(T::one(), &b, &a, T::zero());
}

/// `y += x * by`.
#[multiversion(targets = "simd")]
pub(super) fn add_times(y: &mut [f64], x: &[f64], by: f64) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y += x * by);
}

/// The lower triangle `L` of `A = L L^T`, `[n, n]`, zeros above the diagonal; `None` when `A` is not positive definite.
/// Reads the lower triangle of `A`.
///
/// In blocks, so that most of it is a matrix product.
pub(super) fn cholesky(mut a: DMatrix<f64>) -> Option<DMatrix<f64>> {
    const BLOCK: usize = 96;
    let n = a.nrows();
    for start in (0..n).step_by(BLOCK) {
        let size = BLOCK.min(n - start);
        let corner: DMatrix<f64> = a.view((start, start), (size, size)).into_owned();
        let corner = Cholesky::<f64, Dyn>::new(corner)?.unpack();
        let below = n - start - size;
        if below > 0 {
            // X L^T = A: one column after the other, by the ones before.
            let mut solved: DMatrix<f64> = a.view((start + size, start), (below, size)).into_owned();
            for j in 0..size {
                let (before, mut from) = solved.columns_range_pair_mut(0..j, j..);
                let mut column = from.column_mut(0);
                for (i, before) in before.column_iter().enumerate() {
                    column.axpy(-corner[(j, i)], &before, 1.0);
                }
                column /= corner[(j, j)];
            }
            let turned = solved.transpose();
            // The lower triangle alone is asked for: panels from the diagonal down.
            for from in (0..below).step_by(BLOCK) {
                let wide = BLOCK.min(below - from);
                let at = start + size + from;
                let mut rest = a.view_mut((at, at), (below - from, wide));
                rest.gemm(-1.0, &solved.rows(from, below - from), &turned.columns(from, wide), 1.0);
            }
            a.view_mut((start + size, start), (below, size)).copy_from(&solved);
        }
        a.view_mut((start, start), (size, size)).copy_from(&corner);
    }
    a.fill_upper_triangle(0.0, 1);
    a.iter().all(|x| x.is_finite()).then_some(a)
}

/// The moments in f32, divided by the mean of their diagonal over the inputs that are alive.
pub(super) fn scaled(problem: &Problem) -> Vec<f32> {
    let diagonal = problem.diagonal();
    let alive = diagonal.iter().filter(|h| **h > 0.0);
    let mean = alive.clone().sum::<f64>() / alive.count().max(1) as f64;
    let unit = if mean > 0.0 { mean } else { 1.0 };
    problem.moments.iter().map(|h| (h / unit) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_definition() {
        for [m, k, n] in [[1, 1, 1], [3, 0, 2], [2, 5, 3], [17, 33, 40], [0, 3, 3]] {
            let a: Vec<f64> = (0..m * k).map(|i| (i * 7 % 11) as f64 - 5.0).collect();
            let b: Vec<f64> = (0..k * (n + 2)).map(|i| (i * 5 % 13) as f64 - 6.0).collect();
            let mut c = vec![7.0; m * n];
            product_with(&mut c, &a, (&b, n + 2), [m, k, n]);
            for i in 0..m {
                for j in 0..n {
                    let expected: f64 = (0..k).map(|x| a[i * k + x] * b[x * (n + 2) + j]).sum();
                    assert_eq!(c[i * n + j], expected);
                }
            }
        }
    }

    #[test]
    fn the_factor_times_itself_is_the_matrix() {
        for n in [0, 1, 5, 95, 96, 97, 250] {
            let a = DMatrix::from_fn(n, n, |i, j| 0.9f64.powi((i as i32 - j as i32).abs()));
            let factor = cholesky(a.clone()).unwrap();
            let off = (&factor * factor.transpose() - a).amax();
            assert!(n == 0 || off < 1e-12, "{n}: {off}");
        }
        let mut indefinite = DMatrix::from_diagonal_element(120, 120, 1.0);
        indefinite[(110, 110)] = -1.0;
        assert!(cholesky(indefinite).is_none());
        assert!(cholesky(DMatrix::from_diagonal_element(3, 3, -1.0)).is_none());
    }
}
