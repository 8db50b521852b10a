//! Floating-point formats of at most 8 bits, as a table.

/// Which codes of a format are no finite numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Specials {
    /// As in IEEE 754: the largest exponent stands for infinities (mantissa 0) and NaN.
    Ieee,
    /// Exponent and mantissa all ones are NaN; there are no infinities (`fn`: finite, NaN).
    AllOnes,
    /// The code of a negative zero is the only NaN; there are no infinities (`fnuz`: finite, NaN, unsigned zero).
    NegativeZero,
    /// Every code is a finite number.
    None,
}

/// A floating-point format: sign, exponent and mantissa from the highest bit down.
///
/// With exponent field `e` and mantissa field `m` of `k` bits a code stands for `(1 + m / 2^k) * 2^(e - bias)`, and for
/// `m / 2^k * 2^(1 - bias)` where `e` is 0. A format without mantissa has no zero: there `e` of 0 is a power of two
/// like the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Minifloat {
    /// The name users write, `float8e4m3fn`.
    pub name: &'static str,
    /// Whether the highest bit is a sign.
    pub signed: bool,
    /// Bits of the exponent.
    pub exponent: u32,
    /// Bits of the mantissa.
    pub mantissa: u32,
    /// What is taken off the exponent field.
    pub bias: i32,
    /// Which codes are no finite numbers.
    pub specials: Specials,
}

const fn signed(name: &'static str, exponent: u32, mantissa: u32, bias: i32, specials: Specials) -> Minifloat {
    Minifloat { name, signed: true, exponent, mantissa, bias, specials }
}

/// Sources: ONNX's docs "Float stored in 8 bits" and "4 bit floating point types"; Micikevicius et al., "FP8 formats for
/// deep learning", arXiv:2209.05433, table 1; Noune et al., "8-bit numerical formats for deep neural networks",
/// arXiv:2206.02915; OCP Microscaling Formats (MX) Specification v1.0, sections 5.3 and 5.4.
impl Minifloat {
    /// 448 is the largest number.
    pub const E4M3FN: Minifloat = signed("float8e4m3fn", 4, 3, 7, Specials::AllOnes);
    /// 240 is the largest number.
    pub const E4M3FNUZ: Minifloat = signed("float8e4m3fnuz", 4, 3, 8, Specials::NegativeZero);
    /// 57344 is the largest number.
    pub const E5M2: Minifloat = signed("float8e5m2", 5, 2, 15, Specials::Ieee);
    /// 57344 is the largest number.
    pub const E5M2FNUZ: Minifloat = signed("float8e5m2fnuz", 5, 2, 16, Specials::NegativeZero);
    /// Powers of two from 2^-127 to 2^127: scales.
    pub const E8M0: Minifloat = Minifloat {
        name: "float8e8m0",
        signed: false,
        exponent: 8,
        mantissa: 0,
        bias: 127,
        specials: Specials::AllOnes,
    };
    /// 7.5 is the largest number.
    pub const E2M3: Minifloat = signed("float6e2m3", 2, 3, 1, Specials::None);
    /// 28 is the largest number.
    pub const E3M2: Minifloat = signed("float6e3m2", 3, 2, 3, Specials::None);
    /// 0, 0.5, 1, 1.5, 2, 3, 4, 6, and their negatives.
    pub const E2M1: Minifloat = signed("float4e2m1", 2, 1, 1, Specials::None);

    /// Every format, in the order they are listed to users.
    pub const ALL: [Minifloat; 8] = [
        Minifloat::E4M3FN,
        Minifloat::E4M3FNUZ,
        Minifloat::E5M2,
        Minifloat::E5M2FNUZ,
        Minifloat::E8M0,
        Minifloat::E2M3,
        Minifloat::E3M2,
        Minifloat::E2M1,
    ];

    /// Bits of a code.
    pub fn bits(self) -> u32 {
        u32::from(self.signed) + self.exponent + self.mantissa
    }

    /// The number a code stands for, exactly; bits of the code past the format's are ignored.
    pub fn real(self, code: u8) -> f32 {
        let field = |from: u32, bits: u32| u32::from(code) >> from & ((1 << bits) - 1);
        let (m, e) = (field(0, self.mantissa), field(self.mantissa, self.exponent));
        let negative = self.signed && field(self.bits() - 1, 1) == 1;
        let (last, ones) = ((1 << self.exponent) - 1, (1 << self.mantissa) - 1);
        let sign = if negative { -1.0 } else { 1.0 };
        match self.specials {
            Specials::Ieee if e == last => return if m == 0 { sign * f32::INFINITY } else { f32::NAN },
            Specials::AllOnes if e == last && m == ones => return f32::NAN,
            Specials::NegativeZero if negative && e == 0 && m == 0 => return f32::NAN,
            _ => {}
        }
        let leading = if e == 0 && self.mantissa > 0 { 0 } else { 1 << self.mantissa };
        let power = e.max(u32::from(self.mantissa > 0)) as i32 - self.bias - self.mantissa as i32;
        // A few bits times a power of two that f64 holds: exact, and so is the narrowing.
        (sign as f64 * f64::from(leading + m) * 2f64.powi(power)) as f32
    }

