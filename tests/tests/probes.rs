//! The probes see what the guest does; without them everything works all the same, and says why.

use me2_tests::{Bench, Guest, Report, Vm, require_kvm, say};

const FILL_PAGES: u64 = (16 << 20) / 4096;

fn guest() -> Guest {
    Guest::new("64M", "workload=kv fill=16M rate=20000")
}

fn moved(bench: &Bench, vm: Vm) -> (Report, String) {
    vm.wait_ready();
    let (to, before) = (bench.receive(), vm.works());
    let report = bench.migrate(&vm, to.address(), &[]).end().completed();
    let log = vm.log();
    vm.moved_to(&to, before);
    to.stop();
    (report, log)
}

#[test]
fn they_see_every_page_that_the_guest_fills() {
    require_kvm!();
    let bench = Bench::new();
    let (report, _) = moved(&bench, bench.start(&guest()));
    if *report.field("ebpf.attached") != true {
        say(&format!(
            "SKIPPED: no probes here: {}",
            report.text("ebpf.reason")
        ));
        return;
    }
    let (touched, written) = (
        report.count("ebpf.touched_pages"),
        report.count("ebpf.written_pages"),
    );
    assert!(touched >= written && written >= FILL_PAGES, "{report}");
    assert!(touched <= report.count("ram.total_pages"), "{report}");
    assert_eq!(report.count("ebpf.lost"), 0, "{report}");
}

#[test]
fn without_them_the_vm_moves_all_the_same() {
    require_kvm!();
    let bench = Bench::new();
    let (report, _) = moved(&bench, bench.start(&guest().options(&["--no-probes"])));
    assert_eq!(*report.field("ebpf.attached"), false, "{report}");
    assert!(
        report.text("ebpf.reason").contains("--no-probes"),
        "{report}"
    );
}

#[test]
fn without_permission_one_line_says_so() {
    require_kvm!();
    let bench = Bench::new();
    let (report, log) = moved(&bench, bench.start_without_capabilities(&guest()));
    assert_eq!(*report.field("ebpf.attached"), false, "{report}");
    let lines = log.lines().filter(|line| line.contains("without probes"));
    assert_eq!(lines.count(), 1, "{log}");
    assert!(log.contains("CAP_BPF"), "the mend: {log}");
}
