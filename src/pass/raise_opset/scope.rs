//! The graph that is being raised, inside the graphs around it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    At, AttributeProto, DataType, Dim, Graph, GraphProto, InputSpec, NodeExt, NodeId, NodeProto, Tensor, TensorProto,
    ValueInfoProto,
};
use crate::proto::type_proto;

/// Operators whose first output has the element type of their first input, in every opset.
#[rustfmt::skip]
const KEEPS_TYPE: &[&str] = &[
    "Abs", "Add", "AveragePool", "BatchNormalization", "Ceil", "Clip", "Concat", "Conv", "ConvTranspose",
    "DepthToSpace", "Div", "Dropout", "Elu", "Exp", "Expand", "Flatten", "Floor", "GRU", "Gather", "GatherElements",
    "GatherND", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "Identity", "InstanceNormalization",
    "LRN", "LSTM", "LeakyRelu", "Log", "LogSoftmax", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mul", "Neg",
    "PRelu", "Pad", "Pow", "RNN", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu",
    "Reshape", "Resize", "Selu", "Sigmoid", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split",
    "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK", "Transpose", "Unsqueeze", "Upsample",
];

/// Operators whose first output has the shape of their first input, in every opset.
#[rustfmt::skip]
const KEEPS_SHAPE: &[&str] = &[
    "Abs", "BatchNormalization", "Cast", "Ceil", "Clip", "Dropout", "Elu", "Exp", "Floor", "HardSigmoid", "Hardmax",
    "Identity", "InstanceNormalization", "LRN", "LeakyRelu", "Log", "LogSoftmax", "Neg", "PRelu", "Reciprocal",
    "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Softsign", "Sqrt", "Tanh",
];

/// Operators whose outputs have as many axes as their first input; those of two operands broadcast, and their first one
/// has the most axes before opset 7.
#[rustfmt::skip]
const KEEPS_RANK: &[&str] = &[
    "Add", "And", "AveragePool", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Div", "Equal", "GlobalAveragePool",
    "GlobalLpPool", "GlobalMaxPool", "Greater", "Less", "LpNormalization", "LpPool", "Max", "MaxPool", "Mean", "Min",
    "Mul", "Not", "Or", "Pad", "Pow", "Slice", "SpaceToDepth", "Split", "Sub", "Sum", "Tile", "Transpose", "Upsample",
    "Xor",
];

/// What was found out about the values of a graph, by their names; `None` for what cannot be told. Raising changes no
/// value, so it stays true.
#[derive(Default)]
struct Found {
    dtypes: HashMap<String, Option<DataType>>,
    shapes: HashMap<String, Option<Shape>>,
    ranks: HashMap<String, Option<i64>>,
}

/// Dimensions; `None` for one that is not fixed.
type Shape = Vec<Option<usize>>;

/// What a look at the producer of a value says.
enum Look<T> {
    /// This.
    Is(T),
    /// The same as of this value, which has so many axes less.
    Like(String, i64),
}

impl<T> Look<T> {
    fn like(node: &NodeProto, slot: usize, axes: i64) -> Option<Look<T>> {
        Some(Look::Like(node.input_at(slot)?.to_owned(), axes))
    }
}

/// The graphs from the model's, or a function's, down to the one whose nodes are being raised.
pub(super) struct Scope {
    /// The innermost last.
    graphs: Vec<Graph>,
    /// What was found out about values, for each of the graphs.
    found: RefCell<Vec<Found>>,
    /// The opset to reach.
    pub(super) to: i64,
    /// Whether float32 is the only float type that the model speaks of.
    only_float32: bool,
}

impl Scope {
    /// A graph that no other one is around.
    pub(super) fn of(graph: Graph, to: i64, only_float32: bool) -> Scope {
        Scope { graphs: vec![graph], found: RefCell::new(vec![Found::default()]), to, only_float32 }
    }

    /// Goes into a subgraph.
    pub(super) fn enter(&mut self, graph: GraphProto) -> Result<()> {
        self.graphs.push(Graph::from_proto(graph)?);
        self.found.get_mut().push(Found::default());
        Ok(())
    }

    /// Comes back out of a graph.
    pub(super) fn leave(&mut self) -> Option<Graph> {
        self.found.get_mut().pop();
        self.graphs.pop()
    }

    /// The innermost graph.
    pub(super) fn graph(&self) -> &Graph {
        &self.graphs[self.graphs.len() - 1]
    }

    /// The innermost graph, to edit it. New names must come from [`Scope::fresh_name`].
    pub(super) fn graph_mut(&mut self) -> &mut Graph {
        let last = self.graphs.len() - 1;
        &mut self.graphs[last]
    }

    /// The node; errors when it was removed.
    pub(super) fn node(&self, id: NodeId) -> Result<&NodeProto> {
        self.graph().node(id).ok_or_else(|| Error::new(ErrorKind::InvalidModel, "the node was removed"))
    }

    // ---- what is known of a value, from the innermost graph outwards ----

    /// The graph that has a value of this name.
    fn home(&self, name: &str) -> Option<&Graph> {
        self.level(name).map(|level| &self.graphs[level])
    }

