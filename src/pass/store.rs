//! Constants in formats that no one DequantizeLinear reads: the nodes that make floats of their codes.

use crate::error::{Error, ErrorKind, Result};
use crate::model::{At, AttributeProto, DataType, Graph, NodeId, NodeProto, Tensor, attribute, of_format};
use crate::number::{Format, Granularity, Levels, QuantParams, ScaleCodes, Storage, StoredScales, pack};
use crate::plan::StorageForm;

/// Whether codes of these parameters go behind one DequantizeLinear with scales and zero points of the same shape.
pub(super) fn is_plain(params: &QuantParams, form: StorageForm) -> bool {
    let linear = params.format().levels == Levels::Linear && *params.stored_scales() == StoredScales::Floats;
    let everywhere = !matches!(params.granularity(), Granularity::Block { .. }) && params.format().storage.bits() != 16;
    linear && (form == StorageForm::Native || everywhere)
}

/// A constant that is to be stored.
pub(super) struct Constant<'a> {
    /// The float constant that it stands for.
    pub base: &'a str,
    /// Its type.
    pub dtype: DataType,
    /// Its shape.
    pub shape: &'a [usize],
    /// A code for each number.
    pub codes: &'a [i32],
    /// What they stand for.
    pub params: &'a QuantParams,
}

/// Adds the codes of a constant to the graph, and ahead of `node` what makes floats of them; returns the name of these.
///
/// ```text
/// native     numbers of an element type   DequantizeLinear(codes, scales)
///            scales that are codes        DequantizeLinear(codes, DequantizeLinear(scale codes, coarser scales))
///            places in a table            Mul(Gather(table, Cast(places)), scales)
/// portable   whole numbers                DequantizeLinear(codes, scales)
///            the same in blocks, 16 bits  Mul(Sub(Cast(codes), zero points), scales)
///            places in a table            Mul(Gather(table, Cast(places)), scales)
/// ```
///
/// Where blocks are multiplied, codes are stored as `[outer, blocks, size, inner]`, the last block filled up, and a Reshape, and
/// a Slice where it was filled, give the constant its shape. Both forms make the same floats, bit for bit: scales are the same
/// float32 numbers, or differ by the power of two by which numbers of a table became whole.
///
/// Source: ai.onnx DequantizeLinear-21, -23 and -24, Gather-13, Cast-13.
pub(super) fn store(graph: &mut Graph, node: NodeId, constant: &Constant<'_>, form: StorageForm) -> Result<String> {
    let mut writer = Writer { graph, node, base: constant.base };
    let format = constant.params.format();
    let numbers = match (form, format.storage) {
        (StorageForm::Native, Storage::Float(_) | Storage::I2) => true,
        (StorageForm::Native, _) => format.levels == Levels::Linear,
        (StorageForm::Portable, _) => false,
    };
    let real = match (numbers, whole_numbers(constant)) {
        (true, _) => writer.dequantized(constant)?,
        (false, Some(whole)) => writer.whole(constant, &whole)?,
        (false, None) => writer.looked_up(constant, form)?,
    };
    if constant.dtype == DataType::Float {
        return Ok(real);
    }
    let to = attribute::int("to", constant.dtype as i64);
    writer.add("Cast", &[&real], vec![to], "cast")
}

/// Codes that are whole numbers, in the type that holds them, and the scales that go with them.
struct Whole {
    storage: Storage,
    codes: Vec<i32>,
    granularity: Granularity,
    scales: Vec<f32>,
}

/// The codes as whole numbers: linear ones as they are, or times the codes of their scales where the coarser scales are powers
/// of two; those of tables of whole numbers times a power of two as these.
fn whole_numbers(constant: &Constant<'_>) -> Option<Whole> {
    let (params, format) = (constant.params, constant.params.format());
    let granularity = params.granularity();
    if let (StoredScales::Codes(inner), Granularity::Block { axis, size }) = (params.stored_scales(), granularity)
        && *inner.params.stored_scales() == StoredScales::Powers
        && let Granularity::Block { size: neighbours, .. } = inner.params.granularity()
    {
        let mut codes = constant.codes.to_vec();
        granularity
            .each_run(constant.shape, |span, groups| {
                for (i, code) in codes[span].iter_mut().enumerate() {
                    *code *= inner.codes[groups.start + if groups.len() == 1 { 0 } else { i }];
                }
            })
            .ok()?;
        let bytes = codes.iter().all(|&code| i8::try_from(code).is_ok());
        let storage = if bytes { Storage::I8 } else { Storage::I16 };
        let granularity = Granularity::Block { axis, size: size * neighbours };
        return Some(Whole { storage, codes, granularity, scales: inner.params.scales().to_vec() });
    }
    if format.levels == Levels::Linear {
        let storage = format.widened().storage;
        return Some(Whole { storage, codes: constant.codes.to_vec(), granularity, scales: params.scales().to_vec() });
    }
    let (by, table) = (format.whole(127.0)?, format.table()?);
    let scales: Vec<f32> = params.scales().iter().map(|s| s / by).collect();
    // Dividing by a power of two is exact among normal numbers.
    if scales.iter().any(|s| !s.is_normal()) {
        return None;
    }
    let number = |&code: &i32| Some((table.get(usize::try_from(code).ok()?)? * by) as i32);
    let codes = constant.codes.iter().map(number).collect::<Option<_>>()?;
    Some(Whole { storage: Storage::I8, codes, granularity, scales })
}

