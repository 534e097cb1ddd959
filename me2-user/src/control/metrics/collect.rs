//! One metric after the other, as they are when somebody asks.

use std::{
    fmt::{Debug, Error},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use me2_engine::quantile::Histogram;
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
    },
    metrics::MetricType,
    registry::Unit,
};
use serde::Serialize;
use tokio::sync::watch;

use super::{Counts, lock};
use crate::control::types::{MigrationStatus, Phase, VmState, VmStatus};

/// Edges of the histogram's buckets: powers of two of a microsecond, from 64 µs to 8.4 s, at which the
/// counts are exact.
const LATENCY_EDGES_MICROS: std::ops::RangeInclusive<u32> = 6..=23;

const PHASES: [Phase; 7] = [
    Phase::Setup,
    Phase::Explore,
    Phase::Precopy,
    Phase::Stop,
    Phase::Handover,
    Phase::Postcopy,
    Phase::Complete,
];
const STATES: [VmState; 7] = [
    VmState::Running,
    VmState::Paused,
    VmState::Waiting,
    VmState::Incoming,
    VmState::Migrated,
    VmState::PostcopyPaused,
    VmState::Stopped,
];

#[derive(Debug)]
pub(super) struct Collect {
    pub(super) status: watch::Receiver<VmStatus>,
    pub(super) counts: Arc<Counts>,
}

impl Collector for Collect {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        let status = self.status.borrow().clone();
        let mut to = Page(encoder);
        to.of_vm(&status)?;
        to.of_process(&self.counts)?;
        if let Some(migration) = &status.migration {
            to.of_migration(migration)?;
        }
        to.fault_latency(&lock(&self.counts.fault_latency))
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn of_vm(&mut self, status: &VmStatus) -> Result<(), Error> {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        self.metric("build", "The program", None, MetricType::Info, |to| {
            to.encode_info(&version)
        })?;
        self.one_of(
            "vm_state",
            "1 for what the VM does",
            &STATES,
            status.vm_state,
        )?;
        let memory = status.memory_bytes;
        self.gauge("vm_memory", "Memory of the VM", Some(Unit::Bytes), memory)?;
        self.gauge("vm_vcpus", "vCPUs of the VM", None, status.vcpus)?;
        if let Some(guest) = &status.guest {
            let what = "Operations of the built-in guest, by itself";
            self.counter("guest_operations", what, None, guest.operations)?;
            let what = "Wrong bytes that the built-in guest found in its memory";
            self.counter("guest_errors", what, None, guest.errors)?;
        }
        Ok(())
    }

    fn of_process(&mut self, counts: &Counts) -> Result<(), Error> {
        let sent = counts.sent_bytes.load(Relaxed);
        let what = "Sent for migrations from here, with all headers but those of UDP and IP";
        self.counter("migration_sent", what, Some(Unit::Bytes), sent)?;
        let received = counts.received_bytes.load(Relaxed);
        let what = "Received for migrations to here";
        self.counter("migration_received", what, Some(Unit::Bytes), received)?;
        let what = "Accesses at the destination that waited for a page from the source";
        self.counter("migration_faults", what, None, counts.faults.load(Relaxed))?;
        let ended = lock(&counts.ended).clone();
        if !ended.by_outcome.is_empty() {
            let what = "Migrations from here that have ended";
            self.metric("migrations", what, None, MetricType::Counter, |to| {
                ended.by_outcome.iter().try_for_each(|(outcome, count)| {
                    let labels = [("outcome", word(outcome))];
                    let mut to = to.encode_family(&labels)?;
                    to.encode_counter::<NoLabelSet, _, u64>(count, None)
                })
            })?;
        }
        let duration = ended.last.map(|last| last.duration_seconds);
        let what = "How long the last migration from here took";
        self.gauge(
            "migration_last_duration",
            what,
            Some(Unit::Seconds),
            duration,
        )?;
        let downtime = ended.last.and_then(|last| last.downtime_seconds);
        let what = "For how long the VM stood still in the last migration from here";
        self.gauge(
            "migration_last_downtime",
            what,
            Some(Unit::Seconds),
            downtime,
        )
    }

    fn of_migration(&mut self, status: &MigrationStatus) -> Result<(), Error> {
        let what = "1 for the phase of the migration under way, or of the last one";
        self.one_of("migration_phase", what, &PHASES, status.phase)?;
        let what = "Pages that are to be at the destination";
        self.gauge("migration_pages", what, None, Some(status.pages_total))?;
        let what = "Those that are not there in their last known version";
        let remaining = Some(status.pages_remaining);
        self.gauge("migration_remaining_pages", what, None, remaining)?;
        let at_stake = status.risk.as_ref().map(|risk| risk.source_only_pages);
        let what = "Pages that exist only at the source while the VM runs at the destination";
        self.gauge("migration_source_only_pages", what, None, at_stake)?;
        let seconds = |ms: Option<u64>| ms.map(|ms| ms as f64 / 1e3);
        let downtime = seconds(status.expected_downtime_ms);
        let what = "For how long the VM would stand still if it were handed over now";
        self.gauge(
            "migration_expected_downtime",
            what,
            Some(Unit::Seconds),
            downtime,
        )?;
        let left = seconds(status.expected_remaining_ms);
        let what = "Until all pages are at the destination, at the pace of late";
        self.gauge(
            "migration_expected_remaining",
            what,
            Some(Unit::Seconds),
            left,
        )
    }

    fn fault_latency(&mut self, waits: &Histogram) -> Result<(), Error> {
        let edges = LATENCY_EDGES_MICROS.map(|bit| 1u64 << bit);
        let mut buckets: Vec<_> = edges
            .map(|micros| (micros as f64 / 1e6, waits.count_under(micros)))
            .collect();
        buckets.push((f64::INFINITY, waits.count()));
        // What the crate takes are the counts of the buckets by themselves.
        for later in (1..buckets.len()).rev() {
            buckets[later].1 -= buckets[later - 1].1;
        }
        let what = "How long accesses waited for a page from the source, here";
        let unit = Some(Unit::Seconds);
        self.metric("fault_latency", what, unit, MetricType::Histogram, |to| {
            let sum = waits.sum() as f64 / 1e6;
            to.encode_histogram::<NoLabelSet>(sum, waits.count(), &buckets, None)
        })
    }

    fn metric(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        write: impl FnOnce(&mut MetricEncoder) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let unit = unit.as_ref();
        let mut to = self.0.encode_descriptor(name, help, unit, kind)?;
        write(&mut to)
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: impl EncodeCounterValue,
    ) -> Result<(), Error> {
        self.metric(name, help, unit, MetricType::Counter, |to| {
            to.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    /// Absent if there is no value.
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: Option<impl EncodeGaugeValue>,
    ) -> Result<(), Error> {
        let Some(value) = value else { return Ok(()) };
        self.metric(name, help, unit, MetricType::Gauge, |to| {
            to.encode_gauge(&value)
        })
    }

    /// A series for each of `all`: 1 for what it is, 0 for the others.
    fn one_of<T: PartialEq + Serialize>(
        &mut self,
        name: &str,
        help: &str,
        all: &[T],
        is: T,
    ) -> Result<(), Error> {
        let label = name.rsplit('_').next().expect("a name has a last word");
        self.metric(name, help, None, MetricType::Gauge, |to| {
            all.iter().try_for_each(|this| {
                let labels = [(label, word(this))];
                let mut to = to.encode_family(&labels)?;
                to.encode_gauge(&u32::from(*this == is))
            })
        })
    }
}

/// As the API writes it.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("not a plain word: {other:?}"),
    }
}
