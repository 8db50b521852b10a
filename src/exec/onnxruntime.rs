//! ONNX Runtime as the engine: the only file that names the crate that binds it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::LoadDynamicError;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{OutputSelector, RunOptions, Session as Loaded, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, ValueType};

use super::guard::{caught, panicked};
use super::{Executor, InputShape, Prepared, Seen, Session};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{DataType, Dim, InputSpec, Model, Tensor, ValueInfoProto, dtype_name};
use crate::proto::type_proto;
use crate::sample::Sample;

/// How far ONNX Runtime rewrites a model before it runs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Optimization {
    /// What does not change results beyond rounding of floats: constants folded, nodes dropped. Q/DQ stay.
    Basic,
    /// All it knows, which is its default: Q/DQ and what stands between them become integer kernels.
    #[default]
    All,
}

impl Optimization {
    fn name(self) -> &'static str {
        match self {
            Optimization::Basic => "basic",
            Optimization::All => "all",
        }
    }
}

/// ONNX Runtime on the CPU, by a library that is loaded when it is asked for.
///
/// Models reach it as they are written, number formats and all: what it computes is what it computes where the model is
/// deployed. Every session runs on the thread that calls it, so that results do not depend on the number of threads.
#[derive(Debug, Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    library: String,
    optimization: Optimization,
}

/// The library that this process loaded, and its environment: there is one of each a process, until it ends.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// The oldest minor version of ONNX Runtime 1 that is understood.
const OLDEST: u32 = ort::MINOR_VERSION;

impl OnnxRuntime {
    /// Loads the library in this file, ONNX Runtime 1.17 or later; a process can load one.
    ///
    /// Errors, naming the file, when there is none, when it is no library for this machine, not ONNX Runtime or too old,
    /// and when the process loaded another one before.
    pub fn load(library: &Path, optimization: Optimization) -> Result<OnnxRuntime> {
        let place = || format!("`{}`", library.display());
        let file = library.canonicalize().map_err(|e| Error::io(e).hint(where_from())).at(place)?;
        let name = file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let environment = match &*loaded {
            Some((known, environment)) if *known == file => environment.clone(),
            Some((known, _)) => {
                let what = format!("ONNX Runtime is loaded from `{}` already", known.display());
                return Err(Error::new(ErrorKind::Usage, what).at(place()));
            }
            None => {
                let environment = Self::start(&file).at(place)?;
                *loaded = Some((file, environment.clone()));
                environment
            }
        };
        Ok(OnnxRuntime { environment, library: name, optimization })
    }

    /// Loads the library and starts its environment, which says nothing and sends nothing.
    fn start(file: &Path) -> Result<Environment> {
        let what = "ONNX Runtime cannot start";
        let builder = caught(|| ort::init_from(file)).map_err(|text| panicked(what, None, &text))?;
        let silent = Arc::new(|_: LogLevel, _: &str, _: &str, _: &str, _: &str| {});
        let builder = builder.map_err(|e| not_loaded(&e))?.with_name("qdq").with_telemetry(false).with_logger(silent);
        guarded(what, || {
            let environment = builder.build()?;
            environment.set_log_level(LogLevel::Fatal);
            Ok(environment)
        })
    }

    /// A session for the model in these bytes; what it becomes is written to a file where one is named.
    fn session(&self, model: &[u8], level: GraphOptimizationLevel, written: Option<&Path>) -> Result<Loaded> {
        guarded("ONNX Runtime cannot load the model", || {
            let mut builder = Loaded::builder(&self.environment)?
                .with_intra_threads(1)?
                .with_inter_threads(1)?
                .with_optimization_level(level)?;
            if let Some(path) = written {
                builder = builder.with_optimized_model_path(path)?;
            }
            builder.commit_from_memory(model)
        })
    }

    fn level(&self) -> GraphOptimizationLevel {
        match self.optimization {
            Optimization::Basic => GraphOptimizationLevel::Level1,
            Optimization::All => GraphOptimizationLevel::All,
        }
    }
}

fn where_from() -> String {
    format!(
        "ONNX Runtime 1.{OLDEST} or later comes with its Python package, as `onnxruntime/capi/libonnxruntime.so.*`, and \
         with its releases"
    )
}

