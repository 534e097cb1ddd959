//! A peer that is trusted and misbehaves at every message: a clear error, bounded memory, bounded
//! time, the VM where it belongs, and the next good migration works.

use std::time::{Duration, Instant};

use me2_tests::{
    Bench, Guest, Vm,
    hostile::{
        Actor, Step, bulk, frame, hello, is_handover, is_machine, is_pass_received, is_ready,
        machine, pages, preface,
    },
    require_kvm, say,
};
use me2_wire::{
    blob::StateBlob,
    frame::{FrameKind, Preface, StreamKind},
    message::{
        DestinationStatistics, Handover, Hello, Likely, PageRequest, PeerOwnership, Purpose,
        ResumeTiming, ToDestination, ToSource,
    },
    range::RangeList,
};
use serde_json::Value;
use tokio::runtime::Runtime;

use Step::{Answer, Ask, Await, Close, End, Endless, Open, OpenWith, Say, Streams, Write};

/// What a hostile peer may make a process hold beyond what it had before.
const MORE_BYTES_MAX: u64 = 320 << 20;
/// How long a victim may take to be done with a peer that is not silent.
const TIME_MAX: Duration = Duration::from_secs(20);
/// The same with one that is.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Leaves of the hash tree over the guest's memory.
const LEAVES: usize = 32;

fn guest() -> Guest {
    Guest::new("64M", "workload=kv fill=16M hot=1M")
}

/// A script, and what the victim says of it.
struct Case(&'static str, Vec<Step>, &'static str);

/// What a real source says of its machine.
fn document(bench: &Bench, actor: &Actor, runtime: &Runtime) -> Vec<u8> {
    let vm = bench.start(&guest());
    vm.wait_ready();
    let trap = runtime.block_on(async { actor.listen() });
    let migration = bench.migrate(&vm, trap.address(), &[]);
    let document = runtime.block_on(trap.capture(false)).0;
    migration.end().failed(1, "failed");
    vm.works();
    vm.stop();
    document
}

fn changed(document: &[u8], change: fn(&mut Value)) -> ToDestination {
    let mut value = serde_json::from_slice(document).expect("JSON");
    change(&mut value);
    machine(&serde_json::to_vec(&value).expect("JSON"))
}

fn range(pages: std::ops::Range<u32>) -> RangeList {
    let mut list = RangeList::EMPTY;
    list.push(pages);
    list
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

/// Before Ready: whoever knocks can do this.
fn greetings(document: &[u8]) -> Vec<Case> {
    let open = || Open(preface(StreamKind::Control));
    let say_hello = |change: fn(&mut Hello)| {
        let mut hello = hello();
        change(&mut hello);
        Say(ToDestination::Hello(hello))
    };
    let honest = || vec![open(), say_hello(|_| {})];
    let greeted = |step: Step| [honest(), vec![step]].concat();
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
fn let_in(document: &[u8]) -> Vec<Case> {
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
                    &me2_user::transport::frames::message_frame(&ToDestination::Handover(
                        Box::new(handover(vec![])),
                    )),
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
        Case("closes in the middle", received(Close), "stopped sending"),
    ]
}

#[test]
fn a_hostile_source_gets_an_error_and_the_receiver_waits_on() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    let document = document(&bench, &actor, &runtime);
    let to = bench.receive();
    let before = to.peak_bytes();
    say(
        "hostile source                what the receiver says                                  ms    MiB",
    );
    for Case(name, script, expected) in [greetings(&document), let_in(&document)].concat_cases() {
        let (begun, logged) = (Instant::now(), to.log().len());
        runtime.block_on(actor.attack(to.address(), &script));
        let line = to.wait_log_from(logged, expected);
        let took = begun.elapsed();
        to.wait_state("waiting");
        let more = to.peak_bytes().saturating_sub(before);
        say(&format!(
            "{name:28}  {:54.54} {:6} {:6}",
            line,
            took.as_millis(),
            more >> 20
        ));
        assert!(took < TIME_MAX, "{name}: {took:?}");
        assert!(more < MORE_BYTES_MAX, "{name}: {} MiB more", more >> 20);
    }
    assert!(!to.log().contains("panicked"));
    good_migration(&bench, to);
}

trait Cases {
    fn concat_cases(self) -> Vec<Case>;
}

