//! Protobuf's wire format, one message deep: a message taken apart into its fields and put together again, without
//! touching what is inside them. What an edit does not reach is written as it was read, to the byte.

#[cfg(feature = "tract")]
use std::collections::VecDeque;
use std::ops::Range;

#[cfg(feature = "tract")]
use bytes::Buf;
use bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use prost::{DecodeError, Message};

use super::{GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

/// Bytes up to this many are copied into their surroundings; more are shared.
const SHARED: usize = 4096;

/// A field of a message, as places in the message's bytes.
pub(super) struct Field {
    /// The field's number in the schema.
    pub number: u32,
    /// All of it: key, length and payload.
    pub whole: Range<usize>,
    /// The payload, where the field has a length.
    pub payload: Option<Range<usize>>,
}

/// The fields of a message in the order in which they stand. Errors, in words, where the bytes are cut short or no message.
pub(super) fn fields(bytes: &[u8]) -> Result<Vec<Field>, String> {
    let words = |e: DecodeError| e.to_string();
    let mut rest = bytes;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let start = bytes.len() - rest.len();
        let (number, wire) = decode_key(&mut rest).map_err(words)?;
        let mut payload = None;
        if wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut rest).map_err(words)?).ok();
            let Some(length) = length.filter(|&n| n <= rest.len()) else {
                return Err(format!("field {number} is longer than the message"));
            };
            let from = bytes.len() - rest.len();
            payload = Some(from..from + length);
            rest = &rest[length..];
        } else {
            skip_field(wire, number, &mut rest, DecodeContext::default()).map_err(words)?;
        }
        fields.push(Field { number, whole: start..bytes.len() - rest.len(), payload });
    }
    Ok(fields)
}

/// A message beside the bytes it was read from. Once it is changed, those of its fields stay that the schema does not
/// know.
#[derive(Debug, Clone)]
pub(super) struct Kept<T> {
    message: T,
    bytes: Held,
}

#[derive(Debug, Clone)]
enum Held {
    /// The message as it was read.
    Read(Bytes),
    /// The fields that the schema does not know.
    Unknown(Bytes),
}

impl<T: Message + Default> Kept<T> {
    /// Reads a message. Errors where the bytes are not one.
    pub fn read(bytes: Bytes) -> Result<Kept<T>, DecodeError> {
        Ok(Kept { message: T::decode(bytes.clone())?, bytes: Held::Read(bytes) })
    }

    /// A message of its own.
    pub fn new(message: T) -> Kept<T> {
        Kept { message, bytes: Held::Unknown(Bytes::new()) }
    }

    /// The message, to be changed.
    pub fn edit(&mut self) -> &mut T {
        if let Held::Read(bytes) = &self.bytes {
            self.bytes = Held::Unknown(unknown::<T>(bytes));
        }
        &mut self.message
    }

    /// The message alone.
    pub fn into_message(self) -> T {
        self.message
    }

    /// The bytes it was read from, if it has not been changed.
    pub fn as_read(&self) -> Option<&Bytes> {
        match &self.bytes {
            Held::Read(bytes) => Some(bytes),
            Held::Unknown(_) => None,
        }
    }
}

impl<T: Message + Default> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept::new(T::default())
    }
}

impl<T> std::ops::Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.message
    }
}

/// The fields of a message that its type does not know: those that leave nothing when they are read and written alone.
fn unknown<T: Message + Default>(bytes: &Bytes) -> Bytes {
    let foreign = |f: &Field| T::decode(bytes.slice(f.whole.clone())).is_ok_and(|m| m.encoded_len() == 0);
    let fields = fields(bytes).unwrap_or_default();
    fields
        .iter()
        .filter(|f| foreign(f))
        .flat_map(|f| bytes[f.whole.clone()].iter().copied())
        .collect::<Vec<u8>>()
        .into()
}

/// What a field of a message can be written from.
pub(super) trait Encode {
    /// Adds the message to the pieces.
    fn encode_into(&self, pieces: &mut Pieces);
}

/// Bytes to be written, in pieces: shared where they lie, owned where they were made.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces {
    done: Vec<Bytes>,
    open: Vec<u8>,
    len: usize,
}

impl Pieces {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len + self.open.len()
    }

    /// Adds bytes, shared where that is worth it.
    pub fn share(&mut self, bytes: &Bytes) {
        if bytes.len() <= SHARED {
            self.open.extend_from_slice(bytes);
        } else {
            self.close();
            self.len += bytes.len();
            self.done.push(bytes.clone());
        }
    }

    /// Adds the fields of a message.
    pub fn message(&mut self, message: &impl Message) {
        // Never fails: a Vec grows.
        let _ = message.encode(&mut self.open);
    }

    /// Adds a field that holds a message.
    pub fn field(&mut self, number: u32, message: &impl Encode) {
        let mut inner = Pieces::default();
        message.encode_into(&mut inner);
        self.nested(number, inner);
    }

    /// Adds a field that holds these bytes.
    pub fn nested(&mut self, number: u32, inner: Pieces) {
        encode_key(number, WireType::LengthDelimited, &mut self.open);
        encode_varint(inner.len() as u64, &mut self.open);
        inner.into_list().iter().for_each(|b| self.share(b));
    }

    /// The pieces in their order.
    pub fn into_list(mut self) -> Vec<Bytes> {
        self.close();
        self.done
    }

    /// The bytes to be read in their order; a piece is given up as soon as it was read.
    #[cfg(feature = "tract")]
    pub fn into_buf(self) -> impl Buf {
        Chunks { left: self.len(), pieces: self.into_list().into() }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.len += self.open.len();
            self.done.push(Bytes::from(std::mem::take(&mut self.open)));
        }
    }
}

