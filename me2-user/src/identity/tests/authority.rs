//! What a CA issues, and who takes it.

use tempfile::TempDir;

use super::*;

const DAY: i64 = 24 * 3600;

/// A folder with a CA.
struct Ca {
    dir: TempDir,
    authority: Authority,
}

impl Ca {
    fn new(validity: Validity) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), "the CA", validity, false).unwrap();
        Self { dir, authority }
    }

    fn issue(&self, host: &str, validity: Validity) -> Identity {
        let host: HostName = host.parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("issued");
        self.authority.issue(&host, validity, &folder).unwrap()
    }

    fn trusted(&self) -> Trusted {
        Trusted::Authority(self.authority.fingerprint())
    }
}

/// A host that trusts these.
fn host_trusting(trusted: &[(Trusted, Scope)]) -> (TempDir, TrustStore) {
    let dir = tempfile::tempdir().unwrap();
    Identity::create(dir.path(), false).unwrap();
    for (who, scope) in trusted {
        trust(dir.path(), *who, "name", scope).unwrap();
    }
    let store = TrustStore::load(dir.path()).unwrap();
    (dir, store)
}

fn judge(store: &TrustStore, identity: &Identity, at: Moment) -> Result<(), Distrust> {
    store.judge(&identity.certified().cert, at)
}

fn long() -> Validity {
    Validity::days(1000)
}

#[test]
fn every_host_of_a_ca_that_is_trusted_is_taken_and_no_other() {
    let (ours, theirs) = (Ca::new(long()), Ca::new(long()));
    let (_dir, store) = host_trusting(&[(ours.trusted(), Scope::AnyVm)]);
    let now = Moment::now();
    for host in ["host-a", "host-b.example.org", "192.0.2.7", "2001:db8::7"] {
        let host = ours.issue(host, Validity::days(2));
        assert_eq!(judge(&store, &host, now), Ok(()));
    }
    let foreign = theirs.issue("host-a", Validity::days(2));
    let authority = theirs.authority.fingerprint();
    let unknown = Distrust::UnknownAuthority { authority };
    assert_eq!(judge(&store, &foreign, now), Err(unknown));

    // Who shows a CA that is trusted was not issued by it for that.
    let mut chain = foreign.certified().cert.clone();
    chain.push(ours.authority_certificate());
    let refused = store.judge(&chain, now).unwrap_err();
    assert!(matches!(refused, Distrust::NoHost { .. }), "{refused:?}");
    // Nor do bytes that mean nothing, or more of them than a host shows, do harm.
    let trusted = ours.authority_certificate();
    for own in [
        &b""[..],
        b"peer",
        &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        &[0x30; 5000],
    ] {
        for others in [1, 3, 100] {
            let mut chain = vec![CertificateDer::from(own.to_vec()); others];
            chain.push(trusted.clone());
            let refused = store.judge(&chain, now).unwrap_err();
            assert!(matches!(refused, Distrust::NoHost { .. }), "{refused:?}");
        }
    }
    assert!(store.judge(&[], now).is_err());
}

