//! Computes in float16 or bfloat16 what a model computes in float32.

mod constants;
mod exact;
mod islands;
mod plan;
mod rewrite;
mod rounding;
mod sites;
mod types;

use std::collections::{BTreeMap, HashMap};

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use super::{Context, FreezeInputs, InlineFunctions, LiftConstants, Pass, RaiseOpset, Skipped, UniqueNames};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{DataType, Model, NodeExt};
use crate::plan::Patterns;
use crate::schema::ValueType;
use plan::Plan;
use rewrite::Rewriter;

pub use constants::Rounded;
pub use rounding::rounding;

/// A float type of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Narrow {
    /// IEEE 754 binary16: 11 bits of precision, up to 65504.
    Float16,
    /// The upper half of a float32: 8 bits of precision, the range of float32.
    Bfloat16,
}

impl Narrow {
    /// ONNX's element type.
    pub fn dtype(self) -> DataType {
        match self {
            Narrow::Float16 => DataType::Float16,
            Narrow::Bfloat16 => DataType::Bfloat16,
        }
    }

    /// The largest number.
    pub fn largest(self) -> f32 {
        match self {
            Narrow::Float16 => f16::MAX.to_f32(),
            Narrow::Bfloat16 => bf16::MAX.to_f32(),
        }
    }

    /// The smallest number that has all digits.
    pub fn smallest_normal(self) -> f32 {
        match self {
            Narrow::Float16 => f16::MIN_POSITIVE.to_f32(),
            Narrow::Bfloat16 => bf16::MIN_POSITIVE.to_f32(),
        }
    }

    /// The smallest number above zero.
    pub fn smallest(self) -> f32 {
        match self {
            Narrow::Float16 => f16::MIN_POSITIVE_SUBNORMAL.to_f32(),
            Narrow::Bfloat16 => bf16::MIN_POSITIVE_SUBNORMAL.to_f32(),
        }
    }

    /// The codes of numbers, rounded to nearest, ties to even; slices of one length.
    fn encode(self, x: &[f32], codes: &mut [u16]) {
        match self {
            Narrow::Float16 => codes.reinterpret_cast_mut::<f16>().convert_from_f32_slice(x),
            Narrow::Bfloat16 => codes.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(x),
        }
    }

    /// Whether rounding the number gives an infinity.
    fn is_infinite(self, x: f32) -> bool {
        match self {
            Narrow::Float16 => f16::from_f32(x).is_infinite(),
            Narrow::Bfloat16 => bf16::from_f32(x).is_infinite(),
        }
    }

    /// The opset that the Casts need (Cast-6 names its type by a number, Cast-13 knows bfloat16).
    fn least_opset(self) -> i64 {
        match self {
            Narrow::Float16 => 6,
            Narrow::Bfloat16 => 13,
        }
    }
}

/// How a model is to be narrowed.
#[derive(Debug, Clone)]
pub struct Narrowing {
    /// The type.
    pub to: Narrow,
    /// Whether inputs and outputs of the model become narrow too.
    pub io: bool,
    /// Nodes that stay float32.
    pub exclude: Patterns,
    /// Operators that stay float32, by name.
    pub exclude_ops: Vec<String>,
    /// The opset to raise the model to first.
    pub opset: Option<i64>,
    /// The least and the greatest number of values, as far as they were seen: what gets past half of the range of the type
    /// stays float32, since samples do not show all. What masks make of a value does not count.
    pub seen: HashMap<String, (f32, f32)>,
}

