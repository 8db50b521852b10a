//! Operators that move, cut, join and reduce channels.

use super::super::lay::{Lay, MOST};
use super::Walk;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, NodeProto};

impl Walk<'_> {
    pub(super) fn pad(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(mut lay) = self.lay(node, 0) else { return Ok(()) };
        let constant = node.string("mode").unwrap_or("constant") == "constant";
        let zero = match node.input_at(2) {
            None => true,
            Some(_) => self.constant(node, 2)?.is_some_and(|t| t.f32s().is_ok_and(|x| x.iter().all(|&x| x == 0.0))),
        };
        let rank = node.input_at(0).and_then(|x| self.rank(x));
        let pads = self.integers(node, 1)?.zip(rank).filter(|(p, r)| p.len() == 2 * r && node.input_at(3).is_none());
        let Some((pads, rank)) = pads.filter(|_| zero || !constant) else {
            self.refuse(id, node, [0], "pads with something other than 0, or not by constants");
            return Ok(());
        };
        for (place, axis) in lay.axes.clone().into_iter().enumerate() {
            let (before, after) = (pads[axis], pads[axis + rank]);
            if (before, after) == (0, 0) {
                continue;
            }
            let (Ok(before), Ok(after), true) = (usize::try_from(before), usize::try_from(after), constant) else {
                self.refuse(id, node, [0], "pads or cuts along its channels");
                return Ok(());
            };
            let others: usize = lay.sizes.iter().enumerate().filter(|(i, _)| *i != place).map(|(_, n)| n).product();
            let whole = before.checked_add(after).and_then(|n| n.checked_add(lay.sizes[place]));
            if whole.and_then(|n| n.checked_mul(others)).is_none_or(|n| n > MOST) {
                self.refuse(id, node, [0], "pads too much along its channels");
                return Ok(());
            }
            // New channels of zeros, which any factor leaves as they are.
            let mut zeros = |count: usize| {
                let mut sizes = lay.sizes.clone();
                sizes[place] = count;
                let ids = self.ties.fresh(sizes.iter().product());
                Lay { axes: lay.axes.clone(), sizes, ids }
            };
            let (first, last) = (zeros(before), zeros(after));
            match Lay::joined(&[&first, &lay, &last], axis) {
                Some(wider) => lay = wider,
                None => return Ok(()),
            }
        }
        self.put(node, 0, lay);
        Ok(())
    }

    pub(super) fn resize(&mut self, id: NodeId, node: &NodeProto) {
        let Some(lay) = self.lay(node, 0) else { return };
        let dims = node.output_at(0).and_then(|o| self.shape(o));
        let same =
            |dims: &Vec<Option<usize>>| lay.axes.iter().zip(&lay.sizes).all(|(&a, &n)| dims.get(a) == Some(&Some(n)));
        let fills = node.string("coordinate_transformation_mode") == Some("tf_crop_and_resize");
        let lay = Some(lay.clone()).filter(|_| !fills && dims.as_ref().is_some_and(same));
        self.put_or_refuse(id, node, lay, "may mix channels");
    }

    pub(super) fn transpose(&mut self, id: NodeId, node: &NodeProto) {
        let Some(lay) = self.lay(node, 0) else { return };
        let perm: Option<Vec<usize>> = match node.ints("perm") {
            Some(perm) => perm.iter().map(|&p| usize::try_from(p).ok()).collect(),
            None => node.input_at(0).and_then(|x| self.rank(x)).map(|r| (0..r).rev().collect()),
        };
        let moved = perm.and_then(|p| lay.transposed(&p));
        self.put_or_refuse(id, node, moved, "where its channels go is not known");
    }

    pub(super) fn reshape(&mut self, id: NodeId, node: &NodeProto) {
        let Some(lay) = self.lay(node, 0) else { return };
        let shape = |name: Option<&str>| name.and_then(|n| self.shape(n));
        let moved = match (shape(node.input_at(0)), shape(node.output_at(0))) {
            (Some(from), Some(to)) => lay.reshaped(&from, &to),
            _ => None,
        };
        self.put_or_refuse(id, node, moved, "where its channels go depends on shapes that are not known");
    }

    pub(super) fn axis(&self, node: &NodeProto, axis: i64) -> Option<usize> {
        let rank = self.rank(node.input_at(0)?)?;
        usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|&a| a < rank)
    }

    pub(super) fn split(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(lay) = self.lay(node, 0) else { return Ok(()) };
        let axis = self.axis(node, node.int("axis").unwrap_or(0));
        let Some(place) = axis.map(|a| lay.place(a)) else {
            self.refuse(id, node, [0], "where its channels go is not known");
            return Ok(());
        };
        let (Some(place), Some(axis)) = (place, axis) else {
            (0..node.output.len()).for_each(|o| self.put(node, o, lay.clone()));
            return Ok(());
        };
        let (whole, parts) = (lay.sizes[place], node.output.len().max(1));
        let sizes: Option<Vec<usize>> = match node.input_at(1) {
            Some(_) => self.integers(node, 1)?.map(|s| s.iter().filter_map(|&n| usize::try_from(n).ok()).collect()),
            None => {
                let each = whole.div_ceil(parts);
                Some((0..parts).map(|i| each.min(whole.saturating_sub(i * each))).collect())
            }
        };
        let Some(sizes) = sizes.filter(|s| s.len() == parts && s.iter().sum::<usize>() == whole) else {
            self.refuse(id, node, [0], "splits its channels by sizes that are not constant");
            return Ok(());
        };
        let mut start = 0;
        for (output, size) in sizes.into_iter().enumerate() {
            let picks: Vec<usize> = (start..start + size).collect();
            if let Some(part) = lay.picked(axis, &picks) {
                self.put(node, output, part);
            }
            start += size;
        }
        Ok(())
    }

    pub(super) fn slice(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(mut lay) = self.lay(node, 0) else { return Ok(()) };
        let (starts, ends) = (self.integers(node, 1)?, self.integers(node, 2)?);
        let axes = match node.input_at(3) {
            Some(_) => self.integers(node, 3)?,
            None => starts.as_ref().map(|s| (0..s.len() as i64).collect()),
        };
        let steps = match node.input_at(4) {
            Some(_) => self.integers(node, 4)?,
            None => starts.as_ref().map(|s| vec![1; s.len()]),
        };
        let (Some(starts), Some(ends), Some(axes), Some(steps)) = (starts, ends, axes, steps) else {
            self.refuse(id, node, [0], "cuts by numbers that are not constant");
            return Ok(());
        };
        for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
            let Some(axis) = self.axis(node, axis) else { return Ok(()) };
            let Some(place) = lay.place(axis) else { continue };
            let size = lay.sizes[place] as i64;
            let from_end = |x: i64| if x < 0 { x.saturating_add(size) } else { x };
            let picked = (step > 0).then(|| {
                let (start, end) = (from_end(start).clamp(0, size), from_end(end).clamp(0, size));
                (start..end).step_by(step as usize).map(|i| i as usize).collect::<Vec<_>>()
            });
            match picked.and_then(|p| lay.picked(axis, &p)) {
                Some(part) => lay = part,
                None => {
                    self.refuse(id, node, [0], "cuts its channels backwards");
                    return Ok(());
                }
            }
        }
        self.put(node, 0, lay);
        Ok(())
    }

    pub(super) fn gather(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(lay) = self.lay(node, 0) else { return Ok(()) };
        let axis = self.axis(node, node.int("axis").unwrap_or(0));
        let indices = self.constant(node, 1)?.filter(|t| t.shape().len() == 1);
        let picked = axis.zip(indices).and_then(|(axis, indices)| {
            let Some(place) = lay.place(axis) else { return Some(lay.clone()) };
            let size = lay.sizes[place] as i64;
            let at = |i: i64| usize::try_from(if i < 0 { i + size } else { i }).ok();
            lay.picked(axis, &indices.i64s().ok()?.into_iter().map(at).collect::<Option<Vec<_>>>()?)
        });
        self.put_or_refuse(id, node, picked, "picks by indices that are not a constant list");
        Ok(())
    }

    pub(super) fn concat(&mut self, id: NodeId, node: &NodeProto) {
        let names: Vec<&str> = node.input.iter().map(String::as_str).filter(|n| !n.is_empty()).collect();
        let Some(known) = names.iter().find_map(|n| self.lays.get(*n)).cloned() else { return };
        let rank = names.iter().find_map(|n| self.rank(n));
        let axis =
            node.int("axis").zip(rank).and_then(|(a, r)| usize::try_from(if a < 0 { a + r as i64 } else { a }).ok());
        let whole = axis.and_then(|axis| {
            let parts: Option<Vec<Lay>> = names.iter().map(|n| self.part(n, &known, axis)).collect();
            let parts = parts?;
            if known.place(axis).is_some() {
                return Lay::joined(&parts.iter().collect::<Vec<_>>(), axis);
            }
            parts[1..].iter().all(|p| self.tie(&parts[0], p)).then(|| parts[0].clone())
        });
        self.put_or_refuse(id, node, whole, "joins values whose channels lie differently");
    }

    /// The channels of a value that is joined with others that lie like `like`. One that has none gets channels that stay
    /// as they are.
    pub(super) fn part(&mut self, value: &str, like: &Lay, axis: usize) -> Option<Lay> {
        if let Some(lay) = self.lays.get(value) {
            return Some(lay.clone());
        }
        let mut sizes = like.sizes.clone();
        if let Some(place) = like.place(axis) {
            sizes[place] = (*self.shape(value)?.get(axis)?)?;
        }
        let ids = self.ties.fresh(sizes.iter().product());
        self.ties.fix(&ids, format!("joined with `{value}`, which cannot be scaled"));
        Some(Lay { axes: like.axes.clone(), sizes, ids })
    }

    /// DepthToSpace puts `b * b` channels side by side: those must be scaled alike.
    pub(super) fn depth_to_space(&mut self, id: NodeId, node: &NodeProto) {
        let Some(lay) = self.lay(node, 0) else { return };
        let square = node.int("blocksize").and_then(|b| usize::try_from(b.checked_mul(b)?).ok()).filter(|&b| b > 0);
        let outcome = lay.only_along(1).zip(square).filter(|(ids, b)| ids.len() % b == 0).map(|(ids, b)| {
            let count = ids.len() / b;
            let rows = node.string("mode") != Some("CRD");
            let from = |c: usize, i: usize| ids[if rows { i * count + c } else { c * b + i }];
            for c in 0..count {
                (1..b).for_each(|i| self.ties.tie(from(c, 0), from(c, i)));
            }
            Lay::along(1, (0..count).map(|c| from(c, 0)).collect())
        });
        self.put_or_refuse(id, node, outcome, "moves its channels in an unusual way");
    }

    pub(super) fn reduce(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(lay) = self.lay(node, 0) else { return Ok(()) };
        let axes = match node.input_at(1) {
            Some(_) => self.integers(node, 1)?,
            None => node.ints("axes").map(<[i64]>::to_vec),
        };
        let axes: Option<Vec<usize>> =
            axes.and_then(|axes| axes.into_iter().map(|a| self.axis(node, a)).collect::<Option<_>>());
        let kept = axes.filter(|axes| lay.axes.iter().all(|a| !axes.contains(a))).map(|axes| {
            let gone = |a: usize| axes.iter().filter(|&&x| x < a).count();
            let shifted = node.int("keepdims").unwrap_or(1) == 0;
            let axes = lay.axes.iter().map(|&a| if shifted { a - gone(a) } else { a }).collect();
            Lay { axes, ..lay.clone() }
        });
        self.put_or_refuse(id, node, kept, "reduces along its channels");
        Ok(())
    }
}
