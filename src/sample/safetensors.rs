//! Hugging Face's `.safetensors`: named tensors. Each sample is read from the file when it is asked for.

use std::path::Path;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};

use super::array::{ArraySpec, Arrays, Element, SharedFile, Store};
use super::named;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{DataType, map};

/// The bytes before the header, which say how long it is.
const PREFIX: usize = 8;

/// An open `.safetensors` file.
pub(super) struct SafetensorsFile {
    file: Arc<SharedFile>,
    specs: Vec<ArraySpec>,
    starts: Vec<u64>,
}

impl SafetensorsFile {
    /// Opens a file and reads its header. The tensors are in the order of their names.
    ///
    /// Errors when it is not of this format or cut short.
    pub fn open(path: &Path) -> Result<SafetensorsFile> {
        let bytes = map(path)?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| {
            Error::new(ErrorKind::Malformed, format!("not a safetensors file, or cut short ({} bytes)", bytes.len()))
                .caused_by(e)
                .at(named(path))
                .hint("write it with `safetensors.numpy.save_file({name: array}, path)`")
        })?;
        let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let (specs, starts) = tensors
            .into_iter()
            .map(|(name, info)| {
                let spec = ArraySpec { name, element: element(info.dtype), shape: info.shape.clone() };
                (spec, (PREFIX + header + info.data_offsets.0) as u64)
            })
            .unzip();
        let file = SharedFile::open(path).at(|| named(path))?;
        Ok(SafetensorsFile { file: Arc::new(file), specs, starts })
    }
}

impl Arrays for SafetensorsFile {
    fn specs(&self) -> &[ArraySpec] {
        &self.specs
    }

    fn load(&mut self, i: usize) -> Result<Store> {
        Ok(Store::File { file: self.file.clone(), start: self.starts[i] })
    }
}

fn element(dtype: Dtype) -> Element {
    Element::Known(match dtype {
        Dtype::BOOL => DataType::Bool,
        Dtype::U8 => DataType::Uint8,
        Dtype::I8 => DataType::Int8,
        Dtype::I16 => DataType::Int16,
        Dtype::U16 => DataType::Uint16,
        Dtype::F16 => DataType::Float16,
        Dtype::BF16 => DataType::Bfloat16,
        Dtype::I32 => DataType::Int32,
        Dtype::U32 => DataType::Uint32,
        Dtype::F32 => DataType::Float,
        Dtype::F64 => DataType::Double,
        Dtype::I64 => DataType::Int64,
        Dtype::U64 => DataType::Uint64,
        other => {
            let way_out = "save it as float32 or the type the model takes".to_owned();
            return Element::Strange { what: format!("{other:?}"), way_out };
        }
    })
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn tensors_are_read_where_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let (ids, mask) = ([3i64, -1].map(i64::to_le_bytes).concat(), [1, 0]);
        let tensors = [
            ("mask", TensorView::new(Dtype::BOOL, vec![2, 1], &mask).unwrap()),
            ("ids", TensorView::new(Dtype::I64, vec![2, 1], &ids).unwrap()),
        ];
        let whole = safetensors::serialize(tensors, None).unwrap();
        std::fs::write(&path, &whole).unwrap();
        let mut file = SafetensorsFile::open(&path).unwrap();
        let specs: Vec<String> = file.specs().iter().map(ToString::to_string).collect();
        assert_eq!(specs, ["ids: int64 [2, 1]", "mask: bool [2, 1]"]);
        let read = |file: &mut SafetensorsFile, i, dtype, offset| {
            file.load(i).unwrap().read(dtype, &[1], offset).unwrap().i64s().unwrap()
        };
        assert_eq!(read(&mut file, 0, DataType::Int64, 8), [-1]);
        assert_eq!(read(&mut file, 1, DataType::Bool, 0), [1]);

        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert_eq!(SafetensorsFile::open(&path).err().unwrap().kind(), ErrorKind::Malformed, "{end}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(file) = SafetensorsFile::open(&path) {
                assert!(file.specs().len() <= 2);
            }
        }
    }
}
