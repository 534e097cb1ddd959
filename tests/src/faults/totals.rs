//! What came of many cases.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{Outcome, Record, Violation};

/// Counts of cases, and what must not be among them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// 1.
    pub schema_version: u32,
    /// The seed of the cases.
    pub seed: u64,
    /// Cases played.
    pub cases: u64,
    /// Those that ended as they must.
    pub passed: u64,
    /// The VM ran in two processes.
    pub two_owners: u64,
    /// The VM ran nowhere, and no process that had the only copy was killed.
    pub lost_vms: u64,
    /// Attempts after a failure.
    pub retries: u64,
    /// Those that did not succeed.
    pub retries_failed: u64,
    /// Anything else that must not be: a guest error, a leak, silence.
    pub other: u64,
    /// How cases ended, by what happened and in which phase of the source.
    pub table: Vec<Row>,
    /// What must not be, in full.
    pub violations: Vec<Record>,
}

/// Cases with the same failure in the same phase.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What happened.
    pub fault: String,
    /// The phase at the source; `end`: the migration was over before.
    pub phase: String,
    /// How many ended in which way.
    pub outcomes: BTreeMap<Outcome, u64>,
}

const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Moved, "moved"),
    (Outcome::Recovered, "recovered"),
    (Outcome::Stayed, "stayed"),
    (Outcome::TakenBack, "taken back"),
    (Outcome::Died, "died with it"),
];

/// Phases in their order.
const PHASES: [&str; 8] = [
    "setup", "explore", "precopy", "stop", "handover", "postcopy", "complete", "end",
];

impl Totals {
    /// None yet.
    pub fn new(seed: u64) -> Self {
        Self {
            schema_version: 1,
            seed,
            ..Self::default()
        }
    }

    /// Counts a case.
    pub fn add(&mut self, record: Record) {
        self.cases += 1;
        match &record.result {
            Ok(found) => {
                self.passed += 1;
                self.retries += u64::from(found.was_retried);
                let (fault, phase) = (&record.fault, &found.phase);
                let row = self
                    .table
                    .iter_mut()
                    .find(|row| row.fault == *fault && row.phase == *phase);
                let row = match row {
                    Some(row) => row,
                    None => self.new_row(fault.clone(), phase.clone()),
                };
                *row.outcomes.entry(found.outcome).or_default() += 1;
            }
            Err(violation) => {
                match violation {
                    Violation::TwoOwners(_) => self.two_owners += 1,
                    Violation::LostVm(_) => self.lost_vms += 1,
                    Violation::RetryFailed(_) => {
                        self.retries += 1;
                        self.retries_failed += 1;
                    }
                    Violation::Other(_) => self.other += 1,
                }
                self.violations.push(record);
            }
        }
    }

    fn new_row(&mut self, fault: String, phase: String) -> &mut Row {
        let key = |row: &Row| {
            let place = PHASES.iter().position(|phase| *phase == row.phase);
            (row.fault.clone(), place)
        };
        let row = Row {
            fault,
            phase,
            outcomes: BTreeMap::new(),
        };
        let at = self.table.partition_point(|other| key(other) < key(&row));
        self.table.insert(at, row);
        &mut self.table[at]
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20} {:<9}", "failure", "phase")?;
        for (_, name) in OUTCOMES {
            write!(f, " {name:>12}")?;
        }
        writeln!(f)?;
        for row in &self.table {
            write!(f, "{:<20} {:<9}", row.fault, row.phase)?;
            for (outcome, _) in OUTCOMES {
                match row.outcomes.get(&outcome) {
                    Some(count) => write!(f, " {count:>12}")?,
                    None => write!(f, " {:>12}", "·")?,
                }
            }
            writeln!(f)?;
        }
        for record in &self.violations {
            writeln!(f, "VIOLATION {}: {:?}", record.what, record.result)?;
        }
        write!(
            f,
            "{} cases of seed {}: {} passed, {} two owners, {} lost VMs, {} of {} retries failed, {} other",
            self.cases,
            self.seed,
            self.passed,
            self.two_owners,
            self.lost_vms,
            self.retries_failed,
            self.retries,
            self.other
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Found, *};

    fn record(fault: &str, result: Result<(&str, Outcome), Violation>) -> Record {
        Record {
            seed: 1,
            case: 0,
            what: "case 0".to_owned(),
            fault: fault.to_owned(),
            seconds: 1.0,
            result: result.map(|(phase, outcome)| Found {
                phase: phase.to_owned(),
                outcome,
                was_retried: outcome == Outcome::Stayed,
            }),
        }
    }

    #[test]
    fn cases_are_counted_by_failure_and_phase() {
        let mut totals = Totals::new(1);
        totals.add(record("cut", Ok(("postcopy", Outcome::Recovered))));
        totals.add(record("cut", Ok(("setup", Outcome::Stayed))));
        totals.add(record("cut", Ok(("postcopy", Outcome::Recovered))));
        totals.add(record("cut", Err(Violation::TwoOwners("both".to_owned()))));
        assert_eq!((totals.cases, totals.passed, totals.two_owners), (4, 3, 1));
        assert_eq!(totals.retries, 1);
        let phases: Vec<&str> = totals.table.iter().map(|row| &*row.phase).collect();
        assert_eq!(phases, ["setup", "postcopy"]);
        assert_eq!(totals.table[1].outcomes[&Outcome::Recovered], 2);
        let text = totals.to_string();
        assert!(text.contains("VIOLATION case 0"), "{text}");
        assert!(
            text.contains("4 cases of seed 1: 3 passed, 1 two owners"),
            "{text}"
        );
    }
}
