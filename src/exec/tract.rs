//! tract as the engine: the only file that names it.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use prost::Message;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb;
use tract_onnx::prelude::tvec;
use tract_onnx::tract_core::internal as core;
use tract_onnx::tract_core::plan::eval;
use tract_onnx::tract_hir::internal::*;

use super::culprit::culprit;
use super::guard::{caught, panicked};
use super::weightless::weightless;
use super::{Executor, FAKE_QUANTIZE, InputShape, Prepared, ROUND_FLOAT, Seen, Session, lower};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{DataType, Dim, InputSpec, Model, Tensor as Value, ValueInfoProto, of_format};
use crate::number::{Format, QuantParams};
use crate::sample::Sample;

/// The embedded engine, tract 0.23.
///
/// It knows float operators only: [`lower`] takes the number formats out first, and brings in an operator of
/// ours. It is registered here, as is [`ROUND_FLOAT`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Tract;

fn failed(what: &str, e: &core::TractError) -> Error {
    // The chain's outermost message names the node; the innermost one says why.
    let mut causes: Vec<String> = e.chain().map(|c| c.to_string()).collect();
    causes.dedup();
    Error::new(ErrorKind::Engine, format!("{what}: {}", causes.join(": ")))
}

/// Runs a step of the engine, whose panics become errors. The engine's own errors name the node; `place` is asked where
/// it panicked.
fn guarded_at<T>(
    what: &str,
    step: impl FnOnce() -> TractResult<T>,
    place: impl FnOnce() -> Option<String>,
) -> Result<T> {
    match caught(step) {
        Ok(outcome) => outcome.map_err(|e| failed(what, &e)),
        Err(text) => Err(panicked(what, place(), &text)),
    }
}

/// As [`guarded_at`], where the place cannot be told.
fn guarded<T>(what: &str, step: impl FnOnce() -> TractResult<T>) -> Result<T> {
    guarded_at(what, step, || None)
}

impl Tract {
    /// The model as tract reads it, with every value's outlet.
    fn parse(model: &Model, shapes: Option<&[InputShape]>) -> Result<(InferenceModel, HashMap<String, OutletId>)> {
        Self::parse_lowered(lower(model)?, &InputSpec::all(&model.graph)?, shapes)
    }

    /// As [`Tract::parse`]; `specs` are those of the inputs that the model had before it was lowered.
    fn parse_lowered(
        lowered: Model,
        specs: &[InputSpec],
        shapes: Option<&[InputShape]>,
    ) -> Result<(InferenceModel, HashMap<String, OutletId>)> {
        let bytes = lowered.into_buf()?;
        guarded("tract cannot load the model", || {
            let mut onnx = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
            onnx.op_register.insert(FAKE_QUANTIZE, build_fake_quantize);
            onnx.op_register.insert(ROUND_FLOAT, build_round_float);
            let parsed = onnx.parse(&pb::ModelProto::decode(bytes)?, None)?;
            let mut inner = parsed.model;
            for (i, spec) in specs.iter().enumerate() {
                let shape = match shapes {
                    Some(shapes) => Some(&shapes[i]),
                    None => spec.shape.as_ref(),
                };
                let Some(shape) = shape else { continue };
                let dims: TVec<TDim> = shape
                    .iter()
                    .enumerate()
                    .map(|(axis, d)| match d {
                        Dim::Fixed(n) => n.to_dim(),
                        Dim::Symbol(s) => {
                            let usable = s.chars().next().is_some_and(char::is_alphabetic)
                                && s.chars().all(|c| c.is_alphanumeric() || c == '_');
                            let name = if usable { s.clone() } else { format!("qdq_{i}_{axis}") };
                            inner.symbols.sym(&name).to_dim()
                        }
                    })
                    .collect();
                let dtype = datum_type(spec.dtype)?;
                inner.set_input_fact(i, InferenceFact::dt_shape(dtype, dims))?;
            }
            Ok((inner, parsed.outlets_by_name))
        })
    }
}

