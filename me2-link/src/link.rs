//! A link: made, watched, changed and removed.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::thread::ClockId;

use crate::LinkError;
use crate::counters::{LinkStats, Sample};
use crate::direction::{Direction, nanoseconds};
use crate::emulator::{Running, clock};
use crate::namespace::{Namespace, names, remove_leftovers};
use crate::netem::{self, Netem};
use crate::sampler::Sampler;
use crate::spec::{Action, Backend, DirectionSpec, End, LinkSpec};
use crate::tun;

/// Two network namespaces joined by an emulated link, which lives as long as this value. Dropping
/// it removes everything; what a killed process left behind is removed when the next link starts.
///
/// The emulator works on two threads of this process, which go before all ordinary threads of the
/// machine (`SCHED_RR`), so that a busy machine does not slow the link down.
#[derive(Debug)]
pub struct Link {
    // Dropped in this order: what uses a namespace goes before it.
    sampler: Sampler,
    path: Arc<Path>,
    namespaces: Arc<[Namespace; 2]>,
    started: Instant,
}

/// What joins the two namespaces.
#[derive(Debug)]
enum Path {
    Emulator { a_to_b: Running, b_to_a: Running },
    Netem(Netem),
}

impl Link {
    /// Makes a link. Needs root. TCP at both ends begins with the host's settings.
    ///
    /// # Errors
    /// If the specification makes no sense, or the system refuses; then nothing is left behind.
    pub fn start(spec: LinkSpec) -> Result<Self, LinkError> {
        spec.check()?;
        if !rustix::process::geteuid().is_root() {
            return Err(LinkError::NotRoot);
        }
        remove_leftovers();
        let [a, b] = names();
        let namespaces = Arc::new([Namespace::make(a)?, Namespace::make(b)?]);
        let started = Instant::now();
        let path = Arc::new(Path::make(&spec, &namespaces, started)?);
        let sampler = Sampler::start(spec.sample_interval, started, {
            let path = Arc::clone(&path);
            move || path.stats()
        })?;
        Ok(Self {
            sampler,
            path,
            namespaces,
            started,
        })
    }

    /// The address of an end.
    pub fn address(&self, end: End) -> IpAddr {
        end.address()
    }

    /// The name of the network namespace of an end, as `ip netns` knows it.
    pub fn namespace(&self, end: End) -> &str {
        self.at(end).name()
    }

    /// Which of the two ways this link is made.
    pub fn backend(&self) -> Backend {
        match *self.path {
            Path::Emulator { .. } => Backend::Emulator,
            Path::Netem(_) => Backend::Netem,
        }
    }

    /// A command that runs at an end of the link.
    pub fn command(&self, end: End, program: impl AsRef<OsStr>) -> Command {
        self.at(end).command(program)
    }

    /// Calls a function on a new thread at an end of the link, and waits for it. Sockets that it
    /// makes stay at that end, wherever they are used afterwards.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn within<T: Send>(
        &self,
        end: End,
        function: impl FnOnce() -> T + Send,
    ) -> Result<T, LinkError> {
        self.at(end).within(function)
    }

    /// Sets a network parameter at both ends, such as `net/ipv4/tcp_congestion_control` to `bbr`:
    /// a path below `/proc/sys`.
    ///
    /// # Errors
    /// If the kernel has no such parameter or refuses the value.
    pub fn set_parameter(&self, name: &str, value: &str) -> Result<(), LinkError> {
        let path = std::path::Path::new("/proc/sys").join(name);
        for end in [End::A, End::B] {
            self.within(end, || std::fs::write(&path, value))?
                .map_err(LinkError::system("cannot set a network parameter"))?;
        }
        Ok(())
    }

    /// Sets the default TCP congestion control at both ends, such as `bbr`.
    ///
    /// A kernel allows each controller for namespaces only if it is among those that everybody may
    /// use: if it is not, it is added there (`net.ipv4.tcp_allowed_congestion_control`), and stays
    /// until the next boot.
    ///
    /// # Errors
    /// If the kernel does not have it.
    pub fn set_congestion_control(&self, name: &str) -> Result<(), LinkError> {
        const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
        let refused = || LinkError::system("cannot allow the TCP congestion control; try modprobe");
        let allowed = std::fs::read_to_string(ALLOWED).map_err(refused())?;
        if !allowed.split_whitespace().any(|one| one == name) {
            let allowed = format!("{} {name}", allowed.trim());
            std::fs::write(ALLOWED, allowed).map_err(refused())?;
        }
        self.set_parameter("net/ipv4/tcp_congestion_control", name)
    }

    /// What the link has carried until now.
    pub fn stats(&self) -> LinkStats {
        self.path.stats()
    }

    /// The counts over time until now, the oldest first. The last million samples are kept.
    pub fn history(&self) -> Vec<Sample> {
        self.sampler.history()
    }

    /// Time since the start, the clock of the schedule and of the samples.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// CPU time that the emulator has used, up to 50 ms old; zero with netem. It includes the
    /// kernel's work of receiving each packet at the far end.
    pub fn cpu_time(&self) -> Duration {
        match &*self.path {
            Path::Emulator { a_to_b, b_to_a } => {
                Duration::from_nanos(a_to_b.cpu_time() + b_to_a.cpu_time())
            }
            Path::Netem(_) => Duration::ZERO,
        }
    }

    /// Packets that the network devices of both ends have dropped on their way into the link, unseen
    /// by the emulator. More than none means that it did not keep up with what was sent, and that
    /// the queue was not what was asked for.
    ///
    /// # Errors
    /// If the namespaces cannot be entered.
    pub fn device_drops(&self) -> Result<u64, LinkError> {
        let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
        let of = |end| {
            let devices = self
                .within(end, read)?
                .map_err(LinkError::system("cannot read device counts"))?;
            Ok(transmit_drops(&devices))
        };
        Ok(of(End::A)? + of(End::B)?)
    }

    /// Loses everything, from now on, in both directions.
    ///
    /// # Errors
    /// Only with netem, if `tc` fails. So with the other two.
    pub fn cut(&self) -> Result<(), LinkError> {
        self.path.apply(End::A, Action::Cut)?;
        self.path.apply(End::B, Action::Cut)
    }

    /// Ends a cut.
    pub fn mend(&self) -> Result<(), LinkError> {
        self.path.apply(End::A, Action::Mend)?;
        self.path.apply(End::B, Action::Mend)
    }

    /// Changes the rate of the direction away from `from`, in bits per second; 0: unlimited.
    pub fn set_rate(&self, from: End, bits_per_second: u64) -> Result<(), LinkError> {
        let one_way = DirectionSpec {
            rate_bits_per_second: bits_per_second,
            ..<_>::default()
        };
        one_way.check()?;
        self.path.apply(from, Action::Rate { bits_per_second })
    }

    fn at(&self, end: End) -> &Namespace {
        match end {
            End::A => &self.namespaces[0],
            End::B => &self.namespaces[1],
        }
    }
}

