//! What is in a model, before and after quantization: [`inspect`] looks, [`Inspection`] says.
//!
//! The facts serialize; [`Inspection::tables`] is what people read. Of each weight it tells how hard it is to quantize:
//! the spread of its channels says what one scale for all of them costs, the kurtosis how far its outliers are out,
//! and two SQNRs what INT8 really makes of it. Codes are seen through: a weight behind DequantizeLinear is shown with
//! its scales and the reals it stands for.

mod activations;
mod coded;
mod diagnosis;
mod facts;
mod formats;
mod heads;
mod quantization;
mod statistics;
mod tables;
mod walk;
mod weights;

use std::cmp::Ordering;

use serde::Serialize;

use crate::error::Result;
use crate::model::Model;

pub use activations::{ActivationRow, MethodRange, activations};
pub use coded::{Coding, Grain, Span};
pub use diagnosis::{Diagnosis, diagnose};
pub use facts::{Extent, ModelFacts, OperatorCount, Opset, ValueFact};
pub use formats::{Forecast, FormatTotal, InFormat, forecast};
pub use heads::HeadRange;
pub use quantization::{Coverage, Quantization, QuantizedActivation, StyleCount};
pub use statistics::Statistics;
pub use tables::style_words;
pub use weights::WeightRow;

/// What is in a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The model as a whole.
    pub model: ModelFacts,
    /// What of it is quantized; `None` if nothing is.
    pub quantization: Option<Quantization>,
    /// The weights, in the order of execution until they are sorted.
    pub weights: Vec<WeightRow>,
    /// How many weights there are, whatever [`Inspection::truncate`] left.
    pub weights_total: usize,
    /// What all weights together would lose in other formats, whatever [`Inspection::truncate`] left; empty if that was not
    /// asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<FormatTotal>,
    /// What was seen of the activations when samples were run; `None` if none were.
    pub activations: Option<Vec<ActivationRow>>,
    /// How many activations were seen, whatever [`Inspection::truncate`] left.
    pub activations_total: usize,
}

/// What weights are sorted by: what is hardest to quantize comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum SortKey {
    /// The order of execution.
    #[default]
    Order,
    /// The node's name, A to Z.
    Name,
    /// The operator, A to Z.
    Operator,
    /// The number of elements, largest first.
    Elements,
    /// The largest magnitude, largest first.
    Max,
    /// The spread of the channels' ranges, largest first.
    Spread,
    /// The kurtosis, largest first.
    Kurtosis,
    /// The SQNR at INT8 with one scale, lowest first.
    SqnrTensor,
    /// The SQNR at INT8 with one scale a channel, lowest first.
    SqnrChannel,
    /// The number of channels that are all zero, largest first.
    Dead,
}

/// Looks at a model, at its subgraphs and functions too.
///
/// Weights are read where they lie and measured in parallel; the result does not depend on the number of threads.
/// Errors name node and tensor where the data of a weight do not fit its shape.
pub fn inspect(model: &Model) -> Result<Inspection> {
    let walk = walk::Walk::of(model);
    let weights = weights::rows(&walk)?;
    Ok(Inspection {
        model: facts::of(model, &walk)?,
        quantization: quantization::of(&walk)?,
        weights_total: weights.len(),
        weights,
        formats: Vec::new(),
        activations: None,
        activations_total: 0,
    })
}

/// What of a model is quantized, its subgraphs and functions included; `None` if nothing is. Errors as [`inspect`].
pub fn quantization(model: &Model) -> Result<Option<Quantization>> {
    quantization::of(&walk::Walk::of(model))
}

impl Inspection {
    /// Adds what was seen of the activations.
    pub fn with_activations(&mut self, rows: Vec<ActivationRow>) {
        self.activations_total = rows.len();
        self.activations = Some(rows);
    }

    /// Adds what [`diagnose`] told of the weights.
    pub fn with_diagnosis(&mut self, told: &[Diagnosis]) {
        self.weights.iter_mut().for_each(|w| w.diagnosis = told.get(w.place).copied());
    }

    /// Adds what [`forecast`] told of the weights.
    pub fn with_forecast(&mut self, told: Forecast) {
        let mut rows = told.rows;
        self.weights.iter_mut().for_each(|w| w.formats = rows.get_mut(w.place).map(std::mem::take).unwrap_or_default());
        self.formats = told.total;
    }

