//! Identities and trust on a real file system.

use std::os::unix::fs::PermissionsExt;

use super::*;

mod authority;
mod renewal;

const KEY_FILE: &str = IDENTITY.1;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn created_is_loaded_and_private() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a/me2");
    let created = Identity::create(&dir, false).unwrap();
    let loaded = Identity::load(&dir).unwrap();
    assert_eq!(created.fingerprint(), loaded.fingerprint());
    assert_eq!(loaded.fingerprint(), Fingerprint::of(loaded.certificate()));
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join(KEY_FILE)), 0o600);
    assert!(!format!("{loaded:?}").contains("key"));
}

#[test]
fn replaces_only_when_forced() {
    let dir = tempfile::tempdir().unwrap();
    let first = Identity::create(dir.path(), false).unwrap().fingerprint();
    let error = Identity::create(dir.path(), false).unwrap_err();
    assert!(matches!(error, IdentityError::Exists { .. }), "{error}");
    assert_eq!(Identity::load(dir.path()).unwrap().fingerprint(), first);

    // A left-over of an interrupted attempt is no obstacle.
    fs::write(dir.path().join("identity.new"), "left over").unwrap();
    let second = Identity::create(dir.path(), true).unwrap().fingerprint();
    assert_ne!(first, second);
    assert_eq!(Identity::load(dir.path()).unwrap().fingerprint(), second);
    assert_eq!(mode(&dir.path().join(KEY_FILE)), 0o600);
}

#[test]
fn says_how_to_mend_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let error = Identity::load(dir.path()).unwrap_err();
    assert!(matches!(error, IdentityError::Missing { .. }));
    assert!(error.to_string().contains("me2 cert create"), "{error}");

    Identity::create(dir.path(), false).unwrap();
    let key = dir.path().join(KEY_FILE);
    for exposed in [0o640, 0o604, 0o620, 0o610] {
        fs::set_permissions(&key, fs::Permissions::from_mode(exposed)).unwrap();
        let error = Identity::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let other = tempfile::tempdir().unwrap();
    Identity::create(other.path(), false).unwrap();
    fs::copy(other.path().join(KEY_FILE), &key).unwrap();
    let error = Identity::load(dir.path()).unwrap_err();
    assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");

    fs::write(&key, vec![b'x'; 100_000]).unwrap();
    let error = Identity::load(dir.path()).unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

/// What a peer shows whose certificate is these bytes: for those who are pinned nothing else counts.
fn shows(certificate: &[u8]) -> [CertificateDer<'static>; 1] {
    [certificate.to_vec().into()]
}

fn host(certificate: &[u8]) -> Trusted {
    Trusted::Host(Fingerprint::of(certificate))
}

fn judged(store: &TrustStore, certificate: &[u8]) -> Result<(), Distrust> {
    store.judge(&shows(certificate), Moment::now())
}

fn allowed(store: &TrustStore, certificate: &[u8], vm: &str) -> Result<(), NotAllowed> {
    store.allow(&shows(certificate), vm, Moment::now())
}

#[test]
fn trusts_itself_and_whom_it_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let own = Identity::create(dir.path(), false).unwrap();
    let peer = host(b"peer");

    assert!(trust(dir.path(), peer, "host b", &Scope::AnyVm).unwrap());
    assert!(!trust(dir.path(), peer, "again", &Scope::AnyVm).unwrap());
    let store = TrustStore::load(dir.path()).unwrap();
    assert_eq!(judged(&store, own.certificate()), Ok(()));
    assert_eq!(judged(&store, b"peer"), Ok(()));
    let stranger = Fingerprint::of(b"stranger");
    let refused = Distrust::Stranger { peer: stranger };
    assert_eq!(judged(&store, b"stranger"), Err(refused));
    let peers = TrustedPeer::load_all(dir.path()).unwrap();
    assert_eq!(
        peers,
        [TrustedPeer {
            who: peer,
            name: "host b".to_owned(),
            scope: Scope::AnyVm,
        }]
    );
    let only = TrustStore::only(Fingerprint::of(b"peer"));
    assert_eq!(judged(&only, b"peer"), Ok(()));
    let another = judged(&only, own.certificate()).unwrap_err();
    assert!(
        matches!(another, Distrust::AnotherHost { .. }),
        "{another:?}"
    );
}

