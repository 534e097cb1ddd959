//! The tables from which a guest learns of its processors, its devices and who raises which
//! interrupt. There is none of ACPI's own hardware (PM timer, fixed events): "hardware-reduced".
//! Source: ACPI 6.5, sections 5 and 19.

use acpi_tables::{
    Aml,
    aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate},
    fadt::{FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use crate::{
    devices::{
        KEYBOARD_PORT, KEYBOARD_RESET, SERIAL_IRQ, SERIAL_PORT, SERIAL_PORTS, SLEEP_CONTROL_PORT,
        SLEEP_STATUS_PORT, SLEEP_TYPE_OFF,
    },
    machine::MmioDevice,
    memory::GuestMemory,
};

/// Where PCs have their firmware: guests look for the first table there too, and no RAM is
/// announced there.
pub(super) const FIRST_TABLE: u64 = 0xe_0000;
const TABLES_END: u64 = 0x10_0000;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
const MAKER: [u8; 6] = *b"ME2   ";
const MACHINE: [u8; 8] = *b"ME2VM   ";
const REVISION: u32 = 1;
/// Bytes of the header that every table has.
const HEADER_BYTES: u32 = 36;
/// The revision from which numbers in [`Sdt`]'s code have 64 bits.
const CODE_REVISION: u8 = 2;
/// By this name Linux knows a virtio device behind memory-mapped registers.
const VIRTIO_MMIO: &str = "LNRO0005";
/// There is neither a VGA adapter nor a clock of CMOS to look for; without this, Linux waits for an
/// answer of the clock for a second and more.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// Writes the tables for processors whose APIC ids are 0 and up.
pub(super) fn write(
    memory: &GuestMemory,
    cpus: u8,
    devices: &[MmioDevice],
) -> Result<(), BootError> {
    let bytes = tables(cpus, devices);
    debug_assert!(FIRST_TABLE + bytes.len() as u64 <= TABLES_END);
    memory
        .guest()
        .write_slice(&bytes, GuestAddress(FIRST_TABLE))
        .map_err(BootError::Write)
}

/// All tables as they lie one behind the other from [`FIRST_TABLE`] on.
fn tables(cpus: u8, devices: &[MmioDevice]) -> Vec<u8> {
    let mut rest = Vec::new();
    let mut add = |table: &dyn Aml| {
        let at = FIRST_TABLE + (Rsdp::len() + rest.len()) as u64;
        table.to_aml_bytes(&mut rest);
        rest.resize(rest.len().next_multiple_of(8), 0);
        at
    };
    let code = add(&code(devices));
    let mut list = XSDT::new(MAKER, MACHINE, REVISION);
    list.add_entry(add(&machine(code)));
    list.add_entry(add(&processors(cpus)));
    let list = add(&list);
    let mut tables = Vec::new();
    Rsdp::new(MAKER, list).to_aml_bytes(&mut tables);
    tables.extend(rest);
    tables
}

/// What kind of machine it is, how it is reset (by the keyboard controller) and switched off.
fn machine(code: u64) -> impl Aml {
    let mut table = FADTBuilder::new(MAKER, MACHINE, REVISION)
        .dsdt_64(code)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .preferred_pm_profile(PmProfile::EnterpriseServer);
    table.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    table.reset_reg = port(KEYBOARD_PORT);
    table.reset_value = KEYBOARD_RESET;
    table.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    table.sleep_status_reg = port(SLEEP_STATUS_PORT);
    table.finalize()
}

/// A register of one byte on an I/O port.
fn port(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        port.into(),
    )
}

fn processors(cpus: u8) -> impl Aml {
    let local = LocalInterruptController::Address(LOCAL_APIC);
    let mut table = MADT::new(MAKER, MACHINE, REVISION, local);
    for id in 0..cpus {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    // Its pins are the interrupts' numbers, as KVM routes them unless told otherwise.
    table.add_structure(IoApic::new(cpus, IO_APIC, 0));
    table
}

/// How to switch off, the serial port, and virtio devices in the order in which the guest is to find them.
fn code(devices: &[MmioDevice]) -> Sdt {
    let mut table = Sdt::new(
        *b"DSDT",
        HEADER_BYTES,
        CODE_REVISION,
        MAKER,
        MACHINE,
        REVISION,
    );
    let off = Package::new(vec![&SLEEP_TYPE_OFF, &SLEEP_TYPE_OFF]);
    Name::new("_S5_".into(), &off).to_aml_bytes(&mut table);
    let ports = IO::new(SERIAL_PORT, SERIAL_PORT, 1, SERIAL_PORTS as u8);
    let serial = EISAName::new("PNP0501");
    add_device(&mut table, "_SB_.COM1", [&serial, &0u8], &ports, SERIAL_IRQ);
    for (number, place) in devices.iter().enumerate() {
        let registers = Memory32Fixed::new(true, place.address, place.size);
        let path = format!("_SB_.V{number:03}");
        let ids: [&dyn Aml; 2] = [&VIRTIO_MMIO, &(number as u32)];
        add_device(&mut table, &path, ids, &registers, place.irq);
    }
    table.update_checksum();
    table
}

/// Adds a device by its kind and its number among its kind. Its interrupt is edge-triggered and
/// active high.
fn add_device(table: &mut Sdt, path: &str, ids: [&dyn Aml; 2], registers: &dyn Aml, irq: u32) {
    let interrupt = Interrupt::new(true, true, false, false, irq);
    let resources = ResourceTemplate::new(vec![registers, &interrupt]);
    Device::new(
        path.into(),
        vec![
            &Name::new("_HID".into(), ids[0]),
            &Name::new("_UID".into(), ids[1]),
            &Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(table);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn number<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes[..N].try_into().unwrap()
    }

    /// The table at an address, whole.
    fn table(bytes: &[u8], at: u64) -> &[u8] {
        let bytes = &bytes[(at - FIRST_TABLE) as usize..];
        &bytes[..u32::from_le_bytes(number(&bytes[4..])) as usize]
    }

    #[test]
    fn every_table_is_found_and_adds_up() {
        for cpus in [1, 2, 8] {
            let place = MmioDevice {
                address: 0xd000_0000,
                size: 0x1000,
                irq: 5,
            };
            let bytes = tables(cpus, &[place; 9]);
            assert!(FIRST_TABLE + (bytes.len() as u64) < TABLES_END);
            assert_eq!(&bytes[..8], b"RSD PTR ");
            assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
            let list = table(&bytes, u64::from_le_bytes(number(&bytes[24..])));
            let entries = list[36..].chunks_exact(8);
            let entries: Vec<_> = entries
                .map(|at| table(&bytes, u64::from_le_bytes(number(at))))
                .collect();
            let [machine, processors] = entries[..] else {
                panic!("{} tables", entries.len());
            };
            let code = table(&bytes, u64::from_le_bytes(number(&machine[140..])));
            for (table, name) in [
                (list, b"XSDT"),
                (machine, b"FACP"),
                (processors, b"APIC"),
                (code, b"DSDT"),
            ] {
                assert_eq!((&table[..4], sum(table)), (name.as_slice(), 0));
            }
            let enabled = processors[44..]
                .chunks(8)
                .filter(|entry| entry[..2] == [0, 8]);
            assert_eq!(enabled.count(), usize::from(cpus));
            assert_eq!(code.windows(4).filter(|name| *name == b"_S5_").count(), 1);
            let virtio = code.windows(8).filter(|name| *name == b"LNRO0005");
            assert_eq!(virtio.count(), 9);
        }
    }
}
