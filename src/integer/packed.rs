//! MatMulNBits: weights of 2, 4 or 8 bits, packed in blocks.

use rayon::prelude::*;

use super::form::{Form, Input};
use crate::error::{Error, ErrorKind, Refusal, Result, no};
use crate::model::{DataType, Graph, NodeExt, NodeId, NodeProto, Tensor};
use crate::number::pack_bits;

/// The float form: MatMul with the weight `[K, N]` that the blocks hold.
///
/// `B` is `[N, ceil(K / block), block * bits / 8]`, codes along `K`, the lowest bits of a byte first; a scale a block;
/// a zero point a block, packed like the codes, or float, or `2^(bits - 1)` where it is left out
/// (onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulNBits).
pub(super) fn read(graph: &Graph, id: NodeId, node: &NodeProto) -> Result<Form, Refusal> {
    let size = |name: &str| node.int(name).and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    let (Some(k), Some(n), Some(block)) = (size("K"), size("N"), size("block_size")) else {
        return no("it does not say how large its weight is");
    };
    let bits = node.int("bits").unwrap_or(4);
    let bits = usize::try_from(bits).ok().filter(|b| matches!(b, 2 | 4 | 8));
    let Some(bits) = bits.filter(|b| block.checked_mul(*b).is_some_and(|n| n.is_multiple_of(8))) else {
        return no("its number of bits is none of 2, 4 and 8, or does not fill bytes");
    };
    if node.int("weight_prepacked").unwrap_or(0) != 0 {
        return no("its weight is laid out for one kind of hardware (`weight_prepacked`)");
    }
    if node.input_at(4).is_some() {
        return no("its rows are in groups of their own (`g_idx`)");
    }
    let constant = |slot: usize, what: &str| -> Result<Option<Tensor>, Refusal> {
        let Some(name) = node.input_at(slot) else { return Ok(None) };
        match graph.constant(name)?.filter(|_| !graph.is_input(name)) {
            Some(t) => Ok(Some(t)),
            None => no(format!("its {what} `{name}` is not a constant")),
        }
    };
    let (Some(codes), Some(scales)) = (constant(1, "weight")?, constant(2, "scale")?) else {
        return no("its weight or its scale is missing");
    };
    let blocks = k.div_ceil(block);
    let row = blocks.checked_mul(block * bits / 8);
    if row.and_then(|row| row.checked_mul(n)) != Some(codes.bytes().len()) || scales.len() != n * blocks {
        return no(format!("its weight and scales are not those of [{k}, {n}] in blocks of {block}"));
    }
    let (row, scale_type) = (codes.bytes().len() / n, scales.dtype());
    let zeros = match constant(3, "zero point")? {
        None => Zeros::Middle,
        Some(t) if t.is_float() && t.len() == n * blocks => Zeros::Float(t.f32s()?.into_owned()),
        Some(t) if t.dtype() == DataType::Uint8 && t.len() == n * (blocks * bits).div_ceil(8) => Zeros::Packed(t),
        Some(_) => return no("its zero points do not fit its scales"),
    };
    let scales = scales.f32s()?;
    let zero_row = (blocks * bits).div_ceil(8);
    let mut weight = vec![0f32; k * n];
    for column in 0..n {
        let bytes = &codes.bytes()[column * row..(column + 1) * row];
        for i in 0..k {
            let at = i / block;
            let zero = match &zeros {
                Zeros::Middle => (1u32 << (bits - 1)) as f32,
                Zeros::Float(z) => z[column * blocks + at],
                Zeros::Packed(t) => f32::from(unpacked(&t.bytes()[column * zero_row..], at, bits)),
            };
            weight[i * n + column] = (f32::from(unpacked(bytes, i, bits)) - zero) * scales[column * blocks + at];
        }
    }
    let weight = Tensor::from_f32(vec![k, n], weight);
    let weight = match scale_type {
        DataType::Float => weight,
        other => Tensor::from_f64(other, vec![k, n], &weight.f64s()?)?,
    };
    let name = format!("{}_dequantized", node.input_at(1).unwrap_or_default());
    Ok(Form {
        op: "MatMul",
        attributes: Vec::new(),
        inputs: vec![Input::Value(node.input_at(0).unwrap_or_default().to_owned()), Input::Constant(name, weight)],
        flattened: None,
        plus: node.input_at(5).map(str::to_owned),
        output: None,
        at: id,
        gone: Vec::new(),
        spare: Vec::new(),
    })
}

/// The constants of a MatMulNBits.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// `B`: `[N, ceil(K / block), block * bits / 8]`.
    pub codes: Tensor,
    /// `[N, ceil(K / block)]`.
    pub scales: Tensor,
    /// `[N, ceil(ceil(K / block) * bits / 8)]`; `None` where each is `2^(bits - 1)`.
    pub zero_points: Option<Tensor>,
}

