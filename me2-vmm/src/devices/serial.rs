//! The serial port: a 16550, the guest's console.

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

/// Interrupt of COM1.
pub(crate) const SERIAL_IRQ: u32 = 4;
/// Input that the port holds, and so what its state can have when it comes from a peer.
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

/// The port.
pub(crate) struct Console {
    serial: Mutex<Serial<Interrupt, NoEvents, ConsoleSink>>,
}

/// The serial port's registers, as they travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SerialRegisters {
    registers: [u8; 9],
    input: Vec<u8>,
}

impl Console {
    /// A port that raises its interrupt through `interrupt`.
    pub(crate) fn new(interrupt: EventFd, output: ConsoleSink) -> Self {
        Self {
            serial: Mutex::new(Serial::new(Interrupt(interrupt), output)),
        }
    }

    /// The guest writes to a register.
    pub(crate) fn write(&self, register: u8, data: &[u8]) {
        let mut serial = self.serial.lock().expect("no panics under this lock");
        for byte in data {
            // A full disk or a closed terminal must not stop the guest.
            if let Err(error) = serial.write(register, *byte) {
                tracing::debug!(?error, "console output lost");
            }
        }
    }

    /// The guest reads a register.
    pub(crate) fn read(&self, register: u8) -> u8 {
        let mut serial = self.serial.lock().expect("no panics under this lock");
        serial.read(register)
    }

    /// Types into the port what it has room for; gives how many bytes that were.
    pub(crate) fn input(&self, bytes: &[u8]) -> usize {
        let mut serial = self.serial.lock().expect("no panics under this lock");
        let fits = bytes.len().min(serial.fifo_capacity());
        serial.enqueue_raw_bytes(&bytes[..fits]).unwrap_or_default()
    }

    /// The serial port's registers.
    pub(crate) fn save(&self) -> SerialRegisters {
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
    pub(crate) fn restore(&self, interrupt: EventFd, saved: SerialRegisters) -> bool {
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
        let output = std::mem::replace(serial.writer_mut(), Box::new(io::sink()));
        match Serial::from_state(&state, Interrupt(interrupt), NoEvents, output) {
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
        let console = Console::new(event(), Box::new(sink.clone()));
        console.write(0, b"h");
        console.write(7, &[0x5a]);
        let saved = console.save();
        let other = Console::new(event(), Box::new(sink.clone()));
        assert!(other.restore(event(), saved.clone()));
        assert_eq!(other.save(), saved);
        other.write(0, b"i");
        assert_eq!(*sink.0.lock().unwrap(), b"hi");
        assert_eq!(other.read(7), 0x5a);
        assert!(!other.restore(
            event(),
            SerialRegisters {
                registers: [0; 9],
                input: vec![0; 1000]
            }
        ));
    }

    #[test]
    fn input_is_taken_as_far_as_it_fits_and_travels() {
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let console = Console::new(interrupt.try_clone().unwrap(), Box::new(io::sink()));
        console.write(1, &[1]); // interrupts on input
        assert_eq!(console.input(b"ab"), 2);
        assert!(interrupt.read().is_ok(), "the guest is interrupted");
        assert_eq!(console.read(0), b'a');
        let other = Console::new(event(), Box::new(io::sink()));
        assert!(other.restore(event(), console.save()));
        assert_eq!(other.read(0), b'b');
        assert_eq!(other.input(&[0; 100]), SERIAL_INPUT_BYTES_MAX);
        assert_eq!(other.input(&[0; 100]), 0);
    }
}
