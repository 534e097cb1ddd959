//! Failures where a seed says: a short form of `cargo xtask faults`.

use std::collections::BTreeSet;

use me2_tests::{faults, require_kvm, say};

/// Enough that every kind of failure happens; other seeds and more cases are that command's.
const CASES: u64 = 24;
const SEED: u64 = 1;
const AT_ONCE: usize = 6;

#[test]
fn wherever_it_fails_there_is_one_vm() {
    require_kvm!();
    let mut totals = faults::Totals::new(SEED);
    faults::run(SEED, 0..CASES, &BTreeSet::new(), AT_ONCE, |record| {
        totals.add(record);
    });
    say(&totals.to_string());
    assert_eq!(totals.cases, CASES);
    assert_eq!(totals.passed, CASES, "{totals}");
}
