//! Hosts of a CA, and what both sides say when one does not take the other.

use super::*;
use crate::identity::{Authority, HostName, Moment, Validity, install};

struct Ca(TempDir, Authority);

impl Ca {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let validity = Validity::days(1000);
        let authority = Authority::create(dir.path(), "ca", validity, false).unwrap();
        Self(dir, authority)
    }

    /// A host that trusts this CA, and has what it issued.
    fn host(&self, name: &str) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let folder = self.issue(name, Validity::days(9));
        let identity = install(&folder, dir.path(), &Scope::AnyVm, false).unwrap();
        Host {
            dir,
            identity: Arc::new(identity),
        }
    }

    fn issue(&self, name: &str, validity: Validity) -> std::path::PathBuf {
        let host: HostName = name.parse().unwrap();
        let folder = self.0.path().join(name);
        self.1.issue(&host, validity, &folder).unwrap();
        folder
    }

    fn trusted(&self) -> Trusted {
        Trusted::Authority(self.1.fingerprint())
    }
}

/// What a host says that connects in vain, and why the other side refused it, if that was so.
async fn refused(from: &Host, to: &Host) -> String {
    let listener = to.listen();
    let target = listener.local_addr().unwrap();
    let mut accepted = echo(listener);
    let failure = match from.connect(target).await {
        Ok((_endpoint, peer)) => {
            let error = round_trip(&peer).await.unwrap_err();
            ConnectFailure::explain(error, target, &from.identity)
        }
        Err(failure) => failure,
    };
    assert!(accepted.try_recv().is_err(), "accepted all the same");
    failure.to_string()
}

#[tokio::test]
async fn hosts_of_one_ca_know_each_other_by_it_alone() {
    let ca = Ca::new();
    let (source, destination) = (ca.host("host-a"), ca.host("host-b"));
    let listener = destination.listen();
    let target = listener.local_addr().unwrap();
    let mut accepted = echo(listener);
    let (_endpoint, peer) = source.connect(target).await.unwrap();
    assert_eq!(round_trip(&peer).await.unwrap(), b"hello");
    assert_eq!(peer.certificates.len(), 2);
    assert_eq!(accepted.recv().await, Some(source.identity.fingerprint()));
}

#[tokio::test]
async fn each_side_says_which_ca_is_trusted_by_whom() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let (here, there) = (ours.host("host-a"), theirs.host("host-b"));
    let said = refused(&here, &there).await;
    let mend = format!("run here: me2 cert trust {}", theirs.trusted());
    assert!(said.contains(&mend), "{said}");

    // Then it is the other side's turn.
    trust(here.path(), theirs.trusted(), "theirs", &Scope::AnyVm).unwrap();
    let said = refused(&here, &there).await;
    let mend = format!("run there: me2 cert trust {}", ours.trusted());
    assert!(said.contains(&mend), "{said}");
}

#[tokio::test]
async fn each_side_says_whose_certificate_is_not_valid_now() {
    let ca = Ca::new();
    let now = Moment::now().0;
    let times = [
        (now - 7200, now - 3600, "expired on"),
        (now + 3600, now + 7200, "valid from"),
    ];
    for (from, until, said_of_it) in times {
        let name = format!("host-{}", until - now + 9999);
        let (good, bad) = (ca.host(&format!("good-{name}")), Host::new());
        trust(bad.path(), ca.trusted(), "ca", &Scope::AnyVm).unwrap();
        let folder = ca.issue(
            &name,
            Validity {
                from: Moment(from),
                until: Moment(until),
            },
        );
        for file in ["identity.pem", "identity.key"] {
            std::fs::copy(folder.join(file), bad.path().join(file)).unwrap();
        }
        let bad = Host {
            identity: Arc::new(Identity::load(bad.path()).unwrap()),
            ..bad
        };
        let of_good = refused(&good, &bad).await;
        let beginning = "shows a certificate that this host does not take";
        assert!(
            of_good.contains(beginning) && of_good.contains(said_of_it),
            "{of_good}"
        );
        let of_bad = refused(&bad, &good).await;
        let beginning = "does not take this host's certificate";
        assert!(
            of_bad.contains(beginning) && of_bad.contains(said_of_it),
            "{of_bad}"
        );
    }
}

#[tokio::test]
async fn a_listener_shows_a_renewed_identity_to_the_next_peer() {
    let host = Host::new();
    let (next, _) = Identity::next(host.path()).unwrap();
    let listener = host.listen();
    let target = listener.local_addr().unwrap();
    let _accepted = echo(listener);
    let (_endpoint, peer) = host.connect(target).await.unwrap();
    assert_eq!(peer.fingerprint, host.identity.fingerprint());
    Identity::switch(host.path()).unwrap();
    let (_endpoint, peer) = host.connect(target).await.unwrap();
    assert_eq!(peer.fingerprint, next.fingerprint());
    assert_eq!(round_trip(&peer).await.unwrap(), b"hello");
}
