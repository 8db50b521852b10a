//! The formats of weights that users name: codes, scales, and which numbers share them, as a table.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use super::{Format, Granularity, Levels, Over, ScaleForm, Scheme};
use crate::error::{Error, ErrorKind, Result};

/// A format of weights, as users write it: its name, and behind slashes what is otherwise than in the table:
/// `int4`, `int4/b32` (blocks of 32), `int4/g16` (groups of 16 output channels), `int8/tensor`, `int8/narrow` (without the lowest
/// code), `int4/affine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightFormat {
    /// The name users write, `mxfp4`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// The format of the codes.
    pub format: Format,
    /// The zero point is the format's middle.
    pub symmetric: bool,
    /// The lowest code of a signed format is left unused.
    pub narrow: bool,
    /// Which numbers scales can be.
    pub scales: ScaleForm,
    /// Which numbers share a scale.
    pub share: Share,
}

/// Which numbers of a weight share a scale, before it is known how the weight lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All of a tensor.
    Tensor,
    /// Those of so many neighbouring output channels; the last group may have fewer (Yu et al., "Low-bit quantization needs
    /// good distribution", 2020, section 3.3: groups of filters).
    Channels(NonZeroUsize),
    /// So many neighbours along the inputs, where there are as many; those of an output channel elsewhere.
    Block(usize),
}

impl Share {
    /// Those of an output channel.
    pub const CHANNEL: Share = Share::Channels(NonZeroUsize::MIN);
}

const fn row(name: &'static str, about: &'static str, format: Format, share: Share) -> WeightFormat {
    let symmetric = format.min < 0 || !matches!(format.levels, Levels::Linear);
    WeightFormat { name, about, format, symmetric, narrow: false, scales: ScaleForm::Float, share }
}

/// Blocks whose scales are powers of two.
const fn mx(name: &'static str, about: &'static str, format: Format) -> WeightFormat {
    WeightFormat { scales: ScaleForm::Power, ..row(name, about, format, Share::Block(32)) }
}

/// Blocks of 16 that share a power of two, and pairs that share one bit more of it: signed codes of so many bits. A pair is
/// the block here, its scale the bit, and eight of these share the power.
///
/// Rouhani et al., "With shared microexponents, a little shifting goes a long way", 2023, table 1.
const fn micro(name: &'static str, about: &'static str, format: Format) -> WeightFormat {
    let scales = ScaleForm::Coded { format: MICRO, over: Over::Neighbours(8), power: true };
    WeightFormat { narrow: true, scales, ..row(name, about, format, Share::Block(2)) }
}

/// The shift of a pair: a factor of 1 or 2, in one bit.
const MICRO: Format = Format { name: "micro", bits: 1, min: 0, max: 2, ..Format::UINT2 };

/// A factor from 1 to 16, in four bits.
const SIXTEENTHS: Format = Format { name: "sixteenths", bits: 4, min: 0, max: 16, ..Format::UINT8 };

/// Blocks whose scales are codes times a float for each channel or tensor.
const fn coded(base: WeightFormat, format: Format, over: Over) -> WeightFormat {
    WeightFormat { scales: ScaleForm::Coded { format, over, power: false }, ..base }
}

const CHANNEL: Over = Over::Channel { axis: None };

