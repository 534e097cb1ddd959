//! `me2 check`: what me2 needs of this host, and whether a receiver would take a VM.

mod guests;
mod host;
mod network;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use me2_vmm::machine::MachineDocument;
use me2_vmm::vm::Host;
use serde::Serialize;

use super::failure::{Failure, code};
use super::{ConfigDir, Output, RuntimeDir, VmSelector, print};
use crate::explore::probes::ProbesError;
use crate::identity::Credentials;
use crate::migrate::check::{Answer, ask};
use crate::transport::endpoint;

/// Version of the document of `--output json`.
const SCHEMA_VERSION: u32 = 1;
/// The VM that is asked about without `--vm`: as small as one can be.
const NOBODY: &str = "me2-check";
const NOBODY_BYTES: u64 = 2 << 20;

/// `me2 check`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  me2 check
  me2 check --to host-b:7000 --vm demo --output json

To run as the user who runs the VMs, with the same privileges. A receiver that
is asked goes on waiting. Without --vm it is asked about a VM of this host's
processor with 2 MiB of memory.

Exit status: 0 nothing that is needed is missing, and the receiver would take
the VM; 1 the VM's process does not answer; 2 usage; 3 something that is needed
is missing, or the migration would be refused.")]
pub struct CheckArgs {
    /// Ask the `me2 receive` that waits there; an address or a host name
    #[arg(long, value_name = "ADDR:PORT")]
    pub to: Option<String>,
    /// Whether it would take this VM: its name, or the path of its API socket
    /// (with a '/')
    #[arg(long, value_name = "NAME-OR-SOCKET", requires = "to")]
    pub vm: Option<String>,
    /// Where the identity is.
    #[command(flatten)]
    pub config: ConfigDir,
    /// Where names are looked for.
    #[command(flatten)]
    pub runtime: RuntimeDir,
    /// What the findings are written as, on stdout
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    pub output: Output,
}

/// One thing of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// Its name.
    need: &'static str,
    /// Whether nothing works without it; else it is wanted.
    is_needed: bool,
    is_found: bool,
    /// What there is.
    found: String,
    /// What to do if it is missing.
    mend: Option<String>,
}

impl Finding {
    fn needed(need: &'static str) -> Self {
        Self {
            need,
            is_needed: true,
            is_found: false,
            found: String::new(),
            mend: None,
        }
    }

    fn wanted(need: &'static str) -> Self {
        Self {
            is_needed: false,
            ..Self::needed(need)
        }
    }

    fn found(self, found: impl Into<String>) -> Self {
        Self {
            is_found: true,
            found: found.into(),
            mend: None,
            ..self
        }
    }

    fn missing(self, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            is_found: false,
            found: found.into(),
            mend: Some(mend.into()),
            ..self
        }
    }

    /// Its messages say what is missing, then the mend.
    fn told(self, error: &ProbesError) -> Self {
        let told = error.to_string();
        match told.split_once(": ") {
            Some((found, mend)) => self.missing(found, mend),
            None => self.missing(told, "me2 works without"),
        }
    }
}

/// What a receiver says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Destination {
    to: String,
    vm: Option<String>,
    /// Its identity, if it could be asked.
    peer: Option<String>,
    would_accept: bool,
    /// Why not.
    reasons: Vec<String>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Findings {
    schema_version: u32,
    /// Nothing that is needed is missing, and the receiver, if one was asked, would take the VM.
    is_ready: bool,
    host: Vec<Finding>,
    destination: Option<Destination>,
}

pub(super) async fn execute(args: CheckArgs, stdout: &mut impl Write) -> Result<ExitCode, Failure> {
    let to = match &args.to {
        Some(to) => endpoint::resolve(to).await.ok(),
        None => None,
    };
    let mut rows = vec![host::kernel()];
    let (machine, opened) = host::machine();
    rows.extend(machine);
    rows.extend(host::probes());
    rows.extend([host::memory(), host::locked_memory()]);
    rows.extend(host::identity(args.config.resolve()));
    rows.extend(guests::all());
    rows.extend(network::buffers());
    rows.extend([network::mtu(to), network::time()]);
    let destination = match &args.to {
        Some(to) => Some(destination(&args, to, opened.as_ref()).await?),
        None => None,
    };
    let is_lacking = rows.iter().any(|row| row.is_needed && !row.is_found);
    let is_refused = destination
        .as_ref()
        .is_some_and(|there| !there.would_accept);
    let findings = Findings {
        schema_version: SCHEMA_VERSION,
        is_ready: !is_lacking && !is_refused,
        host: rows,
        destination,
    };
    let text = match args.output {
        Output::Human => human(&findings),
        Output::Json => serde_json::to_string_pretty(&findings).expect("plain fields") + "\n",
    };
    print(stdout, &text)?;
    let reason = match (is_lacking, is_refused) {
        (false, false) => return Ok(ExitCode::SUCCESS),
        (true, _) => "something that me2 needs is missing on this host",
        (false, true) => "the receiver would refuse the VM",
    };
    Err(Failure::new(code::REFUSED, anyhow::anyhow!(reason)))
}

