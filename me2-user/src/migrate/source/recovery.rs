//! After the link broke behind the handover: connecting again, or the way back that an operator
//! answers for.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use me2_engine::{
    bitmap::Bitmap,
    ownership::{DestinationMessage, SourceAction, SourceState},
};
use me2_wire::{
    message::{PeerOwnership, Purpose, ToSource},
    range::RangeList,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{Attempt, Ended, Failure, Wish, bulk::Bulk, link::Link};
use crate::{
    migrate::observer::Observer,
    process::published,
    report::Status,
    transport::{endpoint::ConnectFailure, frames::LinkError},
};

/// How long a destination that is there may take to say hello: two round trips and a lost packet or
/// two. Longer attempts would only make the next one later.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a destination that is asked before its VM is taken back may take to say what it knows;
/// less than a client of the API waits.
const WORD_TIMEOUT: Duration = Duration::from_secs(8);

/// Who has the VM, as the destination answered.
pub(super) enum Reconnected {
    /// It runs there: pages are to be served.
    Serves(Link),
    /// It never ran there and never will.
    Refused(Link),
}

/// Why it is not known who has the VM, or cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoWay {
    /// No connection, or it broke.
    #[error(transparent)]
    Link(#[from] Failure),
    /// Another process has the address of the destination.
    #[error(
        "the process that answers there knows nothing of the VM: the one that took it over has ended"
    )]
    Forgotten,
    /// It took the handover and has not resumed the VM: it can tell later.
    #[error("the destination has taken the VM over, but does not run it yet")]
    NotYet,
    /// Asking again would bring the same.
    #[error(transparent)]
    Broken(anyhow::Error),
    /// The operator wants something else.
    #[error("an operator has interrupted it")]
    Interrupted,
}

/// How much a destination has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    /// Somebody with the right identity is there.
    Hello,
    /// It knows of the VM.
    Knows,
}

impl NoWay {
    /// Whether another attempt may do better.
    fn may_pass(&self) -> bool {
        match self {
            Self::Link(Failure::Refused(_)) | Self::Forgotten | Self::Broken(_) => false,
            Self::Link(Failure::Link(error)) => error.is_of_link(),
            Self::Link(_) | Self::NotYet | Self::Interrupted => true,
        }
    }

    /// Whether this side could not even try to reach the destination.
    fn is_local(&self) -> bool {
        let Self::Link(Failure::Local(error)) = self else {
            return false;
        };
        matches!(
            error.downcast_ref(),
            None | Some(
                ConnectFailure::Bind { .. }
                    | ConnectFailure::Identity(_)
                    | ConnectFailure::Start { .. }
                    | ConnectFailure::Unresolved { .. }
            )
        )
    }
}

impl Attempt {
    /// Reconnects after the link broke, and goes on. Interrupted by [`Wish::Cancel`] until there is
    /// a link.
    pub async fn recover(
        mut self: Box<Self>,
        observer: Observer,
        mut wish: watch::Receiver<Wish>,
    ) -> Ended {
        self.observer = observer;
        let connected = tokio::select! {
            biased;
            Ok(_) = wish.wait_for(|wish| *wish == Wish::Cancel) => Err(NoWay::Interrupted),
            connected = self.reconnect() => connected,
        };
        match connected {
            Ok(connected) => self.go_on(connected).await,
            Err(failure) => self.pause_for(failure),
        }
    }

    /// The operator's word is that the destination is dead and can never run the VM again. It is
    /// asked all the same: if it answers, nothing is taken back and the migration goes on. `verdict`
    /// is told as soon as that is decided.
    ///
    /// The VM goes on here from where it was stopped.
    pub async fn take_back(
        mut self: Box<Self>,
        observer: Observer,
        verdict: oneshot::Sender<Result<(), String>>,
    ) -> Ended {
        self.observer = observer;
        let mut heard = Heard::Nothing;
        let answer = timeout(WORD_TIMEOUT, self.ask(&mut heard)).await;
        let failure = match answer {
            Ok(Ok(Reconnected::Refused(link))) => {
                let _ = verdict.send(Ok(()));
                return self.go_on(Reconnected::Refused(link)).await;
            }
            Ok(Ok(connected)) => {
                let reason = "the destination answers: it has the VM, and the migration goes on";
                let _ = verdict.send(Err(reason.to_owned()));
                return self.go_on(connected).await;
            }
            Ok(Err(failure)) => failure,
            Err(_elapsed) => NoWay::Link(LinkError::Silent.into()),
        };
        let said = match (heard, &failure) {
            (_, NoWay::Forgotten) => None,
            (Heard::Knows, _) => Some("the destination answers: it knows of the VM".to_owned()),
            (Heard::Hello, _) => {
                Some("somebody answers there, but did not say in time what became of the VM".into())
            }
            (Heard::Nothing, failure) if failure.is_local() => Some(format!(
                "it could not be tried to reach the destination: {:#}",
                anyhow!("{failure}")
            )),
            (Heard::Nothing, _) => None,
        };
        let peer_answers = said.is_some();
        let taken = self
            .lock_ownership()
            .operator_asserts_peer_fenced(peer_answers);
        match taken {
            Ok(_) => {
                let _ = verdict.send(Ok(()));
                self.resume_here(&failure)
            }
            Err(violation) => {
                let reason = said.unwrap_or_else(|| violation.to_string());
                let _ = verdict.send(Err(reason));
                self.pause_for(failure)
            }
        }
    }