    /// Sorts the weights; those without the number come last, equal ones in the order of execution.
    pub fn sort(&mut self, key: SortKey) {
        let descending = |a: Option<f64>, b: Option<f64>| ascending(a.map(|x| -x), b.map(|x| -x));
        self.weights.sort_by_key(|w| w.place);
        self.weights.sort_by(|a, b| {
            let (x, y) = (&a.statistics, &b.statistics);
            match key {
                SortKey::Order => Ordering::Equal,
                SortKey::Name => a.node.cmp(&b.node),
                SortKey::Operator => a.operator.cmp(&b.operator),
                SortKey::Elements => b.elements().cmp(&a.elements()),
                SortKey::Max => descending(a.magnitude().map(f64::from), b.magnitude().map(f64::from)),
                SortKey::Spread => descending(x.spread, y.spread),
                SortKey::Kurtosis => descending(x.kurtosis, y.kurtosis),
                SortKey::SqnrTensor => ascending(x.sqnr_tensor_db, y.sqnr_tensor_db),
                SortKey::SqnrChannel => ascending(x.sqnr_channel_db, y.sqnr_channel_db),
                SortKey::Dead => y.dead_channels.cmp(&x.dead_channels),
            }
        });
    }

    /// Keeps the first `n` rows of each list: weights, quantized activations, activations seen.
    pub fn truncate(&mut self, n: usize) {
        self.weights.truncate(n);
        self.quantization.iter_mut().for_each(|q| q.activations.truncate(n));
        self.activations.iter_mut().for_each(|rows| rows.truncate(n));
    }
}

