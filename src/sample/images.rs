//! Folders of JPEG and PNG images. Each image is decoded when its sample is asked for.
//!
//! The images of a folder and of the folders in it (one level: a folder a class) count, in the order of their paths.
//! Hidden files, and names that are not UTF-8, are left out. What an image becomes is said in [`ImageOptions`](super::ImageOptions).

use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, GrayImage};

use super::options::{Channels, ImageOptions, Layout, PerChannel, Resize, Size};
use super::{Sample, Samples, entries, fit, jpeg, named, no_such_sample};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{DataType, Dim, InputSpec, Tensor};

/// The samples of a folder of images.
struct Images {
    source: String,
    names: Vec<String>,
    folder: PathBuf,
    options: ImageOptions,
    target: Target,
}

/// What the model takes.
struct Target {
    spec: InputSpec,
    /// How many images go into a sample; `None` where the input has no batch axis.
    batch: Option<usize>,
    channels_first: bool,
    /// Rgb, Bgr or Gray.
    channels: Channels,
    height: Option<usize>,
    width: Option<usize>,
}

/// The paths of the images in a folder, relative to it, with `/`, sorted.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    fn collect(folder: &Path, prefix: &str, deeper: bool, names: &mut Vec<String>) -> Result<()> {
        for path in entries(folder)? {
            let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| !n.starts_with('.')) else {
                continue;
            };
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
            if path.is_dir() {
                if deeper {
                    collect(&path, &format!("{prefix}{name}/"), false, names)?;
                }
            } else if matches!(extension.as_str(), "jpg" | "jpeg" | "png") {
                names.push(format!("{prefix}{name}"));
            }
        }
        Ok(())
    }
    let mut names = Vec::new();
    collect(folder, "", true, &mut names)?;
    names.sort();
    Ok(names)
}

/// Takes images, by their names, as the samples of a model with one input.
///
/// Errors when the model takes something else than an image, when the options contradict it, and when the first
/// image cannot be read or does not fit.
pub(super) fn open(
    folder: &Path,
    names: Vec<String>,
    source: &str,
    options: &ImageOptions,
    inputs: &[InputSpec],
) -> Result<Box<dyn Samples>> {
    let [spec] = inputs else {
        let inputs: Vec<String> = inputs.iter().map(|i| format!("`{i}`")).collect();
        let what = format!("expected {}, found images in `{source}`, which fill one input", inputs.join(", "));
        return Err(Error::new(ErrorKind::Data, what)
            .hint("save all inputs in one file, by their names: `np.savez(path, **{name: array, ...})`"));
    };
    let target = Target::of(spec, options)?;
    let images =
        Images { source: source.to_owned(), names, folder: folder.to_owned(), options: options.clone(), target };
    if images.is_empty() {
        let what = format!("expected {} images for a sample of `{spec}`", images.batch());
        let what = format!("{what}, found {} in `{source}`", images.names.len());
        return Err(Error::new(ErrorKind::Data, what).hint("the model's batch is fixed: give it that many"));
    }
    images.get(0)?;
    Ok(Box::new(images))
}

