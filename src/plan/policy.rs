//! What the user and the target want.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::{Kept, Mode, Steps, Switch};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Graph, NodeExt, NodeProto, Tensor};
use crate::number::{
    Clip, Format, Granularity, Levels, QuantParams, Range, ScaleForm, Scheme, Share, WeightFormat, fit,
};
use crate::observe::Method;
use crate::round::Rounding;
use crate::rule::{OpRule, RULES, Role, picks_rows};
use crate::target::Target;

/// The form in which what is quantized is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Emit {
    /// Float operators between DequantizeLinear and QuantizeLinear: standard ONNX.
    #[default]
    Qdq,
    /// Operators that compute on codes: those of ONNX's own domain, and if `contrib` onnxruntime's too; QDQ elsewhere.
    QOperator {
        /// Whether onnxruntime's own operators may be used.
        contrib: bool,
    },
    /// com.microsoft MatMulNBits in the place of a MatMul whose weight alone is quantized, in blocks along its inputs;
    /// QDQ elsewhere.
    MatMulNBits,
}

/// How constants are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StorageForm {
    /// In the element types and attributes that ONNX has for them; codes of fewer bits in the next wider type.
    #[default]
    Native,
    /// In what runtimes without these run too: codes of 8 and 16 bits, scales of float32, and operators of opset 13.
    Portable,
}

/// How to quantize, and what: the target's wishes under the user's.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The target.
    pub target: Arc<Target>,
    /// The format of activations.
    pub activations: Format,
    /// Lets trials on samples choose which values are kept out of that format.
    pub choose_activations: bool,
    /// The values that are kept out of it, by name. A group of [`Plan::groups`](super::Plan::groups) is kept out whole.
    pub kept: BTreeMap<String, Kept>,
    /// Activations have their zero point in the middle of the format.
    pub symmetric_activations: bool,
    /// Scales of activations are powers of two, stored as floats: integer kernels can then shift.
    pub power_activations: bool,
    /// The format of weights.
    pub weights: Format,
    /// Which numbers scales of weights can be.
    pub weight_scales: ScaleForm,
    /// Weights have their zero point in the middle of the format; those of signed formats where nothing else is said.
    pub symmetric_weights: Option<bool>,
    /// The lowest code of signed weights is left unused, also where the target does not ask for it.
    pub narrow_weights: bool,
    /// How constants are stored.
    pub storage: StorageForm,
    /// One scale for each output channel of a weight.
    pub per_channel: bool,
    /// So many neighbouring output channels share their scale, where they have one each.
    pub joined_channels: NonZeroUsize,
    /// One scale for so many neighbours along the inputs of a weight, where there are that many; one a channel elsewhere.
    pub block_size: Option<NonZeroUsize>,
    /// How ranges of activations come out of what was seen.
    pub calibration: Method,
    /// How ranges of weights come out of their numbers.
    pub weight_clip: Method,
    /// How weights become codes. Methods that ask for what layers read need samples, and are passed over without.
    pub rounding: Rounding,
    /// Codes of weights are chosen in so many stages, one behind the other as the layers are, each for what its layers read
    /// behind the stages before it; all in one for what they read in the float model where it is `None`.
    pub stages: Option<NonZeroUsize>,
    /// The form in which it is written.
    pub emit: Emit,
    /// The operators to quantize; `None` for the target's.
    pub operators: Option<Vec<String>>,
    /// Nodes that stay float.
    pub exclude: Patterns,
    /// If there are any, only these nodes are quantized.
    pub only: Patterns,
    /// The steps toward accuracy.
    pub steps: Steps,
}

impl Policy {
    /// The target's own policy.
    pub fn of(target: &Target) -> Policy {
        Policy {
            target: Arc::new(target.clone()),
            activations: target.activations,
            choose_activations: false,
            kept: BTreeMap::new(),
            symmetric_activations: target.symmetric_activations,
            power_activations: false,
            weights: target.weights,
            weight_scales: ScaleForm::Float,
            symmetric_weights: None,
            narrow_weights: false,
            storage: StorageForm::Native,
            per_channel: target.per_channel,
            joined_channels: NonZeroUsize::MIN,
            block_size: None,
            calibration: Method::MinMax,
            weight_clip: Method::MinMax,
            rounding: Rounding::Nearest,
            stages: None,
            emit: Emit::default(),
            operators: None,
            exclude: Patterns::default(),
            only: Patterns::default(),
            steps: Steps::default(),
        }
    }

