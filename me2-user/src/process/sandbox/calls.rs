//! The system calls that a VM process makes, once everything that needs privileges is open.
//!
//! Found by tracing `me2 run` and `me2 receive` through all modes, failures and recoveries, and
//! completed with what the C library and the runtime use elsewhere: on kernels without a call, with
//! a clock that the vDSO does not know, to look a host's name up.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError,
    SeccompCmpArgLen::{Dword, Qword},
    SeccompCmpOp::{Eq, MaskedEq},
    SeccompCondition, SeccompRule,
};

/// What a call gets that is not permitted. A VM does not die of a call that was forgotten here: it
/// fails, as it does for want of a permission.
pub const REFUSED: i32 = libc::EPERM;

/// What those get that are answered as by a kernel without them.
pub const ABSENT: i32 = libc::ENOSYS;

/// Each call with the arguments that it may have: none of the rules is any.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Permitted with any arguments.
#[rustfmt::skip]
const PERMITTED: &[i64] = &[
    // Files that are open: the console, sockets, events; KVM and userfaultfd by ioctl.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64,
    libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_lseek, libc::SYS_close,
    libc::SYS_fcntl, libc::SYS_flock, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_dup, libc::SYS_ioctl, libc::SYS_pipe2, libc::SYS_eventfd2,
    libc::SYS_poll, libc::SYS_ppoll, libc::SYS_epoll_create1, libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Files by name: /proc/self, the trusted peers, the runtime folder.
    libc::SYS_openat, libc::SYS_open, libc::SYS_access, libc::SYS_faccessat, libc::SYS_faccessat2,
    libc::SYS_stat, libc::SYS_lstat, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_fstatfs, libc::SYS_statfs, libc::SYS_readlink, libc::SYS_readlinkat,
    libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_mkdir, libc::SYS_mkdirat, libc::SYS_unlink,
    libc::SYS_unlinkat, libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_chmod, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_umask,
    // Memory.
    libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise,
    libc::SYS_mincore, libc::SYS_brk, libc::SYS_membarrier,
    // Threads. `clone3` is absent, which has the C library take `clone`.
    libc::SYS_clone3, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_futex,
    libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_set_tid_address,
    libc::SYS_rseq, libc::SYS_arch_prctl, libc::SYS_sched_yield, libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_getpriority,
    libc::SYS_setpriority, libc::SYS_getcpu,
    // Signals.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigpending, libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Clocks and chance.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep, libc::SYS_gettimeofday, libc::SYS_time, libc::SYS_getrandom,
    // Connected sockets; which kinds can be made is below.
    libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect,
    libc::SYS_shutdown, libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt,
    libc::SYS_setsockopt, libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg,
    libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg,
    // Who and where this is.
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getegid, libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrusage,
    libc::SYS_getrlimit, libc::SYS_capget,
];

/// New processes and namespaces, as `clone` is told of them.
const CLONE_KINDS: i32 = libc::CLONE_THREAD
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// `PR_GET_AUXV` of `linux/prctl.h`: what the kernel told this process when it began.
const GET_AUXV: i32 = 0x4155_5856;

/// Ways to type into the terminal that the process was started from (`TIOCSTI`, `TIOCLINUX`).
const TYPING: [i32; 2] = [0x5412, 0x541c];

/// What the process of this id may call.
pub fn permitted(process: u32) -> Result<Rules, BackendError> {
    let mut rules: Rules = PERMITTED.iter().map(|call| (*call, Vec::new())).collect();
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let names = [
        libc::PR_SET_NAME,
        libc::PR_GET_NAME,
        libc::PR_SET_VMA,
        GET_AUXV,
    ];
    // Of this process, and with no new limit.
    let own_limits = [
        SeccompCondition::new(0, Dword, Eq, 0)?,
        SeccompCondition::new(2, Qword, Eq, 0)?,
    ];
    let thread = SeccompCondition::new(
        0,
        Dword,
        MaskedEq(CLONE_KINDS as u64),
        libc::CLONE_THREAD as u64,
    )?;
    rules.extend([
        (libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]),
        (libc::SYS_socket, one_of(0, &families)?),
        (libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX])?),
        (libc::SYS_tgkill, one_of(0, &[process as i32])?),
        (libc::SYS_prctl, one_of(0, &names)?),
        (
            libc::SYS_prlimit64,
            vec![SeccompRule::new(own_limits.into())?],
        ),
    ]);
    Ok(rules)
}

/// What is answered as by a kernel that does not know it.
pub fn absent() -> Result<Rules, BackendError> {
    Ok(Rules::from([
        // A filter cannot see what it is asked for: that lies in memory.
        (libc::SYS_clone3, Vec::new()),
        (libc::SYS_ioctl, one_of(1, &TYPING)?),
    ]))
}

/// A rule for each value that an argument of 32 bits may have.
fn one_of(argument: u8, values: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
    let rules = values.iter().map(|value| {
        let is_this = SeccompCondition::new(argument, Dword, Eq, *value as u64)?;
        SeccompRule::new(vec![is_this])
    });
    rules.collect()
}
