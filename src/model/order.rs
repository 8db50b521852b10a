//! The order of a graph's nodes: a list linked through their slots, so that nodes come and go in constant time.

/// The slots of the nodes that are there, in order.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// For each slot, behind one for the two ends of the list, which makes it a ring.
    links: Vec<Link>,
}

/// What stands before and after a slot, as places in the links. A slot that is not in the list links to itself.
#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
}

/// The place of the ends.
const ENDS: u32 = 0;

impl Default for Order {
    fn default() -> Order {
        Order::of(0)
    }
}

impl Order {
    /// The slots `0..count` as they are numbered.
    pub fn of(count: u32) -> Order {
        let link =
            |i: u32| Link { before: i.checked_sub(1).unwrap_or(count), after: if i == count { ENDS } else { i + 1 } };
        Order { links: (0..=count).map(link).collect() }
    }

    /// The slots in order.
    pub fn iter(&self) -> Iter<'_> {
        let Link { before: back, after: front } = self.links[ENDS as usize];
        Iter { order: self, front, back, done: front == ENDS }
    }

    /// Puts a slot before all others.
    pub fn insert_first(&mut self, slot: u32) {
        self.link(ENDS, slot);
    }

    /// Puts a slot behind all others.
    pub fn insert_last(&mut self, slot: u32) {
        self.link(self.links[ENDS as usize].before, slot);
    }

    /// Puts a slot right before another one, or behind all if that is not there.
    pub fn insert_before(&mut self, other: u32, slot: u32) {
        match self.has(other) {
            true => self.link(self.links[other as usize + 1].before, slot),
            false => self.insert_last(slot),
        }
    }

    /// Puts a slot right behind another one, or behind all if that is not there.
    pub fn insert_after(&mut self, other: u32, slot: u32) {
        match self.has(other) {
            true => self.link(other + 1, slot),
            false => self.insert_last(slot),
        }
    }

    /// Takes a slot out.
    pub fn remove(&mut self, slot: u32) {
        if self.has(slot) {
            let place = slot + 1;
            let Link { before, after } = self.links[place as usize];
            self.links[before as usize].after = after;
            self.links[after as usize].before = before;
            self.links[place as usize] = Link { before: place, after: place };
        }
    }

    /// Brings the slots that are there into this order, which must list each of them once.
    pub fn arrange(&mut self, slots: &[u32]) {
        slots.iter().for_each(|&slot| self.remove(slot));
        slots.iter().for_each(|&slot| self.insert_last(slot));
    }

    fn has(&self, slot: u32) -> bool {
        self.links.get(slot as usize + 1).is_some_and(|l| l.after != slot + 1)
    }

    /// Puts a slot that is not in the list behind a place.
    fn link(&mut self, before: u32, slot: u32) {
        let place = slot + 1;
        for new in self.links.len() as u32..=place {
            self.links.push(Link { before: new, after: new });
        }
        let after = self.links[before as usize].after;
        self.links[place as usize] = Link { before, after };
        self.links[before as usize].after = place;
        self.links[after as usize].before = place;
    }
}

/// Slots in order, from both ends.
#[derive(Clone)]
pub(super) struct Iter<'a> {
    order: &'a Order,
    front: u32,
    back: u32,
    done: bool,
}

impl Iterator for Iter<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.done {
            return None;
        }
        let place = self.front;
        self.done = self.front == self.back;
        self.front = self.order.links[place as usize].after;
        Some(place - 1)
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<u32> {
        if self.done {
            return None;
        }
        let place = self.back;
        self.done = self.front == self.back;
        self.back = self.order.links[place as usize].before;
        Some(place - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(order: &Order) -> Vec<u32> {
        let forth: Vec<u32> = order.iter().collect();
        let mut back: Vec<u32> = order.iter().rev().collect();
        back.reverse();
        assert_eq!(forth, back);
        forth
    }

    #[test]
    fn slots_come_and_go() {
        let mut o = Order::of(3);
        assert_eq!(list(&o), [0, 1, 2]);
        o.insert_before(1, 3);
        o.insert_after(1, 4);
        o.insert_first(5);
        o.insert_last(6);
        assert_eq!(list(&o), [5, 0, 3, 1, 4, 2, 6]);
        o.remove(5);
        o.remove(6);
        o.remove(1);
        o.remove(1);
        assert_eq!(list(&o), [0, 3, 4, 2]);
        o.insert_after(1, 7);
        o.insert_before(99, 8);
        assert_eq!(list(&o), [0, 3, 4, 2, 7, 8]);
        o.arrange(&[8, 7, 4, 3, 2, 0]);
        assert_eq!(list(&o), [8, 7, 4, 3, 2, 0]);
        (0..9).for_each(|slot| o.remove(slot));
        assert_eq!(list(&o), [0; 0]);
        o.insert_last(2);
        o.insert_first(0);
        assert_eq!(list(&o), [0, 2]);
        assert_eq!(list(&Order::of(0)), [0; 0]);
    }

    #[test]
    fn both_ends_meet() {
        let o = Order::of(4);
        let mut i = o.iter();
        assert_eq!((i.next(), i.next_back(), i.next(), i.next_back()), (Some(0), Some(3), Some(1), Some(2)));
        assert_eq!((i.next(), i.next_back()), (None, None));
    }
}
