//! The names that a model has, so that new ones differ from all of them.

use std::collections::HashMap;
use std::sync::Arc;

/// Names, and for each the first number that was not tried behind it. Clones share them until one takes a name.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken(Arc<HashMap<String, u64>>);

impl Taken {
    /// Whether the name is taken.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Takes a name, and says whether it was free.
    pub fn take(&mut self, name: &str) -> bool {
        let free = !self.has(name);
        if free {
            Arc::make_mut(&mut self.0).insert(name.to_owned(), 2);
        }
        free
    }

    /// Takes a name that was free, and returns it: `base`, or `base_2`, `base_3`, ...
    pub fn fresh(&mut self, base: &str) -> String {
        if self.take(base) {
            return base.to_owned();
        }
        let mut n = self.0.get(base).copied().unwrap_or(2);
        let mut name = format!("{base}_{n}");
        while !self.take(&name) {
            n += 1;
            name = format!("{base}_{n}");
        }
        Arc::make_mut(&mut self.0).insert(base.to_owned(), n + 1);
        name
    }
}

impl<S: AsRef<str>> Extend<S> for Taken {
    fn extend<I: IntoIterator<Item = S>>(&mut self, names: I) {
        for name in names {
            self.take(name.as_ref());
        }
    }
}

impl<S: AsRef<str>> FromIterator<S> for Taken {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Taken {
        let mut taken = Taken::default();
        taken.extend(names);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_where_they_ended_and_skip_what_is_taken() {
        let mut taken: Taken = ["a", "a_3"].into_iter().collect();
        assert_eq!([(); 3].map(|()| taken.fresh("a")), ["a_2", "a_4", "a_5"]);
        assert_eq!([(); 2].map(|()| taken.fresh("b")), ["b", "b_2"]);
        assert!(!taken.take("b_2") && taken.take("b_3"));
        assert_eq!(taken.fresh("b"), "b_4");
    }
}
