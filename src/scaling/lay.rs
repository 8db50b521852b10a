//! How the channels of a value lie in it, and where operators move them.

/// The most positions that one lay may tell apart; a value with more is taken for one without channels.
pub(super) const MOST: usize = 1 << 22;

/// How the channels of a value lie in it: along which axes the channel changes, and which channel each position there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lay {
    /// The axes, ascending.
    pub axes: Vec<usize>,
    /// Their sizes.
    pub sizes: Vec<usize>,
    /// The channels, row major over those axes.
    pub ids: Vec<u32>,
}

impl Lay {
    /// Channels along one axis.
    pub fn along(axis: usize, ids: Vec<u32>) -> Lay {
        Lay { axes: vec![axis], sizes: vec![ids.len()], ids }
    }

    /// The channels, if they lie along this axis and no other.
    pub fn only_along(&self, axis: usize) -> Option<&[u32]> {
        (self.axes == [axis]).then_some(&self.ids)
    }

    /// The place of an axis among those of the lay.
    pub fn place(&self, axis: usize) -> Option<usize> {
        self.axes.iter().position(|&a| a == axis)
    }

    /// As Transpose moves it: axis `i` of the output is axis `perm[i]` of the input.
    pub fn transposed(&self, perm: &[usize]) -> Option<Lay> {
        let moved = self.axes.iter().map(|a| perm.iter().position(|p| p == a)).collect::<Option<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..moved.len()).collect();
        order.sort_by_key(|&i| moved[i]);
        let sizes: Vec<usize> = order.iter().map(|&i| self.sizes[i]).collect();
        let strides = strides(&self.sizes);
        let mut ids = Vec::with_capacity(self.ids.len());
        each_index(&sizes, |index| {
            ids.push(self.ids[index.iter().zip(&order).map(|(x, &i)| x * strides[i]).sum::<usize>()]);
        });
        Some(Lay { axes: order.iter().map(|&i| moved[i]).collect(), sizes, ids })
    }

    /// As a row-major reshape from one shape to another moves it. Sizes that are not known must stand for themselves:
    /// an unknown axis stays an axis. `None` where it cannot be told where the channels go.
    pub fn reshaped(&self, from: &[Option<usize>], to: &[Option<usize>]) -> Option<Lay> {
        let mut old = Vec::new();
        let mut new = Vec::new();
        for (a, b) in segments(from, to)? {
            if a.clone().any(|axis| self.place(axis).is_some()) {
                old.extend(a);
                new.extend(b);
            }
        }
        let size = |axis: &usize, dims: &[Option<usize>]| dims[*axis];
        let whole: Vec<usize> = old.iter().map(|a| size(a, from)).collect::<Option<_>>()?;
        let sizes: Vec<usize> = new.iter().map(|a| size(a, to)).collect::<Option<_>>()?;
        let count = whole.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MOST)?;
        let own = strides(&self.sizes);
        let stride: Vec<usize> = old.iter().map(|&a| self.place(a).map_or(0, |p| own[p])).collect();
        let mut ids = Vec::with_capacity(count);
        each_index(&whole, |index| ids.push(self.ids[index.iter().zip(&stride).map(|(x, s)| x * s).sum::<usize>()]));
        Some(Lay { axes: new, sizes, ids }.simple())
    }

    /// Only these positions along an axis, in this order.
    pub fn picked(&self, axis: usize, picks: &[usize]) -> Option<Lay> {
        let Some(place) = self.place(axis) else { return Some(self.clone()) };
        if picks.iter().any(|&p| p >= self.sizes[place]) {
            return None;
        }
        let own = strides(&self.sizes);
        let mut sizes = self.sizes.clone();
        sizes[place] = picks.len();
        let mut ids = Vec::new();
        each_index(&sizes, |index| {
            let at = |(i, &x): (usize, &usize)| own[i] * if i == place { picks[x] } else { x };
            ids.push(self.ids[index.iter().enumerate().map(at).sum::<usize>()]);
        });
        Some(Lay { axes: self.axes.clone(), sizes, ids })
    }

    /// One behind the other along an axis that is one of each; the others agree. `None` where they do not.
    pub fn joined(parts: &[&Lay], axis: usize) -> Option<Lay> {
        let first = parts.first()?;
        let place = first.place(axis)?;
        let fits =
            |p: &&Lay| p.axes == first.axes && (0..p.sizes.len()).all(|i| i == place || p.sizes[i] == first.sizes[i]);
        if !parts.iter().all(fits) {
            return None;
        }
        let outer: usize = first.sizes[..place].iter().product();
        let mut ids = Vec::new();
        for row in 0..outer {
            for part in parts {
                let run = part.ids.len() / outer;
                ids.extend(&part.ids[row * run..(row + 1) * run]);
            }
        }
        let mut sizes = first.sizes.clone();
        sizes[place] = parts.iter().map(|p| p.sizes[place]).sum();
        Some(Lay { axes: first.axes.clone(), sizes, ids })
    }

    /// Without the axes along which the channel does not change, one at least kept.
    fn simple(mut self) -> Lay {
        let mut place = 0;
        while place < self.axes.len() && self.axes.len() > 1 {
            let inner: usize = self.sizes[place + 1..].iter().product();
            let size = self.sizes[place];
            let block = size * inner;
            let same = block > 0 && self.ids.chunks(block).all(|b| b.chunks(inner).all(|run| run == &b[..inner]));
            if !same {
                place += 1;
                continue;
            }
            self.ids = self.ids.chunks(block).flat_map(|b| &b[..inner]).copied().collect();
            self.axes.remove(place);
            self.sizes.remove(place);
        }
        self
    }
}