    fn resume_here(self: Box<Self>, silence: &NoWay) -> Ended {
        let stopped = self.stop.as_ref().map_or(self.started, |stop| stop.at);
        let rolled_back_s = stopped.elapsed().as_secs_f64();
        tracing::warn!(
            epoch = self.epoch,
            rolled_back_s,
            known = self.known(),
            destination = %silence,
            "by an operator's word that the destination is fenced, the VM goes on here as it was when it stopped"
        );
        self.stay(Failure::TakenBack { rolled_back_s })
    }

    async fn go_on(mut self: Box<Self>, connected: Reconnected) -> Ended {
        match connected {
            Reconnected::Refused(link) => {
                let reason = "the link broke before the handover was in";
                self.end_refused(link, reason.to_owned())
            }
            Reconnected::Serves(mut link) => {
                let served = self.serve(&mut link).await;
                self.conclude(link, served).await
            }
        }
    }

    /// A new connection, and the answer to who owns the VM.
    pub(super) async fn reconnect(&mut self) -> Result<Reconnected, NoWay> {
        self.ask(&mut Heard::Nothing).await
    }

    async fn ask(&mut self, heard: &mut Heard) -> Result<Reconnected, NoWay> {
        let connecting = timeout(HELLO_TIMEOUT, self.connect(Purpose::Recover, None)).await;
        let mut link = connecting.map_err(|_elapsed| Failure::from(LinkError::Silent))??;
        *heard = Heard::Hello;
        self.connection = Some(link.connection.clone());
        self.socket = Some(link.socket);
        self.target = Some(link.connection.remote_address());
        let mut missing = Bitmap::new(self.pending.len());
        let mut add = |pages: &RangeList| {
            pages
                .check(missing.len())
                .context("the destination's list of missing pages")
                .map_err(NoWay::Broken)?;
            missing.extend(pages);
            Ok::<(), NoWay>(())
        };
        let (epoch, ownership) = loop {
            match link.reply().await.map_err(Failure::from)? {
                ToSource::Missing { pages } => {
                    *heard = Heard::Knows;
                    add(&pages)?;
                }
                ToSource::Recovering {
                    epoch,
                    ownership,
                    missing,
                } => {
                    add(&missing)?;
                    break (epoch, ownership);
                }
                _ => {
                    let what = "another message than the state of the recovery";
                    return Err(Failure::from(LinkError::Unexpected(what)).into());
                }
            }
        };
        if ownership != PeerOwnership::Unknown {
            *heard = Heard::Knows;
        }
        let state = DestinationMessage::PeerState {
            epoch,
            state: published::peer_state(ownership),
        };
        let action = self
            .lock_ownership()
            .on_peer(state)
            .map_err(|violation| NoWay::Broken(violation.into()))?;
        match action {
            SourceAction::ResumeVm => Ok(Reconnected::Refused(link)),
            SourceAction::KeepStopped if ownership == PeerOwnership::Unknown => {
                Err(NoWay::Forgotten)
            }
            SourceAction::KeepStopped => Err(NoWay::NotYet),
            _ => {
                self.note_missing(missing.count());
                self.lock_pages().reset_unsent(&missing);
                let bulk = Bulk::open(&link.connection, link.preface, &self.encoding()).await?;
                link.bulk = Some(bulk);
                Ok(Reconnected::Serves(link))
            }
        }
    }

    fn pause_for(self: Box<Self>, failure: NoWay) -> Ended {
        let may_pass = failure.may_pass();
        self.pause(format!("{:#}", anyhow!(failure)), may_pass)
    }

    /// Everything is kept: the VM is the destination's, as far as is known.
    pub(super) fn pause(mut self, reason: String, may_pass: bool) -> Ended {
        self.may_pass = may_pass;
        let known = self.known();
        self.report.status = Status::PostcopyPaused;
        self.report.error = Some(format!(
            "{reason}; the VM has left, this side keeps its memory ({known}): mend the link, then `me2 recover`"
        ));
        self.report.total_time_ms = super::finish::ms(self.started.elapsed());
        let report = self.report.clone();
        Ended::Paused(Box::new(self), report)
    }

    /// What this side knows of a VM that has left.
    fn known(&self) -> String {
        match (self.lock_ownership().state(), &self.heard) {
            (SourceState::HandedOver { .. }, _) | (_, None) => {
                "it is not known whether the destination has resumed it".to_owned()
            }
            (_, Some(heard)) => {
                let missing = self.missing_pages;
                let missing = self.risk.as_ref().map(|risk| risk.told(missing));
                format!(
                    "{:.0} s ago it ran at the destination, and {}",
                    heard.elapsed().as_secs_f64(),
                    missing.unwrap_or_default()
                )
            }
        }
    }

    /// The destination has said how many pages it misses.
    pub(super) fn note_missing(&mut self, missing: u64) {
        self.heard = Some(Instant::now());
        self.missing_pages = missing;
        self.observer
            .update(|status| status.pages_remaining = missing);
        self.watch_risk();
    }

    /// Looks at the clock: nothing coming is worth a warning too.
    pub(super) fn watch_risk(&mut self) {
        let Some(risk) = &mut self.risk else { return };
        let risk = risk.observe(self.missing_pages, None);
        self.observer.update(|status| status.risk = risk);
    }

    /// Whether connecting again may mend what made it stop.
    pub fn may_recover_by_itself(&self) -> bool {
        self.may_pass && self.recover_limit() > Duration::ZERO
    }

    /// For how long this side connects again by itself.
    pub fn recover_limit(&self) -> Duration {
        Duration::from_millis(self.request.recover_limit_ms)
    }

    /// Pages that the destination missed when it was last heard of.
    pub fn missing_pages(&self) -> u64 {
        self.missing_pages
    }
}
