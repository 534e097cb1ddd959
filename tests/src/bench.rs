//! Where a test takes place.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use tempfile::TempDir;

use crate::{Migration, Vm, process::by_way_of};

/// Where receivers listen that no test wants elsewhere.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A private folder with an identity and sockets, and the turn: tests of VMs wait for each other,
/// across all test programs, because two cores are not enough for two of them.
pub struct Bench {
    me2: PathBuf,
    folder: Arc<TempDir>,
    config: PathBuf,
    names: Arc<AtomicU32>,
    // Dropped last: the next test begins when nothing is left of this one.
    turn: Arc<File>,
}

/// What a VM is started with.
#[derive(Debug, Clone)]
pub struct Guest {
    /// As `--memory` takes it.
    pub memory: &'static str,
    /// vCPUs.
    pub cpus: u8,
    /// Another guest than the built-in one.
    pub kernel: Option<PathBuf>,
    /// The guest's command line.
    pub cmdline: String,
    /// Further options of `me2 run`.
    pub options: Vec<String>,
}

impl Guest {
    /// The built-in guest with one vCPU and this command line.
    pub fn new(memory: &'static str, cmdline: &str) -> Self {
        Self {
            memory,
            cpus: 1,
            kernel: None,
            cmdline: cmdline.to_owned(),
            options: Vec::new(),
        }
    }

    /// The same with so many vCPUs.
    pub fn cpus(self, cpus: u8) -> Self {
        Self { cpus, ..self }
    }

    /// The same with further options of `me2 run`.
    pub fn options(self, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { options, ..self }
    }

    /// A guest of one's own, with no command line.
    pub fn own(memory: &'static str, kernel: &Path) -> Self {
        Self {
            kernel: Some(kernel.to_owned()),
            ..Self::new(memory, "")
        }
    }
}

impl Bench {
    /// Waits for its turn, and makes an identity.
    ///
    /// # Panics
    /// If there is no `me2` to test.
    pub fn new() -> Self {
        let me2 = binary();
        let turn = File::open(&me2);
        let turn = turn.unwrap_or_else(|error| panic!("cannot open {}: {error}", me2.display()));
        turn.lock().expect("a file can be locked");
        Self::with_turn(me2, Arc::new(turn))
    }

    /// Another one that takes part in this one's turn, with a folder and an identity of its own.
    pub fn beside(&self) -> Self {
        Self::with_turn(self.me2.clone(), Arc::clone(&self.turn))
    }

    /// The same folder and identity, with another build of `me2`.
    pub fn with(&self, me2: &Path) -> Self {
        Self {
            me2: me2.to_owned(),
            folder: Arc::clone(&self.folder),
            config: self.config.clone(),
            names: Arc::clone(&self.names),
            turn: Arc::clone(&self.turn),
        }
    }

    fn with_turn(me2: PathBuf, turn: Arc<File>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bench = Self {
            me2,
            config: folder.path().join("config"),
            folder: Arc::new(folder),
            names: Arc::default(),
            turn,
        };
        bench.ask(&["cert", "create"]);
        bench
    }

    /// The folder, for files of a test's own; the identity is in `config`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of this bench's identity.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Lets the stranger be a peer of this bench, and this bench one of the stranger's; `options` are
    /// those of `me2 cert trust` here.
    pub fn make_friends(&self, options: &[&str]) {
        let fingerprint = |mut me2: Command| {
            let output = me2.output().expect("me2 runs");
            let text = String::from_utf8(output.stdout).expect("plain text");
            text.trim().to_owned()
        };
        let stranger = fingerprint(self.stranger(&["cert", "show"]));
        let own = fingerprint(self.me2(&["cert", "show"]));
        self.ask(&[&["cert", "trust", &stranger, "friend"], options].concat());
        let mut trust = self.stranger(&["cert", "trust", &own, "bench"]);
        assert!(trust.status().expect("me2 runs").success());
    }

    /// `me2` with this bench's identity and sockets.
    pub fn me2(&self, arguments: &[&str]) -> Command {
        self.me2_as(&self.config, arguments)
    }

    /// `me2` with the identity of a stranger, made when first asked for.
    pub fn stranger(&self, arguments: &[&str]) -> Command {
        let config = self.folder.path().join("stranger");
        if !config.exists() {
            let made = self.me2_as(&config, &["cert", "create"]).output();
            assert!(made.expect("me2 runs").status.success());
        }
        self.me2_as(&config, arguments)
    }