    /// Which graph has a value of this name, counted from the outermost.
    fn level(&self, name: &str) -> Option<usize> {
        self.graphs.iter().rposition(|g| g.producer(name).is_some() || g.is_constant(name) || g.is_input(name))
    }

    /// The value, where it is a constant: an initializer that is no graph input, or a Constant node.
    pub(super) fn constant(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(graph) = self.home(name).filter(|g| !g.is_input(name)) else { return Ok(None) };
        if graph.is_constant(name) {
            return graph.constant(name);
        }
        let node = graph.producer(name).and_then(|(id, _)| graph.node(id)).filter(|n| n.is("Constant"));
        node.and_then(|n| n.tensor("value")).map(Tensor::from_proto).transpose()
    }

    /// The float type of the value; errors where the model does not tell it.
    pub(super) fn float_type(&self, name: &str) -> Result<DataType> {
        match self.dtype(name) {
            Some(dtype) => Ok(dtype),
            None if self.only_float32 => Ok(DataType::Float),
            None => Err(Error::new(
                ErrorKind::Unsupported,
                format!("the element type of `{name}` is not stated, and the model mixes float types"),
            )
            .hint("run ONNX shape inference on the model first, which states the types of its values")),
        }
    }

    /// The element type of the value, as far as it is stated or follows.
    pub(super) fn dtype(&self, name: &str) -> Option<DataType> {
        self.follow(name, |f| &mut f.dtypes, |dtype, _| dtype, Self::look_for_dtype)
    }

    fn look_for_dtype(&self, graph: &Graph, name: &str) -> Option<Look<DataType>> {
        if let Some(dtype) = graph.stated_dtype(name).filter(|&d| d != DataType::Undefined) {
            return Some(Look::Is(dtype));
        }
        let (id, place) = graph.producer(name)?;
        let node = graph.node(id).filter(|n| place == 0 && n.is(n.op_type()))?;
        let of = |dtype: i32| DataType::try_from(dtype).ok().map(Look::Is);
        match node.op_type() {
            "Cast" => of(i32::try_from(node.int("to")?).ok()?),
            "Constant" => of(node.tensor("value")?.data_type()),
            "Where" => Look::like(node, 1, 0),
            op if KEEPS_TYPE.contains(&op) => Look::like(node, 0, 0),
            _ => None,
        }
    }

    /// The dimensions of the value, as far as they are stated or follow; `None` in place of one that is not fixed.
    pub(super) fn shape(&self, name: &str) -> Option<Shape> {
        self.follow(name, |f| &mut f.shapes, |shape, _| shape, Self::look_for_shape)
    }

    fn look_for_shape(&self, graph: &Graph, name: &str) -> Option<Look<Shape>> {
        if let Some(dims) = graph.constant_dims(name) {
            return Some(Look::Is(dims.iter().map(|&d| usize::try_from(d).ok()).collect()));
        }
        if let Some(shape) = graph.value_info(name).and_then(|v| InputSpec::of(v).ok()?.shape) {
            let fixed = |d: &Dim| match d {
                Dim::Fixed(n) => Some(*n),
                Dim::Symbol(_) => None,
            };
            return Some(Look::Is(shape.iter().map(fixed).collect()));
        }
        let (id, place) = graph.producer(name)?;
        let node = graph.node(id).filter(|n| place == 0 && n.is(n.op_type()))?;
        match node.op_type() {
            "Flatten" | "Gemm" => Some(Look::Is(vec![None, None])),
            op if KEEPS_SHAPE.contains(&op) => Look::like(node, 0, 0),
            _ => None,
        }
    }

    /// How many axes the value has, as far as that is stated or follows from forms of opset 6 and before.
    pub(super) fn rank(&self, name: &str) -> Option<i64> {
        self.follow(name, |f| &mut f.ranks, i64::saturating_add, Self::look_for_rank)
    }

    fn look_for_rank(&self, graph: &Graph, name: &str) -> Option<Look<i64>> {
        if let Some(rank) = graph.stated_rank(name) {
            return Some(Look::Is(rank as i64));
        }
        let (id, place) = graph.producer(name)?;
        let node = graph.node(id).filter(|n| n.is(n.op_type()))?;
        let axes = || node.ints("axes").map(|a| a.len() as i64);
        match node.op_type() {
            "Constant" => Some(Look::Is(node.tensor("value")?.dims.len() as i64)),
            "Flatten" | "Gemm" => Some(Look::Is(2)),
            "Reshape" => {
                let shape = self.shape(node.input_at(1)?)?;
                Some(Look::Is(i64::try_from((*shape.first()?)?).ok()?))
            }
            "Squeeze" => Look::like(node, 0, -axes()?),
            "Unsqueeze" => Look::like(node, 0, axes()?),
            "Split" => Look::like(node, 0, 0),
            op if place == 0 && (KEEPS_RANK.contains(&op) || KEEPS_SHAPE.contains(&op)) => Look::like(node, 0, 0),
            _ => None,
        }
    }