impl Narrowing {
    /// All that takes the type, inputs and outputs of the model left out.
    pub fn to(to: Narrow) -> Narrowing {
        let (exclude, exclude_ops, seen) = (Patterns::default(), Vec::new(), HashMap::new());
        Narrowing { to, io: false, exclude, exclude_ops, opset: None, seen }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Narrowed {
    /// What was lost of each constant that was rounded.
    pub rounded: Vec<Rounded>,
    /// Nodes that compute in the narrow type, by operator.
    pub converted: BTreeMap<String, usize>,
    /// Nodes that compute in float32 still, and why.
    pub wide: Vec<Skipped>,
    /// Casts that were put in.
    pub casts: usize,
    /// Casts that were taken out, since what they read is of their type now.
    pub dropped: usize,
}

/// Lets a model compute in float16 or bfloat16 what it computed in float32, its bodies included.
///
/// - **Does**: rounds constants to nearest; what is past the range of the type becomes its largest number, so that masks
///   such as -3.4e38 stay finite. Changes the types that Constant, ConstantOfShape, Cast, EyeLike, Random... state, and
///   those that are stated of values. Puts a Cast where a value is needed in the other type, once for each value, beside
///   what makes it; takes Casts out that would change nothing. Inputs and outputs of the model keep their type unless
///   [`Narrowing::io`]. First constants become initializers, functions are inlined, values get names of their own in
///   the model, and the opset is raised where [`Narrowing::opset`] says so or the Casts need it (6, 13 for bfloat16), and
///   for bfloat16 to that in which the operators of the model take it, at most 22.
/// - **Keeps float32**: operators that do not take the type in the opset of the model ([`schema`](crate::schema));
///   operators of other domains; sequences; nodes with constants past the range, if these are no masks (negative, of Add,
///   Mul, Sub or Where) and no bounds (of Clip, Max, Min); Q and DQ whose scale is below the normal numbers of the type;
///   what stands between DQ and Q that stay; arithmetic with integers that ends in sizes or in angles; what is excluded, and what
///   was seen to overflow. What only moves values stays where both its sides do.
/// - **Before**: `y = Gemm(x, w)`. **After**: `y = Cast(Gemm(Cast(x), w (float16)))`.
/// - **Source**: the element types of ONNX's operators; IEEE 754-2019, section 4.3.1 (rounding).
///
/// Errors when nothing becomes narrow, when what is excluded is not there, when the opset cannot be raised, and when a
/// constant is broken.
pub fn narrow(model: &mut Model, wish: &Narrowing, cx: &mut Context<'_>) -> Result<Narrowed> {
    let mut prepared = model.clone();
    prepare(&mut prepared, wish, cx)?;
    raise(&mut prepared, wish, cx);
    wish.exclude.check(&prepared.graph)?;
    let proto = prepared.to_proto();
    let sites = sites::sites(&proto);
    if let Some(op) = wish.exclude_ops.iter().find(|op| sites.iter().all(|s| s.node.operator() != **op)) {
        let what = format!("no node of the model has the operator `{op}`");
        return Err(Error::new(ErrorKind::Usage, what).hint("`qdq inspect` lists the operators of the model"));
    }
    let plan = Plan::decide(&proto, sites, wish);
    let mut rewriter = Rewriter::new(&plan, wish.to, &mut prepared.graph, cx.scratch.as_ref());
    let graph = proto.graph.as_ref().map(|g| rewriter.model(g)).transpose()?;
    let done = std::mem::take(&mut rewriter.done);
    let label = |i: usize| plan.sites[i].label();
    let kept =
        plan.reasons.iter().map(|(i, reason)| Skipped { pass: "narrow", node: label(*i), reason: reason.clone() });
    let wide: Vec<Skipped> = kept.collect();
    if done.converted.is_empty() {
        return Err(nothing(wish, &wide));
    }
    let narrowed =
        Narrowed { rounded: done.rounded, converted: done.converted, wide, casts: done.casts, dropped: done.dropped };
    let rest = prepared.metadata().clone();
    *model = Model::from_proto(crate::model::ModelProto { graph, ..rest })?;
    Ok(narrowed)
}

/// Brings the model into the form that is narrowed, without changing what it computes.
fn prepare(model: &mut Model, wish: &Narrowing, cx: &mut Context<'_>) -> Result<()> {
    let opset = wish.opset.unwrap_or(0).max(wish.to.least_opset());
    for pass in [&FreezeInputs as &dyn Pass, &InlineFunctions, &UniqueNames, &LiftConstants, &RaiseOpset { to: opset }]
    {
        super::run(pass, model, cx)?;
    }
    Ok(())
}

/// The opset in which every operator takes bfloat16 that ever does, but for the newest.
const TAKES_BFLOAT16: i64 = 22;

/// Raises the opset to that in which the operators of the model take bfloat16, where nobody asked for another one and it
/// can be done: convolutions take it from 22 on.
fn raise(model: &mut Model, wish: &Narrowing, cx: &mut Context<'_>) {
    if wish.opset.is_some() || wish.to != Narrow::Bfloat16 {
        return;
    }
    let proto = model.to_proto();
    let half = ValueType::Tensor(wish.to.dtype());
    let later = sites::sites(&proto)
        .iter()
        .filter(|s| !plan::takes(s, half))
        .filter_map(|s| plan::takes_later(s, half))
        .collect::<Vec<_>>();
    let needed = later.into_iter().filter(|&opset| opset <= TAKES_BFLOAT16).max();
    if let Some(to) = needed.filter(|&to| to > model.opset())
        && let Err(e) = super::run(&RaiseOpset { to }, model, cx)
    {
        cx.events.warn(&format!("the opset stays {}, and less becomes bfloat16 than in {to}: {e}", model.opset()));
    }
}

fn nothing(wish: &Narrowing, wide: &[Skipped]) -> Error {
    let name = crate::model::dtype_name(wish.to.dtype());
    let what = match wide.first() {
        Some(first) => format!(
            "no operator of the model could become {name} ({}: {}{})",
            first.node,
            first.reason,
            if wide.len() > 1 { format!("; and {} more", wide.len() - 1) } else { String::new() }
        ),
        None => "nothing in the model computes in float32".to_owned(),
    };
    let later = wide.iter().any(|w| w.reason.contains("from opset"));
    Error::new(ErrorKind::Unsupported, what).hint(if later {
        "`--opset` raises the model to one whose operators take the type"
    } else {
        "`qdq inspect` shows what the model computes in"
    })
}
