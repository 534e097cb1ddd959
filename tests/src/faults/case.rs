//! One failure: what happens, when, and to which kind of migration; chosen by a seed.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::Way;

/// A case, the same for the same seed and number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// Counts from 0.
    pub number: u64,
    /// As `--mode` takes it.
    pub mode: &'static str,
    /// What happens.
    pub fault: Fault,
    /// The traffic that decides when.
    pub way: Way,
    /// How much of this traffic has passed: the share of what a migration in this mode has in all.
    pub share: f64,
    /// Whether a VM that stayed is moved before the next case.
    pub moves_on: bool,
}

/// What happens when the link has carried so much. Meanwhile nothing passes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The VM's process is killed.
    KillSource,
    /// The receiver's process is killed.
    KillDestination,
    /// `me2 hybrid-migrate` is killed.
    KillClient,
    /// Nothing passes for this long.
    Silence(Duration),
    /// Nothing passes until the migration has given up.
    Cut,
    /// The source does nothing for this long.
    FreezeSource(Duration),
    /// The destination does nothing for this long.
    FreezeDestination(Duration),
    /// `me2 cancel`.
    Cancel,
    /// `--timeout` is over.
    TimeOut,
    /// One datagram in twenty is lost from now on.
    Lose,
}

/// Modes, as often as they are chosen: the two that can be interrupted in most ways, more often.
const MODES: [&str; 6] = [
    "hybrid",
    "hybrid",
    "postcopy",
    "postcopy",
    "precopy",
    "stop-and-copy",
];
/// The longest silence: beyond it comes [`Fault::Cut`].
const SILENCE_MS_MAX: u64 = 3000;

impl Case {
    /// The case with this number.
    pub fn of(seed: u64, number: u64) -> Self {
        // Neighbouring seeds give unlike numbers only after some steps.
        let mut random = fastrand::Rng::with_seed(seed.rotate_left(32) ^ number);
        random.u64(..);
        let way = *random.choice(&[Way::Forth, Way::Back]).expect("not empty");
        Self {
            number,
            mode: random.choice(MODES).expect("not empty"),
            fault: Fault::any(&mut random),
            way,
            share: share(&mut random),
            moves_on: random.bool(),
        }
    }
}

/// As often near the begin and near the end, where most messages are, as in the whole middle.
fn share(random: &mut fastrand::Rng) -> f64 {
    match random.u8(..4) {
        0 => random.f64() * 0.02,
        1 => 1.0 - random.f64() * 0.05,
        _ => random.f64(),
    }
}

impl Fault {
    fn any(random: &mut fastrand::Rng) -> Self {
        let time = Duration::from_millis(random.u64(20..SILENCE_MS_MAX));
        match random.u8(..10) {
            0 => Self::KillSource,
            1 => Self::KillDestination,
            2 => Self::KillClient,
            3 => Self::Silence(time),
            4 => Self::Cut,
            5 => Self::FreezeSource(time),
            6 => Self::FreezeDestination(time),
            7 => Self::Cancel,
            8 => Self::TimeOut,
            _ => Self::Lose,
        }
    }

    /// Its name, without how long it takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillSource => "kill-source",
            Self::KillDestination => "kill-destination",
            Self::KillClient => "kill-client",
            Self::Silence(_) => "silence",
            Self::Cut => "cut",
            Self::FreezeSource(_) => "freeze-source",
            Self::FreezeDestination(_) => "freeze-destination",
            Self::Cancel => "cancel",
            Self::TimeOut => "time-out",
            Self::Lose => "lose",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Forth => "forth",
            Way::Back => "back",
        };
        let (number, mode, percent) = (self.number, self.mode, self.share * 100.0);
        let fault = self.fault.name();
        write!(f, "case {number}: {mode}, {fault} at {percent:.1}% {way}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_and_a_number_are_a_case() {
        assert_eq!(Case::of(1, 7), Case::of(1, 7));
        assert_ne!(Case::of(1, 7), Case::of(2, 7));
        assert_ne!(Case::of(1, 7), Case::of(1, 8));
    }

    #[test]
    fn a_hundred_cases_have_everything() {
        let cases: Vec<Case> = (0..100).map(|number| Case::of(1, number)).collect();
        let faults: BTreeSet<&str> = cases.iter().map(|case| case.fault.name()).collect();
        let modes: BTreeSet<&str> = cases.iter().map(|case| case.mode).collect();
        assert_eq!((faults.len(), modes.len()), (10, 4));
        assert!(cases.iter().all(|case| (0.0..=1.0).contains(&case.share)));
        for is_there in [
            |case: &Case| case.share < 0.02,
            |case: &Case| case.share > 0.95,
        ] {
            assert!(cases.iter().filter(|case| is_there(case)).count() >= 15);
        }
    }
}