fn not_loaded(e: &LoadDynamicError) -> Error {
    let what = match e {
        LoadDynamicError::Dlopen { error, .. } => {
            let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), |e| e.to_string());
            format!("it cannot be loaded: {cause}")
        }
        LoadDynamicError::MissingApi { .. } => "it is not ONNX Runtime: it has no `OrtGetApiBase`".to_owned(),
        LoadDynamicError::InvalidVersionString => "it is ONNX Runtime of a version that cannot be read".to_owned(),
        LoadDynamicError::BadVersion { version_str, .. } => {
            format!("it is ONNX Runtime {version_str}, and 1.{OLDEST} or later is needed")
        }
    };
    Error::new(ErrorKind::Engine, what).hint(where_from())
}

/// Runs a step of the engine, whose errors and panics become ours.
fn guarded<T>(what: &str, step: impl FnOnce() -> ort::Result<T>) -> Result<T> {
    match caught(step) {
        Ok(outcome) => outcome.map_err(|e| Error::new(ErrorKind::Engine, format!("{what}: {}", e.message().trim()))),
        Err(text) => Err(panicked(what, None, &text)),
    }
}

impl Executor for OnnxRuntime {
    fn name(&self) -> String {
        format!("ONNX Runtime ({}, optimizations: {})", self.library, self.optimization.name())
    }

    /// The shapes are not looked at: sessions take inputs of whatever shape the model takes.
    fn prepare(&self, model: &Model, _: &[InputShape], watch: &[String]) -> Result<Box<dyn Prepared>> {
        let inputs = InputSpec::all(&model.graph)?;
        let mut plan = Watch::default();
        let mut wanted = Vec::new();
        for (value, name) in watch.iter().enumerate() {
            if let Some(i) = inputs.iter().position(|s| s.name == *name) {
                plan.inputs.extend(is_float(inputs[i].dtype).then_some((i, value)));
            } else if let Some(constant) = model.graph.constant(name)? {
                plan.constants.extend(constant.is_float().then_some((value, constant)));
            } else if model.graph.producer(name).is_some() {
                wanted.push((value, name.clone()));
            }
        }
        let names: Vec<&str> = wanted.iter().map(|(_, name)| name.as_str()).collect();
        let bytes = showing(model, &names)?.to_bytes()?;
        let first = self.session(&bytes, self.level(), None)?;
        let floats: HashSet<&str> =
            first.outputs().iter().filter(|o| element(o.dtype()).is_some_and(is_float)).map(|o| o.name()).collect();
        plan.made = wanted.iter().filter(|(_, name)| floats.contains(name.as_str())).cloned().collect();
        Ok(Box::new(Shared(Arc::new(Ready {
            engine: self.clone(),
            bytes,
            inputs: inputs.into_iter().map(|s| s.name).collect(),
            outputs: model.graph.outputs().iter().map(|v| v.name().to_owned()).collect(),
            watch: plan,
            idle: Mutex::new(vec![first]),
        }))))
    }

    /// A value of which no axis is known is left out: the engine does not tell it from a scalar.
    fn shapes(&self, model: &Model) -> Result<HashMap<String, Vec<Option<usize>>>> {
        let mut shapes = HashMap::new();
        for spec in InputSpec::all(&model.graph)? {
            let size = |d: &Dim| match d {
                Dim::Fixed(n) => Some(*n),
                Dim::Symbol(_) => None,
            };
            shapes.extend(spec.shape.map(|shape| (spec.name, shape.iter().map(size).collect())));
        }
        for t in model.graph.initializers() {
            shapes.insert(t.name().to_owned(), t.dims.iter().map(|&d| usize::try_from(d).ok()).collect());
        }
        let made: Vec<&str> = model.graph.nodes().flat_map(|(_, n)| &n.output).map(String::as_str).collect();
        let bytes = showing(model, &made)?.to_bytes()?;
        let session = self.session(&bytes, GraphOptimizationLevel::Disable, None)?;
        for output in session.outputs() {
            let shape = output.dtype().tensor_shape().filter(|s| !s.is_empty());
            let sizes = shape.map(|s| s.iter().map(|&d| usize::try_from(d).ok()).collect());
            shapes.extend(sizes.map(|sizes| (output.name().to_owned(), sizes)));
        }
        Ok(shapes)
    }

    fn rewritten(&self, model: &Model) -> Result<Option<Model>> {
        let folder = tempfile::tempdir().map_err(Error::io)?;
        let path = folder.path().join("rewritten.onnx");
        drop(self.session(&model.to_bytes()?, self.level(), Some(&path))?);
        let bytes = std::fs::read(&path).map_err(Error::io)?;
        Model::from_bytes(bytes.into()).map(Some).at(|| "the model as ONNX Runtime rewrites it".to_owned())
    }
}

