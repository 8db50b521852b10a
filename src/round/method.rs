//! The list of methods.

use std::fmt;
use std::str::FromStr;

use super::{AdaRoundOptions, GptqOptions};
use crate::error::{Error, ErrorKind};

/// How weights become codes.
///
/// As text: the name, and behind a colon what the method may be told: `stochastic:100`, `adaround:500`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Rounding {
    /// To the nearest code, ties to even.
    #[default]
    Nearest,
    /// The best of so many draws, in which a weight goes up as often as it is near the code above.
    Stochastic {
        /// How many draws, at least 1.
        tries: u32,
        /// The seed of the draws.
        seed: u64,
    },
    /// Up or down, learned by gradient descent.
    AdaRound(AdaRoundOptions),
    /// Column by column, each making up for those before it.
    Gptq(GptqOptions),
    /// One or two columns at a time to their best codes, until nothing improves.
    Descent,
    /// For each row the codes of descent or GPTQ that cost less; and of AdaRound, where it is asked for.
    Auto {
        /// AdaRound too, which takes far longer.
        adaround: Option<AdaRoundOptions>,
    },
}

impl Rounding {
    /// Descent and GPTQ.
    pub const AUTO: Rounding = Rounding::Auto { adaround: None };

    /// Every method, as it is when nothing else is said, in the order they are listed to users.
    pub const ALL: [Rounding; 6] = [
        Rounding::Nearest,
        Rounding::Stochastic { tries: 100, seed: 0 },
        Rounding::AdaRound(AdaRoundOptions::DEFAULT),
        Rounding::Gptq(GptqOptions::DEFAULT),
        Rounding::Descent,
        Rounding::Auto { adaround: None },
    ];

    /// The name, without what the method is told.
    pub fn name(self) -> &'static str {
        match self {
            Rounding::Nearest => "nearest",
            Rounding::Stochastic { .. } => "stochastic",
            Rounding::AdaRound(_) => "adaround",
            Rounding::Gptq(_) => "gptq",
            Rounding::Descent => "descent",
            Rounding::Auto { .. } => "auto",
        }
    }

    /// Whether it ends with a descent.
    pub fn polishes(self) -> bool {
        !matches!(self, Rounding::Nearest | Rounding::Stochastic { .. })
    }

    /// Whether it asks for the second moments of the layer's input.
    pub fn needs_moments(self) -> bool {
        self != Rounding::Nearest
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Rounding::Stochastic { tries, .. } => write!(f, ":{tries}"),
            Rounding::AdaRound(options) => write!(f, ":{}", options.iterations),
            Rounding::Auto { adaround: Some(options) } => write!(f, ":{}", options.iterations),
            _ => Ok(()),
        }
    }
}

impl FromStr for Rounding {
    type Err = Error;

    /// Errors when there is no such method, and when what it is told is out of bounds.
    fn from_str(text: &str) -> Result<Rounding, Error> {
        let wrong = |what: String, hint: String| Err(Error::new(ErrorKind::Usage, what).hint(hint));
        let (name, told) = text.split_once(':').map_or((text, None), |(name, told)| (name, Some(told)));
        let Some(method) = Rounding::ALL.into_iter().find(|m| m.name() == name) else {
            let names = Rounding::ALL.map(|m| format!("`{}`", m.name())).join(", ");
            return wrong(format!("there is no rounding `{name}`"), format!("roundings are {names}"));
        };
        let Some(told) = told else { return Ok(method) };
        let count = told.parse::<u32>().ok().filter(|n| (1..=100_000).contains(n));
        match (method, count) {
            (Rounding::Stochastic { seed, .. }, Some(tries)) => Ok(Rounding::Stochastic { tries, seed }),
            (Rounding::Stochastic { .. }, None) => {
                wrong(format!("`{told}` is no number of draws"), "give one from 1 to 100000: `stochastic:100`".into())
            }
            (Rounding::AdaRound(options), Some(iterations)) => {
                Ok(Rounding::AdaRound(AdaRoundOptions { iterations, ..options }))
            }
            (Rounding::Auto { .. }, Some(iterations)) => {
                Ok(Rounding::Auto { adaround: Some(AdaRoundOptions { iterations, ..AdaRoundOptions::DEFAULT }) })
            }
            (Rounding::AdaRound(_) | Rounding::Auto { .. }, None) => {
                let hint = format!("give AdaRound from 1 to 100000 of them: `{name}:300`");
                wrong(format!("`{told}` is no number of iterations"), hint)
            }
            _ => wrong(format!("`{name}` takes no number"), format!("write `{name}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for method in Rounding::ALL {
            assert_eq!(method.to_string().parse::<Rounding>().unwrap(), method);
            assert_eq!(method.name().parse::<Rounding>().unwrap(), method);
        }
        let told: Rounding = "stochastic:7".parse().unwrap();
        assert_eq!(told, Rounding::Stochastic { tries: 7, seed: 0 });
        for text in ["stochastic:7", "adaround:50", "auto:50"] {
            assert_eq!(text.parse::<Rounding>().unwrap().to_string(), text);
        }
        for bad in ["up", "stochastic:0", "stochastic:x", "adaround:", "gptq:3", "nearest:1", "auto:-1", ""] {
            assert!(bad.parse::<Rounding>().is_err(), "{bad}");
        }
    }
}
