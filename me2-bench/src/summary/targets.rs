//! What a hybrid migration is to keep to, and what it did, by its report and the guest's operations.

use serde_json::{Value, json};

use crate::{
    results::{Came, Sample},
    target::Target,
};

/// A miss is a request and its answer, and room for what is under way before that.
const MISS_ROUND_TRIPS: f64 = 1.5;
/// What a gap may have beyond the link's part, ms.
const GAP_BEYOND_MS: f64 = 10.0;
/// The guest works again as before after so long, or after so many times of the final set's way.
const RECOVERY_S: f64 = 1.0;
const RECOVERY_FINAL_SETS: f64 = 1.2;
/// Exploration and pre-copy leave the guest so much of its speed.
const SPEED_MIN: f64 = 0.9;
const FAULT_P50_ROUND_TRIPS: f64 = 1.1;
const FAULT_P50_BEYOND_MS: f64 = 0.5;
const FAULT_P99_ROUND_TRIPS: f64 = 1.5;
/// Of the pages first touched within a second so many are there already.
const PRESENT_MIN: f64 = 0.9;
/// Where more is lost than this, some answers have to be sent twice: no target for them.
const FAULT_P99_LOSS_PPM_MAX: u32 = 1000;

/// A figure and its target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    /// `None`: not known, or there was nothing to measure.
    pub(crate) value: Option<f64>,
    pub(crate) target: Target,
}

/// One migration: its figures, in the order in which they are shown, and what else belongs to them.
pub(crate) struct Kept {
    pub(crate) figures: [Figure; 6],
    /// How long the final dirty set takes on the link, if it goes with the handover; else 0.
    pub(crate) final_set_ms: f64,
    pub(crate) faults: Option<u64>,
    /// Of the distinct pages first touched within a second after the resume.
    pub(crate) touched: Option<Touched>,
    mismatched_pages: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) pages: u64,
    /// Those that were there already.
    pub(crate) present: u64,
}

impl Kept {
    /// `None` for one that did not move, and for a link without parameters.
    pub(crate) fn of(sample: &Sample) -> Option<Self> {
        let link = sample.link.parameters()?;
        if sample.came != Came::Moved {
            return None;
        }
        let report = &sample.report;
        let rtt_ms = f64::from(link.rtt_ms);
        let final_set_ms = report["handover"]["final_set_ms"].as_f64().unwrap_or(0.0);
        let postcopy = &report["postcopy"];
        let faults = postcopy["faults"].as_u64();
        let latency_ms = |quantile: &str| {
            let us = postcopy["fault_latency_us"][quantile].as_f64();
            us.filter(|_| faults > Some(0)).map(|us| us / 1e3)
        };
        let fared = &sample.fared;
        let gap_ms = rtt_ms / 2.0 + GAP_BEYOND_MS + final_set_ms;
        let miss_ms = MISS_ROUND_TRIPS * rtt_ms + GAP_BEYOND_MS;
        // A gap may be that of one miss, if there was any.
        let gap_ms = if faults > Some(0) {
            gap_ms.max(miss_ms)
        } else {
            gap_ms
        };
        let recovery_s = (RECOVERY_FINAL_SETS * final_set_ms + rtt_ms) / 1e3;
        let is_p99_expected = link.loss.ppm() <= FAULT_P99_LOSS_PPM_MAX;
        let figure = |name, value, target| Figure {
            name,
            value,
            target,
        };
        let touched = &postcopy["touched_first_second"];
        let touched = touched["pages"].as_u64().zip(touched["present"].as_u64());
        let touched = touched.map(|(pages, present)| Touched { pages, present });
        Some(Self {
            figures: [
                figure(
                    "longest_gap_ms",
                    fared.guest_silence_ms_max,
                    Target::AtMost(gap_ms),
                ),
                figure(
                    "recovered_90_percent_s",
                    fared.recovered_90_percent_s,
                    Target::AtMost(recovery_s.max(RECOVERY_S)),
                ),
                figure(
                    "speed_until_stop",
                    fared.speed_until_stop,
                    Target::AtLeast(SPEED_MIN),
                ),
                figure(
                    "fault_p50_ms",
                    latency_ms("p50"),
                    Target::AtMost(FAULT_P50_ROUND_TRIPS * rtt_ms + FAULT_P50_BEYOND_MS),
                ),
                figure(
                    "fault_p99_ms",
                    latency_ms("p99"),
                    match is_p99_expected {
                        true => Target::AtMost(FAULT_P99_ROUND_TRIPS * rtt_ms),
                        false => Target::None,
                    },
                ),
                figure(
                    "present_when_touched",
                    touched.and_then(Touched::share),
                    Target::AtLeast(PRESENT_MIN),
                ),
            ],
            final_set_ms,
            faults,
            touched,
            mismatched_pages: report["verify"]["mismatched_pages"].as_u64(),
        })
    }

