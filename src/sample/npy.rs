//! NumPy's `.npy`: one array. Each sample is read from the file when it is asked for.
//!
//! Source: NEP 1 and `numpy.lib.format`, versions 1.0 to 3.0. Row major and little endian only.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::array::{ArraySpec, Arrays, Element, ReadFrom, SharedFile, Store};
use super::named;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{DataType, dtype_name};

const MAGIC: &[u8] = b"\x93NUMPY";

/// The longest header that is read, in bytes; only records with thousands of fields write longer ones.
const LONGEST_HEADER: usize = 1 << 20;

/// What stands before the elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Header {
    pub element: Element,
    pub shape: Vec<usize>,
    /// Where the elements begin: bytes from the magic string on.
    pub start: u64,
}

impl Header {
    /// Under a name, once it is known that the array, header included, has `size` bytes.
    ///
    /// Errors when these do not hold the elements.
    pub fn named(self, name: &str, size: u64) -> Result<ArraySpec> {
        let spec = ArraySpec { name: name.to_owned(), element: self.element, shape: self.shape };
        if matches!(spec.element, Element::Strange { .. }) {
            return Ok(spec);
        }
        let left = size.saturating_sub(self.start);
        match spec.bytes() {
            Some(needed) if needed as u64 <= left => Ok(spec),
            Some(needed) => Err(malformed(format!("cut short: `{spec}` takes {needed} bytes, and {left} are there"))),
            None => Err(malformed(format!("`{spec}` is past every memory"))),
        }
    }
}

/// An open `.npy` file.
pub(super) struct Npy {
    file: Arc<SharedFile>,
    start: u64,
    specs: [ArraySpec; 1],
}

impl Npy {
    /// Opens a file and reads its header. The array takes the name of the file.
    ///
    /// Errors when it is no `.npy` file or holds less than its header promises.
    pub fn open(path: &Path) -> Result<Npy> {
        let file = Arc::new(SharedFile::open(path).at(|| named(path))?);
        let name = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        let spec = header(&mut ReadFrom { file: &file, offset: 0 })
            .and_then(|header| Ok((header.start, header.named(&name, file.len())?)))
            .at(|| named(path));
        let (start, spec) = spec?;
        Ok(Npy { file, start, specs: [spec] })
    }
}

impl Arrays for Npy {
    fn specs(&self) -> &[ArraySpec] {
        &self.specs
    }

    fn load(&mut self, _: usize) -> Result<Store> {
        Ok(Store::File { file: self.file.clone(), start: self.start })
    }
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

/// Reads a header; afterwards the reader stands at the first element.
///
/// Errors when there is none, when it is cut short, and when it is not a header of versions 1.0 to 3.0.
pub(super) fn header(reader: &mut impl Read) -> Result<Header> {
    let mut take = |n: usize| {
        let mut bytes = vec![0; n];
        match reader.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(malformed("not an npy array, or cut short in its header").caused_by(e))
            }
            Err(e) => Err(Error::io(e)),
        }
    };
    if take(MAGIC.len())? != MAGIC {
        return Err(malformed("not an npy array: it does not begin with `\\x93NUMPY`")
            .hint("write arrays with `np.save` or `np.savez`"));
    }
    let version = take(2)?;
    let (length_bytes, length) = match version[0] {
        1 => (2, take(2)?.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b))),
        2 | 3 => (4, take(4)?.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b))),
        other => return Err(malformed(format!("npy version {other} is unknown"))),
    };
    if length > LONGEST_HEADER {
        return Err(malformed(format!("the npy header claims to be {length} bytes long")));
    }
    let start = (MAGIC.len() + 2 + length_bytes + length) as u64;
    let text = take(length)?;
    let text = std::str::from_utf8(&text).map_err(|e| malformed("the npy header is not text").caused_by(e))?;
    let Some((descr, fortran, shape)) = Scanner(text).dictionary() else {
        return Err(malformed(format!("the npy header `{}` is not understood", text.trim_end())));
    };
    Ok(Header { element: element(&descr, fortran, &shape), shape, start })
}

