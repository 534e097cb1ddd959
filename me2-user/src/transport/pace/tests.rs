//! Pacers in virtual time.

use std::time::Duration;

use super::*;

const RATE: u64 = 1_000_000;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const BEGIN: u64 = 100 * SECOND;
const PACKET: u64 = 1480;
/// What may be sent at once: time that was not used, a slice, and a packet that was more than was
/// left of it.
const AT_ONCE: u64 = RATE / 1000 * 9 + PACKET;

/// A pacer that a connection keeps to.
fn capped(folder: Option<&Path>) -> Pacer {
    let pacer = match folder {
        Some(_) => Pacer::shared(Some(RATE), folder),
        None => Pacer::new(Some(RATE)),
    };
    cap(&pacer).lock().connections = 1;
    pacer
}

fn cap(pacer: &Pacer) -> &Cap {
    pacer.cap.as_ref().unwrap()
}

/// Sends as much as it may at this time.
fn send(pacer: &Pacer, now: u64) -> u64 {
    let mut sent = 0;
    while cap(pacer).wait(now).is_none() {
        pacer.sent(PACKET);
        sent += PACKET;
    }
    sent
}

#[test]
fn the_rate_is_kept() {
    let pacer = capped(None);
    let mut sent = 0;
    // Timers that are late by different times.
    let mut now = BEGIN;
    while now < BEGIN + SECOND {
        sent += send(&pacer, now);
        let wait = cap(&pacer).wait(now).expect("nothing may go");
        now += wait.as_nanos() as u64 + sent % 7 * MS / 2;
    }
    let expected = (now - BEGIN) * RATE / SECOND;
    assert!(sent <= expected + AT_ONCE, "{sent} of {expected}");
    assert!(sent + AT_ONCE >= expected, "{sent} of {expected}");
    assert!(pacer.is_limit());
    assert!(!Pacer::new(None).is_used_up());
}

#[test]
fn it_is_the_limit_until_the_link_is() {
    let pacer = capped(None);
    assert!(!pacer.is_limit(), "not before anything was sent");
    send(&pacer, BEGIN);
    assert!(pacer.is_limit());
    let mut now = BEGIN + SECOND;
    let mut half_of_it = |packets: u64| {
        for _ in 0..packets {
            now += 2 * PACKET * SECOND / RATE;
            assert_eq!(cap(&pacer).wait(now), None);
            pacer.sent(PACKET);
        }
    };
    half_of_it(1000);
    assert!(pacer.is_limit(), "there was no more to send");
    pacer.note_link(true);
    half_of_it(1000);
    assert!(!pacer.is_limit(), "the link takes no more");
}

#[test]
fn what_leaves_at_once_is_made_up_for() {
    let pacer = capped(None);
    send(&pacer, BEGIN);
    let cap = cap(&pacer);
    cap.book_urgent(100_000, BEGIN);
    cap.grant_urgent(100_000);
    let urgent = send(&pacer, BEGIN);
    assert!((100_000..110_000).contains(&urgent), "{urgent}");
    let sent = send(&pacer, BEGIN + 50 * MS) + send(&pacer, BEGIN + 80 * MS);
    assert!(
        sent <= AT_ONCE,
        "{sent} bytes of bulk though the cap was used up"
    );
    assert!(send(&pacer, BEGIN + 150 * MS) > 0);
}

#[test]
fn two_over_one_file_share_it() {
    let folder = tempfile::tempdir().unwrap();
    let pacers = [(); 2].map(|()| capped(Some(folder.path())));
    let mut sent = [0; 2];
    for step in 0..4000 {
        let now = BEGIN + step * MS / 4;
        // Their timers tick at different times, both once in a millisecond.
        let turn = [Some(0), Some(1), None, None][step as usize % 4];
        if let Some(turn) = turn {
            sent[turn] += send(&pacers[turn], now);
        }
    }
    let all = sent[0] + sent[1];
    assert!(all <= RATE + 2 * AT_ONCE, "{sent:?}");
    assert!(all + 2 * AT_ONCE >= RATE, "{sent:?}");
    assert!(sent[0].abs_diff(sent[1]) < RATE / 50, "{sent:?}");
}

#[test]
fn one_alone_has_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let pacers = [(); 2].map(|()| capped(Some(folder.path())));
    send(&pacers[1], BEGIN);
    let sent: u64 = (0..1000).map(|ms| send(&pacers[0], BEGIN + ms * MS)).sum();
    assert!(sent + 2 * AT_ONCE >= RATE, "{sent}");
}

#[test]
fn the_urgent_of_one_goes_before_bulk_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = [(); 2].map(|()| capped(Some(folder.path())));
    send(&one, BEGIN);
    send(&other, BEGIN);
    let cap = cap(&other);
    assert_eq!(cap.book_urgent(100_000, BEGIN), BEGIN, "it need not wait");
    cap.grant_urgent(100_000);
    assert!(send(&other, BEGIN) >= 100_000);
    // The slice that was booked before, and then nothing for as long.
    let sent: u64 = (0..100).map(|ms| send(&one, BEGIN + ms * MS)).sum();
    assert!(sent <= AT_ONCE, "{sent}");
}

#[test]
fn where_nothing_can_be_shared_the_cap_is_its_own() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for no_folder in [None, Some(file.path())] {
        let pacer = Pacer::shared(Some(RATE), no_folder);
        cap(&pacer).lock().connections = 1;
        send(&pacer, BEGIN);
        assert!(cap(&pacer).wait(BEGIN).is_some());
    }
}

#[tokio::test]
async fn urgent_answers_wait_behind_each_other() {
    let pacer = capped(None);
    pacer.admit_urgent(1).await;
    pacer.book(RATE as usize);
    let waits = tokio::time::timeout(Duration::from_millis(1), pacer.admit_urgent(1)).await;
    assert!(waits.is_err(), "a second of the cap is booked");
}

#[tokio::test]
async fn a_connection_in_the_place_of_one_that_broke_is_woken() {
    let pacer = Arc::new(capped(None));
    send(&pacer, BEGIN);
    let cap = cap(&pacer);
    cap.held.notified().await;
    let _woken = Woken::begin(pacer.clone());
    let told = tokio::time::timeout(Duration::ZERO, cap.held.notified()).await;
    assert!(told.is_ok(), "a slice is waited for");
}

#[test]
fn packets_wait_from_the_time_on_that_they_are_to() {
    let pacer = Arc::new(Pacer::new(Some(RATE)));
    pacer.sent(RATE);
    assert_eq!(cap(&pacer).wait(BEGIN), None, "a handshake does not wait");
    let woken = Woken::begin(pacer.clone());
    send(&pacer, BEGIN);
    let wait = cap(&pacer).wait(BEGIN + MS).expect("it is paid for");
    assert!(wait > Duration::from_millis(900), "{wait:?}");
    drop(woken);
    assert_eq!(cap(&pacer).wait(BEGIN), None, "nobody would wake it");
}

#[test]
fn what_is_urgent_on_a_link_that_stands_still_does_not_pile_up() {
    let pacer = capped(None);
    let cap = cap(&pacer);
    for step in 0..1000 {
        cap.book_urgent(500, BEGIN + step * MS);
        cap.grant_urgent(500);
    }
    let sent = send(&pacer, BEGIN + SECOND);
    assert!(sent <= AT_ONCE + RATE / 50 + PACKET, "{sent}");
}
