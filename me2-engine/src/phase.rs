//! The phases of a migration, in order, and how long each took.

use std::time::Duration;

/// A phase. Each has a begin and an end; passes of pre-copy are numbered from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Versions, identities and the machine are agreed; the destination is ready.
    Setup,
    /// Which pages are useful.
    Explore,
    /// A pass over pages while the VM runs.
    Precopy(u32),
    /// vCPUs stop, state is saved, the dirty log is read for the last time.
    Stop,
    /// State and final versions go across; the VM resumes at the destination.
    Handover,
    /// The rest follows, pulled and pushed.
    Postcopy,
    /// Hashes agree, and the source has let go.
    Complete,
}

impl Phase {
    /// The name for people and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Explore => "explore",
            Self::Precopy(_) => "precopy",
            Self::Stop => "stop",
            Self::Handover => "handover",
            Self::Postcopy => "postcopy",
            Self::Complete => "complete",
        }
    }

    fn rank(self) -> (u32, u32) {
        match self {
            Self::Setup => (0, 0),
            Self::Explore => (1, 0),
            Self::Precopy(pass) => (2, pass),
            Self::Stop => (3, 0),
            Self::Handover => (4, 0),
            Self::Postcopy => (5, 0),
            Self::Complete => (6, 0),
        }
    }
}

/// When each phase began. Time is what the caller says it is.
#[derive(Debug, Clone)]
pub struct PhaseLog {
    entries: Vec<(Phase, Duration)>,
}

impl PhaseLog {
    /// Begins with [`Phase::Setup`] at time 0.
    pub fn begin() -> Self {
        Self {
            entries: vec![(Phase::Setup, Duration::ZERO)],
        }
    }

    /// Ends the current phase and begins the next; phases only go forward.
    pub fn enter(&mut self, phase: Phase, now: Duration) {
        let (current, since) = *self.entries.last().expect("begun");
        assert!(phase.rank() > current.rank(), "{phase:?} after {current:?}");
        assert!(now >= since, "time goes forward");
        self.entries.push((phase, now));
    }

    /// The phase that is under way.
    pub fn current(&self) -> Phase {
        self.entries.last().expect("begun").0
    }

    /// How long phases with this name took; what is under way counts until `now`.
    pub fn took(&self, name: &str, now: Duration) -> Duration {
        let ends = self
            .entries
            .iter()
            .skip(1)
            .map(|(_, begin)| *begin)
            .chain([now]);
        self.entries
            .iter()
            .zip(ends)
            .filter(|((phase, _), _)| phase.name() == name)
            .map(|((_, begin), end)| end.saturating_sub(*begin))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn passes_add_up() {
        let mut log = PhaseLog::begin();
        log.enter(Phase::Explore, ms(10));
        log.enter(Phase::Precopy(1), ms(20));
        log.enter(Phase::Precopy(2), ms(50));
        log.enter(Phase::Stop, ms(60));
        assert_eq!(log.took("setup", ms(70)), ms(10));
        assert_eq!(log.took("precopy", ms(70)), ms(40));
        assert_eq!(log.took("stop", ms(70)), ms(10));
        assert_eq!(log.took("postcopy", ms(70)), ms(0));
    }

    #[test]
    #[should_panic(expected = "after Stop")]
    fn phases_never_go_back() {
        let mut log = PhaseLog::begin();
        log.enter(Phase::Stop, ms(1));
        log.enter(Phase::Precopy(1), ms(2));
    }
}
