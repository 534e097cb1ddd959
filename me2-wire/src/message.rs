//! Control messages: what the two sides say to each other beside pages.
//!
//! They travel in frames of kind `Message`, encoded with postcard, on the ordered control stream;
//! a [`PageRequest`] opens a stream of its own. A new field or message is a new protocol version.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Version, blob::StateBlob, range::RangeList};

/// Longest text (a reason, a name) that is taken from a peer, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Most reasons against a VM that are told.
pub const REASONS_MAX: usize = 16;

/// Most buckets in which the waits of faults are counted.
pub const FAULT_WAITS_MAX: usize = 512;

/// Ranges that fit into one message, whatever they are: 10 bytes each at most.
pub const RANGES_PER_MESSAGE_MAX: usize = 500_000;

/// A peer's text, fit for a log and a terminal: bounded, without control characters.
pub fn clean_text(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(TEXT_BYTES_MAX / 4).map(clean).collect()
}

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("malformed control message")]
pub struct MalformedMessage(#[source] postcard::Error);

/// Encodes a message as the payload of a `Message` frame.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("messages have no unencodable parts")
}

/// Decodes the payload of a `Message` frame; trailing bytes are an error. Allocates no more than
/// in proportion to the payload, whose length the frame's cap bounds.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, MalformedMessage> {
    let (message, rest) = postcard::take_from_bytes(payload).map_err(MalformedMessage)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(MalformedMessage(postcard::Error::DeserializeBadEncoding))
    }
}

/// Why a source connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To move a VM here.
    Migrate,
    /// To go on with a migration whose connection broke.
    Recover,
    /// To ask whether a VM would be taken, and to bring none.
    Check,
}

/// How memory travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// A short pre-copy, the rest after the resume.
    Hybrid,
    /// All before the resume, while the VM runs at the source.
    Precopy,
    /// All after the resume.
    Postcopy,
    /// All while the VM stands still.
    StopAndCopy,
}

/// First message of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest protocol version that the source speaks.
    pub version_min: u16,
    /// Newest protocol version that the source speaks.
    pub version_max: u16,
    /// Identity of the migration.
    pub migration: [u8; 16],
    /// The attempt; a later attempt has a larger number.
    pub epoch: u64,
    /// New, or to go on.
    pub purpose: Purpose,
    /// Boot of the source's host, to see whether both sides share a clock.
    pub boot_id: [u8; 16],
}

/// The destination's side of the ownership, as told to a source that reconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerOwnership {
    /// This process knows nothing of the migration, which proves nothing.
    Unknown,
    /// It never ran this epoch and promises that it never will.
    Refused,
    /// The handover is in; the VM does not run yet.
    Accepted,
    /// It runs the VM; pages may be missing.
    Running,
    /// It runs the VM, and has the source's acknowledgement.
    Complete,
}

/// Final versions and state: with this message the VM changes hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The attempt.
    pub epoch: u64,
    /// Version of the pages below.
    pub version: Version,
    /// Pages whose final version is `version`; all others keep the one announced before.
    pub pages: RangeList,
    /// State of vCPUs and devices.
    #[serde(deserialize_with = "crate::blob::bounded_list")]
    pub state: Vec<StateBlob>,
    /// When the last vCPU stopped, in nanoseconds of the source's monotonic clock.
    pub stopped_ns: u64,
    /// Time from the saving of the clocks until this message was written, in nanoseconds.
    pub since_save_ns: u64,
    /// Resume only after all pages are in and the whole memory was hashed and compared.
    pub verify_full: bool,
}

/// From the source to the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDestination {
    /// Opens the connection.
    Hello(Hello),
    /// What comes.
    Machine {
        /// The machine document, in JSON.
        document: Vec<u8>,
        /// How its memory is to travel; for people, the destination does the same for all.
        scheme: Scheme,
    },
    /// These pages are (being) sent in this version, never smaller than one announced before. A
    /// list of more than [`RANGES_PER_MESSAGE_MAX`] ranges comes in several of these.
    Announce {
        /// Their version.
        version: Version,
        /// The pages.
        pages: RangeList,
    },
    /// Everything announced so far is written to the bulk streams: answer when it is in.
    PassEnd {
        /// Version of the last announcement.
        version: Version,
    },
    /// The VM changes hands.
    Handover(Box<Handover>),
    /// The answer to `Verify`: how many pages differ.
    Verified {
        /// Number of pages that differ.
        mismatched: u64,
    },
    /// These leaves of the tree differ: send their page hashes.
    ExpandLeaves {
        /// Leaf numbers, a bounded few.
        leaves: Vec<u32>,
    },
    /// `Complete` was received and the hashes compared. With no mismatch, the source lets go.
    CompleteAck {
        /// The attempt.
        epoch: u64,
        /// Number of pages that differ.
        mismatched: u64,
        /// Frame numbers of the first few of them.
        frames: Vec<u64>,
    },
    /// What was announced last of these pages will not come: a later version will, announced with
    /// the handover at the latest. Before a `PassEnd`, when a pass ends early; several for a long
    /// list.
    Withdraw {
        /// The pages.
        pages: RangeList,
    },
}