    /// The scheme of activations that are codes of a format.
    pub fn activation_scheme(&self, format: Format) -> Scheme {
        let scales = if self.power_activations { ScaleForm::Power } else { ScaleForm::Float };
        Scheme { scales, ..Scheme::new(format, self.symmetric_activations, Granularity::Tensor) }
    }

    /// The scheme of a weight of this shape that a node of this rule reads.
    ///
    /// Signed weights are symmetric, unsigned ones affine. Blocks lie along the inputs that are summed up; a MatMul of bytes whose
    /// input is quantized too (`static_input`) has none, since onnxruntime 1.31 fuses it into a kernel that then refuses them.
    pub fn weight_scheme(&self, rule: &OpRule, node: &NodeProto, shape: &[usize], static_input: bool) -> Scheme {
        let refused = static_input && self.weights.storage.bits() == 8 && node.is("MatMul");
        let inputs = rule.summed_axis(node, shape.len()).filter(|_| !refused);
        let channels = rule.channel_axis(node, shape.len());
        let per_channel = self.per_channel && !self.target.one_scale(node.op_type());
        let shared = self.weight_format().scheme(shape, channels.filter(|_| per_channel), inputs);
        let symmetric = self.symmetric_weights.unwrap_or(self.weights.signed());
        // The lowest code is spared for kernels that multiply bytes.
        let spared = self.target.narrow_weights && self.weights.bits == 8;
        let narrow = symmetric && (spared || self.narrow_weights);
        Scheme { symmetric, narrow, scales: self.weight_scales.along(channels), ..shared }
    }

    /// The format of weights with its scales, as users name it.
    pub fn weight_format(&self) -> WeightFormat {
        let share = match (self.block_size, self.per_channel) {
            (Some(size), _) => Share::Block(size.get()),
            (None, true) => Share::Channels(self.joined_channels),
            (None, false) => Share::Tensor,
        };
        let plain = WeightFormat::of(self.weights);
        let named = WeightFormat::ALL.into_iter().find(|f| (f.format, f.scales) == (self.weights, self.weight_scales));
        let symmetric = self.symmetric_weights.unwrap_or(plain.symmetric);
        let format = self.weights;
        WeightFormat { format, scales: self.weight_scales, share, symmetric, ..named.unwrap_or(plain) }
    }

    /// Lets weights have this format.
    pub fn set_weight_format(&mut self, format: &WeightFormat) {
        self.weights = format.format;
        self.weight_scales = format.scales;
        self.narrow_weights = format.narrow;
        let plain = format.symmetric == format.format.signed();
        self.symmetric_weights = (!plain).then_some(format.symmetric);
        match format.share {
            Share::Tensor => self.per_channel = false,
            Share::Channels(count) => self.joined_channels = count,
            Share::Block(size) => self.block_size = NonZeroUsize::new(size),
        }
    }

    /// Parameters of a weight, from its numbers.
    ///
    /// Where codes are chosen by samples, float scales are searched for with them
    /// ([`seek_scales`](crate::round::seek_scales)), and all others are here those that lose least, whatever the clip. Powers of
    /// two let the largest weights saturate else: each nearest code bears that for itself, but codes that are chosen together
    /// all move to make it good on what samples show most, and are worse elsewhere.
    pub(super) fn weight_params(&self, tensor: &Tensor, scheme: &Scheme) -> Result<QuantParams> {
        let chosen = self.rounding.needs_moments() && scheme.scales != ScaleForm::Float;
        let clip = if self.weight_clip.needs_extremes_only() && !chosen { Clip::Max } else { Clip::Best };
        fit(&tensor.f32s()?, tensor.shape(), scheme, clip, |scale| scale)
    }

    /// Whether weights are linear with scales of float: then ranges alone say their parameters.
    pub fn linear_weights(&self) -> bool {
        self.weights.levels == Levels::Linear && self.weight_scales == ScaleForm::Float
    }

    /// Parameters that cover the ranges. What is narrower than the target takes is widened upward, as onnxruntime's
    /// `MinimumRealRange` does.
    pub(super) fn params(&self, scheme: &Scheme, ranges: &[Range]) -> Result<QuantParams> {
        let least = self.target.minimum_range as f32;
        let widened = |r: &Range| Range::new(r.min(), r.max().max(r.min() + least)).unwrap_or(*r);
        let params = match least == 0.0 {
            true => QuantParams::from_ranges(scheme, ranges)?,
            false => QuantParams::from_ranges(scheme, &ranges.iter().map(widened).collect::<Vec<_>>())?,
        };
        // QuantizeLinear reads scales of the type of what it quantizes.
        if scheme.scales.is_power() { params.with_scales(params.scales().to_vec()) } else { Ok(params) }
    }

