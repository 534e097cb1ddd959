//! What a migration did, in numbers: the one document that people, scripts and
//! experiments read.
//!
//! Field names follow QEMU's `query-migrate`, in snake_case, with the unit
//! last. Times are milliseconds and may have fractions; counts are integers.
//! What did not happen is 0, what is not known is null.

mod human;

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The version of the document's shape; it grows when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// The report of one migration. [`Default`] is that of one that failed before it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// [`SCHEMA_VERSION`]; the first field of the document.
    pub schema_version: u32,
    /// How it ended.
    pub status: Status,
    /// How the memory was to travel.
    pub mode: Mode,
    /// Why it did not complete.
    pub error: Option<String>,
    /// From the request to the acknowledged completion.
    pub total_time_ms: f64,
    /// Connecting, checks, building the machine at the destination.
    pub setup_time_ms: f64,
    /// All passes together.
    pub precopy_time_ms: f64,
    /// From the last instruction at the source to the first at the destination.
    pub downtime_ms: f64,
    /// How the downtime was measured; null if the VM was never stopped.
    pub downtime_source: Option<DowntimeSource>,
    /// What the downtime is made of.
    pub downtime: Downtime,
    /// From the stop to the first operation that the guest itself tells of.
    pub first_progress_ms: Option<f64>,
    /// From the resume to the last page.
    pub postcopy_time_ms: f64,
    /// What was found out before the first page was sent.
    pub explore: Explore,
    /// The guest's memory and what of it was sent.
    pub ram: Ram,
    /// All bytes that QUIC sent from the source, headers and retransmissions included.
    pub wire_bytes: u64,
    /// How the pages were encoded: how many in which way.
    pub codec: Codec,
    /// What the encoding cost and gained.
    pub encoding: Encoding,
    /// The passes while the VM ran at the source.
    pub precopy: Precopy,
    /// What a hybrid expected when it switched.
    #[serde(default)]
    pub switch: Switch,
    /// The flight between stop and resume.
    pub handover: Handover,
    /// What followed while the VM ran at the destination.
    pub postcopy: Postcopy,
    /// How the guest fared, where it tells.
    pub guest: Guest,
    /// What the probes did.
    pub ebpf: Ebpf,
    /// The link, as QUIC saw it.
    pub link: Link,
    /// The comparison of both copies.
    pub verify: Verify,
}

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The VM runs at the destination, every page is there.
    Completed,
    /// It did not: `error` says why and where the VM is.
    Failed,
    /// An operator ended it; the VM runs at the source.
    Cancelled,
    /// The link broke after the handover; `me2 recover` goes on.
    PostcopyPaused,
}

/// How the memory travels.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A short pre-copy of what is useful, then post-copy of the rest.
    #[default]
    Hybrid,
    /// Everything before the stop, repeated until little is left to change.
    Precopy,
    /// Everything after the resume.
    Postcopy,
    /// Everything while the VM is stopped.
    StopAndCopy,
}

/// How the downtime was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DowntimeSource {
    /// Both ends on one host: one monotonic clock.
    Monotonic,
    /// From the stop to the arrival of "resumed", less half of the minimal round trip.
    HalfRtt,
}

/// The parts of the downtime, in their order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Downtime {
    /// From the request until the last vCPU has stopped; the downtime begins only then.
    pub stop_ms: f64,
    /// Saving state.
    pub save_ms: f64,
    /// Reading the dirty log, what is sent while the VM stands still, and the way.
    pub transfer_ms: f64,
    /// Restoring state.
    pub restore_ms: f64,
    /// Until the first vCPU runs.
    pub start_ms: f64,
}

/// The guest's memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ram {
    /// The size of one page.
    pub page_size_bytes: u64,
    /// All of the guest's pages.
    pub total_pages: u64,
    /// Those found worth sending.
    pub useful_pages: u64,
    /// Holes that were never touched, as far as this host knows.
    pub untouched_pages: u64,
    /// Holes that the guest reported free, and has not touched since.
    pub free_pages: u64,
    /// Found to hold only zeros.
    pub zero_pages: u64,
    /// Page records sent, repeats included.
    pub sent_pages: u64,
    /// The same, times the page size: before any encoding.
    pub sent_logical_bytes: u64,
}

/// What was sent, by the way in which pages were encoded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Codec {
    /// As nothing but "zero".
    pub zero: u64,
    /// Run-length encoded, in chunks that were not compressed.
    pub rle: u64,
    /// As the difference to an earlier version.
    pub delta: u64,
    /// As "the same as that other page".
    pub reference: u64,
    /// In chunks compressed with zstd, none of the above.
    pub zstd: u64,
    /// As they are.
    pub raw: u64,
}

