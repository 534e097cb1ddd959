//! Whether another pre-copy pass pays, or the handover comes now.
//!
//! Plain pre-copy goes on until what is left fits into the downtime. A hybrid weighs what the guest
//! would stand still for now, against later: what goes with the handover while it stands still, and
//! misses behind it, a round trip each.

use std::time::Duration;

/// Passes after which pre-copy gives up converging, as Xen and QEMU do.
pub const PRECOPY_PASSES_MAX: u32 = 30;
/// Times the used memory after which pre-copy gives up converging.
const PRECOPY_VOLUME_MAX: u64 = 3;
/// What a second in which the guest stands still is worth, in seconds of pre-copy, during which it
/// works: a pass that saves less is not worth its time.
const STALL_WEIGHT: f64 = 10.0;
/// A pass that leaves more than this part of what was pending before was in vain: the guest writes
/// what is not expected of it.
const SHRINK_MIN: f64 = 0.8;
/// What is saved less than this is no reason for a pass: nobody sees it, and no link keeps still
/// enough for it to be known.
const GAIN_MIN: Duration = Duration::from_micros(500);
/// How long the guest may stand still, besides the way of the handover itself, for what was written
/// last to go with it: this part of a round trip, within these bounds. A miss costs a whole one.
const FINAL_SET_ROUND_TRIPS: f64 = 0.5;
const FINAL_SET_MIN: Duration = Duration::from_millis(5);
const FINAL_SET_MAX: Duration = Duration::from_millis(100);

/// How the VM moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// A short pre-copy, an early resume, the rest afterwards.
    Hybrid,
    /// Passes until what is left fits into the downtime; nothing afterwards.
    Precopy,
    /// Nothing before, everything afterwards.
    Postcopy,
    /// Everything while the VM stands still.
    StopAndCopy,
}

impl Strategy {
    /// Whether pages travel while the VM still runs at the source.
    pub fn copies_before(self) -> bool {
        matches!(self, Self::Hybrid | Self::Precopy)
    }

    /// Whether pages may be missing when the VM resumes.
    pub fn copies_after(self) -> bool {
        matches!(self, Self::Hybrid | Self::Postcopy)
    }
}

/// What is known after a pass.
#[derive(Debug, Clone, Copy)]
pub struct PassResult {
    /// Its number, from 1.
    pub pass: u32,
    /// Pages that it sent.
    pub sent_pages: u64,
    /// How long it took.
    pub took: Duration,
    /// Pages that were written meanwhile.
    pub dirty_pages: u64,
    /// Pages that all passes sent together.
    pub total_sent_pages: u64,
    /// Pages that the VM uses.
    pub used_pages: u64,
}

/// Limits that the operator sets.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// What plain pre-copy converges to.
    pub converged: Converged,
    /// Most pre-copy passes.
    pub passes: u32,
}

/// When little enough is left for plain pre-copy to stop the VM.
#[derive(Debug, Clone, Copy)]
pub enum Converged {
    /// What is left takes no longer than this, the longest acceptable downtime.
    Within(Duration),
    /// At most so many pages are left: Xen's rule.
    Pages(u64),
}

/// What is known when a hybrid may switch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// Pages written since they were sent.
    pub pending_pages: u64,
    /// Those of them that are expected to be written again before another pass is over: not sent in
    /// it.
    pub hot_pages: u64,
    /// Pages expected to be written during another pass.
    pub written_pages: f64,
    /// Of the pending pages, those that the guest is expected to want before they would have been
    /// pushed.
    pub wanted_pages: f64,
    /// What a page takes that is sent again, in bytes.
    pub bytes_per_page: f64,
    /// What goes through, in bytes a second: encoders and link together.
    pub rate: f64,
    /// There and back.
    pub round_trip: Duration,
    /// How long the guest may stand still for what was written last.
    pub final_set_limit: Duration,
    /// Pages that were pending before the last pass; none before the first.
    pub pending_before: Option<u64>,
}

