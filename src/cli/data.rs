//! The options that say where samples come from.

use clap::Args;
use qdq::error::Result;
use qdq::events::Events;
use qdq::exec::{Executor, Masked};
use qdq::model::{InputSpec, Model};
use qdq::sample::{Channels, ImageOptions, Layout, PerChannel, Resize, SampleOptions, Samples, Size, open};

/// Samples.
#[derive(Args)]
#[command(next_help_heading = "Samples")]
pub struct DataArgs {
    /// Where samples come from: a .npy, .npz or .safetensors file, a folder of JPEG or PNG images, a folder of ONNX
    /// test data, or random:N
    #[arg(long, value_name = "SOURCE")]
    pub data: String,

    #[command(flatten)]
    how: HowArgs,
}

/// What of samples counts.
#[derive(Args)]
#[command(next_help_heading = "Samples")]
pub struct MaskArgs {
    /// The input [batch, places] that is 0 where samples are filled up, such as attention_mask: of values [batch, places,
    /// channels] and [batch * places, channels], padding is neither learned from nor compared
    #[arg(long, value_name = "INPUT", requires = "data")]
    mask: Option<String>,
}

impl MaskArgs {
    /// The engine, which shows nothing of padding if a mask says where that is. Errors as [`Masked::new`].
    pub fn engine(&self, engine: Box<dyn Executor>, model: &Model) -> Result<Box<dyn Executor>> {
        match &self.mask {
            Some(mask) => Ok(Box::new(Masked::new(engine, model, mask)?)),
            None => Ok(engine),
        }
    }
}

/// How samples are read.
#[derive(Args)]
#[command(next_help_heading = "Samples")]
pub struct HowArgs {
    /// Take at most N samples, spread evenly
    #[arg(long, value_name = "N")]
    samples: Option<usize>,

    /// Images: bring the shorter side to N pixels, or the image to HxW
    #[arg(long, value_name = "N|HxW", help_heading = "Images")]
    resize: Option<Resize>,

    /// Images: cut out the middle, after resizing
    #[arg(long, value_name = "HxW", help_heading = "Images")]
    crop: Option<Size>,

    /// Images: subtract, after --scale; one number, or one a channel
    #[arg(long, value_name = "M,M,M", help_heading = "Images", allow_hyphen_values = true)]
    mean: Option<PerChannel>,

    /// Images: divide by, after --scale; one number, or one a channel
    #[arg(long, value_name = "S,S,S", help_heading = "Images")]
    std: Option<PerChannel>,

    /// Images: multiply pixels (0 to 255) by [default: 1/255]
    #[arg(long, value_name = "F", help_heading = "Images")]
    scale: Option<f32>,

    /// Images: nchw or nhwc [default: as the model's input says]
    #[arg(long, value_name = "LAYOUT", help_heading = "Images")]
    layout: Option<Layout>,

    /// Images: rgb, bgr or gray [default: rgb, gray for one channel]
    #[arg(long, value_name = "ORDER", help_heading = "Images")]
    channels: Option<Channels>,

    /// The seed of random:N
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl DataArgs {
    /// Opens the samples for a model.
    pub fn open(&self, model: &Model, events: &dyn Events) -> Result<Box<dyn Samples>> {
        self.how.open(&self.data, model, events)
    }
}

impl HowArgs {
    /// Opens a source of samples for a model.
    pub fn open(&self, source: &str, model: &Model, events: &dyn Events) -> Result<Box<dyn Samples>> {
        let default = ImageOptions::default();
        let image = ImageOptions {
            resize: self.resize,
            crop: self.crop,
            mean: self.mean.clone().unwrap_or(default.mean),
            std: self.std.clone().unwrap_or(default.std),
            layout: self.layout.unwrap_or(default.layout),
            channels: self.channels.unwrap_or(default.channels),
            scale: self.scale.unwrap_or(default.scale),
        };
        let options = SampleOptions { limit: self.samples, image, seed: self.seed };
        open(source, &options, &InputSpec::all(&model.graph)?, events)
    }
}
