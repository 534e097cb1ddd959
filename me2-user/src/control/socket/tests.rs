//! Sockets on a real file system.

use super::*;

fn name(text: &str) -> VmName {
    text.parse().unwrap()
}

#[test]
fn names_are_safe_as_files() {
    for good in ["a", "vm-1", "A.b_c", &"n".repeat(64)] {
        assert_eq!(good.parse::<VmName>().unwrap().to_string(), good);
    }
    for bad in [
        "",
        ".",
        "..",
        "-x",
        "a/b",
        "a b",
        "é",
        "a\0",
        &"n".repeat(65),
    ] {
        assert_eq!(bad.parse::<VmName>(), Err(InvalidName), "{bad:?}");
    }
}

#[test]
fn the_most_explicit_folder_wins() {
    let of = |chosen: Option<&str>, is_root, xdg: Option<&str>| {
        default_dir(chosen.map(Into::into), is_root, xdg.map(Into::into)).ok()
    };
    assert_eq!(of(Some("x"), true, Some("/xdg")), Some("x".into()));
    assert_eq!(of(None, true, Some("/xdg")), Some("/run/me2".into()));
    assert_eq!(of(None, false, Some("/xdg")), Some("/xdg/me2".into()));
    assert_eq!(of(None, false, Some("xdg")), None);
    assert_eq!(of(None, false, None), None);
}

#[tokio::test]
async fn is_private_and_goes_away() {
    let root = tempfile::tempdir().unwrap();
    let path = socket_path(&root.path().join("run/me2"), &name("a"));
    let socket = ControlSocket::bind(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let dir = path.parent().unwrap();
    assert_eq!(
        fs::metadata(dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn replaces_the_dead_and_nobody_else() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.sock");

    // The standard library leaves the file behind, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let live = ControlSocket::bind(&path).unwrap();
    let error = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::InUse { .. }), "{error}");
    drop(live);

    fs::write(&path, "precious").unwrap();
    let error = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn does_not_remove_its_successor() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.sock");
    let first = ControlSocket::bind(&path).unwrap();
    fs::rename(&path, root.path().join("moved.sock")).unwrap();
    let _second = ControlSocket::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
}

#[tokio::test]
async fn an_unknown_name_is_told_with_those_that_run() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let error = resolve(dir, "x").unwrap_err();
    assert_eq!(error.to_string(), "no VM named x; running: none");

    let _b = ControlSocket::bind(&socket_path(dir, &name("b"))).unwrap();
    let _a = ControlSocket::bind(&socket_path(dir, &name("a"))).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.join("dead.sock")).unwrap());
    let error = resolve(dir, "x").unwrap_err();
    assert_eq!(error.to_string(), "no VM named x; running: a, b");

    assert_eq!(resolve(dir, "a").unwrap().socket, dir.join("a.sock"));
    assert_eq!(
        resolve(dir, "./x.sock").unwrap().socket,
        PathBuf::from("./x.sock")
    );
    assert!(matches!(resolve(dir, ".."), Err(SocketError::Name(_))));
}

#[test]
fn a_path_that_no_socket_can_have_is_refused() {
    let path = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
    let error = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::TooLong { .. }), "{error}");
}