/// The model with these values among its outputs. No type is stated where the engine is to find it.
fn showing(model: &Model, values: &[&str]) -> Result<Model> {
    let mut proto = model.to_proto();
    if let Some(graph) = &mut proto.graph {
        for output in &mut graph.output {
            let undefined = |t: &type_proto::Value| matches!(t, type_proto::Value::TensorType(t) if t.elem_type() == 0);
            if output.r#type.as_ref().and_then(|t| t.value.as_ref()).is_some_and(undefined) {
                output.r#type = None;
            }
        }
        let mut known: HashSet<String> = graph.output.iter().map(|v| v.name().to_owned()).collect();
        for &value in values.iter().filter(|v| !v.is_empty()) {
            if known.insert(value.to_owned()) {
                graph.output.push(ValueInfoProto { name: Some(value.to_owned()), ..Default::default() });
            }
        }
    }
    Model::from_proto(proto)
}

/// Which values are watched, each with its place in the list that was given.
#[derive(Default)]
struct Watch {
    /// Inputs of the graph, by their place.
    inputs: Vec<(usize, usize)>,
    constants: Vec<(usize, Tensor)>,
    /// Values that nodes make.
    made: Vec<(usize, String)>,
}

struct Ready {
    engine: OnnxRuntime,
    bytes: Vec<u8>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    watch: Watch,
    /// Sessions that no thread uses now.
    idle: Mutex<Vec<Loaded>>,
}

struct Shared(Arc<Ready>);

impl Prepared for Shared {
    fn session(&self) -> Result<Box<dyn Session>> {
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let session = match idle {
            Some(session) => session,
            None => self.0.engine.session(&self.0.bytes, self.0.engine.level(), None)?,
        };
        Ok(Box::new(Running { ready: self.0.clone(), session: Some(session) }))
    }
}

struct Running {
    ready: Arc<Ready>,
    /// There until this is dropped.
    session: Option<Loaded>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ready.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.session.take());
    }
}

impl Session for Running {
    fn run(&mut self, sample: &Sample, see: &mut dyn FnMut(Seen<'_>)) -> Result<Vec<Tensor>> {
        self.go(sample, Some(see))
    }

    fn outputs(&mut self, sample: &Sample) -> Result<Vec<Tensor>> {
        self.go(sample, None)
    }
}

impl Running {
    fn go(&mut self, sample: &Sample, see: Option<&mut dyn FnMut(Seen<'_>)>) -> Result<Vec<Tensor>> {
        let what = "ONNX Runtime cannot run the model";
        let ready = &self.ready;
        let Some(session) = &mut self.session else { return Err(Error::new(ErrorKind::Engine, "no session")) };
        let inputs =
            ready.inputs.iter().zip(&sample.inputs).map(|(name, x)| Ok((Cow::Borrowed(name.as_str()), given(x)?)));
        let inputs = inputs.collect::<Result<Vec<(Cow<'_, str>, SessionInputValue<'_>)>>>()?;
        let watched = ready.watch.made.iter().map(|(_, name)| name).filter(|_| see.is_some());
        let mut asked = HashSet::new();
        let names = ready.outputs.iter().chain(watched).filter(|name| asked.insert(name.as_str()));
        let wanted = names.fold(OutputSelector::no_default(), |all, name| all.with(name));
        let options = guarded(what, || Ok(RunOptions::new()?.with_outputs(wanted)))?;
        let found = guarded(what, || session.run_with_options(inputs, &options))?;
        let value = |name: &str| {
            let missing = || Error::new(ErrorKind::Engine, format!("{what}: it gives no `{name}`"));
            found.get(name).ok_or_else(missing)
        };
        if let Some(see) = see {
            for &(input, value) in &ready.watch.inputs {
                let x = &sample.inputs[input];
                see(Seen { value, shape: x.shape(), numbers: &x.f32s()? });
            }
            for (value, x) in &ready.watch.constants {
                see(Seen { value: *value, shape: x.shape(), numbers: &x.f32s()? });
            }
            for (place, name) in &ready.watch.made {
                let (x, place) = (value(name)?, *place);
                if element(x.dtype()) == Some(DataType::Float) {
                    let (shape, numbers) = guarded(what, || x.try_extract_tensor::<f32>())?;
                    see(Seen { value: place, shape: &sizes(shape), numbers });
                } else {
                    let x = taken(x)?;
                    see(Seen { value: place, shape: x.shape(), numbers: &x.f32s()? });
                }
            }
        }
        ready.outputs.iter().map(|name| value(name).and_then(taken).at(|| format!("output `{name}`"))).collect()
    }
}

/// Whether a watched value of this type is seen, as float32.
fn is_float(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float | DataType::Float16 | DataType::Bfloat16)
}

/// The element type of a tensor, where it is one that values are handed over in.
fn element(kind: &ValueType) -> Option<DataType> {
    let ValueType::Tensor { ty, .. } = kind else { return None };
    Some(match ty {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::Float16 => DataType::Float16,
        TensorElementType::Bfloat16 => DataType::Bfloat16,
        TensorElementType::Float32 => DataType::Float,
        TensorElementType::Float64 => DataType::Double,
        _ => return None,
    })
}

fn sizes(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect()
}

/// A value as the engine takes it.
fn given(x: &Tensor) -> Result<SessionInputValue<'static>> {
    fn of<T>(x: &Tensor, elements: Vec<T>) -> ort::Result<SessionInputValue<'static>>
    where
        T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
    {
        Ok(OrtTensor::from_array((x.shape().to_vec(), elements))?.into())
    }
    use bytemuck::pod_collect_to_vec as elements;
    let b = &x.bytes()[..];
    let outcome = guarded("ONNX Runtime cannot take the value", || {
        Ok(Some(match x.dtype() {
            DataType::Bool => of(x, b.iter().map(|&b| b != 0).collect())?,
            DataType::Uint8 => of::<u8>(x, b.to_vec())?,
            DataType::Uint16 => of::<u16>(x, elements(b))?,
            DataType::Uint32 => of::<u32>(x, elements(b))?,
            DataType::Uint64 => of::<u64>(x, elements(b))?,
            DataType::Int8 => of::<i8>(x, elements(b))?,
            DataType::Int16 => of::<i16>(x, elements(b))?,
            DataType::Int32 => of::<i32>(x, elements(b))?,
            DataType::Int64 => of::<i64>(x, elements(b))?,
            DataType::Float16 => of(x, b.as_chunks().0.iter().map(|&h| half::f16::from_le_bytes(h)).collect())?,
            DataType::Bfloat16 => of(x, b.as_chunks().0.iter().map(|&h| half::bf16::from_le_bytes(h)).collect())?,
            DataType::Float => of::<f32>(x, elements(b))?,
            DataType::Double => of::<f64>(x, elements(b))?,
            _ => return Ok(None),
        }))
    });
    outcome?.ok_or_else(|| unknown(dtype_name(x.dtype())))
}

