//! The client's end of the control socket.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use me2_vmm::machine::MachineDocument;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::socket::VmAddress;
use super::types::{
    Accepted, ErrorBody, Event, MigrateRequest, RecoverRequest, Taken, Typed, VmStatus,
};

/// How long an answer may take; more than the server allows itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest answer or event that is read, in bytes; a report has some 3 KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Speaks to one VM process; every request has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    address: VmAddress,
}

/// Which migration is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// The one under way, else the last one.
    Current,
    /// The next that begins. Who is about to ask for one follows first.
    Next,
}

/// The events of one migration, as they happen.
#[derive(Debug)]
pub struct EventStream {
    vm: String,
    body: Incoming,
    buffer: BytesMut,
}

/// What a guest writes to its console.
#[derive(Debug)]
pub struct ConsoleStream {
    vm: String,
    body: Incoming,
}

/// Why a VM process gave no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "the process of VM {vm} does not answer at {}: has it ended? (me2 run or me2 receive starts one)",
        socket.display()
    )]
    NotRunning {
        /// As the user said it.
        vm: String,
        /// Where it should be.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("VM {vm}: {}; {}", body.error, body.mend)]
    Refused {
        /// As the user said it.
        vm: String,
        /// The HTTP status: 400 the request is wrong, 409 it is not possible now.
        status: u16,
        /// Its words.
        body: ErrorBody,
    },
    /// It took too long.
    #[error("VM {vm}: no answer in {} s; the process may be stopped: look at its log", ANSWER_TIMEOUT.as_secs())]
    TimedOut {
        /// As the user said it.
        vm: String,
    },
    /// The connection broke: the process has most likely ended.
    #[error("VM {vm}: the connection to its process broke")]
    Broken {
        /// As the user said it.
        vm: String,
        /// The cause.
        #[source]
        source: hyper::Error,
    },
    /// What answers there is not this version of me2.
    #[error("VM {vm}: {reason}; is the process of another version of me2?")]
    NotUnderstood {
        /// As the user said it.
        vm: String,
        /// What is wrong.
        reason: String,
    },
}

impl Client {
    /// A client of the VM process at `address`.
    pub fn new(address: VmAddress) -> Self {
        Self { address }
    }

    /// The VM, as the user said it.
    pub fn vm(&self) -> &str {
        &self.address.vm
    }

