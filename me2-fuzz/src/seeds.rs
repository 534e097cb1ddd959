//! Inputs to begin with: one of each kind, small, and always the same.

use me2_vmm::machine::{
    BlockDocument, CpuidLeaf, DeviceDocument, DeviceKind, MACHINE_VERSION, MachineDocument,
};
use me2_wire::{
    PAGE_SIZE,
    blob::StateBlob,
    delta,
    frame::{FrameKind, HEADER_BYTES, Header, Preface, StreamKind},
    message::{
        self, DestinationStatistics, FirstSecond, Handover, Hello, Likely, PageRequest,
        PeerOwnership, Purpose, ResumeTiming, Scheme, ToDestination, ToSource,
    },
    page::{ChunkWriter, Compression},
    range::RangeList,
    rle,
};

/// An input with a name.
pub type Seed = (String, Vec<u8>);

fn named(seeds: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Vec<Seed> {
    let seeds = seeds.into_iter();
    seeds
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .collect()
}

fn list() -> RangeList {
    RangeList::from_ascending([0, 2, 3, 300, 301, 699])
}

/// A page with little in it.
fn sparse() -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    (page[8], page[4000]) = (1, 0xff);
    page
}

/// Of [`crate::wire::stream`].
pub fn stream() -> Vec<Seed> {
    let mut stream = Preface {
        kind: StreamKind::Control,
        migration: [7; 16],
        epoch: 1,
    }
    .encode()
    .to_vec();
    let mut add = |kind, payload: &[u8]| {
        let header = Header::new(kind, payload.len()).expect("short");
        stream.extend_from_slice(&header.encode());
        stream.extend_from_slice(payload);
    };
    add(
        FrameKind::Message,
        &message::encode(&ToDestination::PassEnd { version: 1 }),
    );
    add(FrameKind::Pages, &plain_chunk());
    named([("two_frames", stream)])
}

/// Of [`crate::wire::to_destination`].
pub fn to_destination() -> Vec<Seed> {
    let messages = [
        (
            "hello",
            ToDestination::Hello(Hello {
                version_min: 3,
                version_max: 3,
                migration: [7; 16],
                epoch: 1,
                purpose: Purpose::Migrate,
                boot_id: [9; 16],
            }),
        ),
        (
            "machine",
            ToDestination::Machine {
                document: b"{}".to_vec(),
                scheme: Scheme::Hybrid,
            },
        ),
        (
            "announce",
            ToDestination::Announce {
                version: 1,
                pages: list(),
            },
        ),
        ("pass_end", ToDestination::PassEnd { version: 1 }),
        (
            "handover",
            ToDestination::Handover(Box::new(handover(Vec::new()))),
        ),
        ("verified", ToDestination::Verified { mismatched: 300 }),
        ("expand", ToDestination::ExpandLeaves { leaves: vec![0, 1] }),
        (
            "ack",
            ToDestination::CompleteAck {
                epoch: 1,
                mismatched: 1,
                frames: vec![5],
            },
        ),
        ("withdraw", ToDestination::Withdraw { pages: list() }),
    ];
    named(messages.map(|(name, message)| (name, message::encode(&message))))
}