impl Tract {
    /// Whether the engine panics when it prepares the model.
    fn panics_on(model: &Model, shapes: &[InputShape]) -> bool {
        let parsed = Self::parse(model, Some(shapes));
        parsed.is_ok_and(|(parsed, _)| caught(|| parsed.into_typed()?.into_optimized()).is_err())
    }
}

impl Executor for Tract {
    fn name(&self) -> String {
        "tract 0.23.9".to_owned()
    }

    fn prepare(&self, model: &Model, shapes: &[InputShape], watch: &[String]) -> Result<Box<dyn Prepared>> {
        let (parsed, outlets) = Self::parse(model, Some(shapes))?;
        let inputs: Vec<String> = InputSpec::all(&model.graph)?.into_iter().map(|s| s.name).collect();
        let dtype = |v: &ValueInfoProto| match v.r#type {
            Some(_) => Ok(InputSpec::of(v)?.dtype),
            None => Ok(DataType::Undefined),
        };
        let dtypes = model.graph.outputs().iter().map(dtype).collect::<Result<Vec<_>>>()?;
        let prepare = || {
            let mut model = parsed;
            let known = |w: &&(usize, &String)| outlets.contains_key(w.1);
            let wanted: Vec<(usize, &String)> = watch.iter().enumerate().filter(|w| known(&w)).collect();
            let mut outputs = model.output_outlets()?.to_vec();
            let own = outputs.len();
            outputs.extend(wanted.iter().map(|w| outlets[w.1]));
            model.select_output_outlets(&outputs)?;
            let model = model.into_typed()?;
            check_sizes(&model)?;
            let mut model = model.into_optimized()?;
            // An output keeps its place through every pass, so places tell the names.
            let mut plan = Watch { taps: HashMap::new(), inputs: Vec::new(), folded: Vec::new() };
            for (&(value, name), outlet) in wanted.iter().zip(model.outputs[own..].to_vec()) {
                let fact = model.outlet_fact(outlet)?;
                if fact.datum_type != f32::datum_type() {
                    continue;
                }
                if let Some(i) = inputs.iter().position(|n| n == name) {
                    plan.inputs.push((i, value));
                } else if let Some(konst) = &fact.konst {
                    plan.folded.push((value, konst.clone()));
                } else {
                    plan.taps.entry(outlet).or_default().push(value);
                }
            }
            // Values that nothing but the watch reads must still be computed, and all others freed early.
            let mut keep = model.outputs[..own].to_vec();
            model.select_output_outlets(&keep)?;
            let live: HashSet<usize> = model.eval_order()?.into_iter().collect();
            let mut dead: Vec<OutletId> = plan.taps.keys().filter(|o| !live.contains(&o.node)).copied().collect();
            dead.sort();
            keep.extend(dead);
            model.select_output_outlets(&keep)?;
            let runnable = model.into_runnable()?;
            let ready = Arc::new(Ready { runnable, own, dtypes, watch: plan });
            Ok(Box::new(Shared(ready)) as Box<dyn Prepared>)
        };
        guarded_at("tract cannot prepare the model", prepare, || culprit(model, |m| Self::panics_on(m, shapes)))
    }

    fn shapes(&self, model: &Model) -> Result<HashMap<String, Vec<Option<usize>>>> {
        let lowered = lower(model)?;
        let specs = InputSpec::all(&model.graph)?;
        let light = weightless(&lowered).and_then(|(light, weights)| {
            let specs: Vec<InputSpec> = specs.iter().cloned().chain(weights).collect();
            Self::infer(light, &specs)
        });
        light.or_else(|_| Self::infer(lowered, &specs))
    }
}

