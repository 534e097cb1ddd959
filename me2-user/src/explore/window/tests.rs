use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use me2_vmm::{
    boot::{BootSource, Kernel},
    dirty::Collect,
    layout::PAGE_SIZE,
    paging::Userfault,
    vm::Host,
};

use super::*;
use crate::process::monitor::GuestMonitor;

fn uses(list: &[(PageIndex, u64)]) -> Vec<FirstUse> {
    let of = |&(page, us)| FirstUse {
        page,
        after: Duration::from_micros(us),
    };
    list.iter().map(of).collect()
}

#[test]
fn the_order_is_that_of_delays_since_the_drop() {
    let dropped = [
        (512..1024, Duration::ZERO),
        (2048..2060, Duration::from_micros(500)),
    ];
    let seen = uses(&[
        (513, 300),
        (2048, 499),
        (2050, 510),
        (600, 5),
        (3000, 20),
        (2060, 7),
    ]);
    let expected = uses(&[
        (2048, 0),
        (600, 5),
        (2060, 7),
        (2050, 10),
        (3000, 20),
        (513, 300),
    ]);
    assert_eq!(since_dropped(seen, &dropped), expected);
    assert!(since_dropped(Vec::new(), &dropped).is_empty());
    assert_eq!(
        since_dropped(uses(&[(1, 2), (0, 1)]), &[]),
        uses(&[(0, 1), (1, 2)])
    );
}

#[test]
fn without_probes_there_is_no_window() {
    let layout = RamLayout::new(4 << 20).unwrap();
    assert!(Probing::disabled().open_window(&layout).is_none());
}

#[test]
fn a_window_sees_what_the_guest_works_on() {
    let Some(machine) = Machine::start(64 << 20, "workload=kv fill=32M hot=8M rate=0") else {
        return;
    };
    machine.vm.start_dirty_log().unwrap();
    let budget = WindowBudget {
        slowdown_max: 0.5,
        observe: Duration::from_millis(100),
        time_max: Duration::from_secs(30),
    };
    let Some(seen) = machine.observe(budget) else {
        return;
    };
    assert!(seen.complete, "{seen:?}");
    let pages = machine.vm.memory().layout().page_count();
    let mut found = vec![false; pages as usize];
    for first_use in &seen.first_uses {
        assert!(
            !found[first_use.page as usize],
            "page {} twice",
            first_use.page
        );
        found[first_use.page as usize] = true;
    }
    assert!(
        seen.first_uses
            .is_sorted_by_key(|first_use| first_use.after)
    );
    let (hot, dropped) = ((8 << 20) / 4096, seen.dropped_pages);
    assert!(
        seen.first_uses.len() > hot / 2,
        "{} of {hot}",
        seen.first_uses.len()
    );
    assert!(
        dropped >= (32 << 20) / 4096 && dropped <= u64::from(pages),
        "{dropped}"
    );
    machine.works_without_error();
}

#[test]
fn who_waits_is_told_of_the_cancellation() {
    let cancellation = Cancellation::default();
    assert!(!cancellation.wait(Duration::from_millis(1)));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| cancellation.wait(Duration::from_secs(3600)));
        cancellation.cancel();
        assert!(waiting.join().unwrap());
    });
    assert!(cancellation.wait(Duration::ZERO));
}

#[test]
fn a_cancelled_window_ends() {
    let Some(machine) = Machine::start(64 << 20, "workload=kv fill=16M") else {
        return;
    };
    let budget = WindowBudget {
        slowdown_max: 0.1,
        observe: Duration::from_millis(100),
        time_max: Duration::from_secs(30),
    };
    let cancelled = Cancellation::default();
    cancelled.cancel();
    let Some(seen) = machine.observe_with(budget, &cancelled) else {
        return;
    };
    assert_eq!((seen.complete, seen.dropped_pages), (false, 0));
    let over = WindowBudget {
        time_max: Duration::ZERO,
        ..budget
    };
    let seen = machine.observe(over).unwrap();
    assert_eq!((seen.complete, seen.dropped_pages), (false, 0));
}