impl WeightFormat {
    /// Every format, in the order they are listed to users.
    pub const ALL: [WeightFormat; 56] = [
        row("int2", "integers", Format::INT2, Share::CHANNEL),
        row("uint2", "integers with a zero point", Format::UINT2, Share::CHANNEL),
        row("int3", "integers", Format::INT3, Share::CHANNEL),
        row("uint3", "integers with a zero point", Format::UINT3, Share::CHANNEL),
        row("int4", "integers", Format::INT4, Share::CHANNEL),
        row("uint4", "integers with a zero point", Format::UINT4, Share::CHANNEL),
        row("int5", "integers", Format::INT5, Share::CHANNEL),
        row("uint5", "integers with a zero point", Format::UINT5, Share::CHANNEL),
        row("int6", "integers", Format::INT6, Share::CHANNEL),
        row("uint6", "integers with a zero point", Format::UINT6, Share::CHANNEL),
        row("int7", "integers", Format::INT7, Share::CHANNEL),
        row("uint7", "integers with a zero point", Format::UINT7, Share::CHANNEL),
        row("int8", "integers", Format::INT8, Share::CHANNEL),
        row("uint8", "integers with a zero point", Format::UINT8, Share::CHANNEL),
        row("int16", "integers", Format::INT16, Share::CHANNEL),
        row("uint16", "integers with a zero point", Format::UINT16, Share::CHANNEL),
        row("fp8e4m3", "floats of 8 bits", Format::E4M3FN, Share::CHANNEL),
        row("fp8e5m2", "floats of 8 bits", Format::E5M2, Share::CHANNEL),
        row("fp8e4m3fnuz", "floats of 8 bits without -0", Format::E4M3FNUZ, Share::CHANNEL),
        row("fp8e5m2fnuz", "floats of 8 bits without -0", Format::E5M2FNUZ, Share::CHANNEL),
        row("fp6e2m3", "floats of 6 bits", Format::E2M3, Share::CHANNEL),
        row("fp6e3m2", "floats of 6 bits", Format::E3M2, Share::CHANNEL),
        row("fp4e2m1", "floats of 4 bits", Format::E2M1, Share::CHANNEL),
        mx("mxfp8e4m3", "floats of 8 bits, powers of two as scales", Format::E4M3FN),
        mx("mxfp8e5m2", "floats of 8 bits, powers of two as scales", Format::E5M2),
        mx("mxfp6e2m3", "floats of 6 bits, powers of two as scales", Format::E2M3),
        mx("mxfp6e3m2", "floats of 6 bits, powers of two as scales", Format::E3M2),
        mx("mxfp4", "floats of 4 bits, powers of two as scales", Format::E2M1),
        WeightFormat { narrow: true, ..mx("mxint8", "integers, powers of two as scales", Format::INT8) },
        micro("mx9", "integers, an exponent a block, a bit of it a pair", Format::INT8),
        micro("mx6", "integers, an exponent a block, a bit of it a pair", Format::INT5),
        micro("mx4", "integers, an exponent a block, a bit of it a pair", Format::INT3),
        coded(
            row("nvfp4", "floats of 4 bits, floats of 8 bits as scales", Format::E2M1, Share::Block(16)),
            Format::E4M3FN,
            Over::Tensor,
        ),
        coded(row("vsq4", "integers, integers as scales", Format::INT4, Share::Block(16)), Format::UINT4, CHANNEL),
        coded(row("vsq6", "integers, integers as scales", Format::INT6, Share::Block(16)), Format::UINT6, CHANNEL),
        coded(
            row("lpbq4", "integers, sixteenths of the channel's scale", Format::INT4, Share::Block(64)),
            SIXTEENTHS,
            CHANNEL,
        ),
        row("nf4", "quantiles of a normal distribution", Format::NF4, Share::Block(64)),
        row("pow2-3", "powers of two", Format::TABLES[8], Share::CHANNEL),
        row("pow2-4", "powers of two", Format::TABLES[9], Share::CHANNEL),
        row("pow2-5", "powers of two", Format::TABLES[10], Share::CHANNEL),
        row("sqrt2-4", "powers of the root of two", Format::TABLES[11], Share::CHANNEL),
        row("sqrt2-5", "powers of the root of two", Format::TABLES[12], Share::CHANNEL),
        row("sqrt2-6", "powers of the root of two", Format::TABLES[13], Share::CHANNEL),
        row("ternary", "-1, 0 and 1", Format::TERNARY, Share::CHANNEL),
        row("ttq", "0 and a number on each side", Format::TTQ, Share::CHANNEL),
        row("binary", "-1 and 1", Format::BINARY, Share::CHANNEL),
        row("kmeans2", "means of clusters", Format::TABLES[17], Share::Tensor),
        row("kmeans3", "means of clusters", Format::TABLES[18], Share::Tensor),
        row("kmeans4", "means of clusters", Format::TABLES[19], Share::Tensor),
        row("kmeans5", "means of clusters", Format::TABLES[20], Share::Tensor),
        row("kmeans6", "means of clusters", Format::TABLES[21], Share::Tensor),
        row("kmeans7", "means of clusters", Format::TABLES[22], Share::Tensor),
        row("kmeans8", "means of clusters", Format::TABLES[23], Share::Tensor),
        row("int4/b32", "integers", Format::INT4, Share::Block(32)),
        row("uint4/b32", "integers with a zero point", Format::UINT4, Share::Block(32)),
        row("int8/tensor", "integers", Format::INT8, Share::Tensor),
    ];

    /// The row of that name in the table.
    pub fn by_name(name: &str) -> Option<WeightFormat> {
        Self::ALL.into_iter().find(|f| f.name == name)
    }

    /// A format of codes with the scales of its row: floats, one a channel, where there is none.
    pub fn of(format: Format) -> WeightFormat {
        let plain = |f: &WeightFormat| f.format.name == format.name && f.scales == ScaleForm::Float;
        match Self::ALL.into_iter().find(plain) {
            Some(found) => WeightFormat { format, ..found },
            None => row(format.name, "", format, Share::CHANNEL),
        }
    }

    /// The scheme of a weight of this shape, whose output channels and whose inputs, those that are summed up, lie along
    /// these axes.
    pub fn scheme(&self, shape: &[usize], channels: Option<usize>, inputs: Option<usize>) -> Scheme {
        let granularity = match (self.share, channels, inputs) {
            (Share::Block(size), _, Some(axis)) if shape.get(axis).is_some_and(|&n| n >= size) => {
                Granularity::Block { axis, size }
            }
            (Share::Channels(_) | Share::Block(_), Some(axis), _) => Granularity::Channel { axis },
            _ => Granularity::Tensor,
        };
        let joined = match (self.share, granularity) {
            (Share::Channels(count), Granularity::Channel { .. }) => count,
            _ => NonZeroUsize::MIN,
        };
        let scales = self.scales.along(channels);
        Scheme { narrow: self.narrow, scales, joined, ..Scheme::new(self.format, self.symmetric, granularity) }
    }

