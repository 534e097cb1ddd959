//! What a hostile source does, and what the receiver says of it.

use me2_tests::hostile::{
    Step::{self, Await, Close, End, Endless, Open, OpenWith, Say, Streams, Write},
    bulk, frame, hello, is_pass_received, is_ready, machine, pages, preface,
};
use me2_user::transport::frames::message_frame;
use me2_wire::{
    blob::StateBlob,
    frame::{FrameKind, Preface, StreamKind},
    message::{Handover, Hello, Purpose, ToDestination},
};
use serde_json::Value;

use super::{Case, range};

/// Before Ready: whoever knocks can do this.
pub fn greetings(document: &[u8]) -> Vec<Case> {
    let open = || Open(preface(StreamKind::Control));
    let say_hello = |change: fn(&mut Hello)| {
        let mut hello = hello();
        change(&mut hello);
        Say(ToDestination::Hello(hello))
    };
    let honest = || vec![open(), say_hello(|_| {})];
    let greeted = |step: Step| [honest(), vec![step]].concat();
    let checks = |steps: &[Step]| {
        let asks = [open(), say_hello(|hello| hello.purpose = Purpose::Check)];
        [&asks[..], steps].concat()
    };
    let long = |kind, length: u32| {
        let mut header = vec![kind, 0, 0, 0];
        header.extend(length.to_le_bytes());
        header
    };
    vec![
        Case(
            "no me2 stream",
            vec![OpenWith(
                b"GET / HTTP/1.1\r\nHost: me2.example\r\n".to_vec(),
            )],
            "not a stream of me2",
        ),
        Case(
            "control as bulk",
            vec![Open(preface(StreamKind::Bulk))],
            "a stream where it does not belong",
        ),
        Case(
            "empty frame",
            vec![open(), Write(long(1, 0))],
            "malformed frame",
        ),
        Case(
            "unknown frame",
            vec![open(), Write(long(9, 1))],
            "malformed frame",
        ),
        Case(
            "frame of 4 GiB",
            vec![open(), Write(long(1, u32::MAX))],
            "malformed frame",
        ),
        Case(
            "hello of 8 MiB",
            vec![open(), Write(long(1, 8 << 20))],
            "a long frame",
        ),
        Case(
            "hello of garbage",
            vec![open(), Write(frame(FrameKind::Message, &[0xff; 40]))],
            "malformed message",
        ),
        Case(
            "hello cut short",
            vec![open(), Write(long(1, 40)), End],
            "stopped sending",
        ),
        Case(
            "pages for hello",
            vec![open(), Write(pages(&[(0, 1)]))],
            "pages where",
        ),
        Case(
            "no hello",
            vec![open(), Say(ToDestination::PassEnd { version: 1 })],
            "did not begin with hello",
        ),
        Case(
            "hello of another",
            vec![open(), say_hello(|hello| hello.epoch = 2)],
            "another migration",
        ),
        Case(
            "old version",
            vec![
                open(),
                say_hello(|hello| (hello.version_min, hello.version_max) = (1, 2)),
            ],
            "versions 1 to 2",
        ),
        Case(
            "new version",
            vec![
                open(),
                say_hello(|hello| (hello.version_min, hello.version_max) = (900, 901)),
            ],
            "versions 900 to 901",
        ),
        Case(
            "inverted versions",
            vec![
                open(),
                say_hello(|hello| (hello.version_min, hello.version_max) = (9, 0)),
            ],
            "versions 9 to 0",
        ),
        Case(
            "recover of nothing",
            vec![open(), say_hello(|hello| hello.purpose = Purpose::Recover)],
            "unknown here",
        ),
        Case(
            "handover before Ready",
            greeted(Say(ToDestination::Handover(Box::new(handover(vec![]))))),
            "did not describe its machine",
        ),
        Case(
            "hello twice",
            greeted(say_hello(|_| {})),
            "did not describe its machine",
        ),
        Case(
            "machine of garbage",
            greeted(Say(machine(&[b'{'; 1000]))),
            "cannot be read",
        ),
        Case(
            "machine of 8 MiB",
            greeted(Write(long(1, 8 << 20))),
            "a long frame",
        ),
        Case(
            "machine of 255 KiB",
            greeted(Say(machine(&[b' '; 255 << 10]))),
            "cannot be read",
        ),
        Case(
            "check of garbage",
            checks(&[Say(machine(&[b'{'; 1000]))]),
            "was asked about a VM",
        ),
        Case(
            "check, then a handover",
            checks(&[
                Say(machine(document)),
                Say(ToDestination::Handover(Box::new(handover(vec![])))),
            ]),
            "was asked about a VM",
        ),
        Case(
            "handover for a check",
            checks(&[Say(ToDestination::Handover(Box::new(handover(vec![]))))]),
            "did not describe its machine",
        ),
        Case(
            "check of 8 MiB",
            checks(&[Write(long(1, 8 << 20))]),
            "a long frame",
        ),
        Case(
            "memory of 2^60",
            greeted(Say(changed(document, |d| {
                d["memory_bytes"] = (1_u64 << 60).into()
            }))),
            "memory",
        ),
        Case(
            "memory of 1 TiB",
            greeted(Say(changed(document, |d| {
                d["memory_bytes"] = (1_u64 << 40).into()
            }))),
            "--max-memory",
        ),
        Case(
            "memory of 0",
            greeted(Say(changed(document, |d| d["memory_bytes"] = 0.into()))),
            "memory",
        ),
        Case(
            "a million vCPUs",
            greeted(Say(changed(document, |d| d["cpus"] = 1_000_000.into()))),
            "vCPUs",
        ),
        Case(
            "unknown machine version",
            greeted(Say(changed(document, |d| d["version"] = 9.into()))),
            "has version 9",
        ),
        Case(
            "name with a path",
            greeted(Say(changed(document, |d| d["name"] = "../../x".into()))),
            "VM name",
        ),
        Case(
            "TSC of 1 kHz",
            greeted(Say(changed(document, |d| d["tsc_khz"] = 1.into()))),
            "TSC",
        ),
        Case(
            "gone after hello",
            [greeted(Await(|_| true)), vec![Close]].concat(),
            "stopped sending",
        ),
    ]
}

