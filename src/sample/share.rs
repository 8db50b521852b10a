//! A share of the samples, for runs that are spread over machines.

use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// One of several equal shares of the samples, written `2/8`: the second of eight. All shares together are all samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which one, from 1.
    number: usize,
    /// Of how many.
    of: usize,
}

impl Share {
    /// The whole.
    pub const ALL: Share = Share { number: 1, of: 1 };

    /// The samples of this share among `count`: every n-th, so that sorted sources are shared fairly.
    pub fn picks(self, count: usize) -> Vec<usize> {
        (self.number - 1..count).step_by(self.of).collect()
    }
}

impl FromStr for Share {
    type Err = Error;

    /// Errors unless the text is `i/n` with `1 <= i <= n`.
    fn from_str(text: &str) -> Result<Share> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((number, of)) if 1 <= number && number <= of => Ok(Share { number, of }),
            _ => {
                Err(Error::new(ErrorKind::Usage, format!("`{text}` is no share: write `2/8` for the second of eight")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_disjoint_and_complete() {
        let share = |text: &str| text.parse::<Share>().unwrap();
        assert_eq!(share("2/3").picks(8), [1, 4, 7]);
        assert_eq!(share("3/3").picks(2), [0; 0]);
        assert_eq!(Share::ALL.picks(3), [0, 1, 2]);
        let mut all = ["1/3", "2/3", "3/3"].map(|s| share(s).picks(100)).concat();
        all.sort_unstable();
        assert_eq!(all, Share::ALL.picks(100));
        for bad in ["", "1", "0/3", "4/3", "1/0", "a/b", "-1/3", "1/3/5"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }
}
