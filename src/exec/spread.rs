//! Steps, spread over the threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::error::Result;
use crate::events::Events;

/// What came of the steps that one thread took.
type Steps<R> = Vec<(usize, Result<R>)>;

/// Spreads `count` steps over the threads: each makes one worker and takes the next step when it is free.
///
/// Returns the workers (as many as there were threads at work, in no order that means anything) and the results in
/// the order of the steps, so that what is made of them does not depend on the threads. The error with the lowest
/// step is returned when steps fail.
pub fn spread<W: Send, R: Send>(
    count: usize,
    events: &dyn Events,
    make: impl Fn() -> Result<W> + Sync,
    step: impl Fn(&mut W, usize) -> Result<R> + Sync,
) -> Result<(Vec<W>, Vec<R>)> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = AtomicUsize::new(usize::MAX);
    let threads = rayon::current_num_threads().min(count).max(1);
    let outcomes: Vec<(Option<W>, Steps<R>)> = (0..threads)
        .into_par_iter()
        .map(|_| {
            let mut worker = None;
            let mut results = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                // Steps before a failed one are still taken: the lowest error is the one to report.
                if i >= count || i > failed.load(Ordering::Relaxed) {
                    return (worker, results);
                }
                let made = match &mut worker {
                    Some(w) => Ok(w),
                    None => make().map(|w| worker.insert(w)),
                };
                let result = made.and_then(|w| step(w, i));
                if result.is_err() {
                    failed.fetch_min(i, Ordering::Relaxed);
                }
                results.push((i, result));
                events.tick(done.fetch_add(1, Ordering::Relaxed) + 1, count);
            }
        })
        .collect();
    let mut workers = Vec::new();
    let mut results = Vec::new();
    for (worker, part) in outcomes {
        workers.extend(worker);
        results.extend(part);
    }
    results.sort_by_key(|(i, _)| *i);
    Ok((workers, results.into_iter().map(|(_, r)| r).collect::<Result<Vec<R>>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::events::Silent;

    #[test]
    fn results_come_in_order_and_the_first_error_wins() {
        let (workers, results) = spread(
            100,
            &Silent,
            || Ok(0usize),
            |w, i| {
                *w += 1;
                Ok(i * 2)
            },
        )
        .unwrap();
        assert_eq!(workers.iter().sum::<usize>(), 100);
        assert_eq!(results, (0..100).map(|i| i * 2).collect::<Vec<_>>());
        let fail = |_: &mut (), i: usize| {
            if i % 10 == 7 { Err(Error::new(ErrorKind::Data, i.to_string())) } else { Ok(()) }
        };
        let error = spread(100, &Silent, || Ok(()), fail).unwrap_err();
        assert_eq!(error.to_string(), "7");
    }
}