    /// The scheme of a table `[rows, columns]` whose rows Gather picks: 8 bits, and one scale a column, so that what
    /// was picked can be dequantized behind, instead of the whole table ahead.
    pub fn table_scheme(&self) -> Scheme {
        let symmetric = self.weights.signed();
        let format = if symmetric { Format::INT8 } else { Format::UINT8 };
        let granularity = if self.per_channel { Granularity::Channel { axis: 1 } } else { Granularity::Tensor };
        Scheme { narrow: symmetric && self.target.narrow_weights, ..Scheme::new(format, symmetric, granularity) }
    }

    /// The scheme of a weight that is stored as one with a table whose rows Gather picks: that of the weight where it is linear
    /// and of 8 bits, and 8 bits as tables have them elsewhere, with one scale for each output channel, which is a row of the table.
    pub fn tied_scheme(&self, rule: &OpRule, node: &NodeProto, shape: &[usize]) -> Scheme {
        let bytes = self.linear_weights() && self.weights.storage.bits() == 8;
        let own = if bytes { self.weight_scheme(rule, node, shape, true) } else { self.table_scheme() };
        let per_channel = self.per_channel && !self.target.one_scale(node.op_type());
        let granularity = match rule.channel_axis(node, shape.len()) {
            Some(axis) if per_channel => Granularity::Channel { axis },
            _ => Granularity::Tensor,
        };
        Scheme { granularity, ..own }
    }

    /// Whether nodes of this operator are quantized.
    pub fn wants(&self, op: &str) -> bool {
        match &self.operators {
            Some(list) => list.iter().any(|o| o == op),
            None => self.target.operators.iter().any(|o| o == op),
        }
    }

    /// Why the user or the target does not want the node quantized; `None` if they do. A node that has no rule, or that
    /// stays float by its rule, has better reasons.
    pub(super) fn unwanted(&self, graph: &Graph, node: &NodeProto) -> Option<String> {
        if self.exclude.matches(graph, node) {
            return Some("excluded by the user".into());
        }
        if !self.only.is_empty() && !self.only.matches(graph, node) {
            return Some("not among the nodes chosen by the user".into());
        }
        let float = RULES.iter().any(|r| node.is(r.op) && matches!(r.role, Role::Float(_)));
        // What is picked from a table of codes is float.
        let table = self.operators.is_none() && self.target.tables && picks_rows(graph, node).is_ok();
        if float || table || self.wants(node.op_type()) {
            return None;
        }
        Some(match self.operators {
            Some(_) => "not among the operators chosen by the user".into(),
            None => format!("target `{}` has no use for it in integers", self.target.name),
        })
    }

