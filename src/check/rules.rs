//! The rules that a model is held to, by name.

use super::{Rule, Severity};

const fn error(name: &'static str, hint: &'static str) -> Rule {
    Rule { name, severity: Severity::Error, hint }
}

const fn warning(name: &'static str, hint: &'static str) -> Rule {
    Rule { name, severity: Severity::Warning, hint }
}

const AGAIN: &str = "export the model again with a current exporter";
const SCHEMA: &str = "see the operator's page in docs/Operators.md of ONNX for the opset that the model imports";

// ---- the model ----

pub(super) const IR_VERSION: Rule = error("ir-version", AGAIN);
pub(super) const OPSET_IMPORT: Rule =
    error("opset-import", "state in `opset_import` the version of each domain that nodes are of");
pub(super) const METADATA: Rule = error("metadata", "give each entry of `metadata_props` its own key");
pub(super) const NO_GRAPH: Rule = error("no-graph", "give the path of an .onnx file that holds a model");
pub(super) const NESTING: Rule = error("nesting", "flatten the subgraphs");

// ---- graphs and their names ----

pub(super) const GRAPH_NAME: Rule = error("graph-name", "set `name` of the graph");
pub(super) const VALUE_TYPE: Rule =
    error("value-type", "state type and shape of what the model takes and gives; ONNX shape inference can");
pub(super) const NAME_TWICE: Rule = error("name-twice", "rename one of the two and what reads it");
pub(super) const SHADOWING: Rule =
    error("shadowing", "rename the inner value: ONNX wants names to differ across nested graphs");
pub(super) const READS_NOTHING: Rule =
    error("reads-nothing", "a node, an initializer or an input with this name is missing");
pub(super) const ORDER: Rule = error("order", "sort the nodes: what makes a value comes before what reads it");
pub(super) const GRAPH_OUTPUT: Rule =
    error("graph-output", "an output must be made inside the graph; an Identity node can");
pub(super) const INITIALIZER_NAME: Rule = error("initializer-name", "name the tensor as the value it stands for");
pub(super) const INITIALIZER_INPUT: Rule = error(
    "initializer-input",
    "before IR version 4 an initializer is a graph input too: list it, or raise the IR version",
);

// ---- nodes ----

pub(super) const NODE: Rule = error("node", AGAIN);
pub(super) const DOMAIN: Rule = error("domain", "add the domain and its version to `opset_import`");
pub(super) const OPERATOR: Rule = error("operator", AGAIN);
pub(super) const INPUTS: Rule = error("inputs", SCHEMA);
pub(super) const OUTPUTS: Rule = error("outputs", SCHEMA);
pub(super) const SUBGRAPH: Rule = error("subgraph", SCHEMA);
pub(super) const TYPE: Rule = error("type", "put a Cast before the node, or correct the type that is stated");

// ---- attributes ----

pub(super) const ATTRIBUTE: Rule = error("attribute", "an attribute has a name, a type and one value of this type");
pub(super) const ATTRIBUTE_TWICE: Rule = error("attribute-twice", "keep one of the two");
pub(super) const ATTRIBUTE_UNKNOWN: Rule = error("attribute-unknown", SCHEMA);
pub(super) const ATTRIBUTE_TYPE: Rule = error("attribute-type", SCHEMA);
pub(super) const ATTRIBUTE_MISSING: Rule = error("attribute-missing", SCHEMA);
pub(super) const ATTRIBUTE_REFERENCE: Rule = error(
    "attribute-reference",
    "only in a function may an attribute stand for one of the function's, instead of a value",
);

// ---- tensors ----

pub(super) const TENSOR_TYPE: Rule = error("tensor-type", "set `data_type` to an element type of ONNX");
pub(super) const TENSOR_SHAPE: Rule =
    error("tensor-shape", "a tensor has whole dimensions, and fewer than 2^63 elements");
pub(super) const TENSOR_DATA: Rule =
    error("tensor-data", "data stand in one field: `raw_data`, or the one of the element type");
pub(super) const TENSOR_SIZE: Rule = error("tensor-size", "correct `dims`, or write the data again");
pub(super) const EXTERNAL_DATA: Rule =
    error("external-data", "external data lie in the model's folder, named by a relative path without `..`");
pub(super) const SPARSE: Rule =
    error("sparse", "a sparse tensor has `values` of rank 1 and sorted int64 `indices`, one for each value");

// ---- functions ----

