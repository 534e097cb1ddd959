//! The lab's machine: QEMU without KVM, which emulates an AMD processor with SVM.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use super::record::Record;
use crate::Result;

const PROGRAM: &str = "qemu-system-x86_64";
/// Everything together; it takes a fifth of that on an idle machine.
const LIMIT: Duration = Duration::from_secs(870);
/// Longest line of interest; what is longer is cut.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Lines of the console that are shown if the machine did not come to its end.
const CONSOLE_LINES_SHOWN: usize = 20;

/// Boots the machine, shows its progress on stderr, and gives what it told until it switched itself
/// off or [`LIMIT`] was over. Its console goes to a file in `folder`.
pub(super) fn run(folder: &Path, kernel: &Path, image: &Path) -> Result<Record> {
    let console = folder.join("console.log");
    let mut machine = Machine::start(kernel, image, &console)?;
    let mut record = Record::default();
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match machine.lines.recv_timeout(left) {
            Ok(line) => {
                if let Some(progress) = record.take(line.trim_end_matches('\r')) {
                    eprintln!("lab: {progress}");
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                machine.wait()?;
                break;
            }
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("lab: not finished in {} s", LIMIT.as_secs());
                break;
            }
        }
    }
    if !record.is_whole() {
        show_end(&console);
    }
    Ok(record)
}

/// Killed when dropped.
struct Machine {
    qemu: Child,
    lines: Receiver<String>,
}

impl Machine {
    fn start(kernel: &Path, image: &Path, console: &Path) -> Result<Self> {
        let mut command = Command::new(PROGRAM);
        command
            .args(["-accel", "tcg,thread=multi", "-smp", "2"])
            .args(["-cpu", "max,+svm", "-m", "1536"])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-serial")
            .arg(file_device(console))
            .args(["-chardev", "stdio,id=results,signal=off"])
            .args(["-serial", "chardev:results"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(image)
            .args([
                "-append",
                "console=ttyS0 panic=-1 reboot=t mitigations=off quiet",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut qemu = command
            .spawn()
            .map_err(|error| format!("cannot run {PROGRAM}: {error}"))?;
        let stdout = qemu.stdout.take().expect("asked for above");
        Ok(Self {
            qemu,
            lines: read_lines(stdout),
        })
    }

    /// Its output has ended, so it does.
    fn wait(&mut self) -> Result {
        match self.qemu.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{PROGRAM} failed ({status})")),
            Err(error) => Err(format!("cannot wait for {PROGRAM}: {error}")),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn file_device(path: &Path) -> PathBuf {
    let mut device = std::ffi::OsString::from("file:");
    device.push(path);
    device.into()
}

fn read_lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (to, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches('\n')
                .to_owned();
            line.clear();
            if to.send(text).is_err() {
                return; // nobody listens any more
            }
        }
    });
    lines
}

/// The kernel's last words.
fn show_end(console: &Path) {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    eprintln!("--- last lines of {}", console.display());
    for line in &lines[lines.len().saturating_sub(CONSOLE_LINES_SHOWN)..] {
        eprintln!("{line}");
    }
}