    /// Looks at a value, and at those it is like, until one tells; remembers the answer for all of them. Values that are
    /// like one another in a circle, which a broken graph may hold, tell nothing.
    fn follow<T: Clone>(
        &self,
        name: &str,
        memory: fn(&mut Found) -> &mut HashMap<String, Option<T>>,
        with: fn(T, i64) -> T,
        look: fn(&Scope, &Graph, &str) -> Option<Look<T>>,
    ) -> Option<T> {
        let mut asked = Vec::new();
        let (mut name, mut axes) = (name.to_owned(), 0i64);
        let answer = loop {
            let Some(level) = self.level(&name) else { break None };
            // Until it is known: nothing.
            match memory(&mut self.found.borrow_mut()[level]).entry(name.clone()) {
                Entry::Occupied(known) => break known.get().clone(),
                Entry::Vacant(unknown) => drop(unknown.insert(None)),
            }
            let look = look(self, &self.graphs[level], &name);
            asked.push((level, name, axes));
            match look {
                Some(Look::Is(answer)) => break Some(answer),
                Some(Look::Like(other, more)) => (name, axes) = (other, axes.saturating_add(more)),
                None => break None,
            }
        };
        for (level, name, before) in asked {
            let own = answer.clone().map(|a| with(a, axes.saturating_sub(before)));
            memory(&mut self.found.borrow_mut()[level]).insert(name, own);
        }
        answer.map(|a| with(a, axes))
    }

    // ---- writing ----

    /// A name like `base` that no value and no node has, in the model's graph or in any subgraph.
    pub(super) fn fresh_name(&mut self, base: &str) -> String {
        self.graphs[0].fresh_name(base)
    }

    /// Adds an initializer to the innermost graph, under a fresh name like that of the node's output with this ending.
    pub(super) fn add_constant(&mut self, id: NodeId, ending: &str, value: &Tensor) -> Result<String> {
        let base = format!("{}_{ending}", self.node(id)?.output_at(0).unwrap_or("value"));
        let name = self.fresh_name(&base);
        self.graph_mut().set_initializer(value.to_proto(&name));
        Ok(name)
    }

    /// Lets the node read `value` in that slot, or nothing; inputs that are left out at the end are cut off.
    pub(super) fn set_input(&mut self, id: NodeId, slot: usize, value: &str) -> Result<()> {
        self.graph_mut().edit(id, |n| {
            if n.input.len() <= slot {
                n.input.resize(slot + 1, String::new());
            }
            n.input[slot] = value.to_owned();
            while n.input.last().is_some_and(String::is_empty) {
                n.input.pop();
            }
        })
    }

    /// Makes of an attribute that lists integers an input that is a constant; returns whether there was one.
    pub(super) fn ints_to_input(&mut self, id: NodeId, attribute: &str, slot: usize) -> Result<bool> {
        let Some(values) = self.node(id)?.ints(attribute).map(<[i64]>::to_vec) else { return Ok(false) };
        self.graph_mut().edit(id, |n| drop(n.take(attribute)))?;
        let name = self.add_constant(id, attribute, &Tensor::from_i64(vec![values.len()], values))?;
        self.set_input(id, slot, &name)?;
        Ok(true)
    }

    /// Puts a node before another; returns the name of its one output, which is a fresh one like `base`.
    pub(super) fn compute_before(
        &mut self,
        id: NodeId,
        op: &str,
        inputs: &[&str],
        base: &str,
        attributes: Vec<AttributeProto>,
    ) -> Result<String> {
        let output = self.fresh_name(base);
        self.insert(At::Before(id), op, inputs, &output, attributes)?;
        Ok(output)
    }

    /// Puts a node of one output into the innermost graph.
    pub(super) fn insert(
        &mut self,
        at: At,
        op: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> Result<()> {
        let node = NodeProto {
            name: Some(self.fresh_name(&format!("{output}_{}", op.to_lowercase()))),
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|&s| s.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..Default::default()
        };
        self.graph_mut().insert(at, node).map(drop)
    }
}

/// Whether this is no float type other than float32.
fn fits(dtype: i32) -> bool {
    !matches!(DataType::try_from(dtype), Ok(DataType::Float16 | DataType::Bfloat16 | DataType::Double))
}

/// Whether a tensor is of no float type other than float32.
pub(super) fn tensor_is_float32(t: &TensorProto) -> bool {
    fits(t.data_type())
}

/// Whether a value is stated to be of no float type other than float32.
pub(super) fn value_is_float32(v: &ValueInfoProto) -> bool {
    match v.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => fits(t.elem_type()),
        _ => true,
    }
}

/// Whether a node speaks of no float type other than float32, in its subgraphs too.
pub(super) fn node_is_float32(n: &NodeProto) -> bool {
    let inside = |g: &GraphProto| {
        g.initializer.iter().all(tensor_is_float32)
            && g.input.iter().chain(&g.output).chain(&g.value_info).all(value_is_float32)
            && g.node.iter().all(node_is_float32)
    };
    ["to", "dtype"].iter().filter_map(|a| n.int(a)).all(|t| i32::try_from(t).is_ok_and(fits))
        && n.attribute.iter().all(|a| a.t.iter().chain(&a.tensors).all(tensor_is_float32))
        && n.subgraphs().all(inside)
}
