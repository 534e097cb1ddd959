//! Requests to a VM process's API: its socket, or the port that has its metrics.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
};

use serde_json::Value;

use crate::PATIENCE;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Without parameters.
    pub content_type: String,
    /// What there is of it.
    pub body: String,
}

impl Answer {
    /// The document that it is.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        let parsed = serde_json::from_str(&self.body);
        parsed.unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks, and gives the status and the document of the answer.
pub(crate) fn request(socket: &Path, method: &str, path: &str) -> io::Result<(u16, Value)> {
    let answer = ask(socket, method, path, "")?;
    Ok((answer.status, answer.json()))
}

/// Asks, and reads the answer to its end.
pub(crate) fn ask(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    read(begin(socket, method, path, body)?)
}

/// Asks for something that goes on: the answer's head is read, and lines of its body are next.
pub(crate) fn follow(socket: &Path, path: &str) -> io::Result<(Answer, impl BufRead + use<>)> {
    let mut stream = BufReader::new(begin(socket, "GET", path, "")?);
    let head = read_head(&mut stream)?;
    Ok((head, stream))
}

/// Gets this path from a TCP port.
///
/// # Errors
/// If nobody answers there.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write(&mut stream, "GET", path, "")?;
    read(stream)
}

fn begin(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write(&mut stream, method, path, body)?;
    Ok(stream)
}

/// By HTTP/1.0, in which the body is what comes until the end.
fn write(stream: &mut impl Write, method: &str, path: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: me2\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes())
}

fn read(stream: impl Read) -> io::Result<Answer> {
    let mut stream = BufReader::new(stream);
    let head = read_head(&mut stream)?;
    let mut body = String::new();
    stream.read_to_string(&mut body)?;
    Ok(Answer { body, ..head })
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(io::Error::other(format!("not an answer: {head:?}")));
        }
    }
    parse_head(&head).ok_or_else(|| io::Error::other(format!("not an answer: {head:?}")))
}

fn parse_head(head: &str) -> Option<Answer> {
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.0 ")?.get(..3)?;
    let content_type = lines
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .map_or("", |(_, value)| value.split(';').next().unwrap_or(value));
    Some(Answer {
        status: status.parse().ok()?,
        content_type: content_type.to_owned(),
        body: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_document() {
        let answer =
            "HTTP/1.0 202 Accepted\r\nContent-Type: application/json; a=b\r\n\r\n{\"id\":3}";
        let answer = read(answer.as_bytes()).expect("it is one");
        assert_eq!(answer.status, 202);
        assert_eq!(answer.content_type, "application/json");
        assert_eq!(answer.json(), serde_json::json!({"id": 3}));
        assert!(read(&b"HTTP/1.0 202 Accepted\r\n"[..]).is_err());
        assert!(read(&b""[..]).is_err());
    }
}