#[test]
fn dates_count_for_hosts_and_cas_and_not_for_who_is_pinned() {
    let now = Moment::now();
    let ca = Ca::new(Validity {
        from: Moment(now.0 - 10 * DAY),
        until: Moment(now.0 + 10 * DAY),
    });
    let host = ca.issue(
        "host-a",
        Validity {
            from: Moment(now.0 - DAY),
            until: Moment(now.0 + 2 * DAY),
        },
    );
    let (_dir, store) = host_trusting(&[(ca.trusted(), Scope::AnyVm)]);
    for (days, expected) in [
        (-11, "not yet"),
        (-2, "not yet"),
        (0, "ok"),
        (3, "expired"),
        (11, "expired"),
    ] {
        let told = match judge(&store, &host, Moment(now.0 + days * DAY)) {
            Ok(()) => "ok",
            Err(Distrust::Expired { .. }) => "expired",
            Err(Distrust::NotYetValid { .. }) => "not yet",
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(told, expected, "after {days} days");
    }
    let after = Moment(now.0 + 11 * DAY);
    let whose = |days: i64| match judge(&store, &host, Moment(now.0 + days * DAY)) {
        Err(Distrust::Expired { what, .. } | Distrust::NotYetValid { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(whose(11), Dated::Authority);
    assert_eq!(whose(-11), Dated::Authority);
    assert_eq!(whose(3), Dated::Host);

    let pinned = (Trusted::Host(host.fingerprint()), Scope::AnyVm);
    let (_dir, store) = host_trusting(&[pinned]);
    assert_eq!(judge(&store, &host, after), Ok(()));
}

#[test]
fn a_host_is_no_ca() {
    let ca = Ca::new(long());
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host");
    let host: HostName = "host-a".parse().unwrap();
    let host = ca.authority.issue(&host, long(), &folder).unwrap();
    // Its key signs whatever it is given to sign.
    fs::copy(folder.join(IDENTITY.1), folder.join("ca.key")).unwrap();
    let own = fs::read_to_string(folder.join(IDENTITY.0)).unwrap();
    let end = own.find("-----END CERTIFICATE-----").unwrap() + "-----END CERTIFICATE-----\n".len();
    fs::write(folder.join("ca.pem"), &own[..end]).unwrap();
    let false_ca = Authority::load(&folder).unwrap();
    let evil: HostName = "evil".parse().unwrap();
    let evil = false_ca
        .issue(&evil, long(), &dir.path().join("evil"))
        .unwrap();

    let mut chain = evil.certified().cert.clone();
    chain.push(ca.authority_certificate());
    let trusted = [
        (ca.trusted(), Scope::AnyVm),
        (Trusted::Authority(host.fingerprint()), Scope::AnyVm),
    ];
    for trusted in trusted {
        let (_dir, store) = host_trusting(&[trusted]);
        for chain in [&chain, &evil.certified().cert] {
            store.judge(chain, Moment::now()).unwrap_err();
        }
    }
    // Nor is a CA a host.
    let (_dir, store) = host_trusting(&[(ca.trusted(), Scope::AnyVm)]);
    let own = ca.authority_certificate();
    let refused = store.judge(&[own.clone(), own], Moment::now()).unwrap_err();
    assert!(matches!(refused, Distrust::NoHost { .. }), "{refused:?}");
}

#[test]
fn the_hosts_of_a_ca_may_be_trusted_with_some_vms_alone() {
    let (narrow, wide) = (Ca::new(long()), Ca::new(long()));
    let of_narrow = narrow.issue("host-a", long());
    let named = narrow.issue("host-b", long());
    let (_dir, store) = host_trusting(&[
        (narrow.trusted(), only(&["web1"])),
        (wide.trusted(), Scope::AnyVm),
        (Trusted::Host(named.fingerprint()), only(&["db"])),
    ]);
    let now = Moment::now();
    let allow = |chain: &[CertificateDer<'static>], vm: &str| store.allow(chain, vm, now).is_ok();
    let chain = &of_narrow.certified().cert;
    assert!(allow(chain, "web1") && !allow(chain, "db"));
    // To show a CA that is trusted with more is of no use.
    let more = [&chain[..], &[wide.authority_certificate()]].concat();
    assert!(store.judge(&more, now).is_ok());
    assert!(allow(&more, "web1") && !allow(&more, "db"));
    // A host's own line counts before that of its CA.
    let chain = &named.certified().cert;
    assert!(allow(chain, "db") && !allow(chain, "web1"));
    // Nobody gets more by a certificate that has expired.
    let later = Moment(now.0 + 2000 * DAY);
    let expired = store.allow(&of_narrow.certified().cert, "db", later);
    assert!(
        matches!(expired, Err(NotAllowed::Distrusted(_))),
        "{expired:?}"
    );
}

#[test]
fn what_is_issued_ends_with_its_ca_and_is_its_owners_alone() {
    let ca = Ca::new(Validity::days(5));
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("host-a");
    let host: HostName = "host-a".parse().unwrap();
    let issued = ca
        .authority
        .issue(&host, Validity::days(825), &folder)
        .unwrap();
    assert_eq!(
        issued.facts().validity.until,
        ca.authority.facts().validity.until
    );
    assert_eq!(issued.facts().subject, "host-a");
    assert_eq!(issued.facts().issuer.as_deref(), Some("the CA"));
    assert!(!issued.facts().is_authority && ca.authority.facts().is_authority);
    for key in [folder.join(IDENTITY.1), ca.dir.path().join("ca.key")] {
        assert_eq!(mode(&key), 0o600, "{}", key.display());
    }
    let again = ca.authority.issue(&host, Validity::days(1), &folder);
    assert!(matches!(again, Err(IdentityError::FolderExists { .. })));
    let again = Authority::create(ca.dir.path(), "x", long(), false);
    assert!(matches!(again, Err(IdentityError::Exists { .. })));
    let none = Authority::load(dir.path()).map(|_| ()).unwrap_err();
    assert!(none.to_string().contains("me2 cert ca"), "{none}");
}

#[test]
fn hosts_have_names_that_files_can_have() {
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "-a",
        "a b",
        "é",
        "a..b",
        &"a".repeat(65),
    ] {
        assert!(bad.parse::<HostName>().is_err(), "{bad:?}");
    }
}

impl Ca {
    fn authority_certificate(&self) -> CertificateDer<'static> {
        read_chain(&self.dir.path().join("ca.pem"))
            .unwrap()
            .remove(0)
    }
}
