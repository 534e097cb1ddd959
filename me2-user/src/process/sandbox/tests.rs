//! The real filter, in threads of their own: it stays with a thread and with those that it starts.

use std::{
    fs::File,
    io::{Read, Write},
    net::UdpSocket,
    os::unix::net::UnixStream,
    process::Command,
    sync::mpsc,
    thread,
};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Pid, Signal};

use super::*;

/// What `check` gives in a thread that the filters hold. `None`, and a line, where there is no
/// seccomp.
fn filtered<T: Send + 'static>(check: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let confined = move || {
        let filters = Filters::compile().expect("the filters are good ones");
        match filters.apply(seccompiler::apply_filter) {
            Ok(()) => Some(check()),
            Err(error) => {
                eprintln!("SKIPPED: no seccomp here: {error}");
                None
            }
        }
    };
    thread::spawn(confined).join().expect("no panic")
}

#[test]
fn no_program_is_started() {
    let Some(started) = filtered(|| Command::new("/bin/true").status()) else {
        return;
    };
    let error = started.expect_err("it must be refused");
    assert_eq!(error.raw_os_error(), Some(calls::REFUSED), "{error}");
}

#[test]
fn what_no_vm_needs_is_refused() {
    let own = rustix::process::getpid();
    let refused = filtered(move || {
        let family = |family| {
            let made = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None);
            made.map(drop)
        };
        [
            ("kill", rustix::process::test_kill_process(own)),
            (
                "kill of another",
                rustix::process::kill_process(Pid::INIT, Signal::CONT),
            ),
            ("netlink", family(AddressFamily::NETLINK)),
            ("packets", family(AddressFamily::PACKET)),
            ("own directory", rustix::process::chdir("/")),
            ("root directory", rustix::process::chroot("/")),
            ("session", rustix::process::setsid().map(drop)),
        ]
    });
    for (call, result) in refused.into_iter().flatten() {
        assert_eq!(result, Err(Errno::PERM), "{call}");
    }
}

/// What no safe function makes, by its number.
#[test]
fn what_no_vm_needs_is_not_in_the_list() {
    let permitted = calls::permitted(std::process::id()).expect("good rules");
    #[rustfmt::skip]
    let refused = [
        libc::SYS_execve, libc::SYS_execveat, libc::SYS_fork, libc::SYS_vfork, libc::SYS_kill,
        libc::SYS_tkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_pidfd_send_signal, libc::SYS_ptrace, libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev, libc::SYS_pidfd_open, libc::SYS_pidfd_getfd,
        libc::SYS_unshare, libc::SYS_setns, libc::SYS_chroot, libc::SYS_pivot_root,
        libc::SYS_mount, libc::SYS_umount2, libc::SYS_move_mount, libc::SYS_fsopen,
        libc::SYS_open_tree, libc::SYS_open_by_handle_at, libc::SYS_bpf,
        libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_io_uring_setup,
        libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module,
        libc::SYS_kexec_load, libc::SYS_kexec_file_load, libc::SYS_reboot, libc::SYS_keyctl,
        libc::SYS_add_key, libc::SYS_request_key, libc::SYS_setuid, libc::SYS_setgid,
        libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_setfsuid,
        libc::SYS_capset, libc::SYS_seccomp, libc::SYS_setrlimit, libc::SYS_iopl,
        libc::SYS_ioperm, libc::SYS_mknod, libc::SYS_mknodat, libc::SYS_chown,
        libc::SYS_fchownat, libc::SYS_link, libc::SYS_symlink, libc::SYS_settimeofday,
        libc::SYS_clock_settime, libc::SYS_sethostname, libc::SYS_swapon, libc::SYS_acct,
        libc::SYS_syslog, libc::SYS_modify_ldt, libc::SYS_personality,
    ];
    for call in refused {
        assert!(!permitted.contains_key(&call), "call {call}");
    }
    // Without a rule, any arguments would do.
    for call in [
        libc::SYS_clone,
        libc::SYS_socket,
        libc::SYS_tgkill,
        libc::SYS_prctl,
    ] {
        assert!(!permitted[&call].is_empty(), "call {call}");
    }
}

#[test]
fn what_a_vm_needs_is_permitted() {
    filtered(|| {
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("another".into())
            .spawn(move || sender.send(vec![1u8; 16 << 20].len()))
            .expect("threads can be started")
            .join()
            .expect("and end")
            .expect("the receiver lives");
        assert_eq!(receiver.recv(), Ok(16 << 20));

        let (mut here, mut there) = UnixStream::pair().expect("a pair of sockets");
        here.write_all(b"x").expect("open for writing");
        assert_eq!(there.read(&mut [0; 2]).expect("open for reading"), 1);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("UDP");
        let address = socket.local_addr().expect("bound");
        socket.send_to(b"x", address).expect("sent");
        File::open("/proc/self/pagemap").expect("the pagemap");
        rustix::process::nice(1).expect("less priority");

        let runtime = super::super::runtime().expect("a runtime");
        let resolved = runtime.block_on(crate::transport::endpoint::resolve("localhost:7000"));
        assert_eq!(resolved.expect("a name is found").port(), 7000);
    });
}

#[test]
fn capabilities_are_gone_for_good() {
    let confined = || {
        drop_capabilities().expect("always possible");
        let is_bound = |number: u32| {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::capability_is_in_bounding_set(capability) == Ok(true)
        };
        let left = (0..u64::BITS).filter(|number| is_bound(*number)).count();
        (
            rustix::thread::capabilities(None).expect("readable"),
            rustix::thread::no_new_privs().expect("readable"),
            left,
        )
    };
    let could_lower = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETPCAP));
    let (sets, no_new_privileges, bounding) = thread::spawn(confined).join().expect("no panic");
    for set in [sets.effective, sets.permitted, sets.inheritable] {
        assert_eq!(set, CapabilitySet::empty());
    }
    assert!(no_new_privileges);
    assert!(
        bounding == 0 || !could_lower,
        "{bounding} capabilities left"
    );
}

#[test]
fn a_folder_of_no_use_is_told_with_what_to_do() {
    let absent = Path::new("/nonexistent/me2");
    let error = check_access(absent, "--runtime-dir", Access::WRITE_OK).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("--runtime-dir") && text.contains("--no-sandbox"),
        "{text}"
    );
    check_access(Path::new("/"), "--config-dir", Access::READ_OK).unwrap();
}