    /// The codes of the finite numbers in ascending order, without a negative zero beside zero.
    pub fn ascending(self) -> Vec<u8> {
        let mut codes: Vec<u8> = (0..=u8::MAX).take(1 << self.bits()).filter(|&c| self.real(c).is_finite()).collect();
        codes.retain(|&c| self.real(c) != 0.0 || self.real(c).is_sign_positive());
        codes.sort_by(|&a, &b| self.real(a).total_cmp(&self.real(b)));
        codes
    }

    /// The code of the nearest finite number, ties to the even code, or up where there is no mantissa; what lies beyond the largest becomes the largest, as
    /// QuantizeLinear-19 does with `saturate`. NaN becomes the first NaN of the format, and the lowest number where
    /// there is none.
    pub fn code(self, x: f32) -> u8 {
        if x.is_nan()
            && let Some(nan) = (0..=u8::MAX).take(1 << self.bits()).find(|&c| self.real(c).is_nan())
        {
            return nan;
        }
        let codes = self.ascending();
        let reals: Vec<f32> = codes.iter().map(|&c| self.real(c)).collect();
        // What lies half-way is raised by so little that nothing else changes.
        let x = f64::from(x);
        let code = codes[super::levels::nearest(&reals, if self.mantissa == 0 { x.next_up() } else { x })];
        let sign = 1 << (self.bits() - 1);
        // Zero keeps its sign where it has one.
        let negative_zero = self.real(code) == 0.0 && x.is_sign_negative() && self.real(sign) == 0.0;
        if self.signed && negative_zero { sign } else { code }
    }

    /// The numbers of all codes, in the order of the codes.
    pub fn reals(self) -> Vec<f32> {
        (0..1u16 << self.bits()).map(|code| self.real(code as u8)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of the sources: bits, largest, smallest normal, smallest number, NaN codes, infinite codes.
    #[test]
    fn formats_are_those_of_the_field() {
        let facts = [
            (Minifloat::E4M3FN, 8, 448.0, 2, 0),
            (Minifloat::E4M3FNUZ, 8, 240.0, 1, 0),
            (Minifloat::E5M2, 8, 57344.0, 6, 2),
            (Minifloat::E5M2FNUZ, 8, 57344.0, 1, 0),
            (Minifloat::E8M0, 8, 2f32.powi(127), 1, 0),
            (Minifloat::E2M3, 6, 7.5, 0, 0),
            (Minifloat::E3M2, 6, 28.0, 0, 0),
            (Minifloat::E2M1, 4, 6.0, 0, 0),
        ];
        assert_eq!(facts.map(|f| f.0), Minifloat::ALL);
        for (format, bits, largest, nans, infinities) in facts {
            let reals = format.reals();
            assert_eq!((format.bits(), reals.len()), (bits, 1 << bits), "{}", format.name);
            let finite = || reals.iter().copied().filter(|x| x.is_finite());
            assert_eq!(finite().fold(0.0, f32::max), largest, "{}", format.name);
            assert_eq!(reals.iter().filter(|x| x.is_nan()).count(), nans, "{}", format.name);
            assert_eq!(reals.iter().filter(|x| x.is_infinite()).count(), infinities, "{}", format.name);
        }
    }

    #[test]
    fn the_smallest_numbers_are_exact() {
        let smallest = |f: Minifloat| f.reals().into_iter().filter(|&x| x > 0.0).fold(f32::INFINITY, f32::min);
        assert_eq!(smallest(Minifloat::E4M3FN), 2f32.powi(-9));
        assert_eq!(smallest(Minifloat::E4M3FNUZ), 2f32.powi(-10));
        assert_eq!(smallest(Minifloat::E5M2), 2f32.powi(-16));
        assert_eq!(smallest(Minifloat::E5M2FNUZ), 2f32.powi(-17));
        assert_eq!(smallest(Minifloat::E8M0), 2f32.powi(-127));
        assert_eq!(smallest(Minifloat::E2M3), 0.125);
        assert_eq!(smallest(Minifloat::E3M2), 0.0625);
        assert!(Minifloat::E4M3FN.real(0x80).is_sign_negative() && Minifloat::E4M3FN.real(0x80) == 0.0);
        assert_eq!(Minifloat::E2M1.reals()[..9], [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0]);
    }
}
