//! Which channels must be scaled alike, and which not at all.

/// Channels joined into classes; a class may be fixed for a reason.
#[derive(Debug, Default)]
pub(super) struct Ties {
    parent: Vec<u32>,
    fixed: Vec<Option<u32>>,
    reasons: Vec<String>,
}

impl Ties {
    /// New channels, each a class of its own.
    pub fn fresh(&mut self, count: usize) -> Vec<u32> {
        let first = self.parent.len() as u32;
        self.parent.extend((0..count as u32).map(|i| first + i));
        self.fixed.resize(self.parent.len(), None);
        (first..first + count as u32).collect()
    }

    /// The class of a channel.
    pub fn class(&mut self, mut id: u32) -> u32 {
        while self.parent[id as usize] != id {
            let up = self.parent[self.parent[id as usize] as usize];
            self.parent[id as usize] = up;
            id = up;
        }
        id
    }

    /// Lets two channels be scaled alike.
    pub fn tie(&mut self, a: u32, b: u32) {
        let (a, b) = (self.class(a), self.class(b));
        if a == b {
            return;
        }
        // The lower one stays, so that classes do not depend on the order of ties.
        let (low, high) = (a.min(b), a.max(b));
        self.parent[high as usize] = low;
        self.fixed[low as usize] = self.fixed[low as usize].or(self.fixed[high as usize]);
    }

    /// Keeps channels from being scaled; the first reason of a class is kept.
    pub fn fix(&mut self, ids: &[u32], reason: impl Into<String>) {
        let reason = reason.into();
        let number = self.reasons.iter().position(|r| *r == reason).unwrap_or_else(|| {
            self.reasons.push(reason);
            self.reasons.len() - 1
        });
        for &id in ids {
            let class = self.class(id) as usize;
            self.fixed[class].get_or_insert(number as u32);
        }
    }

    /// Why the class of a channel is fixed; `None` if it may be scaled.
    pub fn reason(&mut self, id: u32) -> Option<&str> {
        let class = self.class(id) as usize;
        self.fixed[class].map(|r| self.reasons[r as usize].as_str())
    }
}
