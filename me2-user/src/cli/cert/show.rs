//! `me2 cert show`: who this host is, until when, and whom it trusts.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::super::{Output, print};
use crate::identity::{Identity, Moment, Scope, TrustedPeer};

/// Version of the document of `--output json`.
const SCHEMA_VERSION: u32 = 1;

/// An identity, for programs.
#[derive(Debug, Serialize)]
struct Shown {
    schema_version: u32,
    fingerprint: String,
    subject: String,
    /// The CA that issued it; null: none, and its dates mean nothing.
    ca: Option<Issuer>,
    /// The identity that is to take its place.
    next_fingerprint: Option<String>,
}

/// A CA, and when what it issued is valid.
#[derive(Debug, Serialize)]
struct Issuer {
    name: String,
    fingerprint: String,
    not_before: String,
    not_after: String,
    days_left: i64,
    is_valid_now: bool,
}

/// The fingerprint alone on stdout, so that it can be handed on, and the rest on stderr.
pub(super) fn identity(dir: &Path, output: Output, stdout: &mut impl Write) -> anyhow::Result<()> {
    let (own, now) = (Identity::load(dir)?, Moment::now());
    let shown = shown(dir, &own, now);
    if output == Output::Json {
        let text = serde_json::to_string_pretty(&shown).expect("plain fields") + "\n";
        return print(stdout, &text);
    }
    print(stdout, &format!("{}\n", shown.fingerprint))?;
    match &shown.ca {
        Some(ca) => eprintln!(
            "host        {}\nissued by   {}, ca:{}\nvalid until {}, {} days left",
            shown.subject, ca.name, ca.fingerprint, ca.not_after, ca.days_left
        ),
        None => eprintln!("self-signed: peers know it by its fingerprint, and it does not expire"),
    }
    if let Some(next) = &shown.next_fingerprint {
        eprintln!("next        {next}, once switched: me2 cert rotate --switch");
    }
    if let Some(warning) = own.warning(now) {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

fn shown(dir: &Path, own: &Identity, now: Moment) -> Shown {
    let issuer = own.authority().zip(own.validity());
    let ca = issuer.map(|(authority, validity)| Issuer {
        name: own.facts().issuer.clone().unwrap_or_default(),
        fingerprint: authority.to_string(),
        not_before: validity.from.to_string(),
        not_after: validity.until.to_string(),
        days_left: validity.days_left(now),
        is_valid_now: (validity.from..=validity.until).contains(&now),
    });
    Shown {
        schema_version: SCHEMA_VERSION,
        fingerprint: own.fingerprint().to_string(),
        subject: own.facts().subject.clone(),
        ca,
        next_fingerprint: Identity::waiting(dir).map(|next| next.to_string()),
    }
}

/// As the lines of the file are.
pub(super) fn trusted(dir: &Path) -> anyhow::Result<String> {
    let peers = TrustedPeer::load_all(dir)?;
    let lines = peers.iter().map(|peer| match &peer.scope {
        Scope::AnyVm => format!("{}  {}\n", peer.who, peer.name),
        only => format!("{}  {only}  {}\n", peer.who, peer.name),
    });
    Ok(lines.collect())
}