impl Cases for [Vec<Case>; 2] {
    fn concat_cases(self) -> Vec<Case> {
        self.into_iter().flatten().collect()
    }
}

fn good_migration(bench: &Bench, to: Vm) {
    let mut vm = bench.start(&guest());
    vm.wait_ready();
    let before = vm.works();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    to.works_beyond(before);
    to.stop();
}

/// A destination, up to the handover: the VM runs on at the source.
fn until_handover() -> Vec<Case> {
    let say_hello = |version| {
        Answer(ToSource::Hello {
            version,
            boot_id: [0; 16],
        })
    };
    let greeted = |step: Step| vec![say_hello(3), Await(is_machine), step];
    let ready = |steps: Vec<Step>| [greeted(Answer(ToSource::Ready)), steps].concat();
    vec![
        Case(
            "garbage for hello",
            vec![Write(vec![0xff; 64])],
            "malformed frame",
        ),
        Case(
            "frame of 4 GiB",
            vec![Write(vec![1, 0, 0, 0, 255, 255, 255, 255])],
            "malformed frame",
        ),
        Case(
            "old version",
            vec![say_hello(1)],
            "another message than hello",
        ),
        Case(
            "new version",
            vec![say_hello(99)],
            "another message than hello",
        ),
        Case(
            "Ready for hello",
            vec![Answer(ToSource::Ready)],
            "another message than hello",
        ),
        Case(
            "refuses at once",
            vec![Answer(ToSource::Refused {
                epoch: 1,
                reason: "\x1b[2Jno\n".repeat(900),
            })],
            "refused: ",
        ),
        Case(
            "ends after hello",
            vec![say_hello(3), End],
            "ended a stream",
        ),
        Case(
            "Resumed for Ready",
            greeted(Answer(ToSource::Resumed {
                epoch: 1,
                timing: ResumeTiming::default(),
            })),
            "before Ready",
        ),
        Case(
            "Complete for Ready",
            greeted(Answer(ToSource::Complete {
                epoch: 1,
                leaves: vec![],
                statistics: DestinationStatistics::default(),
            })),
            "before Ready",
        ),
        Case(
            "pages for Ready",
            greeted(Write(pages(&[(0, 1)]))),
            "pages where",
        ),
        Case(
            "received what never was",
            ready(vec![
                Answer(ToSource::PassReceived { version: 77 }),
                Answer(ToSource::Resumed {
                    epoch: 1,
                    timing: ResumeTiming::default(),
                }),
            ]),
            "where it does not belong",
        ),
        Case(
            "recovers",
            ready(vec![Answer(ToSource::Recovering {
                epoch: 1,
                ownership: PeerOwnership::Running,
                missing: range(0..u32::MAX),
            })]),
            "where it does not belong",
        ),
        Case(
            "refuses in the middle",
            ready(vec![Answer(ToSource::Refused {
                epoch: 1,
                reason: "no".into(),
            })]),
            "refused: no",
        ),
        Case("ends in the middle", ready(vec![End]), "ended a stream"),
        Case(
            "closes in the middle",
            ready(vec![Close]),
            "the peer stopped",
        ),
    ]
}

#[test]
fn a_hostile_destination_before_the_handover_does_not_get_the_vm() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    let mut vm = bench.start(&guest());
    vm.wait_ready();
    let before = vm.peak_bytes();
    say(
        "hostile destination           what the source says                                    ms    MiB",
    );
    for Case(name, script, expected) in until_handover() {
        let begun = Instant::now();
        let trap = runtime.block_on(async { actor.listen() });
        let migration = bench.migrate(&vm, trap.address(), &["--mode", "precopy"]);
        runtime.block_on(trap.spring(&script));
        let ended = migration.end();
        let took = begun.elapsed();
        let error = ended.report.text("error").to_owned();
        assert!(
            error.contains(expected) && error.contains("runs on at the source"),
            "{name}: {error}"
        );
        assert!(
            !error.contains('\x1b') && error.lines().count() == 1,
            "{name}: {error}"
        );
        let code = if error.contains("refused") { 3 } else { 1 };
        ended.failed(code, "failed");
        vm.wait_state("running");
        vm.works();
        let more = vm.peak_bytes().saturating_sub(before);
        say(&format!(
            "{name:28}  {error:54.54} {:6} {:6}",
            took.as_millis(),
            more >> 20
        ));
        assert!(
            took < TIME_MAX && more < MORE_BYTES_MAX,
            "{name}: {took:?}, {more}"
        );
    }
    let to = bench.receive();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    to.works();
    to.stop();
}

