//! Requests that no client of ours would send.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

/// Sends bytes as they are; gives the answer's first line and its body.
async fn raw(process: &Process, request: &[u8]) -> (String, String) {
    let mut stream = UnixStream::connect(&process.socket).await.unwrap();
    // The server may have answered and gone before it has read it all.
    let _ = stream.write_all(request).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (
        head.lines().next().unwrap_or("").to_owned(),
        body.to_owned(),
    )
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: me2\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn error_of(body: &str) -> ErrorBody {
    let error: ErrorBody = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}"));
    assert!(
        !error.error.is_empty() && !error.mend.is_empty(),
        "{error:?}"
    );
    error
}

#[tokio::test]
async fn bodies_that_are_no_request() {
    let mut process = Process::start();
    for body in [
        "",
        "{",
        "[]",
        "null",
        r#"{"mode":"hybrid"}"#,
        r#"{"to":7}"#,
        r#"{"to":"h:1","mode":"x"}"#,
    ] {
        let (status, body) = raw(&process, &post("/v1/migrate", body)).await;
        assert!(status.contains(" 400 "), "{status}");
        assert!(
            error_of(&body).error.starts_with("not a migration request"),
            "{body}"
        );
    }
    // A limit that is misspelled must not be taken for none.
    let misspelled = r#"{"to":"h:1","max_bandwith_bytes_per_second":1}"#;
    let (status, body) = raw(&process, &post("/v1/migrate", misspelled)).await;
    assert!(status.contains(" 400 "), "{status}");
    assert!(error_of(&body).error.contains("max_bandwith"), "{body}");
    assert!(process.log.try_recv().is_err());
}

#[tokio::test]
async fn bodies_beyond_the_limit() {
    let mut process = Process::start();
    let body = format!(r#"{{"to":"{}"}}"#, "x".repeat(70_000));
    let (status, body) = raw(&process, &post("/v1/migrate", &body)).await;
    assert!(status.contains(" 413 "), "{status}");
    error_of(&body);

    // Announced as endless, and sent in chunks.
    let mut chunked = b"POST /v1/migrate HTTP/1.1\r\nhost: me2\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..20 {
        chunked.extend_from_slice(b"4000\r\n");
        chunked.resize(chunked.len() + 0x4000, b' ');
        chunked.extend_from_slice(b"\r\n");
    }
    let (status, _) = raw(&process, &chunked).await;
    assert!(status.contains(" 413 "), "{status}");
    assert!(process.log.try_recv().is_err());
}

#[tokio::test]
async fn other_paths_and_methods() {
    let process = Process::start();
    let (status, body) = raw(&process, &post("/v2/migrate", "")).await;
    assert!(status.contains(" 404 "), "{status}");
    error_of(&body);
    let (status, body) = raw(&process, &post("/v1/status", "")).await;
    assert!(status.contains(" 405 "), "{status}");
    error_of(&body);
    let get = b"GET /v1/migration/events?from=x HTTP/1.1\r\nhost: me2\r\nconnection: close\r\n\r\n";
    let (status, body) = raw(&process, get).await;
    assert!(status.contains(" 400 "), "{status}");
    error_of(&body);
}

#[tokio::test]
async fn noise_does_not_disturb_others() {
    let process = Process::start();
    for noise in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"\0\0\0\0",
        b"GET\r\n\r\n",
        &[b'A'; 100_000],
    ] {
        let (status, _) = raw(&process, noise).await;
        assert!(
            status.is_empty()
                || status.contains(" 400 ")
                || status.contains(" 414 ")
                || status.contains(" 431 "),
            "{status}"
        );
    }
    // One that says nothing and stays.
    let _silent = UnixStream::connect(&process.socket).await.unwrap();
    assert_eq!(process.client().status().await.unwrap(), waiting());
}

#[tokio::test]
async fn followers_are_limited() {
    let process = Process::start();
    let client = process.client();
    let mut followers = Vec::new();
    let error = loop {
        match client.events(client::Follow::Current).await {
            Ok(stream) => followers.push(stream),
            Err(error) => break error,
        }
        assert!(followers.len() < 1000);
    };
    assert_eq!(refused(error).0, 503);
    assert_eq!(client.status().await.unwrap(), waiting());
}
