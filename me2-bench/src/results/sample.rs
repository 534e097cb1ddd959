//! One migration.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    measure::Fared,
    network::{LinkBytes, LinkName},
};

/// A line of `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) schema_version: u32,
    pub(crate) link: LinkName,
    pub(crate) guest: String,
    pub(crate) scheme: String,
    /// Which repetition, from 1.
    pub(crate) run: u32,
    /// Which migration of the experiment, from 1.
    pub(crate) order: u32,
    pub(crate) exit_code: i32,
    pub(crate) came: Came,
    /// Why it is no good; null if it is.
    pub(crate) error: Option<String>,
    pub(crate) total_time_ms: f64,
    pub(crate) link_bytes: LinkBytes,
    /// Pages of the guest that hold contents.
    pub(crate) fill_pages: u64,
    pub(crate) reported_downtime_ms: Option<f64>,
    #[serde(flatten)]
    pub(crate) fared: Fared,
    pub(crate) report: Value,
}

/// What came of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Came {
    /// The guest is at the destination, and well.
    Moved,
    /// Given up after the time limit; the guest is at the source, and well.
    DidNotConverge,
    /// It ended otherwise, or the guest is not well: `error` says how.
    Failed,
}

#[cfg(test)]
impl Sample {
    /// One that moved, for tests.
    pub(crate) fn of(link: LinkName, guest: &str, scheme: &str, seconds: f64, bytes: u64) -> Self {
        Self {
            schema_version: super::SCHEMA_VERSION,
            link,
            guest: guest.into(),
            scheme: scheme.into(),
            run: 1,
            order: 1,
            exit_code: 0,
            came: Came::Moved,
            error: None,
            total_time_ms: seconds * 1e3,
            link_bytes: LinkBytes {
                forth: bytes,
                ..LinkBytes::default()
            },
            fill_pages: 1,
            reported_downtime_ms: None,
            fared: Fared {
                downtime_ms: Some(10.0 * seconds),
                guest_silence_ms_max: Some(20.0 * seconds),
                ..Fared::default()
            },
            report: Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_one_flat_line_and_comes_back() {
        let sample = Sample::of(LinkName::Unlimited, "kv", "me2-hybrid", 1.5, 7);
        let line = serde_json::to_string(&sample).unwrap();
        assert!(!line.contains('\n'));
        assert!(line.contains("\"link\":\"unlimited\""), "{line}");
        assert!(line.contains("\"guest_silence_ms_max\":30.0"), "{line}");
        assert_eq!(serde_json::from_str::<Sample>(&line).unwrap(), sample);
    }
}