    /// Runs a command of `me2` to its end, whatever it is.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.me2(arguments).output();
        output.unwrap_or_else(|error| panic!("cannot run me2 {}: {error}", arguments.join(" ")))
    }

    /// Runs a command of `me2` that succeeds; gives its stdout.
    ///
    /// # Panics
    /// If it fails.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "me2 {}: {}: {stderr}",
            arguments.join(" "),
            output.status
        );
        String::from_utf8(output.stdout).expect("plain text")
    }

    /// Starts a VM with a name of its own.
    pub fn start(&self, guest: &Guest) -> Vm {
        let name = self.name("vm");
        Vm::start(self.me2(&["run"]), &self.runtime(), &name, guest)
    }

    /// Starts a VM whose process has no capability that files do not give it.
    pub fn start_without_capabilities(&self, guest: &Guest) -> Vm {
        let wrapper = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
        self.start_by_way_of(&wrapper, guest)
    }

    /// Starts a VM by a program that becomes `me2` in the end.
    pub fn start_by_way_of(&self, wrapper: &[&str], guest: &Guest) -> Vm {
        let name = self.name("vm");
        let me2 = by_way_of(wrapper, &self.me2(&["run"]));
        Vm::start(me2, &self.runtime(), &name, guest)
    }

    /// Starts a VM whose process has the stranger's identity.
    pub fn start_stranger(&self, guest: &Guest) -> Vm {
        let name = self.name("stranger");
        Vm::start(self.stranger(&["run"]), &self.runtime(), &name, guest)
    }

    /// Starts a process that waits for a VM; it listens when this returns.
    pub fn receive(&self) -> Vm {
        self.receive_with(&[])
    }

    /// The same with further options of `me2 receive`.
    pub fn receive_with(&self, options: &[&str]) -> Vm {
        self.receive_by_way_of(&[], LOOPBACK, options)
    }

    /// The same at another address, by a program that becomes `me2` in the end, unless it is empty.
    pub fn receive_by_way_of(&self, wrapper: &[&str], at: IpAddr, options: &[&str]) -> Vm {
        let name = self.name("vm");
        let mut me2 = self.me2(&["receive"]);
        if !wrapper.is_empty() {
            me2 = by_way_of(wrapper, &me2);
        }
        Vm::receive(me2, at, options, &self.runtime(), &name)
    }

    /// The same with the stranger's identity.
    pub fn receive_stranger(&self) -> Vm {
        let name = self.name("stranger");
        let me2 = self.stranger(&["receive"]);
        Vm::receive(me2, LOOPBACK, &[], &self.runtime(), &name)
    }

    /// Has a VM moved to where a receiver is reached; `options` are those of
    /// `me2 hybrid-migrate`.
    pub fn migrate(&self, vm: &Vm, to: std::net::SocketAddr, options: &[&str]) -> Migration {
        let to = to.to_string();
        let words = ["hybrid-migrate", "--vm", vm.name(), "--to", &to];
        Migration::start(self.me2(&words).args(options))
    }

    /// A VM that is started for it is moved to this receiver, and works there: whatever was tried
    /// before has done no harm.
    ///
    /// # Panics
    /// If it is otherwise.
    pub fn good_migration(&self, guest: &Guest, to: Vm) {
        let vm = self.start(guest);
        vm.wait_ready();
        let before = vm.works();
        self.migrate(&vm, to.address(), &[]).end().completed();
        vm.moved_to(&to, before);
        to.stop();
    }

    /// Resumes a migration whose link broke.
    pub fn recover(&self, vm: &Vm) -> Migration {
        self.recover_with(vm, &[])
    }

    /// The same with further options of `me2 recover`.
    pub fn recover_with(&self, vm: &Vm, options: &[&str]) -> Migration {
        Migration::start(self.me2(&["recover", "--vm", vm.name()]).args(options))
    }

    /// Names of the VM processes that have a socket here.
    pub fn sockets(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.runtime()).into_iter().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("readable")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    fn me2_as(&self, config: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.me2);
        command
            .args(arguments)
            .env("ME2_CONFIG_DIR", config)
            // No defaults of this host.
            .env("ME2_CONFIG", "/dev/null")
            .env("ME2_RUNTIME_DIR", self.runtime())
            // What a test looks for in the log must be there.
            .env_remove("RUST_LOG");
        command
    }

    /// The runtime folder of its processes.
    pub fn runtime(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn name(&self, kind: &str) -> String {
        format!("{kind}{}", self.names.fetch_add(1, Relaxed) + 1)
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

/// The program under test: `ME2_BIN`, or what lies beside the test programs.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ME2_BIN") {
        return path.into();
    }
    // TARGET/PROFILE/deps/TEST
    let own = std::env::current_exe().expect("a program has a path");
    let beside = own.ancestors().nth(2).map(|folder| folder.join("me2"));
    beside
        .filter(|path| path.exists())
        .expect("no me2 to test: use `cargo xtask test`, or set ME2_BIN")
}
