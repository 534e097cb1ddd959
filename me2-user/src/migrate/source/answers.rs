//! Answers to page requests: each on the stream that asked, many at a time, encoded on a thread
//! of their own so that they never wait behind the push.

use std::{
    io,
    sync::{Arc, mpsc as thread_mpsc},
};

use me2_wire::{
    frame::{Preface, StreamKind},
    message::{PageRequest, REQUEST_PAGES_MAX},
};
use tokio::sync::{Semaphore, oneshot};
use tracing::Instrument;

use super::{
    super::{PRIORITY_FAULT, loses_much},
    asked::Asked,
    encoding::{Encoder, Encoding, Purpose},
};
use crate::transport::{
    frames::{FrameReceiver, FrameSender, LinkError},
    pace::Pacer,
    window::SendWindow,
};

/// Largest request: its page numbers have at most 5 bytes each.
const REQUEST_BYTES_MAX: u32 = 8 + 5 * REQUEST_PAGES_MAX as u32;

/// Answers that are encoded and not yet written, at most: what a peer that asks and does not read can
/// make this side keep, besides the requests.
const ANSWERS_MAX: usize = 128;

struct Question {
    request: PageRequest,
    answer: oneshot::Sender<Vec<u8>>,
}

/// The thread that encodes answers; it ends when this is dropped.
pub struct Answerer {
    questions: thread_mpsc::Sender<Question>,
    asked: Arc<Asked>,
}

impl Answerer {
    /// Starts the thread.
    pub fn start(encoding: Encoding) -> io::Result<Self> {
        let (questions, receiver) = thread_mpsc::channel();
        let asked = encoding.asked.clone();
        std::thread::Builder::new()
            .name("answer".into())
            .spawn(move || encode_answers(&encoding, &receiver))?;
        Ok(Self { questions, asked })
    }
}

/// Answers page requests of a connection until it breaks; gives the reason.
pub async fn serve(
    connection: quinn::Connection,
    window: SendWindow,
    preface: Preface,
    answerer: Answerer,
    pacer: Arc<Pacer>,
) -> LinkError {
    let places = Arc::new(Semaphore::new(ANSWERS_MAX));
    let Answerer { questions, asked } = answerer;
    loop {
        let (send, receive) = match connection.accept_bi().await {
            Ok(streams) => streams,
            Err(error) => return error.into(),
        };
        let (questions, pacer) = (questions.clone(), pacer.clone());
        let (window, asked, places) = (window.clone(), asked.clone(), places.clone());
        let connection = connection.clone();
        tokio::spawn(
            async move {
                let stream = AnswerStream {
                    send,
                    window,
                    preface,
                };
                let answered = answer(stream, receive, questions, &asked, &pacer, &places).await;
                let repeated = match answered {
                    Ok(answer) if loses_much(&connection) => answer.repeat(&connection).await,
                    Ok(_) => Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = repeated {
                    tracing::debug!("a page request was not answered: {error}");
                }
            }
            .in_current_span(),
        );
    }
}

/// Where an answer goes.
struct AnswerStream {
    send: quinn::SendStream,
    window: SendWindow,
    preface: Preface,
}

/// An answer that has been sent.
struct Answered {
    frame: Vec<u8>,
    window: SendWindow,
    preface: Preface,
}

impl Answered {
    /// Sends it once more, as pages that were not asked for.
    async fn repeat(&self, connection: &quinn::Connection) -> Result<(), LinkError> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let preface = Preface {
            kind: StreamKind::Bulk,
            ..self.preface
        };
        let stream = FrameSender::answering(connection.open_uni().await?);
        let mut stream = stream.urgent(self.window.clone(), PRIORITY_FAULT);
        stream.bytes(&preface.encode()).await?;
        stream.bytes(&self.frame).await?;
        stream.finish();
        Ok(())
    }
}

async fn answer(
    stream: AnswerStream,
    receive: quinn::RecvStream,
    questions: thread_mpsc::Sender<Question>,
    asked: &Asked,
    pacer: &Pacer,
    places: &Semaphore,
) -> Result<Answered, LinkError> {
    let AnswerStream {
        send,
        window,
        preface: expected,
    } = stream;
    let (mut receiver, preface) = FrameReceiver::begin(receive, StreamKind::FaultAnswer).await?;
    if preface.migration != expected.migration || preface.epoch != expected.epoch {
        return Err(LinkError::Unexpected("a request for another migration"));
    }
    let mut request: PageRequest = receiver.message_within(REQUEST_BYTES_MAX).await?;
    request.wanted.truncate(REQUEST_PAGES_MAX);
    let _place = places.acquire().await.expect("never closed");
    let _open = asked.question();
    let (answer, answered) = oneshot::channel();
    // The thread lives as long as a sender does.
    let _ = questions.send(Question { request, answer });
    let frame = answered.await.map_err(|_| LinkError::Ended)?;
    let mut sender = FrameSender::answering(send).urgent(window.clone(), PRIORITY_FAULT);
    pacer.admit_urgent(frame.len()).await;
    sender.bytes(&frame).await?;
    sender.finish();
    Ok(Answered {
        frame,
        window,
        preface: expected,
    })
}

fn encode_answers(encoding: &Encoding, questions: &thread_mpsc::Receiver<Question>) {
    let mut encoder = Encoder::new(encoding.clone());
    while let Ok(question) = questions.recv() {
        let claimed = encoding
            .claim(|pages| pages.claim_answer(&question.request.wanted, question.request.likely));
        // Nothing to send means that all of it is on its way already.
        let frame = if claimed.is_empty() {
            Vec::new()
        } else {
            encoder.encode(&claimed, Purpose::Urgent).bytes
        };
        let _ = question.answer.send(frame);
    }
}