/// Of [`crate::wire::to_source`].
pub fn to_source() -> Vec<Seed> {
    let statistics = DestinationStatistics {
        first_progress_us: Some(5),
        guest_rate: Some(1.5),
        first_second: Some(FirstSecond {
            touched_pages: 9,
            missed_pages: 3,
        }),
        ..Default::default()
    };
    let messages = [
        (
            "hello",
            ToSource::Hello {
                version: 3,
                boot_id: [9; 16],
            },
        ),
        ("ready", ToSource::Ready),
        (
            "checked",
            ToSource::Checked {
                reasons: vec!["too large".into(), "no AVX-512".into()],
            },
        ),
        (
            "refused",
            ToSource::Refused {
                epoch: 1,
                reason: "no\x1b[2J room".into(),
            },
        ),
        ("pass", ToSource::PassReceived { version: 1 }),
        (
            "verify",
            ToSource::Verify {
                leaves: vec![1, u64::MAX],
            },
        ),
        (
            "hashes",
            ToSource::LeafHashes {
                leaf: 0,
                hashes: vec![1, 2],
            },
        ),
        (
            "resumed",
            ToSource::Resumed {
                epoch: 1,
                timing: ResumeTiming::default(),
            },
        ),
        (
            "complete",
            ToSource::Complete {
                epoch: 1,
                leaves: vec![1, 2],
                statistics,
            },
        ),
        ("missing", ToSource::Missing { pages: list() }),
        (
            "recovering",
            ToSource::Recovering {
                epoch: 1,
                ownership: PeerOwnership::Running,
                missing: list(),
            },
        ),
        (
            "progress",
            ToSource::Progress {
                missing_pages: 300,
                faults: 2,
            },
        ),
        (
            "waits",
            ToSource::FaultWaits {
                buckets: vec![[100, 3], [u64::MAX, 1]],
            },
        ),
    ];
    named(messages.map(|(name, message)| (name, message::encode(&message))))
}

/// Of [`crate::wire::page_request`].
pub fn page_request() -> Vec<Seed> {
    let likely = Likely {
        pages: 16,
        stride: -1,
    };
    let request = PageRequest {
        wanted: vec![5, 70_000],
        likely,
    };
    named([("two_pages", message::encode(&request))])
}

/// Of [`crate::wire::ranges`].
pub fn ranges() -> Vec<Seed> {
    let within = |pages: u32, list: &RangeList| [&pages.to_le_bytes()[..], &list.encode()].concat();
    let mut all = RangeList::EMPTY;
    all.push(0..u32::MAX);
    named([
        ("several", within(700, &list())),
        ("all", within(u32::MAX, &all)),
        ("beyond", within(600, &list())),
    ])
}

/// Of [`crate::wire::rle`].
pub fn rle() -> Vec<Seed> {
    let encoded = |page: &[u8; PAGE_SIZE]| {
        let mut bytes = Vec::new();
        rle::encode(page, usize::MAX, &mut bytes);
        bytes
    };
    named([
        ("zeros", encoded(&sparse())),
        ("repeats", encoded(&[0x55; PAGE_SIZE])),
    ])
}

/// Of [`crate::wire::delta`].
pub fn delta() -> Vec<Seed> {
    let base = crate::input::noise(3);
    let mut page = base;
    page[77] ^= 1;
    let mut bytes = vec![3];
    delta::encode(&page, &base, usize::MAX, &mut bytes);
    named([("one_byte", bytes)])
}

/// Of [`crate::chunk::chunk`].
pub fn chunk() -> Vec<Seed> {
    named([("plain", plain_chunk()), ("zstd", packed_chunk())])
}

fn plain_chunk() -> Vec<u8> {
    let mut writer = ChunkWriter::new();
    writer.push(5, 1, &[0; PAGE_SIZE], None);
    writer.push(6, 2, &sparse(), None);
    writer.take_frame(Compression::None).bytes[HEADER_BYTES..].to_vec()
}

fn packed_chunk() -> Vec<u8> {
    let mut writer = ChunkWriter::new();
    for index in 0..40 {
        writer.push(index, 1, &sparse(), None);
    }
    let frame = writer.take_frame(Compression::Zstd { level: 1 });
    frame.bytes[HEADER_BYTES..].to_vec()
}

/// Of [`crate::chunk::changed`].
pub fn changed_chunk() -> Vec<Seed> {
    named([
        (
            "as_written",
            vec![0, 3, 1, 0, 4, 0, 9, 0, 2, 0, 4, 1, 7, 0, 5, 0],
        ),
        (
            "packed",
            vec![1, 5, 1, 0, 4, 0, 9, 0, 2, 0, 4, 0, 9, 0, 3, 0, 4, 0, 9, 0],
        ),
        (
            "changed",
            vec![
                0, 1, 1, 0, 4, 2, 9, 0, 5, 0, 2, 0, 4, 3, 2, 1, 9, 2, 1, 1, 40, 3, 7,
            ],
        ),
    ])
}

