//! New identities in the place of old ones.

use super::*;

fn host() -> (tempfile::TempDir, Identity) {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::create(dir.path(), false).unwrap();
    (dir, identity)
}

#[test]
fn the_next_identity_is_known_before_it_is_in_force() {
    let (dir, old) = host();
    let none = Identity::switch(dir.path()).unwrap_err();
    assert!(none.to_string().contains("me2 cert rotate"), "{none}");
    let store = TrustStore::load(dir.path()).unwrap();

    let (next, is_new) = Identity::next(dir.path()).unwrap();
    let (same, is_new_again) = Identity::next(dir.path()).unwrap();
    assert!(is_new && !is_new_again);
    assert_eq!(next.fingerprint(), same.fingerprint());
    assert_eq!(Identity::waiting(dir.path()), Some(next.fingerprint()));
    assert_eq!(mode(&dir.path().join(NEXT.1)), 0o600);
    let present = Identity::load(dir.path()).unwrap();
    assert_eq!(present.fingerprint(), old.fingerprint());
    // A host trusts itself, whichever of the two it is to be at the other end.
    for own in [&old, &next] {
        assert_eq!(judged(&store, own.certificate()), Ok(()));
    }

    let switched = Identity::switch(dir.path()).unwrap();
    assert_eq!(switched.fingerprint(), next.fingerprint());
    assert_eq!(Identity::waiting(dir.path()), None);
    // What runs since before still takes what it was loaded with.
    assert_eq!(judged(&store, old.certificate()), Ok(()));
    let started_since = TrustStore::load(dir.path()).unwrap();
    assert!(judged(&started_since, old.certificate()).is_err());
}

#[test]
fn a_switch_that_was_interrupted_is_finished() {
    let (dir, _) = host();
    let (next, _) = Identity::next(dir.path()).unwrap();
    fs::rename(dir.path().join(NEXT.1), dir.path().join(IDENTITY.1)).unwrap();
    assert!(Identity::load(dir.path()).is_err());
    let switched = Identity::switch(dir.path()).unwrap();
    assert_eq!(switched.fingerprint(), next.fingerprint());
}

/// What a CA of its own issues to this host, for so many days.
fn issued(dir: &Path, days: u32) -> Identity {
    let ca = tempfile::tempdir().unwrap();
    let authority = Authority::create(ca.path(), "ca", Validity::days(1000), false).unwrap();
    let folder = ca.path().join("host-a");
    let host: HostName = "host-a".parse().unwrap();
    authority
        .issue(&host, Validity::days(days), &folder)
        .unwrap();
    install(&folder, dir, &Scope::AnyVm, false).unwrap()
}

#[test]
fn what_a_ca_issued_is_installed_with_trust_in_it_and_renewed_there() {
    let dir = tempfile::tempdir().unwrap();
    let own = issued(dir.path(), 100);
    let store = TrustStore::load(dir.path()).unwrap();
    let authority = own.authority().unwrap();
    let lines = TrustedPeer::load_all(dir.path()).unwrap();
    assert_eq!(lines[0].who, Trusted::Authority(authority));
    assert!(store.judge(&own.certified().cert, Moment::now()).is_ok());
    let next = Identity::next(dir.path()).unwrap_err();
    assert!(next.to_string().contains("me2 cert issue host-a"), "{next}");
    // Another of a CA takes its place at once.
    let again = issued(dir.path(), 100);
    assert_ne!(again.fingerprint(), own.fingerprint());
    assert_eq!(mode(&dir.path().join(KEY_FILE)), 0o600);
}

#[test]
fn an_identity_that_is_pinned_is_not_replaced_unasked() {
    let (dir, own) = host();
    let ca = tempfile::tempdir().unwrap();
    let authority = Authority::create(ca.path(), "ca", Validity::days(9), false).unwrap();
    let folder = ca.path().join("issued");
    let name: HostName = "host-a".parse().unwrap();
    authority.issue(&name, Validity::days(9), &folder).unwrap();
    let refused = install(&folder, dir.path(), &Scope::AnyVm, false).unwrap_err();
    assert!(refused.to_string().contains("--force"), "{refused}");
    assert!(TrustedPeer::load_all(dir.path()).unwrap().is_empty());
    let present = Identity::load(dir.path()).unwrap();
    assert_eq!(present.fingerprint(), own.fingerprint());
    install(&folder, dir.path(), &Scope::AnyVm, true).unwrap();

    // What is no CA's, or of no use any more, is not installed at all.
    let (other, _) = host();
    let refused = install(other.path(), dir.path(), &Scope::AnyVm, true).unwrap_err();
    assert!(
        matches!(refused, IdentityError::NotIssued { .. }),
        "{refused}"
    );
    let past = Validity {
        from: Moment(0),
        until: Moment(1),
    };
    let folder = ca.path().join("expired");
    authority.issue(&name, past, &folder).unwrap();
    let refused = install(&folder, dir.path(), &Scope::AnyVm, true).unwrap_err();
    assert!(refused.to_string().contains("expired on 1970"), "{refused}");
}

#[test]
fn the_end_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let own = issued(dir.path(), 100);
    let until = own.validity().unwrap().until.0;
    let days_before = |days: i64| own.warning(Moment(until - days * 24 * 3600));
    assert_eq!(days_before(30), None);
    let told = days_before(29).unwrap();
    assert!(
        told.contains("in 29 days") && told.contains("me2 cert issue host-a"),
        "{told}"
    );
    assert!(days_before(-1).unwrap().contains("expired on"));
    let too_early = own.warning(Moment(Moment::now().0 - 7200)).unwrap();
    assert!(too_early.contains("clock"), "{too_early}");
    let (_dir, pinned) = host();
    assert_eq!(pinned.warning(Moment(i64::MAX / 2)), None);
}

#[test]
fn a_process_sees_a_renewed_identity_unless_a_vm_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let first = issued(dir.path(), 100).fingerprint();
    let credentials = Credentials::load(dir.path()).unwrap();
    assert_eq!(credentials.identity().fingerprint(), first);
    let second = issued(dir.path(), 100).fingerprint();
    let own = credentials.identity();
    assert_eq!(own.fingerprint(), second);

    let source = Fingerprint::of(b"source");
    assert!(judged(credentials.trust(), b"source").is_err());
    credentials.hold(&own, source);
    let third = issued(dir.path(), 100).fingerprint();
    assert_eq!(credentials.identity().fingerprint(), second);
    // Whatever becomes of its certificate, it is let in to go on.
    assert_eq!(judged(credentials.trust(), b"source"), Ok(()));
    credentials.release();
    assert_eq!(credentials.identity().fingerprint(), third);
    assert!(judged(credentials.trust(), b"source").is_err());

    // What cannot be read leaves the one before in use.
    fs::write(dir.path().join(IDENTITY.0), "half a certif").unwrap();
    assert_eq!(credentials.identity().fingerprint(), third);
}
