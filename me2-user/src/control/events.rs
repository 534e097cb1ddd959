//! The account of a migration, as its followers see it.
//!
//! A follower may come late or read slowly, and still gets every phase and whatever else happened (up to
//! `KEPT_MAX`) and the end; of the progress it gets the latest. So the
//! account has a bounded size and no follower can hold up the migration.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::metrics::Metrics;
use super::types::{Event, MigrationStatus, Outcome, Phase, Report, Role};

/// Events kept of one migration, beside the latest progress and the end: far more than passes that pay.
const KEPT_MAX: usize = 512;

/// Where the account of the current or last migration is found. Clones share it.
#[derive(Debug, Clone)]
pub struct EventHub {
    current: Arc<watch::Sender<Option<watch::Receiver<Account>>>>,
    metrics: Option<Metrics>,
}

/// Writes the account of one migration. Dropped before [`end`](Self::end), its
/// followers see an end without a result.
#[derive(Debug)]
pub struct MigrationEvents {
    id: u64,
    account: watch::Sender<Account>,
    metrics: Option<Metrics>,
}

/// Reads an account, from wherever it stands.
#[derive(Debug)]
pub struct Subscription {
    hub: watch::Receiver<Option<watch::Receiver<Account>>>,
    account: Option<watch::Receiver<Account>>,
    pending: VecDeque<(u64, Event)>,
    seen: u64,
    has_ended: bool,
}

/// What is kept. Every event has a number, from 1.
#[derive(Debug, Default)]
struct Account {
    last: u64,
    kept: VecDeque<(u64, Event)>,
    progress: Option<(u64, Event)>,
    end: Option<(u64, Event)>,
}

impl EventHub {
    /// One whose migrations are counted.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics: Some(metrics),
            ..Self::default()
        }
    }

    /// Begins the account of a migration, or of its recovery, and shows it to those who wait.
    pub fn begin(&self, id: u64) -> MigrationEvents {
        let (account, receiver) = watch::channel(Account::default());
        self.current.send_replace(Some(receiver));
        let metrics = self.metrics.clone();
        MigrationEvents {
            id,
            account,
            metrics,
        }
    }

    /// Follows the current or last migration from its beginning; if there was none, the first.
    pub fn subscribe(&self) -> Subscription {
        let mut hub = self.current.subscribe();
        hub.mark_changed();
        Subscription::new(hub)
    }

    /// Follows the next migration that begins, whatever there was before.
    ///
    /// Who is about to ask for a migration subscribes first, and so sees the
    /// end of even the quickest.
    pub fn subscribe_next(&self) -> Subscription {
        // A new receiver has seen what is there.
        Subscription::new(self.current.subscribe())
    }
}

impl Default for EventHub {
    fn default() -> Self {
        Self {
            current: Arc::new(watch::Sender::new(None)),
            metrics: None,
        }
    }
}

impl MigrationEvents {
    /// A phase, or a pass of pre-copy (from 1; 0 outside pre-copy), begins.
    pub fn phase(&self, phase: Phase, pass: u32, elapsed_ms: u64) {
        self.tell(Event::Phase {
            id: self.id,
            phase,
            pass,
            elapsed_ms,
        });
    }

    /// Something has happened that every follower is to see; of very many, the latest.
    pub fn tell(&self, event: Event) {
        debug_assert_eq!(event.id(), self.id);
        self.account.send_modify(|account| {
            if account.kept.len() == KEPT_MAX {
                account.kept.pop_front();
            }
            let number = account.next();
            account.kept.push_back((number, event));
        });
    }

    /// How far it is.
    pub fn progress(&self, status: MigrationStatus) {
        debug_assert_eq!(status.id, self.id);
        if let Some(metrics) = &self.metrics {
            metrics.progress(Role::Source, &status);
        }
        self.account.send_modify(|account| {
            account.progress = Some((account.next(), Event::Progress(status)));
        });
    }

    /// The end: the last thing that followers see.
    pub fn end(self, outcome: Outcome, report: Report) {
        if let Some(metrics) = &self.metrics {
            metrics.end(outcome, &report);
        }
        let event = Event::End {
            id: self.id,
            outcome,
            report: Box::new(report),
        };
        self.account.send_modify(|account| {
            account.end = Some((account.next(), event));
        });
    }
}

impl Subscription {
    fn new(hub: watch::Receiver<Option<watch::Receiver<Account>>>) -> Self {
        Self {
            hub,
            account: None,
            pending: VecDeque::new(),
            seen: 0,
            has_ended: false,
        }
    }