/// The element type that NumPy's description stands for.
fn element(descr: &str, fortran: bool, shape: &[usize]) -> Element {
    let strange = |what: String, way_out: &str| Element::Strange { what, way_out: way_out.to_owned() };
    let numbers =
        "only numbers and booleans are read: save them with `x.astype(np.float32)` or the type the model takes";
    let (order, kind) = descr.split_at_checked(1).unwrap_or(("", ""));
    let dtype = match kind {
        "f2" => DataType::Float16,
        "f4" => DataType::Float,
        "f8" => DataType::Double,
        "i1" => DataType::Int8,
        "i2" => DataType::Int16,
        "i4" => DataType::Int32,
        "i8" => DataType::Int64,
        "u1" => DataType::Uint8,
        "u2" => DataType::Uint16,
        "u4" => DataType::Uint32,
        "u8" => DataType::Uint64,
        "b1" => DataType::Bool,
        "c8" => DataType::Complex64,
        "c16" => DataType::Complex128,
        _ if kind.starts_with('O') => return strange("Python objects".into(), numbers),
        _ => return strange(format!("`{descr}`"), numbers),
    };
    match order {
        ">" => strange(
            format!("big-endian {}", dtype_name(dtype)),
            "save it little endian: `x.astype(x.dtype.newbyteorder('<'))`",
        ),
        _ if fortran && shape.len() > 1 => strange(
            format!("column-major {}", dtype_name(dtype)),
            "save it row major: `np.save(path, np.ascontiguousarray(x))`",
        ),
        _ => Element::Known(dtype),
    }
}