    /// What the VM does, and its migration.
    pub async fn status(&self) -> Result<VmStatus, ClientError> {
        self.ask(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// The VM's machine, as a destination is told of it.
    pub async fn machine(&self) -> Result<MachineDocument, ClientError> {
        self.ask(Method::GET, "/v1/machine", Bytes::new()).await
    }

    /// Asks for a migration; [`events`](Self::events) tell what comes of it.
    pub async fn migrate(&self, request: &MigrateRequest) -> Result<Accepted, ClientError> {
        self.ask(Method::POST, "/v1/migrate", to_json(request))
            .await
    }

    /// Asks to resume a post-copy whose link broke, or to take its VM back.
    pub async fn recover(&self, request: &RecoverRequest) -> Result<Accepted, ClientError> {
        self.ask(Method::POST, "/v1/recover", to_json(request))
            .await
    }

    /// Asks to give up the migration.
    pub async fn cancel(&self) -> Result<(), ClientError> {
        self.order("/v1/cancel").await
    }

    /// Asks to hand over as soon as possible.
    pub async fn switch_now(&self) -> Result<(), ClientError> {
        self.order("/v1/switch-now").await
    }

    /// Stops the vCPUs.
    pub async fn pause(&self) -> Result<(), ClientError> {
        self.order("/v1/pause").await
    }

    /// Lets the vCPUs run on.
    pub async fn resume(&self) -> Result<(), ClientError> {
        self.order("/v1/resume").await
    }

    /// Ends the VM and its process.
    pub async fn stop(&self) -> Result<(), ClientError> {
        self.order("/v1/stop").await
    }

    /// Types at the console; gives how many bytes the serial port had room for.
    pub async fn type_in(&self, bytes: Bytes) -> Result<usize, ClientError> {
        let typed: Typed = self.ask(Method::POST, "/v1/console", bytes).await?;
        Ok(typed.taken_bytes)
    }

    /// The console's output: at most so many bytes of before, then as it comes.
    pub async fn console(&self, scrollback_bytes: usize) -> Result<ConsoleStream, ClientError> {
        let path = format!("/v1/console?scrollback={scrollback_bytes}");
        let body = self.follow(&path).await?;
        Ok(ConsoleStream {
            vm: self.vm().to_owned(),
            body,
        })
    }

    /// The events of a migration, until its end. It returns once the server follows.
    pub async fn events(&self, follow: Follow) -> Result<EventStream, ClientError> {
        let path = match follow {
            Follow::Current => "/v1/migration/events",
            Follow::Next => "/v1/migration/events?from=next",
        };
        Ok(EventStream {
            vm: self.vm().to_owned(),
            body: self.follow(path).await?,
            buffer: BytesMut::new(),
        })
    }

    /// An answer that goes on.
    async fn follow(&self, path: &str) -> Result<Incoming, ClientError> {
        let response = self
            .in_time(self.send(Method::GET, path, Bytes::new()))
            .await?;
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            _ => Err(self.in_time(self.refusal(response)).await?),
        }
    }

    async fn order(&self, path: &str) -> Result<(), ClientError> {
        self.ask::<Taken>(Method::POST, path, Bytes::new())
            .await
            .map(drop)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        self.in_time(async {
            let response = self.send(method, path, body).await?;
            if !response.status().is_success() {
                return Err(self.refusal(response).await?);
            }
            let body = self.read(response.into_body()).await?;
            serde_json::from_slice(&body).map_err(|error| self.not_understood(error.to_string()))
        })
        .await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "me2")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("the parts are constants of ours");
        let mut connection = self.connect().await?;
        connection
            .send_request(request)
            .await
            .map_err(|source| self.broken(source))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream = UnixStream::connect(&self.address.socket).await;
        let stream = stream.map_err(|source| ClientError::NotRunning {
            vm: self.vm().to_owned(),
            socket: self.address.socket.clone(),
            source,
        })?;
        let connected = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = connected.map_err(|source| self.broken(source))?;
        // Drives the connection until the answer is read; a failure shows there.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// What the process says where it says no.
    async fn refusal(&self, response: Response<Incoming>) -> Result<ClientError, ClientError> {
        let status = response.status();
        let body = self.read(response.into_body()).await?;
        Ok(match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => ClientError::Refused {
                vm: self.vm().to_owned(),
                status: status.as_u16(),
                body,
            },
            Err(_) => self.not_understood(format!("it answered {status}")),
        })
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        collected.map(|body| body.to_bytes()).map_err(|error| {
            match error.downcast::<hyper::Error>() {
                Ok(source) => self.broken(*source),
                Err(error) => {
                    debug_assert!(error.is::<LengthLimitError>());
                    self.not_understood(format!(
                        "its answer is larger than {ANSWER_BYTES_MAX} bytes"
                    ))
                }
            }
        })
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
        answered.unwrap_or_else(|_elapsed| {
            Err(ClientError::TimedOut {
                vm: self.vm().to_owned(),
            })
        })
    }

    fn broken(&self, source: hyper::Error) -> ClientError {
        ClientError::Broken {
            vm: self.vm().to_owned(),
            source,
        }
    }

    fn not_understood(&self, reason: String) -> ClientError {
        ClientError::NotUnderstood {
            vm: self.vm().to_owned(),
            reason,
        }
    }
}

impl ConsoleStream {
    /// What the guest has written, or `None` when its process has ended. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(source)) => {
                    return Err(ClientError::Broken {
                        vm: self.vm.clone(),
                        source,
                    });
                }
            }
        }
    }
}

impl EventStream {
    /// The next event, or `None` when the process has no more. Cancel-safe.
    ///
    /// A stream that ends before [`Event::End`] means that the process is ending.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let event = serde_json::from_slice(&line);
                return event
                    .map(Some)
                    .map_err(|error| self.not_understood(error.to_string()));
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return Err(self.not_understood("an event without end".to_owned()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(source)) => {
                    return Err(ClientError::Broken {
                        vm: self.vm.clone(),
                        source,
                    });
                }
            }
        }
    }

    fn not_understood(&self, reason: String) -> ClientError {
        ClientError::NotUnderstood {
            vm: self.vm.clone(),
            reason,
        }
    }
}

fn to_json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body)
        .expect("our types are all plain data with string keys")
        .into()
}