/// The encoding of all pages together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Encoding {
    /// Before chunks were compressed.
    pub plain_bytes: u64,
    /// As they were sent.
    pub encoded_bytes: u64,
    /// The same by codec. Chunks are compressed as a whole: the bytes of each are shared out by what
    /// its records have before that, and rounded down.
    #[serde(default)]
    pub by_codec: Codec,
    /// The time of all encoders together.
    pub busy_ms: f64,
}

/// What was found out about the memory before the first page was sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explore {
    /// How long it took: starting the dirty log, and what followed the set-up.
    pub time_ms: f64,
    /// Pages that hold memory, by the host's page tables: the truth.
    pub populated_pages: u64,
    /// Those that the probes saw the guest touch.
    pub populated_touched_pages: u64,
    /// Those that they did not see: loaded by the VMM, or mapped as a neighbour.
    pub populated_untouched_pages: u64,
    /// Pages that the probes saw the guest touch, and that hold no memory.
    pub touched_hole_pages: u64,
    /// What the guest came back to after its mappings were dropped; null if that was not looked at,
    /// since nothing was to be missing or a miss would have cost little.
    #[serde(default)]
    pub working_set: Option<WorkingSet>,
    /// What finding out cost the guest, this and what is learned during the passes.
    #[serde(default)]
    pub guest_cost: GuestCost,
}

/// What exploration cost the guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuestCost {
    /// How often the dirty log was looked at, besides between passes.
    pub looks: u64,
    /// Pages that these protected again: a fault each, if the guest writes them again.
    pub protected_pages: u64,
    /// Time of its vCPUs, all together, at most: these faults, and the window on its working set.
    pub time_ms: f64,
}

/// What the guest was working with, reads included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkingSet {
    /// Pages that it used.
    pub pages: u64,
    /// Faults that finding out cost it.
    pub faults: u64,
    /// Pages whose mappings were dropped.
    pub dropped_pages: u64,
    /// How long it took.
    pub time_ms: f64,
    /// Whether all of the memory had its turn.
    pub complete: bool,
}

/// The passes of the pre-copy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Precopy {
    /// How many.
    pub passes: u64,
    /// Page records in all of them.
    pub pages: u64,
    /// Encoded bytes of these.
    pub bytes: u64,
    /// Page records that were not sent, since the page was to change, or had changed, anyway.
    #[serde(default)]
    pub sends_saved: SendsSaved,
}

/// Page records that were not sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SendsSaved {
    /// Written during a pass, but before the page's turn had come: sent once, as it was by then.
    pub written_before_sent: u64,
    /// Left out of a pass, since they were written more often than they could travel.
    pub hot: u64,
}

/// What a hybrid expected when it switched, from the link, the dirty log, and what pages took that
/// were sent again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Switch {
    /// Pages written since they were sent.
    pub pending_pages: u64,
    /// Those of them that another pass would not have sent.
    pub hot_pages: u64,
    /// Pages that the guest writes, each counted once.
    pub dirty_pages_per_second: f64,
    /// Pages expected to be written during another pass.
    pub written_pages: f64,
    /// Pending pages that the guest was expected to want before they would have been pushed.
    pub wanted_pages: f64,
    /// What a page takes that is sent again.
    pub bytes_per_page: f64,
    /// What the link takes.
    pub rate_bytes_per_second: f64,
    /// There and back.
    pub round_trip_ms: f64,
    /// How long the guest may stand still for what was written last.
    pub final_set_limit_ms: f64,
    /// How long the guest was expected to stand still by switching then.
    pub stalls_ms: f64,
    /// The same, by switching after another pass.
    pub stalls_after_pass_ms: f64,
    /// How long that would have taken.
    pub pass_ms: f64,
}

/// The flight between stop and resume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Handover {
    /// Its size: state, versions, pages.
    pub bytes: u64,
    /// Pages that the destination lacked when the VM resumed.
    pub missing_pages: u64,
    /// Pages written last that went ahead of it, while the VM stood still.
    #[serde(default)]
    pub final_set_pages: u64,
    /// Encoded bytes of these.
    #[serde(default)]
    pub final_set_bytes: u64,
    /// What these take on the link, by its rate.
    #[serde(default)]
    pub final_set_ms: f64,
    /// Whether all of it was sent twice, against a lost packet.
    #[serde(default)]
    pub doubled: bool,
}