/// What a switch is expected to cost the guest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stalls {
    /// What goes with the handover, while the VM stands still.
    pub final_set: Duration,
    /// Waiting for pages that come behind it.
    pub misses: Duration,
}

/// What another pass of a hybrid would bring.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Switching now.
    pub now: Stalls,
    /// Switching after another pass.
    pub then: Stalls,
    /// How long that pass would take.
    pub pass: Duration,
}

impl Outlook {
    /// What another pass would bring.
    pub fn forecast(&self) -> Forecast {
        let cold = self.pending_pages.saturating_sub(self.hot_pages) as f64;
        let left = self.hot_pages as f64 + self.written_pages;
        let wanted = self.wanted_pages / self.pending_pages.max(1) as f64;
        Forecast {
            now: self.stalls(self.pending_pages as f64, wanted),
            then: self.stalls(left, wanted),
            pass: self.time_of(cold) + self.round_trip,
        }
    }

    /// Whether another pass pays.
    pub fn another_pass(&self) -> bool {
        // Whatever it is expected to bring: the last one did not.
        let is_in_vain = self
            .pending_before
            .is_some_and(|before| self.pending_pages as f64 > before as f64 * SHRINK_MIN);
        if is_in_vain {
            return false;
        }
        let forecast = self.forecast();
        let gain = forecast.now.total().saturating_sub(forecast.then.total());
        self.pending_pages > self.hot_pages
            && gain >= GAIN_MIN
            && gain.as_secs_f64() * STALL_WEIGHT > forecast.pass.as_secs_f64()
    }

    /// How long so many pages take.
    fn time_of(&self, pages: f64) -> Duration {
        Duration::from_secs_f64(pages * self.bytes_per_page / self.rate.max(1.0))
    }

    /// What it costs to switch with so many pages, this share of which is wanted soon.
    fn stalls(&self, pages: f64, wanted: f64) -> Stalls {
        let all = self.time_of(pages);
        let final_set = all.min(self.final_set_limit);
        let behind = all - final_set;
        let misses = pages * wanted * behind.as_secs_f64() / all.as_secs_f64().max(1e-9);
        // Each miss waits for a round trip, but nobody waits for longer than the push takes.
        let one_by_one = self.round_trip.mul_f64(misses);
        let misses = match behind.is_zero() {
            true => Duration::ZERO,
            false => one_by_one.min(behind + self.round_trip),
        };
        Stalls { final_set, misses }
    }
}

impl Stalls {
    /// Both together.
    pub fn total(&self) -> Duration {
        self.final_set + self.misses
    }
}

/// How long the guest may stand still for what was written last, on a link with such a round trip.
/// A limit of the downtime overrides it: what the way leaves of it.
pub fn final_set_limit(round_trip: Duration, downtime_limit: Option<Duration>) -> Duration {
    match downtime_limit {
        Some(limit) => limit.saturating_sub(round_trip / 2),
        None => round_trip
            .mul_f64(FINAL_SET_ROUND_TRIPS)
            .clamp(FINAL_SET_MIN, FINAL_SET_MAX),
    }
}

/// True if another pass of plain pre-copy pays; false for the stop.
pub fn another_pass(result: &PassResult, limits: &Limits) -> bool {
    if result.dirty_pages == 0 || result.pass >= limits.passes.min(PRECOPY_PASSES_MAX) {
        return false;
    }
    let per_page = result.took.as_secs_f64() / result.sent_pages.max(1) as f64;
    let left = per_page * result.dirty_pages as f64;
    !is_little(limits.converged, left, result.dirty_pages)
        && result.total_sent_pages < PRECOPY_VOLUME_MAX * result.used_pages
}