    /// For programs.
    pub(crate) fn document(&self, sample: &Sample) -> Value {
        let mut row = json!({
            "link": sample.link,
            "guest": sample.guest,
            "scheme": sample.scheme,
            "run": sample.run,
            "final_set_ms": self.final_set_ms,
            "faults": self.faults,
            // It would not have moved otherwise.
            "guest_errors": 0,
            "mismatched_pages": self.mismatched_pages,
        });
        for figure in &self.figures {
            row[figure.name] = json!({
                "value": figure.value,
                "target": figure.target.value(),
                "is_met": figure.is_met(),
            });
        }
        if let Some(touched) = self.touched {
            row["touched_first_second"] = json!({
                "pages": touched.pages,
                "present": touched.present,
                "share": touched.share(),
            });
        }
        row
    }
}

impl Touched {
    pub(crate) fn share(self) -> Option<f64> {
        crate::statistics::ratio(self.present as f64, self.pages as f64)
    }
}

impl Figure {
    /// `None` where there is nothing to compare.
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.target.is_met(self.value?)
    }

    /// How far it is from its target, as a ratio: above 1 it misses it; `None` without one.
    pub(crate) fn beyond(&self) -> Option<f64> {
        let (value, target) = (self.value?, self.target.value()?);
        match self.target {
            Target::AtLeast(_) => crate::statistics::ratio(target, value),
            _ => crate::statistics::ratio(value, target),
        }
    }

    /// The figure beside its target, with the sign that holds: `31.0 ≤ 85.0`, `97.0 > 85.0`.
    pub(crate) fn told(&self, digits: usize) -> String {
        let Some(value) = self.value else {
            return "–".to_owned();
        };
        let (sign, target) = match (self.target, self.is_met()) {
            (Target::AtMost(target), Some(true)) => ('≤', target),
            (Target::AtMost(target), _) => ('>', target),
            (Target::AtLeast(target), Some(true)) => ('≥', target),
            (Target::AtLeast(target), _) => ('<', target),
            (Target::None, _) => return format!("{value:.digits$}"),
        };
        format!("{value:.digits$} {sign} {target:.digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::LinkName;

    /// On a link, with a gap and a report.
    fn sample(link: &str, gap_ms: f64, report: Value) -> Sample {
        let link: LinkName = link.parse().unwrap();
        let mut sample = Sample::of(link, "mixed", "me2-hybrid", 1.0, 1);
        sample.fared.guest_silence_ms_max = Some(gap_ms);
        sample.fared.recovered_90_percent_s = Some(1.2);
        sample.fared.speed_until_stop = Some(0.85);
        sample.report = report;
        sample
    }

    fn figure(sample: &Sample, name: &str) -> Figure {
        let kept = Kept::of(sample).expect("it moved");
        let mut figures = kept.figures.into_iter();
        figures.find(|figure| figure.name == name).unwrap()
    }

    #[test]
    fn a_gap_is_half_a_round_trip_and_the_final_set() {
        let gap = |gap_ms, report| figure(&sample("B", gap_ms, report), "longest_gap_ms");
        let without = gap(36.0, json!({}));
        assert_eq!(without.target, Target::AtMost(35.0));
        assert_eq!(without.is_met(), Some(false));
        let with = gap(36.0, json!({ "handover": { "final_set_ms": 20.0 } }));
        assert_eq!(
            (with.target, with.is_met()),
            (Target::AtMost(55.0), Some(true))
        );
    }

    #[test]
    fn a_miss_may_take_longer_but_only_if_there_was_one() {
        let faults = |count| json!({ "postcopy": { "faults": count } });
        let gap = |gap_ms, count| figure(&sample("B", gap_ms, faults(count)), "longest_gap_ms");
        assert_eq!(gap(80.0, 1).is_met(), Some(true));
        assert_eq!(gap(80.0, 0).is_met(), Some(false));
        assert_eq!(gap(86.0, 1).is_met(), Some(false));
        assert_eq!(gap(86.0, 1).told(0), "86 > 85");
    }

    #[test]
    fn recovery_has_a_second_or_what_the_final_set_takes() {
        let recovered = |report| figure(&sample("C", 1.0, report), "recovered_90_percent_s");
        let short = recovered(json!({}));
        assert_eq!(
            (short.target, short.is_met()),
            (Target::AtMost(1.0), Some(false))
        );
        let long = recovered(json!({ "handover": { "final_set_ms": 1000.0 } }));
        let Target::AtMost(target) = long.target else {
            panic!("{long:?}");
        };
        assert!((target - 1.3).abs() < 1e-9, "{target}");
        assert_eq!(long.is_met(), Some(true));
    }

    #[test]
    fn fault_latencies_are_in_round_trips_where_few_packets_are_lost() {
        let report = json!({
            "postcopy": { "faults": 3, "fault_latency_us": { "p50": 110_400, "p99": 150_100 } },
        });
        let on_c = sample("C", 1.0, report.clone());
        assert_eq!(figure(&on_c, "fault_p50_ms").is_met(), Some(true));
        assert_eq!(figure(&on_c, "fault_p99_ms").is_met(), Some(false));
        let lossy = sample("rtt100-rate200-loss1", 1.0, report);
        assert_eq!(figure(&lossy, "fault_p99_ms").is_met(), None);
        assert_eq!(figure(&lossy, "fault_p99_ms").told(0), "150");
        // No fault, no latency: the report's zero is none.
        let report = json!({ "postcopy": { "faults": 0, "fault_latency_us": { "p50": 0 } } });
        let none = figure(&sample("C", 1.0, report), "fault_p50_ms");
        assert_eq!((none.value, none.is_met()), (None, None));
    }

    #[test]
    fn speed_must_not_fall_below_nine_tenths() {
        let mut sample = sample("A", 1.0, Value::Null);
        let speed = figure(&sample, "speed_until_stop");
        assert_eq!(
            (speed.is_met(), speed.told(2)),
            (Some(false), "0.85 < 0.90".into())
        );
        sample.fared.speed_until_stop = Some(0.9);
        assert_eq!(figure(&sample, "speed_until_stop").is_met(), Some(true));
    }

    #[test]
    fn what_was_touched_first_is_told_if_it_is_known() {
        let report =
            json!({ "postcopy": { "touched_first_second": { "pages": 8, "present": 6 } } });
        let with = sample("A", 1.0, report);
        let document = Kept::of(&with).unwrap().document(&with);
        assert_eq!(document["touched_first_second"]["share"], 0.75);
        assert_eq!(document["present_when_touched"]["is_met"], false);
        let without = sample("A", 1.0, Value::Null);
        let document = Kept::of(&without).unwrap().document(&without);
        assert_eq!(document["touched_first_second"], Value::Null);
    }

    #[test]
    fn what_did_not_move_has_no_figures() {
        let mut sample = sample("A", 1.0, Value::Null);
        sample.came = Came::DidNotConverge;
        assert!(Kept::of(&sample).is_none());
    }
}
