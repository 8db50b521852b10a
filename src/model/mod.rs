//! A model in memory: [`Model`] is metadata and a [`Graph`]; both keep the file's own messages, so that
//! reading and writing an untouched model gives the same bytes.

mod data_file;
mod dtype;
mod encoding;
mod external;
mod file;
mod fingerprint;
mod graph;
mod imports;
mod index;
mod input;
mod linear;
mod map;
mod names;
mod node;
mod order;
mod scratch;
mod sparse;
mod taken;
mod tensor;
mod unfinished;
mod widen;
mod wire;
mod write;

pub(crate) use external::External;

pub use dtype::{bits, format_of, is_float, minifloat_of, name_of as dtype_name, of_format, raw_len, width};
pub use encoding::{data_len, sizes, strings};
pub use file::Model;
pub use fingerprint::fingerprint;
pub use graph::{At, BodyId, Graph, Inlined, NodeId, Renamed, Use, first_value};
pub(crate) use imports::state_import;
pub use imports::{domain_of, imported};
pub use index::captures;
pub use input::{Dim, InputSpec};
pub use linear::{Blocks, Linear};
pub use map::{map, release};
pub use names::{NameFault, Names};
pub use node::{AttributeExt, NodeExt, attribute};
pub use scratch::Scratch;
pub use sparse::{SparseHead, sparse_name};
pub use tensor::Tensor;
pub(crate) use tensor::hold_axes;
pub use unfinished::{folder_of, remove_unfinished};
pub use widen::widen;
pub use write::{ExternalData, WriteOptions, Written, replace_file};

pub use crate::proto::tensor_proto::DataType;
pub use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto,
};
