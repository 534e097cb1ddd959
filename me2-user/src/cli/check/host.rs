//! What me2 needs of this host's kernel and memory.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use me2_vmm::paging::Userfault;
use me2_vmm::vm::Host;
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::explore::probes::{Probes, ProbesError};
use crate::identity::{Identity, IdentityError, Moment};
use crate::migrate::destination::admissible_bytes;
use crate::process::host_memory;

/// KVM's TSC offset of a vCPU.
const LINUX_MIN: (u32, u32) = (5, 16);
/// A VM for which probes are tried.
const FRAMES: u64 = 1 << 18;

pub(super) fn kernel() -> Finding {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let found = format!("Linux {release}");
    match version(&release) {
        Some(version) if version >= LINUX_MIN => Finding::needed("kernel").found(found),
        _ => Finding::needed("kernel").missing(found, "me2 needs Linux 5.16 or later"),
    }
}

/// The first two numbers of a release, such as `6.12.9-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The rows of KVM and userfaultfd, and what was opened of them.
pub(super) fn machine() -> (Vec<Finding>, Option<Host>) {
    let kvm = kvm();
    let userfault = Userfault::open();
    let rows = vec![userfaultfd(&userfault), moves(&userfault)];
    let host = match userfault {
        Ok(userfault) if kvm.is_found => Host::open(Arc::new(userfault)),
        _ => return (std::iter::once(kvm).chain(rows).collect(), None),
    };
    // A VM and a vCPU are made for this.
    let described = host.and_then(|host| {
        let document = host.describe("check", 1 << 30, 1, false)?;
        Ok((host, document))
    });
    let (kvm, host) = match described {
        Ok((host, document)) => {
            let mhz = document.tsc_khz / 1000;
            let found = format!("makes VMs, with a TSC of {mhz} MHz");
            (Finding::needed("kvm").found(found), Some(host))
        }
        Err(error) => {
            let found = format!("{:#}", anyhow::Error::from(error));
            let mend = "see the kernel's log (dmesg) for what KVM lacks";
            (Finding::needed("kvm").missing(found, mend), None)
        }
    };
    (std::iter::once(kvm).chain(rows).collect(), host)
}

fn kvm() -> Finding {
    let kvm = Finding::needed("kvm");
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    match opened.map_err(|error| error.kind()) {
        Ok(_) => kvm.found("/dev/kvm opens"),
        Err(ErrorKind::PermissionDenied) => kvm.missing(
            "this user may not open /dev/kvm",
            "add the user to the group of /dev/kvm (usermod -aG kvm USER), and log in anew",
        ),
        Err(ErrorKind::NotFound) => kvm.missing(
            "there is no /dev/kvm",
            "enable virtualization in the firmware, or nested virtualization at the host, and \
             modprobe kvm_intel or kvm_amd",
        ),
        Err(kind) => kvm.missing(
            format!("/dev/kvm does not open: {kind}"),
            "modprobe kvm_intel or kvm_amd, and see the kernel's log (dmesg)",
        ),
    }
}

/// Where the device exists the system call is not tried.
fn userfaultfd(opened: &Result<Userfault, me2_vmm::paging::PagingError>) -> Finding {
    let userfaultfd = Finding::needed("userfaultfd");
    let has_device = Path::new("/dev/userfaultfd").exists();
    let setting = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    let setting = setting.map_or_else(|_| "not told".to_owned(), |text| text.trim().to_owned());
    let way = match has_device {
        true => "by /dev/userfaultfd".to_owned(),
        false => format!("by the system call, vm.unprivileged_userfaultfd {setting}"),
    };
    match opened {
        Ok(_) => userfaultfd.found(format!("opens, {way}")),
        Err(_) if has_device => userfaultfd.missing(
            format!("does not open {way}"),
            "run as root, or let this user open the device: setfacl -m u:USER:rw /dev/userfaultfd",
        ),
        Err(_) => userfaultfd.missing(
            format!("does not open {way}"),
            "run as root or with CAP_SYS_PTRACE, or sysctl -w vm.unprivileged_userfaultfd=1; the \
             kernel needs CONFIG_USERFAULTFD",
        ),
    }
}

fn moves(opened: &Result<Userfault, me2_vmm::paging::PagingError>) -> Finding {
    let moves = Finding::wanted("UFFDIO_MOVE");
    match opened {
        Ok(userfault) if userfault.can_move() => {
            moves.found("pages that came are moved into place")
        }
        Ok(_) => moves.missing(
            "pages that came are copied into place",
            "takes Linux 6.8 or later",
        ),
        Err(_) => moves.missing("not tried: userfaultfd does not open", "see userfaultfd"),
    }
}