/// Of [`crate::machine::document`].
pub fn machine() -> Vec<Seed> {
    let leaf = CpuidLeaf {
        function: 1,
        index: 0,
        flags: 0,
        eax: 1,
        ebx: 2,
        ecx: 3,
        edx: 4,
    };
    let document = MachineDocument {
        version: MACHINE_VERSION,
        name: "web1".into(),
        memory_bytes: 64 << 20,
        cpus: 2,
        cpuid: vec![leaf],
        tsc_khz: 2_000_000,
        builtin_guest: true,
        devices: vec![DeviceDocument {
            name: "disk0".into(),
            kind: DeviceKind::Block(BlockDocument {
                path: "/srv/web1.raw".into(),
                sectors: 2048,
                read_only: false,
                lock: 1,
            }),
        }],
    };
    named([("small", document.to_json())])
}

/// Of [`crate::machine::state`].
pub fn state() -> Vec<Seed> {
    let mut blobs = Vec::new();
    let mut add = |kind: u16, index: u16, bytes: Vec<u8>| {
        blobs.push(StateBlob {
            kind,
            version: 1,
            index,
            bytes,
        });
    };
    // Sizes of the structs of KVM's ABI.
    for (kind, bytes) in [
        (1, 144),
        (2, 320),
        (3, 4096),
        (4, 392),
        (5, 32),
        (6, 1024),
        (7, 64),
        (8, 4),
        (9, 128),
        (10, 8),
    ] {
        add(kind, 0, vec![0; bytes]);
    }
    for chip in 0..3 {
        add(32, chip, vec![0; 520]);
    }
    add(33, 0, vec![0; 112]);
    add(
        34,
        0,
        br#"{"kvmclock_ns":1,"monotonic_ns":2,"host_tsc":3}"#.to_vec(),
    );
    add(
        64,
        0,
        br#"{"registers":[0,0,0,0,0,0,0,0,0],"input":[65]}"#.to_vec(),
    );
    let whole = [&[0][..], &message::encode(&handover(blobs.clone()))].concat();
    blobs.truncate(4);
    let part = [&[0][..], &message::encode(&handover(blobs))].concat();
    named([("one_vcpu", whole), ("a_part", part)])
}

fn handover(state: Vec<StateBlob>) -> Handover {
    Handover {
        epoch: 1,
        version: 2,
        pages: list(),
        state,
        stopped_ns: 1,
        since_save_ns: 2,
        verify_full: false,
    }
}

/// Of [`crate::tables::both`].
pub fn tables() -> Vec<Seed> {
    let mut destination = vec![0];
    destination.extend([0, 1, 0, 0, 9]); // announce pages 0 to 9 in version 1
    (0..10).for_each(|page| destination.extend([2, page, 0, 1, page % 3]));
    destination.extend([4, 2, 0, 2, 4]); // hand over, pages 512 to 516 in version 2
    destination.extend([5, 0, 2, 5, 3, 0, 6, 99, 7, 7]);
    destination.extend([2, 0, 2, 2, 1, 2, 1, 2, 2, 0, 7, 6, 99, 7]);
    let mut source = vec![1, 0, 0, 200];
    source.extend([2, 2, 5, 0, 9, 0, 16, 1, 0, 0, 0]);
    source.extend([1, 40, 0, 3, 0, 20, 3, 1, 5, 0, 255, 255, 255, 255, 255]);
    named([("destination", destination), ("source", source)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_reach_far() {
        for (_, bytes) in state() {
            let handover: Handover = message::decode(&bytes[1..]).expect("whole");
            let is_sound = me2_vmm::state::check(&handover.state, 1).is_ok();
            assert_eq!(is_sound, handover.state.len() == 16);
        }
        for (_, bytes) in machine() {
            MachineDocument::from_json(&bytes).expect("sound");
        }
        let mut decoder = me2_wire::page::ChunkDecoder::new(1000);
        for (_, bytes) in chunk() {
            assert!(decoder.open(&bytes).is_ok());
        }
        for (_, bytes) in to_destination() {
            message::decode::<ToDestination>(&bytes).expect("sound");
        }
        for (_, bytes) in to_source() {
            message::decode::<ToSource>(&bytes).expect("sound");
        }
    }
}
