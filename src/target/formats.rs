//! The formats of weights beside each other: what they take, what runs them, and how near they come.

use rayon::prelude::*;
use serde::Serialize;

use super::Target;
use crate::error::Result;
use crate::number::{Distribution, Format, Minifloat, ScaleForm, Share, Storage, WeightFormat};
use crate::report::{Cell, Column, Table};

/// A format of weights, as `qdq formats` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct FormatRow {
    /// The name users write.
    pub name: String,
    /// What it is.
    pub about: &'static str,
    /// Bits of a code.
    pub bits: u32,
    /// Bits a weight takes with its share of scales and tables, in a layer of 1024 channels of 1024 inputs each.
    pub bits_per_weight: f64,
    /// How many different numbers there are for one scale.
    pub levels: i64,
    /// The largest number of a code when the scale is 1; `None` where the table is found for the weights at hand.
    pub largest: Option<f32>,
    /// The smallest magnitude of a code other than 0 when the scale is 1.
    pub smallest: Option<f32>,
    /// The first opset of `ai.onnx` that knows all types and attributes of the native storage.
    pub opset: i64,
    /// Which engines run the native storage; all of them run the portable one.
    pub native: Vec<&'static str>,
    /// The SQNR in dB at the best clip on numbers of a normal distribution.
    pub gauss_db: f64,
    /// Of a Laplace distribution.
    pub laplace_db: f64,
    /// Of a uniform distribution.
    pub uniform_db: f64,
}

impl Target {
    /// Whether the target runs the native storage of a format whose numbers or scales are no plain integers and floats.
    pub fn runs(&self, format: &WeightFormat) -> bool {
        self.weight_formats.contains(&format.format) && (!reads_powers(format) || self.power_scales)
    }
}

/// Whether ONNX Runtime 1.31 has CPU kernels for the native storage: there are none for DequantizeLinear of float4e2m1, and none
/// with scales of float8e8m0.
pub fn onnxruntime_runs(format: &WeightFormat) -> bool {
    !reads_powers(format) && format.format.storage != Storage::Float(Minifloat::E2M1)
}

/// Whether DequantizeLinear reads powers of two, float8e8m0, as scales. Numbers of tables are multiplied with what Cast makes of
/// them.
fn reads_powers(format: &WeightFormat) -> bool {
    format.scales.is_power() && !format.format.is_looked_up()
}

/// Whether tract 0.23 runs the native storage: it reads no types below 8 bits and no floats of 8, no 16-bit codes and no
/// blocks.
pub fn tract_runs(format: &WeightFormat) -> bool {
    let Format { storage, .. } = format.format;
    matches!(storage, Storage::I8 | Storage::U8) && !matches!(format.share, Share::Block(_))
}

impl FormatRow {
    /// Every format.
    pub fn all() -> Result<Vec<FormatRow>> {
        WeightFormat::ALL.par_iter().map(FormatRow::of).collect()
    }

    /// The row of a format.
    pub fn of(format: &WeightFormat) -> Result<FormatRow> {
        let runs = [(onnxruntime_runs(format), "onnxruntime"), (tract_runs(format), "tract")];
        Ok(FormatRow {
            name: format.to_string(),
            about: format.about,
            bits: format.format.bits,
            bits_per_weight: format.bits_per_weight()?,
            levels: format.levels(),
            largest: format.largest(),
            smallest: format.smallest(),
            opset: format.opset(),
            native: runs.into_iter().filter(|(runs, _)| *runs).map(|(_, name)| name).collect(),
            gauss_db: format.sqnr(Distribution::Gauss)?,
            laplace_db: format.sqnr(Distribution::Laplace)?,
            uniform_db: format.sqnr(Distribution::Uniform)?,
        })
    }
}

/// The formats as people read them.
pub fn format_table(rows: &[FormatRow]) -> Vec<Table> {
    let columns = [
        Column::left("format"),
        Column::left("codes").spare(1),
        Column::right("bits"),
        Column::right("a weight"),
        Column::right("levels"),
        Column::right("largest").spare(2),
        Column::right("smallest").spare(2),
        Column::right("opset"),
        Column::left("native in"),
        Column::right("Gauss"),
        Column::right("Laplace"),
        Column::right("uniform"),
    ];
    let mut t = Table::new("Formats of weights", columns.to_vec());
    for row in rows {
        let native = if row.native.is_empty() { Cell::None } else { Cell::Text(row.native.join(", ")) };
        let db = |x: f64| Cell::Text(format!("{x:.1} dB"));
        t.rows.push(vec![
            Cell::Name(row.name.clone()),
            Cell::Text(row.about.into()),
            Cell::Text(row.bits.to_string()),
            Cell::Text(format!("{:.3}", row.bits_per_weight)),
            Cell::Text(row.levels.to_string()),
            Cell::of(row.largest, |x| Cell::Text(format!("{x}"))),
            Cell::of(row.smallest, |x| Cell::Text(if x < 1e-3 { format!("{x:.1e}") } else { format!("{x:.4}") })),
            Cell::Text(row.opset.to_string()),
            native,
            db(row.gauss_db),
            db(row.laplace_db),
            db(row.uniform_db),
        ]);
    }
    t.notes.push("a weight: bits with scales and tables, in a layer of 1024 channels of 1024 inputs each".into());
    t.notes.push("dB: SQNR at the best clip, on 32 channels of 1024 numbers each".into());
    t.notes.push(
        "`--weights NAME` takes them, with `/b32`, `/g16`, `/tensor`, `/channel`, `/narrow` or `/affine` behind".into(),
    );
    t.notes.push("`--storage portable` needs types and operators of opset 13 alone".into());
    vec![t]
}

impl WeightFormat {
    /// The first opset of `ai.onnx` that knows all types and attributes of the native storage: blocks 21, scales of
    /// float8e8m0 24.
    pub fn opset(&self) -> i64 {
        let blocks = if matches!(self.share, Share::Block(_)) { 21 } else { 13 };
        let scales = match self.scales {
            ScaleForm::Coded { format, power: false, .. } => format.opset,
            ScaleForm::Coded { format, .. } => format.opset.max(24),
            ScaleForm::Float => 0,
            ScaleForm::Power => 24,
        };
        self.format.opset.max(blocks).max(scales)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opsets_are_those_of_types_and_attributes() {
        let opset = |name: &str| name.parse::<WeightFormat>().unwrap().opset();
        let found =
            ["int8", "int4", "int2", "int8/b32", "fp8e4m3", "fp4e2m1", "mxfp4", "nvfp4", "nf4", "kmeans8"].map(opset);
        assert_eq!(found, [13, 21, 25, 21, 19, 23, 24, 23, 21, 13]);
    }
}