/// The distance between neighbours along each axis.
fn strides(sizes: &[usize]) -> Vec<usize> {
    (0..sizes.len()).map(|i| sizes[i + 1..].iter().product()).collect()
}

/// Visits every index of a shape, row major.
fn each_index(sizes: &[usize], mut visit: impl FnMut(&[usize])) {
    let mut index = vec![0; sizes.len()];
    for _ in 0..sizes.iter().product() {
        visit(&index);
        for axis in (0..sizes.len()).rev() {
            index[axis] += 1;
            if index[axis] < sizes[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

type Segment = (std::ops::Range<usize>, std::ops::Range<usize>);

/// The shortest runs of axes that hold the same elements before and after a reshape.
fn segments(from: &[Option<usize>], to: &[Option<usize>]) -> Option<Vec<Segment>> {
    let (mut found, mut i, mut j) = (Vec::new(), 0, 0);
    while i < from.len() || j < to.len() {
        let (start_i, start_j) = (i, j);
        if i < from.len() && j < to.len() && from[i].is_none() && to[j].is_none() {
            (i, j) = (i + 1, j + 1);
        } else {
            let (mut a, mut b) = (1usize, 1usize);
            loop {
                // A size of 1 belongs to whichever run is open.
                if a <= b && i < from.len() && (a < b || i == start_i || from[i] == Some(1)) {
                    (a, i) = (a.checked_mul(from[i]?)?, i + 1);
                } else if j < to.len() && (b < a || j == start_j || to[j] == Some(1)) {
                    (b, j) = (b.checked_mul(to[j]?)?, j + 1);
                } else {
                    break;
                }
            }
            if a != b {
                return None;
            }
        }
        found.push((start_i..i, start_j..j));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(d: &[usize]) -> Vec<Option<usize>> {
        // 0 stands for a size that is not known.
        d.iter().map(|&d| (d > 0).then_some(d)).collect()
    }

    fn reshaped(lay: &Lay, from: &[usize], to: &[usize]) -> Option<Lay> {
        lay.reshaped(&dims(from), &dims(to))
    }

    #[test]
    fn a_shuffle_of_channels_is_a_permutation() {
        let lay = Lay::along(1, (0..6).collect());
        let split = reshaped(&lay, &[0, 6, 0, 0], &[0, 2, 3, 0, 0]).unwrap();
        assert_eq!((split.axes.as_slice(), split.sizes.as_slice()), (&[1, 2][..], &[2, 3][..]));
        let swapped = split.transposed(&[0, 2, 1, 3, 4]).unwrap();
        let back = reshaped(&swapped, &[0, 3, 2, 0, 0], &[0, 6, 0, 0]).unwrap();
        assert_eq!(back, Lay::along(1, vec![0, 3, 1, 4, 2, 5]));
    }

    #[test]
    fn flattening_repeats_channels() {
        let lay = Lay::along(1, vec![7, 8]);
        assert_eq!(reshaped(&lay, &[0, 2, 1, 3], &[0, 6]), Some(Lay::along(1, vec![7, 7, 7, 8, 8, 8])));
        assert_eq!(reshaped(&lay, &[0, 2, 1, 1], &[0, 2]), Some(Lay::along(1, vec![7, 8])));
        assert_eq!(reshaped(&lay, &[0, 2], &[0, 2, 1, 1]), Some(lay.clone()));
        assert_eq!(reshaped(&lay, &[1, 2, 3, 3], &[2, 9]), Some(Lay::along(0, vec![7, 8])));
        assert_eq!(reshaped(&lay, &[0, 2, 0, 0], &[0, 6]), None, "how often is not known");
        assert_eq!(reshaped(&lay, &[4, 2, 3, 3], &[0, 6]), None);
        let heads = reshaped(&Lay::along(2, (0..6).collect()), &[0, 0, 6], &[0, 0, 2, 3]).unwrap();
        assert_eq!(heads.axes, [2, 3]);
        assert_eq!(heads.transposed(&[0, 2, 1, 3]).unwrap().axes, [1, 3]);
    }

    #[test]
    fn transposing_twice_gives_back() {
        let lay = Lay { axes: vec![1, 3], sizes: vec![2, 3], ids: (0..6).collect() };
        let there = lay.transposed(&[3, 0, 1, 2]).unwrap();
        assert_eq!((there.axes.as_slice(), there.ids.as_slice()), (&[0, 2][..], &[0, 3, 1, 4, 2, 5][..]));
        assert_eq!(there.transposed(&[1, 2, 3, 0]), Some(lay));
    }

    #[test]
    fn picking_undoes_joining() {
        let (a, b) = (Lay::along(1, vec![0, 1]), Lay::along(1, vec![2, 3, 4]));
        let both = Lay::joined(&[&a, &b], 1).unwrap();
        assert_eq!(both.ids, [0, 1, 2, 3, 4]);
        assert_eq!(both.picked(1, &[2, 3, 4]), Some(b.clone()));
        assert_eq!(both.picked(2, &[0]), Some(both.clone()));
        assert_eq!(both.picked(1, &[5]), None);
        assert_eq!(Lay::joined(&[&a, &Lay::along(2, vec![9])], 1), None);
        let grid = |ids: std::ops::Range<u32>| Lay { axes: vec![1, 2], sizes: vec![2, 2], ids: ids.collect() };
        assert_eq!(Lay::joined(&[&grid(0..4), &grid(4..8)], 2).unwrap().ids, [0, 1, 4, 5, 2, 3, 6, 7]);
    }
}