/// How numbers lie while they are multiplied with something of each group.
struct Layout {
    /// The shape of the codes.
    codes: Vec<usize>,
    /// The shape of what each group has one of; it is spread over that of the codes.
    groups: Vec<usize>,
    /// The axis of the blocks, and how long it is with the last one filled up.
    blocks: Option<(usize, usize)>,
}

impl Layout {
    fn of(shape: &[usize], granularity: Granularity) -> Layout {
        match granularity {
            Granularity::Tensor => Layout { codes: shape.to_vec(), groups: Vec::new(), blocks: None },
            Granularity::Channel { axis } => {
                let mut groups = vec![1; shape.len()];
                groups[axis] = shape[axis];
                Layout { codes: shape.to_vec(), groups, blocks: None }
            }
            Granularity::Block { axis, size } => {
                let outer = shape[..axis].iter().product();
                let inner = shape[axis + 1..].iter().product();
                let blocks = shape[axis].div_ceil(size);
                Layout {
                    codes: vec![outer, blocks, size, inner],
                    groups: vec![outer, blocks, 1, inner],
                    blocks: Some((axis, blocks * size)),
                }
            }
        }
    }

    /// The codes with the last block of each row filled up.
    fn fill(&self, codes: &[i32], shape: &[usize]) -> Vec<i32> {
        let Some((axis, full)) = self.blocks.filter(|&(axis, full)| shape[axis] != full) else { return codes.to_vec() };
        let inner: usize = shape[axis + 1..].iter().product();
        let row = shape[axis] * inner;
        let rows = codes.chunks(row.max(1));
        rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0, full * inner - row.len()))).collect()
    }
}

struct Writer<'a> {
    graph: &'a mut Graph,
    node: NodeId,
    base: &'a str,
}

