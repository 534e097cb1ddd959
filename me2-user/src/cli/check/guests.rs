//! What guests with an operating system of their own want of this host: Linux with a disk and a network.

use std::fs::{self, File};
use std::io::{self, ErrorKind};

use super::Finding;

const TAPS: &str = "/dev/net/tun";
const LARGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// The processor's own translation of guest addresses, by the modules of KVM that can have it.
const NESTED_PAGING: [(&str, &str); 2] = [
    ("EPT", "/sys/module/kvm_intel/parameters/ept"),
    ("NPT", "/sys/module/kvm_amd/parameters/npt"),
];

/// The rows of processor, network cards and large pages.
pub(super) fn all() -> [Finding; 4] {
    let nested = NESTED_PAGING.map(|(name, path)| (name, fs::read_to_string(path).ok()));
    let flags = fs::read_to_string("/proc/cpuinfo");
    let tun = File::options().read(true).write(true).open(TAPS);
    [
        nested_paging(&nested),
        clock(flags.as_deref().unwrap_or_default()),
        taps(tun.map(drop)),
        large_pages(fs::read_to_string(LARGE_PAGES).ok().as_deref()),
    ]
}

fn nested_paging(modules: &[(&str, Option<String>)]) -> Finding {
    let row = Finding::wanted("nested paging");
    let is_on = |value: &str| matches!(value.trim(), "Y" | "1");
    let mut loaded = modules
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    match loaded.next() {
        Some((name, value)) if is_on(value) => row.found(name),
        Some((name, _)) => row.missing(
            format!("{name} is off: guests run slower, and so do the probes"),
            "load KVM's module without ept=0 or npt=0",
        ),
        None => row.missing(
            "neither kvm_intel nor kvm_amd: a stock Linux may not boot",
            "use a host whose processor virtualizes, with one of these modules",
        ),
    }
}

/// What a guest's clock goes by is to go on at one rate, whatever the processor does.
fn clock(cpuinfo: &str) -> Finding {
    let row = Finding::wanted("steady TSC");
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let mut flags = flags.unwrap_or_default().split_ascii_whitespace();
    match flags.any(|flag| flag == "constant_tsc") {
        true => row.found("constant_tsc"),
        false => row.missing(
            "no constant_tsc: guests' clocks may drift",
            "none on this processor; nested, the host below may hide it",
        ),
    }
}

fn taps(opened: io::Result<()>) -> Finding {
    let row = Finding::wanted("taps");
    match opened.map_err(|error| error.kind()) {
        Ok(()) => row.found(format!("{TAPS} opens, for --net")),
        Err(ErrorKind::NotFound) => row.missing(
            format!("there is no {TAPS}: no --net"),
            "modprobe tun, and in a container have the device passed in",
        ),
        Err(kind) => row.missing(
            format!("{TAPS} does not open ({kind}): no --net"),
            format!("let this user open it: setfacl -m u:USER:rw {TAPS}"),
        ),
    }
}

fn large_pages(enabled: Option<&str>) -> Finding {
    let row = Finding::wanted("large pages");
    let chosen = enabled.and_then(|text| text.split_once('[')?.1.split_once(']'));
    match chosen {
        Some((mode @ ("always" | "madvise"), _)) => row.found(format!("{mode}, for --large-pages")),
        Some((mode, _)) => row.missing(
            format!("{mode}: run --large-pages has no effect"),
            format!("echo madvise >{LARGE_PAGES}"),
        ),
        None => row.missing(
            "this kernel has none: --large-pages has no effect",
            "takes a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(ept: Option<&str>, npt: Option<&str>) -> [(&'static str, Option<String>); 2] {
        [
            ("EPT", ept.map(str::to_owned)),
            ("NPT", npt.map(str::to_owned)),
        ]
    }

    #[test]
    fn what_is_on_is_found() {
        assert!(nested_paging(&modules(Some("Y\n"), None)).is_found);
        assert!(nested_paging(&modules(None, Some("1\n"))).is_found);
        assert!(clock("processor : 0\nflags\t\t: fpu constant_tsc\n").is_found);
        assert!(taps(Ok(())).is_found);
        assert!(large_pages(Some("always [madvise] never\n")).is_found);
    }

    #[test]
    fn what_is_off_or_not_there_is_told_apart() {
        let off = nested_paging(&modules(Some("N\n"), None));
        let none = nested_paging(&modules(None, None));
        assert!(!off.is_found && !none.is_found && off.mend != none.mend);
        assert!(!clock("flags : fpu not_constant_tsc\n").is_found);
        let absent = taps(Err(ErrorKind::NotFound.into()));
        let denied = taps(Err(ErrorKind::PermissionDenied.into()));
        assert!(!absent.is_found && !denied.is_found && absent.mend != denied.mend);
        let never = large_pages(Some("always madvise [never]\n"));
        assert!(!never.is_found && !large_pages(None).is_found);
    }

    #[test]
    fn each_row_of_this_host_is_whole() {
        for row in all() {
            assert!(!row.is_needed && !row.found.is_empty(), "{row:?}");
            assert_eq!(row.is_found, row.mend.is_none(), "{row:?}");
        }
    }
}