#[test]
fn the_trusted_file_may_be_edited_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (host(b"a"), host(b"b"));
    let path = dir.path().join("trusted");
    fs::write(&path, format!("# hosts\n\n  {a}\thost a # old\r\n{b}")).unwrap();
    let c = host(b"c");
    trust(dir.path(), c, "c", &Scope::AnyVm).unwrap();
    let peers = TrustedPeer::load_all(dir.path()).unwrap();
    assert_eq!(peers.iter().map(|p| p.who).collect::<Vec<_>>(), [a, b, c]);
    assert_eq!(peers[0].name, "host a");

    fs::write(&path, format!("{a} a\nsha256:12 b\n")).unwrap();
    let error = TrustedPeer::load_all(dir.path()).unwrap_err();
    assert!(
        matches!(error, IdentityError::TrustedLine { line: 2, .. }),
        "{error}"
    );
}

#[test]
fn names_cannot_break_the_file() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", " x", "a\nb", "a#b", "é", "vm=a", &"n".repeat(65)] {
        let error = trust(dir.path(), host(b"a"), name, &Scope::AnyVm).unwrap_err();
        assert!(matches!(error, IdentityError::PeerName { .. }), "{name:?}");
    }
    assert!(!dir.path().join("trusted").exists());
}

fn only(names: &[&str]) -> Scope {
    Scope::Only(names.iter().map(|name| name.parse().unwrap()).collect())
}

#[test]
fn a_peer_may_be_trusted_with_some_vms_alone() {
    let dir = tempfile::tempdir().unwrap();
    let own = Identity::create(dir.path(), false).unwrap();
    let (limited, free) = (host(b"limited"), host(b"free"));
    // Who is listed once the store is loaded counts as well.
    let store = TrustStore::load(dir.path()).unwrap();
    assert!(trust(dir.path(), limited, "host b", &only(&["web1", "web2"])).unwrap());
    assert!(trust(dir.path(), free, "host c", &Scope::AnyVm).unwrap());
    for store in [store, TrustStore::load(dir.path()).unwrap()] {
        assert_eq!(judged(&store, b"limited"), Ok(()));
        for vm in ["web1", "web2"] {
            assert_eq!(allowed(&store, b"limited", vm), Ok(()));
        }
        for vm in ["web", "web11", "WEB1", "web1,web2", ""] {
            let refused = allowed(&store, b"limited", vm).unwrap_err();
            assert!(refused.to_string().contains("vm=web1,web2"), "{refused}");
        }
        for anybody in [own.certificate(), &b"free"[..]] {
            assert_eq!(allowed(&store, anybody, "db"), Ok(()));
        }
    }

    let same = trust(dir.path(), limited, "again", &only(&["web1", "web2"]));
    assert!(!same.unwrap());
    for other in [Scope::AnyVm, only(&["web1"])] {
        let error = trust(dir.path(), limited, "again", &other).unwrap_err();
        assert!(matches!(error, IdentityError::OtherScope { .. }), "{error}");
    }
}

#[test]
fn lines_with_vms_may_be_edited_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (host(b"a"), host(b"b"));
    let path = dir.path().join("trusted");
    fs::write(
        &path,
        format!("{a}  vm=x\n{b} vm=y host b\n{a}\tvm=z host a\n"),
    )
    .unwrap();
    let peers = TrustedPeer::load_all(dir.path()).unwrap();
    assert_eq!((&peers[0].name[..], &peers[1].name[..]), ("", "host b"));
    assert_eq!(peers[0].scope, only(&["x"]));
    Identity::create(dir.path(), false).unwrap();
    let store = TrustStore::load(dir.path()).unwrap();
    for (certificate, vm, is_allowed) in [
        (b"a", "x", true),
        (b"a", "z", true),
        (b"a", "y", false),
        (b"b", "x", false),
    ] {
        assert_eq!(allowed(&store, certificate, vm).is_ok(), is_allowed, "{vm}");
    }

    for bad in ["vm=", "vm= x", "vm=x,", "vm=x,,y", "vm=../x", "vm=.x"] {
        fs::write(&path, format!("{a} {bad} host\n")).unwrap();
        let error = TrustedPeer::load_all(dir.path()).unwrap_err();
        assert!(
            matches!(error, IdentityError::TrustedLine { line: 1, .. }),
            "{bad}"
        );
    }
}
