//! One request to a VM process's API socket.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use serde_json::Value;

use crate::PATIENCE;

/// Asks, and gives the status and the document of the answer.
pub(crate) fn request(socket: &Path, method: &str, path: &str) -> io::Result<(u16, Value)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: me2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other(format!("not an answer: {answer:?}")))
}

fn parse(answer: &str) -> Option<(u16, Value)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_document() {
        let answer = "HTTP/1.1 202 Accepted\r\ncontent-length: 8\r\n\r\n{\"id\":3}";
        assert_eq!(parse(answer), Some((202, serde_json::json!({"id": 3}))));
        assert_eq!(parse("HTTP/1.1 202 Accepted\r\n\r\n"), None);
        assert_eq!(parse(""), None);
    }
}
