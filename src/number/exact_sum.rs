//! A sum that does not round, so that it does not depend on the order of its terms.

/// A sum of f64 numbers, exact: a list of numbers whose unevaluated sum is the total.
///
/// The list is the total's own: its first number is the total, correctly rounded, the next is what that left out, and
/// so on. So sums of the same terms are equal, in whatever order and parts they were added.
///
/// Terms are to be finite, and totals below 1.8e308 in magnitude; beyond that the sum is not a number.
///
/// Source: J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic and Fast Robust Geometric Predicates",
/// Discrete & Computational Geometry 18 (1997), theorem 10 (grow expansion).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExactSum {
    parts: Vec<f64>,
}

impl ExactSum {
    /// The sum of these numbers.
    pub fn of(terms: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        sum.extend(terms);
        sum
    }

    /// Adds a number.
    pub fn add(&mut self, x: f64) {
        self.extend(&[x]);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        self.extend(&other.parts);
    }

    fn extend(&mut self, terms: &[f64]) {
        self.parts.reverse();
        terms.iter().for_each(|&x| grow(&mut self.parts, x));
        self.parts = settled(std::mem::take(&mut self.parts));
    }

    /// The total, rounded to the nearest f64.
    pub fn value(&self) -> f64 {
        self.parts.first().copied().unwrap_or(0.0)
    }

    /// The total without rounding: numbers of falling magnitude whose sum it is; none for zero.
    pub fn parts(&self) -> &[f64] {
        &self.parts
    }
}

/// `a + b` and what its rounding left out (Knuth; Shewchuk's theorem 7).
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_in_sum = sum - a;
    let a_in_sum = sum - b_in_sum;
    (sum, (a - a_in_sum) + (b - b_in_sum))
}

/// Adds a number to an expansion: parts that do not overlap, of growing magnitude, zeros left out.
fn grow(parts: &mut Vec<f64>, x: f64) {
    let mut carry = x;
    let mut kept = 0;
    for i in 0..parts.len() {
        let (sum, rest) = two_sum(carry, parts[i]);
        if rest != 0.0 {
            parts[kept] = rest;
            kept += 1;
        }
        carry = sum;
    }
    parts.truncate(kept);
    if carry != 0.0 {
        parts.push(carry);
    }
}

/// An expansion as the numbers that its total alone decides, largest first.
fn settled(mut parts: Vec<f64>) -> Vec<f64> {
    let mut list = Vec::with_capacity(parts.len());
    while !parts.is_empty() {
        let total = rounded(&parts);
        list.push(total);
        if !total.is_finite() {
            return vec![f64::NAN];
        }
        grow(&mut parts, -total);
    }
    list
}

/// The total of an expansion, rounded to the nearest f64, ties to even.
fn rounded(parts: &[f64]) -> f64 {
    let mut left = parts.iter().rev().copied();
    let mut total = left.next().unwrap_or(0.0);
    while let Some(part) = left.next() {
        let (sum, rest) = two_sum(total, part);
        total = sum;
        if rest == 0.0 {
            continue;
        }
        // The rest is at most half a unit in the last place; where it is exactly that, what follows decides.
        if left.next().is_some_and(|next| next.is_sign_positive() == rest.is_sign_positive()) {
            let up = total + 2.0 * rest;
            if up - total == 2.0 * rest {
                total = up;
            }
        }
        break;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_lost() {
        assert_eq!(ExactSum::of(&[1e100, 1.0, -1e100]).value(), 1.0);
        assert_eq!(ExactSum::of(&[0.1; 10]).value(), 1.0);
        assert_eq!(ExactSum::of(&[3.0, -3.0]), ExactSum::default());
        assert_eq!(ExactSum::of(&[1.0, 1e-30]).parts(), [1.0, 1e-30]);
        // Half a unit in the last place above 1, and a little more: up. A little less: down.
        let half = f64::EPSILON / 2.0;
        assert_eq!(ExactSum::of(&[1.0, half]).value(), 1.0);
        assert_eq!(ExactSum::of(&[1.0, half, 1e-300]).value(), 1.0 + f64::EPSILON);
        assert_eq!(ExactSum::of(&[1.0, half, -1e-300]).value(), 1.0);
    }

    #[test]
    fn what_overflows_is_no_number() {
        assert!(ExactSum::of(&[f64::MAX, f64::MAX]).value().is_nan());
        assert!(ExactSum::of(&[1.0, f64::INFINITY]).value().is_nan());
    }

    proptest! {
        #[test]
        fn order_and_parts_do_not_matter(
            terms in proptest::collection::vec((-1.0f64..1.0, -300i32..300), 0..40),
            cut in 0usize..40,
        ) {
            let terms: Vec<f64> = terms.iter().map(|&(m, e)| m * 2f64.powi(e)).collect();
            let forth = ExactSum::of(&terms);
            let mut back = ExactSum::default();
            terms.iter().rev().for_each(|&x| back.add(x));
            let (a, b) = terms.split_at(cut.min(terms.len()));
            let mut merged = ExactSum::of(b);
            merged.merge(&ExactSum::of(a));
            prop_assert_eq!(&forth, &back);
            prop_assert_eq!(&forth, &merged);
            prop_assert!(forth.parts().windows(2).all(|p| p[1].abs() <= p[0].abs() * f64::EPSILON / 2.0));
        }

        #[test]
        fn integers_are_added_as_integers(terms in proptest::collection::vec(-1i64 << 52..1i64 << 52, 0..100)) {
            let sum = ExactSum::of(&terms.iter().map(|&x| x as f64).collect::<Vec<_>>());
            let exact: i128 = terms.iter().map(|&x| i128::from(x)).sum();
            prop_assert_eq!(sum.parts().iter().map(|&x| x as i128).sum::<i128>(), exact);
            prop_assert_eq!(sum.value(), exact as f64);
        }
    }
}
