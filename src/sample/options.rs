//! What a user may say about samples.

use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// How samples are read. The default takes all samples, and images as [`ImageOptions::default`] says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SampleOptions {
    /// At most this many samples, spread evenly over the source: sample `i` of `n` is the source's `floor(i * len / n)`.
    /// A source sorted by class then still shows all its classes. `None` takes all.
    pub limit: Option<usize>,
    /// How images become inputs. Only folders of images heed it.
    pub image: ImageOptions,
    /// The seed of `random:N`.
    pub seed: u64,
}

/// How an image becomes an input: decoded to 8-bit RGB (or grey), resized, cropped, and each value made
/// `(value * scale - mean) / std`.
///
/// An alpha channel is dropped, 16 bits are scaled to 8, and an EXIF orientation is not applied, as Pillow and torchvision do.
/// Models whose input is uint8 get the pixels as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageOptions {
    /// Resizing, before the crop. Bilinear with antialiasing, as Pillow does it.
    pub resize: Option<Resize>,
    /// The middle of the image, as torchvision's CenterCrop takes it; larger than the image is an error.
    pub crop: Option<Size>,
    /// Subtracted, in units after `scale`.
    pub mean: PerChannel,
    /// Divided by, in units after `scale`.
    pub std: PerChannel,
    /// Where the channels lie.
    pub layout: Layout,
    /// Which channels there are, and in which order.
    pub channels: Channels,
    /// What pixels (0 to 255) are multiplied by.
    pub scale: f32,
}

impl Default for ImageOptions {
    /// No resizing, no crop, values from 0 to 1, layout and channels as the model's input asks for.
    fn default() -> Self {
        ImageOptions {
            resize: None,
            crop: None,
            mean: PerChannel(vec![0.0]),
            std: PerChannel(vec![1.0]),
            layout: Layout::Auto,
            channels: Channels::Auto,
            scale: 1.0 / 255.0,
        }
    }
}

/// A height and a width in pixels. Written `224x320` (height first), or `224` for a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// To what size images are brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// The shorter side gets this many pixels, and the longer one keeps the proportion (rounded down, as torchvision
    /// does). Written `256`.
    Short(usize),
    /// Stretched to this size. Written `224x224`.
    Exact(Size),
}

/// A number for each channel, or one for all, in the order of the channels the model gets. Written `0.485,0.456,0.406`.
#[derive(Debug, Clone, PartialEq)]
pub struct PerChannel(pub Vec<f32>);

/// Where the channels of an image lie. Written `auto`, `nchw` or `nhwc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// As the model's input says: the axis of fixed size 1 or 3 holds the channels.
    #[default]
    Auto,
    /// Before height and width.
    Nchw,
    /// After height and width.
    Nhwc,
}

/// The channels of an image. Written `auto`, `rgb`, `bgr` or `gray`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Channels {
    /// Grey for models with one channel, else red, green, blue.
    #[default]
    Auto,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Luma as ITU-R BT.601 defines it: `0.299 R + 0.587 G + 0.114 B`.
    Gray,
}

fn usage(text: &str, wanted: &str, example: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("`{text}` is not {wanted}")).hint(format!("write it as `{example}`"))
}

fn pixels(text: &str) -> Option<usize> {
    // Beyond 16 bits a side, no decoder follows.
    text.trim().parse().ok().filter(|n| (1..=65535).contains(n))
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Size> {
        let (height, width) = text.split_once(['x', 'X']).unwrap_or((text, text));
        match (pixels(height), pixels(width)) {
            (Some(height), Some(width)) => Ok(Size { height, width }),
            _ => Err(usage(text, "a height and a width in pixels", "224x224")),
        }
    }
}

impl FromStr for Resize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Resize> {
        match pixels(text) {
            Some(short) => Ok(Resize::Short(short)),
            None if text.contains(['x', 'X']) => text.parse().map(Resize::Exact),
            None => Err(usage(text, "the pixels of the shorter side, or a height and a width", "256` or `224x224")),
        }
    }
}

impl FromStr for PerChannel {
    type Err = Error;

    fn from_str(text: &str) -> Result<PerChannel> {
        let numbers = text.split(',').map(|n| n.trim().parse().ok().filter(|n: &f32| n.is_finite())).collect();
        match numbers {
            Some(numbers) => Ok(PerChannel(numbers)),
            None => Err(usage(text, "a number for each channel", "0.485,0.456,0.406")),
        }
    }
}

impl FromStr for Layout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Layout> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Layout::Auto),
            "nchw" => Ok(Layout::Nchw),
            "nhwc" => Ok(Layout::Nhwc),
            _ => Err(usage(text, "a layout", "auto`, `nchw` or `nhwc")),
        }
    }
}

impl FromStr for Channels {
    type Err = Error;

    fn from_str(text: &str) -> Result<Channels> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Channels::Auto),
            "rgb" => Ok(Channels::Rgb),
            "bgr" => Ok(Channels::Bgr),
            "gray" | "grey" => Ok(Channels::Gray),
            _ => Err(usage(text, "an order of channels", "auto`, `rgb`, `bgr` or `gray")),
        }
    }
}

impl std::fmt::Display for Size {
    /// `224x320`, height first.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

impl std::fmt::Display for PerChannel {
    /// `0.485,0.456,0.406`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(f32::to_string).collect();
        f.write_str(&numbers.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_command_line_writes_is_read() {
        let tall = Size { height: 224, width: 320 };
        assert_eq!("224x320".parse::<Size>().unwrap(), tall);
        assert_eq!("224".parse::<Size>().unwrap(), Size { height: 224, width: 224 });
        assert_eq!("256".parse::<Resize>().unwrap(), Resize::Short(256));
        assert_eq!("224X320".parse::<Resize>().unwrap(), Resize::Exact(tall));
        assert_eq!("0.5, -1".parse::<PerChannel>().unwrap(), PerChannel(vec![0.5, -1.0]));
        assert_eq!("NHWC".parse::<Layout>().unwrap(), Layout::Nhwc);
        assert_eq!("grey".parse::<Channels>().unwrap(), Channels::Gray);
        assert_eq!(tall.to_string().parse::<Size>().unwrap(), tall);
    }

    #[test]
    fn what_is_none_of_it_is_refused_with_a_way_out() {
        let errors = [
            "0x5".parse::<Size>().unwrap_err(),
            "70000".parse::<Size>().unwrap_err(),
            "".parse::<Resize>().unwrap_err(),
            "5x".parse::<Resize>().unwrap_err(),
            "-3".parse::<Resize>().unwrap_err(),
            "0.5,,1".parse::<PerChannel>().unwrap_err(),
            "nan".parse::<PerChannel>().unwrap_err(),
            "hwc".parse::<Layout>().unwrap_err(),
            "cmyk".parse::<Channels>().unwrap_err(),
        ];
        for e in errors {
            assert_eq!(e.kind(), ErrorKind::Usage);
            assert!(e.way_out().is_some(), "{e}");
        }
    }
}