    /// Errors when the target does not take a format.
    pub fn check_formats(&self) -> Result<()> {
        let target = &self.target;
        let format = self.weight_format();
        if !self.linear_weights() && self.storage == StorageForm::Native && !target.runs(&format) {
            let what = format!("target `{}` does not run `{format}` in the types that ONNX has for it", target.name);
            return Err(Error::new(ErrorKind::Usage, what).hint("store it in others with `--storage portable`"));
        }
        // What is stored portably is multiplied in float.
        let weights =
            self.storage == StorageForm::Portable || !self.linear_weights() || target.allows_weights(self.weights);
        for (what, format, allowed, formats) in [
            ("activations", self.activations, target.allows_activations(self.activations), &target.activation_formats),
            ("weights", self.weights, weights, &target.weight_formats),
        ] {
            if !allowed {
                let names: Vec<&str> = formats.iter().map(|f| f.name).collect();
                let others = match what == "activations" && format.is_looked_up() {
                    true => "; they are simulated in float with `--target ort-cpu` and `--target tract`",
                    false => "",
                };
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("target `{}` takes no {what} of {}", target.name, format.name),
                )
                .hint(format!("formats of {what} are {} there{others}", names.join(", "))));
            }
        }
        Ok(())
    }

    /// Errors when a mode that needs no ranges cannot be had with the rest of the policy: integer operators multiply
    /// bytes without blocks, and DynamicQuantizeLinear makes affine uint8; MatMulNBits takes float inputs, and blocks
    /// of 16, 32, 64, 128 or 256.
    pub fn check_mode(&self, mode: Mode) -> Result<()> {
        let wrong = |what: &str, hint: &str| Err(Error::new(ErrorKind::Usage, what).hint(hint));
        let Steps { equalize, absorb_bias, smooth, limit_ranges, correct_bias: _ } = self.steps;
        let unknown = [
            ("--equalize", equalize),
            ("--absorb-bias", absorb_bias),
            ("--limit-ranges", limit_ranges),
            ("--smooth", if mode == Mode::Weights { Switch::Off } else { smooth }),
        ];
        if let Some((option, _)) = unknown.iter().find(|(_, switch)| *switch == Switch::On) {
            let what =
                format!("`{option} on` changes a model by the ranges of its values, which this mode does not learn");
            return wrong(&what, &format!("leave out `{option}`, or give samples and go `--mode static`"));
        }
        match (mode, self.emit) {
            _ if self.choose_activations => wrong(
                "activations that are measured are those of the static mode",
                "leave out `--activations auto`, or `--mode`",
            ),
            (Mode::Dynamic, Emit::MatMulNBits) => {
                wrong("MatMulNBits reads floats", "leave out `--emit matmulnbits`, or quantize `--mode weights`")
            }
            (Mode::Dynamic, _) if !self.linear_weights() => {
                let what = format!("integer operators multiply integers, and `{}` is none", self.weight_format());
                wrong(&what, "take integers with `--weights int8`, or quantize `--mode weights`")
            }
            (Mode::Weights, Emit::MatMulNBits) if !self.linear_weights() || self.storage == StorageForm::Portable => {
                let what = format!("MatMulNBits has integers and scales of its own, not `{}`", self.weight_format());
                wrong(&what, "take `--weights int4` in the native storage, or leave out `--emit matmulnbits`")
            }
            (Mode::Dynamic, _) if self.weights.storage.bits() != 8 => {
                let what = format!("integer operators multiply bytes, and `{}` is stored in less", self.weights.name);
                wrong(&what, "store codes in a byte each with `--storage int8`, or quantize `--mode weights`")
            }
            (Mode::Dynamic, _) if self.block_size.is_some() => wrong(
                "integer operators sum up over all inputs, which therefore have one scale",
                "leave out `--block-size`, or quantize `--mode weights`",
            ),
            (Mode::Dynamic, _) if self.activations != Format::UINT8 || self.symmetric_activations => wrong(
                "DynamicQuantizeLinear makes affine uint8, and nothing else",
                "leave out `--activations` and `--symmetric-activations`, or give samples and go `--mode static`",
            ),
            (Mode::Weights, Emit::MatMulNBits)
                if !self.block_size.is_some_and(|n| n.is_power_of_two() && (16..=256).contains(&n.get())) =>
            {
                wrong("MatMulNBits has blocks of 16, 32, 64, 128 or 256", "give one of them with `--block-size`")
            }
            _ => Ok(()),
        }
    }

    /// Errors when operators on codes are to be emitted, and activations have no codes that any computes on.
    pub fn check_emit(&self) -> Result<()> {
        if self.activations.is_looked_up() && matches!(self.emit, Emit::QOperator { .. }) {
            let what = format!("no operator computes on codes of `{}`", self.activations.name);
            return Err(Error::new(ErrorKind::Usage, what).hint("leave out `--emit qoperator`"));
        }
        Ok(())
    }

    /// Errors when values are to be chosen by what they lose, and no samples show it.
    pub fn check_choice(&self, shown: bool) -> Result<()> {
        if shown || !self.choose_activations {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Usage, "`--activations auto` measures what values lose, and no samples show it")
            .hint("say where samples come from with `--data SOURCE`, without `--ranges` and `--data-free`"))
    }

    /// Errors when weights are to be clipped by a method that asks for samples.
    pub fn check_methods(&self) -> Result<()> {
        let extremes = matches!(self.calibration, Method::MinMax | Method::MovingAverage | Method::Percentile(_));
        if self.activations.levels.is_table() && !extremes {
            let what =
                format!("`{}` chooses ranges of integers, and not of `{}`", self.calibration, self.activations.name);
            return Err(Error::new(ErrorKind::Usage, what)
                .hint("methods for all formats are `min-max`, `moving-average` and `percentile`"));
        }
        if self.weight_clip.fits_weights() {
            let any = self.weight_clip.needs_extremes_only() || matches!(self.weight_clip, Method::Mse(_));
            if self.linear_weights() || any {
                return Ok(());
            }
            let what =
                format!("`{}` chooses ranges of integers, and not of `{}`", self.weight_clip, self.weight_format());
            return Err(Error::new(ErrorKind::Usage, what).hint("methods for all formats are `min-max` and `mse`"));
        }
        let fit = Method::ALL.into_iter().filter(|m| m.fits_weights()).map(|m| format!("`{}`", m.name()));
        Err(Error::new(
            ErrorKind::Usage,
            format!("`{}` cannot choose ranges of weights: it looks at samples", self.weight_clip),
        )
        .hint(format!("methods for weights are {}", fit.collect::<Vec<_>>().join(", "))))
    }

    /// Errors when an operator was asked for that no rule allows to quantize.
    pub fn check_operators(&self) -> Result<()> {
        let known = |op: &str| RULES.iter().any(|r| r.op == op && !matches!(r.role, Role::Float(_)));
        let Some(wrong) = self.operators.iter().flatten().find(|op| !known(op)) else { return Ok(()) };
        let list: Vec<&str> = RULES.iter().filter(|r| known(r.op)).map(|r| r.op).collect();
        Err(Error::new(ErrorKind::Usage, format!("`{wrong}` is no operator that can be quantized"))
            .hint(format!("operators are written as in ONNX: {}", list.join(", "))))
    }

    /// The opset that the emitted Q/DQ nodes need.
    pub fn opset(&self) -> i64 {
        let weights = match self.storage {
            StorageForm::Native => self.weight_format().opset(),
            StorageForm::Portable => 13,
        };
        let wide = self.target.wide_activations(self.activations).filter(|_| self.choose_activations);
        // What is looked up is compared and gathered.
        let own = if self.activations.is_looked_up() { 13 } else { self.activations.opset };
        let activations = own.max(wide.map_or(0, |f| f.opset));
        self.target.opset.max(activations).max(weights)
    }
}