    /// How many different numbers there are for one scale.
    pub fn levels(&self) -> i64 {
        i64::from(self.format.max) - i64::from(self.scheme(&[], None, None).lowest()) + 1
    }

    /// The smallest magnitude other than 0 that a code stands for when the scale is 1; `None` where the table is found for
    /// the numbers at hand.
    pub fn smallest(&self) -> Option<f32> {
        match (self.format.levels, self.format.table()) {
            (Levels::Linear, _) => Some(1.0),
            (_, table) => table?.iter().map(|x| x.abs()).filter(|&x| x > 0.0).min_by(f32::total_cmp),
        }
    }

    /// The largest number that a code stands for when the scale is 1; `None` where the table is found for the numbers at
    /// hand.
    pub fn largest(&self) -> Option<f32> {
        match (self.format.levels, self.format.table()) {
            (Levels::Linear, _) => Some(self.format.max as f32),
            (_, table) => table?.last().copied(),
        }
    }
}

/// As users write it.
impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        let Some(own) = Self::by_name(self.name) else { return Ok(()) };
        match self.share {
            share if share == own.share => {}
            Share::Tensor => f.write_str("/tensor")?,
            Share::CHANNEL => f.write_str("/channel")?,
            Share::Channels(count) => write!(f, "/g{count}")?,
            Share::Block(size) => write!(f, "/b{size}")?,
        }
        if self.narrow != own.narrow {
            f.write_str("/narrow")?;
        }
        if self.symmetric != own.symmetric {
            f.write_str("/affine")?;
        }
        Ok(())
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    /// Errors when there is no such format, and when a suffix does not fit it.
    fn from_str(text: &str) -> Result<WeightFormat> {
        let wrong = |what: String, hint: &str| Err(Error::new(ErrorKind::Usage, what).hint(hint.to_owned()));
        let mut parts = text.split('/');
        let name = parts.next().unwrap_or_default();
        let Some(mut found) = Self::by_name(name) else {
            return wrong(format!("there is no format `{name}`"), "`qdq formats` lists them");
        };
        for part in parts {
            let count = |prefix| part.strip_prefix(prefix).and_then(|n| n.parse::<NonZeroUsize>().ok());
            let shared = count('b').map(|n| Share::Block(n.get())).or(count('g').map(Share::Channels));
            let linear = found.format.levels == Levels::Linear;
            match (part, shared) {
                _ if found.scales != ScaleForm::Float && !matches!(part, "narrow") => {
                    let what = format!("`{name}` says itself which numbers share a scale");
                    return wrong(what, &format!("leave out `/{part}`"));
                }
                (_, Some(share)) => found.share = share,
                ("tensor", _) => found.share = Share::Tensor,
                ("channel", _) => found.share = Share::CHANNEL,
                ("narrow", _) if linear && found.format.min < 0 => found.narrow = true,
                ("affine", _) if linear => found.symmetric = false,
                _ => {
                    let what = format!("`{part}` says nothing of `{name}`");
                    return wrong(
                        what,
                        "write `/b32`, `/g16`, `/tensor` or `/channel`, and for integers `/narrow` or `/affine`",
                    );
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are() {
        for (i, format) in WeightFormat::ALL.iter().enumerate() {
            assert!(WeightFormat::ALL[..i].iter().all(|f| f.name != format.name), "{}", format.name);
            assert_eq!(format.to_string(), format.name);
            let parsed: WeightFormat = format.name.parse().unwrap();
            assert_eq!((parsed.format, parsed.share, parsed.scales), (format.format, format.share, format.scales));
            let named = format.format.name;
            if named.starts_with("pow") || named.starts_with("sqrt") || named.starts_with("kmeans") {
                assert_eq!(named, format.name);
            }
        }
        let parsed: WeightFormat = "int4/b128/narrow".parse().unwrap();
        assert_eq!((parsed.share, parsed.narrow, &*parsed.to_string()), (Share::Block(128), true, "int4/b128/narrow"));
        let parsed: WeightFormat = "nf4/g16".parse().unwrap();
        assert_eq!((parsed.share, &*parsed.to_string()), (Share::Channels(NonZeroUsize::new(16).unwrap()), "nf4/g16"));
        assert_eq!("int4/g1".parse::<WeightFormat>().unwrap(), "int4/channel".parse().unwrap());
        for wrong in ["int9", "int4/b0", "int4/g0", "int4/g", "vsq4/g16", "nf4/affine", "mxfp4/b16", "uint4/narrow"] {
            assert!(wrong.parse::<WeightFormat>().is_err(), "{wrong}");
        }
    }
}
