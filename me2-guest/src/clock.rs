//! Time from the page that KVM keeps for each CPU (`struct pvclock_vcpu_time_info`).

/// The fields of the time page, as read at one moment.
#[derive(Debug, Clone, Copy)]
pub struct TimePage {
    /// The counter at the moment that `system_ns` tells.
    pub tsc_timestamp: u64,
    /// Nanoseconds at that moment.
    pub system_ns: u64,
    /// Nanoseconds per tick after the shift, as a fraction of 2³².
    pub tsc_to_system_mul: u32,
    /// Shift of the ticks, to the left if positive.
    pub tsc_shift: i8,
}

impl TimePage {
    /// The time when the counter shows `tsc`, nanoseconds.
    pub fn time_ns(&self, tsc: u64) -> u64 {
        // CPUs may read the counter slightly before the host did.
        let ticks = tsc.saturating_sub(self.tsc_timestamp);
        let ticks = match self.tsc_shift {
            shift @ 0.. => ticks.wrapping_shl(shift as u32),
            shift => ticks.wrapping_shr(u32::from(shift.unsigned_abs())),
        };
        let ns = (u128::from(ticks) * u128::from(self.tsc_to_system_mul)) >> 32;
        self.system_ns.wrapping_add(ns as u64)
    }
}

/// Makes a source of time go forward only.
///
/// If the source steps back, time goes on from where it was: work must not stand still until the source
/// has caught up. The step is returned once, for the report.
#[derive(Debug, Clone, Default)]
pub struct Forward {
    last_ns: u64,
    added_ns: u64,
}

impl Forward {
    /// Time after the source said `source_ns`, and by how much that was a step back (0: it was not).
    pub fn advance(&mut self, source_ns: u64) -> (u64, u64) {
        let now_ns = source_ns.wrapping_add(self.added_ns);
        let back_ns = self.last_ns.saturating_sub(now_ns);
        self.added_ns = self.added_ns.wrapping_add(back_ns);
        self.last_ns = now_ns.max(self.last_ns);
        (self.last_ns, back_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        // 2.5 GHz: 0.4 ns a tick; half of it in mul, the rest by shift.
        let mul = (0.8 * 4_294_967_296.0) as u32;
        let page = TimePage {
            tsc_timestamp: 1000,
            system_ns: 50,
            tsc_to_system_mul: mul,
            tsc_shift: -1,
        };
        assert_eq!(page.time_ns(1000), 50);
        assert!((page.time_ns(1000 + 2_500_000_000) - 50).abs_diff(1_000_000_000) < 2);
        assert_eq!(
            page.time_ns(900),
            50,
            "a counter read too early is not a leap of centuries"
        );
        let page = TimePage {
            tsc_to_system_mul: mul / 4,
            tsc_shift: 1,
            ..page
        };
        assert!((page.time_ns(1000 + 2_500_000_000) - 50).abs_diff(1_000_000_000) < 2);
    }

    #[test]
    fn a_step_back_is_told_once_and_time_goes_on() {
        let mut forward = Forward::default();
        assert_eq!(forward.advance(1000), (1000, 0));
        assert_eq!(forward.advance(400), (1000, 600));
        assert_eq!(forward.advance(450), (1050, 0));
        assert_eq!(forward.advance(451), (1051, 0));
    }
}
