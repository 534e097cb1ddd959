//! What followers see while pages travel, ten times a second.

use std::time::Duration;

use super::{
    super::{
        observer::{AbortOnDrop, PROGRESS_INTERVAL},
        tempo::{Pace, expected_downtime},
    },
    Attempt,
    encoding::SendCounters,
    link::Link,
};
use crate::{
    control::types::{MigrationStatus, Mode, Phase},
    transport::congestion,
};

/// What an operator permits.
#[derive(Clone, Copy)]
struct Permitted {
    mode: Mode,
    cap: Option<u64>,
    downtime: Option<Duration>,
}

impl Attempt {
    /// Tells progress while the result lives.
    pub(super) fn tell_progress(&self, link: &Link) -> AbortOnDrop {
        let (observer, connection) = (self.observer.clone(), link.connection.clone());
        let (pages, counters) = (self.pages.clone(), self.counters.clone());
        let past = self.past_wire_bytes;
        let permitted = Permitted {
            mode: self.request.mode,
            cap: self.request.max_bandwidth_bytes_per_second,
            downtime: self.request.downtime_limit_ms.map(Duration::from_millis),
        };
        AbortOnDrop(tokio::spawn(async move {
            let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
            loop {
                interval.tick().await;
                let unsent = pages
                    .lock()
                    .expect("no panics under this lock")
                    .unsent_count();
                let pace = pace(&connection, &counters, permitted.cap);
                observer.update(|status| describe(status, unsent, pace.as_ref(), permitted));
                observer.tick(past + connection.stats().udp_tx.bytes);
            }
        }))
    }
}

/// None as long as nothing was sent that it could be told from.
fn pace(connection: &quinn::Connection, counters: &SendCounters, cap: Option<u64>) -> Option<Pace> {
    let path = Some(congestion::estimate(connection).rate).filter(|rate| *rate > 0.0);
    let cap = cap.map(|cap| cap as f64);
    let pages = counters.pages();
    Some(Pace {
        round_trip: connection.rtt(),
        // While the cap is the limit, the path is not known.
        bytes_per_second: path.into_iter().chain(cap).reduce(f64::min)?,
        bytes_per_page: (pages > 0).then(|| counters.encoded_bytes() as f64 / pages as f64)?,
    })
}

fn describe(status: &mut MigrationStatus, unsent: u64, pace: Option<&Pace>, permitted: Permitted) {
    // Of what has been sent, the destination tells what it still lacks.
    if status.phase == Phase::Precopy && unsent > 0 {
        status.pages_remaining = unsent;
    }
    let pace = pace.filter(|_| status.phase <= Phase::Precopy);
    status.expected_downtime_ms = pace.map(|pace| {
        let pages = status.pages_remaining;
        let expected = expected_downtime(permitted.mode, pages, pace, permitted.downtime);
        u64::try_from(expected.as_millis()).unwrap_or(u64::MAX)
    });
}