/// Names of nodes, or globs over them: `/encoder/*`, `Conv_1?`. A node without a name goes by its first output; one in a
/// subgraph goes by its name with and without those of the nodes around it: `If_0 > then_branch > Conv_3`.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    texts: Vec<String>,
    globs: GlobSet,
}

impl Patterns {
    /// Errors when a text is no glob.
    pub fn new(texts: &[String]) -> Result<Patterns> {
        let wrong = |text: &str, e: globset::Error| {
            Error::new(ErrorKind::Usage, format!("`{text}` is not a pattern: {}", e.kind())).caused_by(e)
        };
        let mut globs = GlobSetBuilder::new();
        for text in texts {
            globs.add(Glob::new(text).map_err(|e| wrong(text, e))?);
        }
        let globs = globs.build().map_err(|e| wrong(&texts.join(" "), e))?;
        Ok(Patterns { texts: texts.to_vec(), globs })
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The patterns as they were given.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether the node of that graph is meant.
    pub fn matches(&self, graph: &Graph, node: &NodeProto) -> bool {
        !self.is_empty() && self.means(node.title(), &graph.path(node))
    }

    /// Whether a node of that title is meant, whose name behind those of the nodes around it is `path`.
    pub fn means(&self, title: &str, path: &str) -> bool {
        let means = |name: &str| self.texts.iter().any(|t| t == name) || self.globs.is_match(name);
        means(title) || means(path)
    }

    /// Whether any node of the graph, or in a subgraph of it, is meant.
    fn means_any(&self, graph: &Graph) -> Result<bool> {
        if graph.nodes().any(|(_, n)| self.matches(graph, n)) {
            return Ok(true);
        }
        for id in graph.bodies() {
            if self.means_any(&graph.body(id)?)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Errors when a pattern means no node of the graph or of its subgraphs.
    pub fn check(&self, graph: &Graph) -> Result<()> {
        for text in &self.texts {
            let one = Patterns::new(std::slice::from_ref(text))?;
            if !one.means_any(graph)? {
                return Err(Error::new(ErrorKind::Usage, format!("no node is called `{text}`"))
                    .hint("`qdq explain` lists the nodes; patterns are globs over whole names"));
            }
        }
        Ok(())
    }
}