/// Packs the codes of a weight `[K, N]` with blocks of so many neighbours along `K` as com.microsoft.MatMulNBits reads them.
///
/// Codes and zero points are those of a format of at most `bits` bits, in the order of the weight and of its scales
/// `[ceil(K / block), N]`; those of signed formats are stored `2^(bits - 1)` higher. What the last block lacks is
/// filled with its zero point. Errors when the sizes do not fit.
pub fn pack_blocks(
    shape: [usize; 2],
    codes: &[i32],
    scales: &Tensor,
    zero_points: &[i32],
    (block, bits, signed): (usize, u32, bool),
) -> Result<Packed> {
    let [k, n] = shape;
    let blocks = k.div_ceil(block.max(1));
    let fits = codes.len() == k * n && scales.len() == blocks * n && zero_points.len() == blocks * n;
    if !fits || !matches!(bits, 2 | 4 | 8) || !(block * bits as usize).is_multiple_of(8) {
        let what = format!("codes and scales do not fit a weight of {shape:?} in blocks of {block}");
        return Err(Error::new(ErrorKind::InvalidModel, what));
    }
    let middle = 1i32 << (bits - 1);
    let stored = |code: i32| (if signed { code + middle } else { code }) as u8;
    let row = |column: usize| {
        let code = move |i: usize| match i < k {
            true => codes[i * n + column],
            false => zero_points[(blocks - 1) * n + column],
        };
        pack_bits(bits, (0..blocks * block).map(move |i| stored(code(i))))
    };
    let bytes: Vec<u8> = (0..n).into_par_iter().flat_map_iter(row).collect();
    let zero_row = |column: usize| pack_bits(bits, (0..blocks).map(move |b| stored(zero_points[b * n + column])));
    let default = zero_points.iter().all(|&z| i32::from(stored(z)) == middle);
    let zeros = (!default).then(|| (0..n).flat_map(zero_row).collect::<Vec<u8>>());
    let zero_shape = vec![n, (blocks * bits as usize).div_ceil(8)];
    let turned: Vec<f64> = {
        let x = scales.f64s()?;
        (0..n).flat_map(|column| (0..blocks).map(move |b| b * n + column)).map(|at| x[at]).collect()
    };
    Ok(Packed {
        codes: Tensor::new(DataType::Uint8, vec![n, blocks, block * bits as usize / 8], bytes.into())?,
        scales: Tensor::from_f64(scales.dtype(), vec![n, blocks], &turned)?,
        zero_points: zeros.map(|z| Tensor::new(DataType::Uint8, zero_shape, z.into())).transpose()?,
    })
}

/// Zero points, one a block.
enum Zeros {
    Middle,
    Float(Vec<f32>),
    Packed(Tensor),
}