/// Whatever keeps it from being asked is a reason against the migration.
async fn destination(
    args: &CheckArgs,
    to: &str,
    host: Option<&Host>,
) -> Result<Destination, Failure> {
    let document = match &args.vm {
        Some(vm) => Ok(machine_of(args, vm).await?),
        None => anyone(host),
    };
    let asked = async { ask(to, &document?, &credentials(args)?).await };
    let (peer, reasons) = match asked.await {
        Ok(Answer { peer, reasons, .. }) => (Some(peer.to_string()), reasons),
        Err(error) => (None, vec![format!("{error:#}")]),
    };
    Ok(Destination {
        to: to.to_owned(),
        vm: args.vm.clone(),
        peer,
        would_accept: reasons.is_empty(),
        reasons,
    })
}

async fn machine_of(args: &CheckArgs, vm: &str) -> Result<MachineDocument, Failure> {
    let selector = VmSelector {
        vm: vm.to_owned(),
        runtime: args.runtime.clone(),
    };
    Ok(selector.client()?.machine().await?)
}

fn anyone(host: Option<&Host>) -> anyhow::Result<MachineDocument> {
    let host = host.context("no VM can be described without KVM and userfaultfd on this host")?;
    Ok(host.describe(NOBODY, NOBODY_BYTES, 1, false)?)
}

fn credentials(args: &CheckArgs) -> anyhow::Result<Credentials> {
    Ok(Credentials::load(&args.config.resolve()?)?)
}

/// A line a finding, and one for its mend.
fn human(findings: &Findings) -> String {
    let mut text = String::new();
    for row in &findings.host {
        let mark = match (row.is_found, row.is_needed) {
            (true, _) => "ok     ",
            (false, true) => "MISSING",
            (false, false) => "wanted ",
        };
        text += &format!("{mark}  {:<18}  {}\n", row.need, row.found);
        if let Some(mend) = &row.mend {
            text += &format!("{:29}mend: {mend}\n", "");
        }
    }
    let Some(there) = &findings.destination else {
        return text;
    };
    let mark = if there.would_accept {
        "ok     "
    } else {
        "REFUSED"
    };
    let what = match &there.vm {
        Some(vm) => format!("{} and {vm}", there.to),
        None => there.to.clone(),
    };
    let peer = there.peer.as_deref().unwrap_or("not asked");
    text += &format!("{mark}  {:<18}  {what}: {peer}\n", "receiver");
    for reason in &there.reasons {
        text += &format!("{:29}{reason}\n", "");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_well() {
        let findings = Findings {
            schema_version: SCHEMA_VERSION,
            is_ready: false,
            host: vec![
                Finding::needed("kernel").found("Linux 6.12"),
                Finding::needed("kvm").missing("there is no /dev/kvm", "modprobe kvm_amd"),
                Finding::wanted("BPF").told(&ProbesError::NotBuilt),
            ],
            destination: Some(Destination {
                to: "b:7".to_owned(),
                vm: Some("demo".to_owned()),
                peer: None,
                would_accept: false,
                reasons: vec!["no answer".to_owned()],
            }),
        };
        let expected = "\
ok       kernel              Linux 6.12
MISSING  kvm                 there is no /dev/kvm
                             mend: modprobe kvm_amd
wanted   BPF                 this me2 was built without probes
                             mend: rebuild it without ME2_WITHOUT_PROBES
REFUSED  receiver            b:7 and demo: not asked
                             no answer
";
        assert_eq!(human(&findings), expected);
    }
}
