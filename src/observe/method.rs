//! The list of methods.

use std::fmt;
use std::str::FromStr;

use super::{Density, Observer, Profile, aciq, entropy, isotone, mean, mse, octav, percentile};
use crate::error::{Error, ErrorKind};
use crate::number::{Grid, Range, Scheme};

/// How a range comes out of what was seen of a value.
///
/// As text: the name, and behind a colon what the method may be told: `percentile:99.9`, `mse:2.4`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Method {
    /// Everything that was seen.
    #[default]
    MinMax,
    /// The extremes of samples, averaged.
    MovingAverage,
    /// This percentage of the numbers, above 50 and up to 100.
    Percentile(f64),
    /// The least Kullback-Leibler divergence of the codes from the numbers.
    Entropy,
    /// The least mean error to this power, from 1 to 8, by search.
    Mse(f64),
    /// The least squared error, by Newton's method.
    Octav,
    /// The least squared error for the Gauss or Laplace distribution that fits.
    Aciq,
    /// So many times the mean magnitude, from 1 to 1000.
    Mean(f64),
    /// Where classes were seen, the fewest ties between the best two; elsewhere everything that was seen.
    Isotone,
    /// For each value the method whose range leaves the least squared error, as its histogram predicts it; isotone and mean
    /// are not asked.
    Auto,
}

impl Method {
    /// Every method, as it is when nothing else is said, in the order they are listed to users.
    pub const ALL: [Method; 10] = [
        Method::MinMax,
        Method::MovingAverage,
        Method::Percentile(99.999),
        Method::Entropy,
        Method::Mse(2.0),
        Method::Octav,
        Method::Aciq,
        Method::Mean(5.0),
        Method::Isotone,
        Method::Auto,
    ];