impl Target {
    /// Reads off an input what images it takes.
    fn of(spec: &InputSpec, options: &ImageOptions) -> Result<Target> {
        let no_image =
            |hint: &str| Error::new(ErrorKind::Data, format!("images do not fit `{spec}`")).hint(hint.to_owned());
        if !fit::converts(DataType::Float, spec.dtype) && spec.dtype != DataType::Uint8 {
            return Err(no_image("images are given to inputs of floats or uint8: save samples as .npz"));
        }
        let plain = ImageOptions::default();
        if spec.dtype == DataType::Uint8 && (&options.mean, &options.std) != (&plain.mean, &plain.std) {
            return Err(Error::new(ErrorKind::Usage, format!("`{spec}` takes pixels as they are"))
                .hint("leave out mean and standard deviation"));
        }
        let axes = spec.shape.clone().unwrap_or_else(|| vec![Dim::Symbol(String::new()); 4]);
        let (batch, image) = match &axes[..] {
            [Dim::Fixed(batch), image @ ..] if image.len() == 3 => (Some((*batch).max(1)), image),
            [Dim::Symbol(_), image @ ..] if image.len() == 3 => (Some(1), image),
            image if image.len() == 3 => (None, image),
            _ => return Err(no_image("images are given to inputs of three or four dimensions: save samples as .npz")),
        };
        let size = |axis: usize| match image[axis] {
            Dim::Fixed(n) => Some(n),
            Dim::Symbol(_) => None,
        };
        let holds_channels = |axis| matches!(size(axis), Some(1 | 3));
        let channels_first = match options.layout {
            Layout::Nchw => true,
            Layout::Nhwc => false,
            Layout::Auto if holds_channels(0) != holds_channels(2) => holds_channels(0),
            Layout::Auto => return Err(no_image("say where the channels lie: layout `nchw` or `nhwc`")),
        };
        let (count, height, width) =
            if channels_first { (size(0), size(1), size(2)) } else { (size(2), size(0), size(1)) };
        let channels = match (options.channels, count) {
            (Channels::Auto | Channels::Gray, Some(1)) => Channels::Gray,
            (Channels::Auto | Channels::Rgb, Some(3) | None) => Channels::Rgb,
            (Channels::Bgr, Some(3) | None) => Channels::Bgr,
            (Channels::Gray, None) => Channels::Gray,
            (Channels::Auto, _) => return Err(no_image("images have one or three channels")),
            _ => return Err(no_image("the model has another number of channels than was asked for")),
        };
        let target = Target { spec: spec.clone(), batch, channels_first, channels, height, width };
        for PerChannel(numbers) in [&options.mean, &options.std] {
            if numbers.len() != 1 && numbers.len() != target.depth() {
                let what = format!("{} numbers for {} channels of `{spec}`", numbers.len(), target.depth());
                return Err(Error::new(ErrorKind::Usage, what)
                    .hint("give mean and standard deviation for each channel, or one number for all"));
            }
        }
        if options.std.0.contains(&0.0) {
            return Err(Error::new(ErrorKind::Usage, "a standard deviation of 0 divides by nothing"));
        }
        Ok(target)
    }

    /// How many channels there are.
    fn depth(&self) -> usize {
        if self.channels == Channels::Gray { 1 } else { 3 }
    }

    /// Errors when the input is of another size.
    fn takes(&self, size: Size, options: &ImageOptions) -> Result<()> {
        let agree = |wanted: Option<usize>, found| wanted.is_none_or(|n| n == found);
        if agree(self.height, size.height) && agree(self.width, size.width) {
            return Ok(());
        }
        let what = format!("expected `{}`, found an image of {size} (height x width)", self.spec);
        let e = Error::new(ErrorKind::Data, what);
        let (Some(height), Some(width)) = (self.height, self.width) else {
            return Err(e.hint("bring the images to a size that the model takes: resize or crop"));
        };
        let wanted = Size { height, width };
        if options.resize.is_some() || options.crop.is_some() {
            return Err(e.hint(format!("resize and crop must end at {wanted}")));
        }
        if height != width {
            return Err(e.hint(format!("do as in training: `--resize {wanted}` stretches them")));
        }
        // ImageNet's proportion of resized to cropped, 256 to 224, for models of every size.
        let short = (height * 256).div_ceil(224);
        Err(e.hint(format!("do as in training: `--resize {short} --crop {wanted}`, or `--resize {wanted}` to stretch")))
    }
}

/// Decodes an image to 8-bit RGB. Errors when it is none, damaged or cut short.
fn decode(bytes: &[u8]) -> Result<DynamicImage> {
    let damaged = |reason: &str| {
        Error::new(ErrorKind::Malformed, format!("not a JPEG or PNG image, or damaged ({reason})"))
            .hint("leave the file out, or save the image again")
    };
    let reader = image::ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format().map_err(Error::io)?;
    if reader.format() == Some(image::ImageFormat::Jpeg) && !jpeg::is_whole(bytes) {
        return Err(damaged("it ends too early"));
    }
    let image = reader.decode().map_err(|e| damaged(&e.to_string().to_lowercase()).caused_by(e))?;
    Ok(DynamicImage::ImageRgb8(image.into_rgb8()))
}