/// After Ready: a source that is let in.
pub fn let_in(document: &[u8]) -> Vec<Case> {
    let ready = |steps: Vec<Step>| {
        let begin = vec![
            Open(preface(StreamKind::Control)),
            Say(ToDestination::Hello(hello())),
            Say(machine(document)),
            Await(is_ready),
        ];
        [begin, steps].concat()
    };
    let announce = |version, pages| Say(ToDestination::Announce { version, pages });
    let one = |frames: &[u8]| Streams(1, bulk(frames));
    // With pages 1 to 3 announced: what comes in is taken, and then something else is wrong.
    let received = |step: Step| {
        ready(vec![
            announce(1, range(1..4)),
            step,
            Say(ToDestination::PassEnd { version: 1 }),
            Await(is_pass_received),
            Say(ToDestination::Hello(hello())),
        ])
    };
    // All but its last byte.
    let stalled = || {
        let whole = frame(FrameKind::Pages, &vec![1; 4 << 20]);
        Endless(bulk(&[]), 1, whole[..whole.len() - 1].to_vec())
    };
    let damaged = {
        let mut frame = pages(&[(3, 1)]);
        let last = frame.len() - 1;
        frame[last] ^= 1;
        frame
    };
    let of_another = |kind| {
        Preface {
            migration: [1; 16],
            ..preface(kind)
        }
        .encode()
        .to_vec()
    };
    let blob = |kind, version| StateBlob {
        kind,
        version,
        index: 0,
        bytes: vec![0; 144],
    };
    let hand_over = |handover: Handover| Say(ToDestination::Handover(Box::new(handover)));
    vec![
        Case(
            "announced beyond memory",
            ready(vec![announce(1, range(0..u32::MAX))]),
            "beyond",
        ),
        Case(
            "versions go down",
            ready(vec![announce(5, range(0..9)), announce(4, range(0..9))]),
            "was announced after",
        ),
        Case(
            "withdrawn beyond memory",
            ready(vec![Say(ToDestination::Withdraw {
                pages: range(7..u32::MAX),
            })]),
            "beyond",
        ),
        Case(
            "page beyond memory",
            ready(vec![one(&pages(&[(1 << 30, 1)]))]),
            "malformed chunk",
        ),
        Case(
            "damaged page",
            ready(vec![one(&damaged)]),
            "arrived damaged",
        ),
        Case(
            "chunk of garbage",
            ready(vec![one(&frame(FrameKind::Pages, &[0xab; 5000]))]),
            "malformed chunk",
        ),
        Case(
            "zstd of garbage",
            ready(vec![one(&frame(
                FrameKind::Pages,
                &[2, 0, 1, 0, 0, 0, 32, 0, 1, 2, 3],
            ))]),
            "malformed chunk",
        ),
        Case(
            "message on bulk",
            ready(vec![one(&frame(FrameKind::Message, &[0; 5000]))]),
            "a message among pages",
        ),
        Case(
            "bulk of another",
            ready(vec![Streams(1, of_another(StreamKind::Bulk))]),
            "a stream of another migration",
        ),
        Case(
            "bulk that is none",
            ready(vec![Streams(1, vec![0x55; 64])]),
            "malformed frame",
        ),
        Case(
            "copy of 8 MiB",
            ready(vec![Streams(
                1,
                [
                    &preface(StreamKind::HandoverCopy).encode()[..],
                    &[1, 0, 0, 0, 0, 0, 128, 0],
                ]
                .concat(),
            )]),
            "a long frame",
        ),
        Case(
            "unannounced",
            ready(vec![
                one(&pages(&[(7, 3)])),
                Say(ToDestination::Hello(hello())),
            ]),
            "a greeting where",
        ),
        Case(
            "sent twice",
            received(one(&pages(&[(1, 1), (1, 1), (2, 1), (3, 1), (1, 1)]))),
            "a greeting where",
        ),
        Case(
            "60,000 times the same",
            received(Endless(bulk(&[]), 20_000, pages(&[(1, 1), (2, 1), (3, 1)]))),
            "a greeting where",
        ),
        Case(
            "32 frames that never end",
            ready(
                [
                    vec![stalled(); 32],
                    vec![Say(ToDestination::Hello(hello()))],
                ]
                .concat(),
            ),
            "a greeting where",
        ),
        Case(
            "100,000 tiny streams",
            ready(vec![
                Streams(100_000, bulk(&[])),
                Say(ToDestination::Hello(hello())),
            ]),
            "a greeting where",
        ),
        Case(
            "160 MiB of garbage",
            ready(vec![Endless(
                bulk(&[]),
                40,
                frame(FrameKind::Pages, &vec![1; 4 << 20]),
            )]),
            "malformed chunk",
        ),
        Case(
            "long announcements",
            ready(vec![
                Write(frame(FrameKind::Message, &vec![0xff; 8 << 20]));
                12
            ]),
            "malformed control message",
        ),
        Case(
            "greets again",
            ready(vec![Say(ToDestination::Hello(hello()))]),
            "a greeting where",
        ),
        Case(
            "acknowledges",
            ready(vec![Say(ToDestination::CompleteAck {
                epoch: 1,
                mismatched: 0,
                frames: vec![],
            })]),
            "what was not complete",
        ),
        Case(
            "verifies",
            ready(vec![Say(ToDestination::Verified { mismatched: 0 })]),
            "not asked",
        ),
        Case(
            "10,000 leaves",
            ready(vec![Say(ToDestination::ExpandLeaves {
                leaves: vec![1; 10_000],
            })]),
            "too many leaves",
        ),
        Case(
            "wrong epoch",
            ready(vec![hand_over(Handover {
                epoch: 2,
                ..handover(vec![])
            })]),
            "another attempt",
        ),
        Case(
            "handover beyond memory",
            ready(vec![hand_over(Handover {
                pages: range(0..1 << 30),
                ..handover(vec![])
            })]),
            "beyond",
        ),
        Case(
            "handover without state",
            ready(vec![hand_over(handover(vec![]))]),
            "cannot restore",
        ),
        Case(
            "unknown state",
            ready(vec![hand_over(handover(vec![blob(999, 1)]))]),
            "state of kind 999",
        ),
        Case(
            "state of a later version",
            ready(vec![hand_over(handover(vec![blob(1, 2)]))]),
            "has version 2",
        ),
        Case(
            "1025 pieces of state",
            ready(vec![hand_over(handover(vec![blob(1, 1); 1025]))]),
            "malformed control message",
        ),
        Case(
            "copy without state",
            ready(vec![Streams(
                1,
                [
                    &preface(StreamKind::HandoverCopy).encode()[..],
                    &message_frame(&ToDestination::Handover(Box::new(handover(vec![])))),
                ]
                .concat(),
            )]),
            "cannot restore",
        ),
        Case(
            "ends in the middle",
            ready(vec![announce(1, range(0..9)), End]),
            "ended a stream in the middle",
        ),
        Case("closes in the middle", received(Close), "the peer stopped"),
    ]
}

fn changed(document: &[u8], change: fn(&mut Value)) -> ToDestination {
    let mut value = serde_json::from_slice(document).expect("JSON");
    change(&mut value);
    machine(&serde_json::to_vec(&value).expect("JSON"))
}

fn handover(state: Vec<StateBlob>) -> Handover {
    Handover {
        epoch: 1,
        version: 1,
        pages: range(0..9),
        state,
        stopped_ns: 0,
        since_save_ns: 0,
        verify_full: false,
    }
}