pub(super) const FUNCTION: Rule = error("function", "a function has a domain, a name, and names that stand once each");
pub(super) const FUNCTION_CYCLE: Rule = error("function-cycle", "a function must not call itself, on any way");
pub(super) const FUNCTION_OPSET: Rule =
    error("function-opset", "import in the function what the model imports, or a version with the same operator");
pub(super) const CALL: Rule = error("call", "give the function the inputs and outputs that it declares");

// ---- quantization ----

pub(super) const SCALE: Rule =
    error("scale", "a scale is a finite number, and above zero where it is not that of constant codes");
pub(super) const PARAMETERS: Rule =
    error("quantization-parameters", "scale and zero point have one number, or one for each index of the axis");
pub(super) const ZERO_POINT: Rule = error("zero-point", "the zero point has the element type of the codes");

// ---- what is allowed, and seldom meant ----

pub(super) const SCALAR_SCALE: Rule =
    warning("scalar-scale", "write the scale of a whole tensor as a scalar, of rank 0");
pub(super) const RUNTIME: Rule =
    warning("runtime", "convert the model to an opset that runtimes read, with `onnx.version_converter`");
pub(super) const IMPORT_TWICE: Rule = warning("import-twice", "state each domain once in `opset_import`");
pub(super) const NEWER: Rule = warning("newer", "check the model with a newer release");
pub(super) const EXPERIMENTAL: Rule = warning("experimental", AGAIN);
pub(super) const SPELLING: Rule = warning("domain-spelling", "write the domain as the empty string");
pub(super) const NODE_NAME: Rule = warning("node-name", "give each node its own name");
pub(super) const OUTPUT_TWICE: Rule = warning("output-twice", "list the output once");
pub(super) const DIMENSION: Rule = warning("dimension", "leave the dimension out, or name it by a symbol");
pub(super) const HIDDEN_INITIALIZER: Rule =
    warning("hidden-initializer", "rename the inner one: ONNX Runtime reads the outer one, other engines the inner");
pub(super) const UNUSED_INITIALIZER: Rule = warning("unused-initializer", "drop the tensor");
pub(super) const UNUSED_NODE: Rule = warning("unused-node", "drop the node");
pub(super) const UNUSED_FUNCTIONS: Rule = warning("unused-functions", "set the IR version to 8 or later");
pub(super) const NOT_FINITE: Rule =
    warning("not-finite", "NaN spreads over all that it meets; infinity is fine in a mask, and seldom in a weight");
pub(super) const LINK: Rule = warning("link", "put the file itself beside the model");

/// Every rule.
#[cfg(test)]
pub(super) const ALL: &[&Rule] = &[
    &IR_VERSION,
    &OPSET_IMPORT,
    &METADATA,
    &NO_GRAPH,
    &NESTING,
    &GRAPH_NAME,
    &VALUE_TYPE,
    &NAME_TWICE,
    &SHADOWING,
    &READS_NOTHING,
    &ORDER,
    &GRAPH_OUTPUT,
    &INITIALIZER_NAME,
    &INITIALIZER_INPUT,
    &NODE,
    &DOMAIN,
    &OPERATOR,
    &INPUTS,
    &OUTPUTS,
    &SUBGRAPH,
    &TYPE,
    &ATTRIBUTE,
    &ATTRIBUTE_TWICE,
    &ATTRIBUTE_UNKNOWN,
    &ATTRIBUTE_TYPE,
    &ATTRIBUTE_MISSING,
    &ATTRIBUTE_REFERENCE,
    &TENSOR_TYPE,
    &TENSOR_SHAPE,
    &TENSOR_DATA,
    &TENSOR_SIZE,
    &EXTERNAL_DATA,
    &SPARSE,
    &FUNCTION,
    &FUNCTION_CYCLE,
    &FUNCTION_OPSET,
    &CALL,
    &SCALE,
    &PARAMETERS,
    &ZERO_POINT,
    &SCALAR_SCALE,
    &RUNTIME,
    &IMPORT_TWICE,
    &NEWER,
    &EXPERIMENTAL,
    &SPELLING,
    &NODE_NAME,
    &OUTPUT_TWICE,
    &DIMENSION,
    &HIDDEN_INITIALIZER,
    &UNUSED_INITIALIZER,
    &UNUSED_NODE,
    &UNUSED_FUNCTIONS,
    &NOT_FINITE,
    &LINK,
];