/// A value as the engine gave it, copied.
fn taken(x: &DynValue) -> Result<Tensor> {
    fn of<T: PrimitiveTensorElementType>(
        x: &DynValue,
        bytes: impl Fn(&[T]) -> Vec<u8>,
    ) -> Result<(Vec<usize>, Vec<u8>)> {
        let (shape, elements) = guarded("ONNX Runtime cannot give the value", || x.try_extract_tensor::<T>())?;
        Ok((sizes(shape), bytes(elements)))
    }
    fn plain<T: PrimitiveTensorElementType + bytemuck::NoUninit>(x: &DynValue) -> Result<(Vec<usize>, Vec<u8>)> {
        of::<T>(x, |elements| bytemuck::cast_slice(elements).to_vec())
    }
    let dtype = element(x.dtype()).ok_or_else(|| unknown(x.dtype()))?;
    let (shape, bytes) = match dtype {
        DataType::Bool => plain::<bool>(x)?,
        DataType::Uint8 => plain::<u8>(x)?,
        DataType::Uint16 => plain::<u16>(x)?,
        DataType::Uint32 => plain::<u32>(x)?,
        DataType::Uint64 => plain::<u64>(x)?,
        DataType::Int8 => plain::<i8>(x)?,
        DataType::Int16 => plain::<i16>(x)?,
        DataType::Int32 => plain::<i32>(x)?,
        DataType::Int64 => plain::<i64>(x)?,
        DataType::Float16 => of::<half::f16>(x, |h| h.iter().flat_map(|h| h.to_le_bytes()).collect())?,
        DataType::Bfloat16 => of::<half::bf16>(x, |h| h.iter().flat_map(|h| h.to_le_bytes()).collect())?,
        DataType::Float => plain::<f32>(x)?,
        DataType::Double => plain::<f64>(x)?,
        other => return Err(unknown(dtype_name(other))),
    };
    Tensor::new(dtype, shape, bytes.into())
}

fn unknown(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("values of type {what} cannot be handed to or from ONNX Runtime"))
}
