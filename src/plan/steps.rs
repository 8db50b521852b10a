//! Which steps toward accuracy are taken.

/// Whether a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Switch {
    /// Never.
    Off,
    /// Always.
    On,
    /// Where it is measured to help, on a few of the calibration samples. Without samples, channels are scaled and biases
    /// corrected, and nothing else.
    #[default]
    Auto,
}

/// The steps that change a float model, or its biases, so that rounding loses less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// Scales channels so that their ranges become alike.
    pub equalize: Switch,
    /// Moves what a bias lifts far above a ReLU into the next layer.
    pub absorb_bias: Switch,
    /// Divides channels of what MatMul and Gemm read, and multiplies their weights, where channels differ much. Where weights
    /// alone are quantized it takes samples, and [`Switch::Auto`] leaves it: it may cost a Mul a layer, and codes that are chosen
    /// by samples gain little from it.
    pub smooth: Switch,
    /// Ends ranges of activations where what training left in batch normalizations ends, six standard deviations from
    /// the mean; only with ranges of everything that was seen ([`Method::MinMax`](crate::observe::Method::MinMax)).
    pub limit_ranges: Switch,
    /// Takes from biases what rounding the weights adds to them.
    pub correct_bias: Switch,
}

impl Steps {
    /// No step at all.
    pub const NONE: Steps = Steps::all(Switch::Off);

    /// Every step alike.
    pub const fn all(switch: Switch) -> Steps {
        Steps { equalize: switch, absorb_bias: switch, smooth: switch, limit_ranges: switch, correct_bias: switch }
    }

    /// Whether any step is left to measuring.
    pub fn leaves_open(&self) -> bool {
        let Steps { equalize, absorb_bias, smooth, limit_ranges, correct_bias } = *self;
        [equalize, absorb_bias, smooth, limit_ranges, correct_bias].contains(&Switch::Auto)
    }
}

impl Default for Steps {
    fn default() -> Steps {
        Steps::all(Switch::Auto)
    }
}
