//! Tensors, channel by channel.

use crate::error::Result;

/// Channels that are gathered at a time: as many as there are floats in a cache line.
const GROUP: usize = 16;

/// Calls with the numbers of every channel in turn, gathered where they do not lie side by side. A channel is one index
/// along `axis`, which lies inside the shape; the numbers fill the shape. The first error ends it.
pub fn each_channel(
    x: &[f32],
    shape: &[usize],
    axis: usize,
    mut visit: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let outer: usize = shape[..axis].iter().product();
    let (channels, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let size = outer * inner;
    if outer == 1 {
        return (0..channels).try_for_each(|c| visit(&x[c * inner..(c + 1) * inner]));
    }
    let mut gathered = vec![0.0; size * GROUP.min(channels)];
    for first in (0..channels).step_by(GROUP) {
        let group = GROUP.min(channels - first);
        for o in 0..outer {
            let row = &x[(o * channels + first) * inner..][..group * inner];
            for c in 0..group {
                gathered[c * size + o * inner..][..inner].copy_from_slice(&row[c * inner..(c + 1) * inner]);
            }
        }
        (0..group).try_for_each(|c| visit(&gathered[c * size..(c + 1) * size]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_comes_with_its_own_numbers() {
        let shape = [3, 20, 2];
        let x: Vec<f32> = (0..120).map(|i| i as f32).collect();
        for axis in 0..3 {
            let inner: usize = shape[axis + 1..].iter().product();
            let mut c = 0;
            each_channel(&x, &shape, axis, |channel| {
                let own = x.iter().copied().filter(|&x| x as usize / inner % shape[axis] == c);
                assert_eq!(channel, own.collect::<Vec<_>>());
                c += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(c, shape[axis]);
        }
    }
}
