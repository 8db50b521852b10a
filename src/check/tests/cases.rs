//! A case for every rule.

use super::*;

pub(super) type Case = (fn(&mut ModelProto), &'static [&'static str]);

/// What is done to the sound model, and all that is found then.
#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    // The model.
    (|m| m.ir_version = None, &[
        "ir-version: model: it states no IR version",
        "opset-import: model: it imports operator sets, which IR version 0 does not know",
        "initializer-input: w: the initializer is no graph input, as IR version 0 wants",
        "initializer-input: s: the initializer is no graph input, as IR version 0 wants",
        "initializer-input: z: the initializer is no graph input, as IR version 0 wants",
        "unused-functions: model: IR version 0 knows no functions, and the model has 1",
    ]),
    (|m| m.ir_version = Some(-1), &[
        "ir-version: model: -1 is no IR version",
        "opset-import: model: it imports operator sets, which IR version -1 does not know",
        "initializer-input: w: the initializer is no graph input, as IR version -1 wants",
        "initializer-input: s: the initializer is no graph input, as IR version -1 wants",
        "initializer-input: z: the initializer is no graph input, as IR version -1 wants",
        "unused-functions: model: IR version -1 knows no functions, and the model has 1",
    ]),
    (|m| m.ir_version = Some(99), &["ir-version: model: IR version 99 is newer than 14, the newest that is known"]),
    (|m| m.ir_version = Some(14), &[
        "runtime: model: IR version 14 is newer than 13, the newest that ONNX Runtime 1.31 reads",
    ]),
    (|m| m.opset_import.clear(), &[
        "opset-import: model: it imports no operator set",
        "domain: mm: the node is of domain `ai.onnx`, which the model does not import",
        "domain: f: the node is of domain `my`, which the model does not import",
    ]),
    (|m| m.opset_import[1].version = Some(0), &["opset-import: model: 0 is no version of domain `my`"]),
    (|m| m.opset_import.push(import("ai.onnx", 18)), &[
        "import-twice: model: it imports two versions of domain `ai.onnx`; the higher one is checked",
    ]),
    (|m| m.opset_import[0].version = Some(27), &[
        "runtime: model: ONNX Runtime 1.31 reads opset 7 to 26, and the model states 27",
    ]),
    (|m| m.opset_import[0].version = Some(99), &[
        "newer: model: it imports version 99 of domain `ai.onnx`, and 28 is the newest known",
    ]),
    (|m| m.metadata_props = vec![StringStringEntryProto::default(); 2], &[
        "metadata: model: two entries of its metadata have the key ``",
    ]),
    (|m| m.graph = None, &["no-graph: model: it has no graph"]),
    // Graphs and their names.
    (|m| graph(m).name = None, &["graph-name: graph: the graph has no name"]),
    (|m| inner(m).name = None, &["graph-name: if > then_branch: the graph has no name"]),
    (|m| drop(graph(m).input.remove(0)), &["reads-nothing: mm: reads `x`, which nothing produces"]),
    (|m| graph(m).input[0].name = None, &[
        "value-type: (no name): an input of the graph has no name",
        "reads-nothing: mm: reads `x`, which nothing produces",
    ]),
    (|m| graph(m).input[0].r#type = None, &["value-type: x: the input states no type"]),
    (|m| graph(m).output[0] = value("y", DataType::Undefined, &[2, 4]), &[
        "value-type: y: the output states no element type",
    ]),
    (|m| tensor_type(&mut graph(m).output[0]).elem_type = Some(99), &[
        "value-type: y: the output is of element type 99, which ONNX does not have",
    ]),
    (|m| tensor_type(&mut graph(m).output[0]).shape = None, &["value-type: y: the output states no shape"]),
    (|m| graph(m).input[0] = value("x", DataType::Float, &[-1, 3]), &["dimension: x: dimension 0 of the input is -1"]),
    (|m| graph(m).input.push(value("x", DataType::Float, &[2, 3])), &["name-twice: x: two inputs are named `x`"]),
    (|m| graph(m).initializer.push(floats("s", &[])), &["name-twice: s: two initializers are named `s`"]),
    (|m| graph(m).initializer[0].name = None, &[
        "initializer-name: (no name): an initializer has no name",
        "reads-nothing: mm: reads `w`, which nothing produces",
    ]),
    (|m| graph(m).initializer.push(floats("unused", &[])), &["unused-initializer: unused: nothing reads the initializer"]),
    (|m| m.ir_version = Some(3), &[
        "initializer-input: w: the initializer is no graph input, as IR version 3 wants",
        "initializer-input: s: the initializer is no graph input, as IR version 3 wants",
        "initializer-input: z: the initializer is no graph input, as IR version 3 wants",
        "unused-functions: model: IR version 3 knows no functions, and the model has 1",
    ]),
    (|m| at(m, "q").output[0] = "h".into(), &[
        "name-twice: q: `h` is produced twice",
        "reads-nothing: dq: reads `k`, which nothing produces",
    ]),
    (|m| inner(m).node[0].output[0] = "h".into(), &[
        "shadowing: if > then_branch > Neg: produces `h`, which the graph around it has too",
        "graph-output: if > then_branch > t: nothing produces the graph output `t`",
    ]),
    (|m| inner(m).initializer.push(floats("w", &[1])), &[
        "hidden-initializer: if > then_branch > w: the initializer `w` hides one of the graph around it",
        "unused-initializer: if > then_branch > w: nothing reads the initializer",
    ]),
    (|m| graph(m).node.swap(0, 1), &["order: q: reads `h`, before it is produced"]),
    (|m| at(m, "mm").input[1] = "v".into(), &[
        "reads-nothing: mm: reads `v`, which nothing produces",
        "unused-initializer: w: nothing reads the initializer",
    ]),
    (|m| graph(m).output[0].name = Some("v".into()), &["graph-output: v: nothing produces the graph output `v`"]),
    (|m| inner(m).output[0].name = Some("e".into()), &[
        "graph-output: if > then_branch > e: the output `e` is a value of the graph around it",
    ]),
    (|m| graph(m).output.push(value("y", DataType::Float, &[2, 4])), &[
        "output-twice: y: it is listed twice among the outputs",
    ]),
    (|m| graph(m).node.push(node("dead", "Relu", "y", "r", vec![])), &[
        "unused-node: dead: nothing needs what the node makes",
    ]),
    // Nodes.
    (|m| at(m, "mm").op_type = None, &["node: mm: the node names no operator"]),
    (|m| graph(m).node.push(node("empty", "Relu", "", "", vec![])), &[
        "node: empty: the node has neither inputs nor outputs",
        "inputs: empty: `Relu` of opset 14 has 1 input, and the node 0",
        "outputs: empty: `Relu` of opset 14 has 1 output, and the node 0",
        "unused-node: empty: nothing needs what the node makes",
    ]),
    (|m| at(m, "mm").name = Some("dq".into()), &["node-name: dq: another node has the same name"]),
    (|m| at(m, "mm").domain = Some("other".into()), &[
        "domain: mm: the node is of domain `other`, which the model does not import",
    ]),
    (|m| at(m, "mm").domain = Some("ai.onnx".into()), &[
        "domain-spelling: mm: the node's domain is written `ai.onnx`, which not all tools read",
    ]),
    (|m| at(m, "mm").op_type = Some("Nonsense".into()), &["operator: mm: ONNX has no operator `Nonsense`"]),
    (|m| at(m, "mm").op_type = Some("Upsample".into()), &[
        "operator: mm: `Upsample` is deprecated since opset 10, and 17 is imported",
    ]),
    (|m| at(m, "mm").op_type = Some("GroupNormalization".into()), &[
        "operator: mm: `GroupNormalization` exists since opset 18, and 17 is imported",
    ]),
    (|m| at(m, "mm").op_type = Some("Scale".into()), &[
        "experimental: mm: `Scale` was an experiment, and is no operator of ONNX",
    ]),
    (|m| at(m, "mm").input.push("w".into()), &["inputs: mm: `MatMul` of opset 13 has 2 inputs, and the node 3"]),
    (|m| at(m, "mm").input[1] = String::new(), &[
        "inputs: mm: `MatMul` of opset 13 needs its input `B`, which is left empty",
        "unused-initializer: w: nothing reads the initializer",
    ]),
    (|m| at(m, "mm").output.push("h2".into()), &["outputs: mm: `MatMul` of opset 13 has 1 output, and the node 2"]),
    (|m| at(m, "q").output[0] = String::new(), &[
        "outputs: q: `QuantizeLinear` of opset 13 needs its output `y`, which is left empty",
        "reads-nothing: dq: reads `k`, which nothing produces",
    ]),
    (|m| at(m, "mm").op_type = Some("BatchNormalization".into()), &[
        "inputs: mm: `BatchNormalization` of opset 15 has 5 inputs, and the node 2",
    ]),
    (|m| at(m, "mm").input[1] = "c".into(), &[
        "type: mm: input `c` is tensor(bool), and `B` of `MatMul` of opset 13 takes tensor(float), as other inputs of type T are",
        "unused-initializer: w: nothing reads the initializer",
    ]),
    (|m| at(m, "dq").input[0] = "h".into(), &[
        "type: dq: input `h` is tensor(float), and `x` of `DequantizeLinear` of opset 13 takes tensor(int32), tensor(int8), tensor(uint8)",
        "unused-node: q: nothing needs what the node makes",
    ]),
    (|m| graph(m).output[0] = value("d", DataType::Int8, &[]), &[
        "type: dq: the value `d` is stated as tensor(int8), and the node makes tensor(float)",
        "unused-node: f: nothing needs what the node makes",
        "unused-node: if: nothing needs what the node makes",
    ]),
    (|m| graph(m).value_info.push(value("h", DataType::Double, &[])), &[
        "type: mm: the value `h` is stated as tensor(double), and the node makes tensor(float)",
    ]),
    (|m| graph(m).input.push(value("w", DataType::Double, &[3, 4])), &[
        "type: w: the input is stated as tensor(double), and its initializer is tensor(float)",
    ]),
    (|m| at(m, "if").output.push("y2".into()), &[
        "subgraph: if: `then_branch` has 1 output, and needs 2 here",
        "subgraph: if: `else_branch` has 1 output, and needs 2 here",
    ]),
    (|m| inner(m).input.push(value("i", DataType::Float, &[])), &[
        "subgraph: if: `then_branch` has 1 input, and needs 0 here",
    ]),
    (|m| at(m, "f").input.push("d".into()), &["call: f: the function `my.F` has 1 input, and the node 2"]),
    // Attributes.
    (|m| at(m, "q").attribute.extend([int("axis", 0), int("axis", 0)]), &[
        "attribute-twice: q: attribute `axis` stands twice",
    ]),
    (|m| at(m, "q").attribute.push(AttributeProto { name: None, ..int("axis", 0) }), &[
        "attribute: q: an attribute has no name",
    ]),
    (|m| at(m, "q").attribute.push(AttributeProto { r#type: None, ..int("axis", 0) }), &[
        "attribute: q: attribute `axis` states no type",
    ]),
    (|m| at(m, "q").attribute.push(AttributeProto { r#type: Some(99), ..int("axis", 0) }), &[
        "attribute: q: 99, the type of attribute `axis`, is unknown",
    ]),
    (|m| at(m, "q").attribute.push(AttributeProto { f: Some(0.5), ..int("axis", 0) }), &[
        "attribute: q: attribute `axis` holds float and int",
    ]),
    (|m| at(m, "q").attribute.push(AttributeProto { i: None, f: Some(0.5), ..int("axis", 0) }), &[
        "attribute: q: attribute `axis` states int and holds float",
    ]),
    (|m| at(m, "q").attribute.push(ints("axis", &[0])), &[
        "attribute-type: q: attribute `axis` of `QuantizeLinear` of opset 13 is int, and not ints",
    ]),
    (|m| at(m, "q").attribute.push(string("unheard_of", "")), &[
        "attribute-unknown: q: `QuantizeLinear` of opset 13 has no attribute `unheard_of`",
    ]),
    (|m| at(m, "q").attribute.push(string("__private", "")), &[]),
    (|m| at(m, "if").attribute[1].g = None, &["attribute: if: attribute `else_branch` holds no graph"]),
    (|m| drop(at(m, "if").attribute.remove(1)), &[
        "attribute-missing: if: `If` of opset 16 needs the attribute `else_branch`",
    ]),
    (|m| at(m, "q").attribute.push(AttributeProto { ref_attr_name: Some("a".into()), ..int("axis", 0) }), &[
        "attribute-reference: q: attribute `axis` stands for `a` of the function, and holds a value too",
        "attribute-reference: q: attribute `axis` stands for `a` of a function, and is in none",
    ]),
    (|m| m.functions[0].node[0].attribute[0].ref_attr_name = Some("beta".into()), &[
        "attribute-reference: my.F > leaky: attribute `alpha` stands for `beta` of the function, which has no such attribute",
    ]),
    // Tensors.
    (|m| tensor(m, "w").data_type = None, &["tensor-type: w: the tensor states no element type"]),
    (|m| tensor(m, "w").data_type = Some(99), &[
        "tensor-type: w: the tensor is of element type 99, which ONNX does not have",
    ]),
    (|m| tensor(m, "w").dims = vec![-3, -4], &["tensor-shape: w: dimension -3 of the tensor is negative"]),
    (|m| tensor(m, "w").dims = vec![1 << 62, 2], &[
        "tensor-shape: w: the shape of the tensor has more than 2^63 elements",
    ]),
    (|m| tensor(m, "w").dims = vec![3, 5], &[
        "tensor-size: w: the tensor has 48 bytes in `raw_data`, and float32 of shape [3, 5] needs 60",
    ]),
    (|m| tensor(m, "w").dims = vec![3, 3], &[
        "tensor-size: w: the tensor has 48 bytes in `raw_data`, and float32 of shape [3, 3] needs 36",
    ]),
    (|m| tensor(m, "w").dims = vec![0, 4], &["tensor-data: w: the tensor has no elements, and holds data"]),
    (|m| tensor(m, "w").raw_data = None, &["tensor-data: w: the tensor has 12 elements and no data"]),
    (|m| tensor(m, "w").float_data = vec![0.5; 12], &[
        "tensor-data: w: the tensor has data in `float_data` and in `raw_data`",
    ]),
    (|m| *tensor(m, "w") = TensorProto { raw_data: None, int32_data: vec![1; 12], ..floats("w", &[3, 4]) }, &[
        "tensor-data: w: float32 is stored in `float_data`, and not in `int32_data`",
    ]),
    (|m| *tensor(m, "w") = TensorProto { raw_data: None, float_data: vec![1.0; 11], ..floats("w", &[3, 4]) }, &[
        "tensor-size: w: the tensor has 11 numbers in `float_data`, and float32 of shape [3, 4] needs 12",
    ]),
    (|m| tensor(m, "w").data_type = Some(DataType::String as i32), &[
        "tensor-data: w: string cannot be stored in `raw_data`, but in `string_data`",
        "type: mm: input `w` is tensor(string), and `B` of `MatMul` of opset 13 takes tensor(float), as other inputs of type T are",
    ]),
    (|m| *tensor(m, "w") = packed(DataType::Int4, 7, 4), &[
        "type: mm: input `w` is tensor(int4), and `B` of `MatMul` of opset 13 takes tensor(float), as other inputs of type T are",
    ]),
    (|m| *tensor(m, "w") = packed(DataType::Int4, 7, 3), &[
        "tensor-size: w: the tensor has 3 bytes in `raw_data`, and int4 of shape [7] needs 4",
        "type: mm: input `w` is tensor(int4), and `B` of `MatMul` of opset 13 takes tensor(float), as other inputs of type T are",
    ]),
    (|m| *tensor(m, "w") = packed(DataType::Float6e2m3, 4, 3), &[
        "type: mm: input `w` is tensor(float6e2m3), and `B` of `MatMul` of opset 13 takes tensor(float), as other inputs of type T are",
    ]),
    (|m| *tensor(m, "w") = packed(DataType::Float6e2m3, 3, 3), &[
        "tensor-data: w: the bits behind the last float6e2m3 are not zero",
        "type: mm: input `w` is tensor(float6e2m3), and `B` of `MatMul` of opset 13 takes tensor(float), as other inputs of type T are",
    ]),
    (|m| *tensor(m, "w") = TensorProto { raw_data: floats("", &[3, 4]).raw_data, ..external("w") }, &[
        "tensor-data: w: the data are in another file, and in the field `raw_data` too",
    ]),
    (|m| *tensor(m, "w") = Tensor::from_f32(vec![3, 4], [[0.5; 9].as_slice(), &[f32::NAN, f32::INFINITY, -f32::INFINITY]].concat()).to_proto("w"), &[
        "not-finite: w: of the elements of the tensor are 1 NaN and 2 infinite",
    ]),
    (|m| *tensor(m, "w") = TensorProto { raw_data: None, float_data: vec![f32::NAN; 12], ..floats("w", &[3, 4]) }, &[
        "not-finite: w: of the elements of the tensor are 12 NaN",
    ]),
    (|m| graph(m).sparse_initializer.push(sparse(&[1.0, 2.0], &[1, 3])), &[
        "unused-initializer: sparse: nothing reads the initializer",
    ]),
    (|m| graph(m).sparse_initializer.push(sparse(&[1.0, 2.0], &[3, 1])), &[
        "sparse: sparse: index 1 of the sparse tensor, [1], is not above the one before",
        "unused-initializer: sparse: nothing reads the initializer",
    ]),
    (|m| graph(m).sparse_initializer.push(sparse(&[1.0, 2.0], &[1, 4])), &[
        "sparse: sparse: index 1 of the sparse tensor, [4], is outside of [4]",
        "unused-initializer: sparse: nothing reads the initializer",
    ]),
    (|m| graph(m).sparse_initializer.push(sparse(&[1.0], &[1, 3])), &[
        "sparse: sparse: the indices of the sparse tensor have shape [2], and 1 values of rank 1 need [1] or [1, 1]",
        "unused-initializer: sparse: nothing reads the initializer",
    ]),
    (|m| graph(m).sparse_initializer.push(SparseTensorProto { indices: None, ..sparse(&[1.0], &[1]) }), &[
        "sparse: sparse: the sparse tensor has 1 values and no indices",
        "unused-initializer: sparse: nothing reads the initializer",
    ]),
    (|m| graph(m).sparse_initializer.push(SparseTensorProto { values: None, ..sparse(&[1.0], &[1]) }), &[
        "initializer-name: (no name): a sparse initializer has no name",
        "sparse: (no name): the sparse tensor has no values",
    ]),
    (|m| graph(m).sparse_initializer.push(SparseTensorProto { dims: vec![], ..sparse(&[1.0], &[1]) }), &[
        "sparse: sparse: the sparse tensor has no dimensions",
        "unused-initializer: sparse: nothing reads the initializer",
    ]),
    (|m| graph(m).sparse_initializer.push(SparseTensorProto { dims: vec![4, 0], ..sparse(&[1.0], &[1]) }), &[
        "sparse: sparse: dimension 0 of the sparse tensor is not above zero",
        "unused-initializer: sparse: nothing reads the initializer",
    ]),
    (|m| graph(m).sparse_initializer.push(SparseTensorProto { indices: Some(floats("", &[1])), ..sparse(&[1.0], &[1]) }), &[
        "sparse: sparse: the indices of the sparse tensor are not int64",
        "unused-initializer: sparse: nothing reads the initializer",
    ]),
    // Functions.
    (|m| m.functions[0].name = None, &["function: my.: the function has no name"]),
    (|m| m.functions[0].domain = None, &["function: F: the function states no domain"]),
    (|m| m.functions[0].output.push("b".into()), &["function: my.F: output `b` of the function stands twice"]),
    (|m| m.functions[0].attribute.push("alpha".into()), &[
        "function: my.F: attribute `alpha` of the function stands twice",
    ]),
    (|m| m.functions[0].input.push("a".into()), &["name-twice: my.F: two inputs are named `a`"]),
    (|m| m.functions[0].output.push("v".into()), &[
        "function: my.F: nothing produces the output `v` of the function",
    ]),
    (|m| m.functions.push(m.functions[0].clone()), &[
        "function: my.F: two functions have this domain, name and overload",
    ]),
    (|m| m.functions[0].opset_import.clear(), &[
        "domain: my.F > leaky: the node is of domain `ai.onnx`, which the function does not import",
    ]),
    (|m| m.functions[0].opset_import[0].domain = Some("ai.onnx".into()), &[
        "domain-spelling: my.F: the function imports a domain that is written `ai.onnx`, which not all tools read",
    ]),
    (|m| m.functions[0].opset_import[0].version = Some(13), &[
        "function-opset: my.F: the function imports version 13 of `LeakyRelu`, and the model 17, which is another operator",
    ]),
    (|m| m.functions[0].node.push(node("again", "my.F", "b", "b2", vec![])), &[
        "domain: my.F > again: the node is of domain `my`, which the function does not import",
        "function-cycle: my.F: the function calls `my.F`, which calls it",
        "unused-node: my.F > again: nothing needs what the node makes",
    ]),
    (|m| chain(m, 100), &["function-cycle: my.F0: a chain of more than 100 calls begins at the function"]),
    // Quantization.
    (|m| *tensor(m, "s") = Tensor::from_f32(vec![], vec![0.0]).to_proto("s"), &[
        "scale: q: a scale of `s` is 0",
        "scale: dq: a scale of `s` is 0",
    ]),
    (|m| *tensor(m, "s") = Tensor::from_f32(vec![], vec![f32::NAN]).to_proto("s"), &[
        "scale: q: a scale of `s` is NaN",
        "scale: dq: a scale of `s` is NaN",
        "not-finite: s: of the elements of the tensor are 1 NaN",
    ]),
    (|m| constant_codes(m, -0.5), &[]),
    (|m| constant_codes(m, 0.0), &[]),
    (|m| constant_codes(m, f32::INFINITY), &[
        "scale: dq_w: a scale of `ws` is inf",
        "not-finite: ws: of the elements of the tensor are 1 infinite",
    ]),
    (|m| *tensor(m, "s") = floats("s", &[1]), &[
        "scalar-scale: q: the only scale, `s`, has rank 1, and not 0",
        "scalar-scale: dq: the only scale, `s`, has rank 1, and not 0",
    ]),
    (|m| *tensor(m, "s") = floats("s", &[4]), &[
        "quantization-parameters: q: the scale has shape [4], and the zero point []",
        "quantization-parameters: dq: the scale has shape [4], and the zero point []",
    ]),
    (|m| *tensor(m, "s") = floats("s", &[1, 4]), &[
        "quantization-parameters: q: the scale `s` has rank 2, and without blocks 0 or 1 is wanted",
        "quantization-parameters: q: the scale has shape [1, 4], and the zero point []",
        "quantization-parameters: dq: the scale `s` has rank 2, and without blocks 0 or 1 is wanted",
        "quantization-parameters: dq: the scale has shape [1, 4], and the zero point []",
    ]),
    (|m| microsoft(m), &["zero-point: q: the codes are int8, and the zero point is uint8"]),
];