/// What is left of a header: the Python literal of a dictionary.
struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    fn eat(&mut self, token: char) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(token)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        self.0 = self.0.trim_start();
        let quote = self.0.chars().next().filter(|&c| matches!(c, '\'' | '"'))?;
        let (string, rest) = self.0[1..].split_once(quote)?;
        self.0 = rest;
        Some(string)
    }

    fn word(&mut self) -> &'a str {
        self.0 = self.0.trim_start();
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    /// A string, or the list of a record's fields as it stands.
    fn descr(&mut self) -> Option<&'a str> {
        if !self.0.trim_start().starts_with('[') {
            return self.string();
        }
        // NumPy writes the keys in alphabetical order; a field may have the name of a key.
        let end = self.0.rfind("'fortran_order'")?;
        let (list, rest) = self.0.split_at(end);
        let list = list.trim().strip_suffix(',')?;
        self.0 = rest;
        Some(list)
    }

    fn shape(&mut self) -> Option<Vec<usize>> {
        self.eat('(')?;
        let mut shape = Vec::new();
        while self.eat(')').is_none() {
            // Python 2 wrote long integers as `3L`.
            shape.push(self.word().trim_end_matches('L').parse().ok()?);
            if self.eat(',').is_none() {
                self.eat(')')?;
                break;
            }
        }
        Some(shape)
    }

    /// Description, whether column major, and shape.
    fn dictionary(mut self) -> Option<(String, bool, Vec<usize>)> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.eat('{')?;
        while self.eat('}').is_none() {
            let key = self.string()?;
            self.eat(':')?;
            match key {
                "descr" => {
                    let read = self.descr()?;
                    // The list of a record ends with the comma before the next key.
                    let list = read.starts_with('[');
                    descr = Some(read.to_owned());
                    if list {
                        continue;
                    }
                }
                "fortran_order" => fortran = Some(matches!(self.word(), "True")),
                "shape" => shape = Some(self.shape()?),
                _ => return None,
            }
            if self.eat(',').is_none() {
                self.eat('}')?;
                break;
            }
        }
        Some((descr?, fortran?, shape?))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The bytes of a `.npy` file as NumPy would write them.
    pub fn npy(descr: &str, shape: &[usize], elements: &[u8]) -> Vec<u8> {
        let shape: String = shape.iter().map(|d| format!("{d}, ")).collect();
        file(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': ({}), }}", shape.trim_end()), elements)
    }

    /// As [`npy`], for float32.
    pub fn npy_f32(shape: &[usize], elements: &[f32]) -> Vec<u8> {
        npy("'<f4'", shape, bytemuck::cast_slice(elements))
    }

    fn file(header: &str, elements: &[u8]) -> Vec<u8> {
        let length = (header.len() + 1) as u16;
        [MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), b"\n", elements].concat()
    }

    fn parsed(bytes: &[u8]) -> Result<Header> {
        header(&mut &bytes[..])
    }

    #[test]
    fn headers_read_as_numpy_writes_them() {
        for (descr, dtype) in [("<f4", DataType::Float), ("|u1", DataType::Uint8), ("<i8", DataType::Int64)] {
            for shape in [&[][..], &[3], &[3, 4]] {
                let header = parsed(&npy(&format!("'{descr}'"), shape, &[])).unwrap();
                assert_eq!((header.element, &header.shape[..]), (Element::Known(dtype), shape));
            }
        }
        let dense = file("{\"shape\":(2L,3L),\"fortran_order\":False,\"descr\":\"<f2\"}", &[]);
        let header = parsed(&dense).unwrap();
        assert_eq!((header.shape, header.start), (vec![2, 3], dense.len() as u64));
        let mut newer = npy_f32(&[2], &[]);
        newer.splice(6..10, [3, 0, newer[8], 0, 0, 0]);
        assert_eq!(parsed(&newer).unwrap().shape, [2]);
    }

    #[test]
    fn strange_elements_are_named_with_a_way_out() {
        let cases = [
            (npy("'|O'", &[2], &[]), "Python objects"),
            (npy("'<U5'", &[2], &[]), "`<U5`"),
            (npy("''", &[2], &[]), "``"),
            (npy("[('a', '<f4'), ('b', '<i8', (2,))]", &[2], &[]), "`[('a', '<f4'), ('b', '<i8', (2,))]`"),
            (npy("[('fortran_order', '<f4')]", &[2], &[]), "`[('fortran_order', '<f4')]`"),
            (npy("'>f4'", &[2], &[]), "big-endian float32"),
            (file("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", &[]), "column-major float32"),
        ];
        for (bytes, expected) in cases {
            let Element::Strange { what, way_out } = parsed(&bytes).unwrap().element else { panic!("{expected}") };
            assert_eq!(what, expected);
            assert!(!way_out.is_empty());
        }
    }

    #[test]
    fn what_is_no_header_is_an_error() {
        for header in
            ["", "{}", "{'descr': '<f4'", "{'shape': (1,}", "{'descr': '<f4', 'fortran_order': False, 'shape': 3}"]
        {
            assert!(parsed(&file(header, &[])).unwrap_err().to_string().contains("not understood"), "{header}");
        }
        assert!(parsed(b"PK\x03\x04....").unwrap_err().to_string().contains("\\x93NUMPY"));
        assert!(parsed(b"\x93NUMPY\x09\x00\x00\x00").unwrap_err().to_string().contains("version 9"));
        assert!(parsed(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").unwrap_err().to_string().contains("claims"));
    }

    #[test]
    fn shapes_that_the_file_does_not_hold_are_errors() {
        let whole = npy_f32(&[2, 3], &[0.0; 6]);
        let named = |bytes: &[u8]| parsed(bytes)?.named("x", bytes.len() as u64);
        assert_eq!(named(&whole).unwrap().to_string(), "x: float32 [2, 3]");
        for end in 0..whole.len() {
            let e = named(&whole[..end]).unwrap_err();
            assert!(e.to_string().contains("cut short"), "{end}: {e}");
        }
        assert!(named(&npy_f32(&[usize::MAX, 8], &[])).unwrap_err().to_string().contains("past every memory"));
        assert!(named(&npy_f32(&[1 << 40], &[])).unwrap_err().to_string().contains("cut short"));
    }

    #[test]
    fn no_header_makes_it_panic() {
        let whole = npy("[('a', '<f4')]", &[2, 3], &[]);
        for at in 0..whole.len() {
            for byte in [0, b'(', b'\'', b'{', b'9', 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                if let Ok(header) = parsed(&bytes) {
                    assert!(header.start <= bytes.len() as u64);
                }
            }
        }
    }
}
