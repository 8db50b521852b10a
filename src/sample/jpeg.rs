//! Whether a JPEG file is whole: decoders fill up what is missing with grey and say nothing.

/// Whether the marker of the end follows after the image, found by walking the segments: an embedded thumbnail with
/// an end of its own does not count. What comes after the end is not looked at.
///
/// Source: ITU-T T.81, B.1.1.
pub(super) fn is_whole(jpeg: &[u8]) -> bool {
    const START: u8 = 0xd8;
    const END: u8 = 0xd9;
    let mut at = 0;
    while let Some(found) = jpeg.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) {
        at += found + 1;
        let Some(&marker) = jpeg.get(at) else { return false };
        match marker {
            // A fill byte; the marker is still to come.
            0xff => continue,
            END => return true,
            // A stuffed byte, or a marker without a segment.
            0x00 | 0x01 | START | 0xd0..=0xd7 => at += 1,
            _ => {
                let Some(&[high, low]) = jpeg.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_the_image_itself_counts() {
        // A thumbnail in an application segment, a scan with a stuffed byte and a restart marker, the end, something after.
        let thumbnail = [&[0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9][..]].concat();
        let scan = [0xff, 0xda, 0, 3, 1, 7, 0xff, 0, 9, 0xff, 0xd0, 8];
        let image = [&[0xff, 0xd8], &thumbnail[..], &scan, &[0xff, 0xff, 0xd9]].concat();
        assert!(is_whole(&image));
        assert!(is_whole(&[&image[..], b"more"].concat()));
        for end in 0..image.len() {
            assert!(!is_whole(&image[..end]), "{end}");
        }
    }
}