fn is_little(converged: Converged, left_s: f64, dirty_pages: u64) -> bool {
    match converged {
        Converged::Within(downtime) => left_s <= downtime.as_secs_f64(),
        Converged::Pages(pages) => dirty_pages <= pages,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        converged: Converged::Within(Duration::from_millis(300)),
        passes: 30,
    };

    fn result(pass: u32, sent_pages: u64, dirty_pages: u64) -> PassResult {
        PassResult {
            pass,
            sent_pages,
            took: Duration::from_micros(20 * sent_pages),
            dirty_pages,
            total_sent_pages: sent_pages,
            used_pages: 65536,
        }
    }

    /// 200 Mbit/s, 100 ms; a page written again takes 400 bytes: 16 µs.
    const LONG: Outlook = Outlook {
        pending_pages: 8000,
        hot_pages: 500,
        written_pages: 1000.0,
        wanted_pages: 4000.0,
        bytes_per_page: 400.0,
        rate: 25e6,
        round_trip: Duration::from_millis(100),
        final_set_limit: Duration::from_millis(50),
        pending_before: None,
    };

    #[test]
    fn a_hybrid_goes_on_while_a_pass_saves_the_guest_more_than_it_takes() {
        assert!(LONG.another_pass());
        let forecast = LONG.forecast();
        assert_eq!(forecast.now.final_set, Duration::from_millis(50));
        assert_eq!(
            forecast.now.misses,
            Duration::from_millis(178),
            "the push, and a round trip"
        );
        assert_eq!(forecast.then.misses, Duration::ZERO);
        assert_eq!(forecast.pass, Duration::from_millis(220));
        let all_hot = Outlook {
            hot_pages: 8000,
            ..LONG
        };
        assert!(!all_hot.another_pass(), "it would send nothing");
        let busy = Outlook {
            written_pages: 7500.0,
            ..LONG
        };
        assert!(!busy.another_pass(), "as much would be left");
        let after = |pending_before| Outlook {
            pending_before: Some(pending_before),
            ..LONG
        };
        assert!(after(20_000).another_pass());
        assert!(!after(8500).another_pass(), "the last one left as much");
    }

    #[test]
    fn on_a_long_link_more_goes_before_the_handover_than_on_a_short_one() {
        // Each miss costs a hundred times more on the long one.
        let few = Outlook {
            pending_pages: 5000,
            hot_pages: 0,
            written_pages: 3500.0,
            wanted_pages: 20.0,
            ..LONG
        };
        assert!(few.another_pass());
        let short = Outlook {
            round_trip: Duration::from_millis(1),
            final_set_limit: Duration::from_millis(5),
            ..few
        };
        assert!(!short.another_pass());
    }

    #[test]
    fn what_goes_with_the_handover_follows_the_round_trip() {
        let limit = |ms| final_set_limit(Duration::from_millis(ms), None).as_millis();
        assert_eq!([1, 50, 100, 1000].map(limit), [5, 25, 50, 100]);
        let asked = Some(Duration::from_millis(70));
        let within = |ms| final_set_limit(Duration::from_millis(ms), asked).as_millis();
        assert_eq!([20, 200].map(within), [60, 0]);
    }

    #[test]
    fn nothing_pending_nothing_to_do() {
        let none = Outlook {
            pending_pages: 0,
            hot_pages: 0,
            wanted_pages: 0.0,
            ..LONG
        };
        assert!(!none.another_pass());
        assert_eq!(none.forecast().now.total(), Duration::ZERO);
    }

    #[test]
    fn by_pages_precopy_goes_on_until_so_few_are_left() {
        let limits = Limits {
            converged: Converged::Pages(50),
            ..LIMITS
        };
        assert!(another_pass(&result(2, 60, 51), &limits));
        assert!(!another_pass(&result(2, 60000, 50), &limits));
    }

    #[test]
    fn precopy_goes_on_until_the_rest_fits_the_downtime() {
        assert!(another_pass(&result(1, 60000, 20000), &LIMITS));
        assert!(!another_pass(&result(1, 60000, 14000), &LIMITS));
        assert!(!another_pass(&result(30, 60000, 20000), &LIMITS));
        let volume = PassResult {
            total_sent_pages: 200_000,
            ..result(5, 60000, 20000)
        };
        assert!(!another_pass(&volume, &LIMITS));
    }
}
