//! What can be told of booting without a processor that runs it.

use super::*;
use crate::layout::RamLayout;

const MIB: u64 = 1 << 20;

fn memory(mib: u64) -> GuestMemory {
    GuestMemory::new(RamLayout::new(mib * MIB).unwrap()).unwrap()
}

fn file(bytes: &[u8]) -> BootFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    BootFile::open(&path).unwrap()
}

fn source(kernel: &[u8]) -> BootSource {
    BootSource {
        kernel: Kernel::File(file(kernel)),
        initrd: None,
        command_line: "console=ttyS0".into(),
    }
}

fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A bzImage that unpacks itself at 2 MiB into as much again; its code is "code".
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1; // sectors of set-up code behind the first
    set(&mut image, 0x1fe, &[0x55, 0xaa]);
    set(&mut image, 0x202, b"HdrS");
    set(&mut image, 0x206, &0x020fu16.to_le_bytes());
    image[0x211] = 1; // the kernel is loaded high
    set(&mut image, 0x214, &0x10_0000u32.to_le_bytes());
    set(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes()); // highest byte of an initrd
    set(&mut image, 0x238, &2047u32.to_le_bytes()); // longest command line
    set(&mut image, 0x258, &(2 * MIB).to_le_bytes());
    set(&mut image, 0x260, &(2 * MIB as u32).to_le_bytes());
    image.extend(b"code");
    image
}

fn number(memory: &GuestMemory, at: u64) -> u32 {
    memory.guest().read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn a_bzimage_is_placed_and_told_where_things_are() {
    let memory = memory(16);
    let mut source = source(&bzimage());
    source.initrd = Some(file(&[7; 5000]));
    let entry = load(&memory, &source, 2, &[]).unwrap();
    let registers = entry.registers();
    assert_eq!((registers.rip, registers.rsi), (0x10_0000, 0x7000));
    let special = entry.special_registers(kvm_sregs::default());
    assert_eq!((special.cs.selector, special.ds.selector), (0x10, 0x18));
    assert_eq!(special.gdt.limit, 31);
    assert_eq!(number(&memory, 0x10_0000).to_le_bytes(), *b"code");
    let parameters = registers.rsi;
    assert_eq!(number(&memory, parameters + 0x228), COMMAND_LINE.0 as u32);
    let initrd = number(&memory, parameters + 0x218);
    assert_eq!(u64::from(initrd), 16 * MIB - 8192);
    assert_eq!(number(&memory, parameters + 0x21c), 5000);
    assert_eq!(number(&memory, initrd.into()), 0x0707_0707);
    let mut entries = [0u8];
    memory
        .guest()
        .read_slice(&mut entries, GuestAddress(parameters + 0x1e8))
        .unwrap();
    assert_eq!(entries, [2]);
    let tables = number(&memory, parameters + 0x70);
    assert_eq!(number(&memory, tables.into()).to_le_bytes(), *b"RSD ");
}

#[test]
fn what_is_no_kernel_is_refused() {
    let garbage = source(b"just text");
    assert!(matches!(
        load(&memory(16), &garbage, 1, &[]),
        Err(BootError::NoKernel(_))
    ));
    let cut = source(&bzimage()[..0x230]);
    let error = load(&memory(16), &cut, 1, &[]).unwrap_err();
    assert!(error.to_string().contains("is it whole"), "{error}");
    let elf = source(b"\x7fELF and no more");
    assert!(matches!(
        load(&memory(16), &elf, 1, &[]),
        Err(BootError::Load { .. })
    ));
    let absent = BootFile::open(Path::new("/nonexistent"));
    assert!(matches!(absent, Err(BootError::File { .. })));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut old = bzimage();
    set(&mut old, 0x206, &0x0209u16.to_le_bytes());
    assert!(matches!(
        load(&memory(16), &source(&old), 1, &[]),
        Err(BootError::TooOld {
            version: 0x0209,
            ..
        })
    ));
    assert!(matches!(
        load(&memory(2), &source(&bzimage()), 1, &[]),
        Err(BootError::KernelTooLarge { .. })
    ));
    let mut endless = bzimage();
    set(&mut endless, 0x258, &[0xff; 12]);
    assert!(matches!(
        load(&memory(16), &source(&endless), 1, &[]),
        Err(BootError::KernelTooLarge {
            bytes: u64::MAX,
            ..
        })
    ));
    let mut large = source(&bzimage());
    large.initrd = Some(file(&vec![0; 13 << 20]));
    assert!(matches!(
        load(&memory(16), &large, 1, &[]),
        Err(BootError::InitrdTooLarge { .. })
    ));
    let mut long = source(&bzimage());
    long.command_line = "x".repeat(2048);
    assert!(matches!(
        load(&memory(16), &long, 1, &[]),
        Err(BootError::CommandLine {
            bytes: 2048,
            limit: 2047
        })
    ));
}
