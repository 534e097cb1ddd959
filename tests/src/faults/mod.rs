//! Migrations with failures injected where a seed says, and who has the VM afterwards.
//!
//! - [`Case`]: what happens, and when
//! - [`Stage`]: a VM that goes from process to process, case by case
//! - [`run`]: many cases, several at once; [`Totals`]: what came of them
//!
//! A case stops the link after exactly so many bytes, so it can hit every message; then the failure
//! happens, and the link is mended. That the VM never runs twice is seen in what the guest itself
//! tells: the operations that it counts never go back from one process to the next.

mod case;
mod totals;
mod trial;

use std::{
    any::Any,
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Sender},
    },
    thread,
    time::Instant,
};

pub use case::{Case, Fault};
use serde::{Deserialize, Serialize};
pub use totals::Totals;
pub use trial::{Found, Outcome, Stage, Violation};

use crate::Bench;

/// What came of one case: a line of the results.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The seed.
    pub seed: u64,
    /// The number of the case.
    pub case: u64,
    /// The case in words.
    pub what: String,
    /// What happened.
    pub fault: String,
    /// Seconds that it took.
    pub seconds: f64,
    /// What was found, or what must not be.
    pub result: Result<Found, Violation>,
}

/// Plays the cases `numbers` of a seed but those in `done`, so many at once; each record goes to
/// `tell` as it is made.
pub fn run(
    seed: u64,
    numbers: std::ops::Range<u64>,
    done: &BTreeSet<u64>,
    at_once: usize,
    mut tell: impl FnMut(Record),
) {
    let cases: Vec<Case> = numbers
        .filter(|number| !done.contains(number))
        .map(|number| Case::of(seed, number))
        .collect();
    let (bench, next) = (Bench::new(), AtomicUsize::new(0));
    let (cases, next) = (&cases[..], &next);
    let (records, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..at_once.min(cases.len()) {
            let (bench, records) = (bench.beside(), records.clone());
            scope.spawn(move || play(bench, seed, cases, next, &records));
        }
        drop(records);
        for record in told {
            tell(record);
        }
    });
}

/// Plays cases until there are no more.
fn play(bench: Bench, seed: u64, cases: &[Case], next: &AtomicUsize, records: &Sender<Record>) {
    let mut stage = None;
    while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
        let begun = Instant::now();
        let played = catch_unwind(AssertUnwindSafe(|| {
            stage
                .get_or_insert_with(|| Stage::new(bench.beside()))
                .play(case)
        }));
        let result = played.unwrap_or_else(|panic| Err(Violation::Other(message(&*panic))));
        if result.is_err() {
            stage = None;
        }
        let record = Record {
            seed,
            case: case.number,
            what: case.to_string(),
            fault: case.fault.name().to_owned(),
            seconds: begun.elapsed().as_secs_f64(),
            result,
        };
        // Nobody listens any more: the run is over.
        if records.send(record).is_err() {
            return;
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
