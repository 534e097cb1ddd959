//! When the link broke after the handover: what the process does about it by itself, and what an
//! operator may have it do.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use me2_engine::recovery::Recovery;
use tokio::sync::{oneshot, watch};
use tracing::Instrument;

use super::commands::{Life, Moving};
use crate::{
    control::{
        channel::{Refusal, Reply},
        types::{Accepted, Outcome, RecoverRequest, RecoveryStatus, Report, VmState},
    },
    migrate::{
        observer::Observer,
        source::{Attempt, Wish},
    },
};

/// A migration whose link broke after the handover.
pub(super) struct Paused {
    attempt: Box<Attempt>,
    report: Report,
    /// Goes on by itself; those who follow it see that.
    retry: Option<Retry>,
}

struct Retry {
    at: Instant,
    observer: Observer,
}

impl Paused {
    /// When it connects again by itself.
    pub(super) fn retries_at(&self) -> Option<Instant> {
        self.retry.as_ref().map(|retry| retry.at)
    }
}

/// Waits until it is time to connect again; for ever if there is nothing to recover. Cancel-safe.
pub(super) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Life {
    /// The link broke: everything is kept, and tried again as long as that makes sense.
    pub(super) fn pause_migration(
        &mut self,
        attempt: Box<Attempt>,
        observer: Observer,
        report: Report,
    ) {
        let delay = match attempt.may_recover_by_itself() {
            true => self.next_delay(&attempt),
            false => None,
        };
        self.node.set_state(VmState::PostcopyPaused);
        let error = report.error.clone().unwrap_or_default();
        observer.link_is_broken(&error);
        let retry = match delay {
            _ if self.wants_back.is_some() => Some(Retry {
                at: Instant::now(),
                observer,
            }),
            Some(delay) => {
                tracing::warn!(
                    attempt = self.recovery.as_ref().map(Recovery::attempts),
                    delay_ms = delay.as_millis() as u64,
                    "post-copy is paused, connecting again by itself: {error}"
                );
                let at = Instant::now() + delay;
                Some(Retry { at, observer })
            }
            None => {
                tracing::error!("the migration did not complete: {error}");
                observer.end(Outcome::FailedAfterHandover, report.clone());
                self.recovery = None;
                self.node.publish_migration(|status| status.recovery = None);
                None
            }
        };
        self.paused = Some(Paused {
            attempt,
            report,
            retry,
        });
        self.tell_recovery();
        if let Some(reply) = self.wants_back.take() {
            self.take_back(reply);
        }
    }

    fn next_delay(&mut self, attempt: &Attempt) -> Option<Duration> {
        let (now, missing) = (attempt.started().elapsed(), attempt.missing_pages());
        let limit = attempt.recover_limit();
        let recovery = self
            .recovery
            .get_or_insert_with(|| Recovery::new(limit, now, missing));
        recovery.broke(now, missing, random())
    }

    /// Publishes how the recovery stands, if one is under way.
    pub(super) fn tell_recovery(&self) {
        let (Some(paused), Some(recovery)) = (&self.paused, &self.recovery) else {
            return;
        };
        let Some(retry) = &paused.retry else { return };
        let left = retry.at.saturating_duration_since(Instant::now());
        retry.observer.tell_recovery(RecoveryStatus {
            attempt: recovery.attempts().max(1),
            next_attempt_ms: left.as_millis() as u64,
            gives_up_ms: recovery
                .left(paused.attempt.started().elapsed())
                .as_millis() as u64,
            error: paused.report.error.clone().unwrap_or_default(),
        });
    }

    pub(super) fn recover(&mut self, request: RecoverRequest, reply: Reply<Accepted>) {
        if let Err(error) = request.check() {
            _ = reply.send(Err(Refusal::invalid(error, "see me2 recover --help")));
        } else if request.source_is_fenced {
            let mend = "run it at the destination, which waits for this side";
            _ = reply.send(Err(Refusal::conflict("this is the source", mend)));
        } else if request.resume_here {
            self.take_back(reply);
        } else {
            _ = reply.send(self.connect_again());
        }
    }

    /// An operator wants it now: whatever was tried before does not count.
    fn connect_again(&mut self) -> Result<Accepted, Refusal> {
        let id = self.last_id;
        if let Some(paused) = &self.paused {
            let attempt = &paused.attempt;
            let (now, missing) = (attempt.started().elapsed(), attempt.missing_pages());
            self.recovery = Some(Recovery::new(attempt.recover_limit(), now, missing));
            self.retry();
            return Ok(Accepted::plainly(id));
        }
        match self.is_connecting() {
            true => Ok(Accepted::plainly(id)),
            false => Err(self.nothing_to_recover()),
        }
    }

    /// Connects again.
    pub(super) fn retry(&mut self) {
        if let Some(retry) = self
            .paused
            .as_mut()
            .and_then(|paused| paused.retry.as_mut())
        {
            retry.at = Instant::now();
        }
        self.tell_recovery();
        let Some(paused) = self.paused.take() else {
            return;
        };
        let observer = self.observe_again(&paused.attempt, paused.retry);
        let (wish, wished) = watch::channel(Wish::GoOn);
        let task = tokio::spawn(
            paused
                .attempt
                .recover(observer.clone(), wished)
                .instrument(self.span.clone()),
        );
        self.migration = Some(Moving {
            task,
            wish,
            observer,
        });
    }

    /// Takes the VM back, if its destination does not answer; `reply` says what came of it.
    fn take_back(&mut self, reply: Reply<Accepted>) {
        if let (true, Some(moving)) = (self.is_connecting(), &self.migration) {
            // What is under way ends first.
            moving.wish.send_replace(Wish::Cancel);
            self.wants_back = Some(reply);
            return;
        }
        let Some(paused) = self.paused.take() else {
            _ = reply.send(Err(self.nothing_to_recover()));
            return;
        };
        let observer = self.observe_again(&paused.attempt, paused.retry);
        let (wish, _) = watch::channel(Wish::GoOn);
        let (verdict, told) = oneshot::channel();
        let task = tokio::spawn(
            paused
                .attempt
                .take_back(observer.clone(), verdict)
                .instrument(self.span.clone()),
        );
        self.migration = Some(Moving {
            task,
            wish,
            observer,
        });
        let id = self.last_id;
        tokio::spawn(async move {
            let answer = match told.await {
                Ok(Ok(())) => Ok(Accepted::plainly(id)),
                Ok(Err(reason)) => Err(Refusal::conflict(
                    format!("not taken back: {reason}"),
                    "me2 status tells how the migration goes on",
                )),
                // The process is ending.
                Err(_dropped) => return,
            };
            _ = reply.send(answer);
        });
    }

    /// Answers who wants the VM back while the link came back.
    pub(super) fn refuse_taking_back(&mut self) {
        let link_is_back = self.paused.is_none() && !self.is_connecting();
        if let Some(reply) = self.wants_back.take_if(|_| link_is_back) {
            _ = reply.send(Err(self.nothing_to_recover()));
        }
    }

    /// Those who follow what goes on by itself see the next attempt too; otherwise it has followers of
    /// its own.
    fn observe_again(&mut self, attempt: &Attempt, retry: Option<Retry>) -> Observer {
        self.connections += 1;
        match retry {
            Some(Retry { observer, .. }) => {
                observer.count_connection(self.connections);
                observer
            }
            None => self.observe(self.last_id, attempt.mode(), attempt.started()),
        }
    }

    /// A migration whose link broke is connecting again right now.
    fn is_connecting(&self) -> bool {
        self.migration.is_some() && self.node.status.borrow().vm_state == VmState::PostcopyPaused
    }

    fn nothing_to_recover(&self) -> Refusal {
        match self.migration {
            Some(_) => Refusal::conflict(
                "a migration is under way, and its link has not broken",
                "me2 status tells how far it is",
            ),
            None => Refusal::conflict(
                "there is nothing to recover",
                "me2 status tells the state of the VM",
            ),
        }
    }
}

/// From 0 to 1, different in every process and every time.
fn random() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