/// A destination that has the handover: the VM is not run again here but by its refusal.
fn behind_handover() -> Vec<Case> {
    let begun = |steps: Vec<Step>| {
        let begin = vec![
            Answer(ToSource::Hello {
                version: 3,
                boot_id: [0; 16],
            }),
            Await(is_machine),
            Answer(ToSource::Ready),
            Await(is_handover),
        ];
        [begin, steps].concat()
    };
    let complete = |epoch, leaves| {
        Answer(ToSource::Complete {
            epoch,
            leaves,
            statistics: DestinationStatistics::default(),
        })
    };
    let resumed = |epoch| {
        Answer(ToSource::Resumed {
            epoch,
            timing: ResumeTiming::default(),
        })
    };
    let everything = PageRequest {
        wanted: (0..64).collect(),
        likely: Likely {
            pages: 255,
            stride: i32::MIN,
        },
    };
    let no_hashes = Answer(ToSource::LeafHashes {
        leaf: 0,
        hashes: vec![],
    });
    vec![
        Case(
            "resumed in another epoch",
            begun(vec![resumed(99)]),
            "broke the rules",
        ),
        Case(
            "Ready again",
            begun(vec![Answer(ToSource::Ready)]),
            "where it does not belong",
        ),
        Case(
            "complete, all wrong",
            begun(
                [
                    vec![resumed(1), complete(1, vec![7; LEAVES])],
                    vec![no_hashes.clone(); 16],
                ]
                .concat(),
            ),
            "pages differ",
        ),
        Case(
            "complete, 1M leaves",
            begun(
                [
                    vec![resumed(1), complete(1, vec![7; 1 << 20])],
                    vec![no_hashes.clone(); 16],
                ]
                .concat(),
            ),
            "pages differ",
        ),
        Case(
            "complete before it ran",
            begun([vec![complete(2, vec![])], vec![no_hashes.clone(); 16]].concat()),
            "broke the rules",
        ),
        Case(
            "refused after it ran",
            begun(vec![
                resumed(1),
                Answer(ToSource::Refused {
                    epoch: 1,
                    reason: "changed my mind".into(),
                }),
            ]),
            "broke the rules",
        ),
        Case(
            "4000 requests, unread",
            begun(vec![Ask(4000, everything), Answer(ToSource::Ready)]),
            "where it does not belong",
        ),
        Case(
            "8 MiB of garbage",
            begun(vec![Write(frame(FrameKind::Message, &vec![0xff; 8 << 20]))]),
            "malformed message",
        ),
        Case("gone", begun(vec![Close]), ""),
    ]
}

#[test]
fn a_hostile_destination_behind_the_handover_leaves_the_memory_at_the_source() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    say(
        "behind the handover           what the source says                                    ms    MiB",
    );
    for Case(name, script, expected) in behind_handover() {
        let vm = bench.start(&guest());
        vm.wait_ready();
        let (begun, before) = (Instant::now(), vm.peak_bytes());
        let trap = runtime.block_on(async { actor.listen() });
        let migration = bench.migrate(&vm, trap.address(), &["--mode", "postcopy"]);
        runtime.block_on(trap.spring(&script));
        let ended = migration.end();
        let took = begun.elapsed();
        let error = ended.report.text("error").to_owned();
        assert!(
            error.contains(expected) && error.contains("me2 recover"),
            "{name}: {error}"
        );
        ended.failed(5, "postcopy_paused");
        vm.wait_state("postcopy_paused");
        let more = vm.peak_bytes().saturating_sub(before);
        say(&format!(
            "{name:28}  {error:54.54} {:6} {:6}",
            took.as_millis(),
            more >> 20
        ));
        assert!(
            took < TIME_MAX && more < MORE_BYTES_MAX,
            "{name}: {took:?}, {more}"
        );
    }
}