/// From the destination to the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToSource {
    /// Accepts the connection.
    Hello {
        /// The protocol version to speak.
        version: u16,
        /// Boot of the destination's host.
        boot_id: [u8; 16],
    },
    /// The machine is built and memory is admitted: pages may come.
    Ready,
    /// It will not run this epoch, and never has.
    Refused {
        /// The attempt.
        epoch: u64,
        /// Why, for people.
        reason: String,
    },
    /// Everything announced up to this version is in.
    PassReceived {
        /// The version of the `PassEnd` answered.
        version: Version,
    },
    /// With `verify_full`: the hash tree over the real memory, before the VM runs.
    Verify {
        /// A hash for each 512 pages.
        leaves: Vec<u64>,
    },
    /// The answer to `ExpandLeaves`, a message a leaf.
    LeafHashes {
        /// Leaf number.
        leaf: u32,
        /// Hashes of its pages.
        hashes: Vec<u64>,
    },
    /// The VM runs at the destination.
    Resumed {
        /// The attempt.
        epoch: u64,
        /// When and how.
        timing: ResumeTiming,
    },
    /// Every page is in its final version.
    Complete {
        /// The attempt.
        epoch: u64,
        /// A hash for each 512 pages.
        leaves: Vec<u64>,
        /// What the destination counted.
        statistics: DestinationStatistics,
    },
    /// A part of the list of missing pages that is too long for `Recovering`, before it.
    Missing {
        /// Some of the pages.
        pages: RangeList,
    },
    /// The answer to a source that recovers.
    Recovering {
        /// The attempt that the destination knows.
        epoch: u64,
        /// Its side of the ownership.
        ownership: PeerOwnership,
        /// Pages still missing, besides those of `Missing` messages.
        missing: RangeList,
    },
    /// What is left, now and then during post-copy.
    Progress {
        /// Pages still missing.
        missing_pages: u64,
        /// Page faults so far that needed the source.
        faults: u64,
    },
    /// The answer to a machine that was only asked about.
    Checked {
        /// Why it would be refused, for people: at most [`REASONS_MAX`]. None: it would be taken.
        reasons: Vec<String>,
    },
    /// How long faults waited that needed the source, before `Complete`; from version
    /// [`FAULT_WAITS_SINCE`](crate::FAULT_WAITS_SINCE) on.
    FaultWaits {
        /// Up to so many microseconds, and longer than those before; so many faults. At most
        /// [`FAULT_WAITS_MAX`].
        buckets: Vec<[u64; 2]>,
    },
}

/// How the destination resumed; times in nanoseconds of its monotonic clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeTiming {
    /// The handover message was in.
    pub received_ns: u64,
    /// State was restored.
    pub restored_ns: u64,
    /// The first vCPU entered the guest.
    pub started_ns: u64,
    /// Pages missing at that moment.
    pub missing_pages: u64,
    /// Half of the smallest round trip that the destination saw.
    pub half_round_trip_ns: u64,
}

/// What only the destination can count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DestinationStatistics {
    /// Page faults that needed the source.
    pub faults: u64,
    /// Page faults answered from what had arrived already, or with zeros.
    pub local_faults: u64,
    /// Pages that came as the answer to a fault, neighbours included.
    pub demand_pages: u64,
    /// Pages that came unasked.
    pub pushed_pages: u64,
    /// Pages that came although they were there already.
    pub duplicate_pages: u64,
    /// Time from fault to placement: median, in microseconds.
    pub fault_latency_p50_us: u64,
    /// The same: 99th percentile.
    pub fault_latency_p99_us: u64,
    /// The same: maximum.
    pub fault_latency_max_us: u64,
    /// Time that vCPUs waited for pages, all together, in microseconds.
    pub vcpu_blocktime_us: u64,
    /// From the first instruction to the guest's first sign of progress, in microseconds.
    pub first_progress_us: Option<u64>,
    /// Operations per second of the built-in guest, from resume to completion.
    pub guest_rate: Option<f64>,
    /// Of the first second behind the resume, or until completion if that is sooner.
    pub first_second: Option<FirstSecond>,
}

/// What the guest touched first, by the probes of the destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstSecond {
    /// Pages that it touched.
    pub touched_pages: u64,
    /// Those of them that had to be asked for.
    pub missed_pages: u64,
}

/// What is likely to be wanted behind a page: so many more, at this distance from each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Likely {
    /// How many.
    pub pages: u8,
    /// From one to the next, in pages; may be negative.
    pub stride: i32,
}

/// First (and only) message of a stream that asks for pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRequest {
    /// Wanted at once, the most urgent first.
    pub wanted: Vec<u32>,
    /// What is likely to be wanted behind each of them.
    pub likely: Likely,
}

/// Most pages in one request.
pub const REQUEST_PAGES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let message = ToSource::Resumed {
            epoch: 3,
            timing: ResumeTiming {
                missing_pages: 17,
                ..Default::default()
            },
        };
        assert_eq!(decode::<ToSource>(&encode(&message)).unwrap(), message);
    }

    #[test]
    fn a_peers_text_is_cleaned() {
        assert_eq!(clean_text("no\x1b[2J room\n"), "no [2J room ");
        assert!(clean_text(&"\u{1F600}".repeat(5000)).len() <= TEXT_BYTES_MAX);
    }

    #[test]
    fn garbage_is_an_error() {
        for payload in [&[][..], &[0xff; 40], &[1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]] {
            assert!(decode::<ToDestination>(payload).is_err());
        }
        let mut long = encode(&ToSource::Ready);
        long.push(0);
        assert!(decode::<ToSource>(&long).is_err());
    }
}