/// What happened after the resume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Postcopy {
    /// Accesses that had to wait for a missing page.
    pub faults: u64,
    /// Pages sent because a vCPU waited for them.
    pub demand_pages: u64,
    /// Pages sent without being asked for.
    pub pushed_pages: u64,
    /// Pages that arrived when they were there already.
    pub duplicate_pages: u64,
    /// How long a fault took, from the access until the page was in.
    pub fault_latency_us: FaultLatency,
    /// The sum of the times that vCPUs waited.
    pub vcpu_blocktime_ms: f64,
    /// Pages that the guest touched within a second of the resume, or until the completion if that
    /// came sooner; null if no probes ran at the destination.
    #[serde(default)]
    pub touched_first_second: Option<TouchedFirstSecond>,
}

/// What the guest touched first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TouchedFirstSecond {
    /// Pages, each counted once.
    pub pages: u64,
    /// Those of them that were there already.
    pub present: u64,
}

/// The distribution over all faults, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FaultLatency {
    /// The median.
    pub p50: u64,
    /// One in a hundred took longer.
    pub p99: u64,
    /// The longest.
    pub max: u64,
    /// All of them: so long at most, longer than those of the pair before, and how many faults that
    /// were. Empty, too, if the destination was a me2 that does not tell.
    #[serde(default)]
    pub buckets: Vec<[u64; 2]>,
}

/// The guest's own account: operations a second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Guest {
    /// Before the migration; null if the guest does not tell.
    pub rate_before: Option<f64>,
    /// From the request to the completion; null if the guest does not tell.
    pub rate_during: Option<f64>,
}

/// What the probes did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ebpf {
    /// Whether any probe was attached.
    pub attached: bool,
    /// All that are, as `raw_tracepoint:` and their names with `+` in between.
    pub probe: Option<String>,
    /// Why none was.
    pub reason: Option<String>,
    /// How often they fired for this VM; a fault that passes two counts twice.
    pub events: u64,
    /// Events that left no mark: frames beyond those followed, or fields that could not be read.
    pub lost: u64,
    /// Frames that the guest touched.
    pub touched_pages: u64,
    /// Frames that the guest wrote.
    pub written_pages: u64,
}

/// The link, as QUIC saw it at the source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// The smoothed round trip at the end.
    pub rtt_ms: f64,
    /// Packets sent and never acknowledged.
    pub lost_packets: u64,
    /// How often the congestion controller stepped back.
    pub congestion_events: u64,
    /// What the path delivers, as the congestion controller had measured it last; 0 if it could not,
    /// since a bandwidth cap was the limit all along.
    pub rate_bytes_per_second: u64,
    /// The largest UDP payload that the path was found to take; 0 if there was no connection.
    pub mtu_bytes: u64,
    /// What of this host, of the path or of me2's own bounds limited the transport: sentences, with
    /// the mend where there is one.
    pub limits: Vec<String>,
}

/// The comparison of both copies of the memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Verify {
    /// Hashed and compared, plus proved holes.
    pub pages: u64,
    /// Those that differ.
    pub mismatched_pages: u64,
    /// Whether the real memory was hashed, with the vCPUs held.
    pub full: bool,
}

impl Codec {
    /// All together.
    pub fn sum(&self) -> u64 {
        self.zero + self.rle + self.delta + self.reference + self.zstd + self.raw
    }
}

impl Report {
    /// The summary for people: 80 columns, several lines, with a newline at its end.
    pub fn render_human(&self) -> String {
        human::render(self)
    }
}

impl Default for Report {
    fn default() -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            status: Status::Failed,
            mode: Mode::default(),
            error: None,
            total_time_ms: 0.0,
            setup_time_ms: 0.0,
            precopy_time_ms: 0.0,
            downtime_ms: 0.0,
            downtime_source: None,
            downtime: Downtime::default(),
            first_progress_ms: None,
            postcopy_time_ms: 0.0,
            explore: Explore::default(),
            ram: Ram::default(),
            wire_bytes: 0,
            codec: Codec::default(),
            encoding: Encoding::default(),
            precopy: Precopy::default(),
            switch: Switch::default(),
            handover: Handover::default(),
            postcopy: Postcopy::default(),
            guest: Guest::default(),
            ebpf: Ebpf::default(),
            link: Link::default(),
            verify: Verify::default(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render_human())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::PostcopyPaused => "paused in post-copy",
        })
    }
}

/// As the command line spells it.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hybrid => "hybrid",
            Self::Precopy => "precopy",
            Self::Postcopy => "postcopy",
            Self::StopAndCopy => "stop-and-copy",
        })
    }
}

#[cfg(test)]
mod tests;