impl Writer<'_> {
    fn constant(&mut self, end: &str, tensor: &Tensor) -> String {
        self.graph.add_constant_beside(self.base, &format!("{}_{end}", self.base), tensor)
    }

    /// Adds a node ahead of the reader; returns its output.
    fn add(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>, end: &str) -> Result<String> {
        let output = self.graph.fresh_name(&format!("{}_{end}", self.base));
        let node = NodeProto {
            name: Some(self.graph.fresh_name(&format!("{}_{op}", self.base))),
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.clone()],
            attribute,
            ..Default::default()
        };
        self.graph.insert(At::Before(self.node), node)?;
        Ok(output)
    }

    fn codes(&mut self, end: &str, format: Format, shape: Vec<usize>, codes: &[i32]) -> Result<String> {
        let tensor = Tensor::new(of_format(format), shape, pack(format, codes).into())?;
        Ok(self.constant(end, &tensor))
    }

    /// DequantizeLinear of codes of an element type, its scales in the form in which they are stored.
    fn dequantized(&mut self, constant: &Constant<'_>) -> Result<String> {
        let codes = self.codes("quantized", constant.params.format(), constant.shape.to_vec(), constant.codes)?;
        self.dequantize(&codes, constant.shape, constant.params, "dequantized")
    }

    fn dequantize(&mut self, codes: &str, shape: &[usize], params: &QuantParams, end: &str) -> Result<String> {
        let scales = params.granularity().scale_shape(shape)?;
        let mut attributes = Vec::new();
        attributes.extend(params.axis().map(|a| attribute::int("axis", a as i64)));
        if let Granularity::Block { size, .. } = params.granularity() {
            attributes.push(attribute::int("block_size", size as i64));
        }
        let scale = match params.stored_scales() {
            StoredScales::Floats => {
                let scales = Tensor::from_f32(scales, params.scales().to_vec());
                self.constant("scale", &scales)
            }
            StoredScales::Powers => {
                // What comes out has the type of the scales where nothing else is said.
                attributes.push(attribute::int("output_dtype", DataType::Float as i64));
                self.constant("scale", &powers(params.scales(), scales)?)
            }
            StoredScales::Codes(inner) => {
                let ScaleCodes { codes, shape, params } = &**inner;
                let codes = self.codes("scale_quantized", params.format(), shape.clone(), codes)?;
                self.dequantize(&codes, shape, params, "scale")?
            }
        };
        let mut inputs = vec![codes, &scale];
        let zero = params.zero_points().iter().any(|&z| z != 0);
        let zero = match zero {
            true => {
                let shape = params.granularity().scale_shape(shape)?;
                Some(self.codes("zero_point", params.format(), shape, params.zero_points())?)
            }
            false => None,
        };
        inputs.extend(zero.as_deref());
        self.add("DequantizeLinear", &inputs, attributes, end)
    }

    /// Whole numbers times their scales, with what every runtime has.
    fn whole(&mut self, constant: &Constant<'_>, whole: &Whole) -> Result<String> {
        let (params, shape) = (constant.params, constant.shape);
        let format = Format { storage: whole.storage, levels: Levels::Linear, ..params.format() };
        let blocks = matches!(whole.granularity, Granularity::Block { .. });
        if !blocks && whole.storage.bits() == 8 {
            let params = match params.format().levels {
                Levels::Linear => params.with_scales(whole.scales.clone())?.stored_as(format),
                _ => QuantParams::scaled(Format::INT8, params.granularity(), whole.scales.clone())?,
            };
            let codes = self.codes("quantized", format, shape.to_vec(), &whole.codes)?;
            return self.dequantize(&codes, shape, &params, "dequantized");
        }
        let layout = Layout::of(shape, whole.granularity);
        let codes = self.codes("quantized", format, layout.codes.clone(), &layout.fill(&whole.codes, shape))?;
        let float = attribute::int("to", DataType::Float as i64);
        let mut real = self.add("Cast", &[&codes], vec![float], "numbers")?;
        if params.zero_points().iter().any(|&z| z != 0) {
            let zeros = params.zero_points().iter().map(|&z| z as f32).collect();
            let zeros = self.constant("zero_point", &Tensor::from_f32(layout.groups.clone(), zeros));
            real = self.add("Sub", &[&real, &zeros], vec![], "steps")?;
        }
        let scales = self.constant("scale", &Tensor::from_f32(layout.groups.clone(), whole.scales.clone()));
        real = self.add("Mul", &[&real, &scales], vec![], "dequantized")?;
        self.shaped(real, &layout, shape)
    }

    /// Numbers of a table times their scales.
    fn looked_up(&mut self, constant: &Constant<'_>, form: StorageForm) -> Result<String> {
        let (params, shape) = (constant.params, constant.shape);
        let missing = || Error::new(ErrorKind::InvalidModel, "its format has no table");
        let table = params.tables().or(params.format().table()).ok_or_else(missing)?;
        let layout = Layout::of(shape, params.granularity());
        let format = params.format();
        let storage = match (form, format.storage) {
            (StorageForm::Native, storage @ (Storage::U2 | Storage::U4)) => storage,
            _ => Storage::U8,
        };
        let format = Format { storage, levels: Levels::Linear, ..format };
        let codes = self.codes("places", format, layout.codes.clone(), &layout.fill(constant.codes, shape))?;
        let int32 = attribute::int("to", DataType::Int32 as i64);
        let mut places = self.add("Cast", &[&codes], vec![int32], "indices")?;
        let groups = params.scales().len();
        let count = params.format().max + 1;
        if params.tables().is_some() && groups > 1 {
            let offsets = (0..groups as i32).flat_map(|g| (g * count).to_le_bytes()).collect::<Vec<u8>>();
            let offsets = Tensor::new(DataType::Int32, layout.groups.clone(), offsets.into())?;
            let offsets = self.constant("table_offsets", &offsets);
            places = self.add("Add", &[&places, &offsets], vec![], "places_in_tables")?;
        }
        let table = self.constant("table", &Tensor::from_f32(vec![table.len()], table.to_vec()));
        let mut real = self.add("Gather", &[&table, &places], vec![], "numbers")?;
        if params.tables().is_none() {
            let scales = match (form, params.stored_scales()) {
                (StorageForm::Native, StoredScales::Powers) => {
                    let powers = powers(params.scales(), layout.groups.clone())?;
                    let powers = self.constant("scale", &powers);
                    let float = attribute::int("to", DataType::Float as i64);
                    self.add("Cast", &[&powers], vec![float], "scale_float")?
                }
                _ => self.constant("scale", &Tensor::from_f32(layout.groups.clone(), params.scales().to_vec())),
            };
            real = self.add("Mul", &[&real, &scales], vec![], "dequantized")?;
        }
        self.shaped(real, &layout, shape)
    }

    /// Gives what was multiplied in blocks its shape.
    fn shaped(&mut self, real: String, layout: &Layout, shape: &[usize]) -> Result<String> {
        let Some((axis, full)) = layout.blocks else { return Ok(real) };
        let mut filled: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        filled[axis] = full as i64;
        let dims = self.constant("shape", &i64s(filled)?);
        let real = self.add("Reshape", &[&real, &dims], vec![], "reshaped")?;
        if full == shape[axis] {
            return Ok(real);
        }
        let [start, end, axis] = [0, shape[axis] as i64, axis as i64];
        let starts = self.constant("start", &i64s(vec![start])?);
        let ends = self.constant("end", &i64s(vec![end])?);
        let axes = self.constant("axis", &i64s(vec![axis])?);
        self.add("Slice", &[&real, &starts, &ends, &axes], vec![], "cut")
    }
}

fn i64s(x: Vec<i64>) -> Result<Tensor> {
    Tensor::new(DataType::Int64, vec![x.len()], x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into())
}

/// Powers of two as float8e8m0: the exponent field of their float32.
fn powers(scales: &[f32], shape: Vec<usize>) -> Result<Tensor> {
    let codes: Vec<u8> = scales.iter().map(|s| (s.to_bits() >> 23) as u8).collect();
    Tensor::new(DataType::Float8e8m0, shape, codes.into())
}
