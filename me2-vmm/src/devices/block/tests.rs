use super::*;
use crate::{layout::RamLayout, memory::GuestMemory};
use std::io::Seek;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{
    desc::{RawDescriptor, split::Descriptor},
    mock::MockSplitQueue,
};
use vm_memory::{Bytes, GuestAddress};

const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x11_0000;
const STATUS: u64 = 0x12_0000;

struct Bench {
    memory: GuestMemory,
    file: tempfile::NamedTempFile,
    device: Block,
}

impl Bench {
    fn new(read_only: bool) -> Self {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[9; 8 * 512]).unwrap();
        let disk = Arc::new(Disk::open(file.path(), read_only).unwrap());
        Self {
            memory: GuestMemory::new(RamLayout::new(2 << 20).unwrap()).unwrap(),
            device: Block::new("disk0", disk),
            file,
        }
    }

    /// One request with so many bytes of data; the status that the guest is told.
    fn request(&mut self, kind: u32, sector: u64, bytes: u32, is_read: bool) -> u8 {
        let view = self.memory.guest();
        view.write_obj(kind, GuestAddress(HEADER)).unwrap();
        view.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        view.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
        let queue = MockSplitQueue::new(view, 16);
        let next = VRING_DESC_F_NEXT as u16;
        let to_guest = if is_read {
            VRING_DESC_F_WRITE as u16
        } else {
            0
        };
        let mut chain = vec![Descriptor::new(HEADER, 16, next, 1)];
        if bytes > 0 {
            chain.push(Descriptor::new(DATA, bytes, next | to_guest, 2));
        }
        chain.push(Descriptor::new(STATUS, 1, VRING_DESC_F_WRITE as u16, 0));
        let chain: Vec<_> = chain.into_iter().map(RawDescriptor::from).collect();
        queue.add_desc_chains(&chain, 0).unwrap();
        let mut queues = [queue.create_queue::<Queue>().unwrap()];
        let served = self
            .device
            .serve(&mut queues, view, &AtomicBool::new(false))
            .unwrap();
        assert!(served.completed && !served.more);
        view.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn contents(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.file.rewind().unwrap();
        self.file.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn what_is_written_is_on_the_disk_and_read_back() {
    let mut bench = Bench::new(false);
    let text = [5; 1024];
    bench
        .memory
        .guest()
        .write_slice(&text, GuestAddress(DATA))
        .unwrap();
    assert_eq!(bench.request(VIRTIO_BLK_T_OUT, 2, 1024, false), 0);
    assert_eq!(bench.request(VIRTIO_BLK_T_FLUSH, 0, 0, false), 0);
    let contents = bench.contents();
    assert_eq!(contents[1024..2048], text);
    assert_eq!((contents[1023], contents[2048]), (9, 9));
    bench.memory.take_own_dirty();
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 1, 1024, true), 0);
    let mut back = [0; 1024];
    let view = bench.memory.guest();
    view.read_slice(&mut back, GuestAddress(DATA)).unwrap();
    assert_eq!((&back[..512], &back[512..]), (&[9; 512][..], &text[..512]));
    // What the device wrote is in the VMM's own dirty bitmap.
    let dirty = bench.memory.take_own_dirty();
    let page = (DATA / 4096) as usize;
    assert_eq!(dirty[page / 64] >> (page % 64) & 1, 1);
}

#[test]
fn what_is_not_on_the_disk_is_refused_and_nothing_is_changed() {
    let mut bench = Bench::new(false);
    let before = bench.contents();
    let error = VIRTIO_BLK_S_IOERR as u8;
    for (sector, bytes) in [(8, 512), (7, 1024), (u64::MAX, 512), (0, 100)] {
        assert_eq!(bench.request(VIRTIO_BLK_T_OUT, sector, bytes, false), error);
        assert_eq!(bench.request(VIRTIO_BLK_T_IN, sector, bytes, true), error);
    }
    assert_eq!(bench.request(99, 0, 512, false), VIRTIO_BLK_S_UNSUPP as u8);
    assert_eq!(bench.contents(), before);
}

#[test]
fn a_disk_that_is_not_to_be_written_is_not() {
    let mut bench = Bench::new(true);
    assert_eq!(
        bench.request(VIRTIO_BLK_T_OUT, 0, 512, false),
        VIRTIO_BLK_S_IOERR as u8
    );
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, 512, true), 0);
    assert_eq!(bench.contents(), [9; 8 * 512]);
}

#[test]
fn a_disk_that_was_let_go_is_not_touched() {
    let mut bench = Bench::new(false);
    bench.device.disk.let_go().unwrap();
    let queue = MockSplitQueue::new(bench.memory.guest(), 16);
    let mut queues = [queue.create_queue::<Queue>().unwrap()];
    let served = bench
        .device
        .serve(&mut queues, bench.memory.guest(), &AtomicBool::new(false))
        .unwrap();
    assert!(!served.completed);
}
