//! Following a migration over the socket.

use super::client::{EventStream, Follow};
use std::time::Duration;

use super::*;

fn completed() -> Report {
    Report {
        status: Status::Completed,
        total_time_ms: 12.5,
        ..Report::default()
    }
}

async fn all(mut stream: EventStream) -> Vec<Event> {
    let mut events = Vec::new();
    let read = async {
        while let Some(event) = stream.next().await.unwrap() {
            events.push(event);
        }
    };
    tokio::time::timeout(Duration::from_secs(5), read)
        .await
        .expect("a stream without end");
    events
}

#[tokio::test]
async fn a_follower_sees_it_all() {
    let process = Process::start();
    let stream = process.client().events(Follow::Next).await.unwrap();
    let events = process.events.begin(1);
    events.phase(Phase::Setup, 0, 0);
    events.phase(Phase::Precopy, 1, 3);
    events.end(Outcome::Moved, completed());
    let seen = all(stream).await;
    assert_eq!(seen.len(), 3, "{seen:?}");
    let end = Event::End {
        id: 1,
        outcome: Outcome::Moved,
        report: Box::new(completed()),
    };
    assert_eq!(seen[2], end);
}

#[tokio::test]
async fn a_late_follower_gets_the_end() {
    let process = Process::start();
    let events = process.events.begin(1);
    events.phase(Phase::Setup, 0, 0);
    events.end(Outcome::Moved, completed());
    for _ in 0..2 {
        let seen = all(process.client().events(Follow::Current).await.unwrap()).await;
        assert!(
            matches!(seen[..], [Event::Phase { .. }, Event::End { .. }]),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn the_end_is_delivered_even_if_the_process_ends_at_once() {
    let process = Process::start();
    let early = process.client().events(Follow::Next).await.unwrap();
    let events = process.events.begin(1);
    events.phase(Phase::Setup, 0, 0);
    events.end(Outcome::Moved, completed());
    process.shutdown.send(()).unwrap();
    let seen = all(early).await;
    assert!(matches!(seen.last(), Some(Event::End { .. })), "{seen:?}");
    process.server.await.unwrap().unwrap();
    assert!(!process.socket.exists());
}

#[tokio::test]
async fn who_waits_for_a_migration_does_not_hold_up_the_end_of_the_process() {
    let process = Process::start();
    let waiting = process.client().events(Follow::Current).await.unwrap();
    let started = std::time::Instant::now();
    process.shutdown.send(()).unwrap();
    assert!(all(waiting).await.is_empty());
    process.server.await.unwrap().unwrap();
    assert!(
        started.elapsed().as_millis() < 1500,
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn who_does_not_read_does_not_hold_it_up_for_long() {
    use tokio::io::AsyncWriteExt;

    let process = Process::start();
    let mut silent = tokio::net::UnixStream::connect(&process.socket)
        .await
        .unwrap();
    let request = b"GET /v1/migration/events HTTP/1.1\r\nhost: me2\r\n\r\n";
    silent.write_all(request).await.unwrap();
    silent.readable().await.unwrap();
    let events = process.events.begin(1);
    // More than the socket's buffers hold, each phase a line.
    for pass in 0..200 {
        events.phase(Phase::Precopy, pass, 0);
    }
    let error = Some("x".repeat(600_000));
    events.end(
        Outcome::FailedAtSource,
        Report {
            error,
            ..Report::default()
        },
    );
    process.shutdown.send(()).unwrap();
    process.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_process_that_vanishes_ends_the_stream_without_an_end() {
    let process = Process::start();
    let stream = process.client().events(Follow::Next).await.unwrap();
    let events = process.events.begin(1);
    events.phase(Phase::Setup, 0, 0);
    drop(events);
    let seen = all(stream).await;
    assert!(matches!(seen[..], [Event::Phase { .. }]), "{seen:?}");
}