/// Pages that are copied when the dirty log names them must end up as they are in the stopped VM,
/// however often their mappings are dropped meanwhile.
#[test]
fn the_dirty_log_stays_whole() {
    const ROUNDS: usize = 40;
    let command_line = "workload=rewrite order=uniform fill=16M hot=8M rate=0";
    let Some(machine) = Machine::start(64 << 20, command_line) else {
        return;
    };
    let (vm, memory) = (&machine.vm, machine.vm.memory());
    vm.start_dirty_log().unwrap();
    let page_count = memory.layout().page_count();
    let mut copies = vec![[0; PAGE_SIZE]; page_count as usize];
    for (page, copy) in (0..).zip(&mut copies) {
        memory.read_page(page, copy);
    }
    let mut update = |dirty: Vec<u64>| {
        let is_dirty = |page: usize| dirty[page / 64] >> (page % 64) & 1 == 1;
        let dirty: Vec<usize> = (0..page_count as usize)
            .filter(|&page| is_dirty(page))
            .collect();
        for &page in &dirty {
            memory.read_page(page as PageIndex, &mut copies[page]);
        }
        dirty.len()
    };
    let mut written = 0;
    for round in 0..ROUNDS {
        for start in (0..page_count).step_by(512) {
            memory.drop_mappings(start..start + 512).unwrap();
            if start / 512 % 8 == round as u32 % 8 {
                written += update(vm.collect_dirty(Collect::AndProtect).unwrap());
            }
        }
    }
    vm.vcpus().request_stop();
    vm.vcpus().wait_stopped(None).unwrap();
    written += update(vm.collect_dirty(Collect::Last).unwrap());
    assert!(
        written > 2048,
        "the guest wrote {written} pages, too few to tell"
    );
    let mut page_now = [0; PAGE_SIZE];
    for (page, copy) in (0..).zip(&copies) {
        memory.read_page(page, &mut page_now);
        assert!(*copy == page_now, "page {page} changed without a mark");
    }
}

/// A VM with the built-in guest, at work.
struct Machine {
    // Dropped first, and before the next VM of this process starts: probes see all of them.
    vm: Vm,
    monitor: GuestMonitor,
    probing: Probing,
    _alone: MutexGuard<'static, ()>,
}

impl Machine {
    /// None, after saying why, where there is no KVM.
    fn start(memory_bytes: u64, command_line: &str) -> Option<Self> {
        Self::start_with(memory_bytes, command_line, Probing::start)
    }

    fn start_with(
        memory_bytes: u64,
        command_line: &str,
        probing: impl Fn(u64) -> Probing,
    ) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let host = match Userfault::open().map(|userfault| Host::open(Arc::new(userfault))) {
            Ok(Ok(host)) => host,
            refused => {
                eprintln!("SKIPPED: no KVM: {:?}", refused.map(|host| host.err()));
                return None;
            }
        };
        let probing = probing(memory_bytes / PAGE_SIZE as u64);
        let monitor =
            GuestMonitor::new(Box::new(io::sink()), Default::default(), true).expect("a thread");
        let document = host.describe("window", memory_bytes, 2, true).unwrap();
        let vm = Vm::build(&host, document, monitor.console(), Arc::new(|_| ())).unwrap();
        vm.boot(&BootSource {
            kernel: Kernel::Builtin(include_bytes!(env!("ME2_GUEST_PATH"))),
            initrd: None,
            command_line: format!("{command_line} cpus=2"),
        })
        .unwrap();
        vm.resume(false).unwrap();
        let machine = Self {
            vm,
            monitor,
            probing,
            _alone: alone,
        };
        machine.works_without_error();
        Some(machine)
    }

    /// None, after saying why, where there are no probes.
    fn observe(&self, budget: WindowBudget) -> Option<WorkingSet> {
        self.observe_with(budget, &Cancellation::default())
    }

    fn observe_with(
        &self,
        budget: WindowBudget,
        cancellation: &Cancellation,
    ) -> Option<WorkingSet> {
        let seen = observe_working_set(&self.vm, &self.probing, budget, cancellation).unwrap();
        if seen.is_none() {
            eprintln!("SKIPPED: no probes: {:?}", self.probing.report().reason);
        }
        seen
    }

    /// Waits until the guest has done something more, which takes it a tenth of a second.
    fn works_without_error(&self) {
        let operations = || self.monitor.status().map_or(0, |status| status.operations);
        let (before, deadline) = (operations(), Instant::now() + Duration::from_secs(60));
        while operations() <= before {
            assert!(Instant::now() < deadline, "the guest stands still");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.monitor.status().unwrap().errors, 0);
    }
}