impl Tract {
    /// The shapes of a lowered model.
    fn infer(lowered: Model, specs: &[InputSpec]) -> Result<HashMap<String, Vec<Option<usize>>>> {
        let (mut parsed, outlets) = Self::parse_lowered(lowered, specs, None)?;
        guarded("tract cannot infer shapes", || {
            parsed.analyse(false)?;
            let mut shapes = HashMap::new();
            for (name, outlet) in outlets {
                let Some(dims) = parsed.outlet_fact(outlet)?.shape.dims().map(|d| d.concretize()).collect() else {
                    continue;
                };
                let dims: Vec<TDim> = dims;
                if parsed.outlet_fact(outlet)?.shape.is_open() {
                    continue;
                }
                shapes.insert(name, dims.iter().map(|d| d.to_usize().ok()).collect());
            }
            Ok(shapes)
        })
    }
}

/// Which values are watched, and where they come by.
struct Watch {
    /// Outlets of the optimized graph.
    taps: HashMap<OutletId, Vec<usize>>,
    /// Inputs of the graph, by their place.
    inputs: Vec<(usize, usize)>,
    /// Values that the engine found to be constant.
    folded: Vec<(usize, Arc<core::Tensor>)>,
}

struct Ready {
    runnable: Arc<core::TypedSimplePlan>,
    own: usize,
    dtypes: Vec<DataType>,
    watch: Watch,
}

struct Shared(Arc<Ready>);

impl Prepared for Shared {
    fn session(&self) -> Result<Box<dyn Session>> {
        let state = guarded("tract cannot start a session", || self.0.runnable.spawn())?;
        Ok(Box::new(Running { ready: self.0.clone(), state }))
    }
}

struct Running {
    ready: Arc<Ready>,
    state: core::TypedSimpleState,
}

