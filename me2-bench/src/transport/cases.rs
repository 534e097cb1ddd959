//! What is measured, and what is made of it.

use std::time::Duration;

use me2_link::{Action, Change, LinkSpec, Loss};

use super::ends::{BIN, Seen};

/// What a packet leaves for the payload of a stream: 1418 of 1480 bytes, less IP, UDP, QUIC's header and
/// tag, and a stream frame's header.
const PAYLOAD_SHARE: f64 = 0.958;
/// Start-up is left out of shares.
const START_S: f64 = 2.0;
/// When requests begin; before, the link has bulk alone.
const REQUESTS_AT_S: f64 = 8.0;
/// When a second flow begins, and from when on shares are told.
pub(super) const RIVAL_AFTER: Duration = Duration::from_secs(3);
const SHARED_FROM_S: f64 = 10.0;
/// When the rate falls, and when it returns.
const FALLS_AT_S: f64 = 6.0;
const RETURNS_AT_S: f64 = 12.0;
const LOWER_BITS: u64 = 80_000_000;
/// A rate is followed when so much of it goes through, over so many bins.
const FOLLOWED: f64 = 0.9;
const FOLLOWED_BINS: usize = 3;

/// Who else is on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rival {
    None,
    Same,
    Tcp,
}

#[derive(Clone)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) spec: LinkSpec,
    pub(super) seconds: f64,
    pub(super) requests_at: Option<f64>,
    pub(super) rival: Rival,
    changes: bool,
}

pub(super) fn all() -> Vec<Case> {
    let link = |name, what, spec| Case {
        name,
        what,
        spec,
        seconds: 16.0,
        requests_at: Some(REQUESTS_AT_S),
        rival: Rival::None,
        changes: false,
    };
    let lossy = |probability| LinkSpec {
        loss: Loss::Random { probability },
        ..LinkSpec::c()
    };
    let change = |at, bits_per_second| Change {
        at: Duration::from_secs_f64(at),
        action: Action::Rate { bits_per_second },
    };
    let full = LinkSpec::c().rate_bits_per_second;
    let changing = LinkSpec {
        loss: Loss::None,
        schedule: vec![change(FALLS_AT_S, LOWER_BITS), change(RETURNS_AT_S, full)],
        ..LinkSpec::c()
    };
    let shared = |name, what, rival| Case {
        seconds: 40.0,
        requests_at: None,
        rival,
        ..link(name, what, LinkSpec::b())
    };
    vec![
        link("A", "1 Gbit/s, 1 ms", LinkSpec::a()),
        link("B", "100 Mbit/s, 50 ms", LinkSpec::b()),
        link("C", "200 Mbit/s, 100 ms, 0.1% loss", LinkSpec::c()),
        link("C-loss-1", "200 Mbit/s, 100 ms, 1% loss", lossy(0.01)),
        link("C-loss-3", "200 Mbit/s, 100 ms, 3% loss", lossy(0.03)),
        Case {
            seconds: 18.0,
            requests_at: None,
            changes: true,
            ..link(
                "C-changes",
                "200, then 80, then 200 Mbit/s, 100 ms",
                changing,
            )
        },
        shared("B-two", "two connections on 100 Mbit/s, 50 ms", Rival::Same),
        shared("B-tcp", "beside TCP cubic on 100 Mbit/s, 50 ms", Rival::Tcp),
    ]
}

impl Case {
    /// What was seen, in figures. `begun`: when the first byte was there, in seconds of the link.
    pub(super) fn figures(
        &self,
        seen: &Seen,
        begun: f64,
        dropped: f64,
    ) -> Vec<(&'static str, f64)> {
        let payload = self.spec.rate_bits_per_second as f64 / 8.0 * PAYLOAD_SHARE;
        let first = seen.flows.first().map_or(&[][..], Vec::as_slice);
        let mut figures = Vec::new();
        if self.changes {
            let lower = LOWER_BITS as f64 / 8.0 * PAYLOAD_SHARE;
            let share = rate(first, START_S, FALLS_AT_S - begun) / payload;
            figures.push(("share of the payload maximum", share));
            let fell = followed_after(first, FALLS_AT_S - begun, lower);
            figures.push(("lower rate followed after, s", fell));
            let returned = followed_after(first, RETURNS_AT_S - begun, payload);
            figures.push(("full rate followed after, s", returned));
        } else if self.rival == Rival::None {
            let share = rate(first, START_S, REQUESTS_AT_S) / payload;
            figures.push(("share of the payload maximum", share));
            let beside = rate(first, REQUESTS_AT_S, self.seconds) / payload;
            figures.push(("share beside requests", beside));
            figures.push(("request p50, ms", quantile_ms(&seen.requests_us, 0.5)));
            figures.push(("request p99, ms", quantile_ms(&seen.requests_us, 0.99)));
        } else {
            let other = match self.rival {
                Rival::Tcp => seen.tcp.as_slice(),
                _ => seen.flows.get(1).map_or(&[][..], Vec::as_slice),
            };
            for (name, flow) in [("share of the first", first), ("share of the other", other)] {
                figures.push((name, rate(flow, SHARED_FROM_S, self.seconds) / payload));
            }
        }
        figures.push(("dropped by the queue", dropped));
        figures
    }
}

/// Bytes a second from one second to another.
fn rate(bins: &[u64], from: f64, until: f64) -> f64 {
    let at = |seconds: f64| ((seconds / BIN.as_secs_f64()) as usize).min(bins.len());
    let delivered: u64 = bins[at(from)..at(until)].iter().sum();
    delivered as f64 / (until - from)
}

/// Seconds from `at` until about so many bytes a second went through for the first time.
fn followed_after(bins: &[u64], at: f64, wanted: f64) -> f64 {
    let from = ((at / BIN.as_secs_f64()) as usize).min(bins.len());
    let is_followed = |window: &[u64]| {
        let rate = window.iter().sum::<u64>() as f64 / window.len() as f64 / BIN.as_secs_f64();
        (FOLLOWED * wanted..=wanted / FOLLOWED).contains(&rate)
    };
    let found = bins[from..].windows(FOLLOWED_BINS).position(is_followed);
    found.map_or(f64::NAN, |bins| bins as f64 * BIN.as_secs_f64())
}

/// Of thousandths.
fn quantile_ms(thousandths_us: &[u64], quantile: f64) -> f64 {
    let at = (quantile * 1000.0) as usize;
    thousandths_us
        .get(at)
        .map_or(f64::NAN, |us| *us as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_from_bins() {
        let mut bins = vec![100; 20];
        bins.extend([40; 20]);
        assert_eq!(rate(&bins, 0.0, 2.0), 1000.0);
        assert_eq!(rate(&bins, 1.0, 3.0), 700.0);
        assert_eq!(
            rate(&bins, 3.0, 5.0),
            200.0,
            "nothing came in the last second"
        );
    }

    #[test]
    fn a_rate_is_followed_when_three_bins_are_near_it() {
        let mut bins = vec![100; 10];
        bins.extend([90, 70, 41, 40, 40, 40]);
        let after = followed_after(&bins, 1.0, 400.0);
        assert!((after - 0.2).abs() < 1e-9, "{after}");
        assert!(followed_after(&bins, 1.0, 5000.0).is_nan());
    }

    #[test]
    fn cases_have_names_of_their_own() {
        let names: std::collections::HashSet<_> = all().iter().map(|case| case.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