fn ascending(a: Option<f64>, b: Option<f64>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;

    use super::*;
    use crate::integer::Style;
    use crate::model::{DataType, GraphProto, ModelProto, NodeExt, NodeProto, Tensor, TensorProto, attribute};
    use crate::proto::{FunctionProto, OperatorSetIdProto};
    use crate::report;

    fn fixture(name: &str) -> Inspection {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name).join("model.onnx");
        inspect(&Model::read(&path).unwrap()).unwrap()
    }

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
        NodeProto {
            op_type: Some(op.into()),
            domain: Some(domain.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    fn with(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
        node.set(attribute::int(name, value));
        node
    }

    fn floats(name: &str, shape: &[usize], x: &[f32]) -> TensorProto {
        Tensor::from_f32(shape.to_vec(), x.to_vec()).to_proto(name)
    }

    fn codes(name: &str, dtype: DataType, shape: &[usize], bytes: &[u8]) -> TensorProto {
        Tensor::new(dtype, shape.to_vec(), Bytes::copy_from_slice(bytes)).unwrap().to_proto(name)
    }

    fn model(node: Vec<NodeProto>, initializer: Vec<TensorProto>, functions: Vec<FunctionProto>) -> Model {
        let input = vec![crate::model::ValueInfoProto { name: Some("x".into()), ..Default::default() }];
        let graph = GraphProto { node, initializer, input, ..Default::default() };
        let opset_import = vec![OperatorSetIdProto { version: Some(17), ..Default::default() }];
        Model::from_proto(ModelProto { graph: Some(graph), opset_import, functions, ..Default::default() }).unwrap()
    }

    /// Made with numpy 2 in float64 from the same file: `scale = float32(max |w| / 127)`,
    /// `codes = clip(rint(w / scale), -127, 127)`, SQNR = `10 log10(sum w^2 / sum (w - codes * scale)^2)`,
    /// kurtosis = `mean (w - mean)^4 / (mean (w - mean)^2)^2`.
    #[test]
    fn weights_are_measured_as_numpy_does() {
        let numpy = [
            ("stem.conv", 5.520_736_641_576, 3.614_115_547_351, 43.066_993_806_615, 46.906_155_249_922),
            ("block1.expand.conv", 2.810_884_883_128, 3.261_462_138_109, 41.290_333_696_172, 46.161_954_828_564),
            ("block1.depthwise.conv", 2.774_102_417_376, 2.788_643_893_083, 43.609_128_714_048, 47.855_513_861_009),
            ("block3.project.conv", 1.990_369_759_727, 3.314_073_406_825, 39.940_273_896_080, 43.544_593_646_706),
            ("logits", 1.319_991_450_324, 2.409_870_890_426, 45.387_698_022_284, 46.196_306_167_539),
        ];
        let seen = fixture("digits");
        for (name, spread, kurtosis, tensor, channel) in numpy {
            let s = seen.weights.iter().find(|w| w.node == name).unwrap().statistics;
            let got = [s.spread, s.kurtosis, s.sqnr_tensor_db, s.sqnr_channel_db].map(Option::unwrap);
            for (got, want) in got.into_iter().zip([spread, kurtosis, tensor, channel]) {
                assert!((got - want).abs() < 1e-9, "{name}: {got} instead of {want}");
            }
        }
        let stem = &seen.weights[0];
        assert_eq!((stem.statistics.min, stem.statistics.max), (Some(-1.532_752_4), Some(1.275_193_2)));
        assert_eq!((&stem.shape[..], stem.axis, stem.statistics.dead_channels), (&[16, 1, 3, 3][..], Some(0), Some(0)));
    }

    #[test]
    fn a_model_tells_what_it_is() {
        let seen = fixture("digits");
        assert_eq!((seen.model.ir_version, seen.model.nodes, seen.weights_total), (8, 36, 12));
        // Elements of the float initializers, counted with onnx.
        assert_eq!((seen.model.parameters, seen.model.constant_bytes), (14_748, 58_992));
        assert_eq!(seen.model.inputs[0].to_string(), "input: float32 [batch, 1, 8, 8]");
        assert_eq!(seen.model.outputs[0].to_string(), "logits: float32 [batch, 10]");
        let operators: Vec<_> = seen.model.operators.iter().take(3).map(|o| (&o.operator[..], o.count)).collect();
        assert_eq!(operators, [("BatchNormalization", 11), ("Conv", 11), ("Clip", 9)]);
        assert_eq!(seen.quantization, None);
        assert_eq!(fixture("ppocr_cls").model.parameters, 133_700);
        assert_eq!(fixture("ppocr_cls").weights_total, 54);
        let half = fixture("small/float16");
        assert!(half.weights.iter().all(|w| w.dtype == "float16" && w.statistics.sqnr_channel_db > Some(30.0)));
    }

    #[test]
    fn the_hardest_weight_comes_first() {
        let mut seen = fixture("digits");
        let first = |seen: &mut Inspection, key| {
            seen.sort(key);
            seen.weights[0].node.clone()
        };
        assert_eq!(first(&mut seen, SortKey::SqnrTensor), "block4.pointwise.conv");
        assert_eq!(first(&mut seen, SortKey::Spread), "stem.conv");
        assert_eq!(first(&mut seen, SortKey::Max), "block4.depthwise.conv");
        assert_eq!(first(&mut seen, SortKey::Name), "block1.depthwise.conv");
        assert_eq!(first(&mut seen, SortKey::Order), "stem.conv");
        seen.truncate(2);
        assert_eq!((seen.weights.len(), seen.weights_total), (2, 12));
        assert!(report::text(&seen.tables(), None).contains("\nWeights (2 of 12)\n"));
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let on = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(|| fixture("ppocr_cls"));
        assert_eq!(on(1), on(3));
    }

    #[test]
    fn codes_behind_dequantize_are_seen_through() {
        let nodes = vec![
            node("QuantizeLinear", &["x", "sx", "zx"], "xq"),
            node("DequantizeLinear", &["xq", "sx", "zx"], "xd"),
            with(node("DequantizeLinear", &["w", "sw"], "wd"), "axis", 0),
            node("Conv", &["xd", "wd"], "c"),
            node("Relu", &["c"], "r"),
            node("Sigmoid", &["r"], "s"),
            node("DequantizeLinear", &["w2", "s2", "z2"], "wd2"),
            node("MatMul", &["s", "wd2"], "y"),
            node("MatMul", &["s", "s"], "z"),
        ];
        let initializers = vec![
            floats("sx", &[], &[0.5]),
            codes("zx", DataType::Uint8, &[], &[10]),
            codes("w", DataType::Int8, &[2, 1, 1, 1], &[127, 129]),
            floats("sw", &[2], &[1.0, 0.5]),
            codes("w2", DataType::Uint8, &[2, 2], &[3, 4, 5, 6]),
            floats("s2", &[], &[2.0]),
            codes("z2", DataType::Uint8, &[], &[4]),
        ];
        let seen = inspect(&model(nodes, initializers, vec![])).unwrap();
        let q = seen.quantization.as_ref().unwrap();
        assert_eq!(q.layers, Coverage { quantized: 1, weight_only: 1, float: 1 });
        assert_eq!(q.others, Coverage { quantized: 1, weight_only: 0, float: 1 });
        let count = |style, layers, others| StyleCount { style, layers, others };
        assert_eq!(q.styles, [count(Style::Qdq, 1, 1), count(Style::WeightOnly, 1, 0)]);
        assert_eq!((q.quantize_linear, q.dequantize_linear), (1, 3));
        assert_eq!(
            q.activations,
            [QuantizedActivation {
                value: "x".into(),
                dtype: Some("uint8".into()),
                scales: Some(1),
                scale: Some(Span { min: 0.5, max: 0.5 }),
                zero_point: Some(Span { min: 10, max: 10 }),
                range: Some(Span { min: -5.0, max: 122.5 }),
            }]
        );
        let [conv, matmul] = &seen.weights[..] else { panic!("two weights: {:?}", seen.weights) };
        assert_eq!((conv.statistics.min, conv.statistics.max), (Some(-63.5), Some(127.0)));
        assert_eq!((conv.statistics.spread, conv.statistics.sqnr_tensor_db), (Some(2.0), None));
        let coding = conv.coding.as_ref().unwrap();
        assert_eq!((&coding.storage[..], coding.grain, coding.axis), ("int8", Some(Grain::Channel), Some(0)));
        assert_eq!(
            (coding.scale, coding.zero_point),
            (Some(Span { min: 0.5, max: 1.0 }), Some(Span { min: 0, max: 0 }))
        );
        assert_eq!((matmul.statistics.min, matmul.statistics.max), (Some(-2.0), Some(4.0)));
        assert_eq!(matmul.coding.as_ref().unwrap().grain, Some(Grain::Tensor));
        // Six codes; scales and zero points are no parameters.
        assert_eq!(seen.model.parameters, 6);
    }

    #[test]
    fn integer_operators_give_up_their_weights() {
        let mut dynamic = node("DynamicQuantizeLinear", &["x"], "a");
        dynamic.output.push("computed".into());
        let nodes = vec![
            dynamic,
            node("MatMulInteger", &["a", "w", "", "z"], "i"),
            node("Cast", &["i"], "f"),
            node("Mul", &["computed", "sw"], "sp"),
            node("Mul", &["f", "sp"], "m"),
            node("Gather", &["table", "x"], "g"),
            node("DequantizeLinear", &["g", "sw", "z"], "d"),
            with(with(node("com.microsoft.MatMulNBits", &["d", "packed", "scales"], "n"), "bits", 4), "block_size", 16),
            node("QLinearConv", &["a", "sa", "z", "w4", "sw", "z", "sa", "z"], "q"),
            node("com.microsoft.QLinearAdd", &["q", "sa", "z", "q", "sa", "z", "sa", "z"], "p"),
        ];
        let initializers = vec![
            codes("w", DataType::Int8, &[2, 2], &[1, 2, 3, 4]),
            codes("z", DataType::Int8, &[], &[1]),
            floats("sa", &[], &[1.0]),
            floats("sw", &[], &[2.0]),
            codes("table", DataType::Int8, &[2, 2], &[1, 2, 3, 255]),
            codes("packed", DataType::Uint8, &[1, 1, 8], &[0; 8]),
            floats("scales", &[1], &[0.25]),
            codes("w4", DataType::Int8, &[2, 1, 1, 1], &[11, 1]),
        ];
        let mut model = model(nodes, initializers, vec![]);
        model.set_metadata("qdq.target", "cpu");
        let seen = inspect(&model).unwrap();
        let rows: Vec<_> = seen
            .weights
            .iter()
            .map(|w| (&w.operator[..], w.statistics.min, w.statistics.max, w.statistics.dead_channels))
            .collect();
        assert_eq!(
            rows,
            [
                ("MatMulInteger", Some(0.0), Some(6.0), Some(0)),
                ("Gather", Some(-4.0), Some(4.0), Some(0)),
                ("com.microsoft.MatMulNBits", None, None, None),
                ("QLinearConv", Some(0.0), Some(20.0), Some(1)),
            ]
        );
        let packed = seen.weights[2].coding.as_ref().unwrap();
        assert_eq!((&packed.storage[..], packed.grain, packed.block_size), ("4 bits", Some(Grain::Block), Some(16)));
        let q = seen.quantization.unwrap();
        assert_eq!(q.layers, Coverage { quantized: 2, weight_only: 1, float: 0 });
        assert_eq!(q.others, Coverage { quantized: 1, weight_only: 1, float: 3 });
        let count = |style, layers, others| StyleCount { style, layers, others };
        let styles = [count(Style::QOperator, 0, 1), count(Style::Dynamic, 2, 0), count(Style::WeightOnly, 1, 1)];
        assert_eq!(q.styles, styles);
        assert_eq!(q.activations, []);
        // 4 + 4 codes in bytes, 16 in 8 bytes, 2 of the Conv; and the scalar that Mul reads.
        assert_eq!(seen.model.parameters, 27);
        assert_eq!(seen.model.metadata["qdq.target"], "cpu");
    }

    #[test]
    fn recurrent_weights_tables_and_large_constants_are_rows_and_biases_are_not() {
        let wide = |name| floats(name, &[2, 1024], &[1.0; 2048]);
        let nodes = vec![
            node("LSTM", &["x", "w", "r"], "l"),
            node("Gather", &["table", "x"], "g"),
            node("Gemm", &["l", "m", "wide"], "e"),
            node("Add", &["e", "vector"], "a"),
            node("Mul", &["a", "other"], "b"),
            node("Sub", &["b", "other"], "y"),
        ];
        let initializers = vec![
            floats("w", &[1, 4, 1], &[1.0, 2.0, 0.0, 4.0]),
            floats("r", &[1, 4, 1], &[0.0; 4]),
            floats("table", &[1, 2], &[1.0, f32::NAN]),
            floats("m", &[1, 1], &[1.0]),
            wide("wide"),
            floats("vector", &[4096], &[1.0; 4096]),
            wide("other"),
        ];
        let mut body = node("Conv", &["a", "c"], "o");
        body.name = Some("conv".into());
        let mut constant = node("Constant", &[], "c");
        constant.set(attribute::tensor("value", floats("", &[1, 1, 1], &[3.0])));
        let function = FunctionProto {
            name: Some("f".into()),
            domain: Some("d".into()),
            input: vec!["a".into()],
            node: vec![constant, body],
            ..Default::default()
        };
        let seen = inspect(&model(nodes, initializers, vec![function])).unwrap();
        let rows: Vec<_> = seen.weights.iter().map(|w| (&w.node[..], &w.weight[..], w.axis)).collect();
        assert_eq!(
            rows,
            [
                ("l", "w", Some(1)),
                ("l", "r", Some(1)),
                ("g", "table", Some(0)),
                ("e", "m", Some(1)),
                ("b", "other", None),
                ("d.f > conv", "c", Some(0)),
            ]
        );
        assert_eq!(seen.model.functions, ["d.f"]);
        assert_eq!((seen.weights[0].statistics.spread, seen.weights[0].statistics.dead_channels), (Some(4.0), Some(1)));
        assert_eq!(seen.weights[1].statistics.sqnr_tensor_db, Some(f64::INFINITY));
        assert_eq!(seen.weights[2].statistics.non_finite, 1);
        let json = report::json(&seen).unwrap();
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["weights"][1]["sqnr_tensor_db"], serde_json::Value::Null);
        let text = report::text(&seen.tables(), None);
        assert!(text.contains(" exact ") && text.contains("NaN or inf"), "{text}");
    }

    #[test]
    fn a_weight_that_does_not_fill_its_shape_is_named() {
        let mut weight = floats("w", &[2, 2], &[1.0; 4]);
        weight.dims = vec![2, 3];
        let e = inspect(&model(vec![node("MatMul", &["x", "w"], "y")], vec![weight.clone()], vec![])).unwrap_err();
        assert_eq!(e.to_string(), "node of `y` (MatMul): tensor `w`: 16 bytes of float32 do not fill the shape [2, 3]");
        weight.dims = vec![-2, 3];
        let e = inspect(&model(vec![node("MatMul", &["x", "w"], "y")], vec![weight], vec![])).unwrap_err();
        assert_eq!(e.to_string(), "tensor `w`: dimension -2 is negative");
    }

    #[test]
    fn activations_are_shown_when_they_were_seen() {
        let mut seen = fixture("digits");
        let row = |value: &str, non_finite| ActivationRow {
            value: value.into(),
            node: String::new(),
            operator: String::new(),
            shape: vec![Some(1), Some(10)],
            min: Some(-1.5),
            max: Some(2.0),
            non_finite,
            magnitude_999: Some(1.75),
            kurtosis: Some(3.25),
            ranges: vec![MethodRange { method: "mse:2".into(), min: -1.25, max: 1.5, sqnr_db: 40.25 }],
            heads: Vec::new(),
        };
        seen.with_activations(vec![row("input", 0)]);
        let text = report::text(&seen.tables()[2..], None);
        assert_eq!(
            text.lines().map(str::trim_end).collect::<Vec<_>>(),
            [
                "Activations (1)",
                "value  node  operator  shape       min    max  99.9 %  kurtosis",
                "───────────────────────────────────────────────────────────────",
                "input  -     -         [1, 10]  -1.500  2.000   1.750       3.2",
                "99.9 %: of the magnitudes are no larger. kurtosis: 3 for a Gauss distribution, more with outliers.",
                "",
                "Ranges by method, in affine uint8 (1)",
                "value                   mse:2",
                "─────────────────────────────",
                "input  -1.250 .. 1.500 (40.3)",
                "In brackets the SQNR in dB that the histogram predicts for the range.",
            ]
        );
        seen.with_activations(vec![row("input", 3), row("logits", 0)]);
        seen.truncate(1);
        assert!(report::text(&seen.tables()[2..], None).starts_with("Activations (1 of 2)\n"));
        assert!(report::markdown(&seen.tables()[2..]).contains("| NaN or inf |"));
    }

    #[cfg(feature = "tract")]
    #[test]
    fn a_closer_look_tells_what_clipping_and_equalizing_gain() {
        use crate::model::{GraphProto, ModelProto, NodeProto, Tensor, ValueInfoProto};
        let node = |op: &str, input: &[&str], output: &str| NodeProto {
            name: Some(output.into()),
            op_type: Some(op.into()),
            input: input.iter().map(|i| i.to_string()).collect(),
            output: vec![output.into()],
            ..Default::default()
        };
        // Columns of the first weight, and rows of the second, have ranges that differ tenfold.
        let wave = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0;
        let first: Vec<f32> = (0..64).map(|i| wave(i) * if i % 8 == 0 { 1.0 } else { 0.1 }).collect();
        let mut second: Vec<f32> = (0..64).map(|i| wave(i) * if i < 8 { 0.1 } else { 1.0 }).collect();
        second.extend((0..64).map(|i| if i == 0 { 40.0 } else { wave(i) * 0.1 }));
        let third = second.split_off(64);
        let tensor = |name: &str, x: Vec<f32>| Tensor::from_f32(vec![8, 8], x).to_proto(name);
        let value = |name: &str| {
            let spec = crate::proto::type_proto::Tensor {
                elem_type: Some(1),
                shape: Some(crate::proto::TensorShapeProto {
                    dim: [1, 8]
                        .map(|n| crate::proto::tensor_shape_proto::Dimension {
                            value: Some(crate::proto::tensor_shape_proto::dimension::Value::DimValue(n)),
                            ..Default::default()
                        })
                        .to_vec(),
                }),
            };
            let kind = crate::proto::type_proto::Value::TensorType(spec);
            let kind = crate::proto::TypeProto { value: Some(kind), ..Default::default() };
            ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..Default::default() }
        };
        let graph = GraphProto {
            name: Some("g".into()),
            node: vec![
                node("MatMul", &["x", "w1"], "a"),
                node("Relu", &["a"], "b"),
                node("MatMul", &["b", "w2"], "c"),
                node("Sigmoid", &["c"], "d"),
                node("MatMul", &["d", "w3"], "y"),
            ],
            initializer: vec![tensor("w1", first), tensor("w2", second), tensor("w3", third)],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        };
        let opset = crate::proto::OperatorSetIdProto { version: Some(17), ..Default::default() };
        let proto =
            ModelProto { ir_version: Some(8), graph: Some(graph), opset_import: vec![opset], ..Default::default() };
        let model = Model::from_proto(proto).unwrap();
        let told = diagnose(&model, &crate::exec::Tract).unwrap();
        let mut seen = inspect(&model).unwrap();
        seen.with_diagnosis(&told);
        let gains: Vec<Option<f64>> = told.iter().map(|d| d.equalize_gain_db).collect();
        assert!(gains[0].is_some() && gains[1].is_some() && gains[2].is_none(), "{gains:?}");
        assert!(gains[0].unwrap() + gains[1].unwrap() > 4.0, "{gains:?}");
        for (row, told) in seen.weights.iter().zip(&told) {
            assert!(told.sqnr_clip_db >= row.statistics.sqnr_tensor_db, "{}", row.node);
        }
        let json = serde_json::to_value(&seen).unwrap();
        assert_eq!(json["weights"][0]["equalize_gain_db"].as_f64(), gains[0]);
        assert!(seen.tables()[1].text(None).contains("equalize gains"));
    }
}
