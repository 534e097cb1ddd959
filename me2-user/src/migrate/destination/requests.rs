//! Asks the source for pages that the guest waits for: a stream a request, many in flight.

use std::sync::atomic::Ordering;

use me2_engine::source::ANSWER_PAGES_MAX;
use me2_wire::{
    PAGE_SIZE, PageIndex,
    frame::{Preface, StreamKind},
    message::{Likely, PageRequest},
    page::{CHUNK_HEADER_BYTES, RECORD_HEADER_BYTES_MAX},
};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::{
    Incoming,
    pager::{Origin, Wanted},
};
use crate::{
    migrate::{PRIORITY_FAULT, loses_much},
    transport::frames::{FrameReceiver, FrameSender, LinkError},
};

/// The longest frame that a source answers with.
const ANSWER_BYTES_MAX: u32 =
    (CHUNK_HEADER_BYTES + ANSWER_PAGES_MAX * (RECORD_HEADER_BYTES_MAX + PAGE_SIZE)) as u32;

impl Incoming {
    /// Asks for `urgent` and then for what the fault service wants, until the connection breaks.
    pub(super) async fn request_pages(
        &self,
        connection: quinn::Connection,
        preface: Preface,
        urgent: Vec<PageIndex>,
    ) {
        let mut wanted = self.wanted.lock().await;
        for page in urgent {
            let likely = Likely::default();
            self.request(&connection, preface, Wanted { page, likely });
        }
        loop {
            tokio::select! {
                Some(wanted) = wanted.recv() => self.request(&connection, preface, wanted),
                _ = connection.closed() => return,
            }
        }
    }

    fn request(&self, connection: &quinn::Connection, preface: Preface, wanted: Wanted) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        // The second is answered with nothing, if both arrive.
        let times = if loses_much(connection) { 2 } else { 1 };
        for _ in 0..times {
            let (connection, answers) = (connection.clone(), self.intake.queue(Origin::Answer));
            tokio::spawn(
                async move {
                    if let Err(error) = ask(&connection, preface, wanted, answers).await {
                        tracing::debug!(page = wanted.page, "a page request failed: {error}");
                    }
                }
                .in_current_span(),
            );
        }
    }
}

async fn ask(
    connection: &quinn::Connection,
    preface: Preface,
    wanted: Wanted,
    answers: mpsc::Sender<Vec<u8>>,
) -> Result<(), LinkError> {
    let (send, receive) = connection.open_bi().await?;
    let preface = Preface {
        kind: StreamKind::FaultAnswer,
        ..preface
    };
    let mut request = FrameSender::begin(send, &preface).await?;
    request.set_priority(PRIORITY_FAULT);
    let asked = PageRequest {
        wanted: vec![wanted.page],
        likely: wanted.likely,
    };
    request.message(&asked).await?;
    request.finish();
    let mut answer = FrameReceiver::answering(receive);
    while let Some(payload) = answer.next_pages(ANSWER_BYTES_MAX).await? {
        // Gone only when the migration is over.
        let _ = answers.send(payload).await;
    }
    Ok(())
}
