//! How numbers are written for people: once, here, for every table.

/// A ratio in dB with one decimal: `31.4`. Infinite, which is no noise at all, is `exact`; `-inf` is all noise.
pub fn decibels(db: f64) -> String {
    match db {
        f64::INFINITY => "exact".to_owned(),
        f64::NEG_INFINITY => "-inf".to_owned(),
        db if db.is_nan() => "nan".to_owned(),
        // Adding zero makes a rounded -0.0 positive.
        db => format!("{:.1}", (db * 10.0).round() / 10.0 + 0.0),
    }
}

/// A real number with four significant digits: `0.4987`, `-12.30`, `65504`, `3.403e38`, `1.000e-7`; zero is `0`.
///
/// Digits before the decimal point are never rounded away; infinities are `inf` and `-inf`.
pub fn real(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    if !x.is_finite() {
        return x.to_string().to_lowercase();
    }
    let scientific = format!("{x:.3e}");
    // The exponent of the rounded number: 9.99996 is written as 10.00.
    let exponent = scientific.split_once('e').and_then(|(_, e)| e.parse::<i32>().ok()).unwrap_or(0);
    match exponent {
        -4..=5 => format!("{x:.*}", usize::try_from(3 - exponent).unwrap_or(0)),
        _ => scientific,
    }
}

/// A ratio with two significant digits or all before the point: `1.3`, `107`; infinities as [`real`].
pub fn ratio(x: f64) -> String {
    if !x.is_finite() {
        return real(x);
    }
    match x.abs() {
        a if a >= 1e6 => format!("{x:.1e}"),
        a if a >= 99.95 => format!("{x:.0}"),
        _ => format!("{x:.1}"),
    }
}

/// A number of bytes: `512 B`, `12.0 KiB`, `86.1 MiB`, `1.4 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut size = n as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A count, its digits in groups of three: `22,713,216`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A part of one as a percentage with one decimal: `97.4 %`.
pub fn percent(part: f64) -> String {
    if part.is_finite() { format!("{:.1} %", part * 100.0 + 0.0) } else { real(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decibels_have_one_decimal_and_say_exact() {
        for (db, text) in [
            (31.44, "31.4"),
            (-0.04, "0.0"),
            (-1.25, "-1.3"),
            (f64::INFINITY, "exact"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(decibels(db), text);
        }
    }

    #[test]
    fn reals_have_four_digits() {
        for (x, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (0.498_66, "0.4987"),
            (-12.3, "-12.30"),
            (6.0, "6.000"),
            (9.999_96, "10.00"),
            (65504.0, "65504"),
            (123_456.7, "123457"),
            (1e6, "1.000e6"),
            (1e-4, "0.0001000"),
            (1e-7, "1.000e-7"),
            (f64::from(f32::MIN), "-3.403e38"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(real(x), text);
        }
    }

    #[test]
    fn ratios_bytes_counts_and_parts() {
        for (x, text) in [(1.0, "1.0"), (99.94, "99.9"), (99.96, "100"), (107.3, "107"), (1.5e7, "1.5e7")] {
            assert_eq!(ratio(x), text);
        }
        for (n, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1.0 MiB"), (3 << 30, "3.0 GiB")]
        {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (22_713_216, "22,713,216")] {
            assert_eq!(count(n), text);
        }
        assert_eq!(percent(0.974), "97.4 %");
    }
}