impl Path {
    fn make(
        spec: &LinkSpec,
        namespaces: &Arc<[Namespace; 2]>,
        started: Instant,
    ) -> Result<Self, LinkError> {
        match spec.backend {
            Backend::Emulator => Self::emulator(spec, namespaces, started),
            Backend::Auto if !netem::is_available(&namespaces[0]) => {
                Self::emulator(spec, namespaces, started)
            }
            Backend::Auto | Backend::Netem => {
                Netem::start(spec, namespaces, started).map(Path::Netem)
            }
        }
    }

    fn emulator(
        spec: &LinkSpec,
        namespaces: &[Namespace; 2],
        started: Instant,
    ) -> Result<Self, LinkError> {
        let a = Arc::new(tun::make(&namespaces[0], End::A)?);
        let b = Arc::new(tun::make(&namespaces[1], End::B)?);
        let epoch = clock(ClockId::Monotonic) - nanoseconds(started.elapsed());
        let direction = |from, seed| Direction::new(spec.direction(from), spec.round_trip(), seed);
        // Different losses in the two directions.
        let (seed_a, seed_b) = (spec.seed, spec.seed ^ 0x9e37_79b9_7f4a_7c15);
        Ok(Path::Emulator {
            a_to_b: Running::start(
                direction(End::A, seed_a),
                Arc::clone(&a),
                Arc::clone(&b),
                epoch,
                "link a to b",
            )?,
            b_to_a: Running::start(direction(End::B, seed_b), b, a, epoch, "link b to a")?,
        })
    }

    fn stats(&self) -> LinkStats {
        match self {
            Path::Emulator { a_to_b, b_to_a } => LinkStats {
                a_to_b: a_to_b.counters(),
                b_to_a: b_to_a.counters(),
            },
            Path::Netem(netem) => netem.stats(),
        }
    }

    fn apply(&self, from: End, action: Action) -> Result<(), LinkError> {
        match self {
            Path::Emulator { a_to_b, b_to_a } => {
                match from {
                    End::A => a_to_b.command(action),
                    End::B => b_to_a.command(action),
                }
                Ok(())
            }
            Path::Netem(netem) => netem.apply(from, action),
        }
    }
}

/// The drops of the link's device, out of the text that the kernel shows of all devices.
fn transmit_drops(devices: &str) -> u64 {
    /// Behind the name and eight columns of what was received.
    const COLUMN: usize = 11;
    devices
        .lines()
        .find_map(|line| line.trim().strip_prefix(tun::DEVICE)?.strip_prefix(':'))
        .and_then(|counts| counts.split_whitespace().nth(COLUMN)?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn drops_are_found() {
        let shown = "  lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                     me2: 8 7 6 5 4 3 2 1 10 20 30 42 50 60 70 80\n";
        assert_eq!(super::transmit_drops(shown), 42);
        assert_eq!(super::transmit_drops(""), 0);
    }
}