impl Session for Running {
    fn run(&mut self, sample: &Sample, see: &mut dyn FnMut(Seen<'_>)) -> Result<Vec<Value>> {
        self.go(sample, Some(see))
    }

    fn outputs(&mut self, sample: &Sample) -> Result<Vec<Value>> {
        self.go(sample, None)
    }
}

impl Running {
    fn go(&mut self, sample: &Sample, mut see: Option<&mut dyn FnMut(Seen<'_>)>) -> Result<Vec<Value>> {
        let watch = &self.ready.watch;
        if let Some(see) = &mut see {
            for &(input, value) in &watch.inputs {
                let x = &sample.inputs[input];
                see(Seen { value, shape: x.shape(), numbers: &x.f32s()? });
            }
        }
        let state = &mut self.state;
        let at = Cell::new(None);
        let run = || {
            let inputs =
                sample.inputs.iter().map(|x| Ok(to_tract(x)?.into())).collect::<TractResult<TVec<TValue>>>()?;
            if let Some(see) = &mut see {
                for (value, konst) in &watch.folded {
                    let plain = konst.try_as_plain_ram()?;
                    see(Seen { value: *value, shape: konst.shape(), numbers: plain.as_slice::<f32>()? });
                }
            }
            state.run_plan_with_eval(inputs, |cx, op_state, node, inputs| -> TractResult<TVec<TValue>> {
                at.set(Some(node.id));
                let results = eval(cx, op_state, node, inputs)?;
                if let Some(see) = &mut see {
                    for (slot, result) in results.iter().enumerate() {
                        for &value in watch.taps.get(&OutletId::new(node.id, slot)).into_iter().flatten() {
                            let plain = result.try_as_plain_ram()?;
                            see(Seen { value, shape: result.shape(), numbers: plain.as_slice::<f32>()? });
                        }
                    }
                }
                Ok(results)
            })
        };
        let place = || {
            let node = self.ready.runnable.model().node(at.get()?);
            Some(format!("node `{}` ({})", node.name, node.op.name()))
        };
        let outputs = guarded_at("tract cannot run the model", run, place);
        // A failed turn leaves values behind, and recurrent operators go on from the state of the last turn: the next
        // sample starts afresh.
        if outputs.is_err() || self.state.op_states.iter().any(Option::is_some) {
            self.state = guarded("tract cannot start a session", || self.ready.runnable.spawn())?;
        }
        let outputs = outputs?;
        outputs[..self.ready.own].iter().zip(&self.ready.dtypes).map(|(t, &d)| from_tract(t, d)).collect()
    }
}

/// The largest value that is run, in bytes: 16 GiB. Models that are quantized here hold values of megabytes.
const LARGEST: usize = 1 << 34;

/// Refuses a model with a value whose size is known and past [`LARGEST`], before memory is taken for it.
fn check_sizes(model: &TypedModel) -> TractResult<()> {
    for node in model.nodes() {
        for output in &node.outputs {
            let fact = &output.fact;
            let Some(shape) = fact.shape.as_concrete() else { continue };
            let size = fact.datum_type.size_of();
            if shape.iter().try_fold(size, |n, &d| n.checked_mul(d)).is_none_or(|n| n > LARGEST) {
                bail!("`{}` gives a value of shape {shape:?}, which is too large to be run", node.name);
            }
        }
    }
    Ok(())
}

fn datum_type(dtype: DataType) -> TractResult<DatumType> {
    Ok(match dtype {
        DataType::Bool => DatumType::Bool,
        DataType::Uint8 => DatumType::U8,
        DataType::Uint16 => DatumType::U16,
        DataType::Uint32 => DatumType::U32,
        DataType::Uint64 => DatumType::U64,
        DataType::Int8 => DatumType::I8,
        DataType::Int16 => DatumType::I16,
        DataType::Int32 => DatumType::I32,
        DataType::Int64 => DatumType::I64,
        DataType::Float16 => DatumType::F16,
        DataType::Float => DatumType::F32,
        DataType::Double => DatumType::F64,
        other => bail!("values of type {} cannot be run", crate::model::dtype_name(other)),
    })
}

/// The ONNX type of a value that the engine typed; symbolic dimensions are its form of int64.
fn onnx_type(dtype: DatumType) -> TractResult<DataType> {
    Ok(match dtype {
        DatumType::Bool => DataType::Bool,
        DatumType::U8 => DataType::Uint8,
        DatumType::U16 => DataType::Uint16,
        DatumType::U32 => DataType::Uint32,
        DatumType::U64 => DataType::Uint64,
        DatumType::I8 => DataType::Int8,
        DatumType::I16 => DataType::Int16,
        DatumType::I32 => DataType::Int32,
        DatumType::I64 | DatumType::TDim => DataType::Int64,
        DatumType::F16 => DataType::Float16,
        DatumType::F32 => DataType::Float,
        DatumType::F64 => DataType::Double,
        other => bail!("values of type {other:?} cannot be stored"),
    })
}

fn to_tract(x: &Value) -> TractResult<core::Tensor> {
    if x.dtype() == DataType::Bool {
        let bools: Vec<bool> = x.bytes().iter().map(|&b| b != 0).collect();
        return core::Tensor::from_shape(x.shape(), &bools);
    }
    let mut t = core::Tensor::zero_dt(datum_type(x.dtype())?, x.shape())?;
    t.try_as_plain_ram_mut()?.as_bytes_mut().copy_from_slice(x.bytes());
    Ok(t)
}

fn from_tract(t: &core::Tensor, dtype: DataType) -> Result<Value> {
    let outcome = || -> TractResult<Result<Value>> {
        let dtype = if dtype == DataType::Undefined { onnx_type(t.datum_type())? } else { dtype };
        let t = t.cast_to_dt(datum_type(dtype)?)?;
        let bytes = t.try_as_plain_ram()?.as_bytes().to_vec();
        Ok(Value::new(dtype, t.shape().to_vec(), bytes.into()))
    };
    outcome().map_err(|e| failed("tract returned a value that cannot be read", &e))?
}

/// Operators of ours in the engine, on a float32 input: the output has its shape, and is computed in its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum InPlace {
    /// [`FAKE_QUANTIZE`].
    FakeQuantize(FakeQuantize),
    /// [`ROUND_FLOAT`] to float16.
    Float16,
    /// [`ROUND_FLOAT`] to bfloat16.
    Bfloat16,
}

/// The parameters of fake quantization, compared by their bits.
#[derive(Debug, Clone)]
struct FakeQuantize {
    format: Format,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
    axis: i64,
}

impl FakeQuantize {
    fn key(&self) -> (Format, Vec<u32>, &[i32], i64) {
        (self.format, self.scales.iter().map(|s| s.to_bits()).collect(), &self.zero_points, self.axis)
    }

