//! `me2 console`: attaches to a VM's serial console.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

use super::failure::Failure;
use super::{VmSelector, units};
use crate::control::client::{Client, ClientError};
use crate::control::console::SCROLLBACK_BYTES_MAX;

/// Ctrl-], as telnet and virsh have it.
const DETACH: u8 = 0x1d;

/// Pieces of input between the thread that reads stdin and the VM.
const PIECES_QUEUED: usize = 16;

/// How soon what the serial port had no room for is offered again: the guest does not tell when it has
/// read.
const OFFER_AGAIN: Duration = Duration::from_millis(20);

/// `me2 console`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  me2 console --vm demo
  me2 console --vm demo --scrollback 0 > demo.log < /dev/null
  echo reboot | me2 console --vm demo

Ctrl-] detaches, and the VM goes on; otherwise it ends with the VM's process. On
a terminal every other key goes to the guest. The VM keeps the last 64 KiB of
its output for who attaches, whatever --serial does with it.")]
pub struct ConsoleArgs {
    /// The VM.
    #[command(flatten)]
    pub vm: VmSelector,
    /// Bytes of earlier output to show first, or with K; at most 64K
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = scrollback)]
    pub scrollback: u64,
}

/// None at all is a size here.
fn scrollback(text: &str) -> Result<u64, String> {
    match text {
        "0" => Ok(0),
        _ => units::parse_size(text),
    }
}

pub(super) async fn execute(args: ConsoleArgs) -> Result<ExitCode, Failure> {
    let client = args.vm.client()?;
    let scrollback = args.scrollback.min(SCROLLBACK_BYTES_MAX as u64) as usize;
    let mut output = client.console(scrollback).await?;
    let is_terminal = std::io::stdin().is_terminal();
    if is_terminal {
        eprintln!("attached to {}; Ctrl-] detaches", client.vm());
    }
    let _raw = is_terminal.then(RawTerminal::enter).transpose()?;
    let mut keys = read_keys();
    let typing = type_in(&client, &mut keys);
    tokio::pin!(typing);
    let mut may_type = true;
    loop {
        tokio::select! {
            // What was asked for last is shown, even when it ends.
            biased;
            bytes = output.next() => match bytes? {
                Some(bytes) => show(&bytes)?,
                None => {
                    eprintln!("\r\nthe process of {} has ended", client.vm());
                    return Ok(ExitCode::SUCCESS);
                }
            },
            typed = &mut typing, if may_type => match typed? {
                Typing::Detached => {
                    eprintln!("\r\ndetached; {} goes on", client.vm());
                    return Ok(ExitCode::SUCCESS);
                }
                // What is written goes on to be shown.
                Typing::Over => may_type = false,
            },
        }
    }
}

fn show(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    Ok(written?)
}

/// Why nothing more is typed.
enum Typing {
    /// By the key for it.
    Detached,
    /// Nothing more comes from stdin.
    Over,
}

/// Sends what is typed, as the guest takes it.
async fn type_in(client: &Client, keys: &mut mpsc::Receiver<Vec<u8>>) -> Result<Typing, Failure> {
    while let Some(piece) = keys.recv().await {
        let until = piece.iter().position(|key| *key == DETACH);
        let mut left = Bytes::from(piece);
        left.truncate(until.unwrap_or(left.len()));
        while !left.is_empty() {
            match client.type_in(left.clone()).await {
                Ok(taken) => left = left.slice(taken.min(left.len())..),
                // It stands still or is on its way: what is typed meanwhile is lost, as on a line that
                // nobody reads.
                Err(ClientError::Refused { status: 409, .. }) => break,
                Err(error) => return Err(error.into()),
            }
            if !left.is_empty() {
                tokio::time::sleep(OFFER_AGAIN).await;
            }
        }
        if until.is_some() {
            return Ok(Typing::Detached);
        }
    }
    Ok(Typing::Over)
}

/// A thread reads stdin, since a terminal cannot be waited for otherwise; it ends with the process.
fn read_keys() -> mpsc::Receiver<Vec<u8>> {
    let (pieces, keys) = mpsc::channel(PIECES_QUEUED);
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(length @ 1..) = std::io::stdin().read(&mut buffer) {
            if pieces.blocking_send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    keys
}

/// A terminal that gives every key as it is; as before when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nothing else to be done about it.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