    /// The name, without what the method is told.
    pub fn name(self) -> &'static str {
        match self {
            Method::MinMax => "min-max",
            Method::MovingAverage => "moving-average",
            Method::Percentile(_) => "percentile",
            Method::Entropy => "entropy",
            Method::Mse(_) => "mse",
            Method::Octav => "octav",
            Method::Aciq => "aciq",
            Method::Mean(_) => "mean",
            Method::Isotone => "isotone",
            Method::Auto => "auto",
        }
    }

    /// Whether the extremes are all that it asks for.
    pub fn needs_extremes_only(self) -> bool {
        self == Method::MinMax
    }

    /// Whether it can choose from the numbers alone, without samples: for weights.
    pub fn fits_weights(self) -> bool {
        !matches!(self, Method::MovingAverage | Method::Isotone)
    }

    /// The range to quantize in this scheme; `None` when nothing finite was seen. It lies inside the extremes.
    pub fn range(self, seen: &Profile, scheme: &Scheme) -> Option<Range> {
        let histogram = &seen.histogram;
        let whole = histogram.range()?;
        match self {
            Method::MinMax => Some(whole),
            Method::MovingAverage => seen.average.range().or(Some(whole)),
            Method::Percentile(percent) => percentile::range(histogram, scheme, percent),
            Method::Entropy => entropy::range(histogram, scheme),
            Method::Mse(norm) => mse::range(histogram, scheme, norm),
            Method::Octav => octav::range(histogram, scheme),
            Method::Aciq => aciq::range(histogram, scheme),
            Method::Mean(k) => mean::range(histogram, k),
            Method::Isotone if seen.classes.is_empty() => Some(whole),
            Method::Isotone => isotone::range(histogram, &seen.classes, scheme),
            Method::Auto => {
                let density = Density::of(histogram);
                // Isotone and mean look at something else than the error.
                let asked = |m: &Method| !matches!(m, Method::Mean(_) | Method::Isotone | Method::Auto);
                let others = Method::ALL.into_iter().filter(asked);
                let ranges = others.filter_map(|m| m.range(seen, scheme));
                let error = |range: &Range| density.error(Grid::fit(scheme, *range), 2.0);
                ranges.map(|r| (error(&r), r)).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, range)| range)
            }
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Method::Percentile(number) | Method::Mse(number) | Method::Mean(number) => write!(f, ":{number}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Method {
    type Err = Error;

    /// Errors when there is no such method, and when what it is told is out of bounds.
    fn from_str(text: &str) -> Result<Method, Error> {
        let wrong = |what: String, hint: String| Err(Error::new(ErrorKind::Usage, what).hint(hint));
        let (name, told) = text.split_once(':').map_or((text, None), |(name, told)| (name, Some(told)));
        let Some(method) = Method::ALL.into_iter().find(|m| m.name() == name) else {
            let names = Method::ALL.map(|m| format!("`{}`", m.name())).join(", ");
            return wrong(format!("there is no method `{name}`"), format!("methods are {names}"));
        };
        let Some(told) = told else { return Ok(method) };
        let number = told.parse::<f64>().ok().filter(|n| n.is_finite());
        match (method, number) {
            (Method::Percentile(_), Some(percent)) if percent > 50.0 && percent <= 100.0 => {
                Ok(Method::Percentile(percent))
            }
            (Method::Percentile(_), _) => {
                wrong(format!("`{told}` is no percentage"), "give one above 50: `percentile:99.9`".into())
            }
            (Method::Mse(_), Some(norm)) if (1.0..=8.0).contains(&norm) => Ok(Method::Mse(norm)),
            (Method::Mse(_), _) => wrong(format!("`{told}` is no norm"), "give one from 1 to 8: `mse:2.4`".into()),
            (Method::Mean(_), Some(k)) if (1.0..=1000.0).contains(&k) => Ok(Method::Mean(k)),
            (Method::Mean(_), _) => wrong(format!("`{told}` is no factor"), "give one from 1 to 1000: `mean:5`".into()),
            _ => wrong(format!("`{name}` takes no number"), format!("write `{name}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Format, Granularity};
    use crate::observe::samples::laplace;

    #[test]
    fn text_and_back() {
        for method in Method::ALL {
            assert_eq!(method.to_string().parse::<Method>().unwrap(), method);
            assert_eq!(method.name().parse::<Method>().unwrap(), method);
        }
        assert_eq!("mse:2.4".parse::<Method>().unwrap(), Method::Mse(2.4));
        assert_eq!("mean:2".parse::<Method>().unwrap(), Method::Mean(2.0));
        for bad in
            ["kl", "mse:", "mse:0.5", "mse:nan", "percentile:50", "percentile:101", "octav:2", "mean:0.5", "mean:x", ""]
        {
            assert!(bad.parse::<Method>().is_err(), "{bad}");
        }
    }

    #[test]
    fn auto_leaves_the_least_error() {
        let seen = Profile::of(&laplace(20_000));
        let density = Density::of(&seen.histogram);
        let scheme = Scheme::new(Format::UINT8, false, Granularity::Tensor);
        let error = |m: Method| density.error(Grid::fit(&scheme, m.range(&seen, &scheme).unwrap()), 2.0);
        let asked = Method::ALL.into_iter().filter(|m| !matches!(m, Method::Mean(_)));
        assert!(asked.into_iter().all(|m| error(Method::Auto) <= error(m)));
        assert!(error(Method::Auto) < error(Method::MinMax));
    }

    #[test]
    fn every_range_lies_inside_the_extremes_and_holds_zero() {
        let outliers = |mut x: Vec<f32>| {
            x[7] = 90.0;
            x
        };
        let cases: Vec<Vec<f32>> = vec![
            outliers(laplace(5000)),
            outliers(laplace(5000).iter().map(|x| x.max(0.0)).collect()),
            laplace(5000).iter().map(|x| x.min(0.0)).collect(),
            laplace(5000).iter().map(|x| x + 40.0).collect(),
            vec![0.0; 50],
            vec![-3.0; 50],
            vec![1e-44, -1e-44],
            vec![f32::MAX, f32::MIN, 1.0],
            vec![1.0, f32::NAN],
        ];
        let mut formats: Vec<(Format, bool)> = Format::ALL.iter().flat_map(|&f| [(f, false), (f, true)]).collect();
        formats.retain(|(f, _)| f.bits < 32);
        for x in &cases {
            let mut seen = Profile::default();
            seen.see(x, Some(5), 0);
            let whole = seen.histogram.range().unwrap();
            for &(format, symmetric) in &formats {
                let scheme = Scheme::new(format, symmetric, Granularity::Tensor);
                for method in Method::ALL {
                    let range = method.range(&seen, &scheme).unwrap();
                    let inside = whole.min() <= range.min() && range.max() <= whole.max();
                    assert!(inside, "{method} {format:?} {symmetric}: {range:?} of {whole:?}");
                    let empty = range.magnitude() == 0.0 && whole.magnitude() > 0.0;
                    assert!(!empty, "{method} {format:?} {symmetric}: nothing of {whole:?}");
                }
            }
        }
        assert!(Method::ALL.iter().all(|m| {
            let scheme = Scheme::new(Format::UINT8, false, Granularity::Tensor);
            m.range(&Profile::default(), &scheme).is_none()
        }));
    }
}