/// Pieces that are read in their order. None is empty.
#[cfg(feature = "tract")]
struct Chunks {
    pieces: VecDeque<Bytes>,
    left: usize,
}

#[cfg(feature = "tract")]
impl Buf for Chunks {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.left, "past the end");
        self.left -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }
}

impl<T: Encode> Encode for Kept<T> {
    fn encode_into(&self, pieces: &mut Pieces) {
        match &self.bytes {
            Held::Read(bytes) => pieces.share(bytes),
            Held::Unknown(bytes) => {
                self.message.encode_into(pieces);
                pieces.share(bytes);
            }
        }
    }
}

impl Encode for NodeProto {
    fn encode_into(&self, pieces: &mut Pieces) {
        pieces.message(self);
    }
}

impl Encode for GraphProto {
    fn encode_into(&self, pieces: &mut Pieces) {
        pieces.message(self);
    }
}

impl Encode for ModelProto {
    fn encode_into(&self, pieces: &mut Pieces) {
        pieces.message(self);
    }
}

/// As prost writes it, without copying the raw data.
impl Encode for TensorProto {
    fn encode_into(&self, pieces: &mut Pieces) {
        let Some(raw) = self.raw_data.as_ref().filter(|raw| raw.len() > SHARED) else {
            return pieces.message(self);
        };
        let behind = TensorProto {
            double_data: self.double_data.clone(),
            uint64_data: self.uint64_data.clone(),
            doc_string: self.doc_string.clone(),
            external_data: self.external_data.clone(),
            data_location: self.data_location,
            metadata_props: self.metadata_props.clone(),
            ..Default::default()
        };
        pieces.message(&TensorProto {
            raw_data: None,
            double_data: Vec::new(),
            uint64_data: Vec::new(),
            doc_string: None,
            external_data: Vec::new(),
            data_location: None,
            metadata_props: Vec::new(),
            ..self.clone()
        });
        let mut data = Pieces::default();
        data.share(raw);
        pieces.nested(9, data);
        pieces.message(&behind);
    }
}

/// As prost writes it, without copying the raw data.
impl Encode for SparseTensorProto {
    fn encode_into(&self, pieces: &mut Pieces) {
        self.values.iter().for_each(|t| pieces.field(1, t));
        self.indices.iter().for_each(|t| pieces.field(2, t));
        pieces.message(&SparseTensorProto { dims: self.dims.clone(), ..Default::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tensor;

    fn whole(pieces: Pieces) -> Vec<u8> {
        pieces.into_list().concat()
    }

    #[test]
    fn tensors_are_written_as_prost_writes_them() {
        for n in [1, SHARED] {
            let mut t = Tensor::from_f32(vec![n], vec![1.5; n]).to_proto("w");
            t.doc_string = Some("d".into());
            t.segment = Some(Default::default());
            let mut pieces = Pieces::default();
            t.encode_into(&mut pieces);
            assert_eq!(pieces.len(), t.encoded_len());
            assert_eq!(whole(pieces), t.encode_to_vec());
            let sparse = SparseTensorProto { values: Some(t.clone()), indices: Some(t), dims: vec![7, n as i64] };
            let mut pieces = Pieces::default();
            sparse.encode_into(&mut pieces);
            assert_eq!(whole(pieces), sparse.encode_to_vec());
        }
    }

    #[test]
    fn what_was_read_is_written_back_with_fields_of_no_schema() {
        let mut bytes = Tensor::from_f32(vec![], vec![1.0]).to_proto("w").encode_to_vec();
        bytes.extend([0xfa, 0x3f, 2, 7, 7]);
        let kept: Kept<TensorProto> = Kept::read(bytes.clone().into()).unwrap();
        let mut pieces = Pieces::default();
        pieces.field(5, &kept);
        let whole = whole(pieces);
        assert_eq!(whole[2..], bytes);
        let mut changed = kept.clone();
        changed.edit().name = Some("v".into());
        let mut pieces = Pieces::default();
        changed.encode_into(&mut pieces);
        let again: Kept<TensorProto> = Kept::read(self::whole(pieces).into()).unwrap();
        assert_eq!(again.name(), "v");
        assert_eq!(unknown::<TensorProto>(again.as_read().unwrap())[..], [0xfa, 0x3f, 2, 7, 7]);
        let inner = fields(&bytes).unwrap();
        assert_eq!(inner.last().map(|f| (f.number, f.whole.len())), Some((1023, 5)));
        assert!(fields(&bytes[..bytes.len() - 1]).is_err());
    }
}
