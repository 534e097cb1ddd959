//! Writes with increasing numbers, each with a value that follows from its number, and what became of them.

use std::{
    fmt, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::server::Server;

/// Waits this long for a server that has never answered, or has hung up.
const CONNECT: Duration = Duration::from_secs(90);

/// What a run of writes came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Writes 1 to this one were acknowledged.
    pub(crate) acknowledged: u64,
    /// Of these, not there.
    pub(crate) missing: u64,
    /// Of these, there with another value.
    pub(crate) wrong: u64,
    /// Connections that it took; 1 if the first one lived throughout.
    pub(crate) connections: u64,
    /// Longest time between two acknowledgements.
    pub(crate) silence: Duration,
}

impl Verdict {
    pub(crate) fn is_good(&self) -> bool {
        self.acknowledged > 0 && self.missing == 0 && self.wrong == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acknowledged={} missing={} wrong={} connections={} silence_ms={}",
            self.acknowledged,
            self.missing,
            self.wrong,
            self.connections,
            self.silence.as_millis()
        )
    }
}

/// Writes one number after the other while `more` says so (it is told the number that was acknowledged
/// last), with time to think in between, then reads all of them back, over the same connection as long
/// as it lives.
pub(crate) fn write(
    address: SocketAddr,
    thinking: Duration,
    mut more: impl FnMut(u64) -> bool,
) -> io::Result<Verdict> {
    let mut server = Server::connect(address, CONNECT)?;
    let mut verdict = Verdict {
        connections: 1,
        ..Verdict::default()
    };
    let mut last = Instant::now();
    while more(verdict.acknowledged) {
        let number = verdict.acknowledged + 1;
        if let Err(error) = server.set(&key(number), &value(number)) {
            eprintln!("write {number}: {error}; connecting again");
            server = Server::connect(address, CONNECT)?;
            verdict.connections += 1;
            continue;
        }
        verdict.acknowledged = number;
        verdict.silence = verdict.silence.max(last.elapsed());
        last = Instant::now();
        std::thread::sleep(thinking);
    }
    (verdict.missing, verdict.wrong) = read_back(&mut server, verdict.acknowledged)?;
    Ok(verdict)
}

/// Reads back what an earlier run was told is written.
pub(crate) fn verify(address: SocketAddr, acknowledged: u64) -> io::Result<Verdict> {
    let mut server = Server::connect(address, CONNECT)?;
    let (missing, wrong) = read_back(&mut server, acknowledged)?;
    Ok(Verdict {
        acknowledged,
        missing,
        wrong,
        connections: 1,
        silence: Duration::ZERO,
    })
}

/// How many of the writes up to this one are missing, and how many wrong.
fn read_back(server: &mut Server, acknowledged: u64) -> io::Result<(u64, u64)> {
    let (mut missing, mut wrong) = (0, 0);
    for number in 1..=acknowledged {
        match server.get(&key(number))? {
            None => missing += 1,
            Some(found) if found != value(number).as_bytes() => wrong += 1,
            Some(_) => {}
        }
    }
    Ok((missing, wrong))
}

fn key(number: u64) -> String {
    format!("write:{number}")
}

/// Of a hundred bytes or so that do not repeat (SplitMix64, Steele et al., OOPSLA 2014).
fn value(number: u64) -> String {
    let words = (0..6).map(|at| {
        let mut word = (number * 6 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        format!("{:016x}", word ^ (word >> 31))
    });
    words.collect()
}
