//! QEMU's ways of migrating, and what each wants to be told.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::qmp::{Change, Qmp};
use crate::{guest::Guest, units::MIB};

/// Milliseconds that pre-copy aims at.
const DOWNTIME_LIMIT_MS: u64 = 300;
/// More than any link here, bytes per second.
const BANDWIDTH_MAX: u64 = 100 << 30;
/// As many as there are cores on a small host; more gain nothing on these links.
const MULTIFD_CHANNELS: u64 = 2;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Passes until the rest fits into the downtime limit.
    Precopy,
    /// The same, repeated pages as differences.
    Xbzrle,
    /// The same over two connections, compressed.
    MultifdZstd,
    /// Moved as soon as that is allowed.
    Postcopy,
    /// The same, with a connection of their own for faults.
    PostcopyPreempt,
    /// One pass, then post-copy.
    Hybrid,
}

impl Mode {
    pub(crate) const ALL: [Self; 6] = [
        Self::Precopy,
        Self::Xbzrle,
        Self::MultifdZstd,
        Self::Postcopy,
        Self::PostcopyPreempt,
        Self::Hybrid,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Precopy => "precopy",
            Self::Xbzrle => "xbzrle",
            Self::MultifdZstd => "multifd-zstd",
            Self::Postcopy => "postcopy",
            Self::PostcopyPreempt => "postcopy-preempt",
            Self::Hybrid => "hybrid",
        }
    }

    /// What is switched on, at both ends.
    pub(super) fn capabilities(self) -> Vec<&'static str> {
        let own: &[&str] = match self {
            Self::Precopy => &[],
            Self::Xbzrle => &["xbzrle"],
            Self::MultifdZstd => &["multifd"],
            Self::Postcopy | Self::Hybrid => &["postcopy-ram"],
            Self::PostcopyPreempt => &["postcopy-ram", "postcopy-preempt"],
        };
        [&["events"], own].concat()
    }

    pub(super) fn parameters(self, guest: &Guest) -> Value {
        let mut parameters = json!({
            "max-bandwidth": BANDWIDTH_MAX,
            "downtime-limit": DOWNTIME_LIMIT_MS,
        });
        match self {
            Self::Xbzrle => parameters["xbzrle-cache-size"] = json!(xbzrle_cache(guest)),
            Self::MultifdZstd => {
                parameters["multifd-channels"] = json!(MULTIFD_CHANNELS);
                parameters["multifd-compression"] = json!("zstd");
            }
            _ => {}
        }
        parameters
    }

    pub(super) fn set_up(self, qmp: &mut Qmp, guest: &Guest) -> anyhow::Result<()> {
        let capabilities = self.capabilities();
        let each = capabilities.iter();
        let each: Vec<Value> = each
            .map(|name| json!({ "capability": name, "state": true }))
            .collect();
        qmp.execute("migrate-set-capabilities", json!({ "capabilities": each }))?;
        qmp.execute("migrate-set-parameters", self.parameters(guest))?;
        Ok(())
    }

    /// Whether this is the moment for `migrate-start-postcopy`.
    pub(super) fn switches_at(self, change: &Change) -> bool {
        match self {
            Self::Precopy | Self::Xbzrle | Self::MultifdZstd => false,
            Self::Postcopy | Self::PostcopyPreempt => change.status() == Some("active"),
            // The second pass begins: the first has sent everything once.
            Self::Hybrid => matches!(change, Change::Pass(2..)),
        }
    }
}

/// Room for all that is rewritten: its lookup table has no collisions to spare, so twice the hot set;
/// a power of two.
fn xbzrle_cache(guest: &Guest) -> u64 {
    (2 * guest.hot_bytes)
        .max(64 * MIB)
        .next_power_of_two()
        .min(guest.memory_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_switches_at_its_own_moment() {
        let active = Change::Status("active".into());
        let setup = Change::Status("setup".into());
        let [first, second] = [Change::Pass(1), Change::Pass(2)];
        let moments =
            |mode: Mode| [&setup, &active, &first, &second].map(|at| mode.switches_at(at));
        assert_eq!(moments(Mode::Precopy), [false; 4]);
        assert_eq!(moments(Mode::Postcopy), [false, true, false, false]);
        assert_eq!(moments(Mode::Hybrid), [false, false, false, true]);
    }

    #[test]
    fn the_cache_holds_the_hot_set() {
        let guest = |hot_bytes| Guest {
            name: "g".into(),
            memory_bytes: 1024 * MIB,
            cpus: 1,
            cmdline: String::new(),
            module: None,
            filled_bytes: 0,
            hot_bytes,
            filled_percent_min: 0,
        };
        assert_eq!(xbzrle_cache(&guest(0)), 64 * MIB);
        assert_eq!(xbzrle_cache(&guest(96 * MIB)), 256 * MIB);
        assert_eq!(xbzrle_cache(&guest(900 * MIB)), 1024 * MIB);
    }
}