/// The rows of BTF, BPF and the tracepoints: the probes are attached and let go.
pub(super) fn probes() -> [Finding; 3] {
    let opened = Probes::open(FRAMES);
    let btf = Finding::wanted("BTF");
    let btf = match &opened {
        Err(error @ ProbesError::NoLayout(_)) => btf.told(error),
        _ if Path::new("/sys/kernel/btf/vmlinux").exists() => btf.found("/sys/kernel/btf/vmlinux"),
        _ => btf.missing(
            "there is no /sys/kernel/btf/vmlinux",
            "takes a kernel with CONFIG_DEBUG_INFO_BTF, and /sys mounted",
        ),
    };
    let (bpf, tracepoints) = (Finding::wanted("BPF"), Finding::wanted("tracepoints"));
    let [bpf, tracepoints] = match &opened {
        Ok(probes) => [bpf.found("probes load"), tracepoints.found(probes.name())],
        Err(error @ ProbesError::NoTracepoint(_)) => {
            [bpf.found("probes load"), tracepoints.told(error)]
        }
        Err(ProbesError::NoLayout(_)) => [
            bpf.missing("not tried without BTF", "see BTF"),
            tracepoints.missing("not tried without BTF", "see BTF"),
        ],
        Err(error) => [
            bpf.told(error),
            tracepoints.missing("not tried without BPF", "see BPF"),
        ],
    };
    [btf, bpf, tracepoints]
}

pub(super) fn memory() -> Finding {
    let memory = Finding::needed("memory");
    match host_memory::kib("MemAvailable") {
        Ok(kib) => memory.found(format!(
            "{} MiB available: a VM of {} MiB is taken",
            kib >> 10,
            admissible_bytes(kib << 10) >> 20
        )),
        Err(error) => memory.missing(format!("{error:#}"), "mount /proc"),
    }
}

/// Nothing of me2 is locked, and BPF's maps count against a control group since Linux 5.11.
pub(super) fn locked_memory() -> Finding {
    let limit = match getrlimit(Resource::Memlock).current {
        Some(bytes) => format!("{} KiB", bytes >> 10),
        None => "unlimited".to_owned(),
    };
    Finding::wanted("locked memory").found(format!("limit {limit}; me2 locks none"))
}

pub(super) fn identity(folder: Result<std::path::PathBuf, IdentityError>) -> Vec<Finding> {
    let identity = Finding::needed("identity");
    match folder.and_then(|folder| Identity::load(&folder)) {
        Ok(own) => vec![
            identity.found(own.fingerprint().to_string()),
            certificate(&own, Moment::now()),
        ],
        Err(error) => vec![identity.missing(
            format!("{:#}", anyhow::Error::from(error)),
            "make one with me2 cert create, as the user who runs the VMs",
        )],
    }
}

/// One that has expired is of use to those who know its fingerprint.
fn certificate(own: &Identity, now: Moment) -> Finding {
    let certificate = Finding::wanted("certificate");
    let Some(validity) = own.validity() else {
        return certificate.found("self-signed, known by its fingerprint: it does not expire");
    };
    match own.warning(now) {
        Some(warning) => match warning.split_once("; ") {
            Some((found, mend)) => certificate.missing(found, mend),
            None => certificate.missing(warning, "see me2 cert show"),
        },
        None => certificate.found(format!(
            "{}, until {}, {} days left",
            own.facts().subject,
            validity.until,
            validity.days_left(now)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert_eq!(version("6.12.9-amd64"), Some((6, 12)));
        assert_eq!(version("5.4-rc1"), Some((5, 4)));
        assert_eq!(version("unknown"), None);
        assert!((5, 4) < LINUX_MIN && LINUX_MIN < (6, 1));
    }

    #[test]
    fn each_need_that_is_missing_has_a_mend() {
        let rows = machine().0.into_iter().chain(probes());
        for row in rows.chain([kernel(), memory(), locked_memory()]) {
            assert!(!row.found.is_empty(), "{row:?}");
            assert_eq!(row.is_found, row.mend.is_none(), "{row:?}");
        }
        let nowhere = &identity(Ok("/nonexistent".into()))[0];
        assert!(!nowhere.is_found && nowhere.is_needed, "{nowhere:?}");
    }
}
