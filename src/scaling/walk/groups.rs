//! What a walk found: groups of channels, and channels that are held.

use std::collections::{BTreeMap, HashMap};

use super::super::ties::Ties;
use super::super::{Blocked, Bound, Group, Member, Part, Site};
use super::{RawSite, Walk};
use crate::model::NodeExt;

impl Walk<'_> {
    pub(super) fn blocked(&mut self) -> Vec<Blocked> {
        let mut blocked: Vec<Blocked> = Vec::new();
        for i in 0..self.sites.len() {
            let site = &self.sites[i];
            if site.part == Part::Shift || site.reads {
                continue;
            }
            let (node, ids) = (self.graph.label(site.at.node), site.ids.clone());
            for &id in &ids {
                let Some(reason) = self.ties.reason(id).map(str::to_owned) else { continue };
                match blocked.iter_mut().rev().find(|b| b.node == node && b.reason == reason) {
                    Some(b) => b.channels += 1,
                    None => blocked.push(Blocked { node: node.clone(), channels: 1, of: ids.len(), reason }),
                }
            }
        }
        blocked
    }

    /// The classes that may be scaled, among these channels.
    pub(super) fn free(&mut self, ids: &[u32]) -> Vec<Option<u32>> {
        ids.iter().map(|&id| self.ties.reason(id).is_none().then(|| self.ties.class(id))).collect()
    }

    pub(super) fn groups(&mut self) -> Vec<Group> {
        let sites = std::mem::take(&mut self.sites);
        let values = self.values();
        let site_classes: Vec<Vec<Option<u32>>> = sites.iter().map(|s| self.free(&s.ids)).collect();
        let value_classes: Vec<Vec<Option<u32>>> = values.iter().map(|(_, l)| self.free(&l.ids)).collect();
        // Classes that stand in one constant or one value are one group.
        let mut together = Ties::default();
        let count = self.ties.fresh(1)[0] as usize;
        together.fresh(count);
        for classes in site_classes.iter().chain(&value_classes) {
            let mut classes = classes.iter().flatten();
            if let Some(&first) = classes.next() {
                classes.for_each(|&c| together.tie(first, c));
            }
        }
        // Numbers of groups and of channels in them, in the order in which they are made.
        let mut numbers: BTreeMap<u32, usize> = BTreeMap::new();
        let mut channel: HashMap<u32, usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        for &class in site_classes.iter().flatten().flatten() {
            if channel.contains_key(&class) {
                continue;
            }
            let number = *numbers.entry(together.class(class)).or_insert_with(|| {
                groups.push(Group {
                    channels: 0,
                    producers: Vec::new(),
                    shifts: Vec::new(),
                    consumers: Vec::new(),
                    values: Vec::new(),
                    bounds: Vec::new(),
                });
                groups.len() - 1
            });
            channel.insert(class, groups[number].channels);
            groups[number].channels += 1;
        }
        let own = |classes: &[Option<u32>]| -> Vec<Option<usize>> {
            classes.iter().map(|c| channel.get(c.as_ref()?).copied()).collect()
        };
        let mut group_of = |classes: &[Option<u32>]| -> Option<usize> {
            let class = classes.iter().flatten().find(|c| channel.contains_key(c))?;
            numbers.get(&together.class(*class)).copied()
        };
        for (site, classes) in sites.into_iter().zip(&site_classes) {
            let Some(number) = group_of(classes) else { continue };
            let RawSite { at, part, reads, shape, index, .. } = site;
            let site = Site { at, part, shape, index, channels: own(classes) };
            let group = &mut groups[number];
            match (reads, part) {
                (true, _) => group.consumers.push(site),
                (false, Part::Shift) => group.shifts.push(site),
                (false, _) => group.producers.push(site),
            }
        }
        for ((value, lay), classes) in values.into_iter().zip(&value_classes) {
            let Some(number) = group_of(classes) else { continue };
            let axis = if let [axis] = lay.axes[..] { Some(axis) } else { None };
            let member = Member { value, axis, channels: own(classes) };
            let bound = self
                .bounds
                .iter()
                .find(|(id, ..)| self.graph.node(*id).is_some_and(|n| n.output_at(0) == Some(&member.value)));
            if let (Some(&(node, low, high, rank)), Some(axis)) = (bound, member.axis) {
                groups[number].bounds.push(Bound { node, low, high, rank, axis, channels: member.channels.clone() });
            }
            groups[number].values.push(member);
        }
        groups.retain(|g| !g.producers.is_empty() && !g.consumers.is_empty());
        groups
    }
}
