//! The devices on the I/O ports: a 16550 serial console, the debug exit, and the keyboard
//! controller's reset line.

use std::{
    io::{self, Write},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};
use vm_superio::{
    Serial, Trigger,
    serial::{NoEvents, SerialState},
};
use vmm_sys_util::eventfd::EventFd;

use crate::vcpu::EndReason;

/// First port of the serial console (COM1).
const SERIAL_PORT: u16 = 0x3f8;
const SERIAL_PORTS: u16 = 8;
/// Interrupt of COM1.
pub(crate) const SERIAL_IRQ: u32 = 4;
/// The guest ends its VM by writing a status here, as with QEMU's `isa-debug-exit`.
const DEBUG_EXIT_PORT: u16 = 0xf4;
/// Command port of the keyboard controller, and its command "pulse the reset line".
const KEYBOARD_PORT: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;
/// Input that the serial port can hold when its state comes from a peer.
const SERIAL_INPUT_BYTES_MAX: usize = 64;

/// Where the guest's console output goes.
pub type ConsoleSink = Box<dyn Write + Send>;

struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The devices of a VM.
pub(crate) struct Devices {
    serial: Mutex<Serial<Interrupt, NoEvents, ConsoleSink>>,
}

/// The serial port's registers, as they travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SerialRegisters {
    registers: [u8; 9],
    input: Vec<u8>,
}

impl Devices {
    /// Devices whose serial port raises its interrupt through `interrupt`.
    pub(crate) fn new(interrupt: EventFd, console: ConsoleSink) -> Self {
        Self {
            serial: Mutex::new(Serial::new(Interrupt(interrupt), console)),
        }
    }

    /// The guest wrote to a port. Gives the reason if that ends the VM.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) -> Option<EndReason> {
        match port {
            SERIAL_PORT..0x400 => {
                let mut serial = self.serial.lock().expect("no panics under this lock");
                for byte in data {
                    // A full disk or a closed terminal must not stop the guest.
                    if let Err(error) = serial.write((port - SERIAL_PORT) as u8, *byte) {
                        tracing::debug!(?error, "console output lost");
                    }
                }
                None
            }
            DEBUG_EXIT_PORT => {
                let mut status = [0; 4];
                let len = data.len().min(4);
                status[..len].copy_from_slice(&data[..len]);
                Some(EndReason::Exit(u32::from_le_bytes(status)))
            }
            KEYBOARD_PORT if data == [KEYBOARD_RESET] => Some(EndReason::Reset),
            _ => None,
        }
    }

    /// The guest reads from a port; unknown ports read as all ones.
    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if (SERIAL_PORT..SERIAL_PORT + SERIAL_PORTS).contains(&port) {
            let mut serial = self.serial.lock().expect("no panics under this lock");
            data[0] = serial.read((port - SERIAL_PORT) as u8);
        }
    }

    /// The serial port's registers.
    pub(crate) fn save_serial(&self) -> SerialRegisters {
        let state = self
            .serial
            .lock()
            .expect("no panics under this lock")
            .state();
        SerialRegisters {
            registers: [
                state.baud_divisor_low,
                state.baud_divisor_high,
                state.interrupt_enable,
                state.interrupt_identification,
                state.line_control,
                state.line_status,
                state.modem_control,
                state.modem_status,
                state.scratch,
            ],
            input: state.in_buffer,
        }
    }

    /// Restores registers that another me2 saved; false if they are impossible.
    pub(crate) fn restore_serial(&self, interrupt: EventFd, saved: SerialRegisters) -> bool {
        if saved.input.len() > SERIAL_INPUT_BYTES_MAX {
            return false;
        }
        let r = saved.registers;
        let state = SerialState {
            baud_divisor_low: r[0],
            baud_divisor_high: r[1],
            interrupt_enable: r[2],
            interrupt_identification: r[3],
            line_control: r[4],
            line_status: r[5],
            modem_control: r[6],
            modem_status: r[7],
            scratch: r[8],
            in_buffer: saved.input,
        };
        let mut serial = self.serial.lock().expect("no panics under this lock");
        let console = std::mem::replace(serial.writer_mut(), Box::new(io::sink()));
        match Serial::from_state(&state, Interrupt(interrupt), NoEvents, console) {
            Ok(restored) => {
                *serial = restored;
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn event() -> EventFd {
        EventFd::new(0).unwrap()
    }

    #[test]
    fn console_output_and_state() {
        let sink = Sink::default();
        let devices = Devices::new(event(), Box::new(sink.clone()));
        assert!(devices.port_write(SERIAL_PORT, b"h").is_none());
        devices.port_write(SERIAL_PORT + 7, &[0x5a]);
        let saved = devices.save_serial();
        let other = Devices::new(event(), Box::new(sink.clone()));
        assert!(other.restore_serial(event(), saved.clone()));
        assert_eq!(other.save_serial(), saved);
        other.port_write(SERIAL_PORT, b"i");
        assert_eq!(*sink.0.lock().unwrap(), b"hi");
        let mut scratch = [0];
        other.port_read(SERIAL_PORT + 7, &mut scratch);
        assert_eq!(scratch, [0x5a]);
        assert!(!other.restore_serial(
            event(),
            SerialRegisters {
                registers: [0; 9],
                input: vec![0; 1000]
            }
        ));
    }

    #[test]
    fn the_guest_can_end_its_vm() {
        let devices = Devices::new(event(), Box::new(io::sink()));
        assert_eq!(
            devices.port_write(DEBUG_EXIT_PORT, &1u32.to_le_bytes()),
            Some(EndReason::Exit(1))
        );
        assert_eq!(
            devices.port_write(KEYBOARD_PORT, &[KEYBOARD_RESET]),
            Some(EndReason::Reset)
        );
        assert_eq!(devices.port_write(0x80, &[1]), None);
    }
}