    /// The next event, or `None` after the end or when the account breaks off. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((number, event)) = self.pending.pop_front() {
                self.seen = number;
                self.has_ended |= matches!(event, Event::End { .. });
                return Some(event);
            }
            if self.has_ended {
                return None;
            }
            match &mut self.account {
                Some(account) => {
                    // Look first, then wait: an account that breaks off is read to its last event.
                    self.pending = account.borrow_and_update().since(self.seen);
                    if self.pending.is_empty() {
                        account.changed().await.ok()?;
                    }
                }
                None => {
                    self.hub.changed().await.ok()?;
                    self.account = self.hub.borrow_and_update().clone();
                }
            }
        }
    }
}

impl Account {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn since(&self, seen: u64) -> VecDeque<(u64, Event)> {
        let mut events: Vec<_> = self
            .kept
            .iter()
            .chain(&self.progress)
            .chain(&self.end)
            .filter(|(number, _)| *number > seen)
            .cloned()
            .collect();
        events.sort_by_key(|(number, _)| *number);
        events.into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Mode, Status};
    use super::*;

    fn progress(id: u64, sent_bytes: u64) -> MigrationStatus {
        MigrationStatus {
            phase: Phase::Precopy,
            pass: 1,
            pages_total: 10,
            pages_remaining: 5,
            sent_bytes,
            elapsed_ms: 1,
            ..MigrationStatus::begun(id, 1, Mode::Hybrid)
        }
    }

    async fn all(mut subscription: Subscription) -> Vec<Event> {
        let mut events = Vec::new();
        let read = async {
            while let Some(event) = subscription.next().await {
                events.push(event);
            }
        };
        let limit = std::time::Duration::from_secs(5);
        tokio::time::timeout(limit, read)
            .await
            .expect("an account without end");
        events
    }

    #[tokio::test]
    async fn a_late_follower_gets_the_phases_and_the_end() {
        let hub = EventHub::default();
        let events = hub.begin(7);
        events.phase(Phase::Setup, 0, 0);
        events.progress(progress(7, 1));
        events.progress(progress(7, 2));
        events.phase(Phase::Precopy, 1, 5);
        events.end(
            Outcome::Moved,
            Report {
                status: Status::Completed,
                ..Report::default()
            },
        );

        let seen = all(hub.subscribe()).await;
        assert_eq!(seen.len(), 4, "{seen:?}");
        assert!(matches!(
            seen[0],
            Event::Phase {
                phase: Phase::Setup,
                ..
            }
        ));
        assert!(matches!(&seen[1], Event::Progress(status) if status.sent_bytes == 2));
        assert!(matches!(
            seen[2],
            Event::Phase {
                phase: Phase::Precopy,
                pass: 1,
                ..
            }
        ));
        assert!(matches!(
            seen[3],
            Event::End {
                outcome: Outcome::Moved,
                id: 7,
                ..
            }
        ));
    }

    #[tokio::test]
    async fn a_slow_follower_keeps_its_migration_while_the_next_runs() {
        let hub = EventHub::default();
        let first = hub.begin(1);
        let mut slow = hub.subscribe();
        first.phase(Phase::Setup, 0, 0);
        assert_eq!(slow.next().await.unwrap().id(), 1);
        for bytes in 0..10_000 {
            first.progress(progress(1, bytes));
        }
        first.end(Outcome::FailedAtSource, Report::default());
        let second = hub.begin(2);
        second.phase(Phase::Setup, 0, 0);

        let rest = all(slow).await;
        assert_eq!(rest.len(), 2, "{rest:?}");
        assert!(matches!(rest[1], Event::End { id: 1, .. }));
        second.end(Outcome::Moved, Report::default());
        assert!(
            all(hub.subscribe())
                .await
                .iter()
                .all(|event| event.id() == 2)
        );
    }

    #[tokio::test]
    async fn the_next_migration_is_not_the_last_one() {
        let hub = EventHub::default();
        hub.begin(1).end(Outcome::FailedAtSource, Report::default());
        let next = hub.subscribe_next();
        hub.begin(2).end(Outcome::Moved, Report::default());
        let seen = all(next).await;
        assert!(matches!(seen[..], [Event::End { id: 2, .. }]), "{seen:?}");
    }

    #[tokio::test]
    async fn an_account_that_breaks_off_ends_without_a_result() {
        let hub = EventHub::default();
        let events = hub.begin(1);
        let follower = hub.subscribe();
        events.phase(Phase::Setup, 0, 0);
        drop(events);
        let seen = all(follower).await;
        assert!(matches!(seen[..], [Event::Phase { .. }]), "{seen:?}");
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let hub = EventHub::default();
        let events = hub.begin(1);
        for pass in 0..5_000 {
            events.phase(Phase::Precopy, pass, 0);
            events.progress(progress(1, 0));
        }
        events.end(Outcome::Moved, Report::default());
        assert_eq!(all(hub.subscribe()).await.len(), KEPT_MAX + 2);
    }
}
