//! The options that say which engine runs models.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qdq::error::{Error, ErrorKind, Result};
use qdq::exec::{Executor, Tract};

/// The engine that runs models.
#[derive(Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// What runs models
    #[arg(long, value_name = "ENGINE", value_enum, default_value = "tract")]
    engine: Engine,

    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    /// The one within qdq, which computes what the specification says
    Tract,
    /// ONNX Runtime, as far as qdq was built with it
    Onnxruntime,
}

impl EngineArgs {
    /// The engine. Errors as [`RuntimeArgs::load`].
    pub fn executor(&self) -> Result<Box<dyn Executor>> {
        match self.engine {
            Engine::Tract => Ok(Box::new(Tract)),
            Engine::Onnxruntime => self.runtime.load(),
        }
    }
}

/// The engines that run models.
#[derive(Args)]
#[command(next_help_heading = "Engine")]
pub struct EnginesArgs {
    /// What runs the models
    #[arg(long, value_name = "ENGINE", value_enum, default_value = "tract")]
    engine: Engines,

    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engines {
    /// The one within qdq, which computes what the specification says
    Tract,
    /// ONNX Runtime, as far as qdq was built with it
    Onnxruntime,
    /// The one within qdq, and the quantized model in ONNX Runtime too: shows where that departs from the specification
    Both,
}

impl EnginesArgs {
    /// The engine that runs both models. Errors as [`RuntimeArgs::load`].
    pub fn executor(&self) -> Result<Box<dyn Executor>> {
        match self.engine {
            Engines::Tract | Engines::Both => Ok(Box::new(Tract)),
            Engines::Onnxruntime => self.runtime.load(),
        }
    }

    /// The one that runs the quantized model beside it, if any. Errors as [`RuntimeArgs::load`].
    pub fn deployed(&self) -> Result<Option<Box<dyn Executor>>> {
        match self.engine {
            Engines::Tract | Engines::Onnxruntime => Ok(None),
            Engines::Both => self.runtime.load().map(Some),
        }
    }
}

/// ONNX Runtime.
#[derive(Args)]
struct RuntimeArgs {
    /// The library of ONNX Runtime [default: the one that ORT_DYLIB_PATH names]
    #[arg(long, value_name = "PATH", requires = "engine")]
    ort_lib: Option<PathBuf>,

    /// How far ONNX Runtime rewrites models before it runs them
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "all", requires = "engine")]
    ort_opt: Level,
}

#[derive(Clone, Copy, ValueEnum)]
enum Level {
    /// Constants are folded and nodes dropped; Q/DQ stay
    Basic,
    /// All that it does by default: Q/DQ become integer kernels
    All,
}

impl RuntimeArgs {
    /// Loads ONNX Runtime. Errors where no library is named or it cannot be loaded.
    #[cfg(feature = "ort")]
    fn load(&self) -> Result<Box<dyn Executor>> {
        use qdq::exec::{OnnxRuntime, Optimization};

        let named = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()).map(PathBuf::from);
        let Some(library) = self.ort_lib.clone().or(named) else {
            return Err(Error::new(ErrorKind::Usage, "no library of ONNX Runtime is named")
                .hint("name it with `--ort-lib PATH` or in ORT_DYLIB_PATH"));
        };
        let level = match self.ort_opt {
            Level::Basic => Optimization::Basic,
            Level::All => Optimization::All,
        };
        Ok(Box::new(OnnxRuntime::load(&library, level)?))
    }

    /// Errors: this build has no ONNX Runtime.
    #[cfg(not(feature = "ort"))]
    fn load(&self) -> Result<Box<dyn Executor>> {
        let _ = (&self.ort_lib, self.ort_opt);
        Err(Error::new(ErrorKind::Unsupported, "this qdq was built without ONNX Runtime")
            .hint("build it with `cargo build --release --features ort`"))
    }
}
