//! What the transport is to reach, by case and figure; of medians.

use crate::target::Target::{self, AtLeast, AtMost};

const SHARE: &str = "share of the payload maximum";
const P50: &str = "request p50, ms";
const P99: &str = "request p99, ms";
const DROPPED: &str = "dropped by the queue";

const TARGETS: [(&str, &str, Target); 19] = [
    ("A", SHARE, AtLeast(0.93)),
    ("A", P50, AtMost(3.3)),
    ("A", P99, AtMost(9.0)),
    ("A", DROPPED, AtMost(0.02)),
    ("B", SHARE, AtLeast(0.96)),
    ("B", P50, AtMost(54.0)),
    ("B", P99, AtMost(65.0)),
    ("B", DROPPED, AtMost(0.01)),
    ("C", SHARE, AtLeast(0.96)),
    ("C", P50, AtMost(104.0)),
    ("C", P99, AtMost(135.0)),
    ("C", DROPPED, AtMost(0.01)),
    ("C-loss-1", SHARE, AtLeast(0.96)),
    ("C-loss-1", DROPPED, AtMost(0.01)),
    ("C-loss-3", SHARE, AtLeast(0.5)),
    ("C-loss-3", DROPPED, AtMost(0.01)),
    ("C-changes", "lower rate followed after, s", AtMost(1.0)),
    ("C-changes", "full rate followed after, s", AtMost(2.0)),
    // 30% of its fair half.
    ("B-tcp", "share of the other", AtLeast(0.15)),
];

pub(super) fn target(case: &str, figure: &str) -> Target {
    let mut all = TARGETS.iter();
    let found = all.find(|(of_case, name, _)| *of_case == case && *name == figure);
    found.map_or(Target::None, |(_, _, target)| *target)
}

#[cfg(test)]
mod tests {
    use super::{super::cases, *};

    #[test]
    fn every_target_has_its_case() {
        for (case, _, _) in TARGETS {
            assert!(
                cases::all().iter().any(|known| known.name == case),
                "{case}"
            );
        }
        assert_eq!(target("B", "share beside requests"), Target::None);
        assert_eq!(target("B", SHARE), AtLeast(0.96));
    }
}
