//! How a migration goes of late: faults by the second, and when the end is to be expected.

use std::{collections::VecDeque, time::Duration};

use me2_engine::{forecast::Forecast, switch::final_set_limit};

use crate::control::types::{MigrationStatus, Mode, Phase};

/// How far back "of late" goes.
const WINDOW: Duration = Duration::from_secs(1);
/// Rates over less mean nothing.
const SPAN_MIN: Duration = Duration::from_millis(200);
/// From so many faults by the second on, they are a burst; it is over at half as many.
const BURST_FAULTS_PER_SECOND: f64 = 100.0;

/// Watches one migration. Time is what the caller says it is, from any beginning.
#[derive(Debug, Default)]
pub struct Tempo {
    faults: VecDeque<(Duration, u64)>,
    /// Of this phase and pass: pages are counted anew in each.
    forecast: Option<(Phase, u32, Forecast)>,
    is_burst: bool,
}

impl Tempo {
    /// Fills in what follows from how the status has changed. True: a burst of faults begins.
    pub fn observe(&mut self, status: &mut MigrationStatus, now: Duration) -> bool {
        status.faults_per_second = self.faults_per_second(status.faults, now);
        status.expected_remaining_ms = match &status.risk {
            Some(risk) => risk.expected_ms,
            None => self.left(status, now).map(|left| left.as_millis() as u64),
        };
        let was_burst = self.is_burst;
        self.is_burst = match was_burst {
            true => status.faults_per_second >= BURST_FAULTS_PER_SECOND / 2.0,
            false => status.faults_per_second >= BURST_FAULTS_PER_SECOND,
        };
        self.is_burst && !was_burst
    }

    fn faults_per_second(&mut self, faults: u64, now: Duration) -> f64 {
        self.faults.push_back((now, faults));
        // The oldest one that is kept is at the window's beginning, or before it.
        while self.faults.len() > 2 && now.saturating_sub(self.faults[1].0) >= WINDOW {
            self.faults.pop_front();
        }
        let (since, before) = self.faults[0];
        let span = now.saturating_sub(since);
        match span >= SPAN_MIN {
            true => faults.saturating_sub(before) as f64 / span.as_secs_f64(),
            false => 0.0,
        }
    }

    fn left(&mut self, status: &MigrationStatus, now: Duration) -> Option<Duration> {
        let (phase, pass, missing) = (status.phase, status.pass, status.pages_remaining);
        let same = self
            .forecast
            .take_if(|(of, number, _)| (*of, *number) == (phase, pass));
        let (_, _, mut forecast) =
            same.unwrap_or_else(|| (phase, pass, Forecast::new(now, missing)));
        forecast.observe(now, missing);
        let left = forecast.left();
        self.forecast = Some((phase, pass, forecast));
        left
    }
}

/// What a link takes, for [`expected_downtime`].
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// There and back.
    pub round_trip: Duration,
    /// What the link takes.
    pub bytes_per_second: f64,
    /// What a page takes that is sent.
    pub bytes_per_page: f64,
}

/// For how long the VM would stand still if it were handed over now: half a round trip, and what must
/// be sent before it can go on, `limit` being what an operator permits a hybrid. Saving and restoring
/// state, a few milliseconds, come on top.
pub fn expected_downtime(mode: Mode, pages: u64, pace: &Pace, limit: Option<Duration>) -> Duration {
    let seconds = pages as f64 * pace.bytes_per_page / pace.bytes_per_second.max(1.0);
    let everything = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let sent = match mode {
        Mode::Hybrid => everything.min(final_set_limit(pace.round_trip, limit)),
        Mode::Precopy | Mode::StopAndCopy => everything,
        Mode::Postcopy => Duration::ZERO,
    };
    sent.saturating_add(pace.round_trip / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: Phase, pages_remaining: u64, faults: u64) -> MigrationStatus {
        MigrationStatus {
            phase,
            pages_remaining,
            faults,
            ..MigrationStatus::begun(1, 1, Mode::Hybrid)
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_told_once_until_it_is_over() {
        let mut tempo = Tempo::default();
        let mut bursts = Vec::new();
        let mut faults = 0;
        for tenth in 0..100 {
            // 50, then 300, then 60, then none, then 300 by the second.
            faults += [5, 30, 6, 0, 30][tenth / 20];
            let mut status = status(Phase::Postcopy, 10, faults);
            if tempo.observe(&mut status, ms(tenth as u64 * 100)) {
                bursts.push(tenth / 20);
            }
            if tenth % 20 == 19 {
                let expected = [50.0, 300.0, 60.0, 0.0, 300.0][tenth / 20];
                assert!(
                    (status.faults_per_second - expected).abs() < 1.0,
                    "{status:?}"
                );
            }
        }
        assert_eq!(bursts, [1, 4]);
    }

    #[test]
    fn the_end_is_foretold_for_each_pass_by_itself() {
        let mut tempo = Tempo::default();
        let mut left = None;
        for tenth in 0..=10 {
            let mut status = status(Phase::Precopy, 1000 - tenth * 10, 0);
            tempo.observe(&mut status, ms(tenth * 100));
            left = status.expected_remaining_ms;
        }
        assert_eq!(left, Some(9000), "900 pages at 100 by the second");
        let mut next = status(Phase::Precopy, 5000, 0);
        next.pass = 1;
        tempo.observe(&mut next, ms(1100));
        assert_eq!(
            next.expected_remaining_ms, None,
            "nothing has come of it yet"
        );
    }

    #[test]
    fn a_hybrid_stands_still_for_a_part_at_most() {
        let pace = Pace {
            round_trip: ms(40),
            bytes_per_second: 1e6,
            bytes_per_page: 1000.0,
        };
        let expected = |mode, pages| expected_downtime(mode, pages, &pace, Some(ms(100)));
        assert_eq!(expected(Mode::Postcopy, 5000), ms(20));
        assert_eq!(expected(Mode::Precopy, 5000), ms(5020));
        assert_eq!(expected(Mode::StopAndCopy, 5000), ms(5020));
        let hybrid = expected(Mode::Hybrid, 5000);
        assert!((ms(21)..=ms(120)).contains(&hybrid), "{hybrid:?}");
        assert_eq!(expected(Mode::Hybrid, 0), ms(20));
    }
}
