//! Tensors, channel by channel, or by groups of neighbouring ones.

use crate::error::Result;

/// Channels that are gathered at a time: as many as there are floats in a cache line.
const GROUP: usize = 16;

/// Calls with the numbers of every `joined` channels in turn, one channel after the other, gathered where they do not lie side
/// by side; the last may be fewer. A channel is one index along `axis`, which lies inside the shape; the numbers fill the
/// shape. The first error ends it.
pub fn each_channel(
    x: &[f32],
    shape: &[usize],
    axis: usize,
    joined: usize,
    mut visit: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let outer: usize = shape[..axis].iter().product();
    let (channels, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let (size, joined) = (outer * inner, joined.clamp(1, channels.max(1)));
    let numbers = |c: usize| c..(c + joined).min(channels);
    if outer == 1 {
        let groups = (0..channels).step_by(joined).map(numbers);
        return groups.into_iter().try_for_each(|c| visit(&x[c.start * inner..c.end * inner]));
    }
    let most = GROUP.next_multiple_of(joined);
    let mut gathered = vec![0.0; size * most.min(channels)];
    for first in (0..channels).step_by(most) {
        let group = most.min(channels - first);
        for o in 0..outer {
            let row = &x[(o * channels + first) * inner..][..group * inner];
            for c in 0..group {
                gathered[c * size + o * inner..][..inner].copy_from_slice(&row[c * inner..(c + 1) * inner]);
            }
        }
        gathered[..group * size].chunks((joined * size).max(1)).try_for_each(&mut visit)?;
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
            let own = |c: usize| x.iter().copied().filter(move |&x| x as usize / inner % shape[axis] == c);
            each_channel(&x, &shape, axis, 1, |channel| {
                assert_eq!(channel, own(c).collect::<Vec<_>>());
                c += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(c, shape[axis]);
            for joined in [2, 3, 7, 100] {
                let mut c = 0;
                each_channel(&x, &shape, axis, joined, |channels| {
                    let group = c..(c + joined).min(shape[axis]);
                    assert_eq!(channels, group.clone().flat_map(own).collect::<Vec<_>>());
                    c = group.end;
                    Ok(())
                })
                .unwrap();
                assert_eq!(c, shape[axis]);
            }
        }
    }
}