/// Number `i` of a row of numbers with this many bits, the lowest bits of a byte first.
fn unpacked(row: &[u8], i: usize, bits: usize) -> u8 {
    let each = 8 / bits;
    (row[i / each] >> (i % each * bits)) & (0xffu16 >> (8 - bits)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{At, GraphProto, ValueInfoProto, attribute};

    #[test]
    fn bits_come_lowest_first() {
        assert_eq!([0, 1, 2].map(|i| unpacked(&[0x21, 0x0f], i, 4)), [1, 2, 15]);
        assert_eq!([0, 1, 2, 3, 4].map(|i| unpacked(&[0b1110_0100, 2], i, 2)), [0, 1, 2, 3, 2]);
        assert_eq!([0, 1].map(|i| unpacked(&[200, 7], i, 8)), [200, 7]);
    }

    fn packed(attributes: &[(&str, i64)], zero: Option<&Tensor>) -> (Graph, NodeId) {
        let value = |n: &str| ValueInfoProto { name: Some(n.into()), ..Default::default() };
        let proto = GraphProto { input: vec![value("x")], output: vec![value("y")], ..Default::default() };
        let mut graph = Graph::from_proto(proto).unwrap();
        // Two columns of 17 rows: two blocks of 16, the second almost empty.
        let codes: Vec<u8> = (0..32).map(|i| (i * 7 % 256) as u8).collect();
        let codes = Tensor::new(DataType::Uint8, vec![2, 2, 8], codes.into()).unwrap();
        graph.set_initializer(codes.to_proto("b"));
        graph.set_initializer(Tensor::from_f32(vec![2, 2], vec![0.5, 1.0, 2.0, 4.0]).to_proto("s"));
        let mut input = vec!["x".to_owned(), "b".into(), "s".into()];
        if let Some(zero) = zero {
            graph.set_initializer(zero.to_proto("z"));
            input.push("z".into());
        }
        let mut node = NodeProto {
            op_type: Some("MatMulNBits".into()),
            domain: Some("com.microsoft".into()),
            input,
            output: vec!["y".into()],
            ..Default::default()
        };
        for (name, value) in [("K", 17), ("N", 2), ("block_size", 16), ("bits", 4)] {
            node.set(attribute::int(name, value));
        }
        for &(name, value) in attributes {
            node.set(attribute::int(name, value));
        }
        let id = graph.insert(At::End, node).unwrap();
        (graph, id)
    }

    fn weight(graph: &Graph, id: NodeId) -> Result<Vec<f32>, String> {
        match read(graph, id, graph.node(id).unwrap()) {
            Ok(form) => match &form.inputs[1] {
                Input::Constant(_, t) => Ok(t.f32s().unwrap().to_vec()),
                _ => panic!("no weight"),
            },
            Err(Refusal::Skip(why)) => Err(why),
            Err(Refusal::Fail(e)) => panic!("{e}"),
        }
    }

    #[test]
    fn a_weight_is_what_its_blocks_say() {
        let (graph, id) = packed(&[], None);
        let w = weight(&graph, id).unwrap();
        assert_eq!(w.len(), 34);
        // Column 0: byte 0 holds the rows 0 and 1, byte 8 (56 = 0x38) row 16, at the scale of the second block.
        assert_eq!((w[0], w[2], w[32]), (-4.0, -4.0, 0.0));
        // Column 1: byte 16 is 112 = 0x70.
        assert_eq!((w[1], w[3]), (-16.0, -2.0));
        let zero = Tensor::new(DataType::Uint8, vec![2, 1], vec![0x21, 0x43].into()).unwrap();
        let (graph, id) = packed(&[], Some(&zero));
        let w = weight(&graph, id).unwrap();
        assert_eq!((w[0], w[32], w[1], w[33]), (-0.5, 6.0, -6.0, 16.0));
        let zero = Tensor::from_f32(vec![2, 2], vec![0.5, 0.0, 0.0, 0.0]);
        let (graph, id) = packed(&[], Some(&zero));
        assert_eq!(weight(&graph, id).unwrap()[0], -0.25);
    }

    #[test]
    fn what_is_packed_reads_back() {
        // Three rows in blocks of two: the last one is half empty.
        let codes = [1, -8, 7, 0, -3, 5];
        let scales = Tensor::from_f32(vec![2, 2], vec![0.5, 1.0, 2.0, 4.0]);
        let signed = pack_blocks([3, 2], &codes, &scales, &[0; 4], (2, 4, true)).unwrap();
        assert_eq!(signed.codes.shape(), [2, 2, 1]);
        assert_eq!(signed.codes.bytes()[..], [0xf9, 0x85, 0x80, 0x8d]);
        assert_eq!((&signed.scales.f32s().unwrap()[..], signed.zero_points), (&[0.5, 2.0, 1.0, 4.0][..], None));
        let unsigned = pack_blocks([3, 2], &[1, 2, 3, 4, 5, 6], &scales, &[9, 10, 11, 12], (2, 4, false)).unwrap();
        assert_eq!(unsigned.codes.bytes()[..], [0x31, 0xb5, 0x42, 0xc6]);
        assert_eq!(unsigned.zero_points.unwrap().bytes()[..], [0xb9, 0xca]);
        for wrong in [
            pack_blocks([3, 2], &codes[..5], &scales, &[0; 4], (2, 4, true)),
            pack_blocks([3, 2], &codes, &scales, &[0; 3], (2, 4, true)),
            pack_blocks([3, 2], &codes, &scales, &[0; 4], (2, 3, true)),
            pack_blocks([3, 2], &codes, &scales, &[0; 4], (0, 4, true)),
        ] {
            assert!(wrong.unwrap_err().to_string().contains("do not fit"));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (attributes, why) in [
            (&[("bits", 3)][..], "number of bits"),
            (&[("K", 100)], "are not those of"),
            (&[("N", i64::MAX)], "are not those of"),
            (&[("K", i64::MAX)], "are not those of"),
            (&[("block_size", 0)], "how large"),
            (&[("K", -1)], "how large"),
            (&[("weight_prepacked", 1)], "hardware"),
        ] {
            let (graph, id) = packed(attributes, None);
            let reason = weight(&graph, id).unwrap_err();
            assert!(reason.contains(why), "{reason}");
        }
        let zero = Tensor::new(DataType::Uint8, vec![1], vec![0].into()).unwrap();
        let (graph, id) = packed(&[], Some(&zero));
        assert!(weight(&graph, id).unwrap_err().contains("zero points"));
    }
}
