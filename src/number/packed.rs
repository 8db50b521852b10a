//! Codes narrower than a byte, packed without gaps.
//!
//! Code `i` of `b` bits takes the bits from `i * b` on, counted from the lowest bit of the first byte; what is left of
//! the last byte is zero. For 4 bits that is the low nibble first, for 2 bits four codes a byte, for 6 bits four codes
//! in three bytes: the packing of `raw_data` (onnx.proto, TensorProto).

/// Bytes that so many codes of so many bits take; `None` past the range of `usize`.
pub fn packed_len(bits: u32, count: usize) -> Option<usize> {
    // Eight codes take `bits` bytes.
    let whole = (count / 8).checked_mul(bits as usize)?;
    whole.checked_add((count % 8 * bits as usize).div_ceil(8))
}

/// The first `count` codes of `bits` bits (at most 8), unsigned; fewer where the bytes end before.
pub fn unpack_bits(bits: u32, bytes: &[u8], count: usize) -> Vec<u8> {
    let mask = (1u16 << bits) - 1;
    let mut codes = Vec::with_capacity(count);
    // Eight codes begin and end on whole bytes, so that places never overflow.
    'groups: for group in bytes.chunks(bits as usize) {
        for i in 0..8 * group.len() as u32 / bits {
            if codes.len() == count {
                break 'groups;
            }
            let (byte, shift) = ((i * bits / 8) as usize, i * bits % 8);
            let next = group.get(byte + 1).copied().unwrap_or(0);
            codes.push((u16::from_le_bytes([group[byte], next]) >> shift & mask) as u8);
        }
    }
    codes
}

/// The bytes of codes of `bits` bits (at most 8); higher bits of a code are dropped.
pub fn pack_bits(bits: u32, codes: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mask = (1u16 << bits) - 1;
    let (mut bytes, mut held, mut filled) = (Vec::new(), 0u16, 0);
    for code in codes {
        held |= (u16::from(code) & mask) << filled;
        filled += bits;
        if filled >= 8 {
            bytes.push(held as u8);
            held >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        bytes.push(held as u8);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packs_as_onnx_proto_says() {
        assert_eq!(pack_bits(4, [0x1, 0xa, 0xf]), [0xa1, 0x0f]);
        assert_eq!(pack_bits(2, [1, 2, 3, 0, 3]), [0b0011_1001, 0b11]);
        let x = [0x15u8, 0x2a, 0x3f, 0x01];
        let six = [x[0] | (x[1] & 3) << 6, x[1] >> 2 | (x[2] & 0xf) << 4, x[2] >> 4 | x[3] << 2];
        assert_eq!(pack_bits(6, x), six);
        assert_eq!(unpack_bits(6, &six, 4), x);
        assert_eq!(unpack_bits(6, &six, 3), x[..3]);
        assert_eq!(unpack_bits(4, &[0xa1], 9), [1, 10]);
        assert_eq!(packed_len(6, 3), Some(3));
        assert_eq!(packed_len(8, usize::MAX), Some(usize::MAX));
        assert_eq!(packed_len(16, usize::MAX), None);
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(bits in 1u32..=8, codes in proptest::collection::vec(0u8..=255, 0..70)) {
            let codes: Vec<u8> = codes.iter().map(|&c| (u16::from(c) & ((1 << bits) - 1)) as u8).collect();
            let bytes = pack_bits(bits, codes.iter().copied());
            prop_assert_eq!(Some(bytes.len()), packed_len(bits, codes.len()));
            prop_assert_eq!(unpack_bits(bits, &bytes, codes.len()), codes);
        }
    }
}
