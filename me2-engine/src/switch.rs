//! Whether another pre-copy pass pays, or the handover comes now.

use std::time::Duration;

/// Passes after which pre-copy gives up converging, as Xen and QEMU do.
pub const PRECOPY_PASSES_MAX: u32 = 30;
/// Times the used memory after which pre-copy gives up converging.
const PRECOPY_VOLUME_MAX: u64 = 3;
/// A further pass of a hybrid pays only if it would be at most this part of the one before.
const HYBRID_SHRINK_DIVISOR: u64 = 2;
/// What a hybrid leaves for after the resume without another pass: it arrives within this time.
const HYBRID_REST: Duration = Duration::from_millis(10);

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

/// True if another pass pays; false for the handover.
pub fn another_pass(strategy: Strategy, result: &PassResult, limits: &Limits) -> bool {
    if result.dirty_pages == 0 || result.pass >= limits.passes.min(PRECOPY_PASSES_MAX) {
        return false;
    }
    let per_page = result.took.as_secs_f64() / result.sent_pages.max(1) as f64;
    let left = per_page * result.dirty_pages as f64;
    match strategy {
        Strategy::Hybrid => {
            left > HYBRID_REST.as_secs_f64()
                && result.dirty_pages <= result.sent_pages / HYBRID_SHRINK_DIVISOR
        }
        Strategy::Precopy => {
            !is_little(limits.converged, left, result.dirty_pages)
                && result.total_sent_pages < PRECOPY_VOLUME_MAX * result.used_pages
        }
        Strategy::Postcopy | Strategy::StopAndCopy => false,
    }
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

    #[test]
    fn a_hybrid_goes_on_only_while_passes_halve() {
        assert!(another_pass(
            Strategy::Hybrid,
            &result(1, 60000, 8000),
            &LIMITS
        ));
        assert!(!another_pass(
            Strategy::Hybrid,
            &result(2, 8000, 6000),
            &LIMITS
        ));
        assert!(!another_pass(
            Strategy::Hybrid,
            &result(2, 8000, 400),
            &LIMITS
        ));
        assert!(!another_pass(
            Strategy::Hybrid,
            &result(2, 8000, 0),
            &LIMITS
        ));
        let one = Limits {
            passes: 1,
            ..LIMITS
        };
        assert!(!another_pass(
            Strategy::Hybrid,
            &result(1, 60000, 8000),
            &one
        ));
    }

    #[test]
    fn by_pages_precopy_goes_on_until_so_few_are_left() {
        let limits = Limits {
            converged: Converged::Pages(50),
            ..LIMITS
        };
        assert!(another_pass(Strategy::Precopy, &result(2, 60, 51), &limits));
        assert!(!another_pass(
            Strategy::Precopy,
            &result(2, 60000, 50),
            &limits
        ));
    }

    #[test]
    fn precopy_goes_on_until_the_rest_fits_the_downtime() {
        assert!(another_pass(
            Strategy::Precopy,
            &result(1, 60000, 20000),
            &LIMITS
        ));
        assert!(!another_pass(
            Strategy::Precopy,
            &result(1, 60000, 14000),
            &LIMITS
        ));
        assert!(!another_pass(
            Strategy::Precopy,
            &result(30, 60000, 20000),
            &LIMITS
        ));
        let volume = PassResult {
            total_sent_pages: 200_000,
            ..result(5, 60000, 20000)
        };
        assert!(!another_pass(Strategy::Precopy, &volume, &LIMITS));
    }
}