    fn params(&self, rank: usize) -> Result<QuantParams> {
        if self.format.levels.is_table() {
            return match &self.scales[..] {
                [scale] => QuantParams::per_tensor(self.format, *scale, 0),
                scales => {
                    let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
                    QuantParams::per_channel(
                        self.format,
                        axis.max(0) as usize,
                        scales.to_vec(),
                        self.zero_points.clone(),
                    )
                }
            };
        }
        let linear = crate::model::Linear {
            dtype: of_format(self.format),
            scales: self.scales.clone(),
            zero_points: self.zero_points.clone(),
            axis: self.axis,
            blocks: None,
        };
        linear.params(rank)
    }
}

impl PartialEq for FakeQuantize {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for FakeQuantize {}

impl std::hash::Hash for FakeQuantize {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

fn build_fake_quantize(_: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let name: String = node.get_attr("format")?;
    let zero_points: TVec<i64> = node.get_attr_tvec("zero_points")?;
    let quantize = FakeQuantize {
        format: Format::by_name(&name).with_context(|| format!("there is no format `{name}`"))?,
        scales: node.get_attr_tvec::<f32>("scales")?.to_vec(),
        zero_points: zero_points.iter().map(|&z| z as i32).collect(),
        axis: node.get_attr("axis")?,
    };
    Ok((expand(InPlace::FakeQuantize(quantize)), vec![]))
}

fn build_round_float(_: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let op = match node.get_attr::<&str>("format")? {
        "float16" => InPlace::Float16,
        "bfloat16" => InPlace::Bfloat16,
        other => return Err(format_err!("nothing is rounded to {other}")),
    };
    Ok((expand(op), vec![]))
}

impl InPlace {
    fn apply(&self, x: &mut [f32], shape: &[usize]) -> Result<()> {
        match self {
            InPlace::FakeQuantize(quantize) => {
                crate::number::fake_quantize(x, shape, &quantize.params(shape.len())?)?;
            }
            InPlace::Float16 => x.chunks_mut(256).for_each(|numbers| {
                let held = &mut [half::f16::ZERO; 256][..numbers.len()];
                held.convert_from_f32_slice(numbers);
                held.convert_to_f32_slice(numbers);
            }),
            InPlace::Bfloat16 => x.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32()),
        }
        Ok(())
    }

    fn operator(&self) -> &'static str {
        match self {
            InPlace::FakeQuantize(_) => FAKE_QUANTIZE,
            InPlace::Float16 | InPlace::Bfloat16 => ROUND_FLOAT,
        }
    }
}

impl Expansion for InPlace {
    fn name(&self) -> StaticName {
        self.operator().into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.equals(&inputs[0].shape, &outputs[0].shape)?;
        Ok(())
    }

    fn wire(&self, prefix: &str, target: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        target.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for InPlace {
    fn name(&self) -> StaticName {
        self.operator().into()
    }

    op_as_typed_op!();
}

impl EvalOp for InPlace {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut x = inputs.remove(0).into_tensor();
        let shape = x.shape().to_vec();
        let mut plain = x.try_as_plain_ram_mut()?;
        self.apply(plain.as_slice_mut::<f32>()?, &shape).map_err(|e| format_err!("{e}"))?;
        Ok(tvec!(x.into_tvalue()))
    }
}

impl TypedOp for InPlace {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}