/// All at once, since each takes as long as patience lasts.
#[test]
fn silence_is_not_waited_out_for_ever() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    let document = document(&bench, &actor, &runtime);
    let greeted = vec![
        Open(preface(StreamKind::Control)),
        Say(ToDestination::Hello(hello())),
    ];
    let ready = [
        greeted.clone(),
        vec![Say(machine(&document)), Await(is_ready)],
    ]
    .concat();
    let scripts = [
        (
            vec![Open(preface(StreamKind::Control))],
            "did not say hello in time",
        ),
        (greeted, "did not describe its machine in time"),
        (ready, "has said nothing for"),
    ];
    let receivers = scripts.each_ref().map(|_| bench.receive());
    let vm = bench.start(&guest());
    vm.wait_ready();
    let trap = runtime.block_on(async { actor.listen() });
    let migration = bench.migrate(&vm, trap.address(), &[]);
    let begun = Instant::now();
    runtime.block_on(async {
        let attacks = receivers.iter().zip(&scripts);
        let mut attacks: Vec<_> = attacks
            .map(|(to, (script, _))| Box::pin(actor.attack(to.address(), script)))
            .collect();
        let silent = [Step::Await(|_| false)];
        let (first, rest) = attacks.split_at_mut(1);
        let (second, third) = rest.split_at_mut(1);
        tokio::join!(
            &mut first[0],
            &mut second[0],
            &mut third[0],
            trap.spring(&silent)
        );
    });
    assert!(begun.elapsed() < SILENCE_MAX, "{:?}", begun.elapsed());
    let report = migration.end().failed(1, "failed");
    assert!(
        report.text("error").contains("has said nothing for"),
        "{report}"
    );
    vm.works();
    for (to, (_, expected)) in receivers.iter().zip(&scripts) {
        say(&format!("silence: {}", to.wait_log_from(0, expected)));
        to.wait_state("waiting");
    }
    vm.stop();
}

#[test]
fn a_peer_that_is_trusted_with_one_vm_brings_and_gets_no_other() {
    require_kvm!();
    let bench = Bench::new();
    // Names are given in order: the stranger's VM below is the first.
    bench.make_friends(&["--vm", "stranger1"]);
    let mut theirs = bench.start_stranger(&guest());
    let other = bench.start_stranger(&guest());
    theirs.wait_ready();
    other.wait_ready();
    let to = bench.receive();
    let report = bench
        .migrate(&other, to.address(), &[])
        .end()
        .failed(3, "failed");
    assert!(
        report.text("error").contains("vm=stranger1 alone"),
        "{report}"
    );
    other.works();
    to.wait_state("waiting");

    let own = bench.start(&guest());
    own.wait_ready();
    let there = bench.receive_stranger();
    let report = bench
        .migrate(&own, there.address(), &[])
        .end()
        .failed(1, "failed");
    assert!(
        report.text("error").contains("vm=stranger1 alone"),
        "{report}"
    );
    own.works();

    let before = theirs.works();
    bench.migrate(&theirs, to.address(), &[]).end().completed();
    assert_eq!(theirs.wait_exit().code(), Some(0), "the source");
    to.works_beyond(before);
}

/// The state names a page, the clock's, that is announced and never comes: KVM waits for it.
#[test]
fn a_source_that_goes_while_its_state_is_restored_leaves_a_receiver_that_waits() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    let vm = bench.start(&guest());
    vm.wait_ready();
    let trap = runtime.block_on(async { actor.listen() });
    let migration = bench.migrate(&vm, trap.address(), &["--mode", "postcopy"]);
    let (document, handover) = runtime.block_on(trap.capture(true));
    migration.end().failed(5, "postcopy_paused");
    drop(vm);

    let to = bench.receive();
    let handover = Handover {
        epoch: 1,
        pages: range(0..1 << 14),
        ..*handover.expect("asked for")
    };
    let script = [
        Open(preface(StreamKind::Control)),
        Say(ToDestination::Hello(hello())),
        Say(machine(&document)),
        Await(is_ready),
        Say(ToDestination::Handover(Box::new(handover))),
    ];
    let begun = Instant::now();
    runtime.block_on(actor.attack(to.address(), &script));
    say(&format!(
        "restoring: {}",
        to.wait_log_from(0, "has said nothing for")
    ));
    assert!(begun.elapsed() < SILENCE_MAX, "{:?}", begun.elapsed());
    to.wait_state("waiting");
    good_migration(&bench, to);
}
