//! Numbers of known distributions, for tests.

/// Evenly spread over 0 to 1, without its ends: the middles of `count` equal parts, in an order that looks random.
fn even(count: usize) -> impl Iterator<Item = f64> {
    // A step that has no divisor in common with the count visits every part once.
    let step = (0..).map(|i| 7919 + 2 * i).find(|s| gcd(*s, count) == 1).unwrap_or(1);
    (0..count).map(move |i| ((i * step % count) as f64 + 0.5) / count as f64)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The standard normal distribution, by its quantiles (P. J. Acklam's approximation, good to 1.2e-9).
pub fn gauss(count: usize) -> Vec<f32> {
    even(count).map(|p| normal_quantile(p) as f32).collect()
}

/// The Laplace distribution of scale 1, by its quantiles.
pub fn laplace(count: usize) -> Vec<f32> {
    let quantile = |p: f64| if p < 0.5 { (2.0 * p).ln() } else { -(2.0 * (1.0 - p)).ln() };
    even(count).map(|p| quantile(p) as f32).collect()
}

fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 5] =
        [-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2, 6.680131188771972e1, -1.328068155288572e1];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 4] = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416];
    let poly = |c: &[f64], x: f64| c.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        poly(&C, q) / (poly(&D, q) * q + 1.0)
    };
    if p < 0.02425 {
        tail(p)
    } else if p > 1.0 - 0.02425 {
        -tail(1.0 - p)
    } else {
        let q = p - 0.5;
        let r = q * q;
        poly(&A, r) * q / (poly(&B, r) * r + 1.0)
    }
}
