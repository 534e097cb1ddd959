//! What a hostile destination does, and what the source says of it.

use me2_tests::hostile::{
    Step::{self, Answer, Ask, Await, Close, End, Write},
    frame, is_handover, is_machine, pages,
};
use me2_wire::{
    PROTOCOL_VERSION_MAX,
    frame::FrameKind,
    message::{
        DestinationStatistics, Likely, PageRequest, PeerOwnership, REASONS_MAX, ResumeTiming,
        ToSource,
    },
};

use super::{Case, range};

/// Leaves of the hash tree over the guest's memory.
const LEAVES: usize = 32;

fn say_hello(version: u16) -> Step {
    Answer(ToSource::Hello {
        version,
        boot_id: [0; 16],
    })
}

/// A receiver that `me2 check` asks about a VM.
pub fn asked() -> Vec<Case> {
    let say_hello = || say_hello(PROTOCOL_VERSION_MAX);
    let told = |reasons| {
        vec![
            say_hello(),
            Await(is_machine),
            Answer(ToSource::Checked { reasons }),
        ]
    };
    vec![
        Case(
            "garbage for hello",
            vec![Write(vec![0xff; 64])],
            "malformed frame",
        ),
        Case(
            "Ready for hello",
            vec![Answer(ToSource::Ready)],
            "another message than hello",
        ),
        Case(
            "Ready for Checked",
            vec![say_hello(), Await(is_machine), Answer(ToSource::Ready)],
            "another message than Checked",
        ),
        Case(
            "frame of 8 MiB",
            vec![
                say_hello(),
                Await(is_machine),
                Write(vec![1, 0, 0, 0, 0, 0, 128, 0]),
            ],
            "a long frame",
        ),
        Case(
            "too many reasons",
            told(vec!["no".to_owned(); 4 * REASONS_MAX]),
            "no",
        ),
        Case(
            "escapes in a reason",
            told(vec!["\x1b[2Jno\n".repeat(40)]),
            "no",
        ),
        Case("closes", vec![say_hello(), Close], "closed"),
        Case("silence", vec![Await(|_| false)], "says nothing for"),
    ]
}

/// A destination, up to the handover: the VM runs on at the source.
pub fn until_handover() -> Vec<Case> {
    let greeted = |step: Step| vec![say_hello(PROTOCOL_VERSION_MAX), Await(is_machine), step];
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
            vec![say_hello(PROTOCOL_VERSION_MAX), End],
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
            "closed by peer: enough",
        ),
    ]
}

/// A destination that has the handover: the VM is not run again here but by its refusal.
pub fn behind_handover() -> Vec<Case> {
    let begun = |steps: Vec<Step>| {
        let begin = vec![
            Answer(ToSource::Hello {
                version: PROTOCOL_VERSION_MAX,
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
    let waits = |buckets| Answer(ToSource::FaultWaits { buckets });
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
    // As often as they are compared.
    let wrong_completions = |leaves: Vec<u64>| {
        let once = [vec![complete(1, leaves)], vec![no_hashes.clone(); 16]].concat();
        [vec![resumed(1)], vec![once; 4].concat()].concat()
    };
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
            begun(wrong_completions(vec![7; LEAVES])),
            "pages differ",
        ),
        Case(
            "complete, 1M leaves",
            begun(wrong_completions(vec![7; 1 << 20])),
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
            "waits that go back",
            begun(vec![resumed(1), waits(vec![[5, 1], [3, 1]])]),
            "a distribution that is none",
        ),
        Case(
            "too many waits",
            begun(vec![
                resumed(1),
                waits((0..513).map(|us| [us, 1]).collect()),
            ]),
            "a distribution that is none",
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
