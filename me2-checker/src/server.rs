//! A connection to a Redis server, as its protocol (RESP2, redis.io/docs/reference/protocol-spec) has it.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Longest silence of a server before its connection counts as lost.
const SILENCE: Duration = Duration::from_secs(60);
/// Between two attempts to connect; nothing tells when a server starts to listen.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);
/// Longest value that is taken.
const VALUE_BYTES_MAX: usize = 1 << 20;

pub(crate) struct Server {
    stream: BufReader<TcpStream>,
}

impl Server {
    /// Tries until a server answers there, for as long as `within`.
    pub(crate) fn connect(address: SocketAddr, within: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = left.clamp(BETWEEN_ATTEMPTS, Duration::from_secs(2));
            match TcpStream::connect_timeout(&address, attempt).and_then(Self::of) {
                Ok(server) => return Ok(server),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(BETWEEN_ATTEMPTS),
            }
        }
    }

    /// A connection counts once its server has answered.
    fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let mut server = Self {
            stream: BufReader::new(stream),
        };
        match server.ask(&[b"PING"])?.as_str() {
            "+PONG" => Ok(server),
            other => Err(unexpected(other)),
        }
    }

    /// Returns once the server has acknowledged the write.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> io::Result<()> {
        match self
            .ask(&[b"SET", key.as_bytes(), value.as_bytes()])?
            .as_str()
        {
            "+OK" => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// The value, if there is one.
    pub(crate) fn get(&mut self, key: &str) -> io::Result<Option<Vec<u8>>> {
        let line = self.ask(&[b"GET", key.as_bytes()])?;
        let length = line.strip_prefix('$').ok_or_else(|| unexpected(&line))?;
        if length == "-1" {
            return Ok(None);
        }
        let length = length
            .parse::<usize>()
            .ok()
            .filter(|len| *len <= VALUE_BYTES_MAX);
        let mut value = vec![0; length.ok_or_else(|| unexpected(&line))? + 2];
        self.stream.read_exact(&mut value)?;
        match value.ends_with(b"\r\n") {
            true => value.truncate(value.len() - 2),
            false => return Err(unexpected("a value without an end")),
        }
        Ok(Some(value))
    }

    /// Has the server write what it has and end; that it hangs up is its answer.
    pub(crate) fn shut_down(&mut self) -> io::Result<()> {
        match self.ask(&[b"SHUTDOWN"]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
            Ok(line) => Err(unexpected(&line)),
        }
    }

    /// The first line of the answer.
    fn ask(&mut self, words: &[&[u8]]) -> io::Result<String> {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend(format!("${}\r\n", word.len()).into_bytes());
            command.extend_from_slice(word);
            command.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&command)?;
        let mut line = String::new();
        self.stream
            .by_ref()
            .take(VALUE_BYTES_MAX as u64)
            .read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn unexpected(answer: &str) -> io::Error {
    io::Error::other(format!("the server answered: {answer}"))
}