/// The luma of an RGB image, rounded as Pillow does (ITU-R BT.601 in 16-bit fixed point).
fn luma(image: &DynamicImage) -> GrayImage {
    let rgb = image.to_rgb8();
    GrayImage::from_fn(rgb.width(), rgb.height(), |x, y| {
        let [r, g, b] = rgb.get_pixel(x, y).0.map(u32::from);
        image::Luma([((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16) as u8])
    })
}

/// The size that a resize makes of a size; at least a pixel a side.
fn resized(size: Size, resize: Resize) -> Size {
    match resize {
        Resize::Exact(size) => size,
        Resize::Short(short) => {
            let long = |long: usize, of: usize| (short * long / of.max(1)).max(1);
            let Size { height, width } = size;
            if height <= width {
                Size { height: short, width: long(width, height) }
            } else {
                Size { height: long(height, width), width: short }
            }
        }
    }
}

/// How far the middle lies from the edge: `round((size - crop) / 2)`, halves to even, as torchvision's CenterCrop.
fn margin(size: usize, crop: usize) -> usize {
    let twice = size - crop;
    if twice.is_multiple_of(2) { twice / 2 } else { twice.div_ceil(2) & !1 }
}

impl Images {
    fn batch(&self) -> usize {
        self.target.batch.unwrap_or(1)
    }

    /// Decodes, resizes and crops an image; grey for models with one channel.
    fn prepared(&self, path: &Path) -> Result<DynamicImage> {
        let mut image = decode(&std::fs::read(path).map_err(Error::io)?)?;
        if self.target.channels == Channels::Gray {
            image = DynamicImage::ImageLuma8(luma(&image));
        }
        let size = |image: &DynamicImage| Size { height: image.height() as usize, width: image.width() as usize };
        if let Some(resize) = self.options.resize {
            let Size { height, width } = resized(size(&image), resize);
            if height.max(width) > 65535 {
                let what = format!("an image of {} would be resized to {height}x{width}", size(&image));
                return Err(Error::new(ErrorKind::Data, what).hint("resize to a fixed height and width"));
            }
            image = image.resize_exact(width as u32, height as u32, FilterType::Triangle);
        }
        if let Some(crop) = self.options.crop {
            let whole = size(&image);
            if crop.height > whole.height || crop.width > whole.width {
                let what = format!("cannot crop {crop} from an image of {whole} (height x width)");
                return Err(Error::new(ErrorKind::Data, what).hint("resize to at least the size of the crop"));
            }
            let (top, left) = (margin(whole.height, crop.height), margin(whole.width, crop.width));
            image = image.crop_imm(left as u32, top as u32, crop.width as u32, crop.height as u32);
        }
        self.target.takes(size(&image), &self.options)?;
        Ok(image)
    }

    /// The pixels of an image, each channel changed by `change`, in the model's layout.
    fn arranged<T>(&self, image: &DynamicImage, change: impl Fn(usize, u8) -> T) -> Vec<T> {
        let (pixels, depth) = (image.as_bytes(), self.target.depth());
        let of = |channel: usize| if self.target.channels == Channels::Bgr { depth - 1 - channel } else { channel };
        let each = pixels.chunks_exact(depth);
        if self.target.channels_first {
            (0..depth).flat_map(|c| each.clone().map(move |p| (c, p[of(c)]))).map(|(c, p)| change(c, p)).collect()
        } else {
            each.flat_map(|p| (0..depth).map(move |c| (c, p[of(c)]))).map(|(c, p)| change(c, p)).collect()
        }
    }

    fn shape(&self, image: &DynamicImage) -> Vec<usize> {
        let (height, width) = (image.height() as usize, image.width() as usize);
        let depth = self.target.depth();
        let image = if self.target.channels_first { [depth, height, width] } else { [height, width, depth] };
        self.target.batch.into_iter().chain(image).collect()
    }
}

impl Samples for Images {
    fn len(&self) -> usize {
        self.names.len() / self.batch()
    }

    fn get(&self, i: usize) -> Result<Sample> {
        if i >= self.len() {
            return Err(no_such_sample(i, self.len()));
        }
        let ImageOptions { mean: PerChannel(mean), std: PerChannel(std), scale, .. } = &self.options;
        let of = |numbers: &[f32], channel: usize| numbers[channel.min(numbers.len() - 1)];
        let (mut shape, mut floats, mut pixels) = (Vec::new(), Vec::new(), Vec::new());
        for name in &self.names[i * self.batch()..(i + 1) * self.batch()] {
            let path = self.folder.join(name);
            let image = self.prepared(&path).at(|| named(&path))?;
            let found = self.shape(&image);
            if !shape.is_empty() && found != shape {
                let what = format!("the image is {found:?} and the one before it in the batch {shape:?}");
                let e = Error::new(ErrorKind::Data, what).at(named(&path));
                return Err(e.hint("resize all images to one size"));
            }
            shape = found;
            if self.target.spec.dtype == DataType::Uint8 {
                pixels.extend(self.arranged(&image, |_, pixel| pixel));
            } else {
                floats.extend(self.arranged(&image, |c, p| (f32::from(p) * scale - of(mean, c)) / of(std, c)));
            }
        }
        let input = match self.target.spec.dtype {
            DataType::Uint8 => Tensor::new(DataType::Uint8, shape, pixels.into())?,
            other => fit::convert(Tensor::from_f32(shape, floats), other)?,
        };
        Ok(Sample { inputs: vec![input] })
    }

    fn describe(&self) -> String {
        let options = &self.options;
        let mut text = format!("`{}`: {} images", self.source, self.names.len());
        match options.resize {
            Some(Resize::Short(short)) => text += &format!(", shorter side resized to {short}"),
            Some(Resize::Exact(size)) => text += &format!(", resized to {size}"),
            None => {}
        }
        if let Some(crop) = options.crop {
            text += &format!(", middle {crop}");
        }
        let channels = match self.target.channels {
            Channels::Gray => "gray",
            Channels::Bgr => "bgr",
            _ => "rgb",
        };
        text += &format!(", {channels}");
        if self.target.spec.dtype != DataType::Uint8 {
            text += &format!(", (pixel * {} - {}) / {}", options.scale, options.mean, options.std);
        }
        text
    }

    fn name(&self, i: usize) -> Option<String> {
        if self.batch() == 1 { self.names.get(i).cloned() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_arrays;
    use super::*;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/small/images")
    }

    /// `0` stands for a symbolic dimension.
    fn spec(dtype: DataType, dims: &[usize]) -> InputSpec {
        let dim = |&d| if d == 0 { Dim::Symbol("n".into()) } else { Dim::Fixed(d) };
        InputSpec { name: "x".into(), dtype, shape: Some(dims.iter().map(dim).collect()) }
    }

    fn opened(options: &ImageOptions, spec: InputSpec) -> Result<Box<dyn Samples>> {
        open(&fixtures(), names(&fixtures())?, "images", options, &[spec])
    }

    /// What Pillow decodes: rows, columns, RGB.
    fn pillow(name: &str) -> Tensor {
        let arrays = read_arrays(&fixtures().join("pixels.npz")).unwrap();
        arrays.into_iter().find(|(n, _)| n == name).unwrap().1
    }

    fn most(a: &[u8], b: &[u8]) -> u8 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[test]
    fn images_decode_as_pillow_decodes_them() {
        let samples = opened(&ImageOptions::default(), spec(DataType::Uint8, &[0, 0, 0, 3])).unwrap();
        let names: Vec<String> = (0..samples.len()).map(|i| samples.name(i).unwrap()).collect();
        assert_eq!(names, ["five.jpg", "four.png", "one.png", "six.jpeg", "three.png", "two.png"]);
        for (i, name) in names.iter().enumerate() {
            let (found, expected) = (samples.get(i).unwrap().inputs.remove(0), pillow(name));
            assert_eq!(found.shape()[1..], *expected.shape(), "{name}");
            let tolerance = if name.ends_with("png") { 0 } else { 3 };
            assert!(most(found.bytes(), expected.bytes()) <= tolerance, "{name}");
        }
    }

    #[test]
    fn values_are_arranged_as_the_model_takes_them() {
        let expected = pillow("one.png");
        let options = ImageOptions {
            crop: Some(Size { height: 29, width: 38 }),
            mean: PerChannel(vec![0.5, 0.25, 0.0]),
            std: PerChannel(vec![0.5, 2.0, 1.0]),
            channels: Channels::Bgr,
            ..Default::default()
        };
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let options = ImageOptions { layout, ..options.clone() };
            let samples = opened(&options, spec(DataType::Float, &[0, 0, 0, 0])).unwrap();
            let input = samples.get(2).unwrap().inputs.remove(0);
            let x = input.f32s().unwrap();
            for (y, column, c) in [(0, 0, 0), (28, 37, 2), (15, 20, 1)] {
                // The middle of 30 rows leaves half a row on either side: to even, none above.
                let pixel = expected.bytes()[(y * 40 + column + 1) * 3 + 2 - c];
                let value = (f32::from(pixel) / 255.0 - [0.5, 0.25, 0.0][c]) / [0.5, 2.0, 1.0][c];
                let at = match layout {
                    Layout::Nhwc => (y * 38 + column) * 3 + c,
                    _ => (c * 29 + y) * 38 + column,
                };
                assert!((x[at] - value).abs() < 1e-6, "{} {value}", x[at]);
            }
            let shape: &[usize] = if layout == Layout::Nhwc { &[1, 29, 38, 3] } else { &[1, 3, 29, 38] };
            assert_eq!(input.shape(), shape);
        }
    }

    #[test]
    fn resizing_is_pillows() {
        // Image.open("two.png").resize((6, 8), Image.Resampling.BILINEAR)
        #[rustfmt::skip]
        let two = [
            42, 47, 53, 49, 43, 42, 52, 125, 146, 148, 86, 43, 49, 78, 67, 145, 148, 48, 42, 42, 61, 155, 119, 44,
            42, 65, 146, 129, 53, 42, 53, 148, 177, 127, 101, 47, 51, 106, 118, 118, 101, 47, 42, 42, 42, 42, 42, 42,
        ];
        // The same of one.png to (7, 5), red.
        #[rustfmt::skip]
        let one = [
            56, 56, 74, 83, 59, 56, 56, 56, 57, 95, 147, 68, 56, 56, 56, 56, 68, 144, 69, 56, 56, 56, 57, 90, 153, 92,
            57, 56, 56, 57, 78, 89, 78, 57, 56,
        ];
        let cases: [(usize, [usize; 4], &[u8]); 2] = [(5, [1, 1, 8, 6], &two), (2, [1, 3, 5, 7], &one)];
        for (i, shape, expected) in cases {
            let size = Size { height: shape[2], width: shape[3] };
            let options = ImageOptions { resize: Some(Resize::Exact(size)), ..Default::default() };
            let samples = opened(&options, spec(DataType::Uint8, &shape)).unwrap();
            let found = samples.get(i).unwrap().inputs.remove(0);
            assert!(most(&found.bytes()[..expected.len()], expected) <= 1, "{:?}", &found.bytes()[..expected.len()]);
        }
    }

    #[test]
    fn sizes_follow_torchvision() {
        let size = |height, width| Size { height, width };
        assert_eq!(resized(size(375, 500), Resize::Short(256)), size(256, 341));
        assert_eq!(resized(size(500, 375), Resize::Short(256)), size(341, 256));
        assert_eq!(resized(size(3, 3000), Resize::Short(1)), size(1, 1000));
        let margins = [(256, 224), (257, 224), (259, 224), (224, 224), (225, 224)].map(|(s, c)| margin(s, c));
        assert_eq!(margins, [16, 16, 18, 0, 0]);
    }

    #[test]
    fn inputs_say_what_images_they_take() {
        let plain = ImageOptions::default();
        let shape = |dims: &[usize]| {
            opened(&plain, spec(DataType::Float16, dims)).unwrap().get(0).unwrap().inputs[0].shape().to_vec()
        };
        assert_eq!(shape(&[0, 3, 0, 0]), [1, 3, 64, 64]);
        assert_eq!(shape(&[0, 0, 0, 1]), [1, 64, 64, 1]);
        assert_eq!(shape(&[1, 64, 64]), [1, 64, 64]);
        let small = ImageOptions { resize: Some(Resize::Exact(Size { height: 4, width: 5 })), ..plain.clone() };
        let pairs = opened(&small, spec(DataType::Float, &[4, 3, 4, 5])).unwrap();
        assert_eq!((pairs.len(), pairs.get(0).unwrap().inputs[0].shape().to_vec()), (1, vec![4, 3, 4, 5]));
        assert!(opened(&small, spec(DataType::Float, &[7, 3, 4, 5])).is_err());
        assert!(opened(&plain, spec(DataType::Float, &[4, 3, 0, 0])).is_err());
        assert!(
            opened(&small, spec(DataType::Float, &[0, 3, 4, 5])).unwrap().describe().contains("resized to 4x5, rgb")
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let plain = ImageOptions::default();
        let e = opened(&plain, spec(DataType::Float, &[0, 3, 224, 224])).err().unwrap();
        assert!(e.to_string().contains("expected `x: float32 [n, 3, 224, 224]`, found an image of 64x64"), "{e}");
        assert!(e.to_string().contains("five.jpg"), "{e}");
        assert!(e.way_out().unwrap().contains("`--resize 256 --crop 224x224`"), "{:?}", e.way_out());
        let options = |change: &dyn Fn(&mut ImageOptions)| {
            let mut options = ImageOptions::default();
            change(&mut options);
            options
        };
        let three = spec(DataType::Float, &[0, 3, 0, 0]);
        let cases = [
            (plain.clone(), spec(DataType::Float, &[0, 0, 0, 0])),
            (plain.clone(), spec(DataType::Float, &[0, 4, 0, 0])),
            (plain.clone(), spec(DataType::Float, &[0, 3])),
            (plain.clone(), spec(DataType::Int64, &[0, 3, 0, 0])),
            (options(&|o| o.channels = Channels::Gray), three.clone()),
            (options(&|o| o.mean = PerChannel(vec![0.0; 2])), three.clone()),
            (options(&|o| o.mean = PerChannel(vec![])), three.clone()),
            (options(&|o| o.std = PerChannel(vec![0.0])), three.clone()),
            (options(&|o| o.mean = PerChannel(vec![0.5])), spec(DataType::Uint8, &[0, 3, 0, 0])),
            (options(&|o| o.crop = Some(Size { height: 65, width: 1 })), three.clone()),
        ];
        for (options, spec) in cases {
            assert!(opened(&options, spec.clone()).is_err(), "{options:?} {spec}");
        }
        assert!(open(&fixtures(), vec!["one.png".into()], "i", &plain, &[three.clone(), three]).is_err());
    }

    #[test]
    fn damaged_images_are_errors() {
        for name in ["six.jpeg", "four.png"] {
            let whole = std::fs::read(fixtures().join(name)).unwrap();
            // A PNG is complete before its closing chunk of twelve bytes.
            for end in 0..whole.len() - 12 {
                assert!(decode(&whole[..end]).is_err(), "{name} {end}");
            }
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 0xff;
                if let Ok(image) = decode(&bytes) {
                    assert!(image.width() > 0);
                }
            }
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.png"), b"no image").unwrap();
        let any = spec(DataType::Float, &[0, 3, 0, 0]);
        let e = open(folder.path(), vec!["a.png".into()], "f", &ImageOptions::default(), &[any]).err().unwrap();
        assert_eq!((e.kind(), e.to_string().matches("a.png").count()), (ErrorKind::Malformed, 1), "{e}");
    }

    #[test]
    fn folders_of_classes_count_and_hidden_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2.JPG", "b/1.png", "a/9.jpeg", "c.png", ".d.png", ".e/1.png", "b/deep/1.png", "b/notes.txt"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        assert_eq!(names(folder.path()).unwrap(), ["a/9.jpeg", "b/1.png", "b/2.JPG", "c.png"]);
    }
}
