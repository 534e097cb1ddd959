//! Sockets on a real file system.

use std::os::unix::fs::PermissionsExt;

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

#[test]
fn is_private_and_goes_away() {
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

#[test]
fn replaces_the_dead_and_nobody_else() {
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

#[test]
fn does_not_remove_its_successor() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.sock");
    let first = ControlSocket::bind(&path).unwrap();
    fs::rename(&path, root.path().join("moved.sock")).unwrap();
    let _second = ControlSocket::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
}

#[test]
fn an_unknown_name_is_told_with_those_that_run() {
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

#[test]
fn the_folder_is_private_and_the_dead_are_cleared_away() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run/me2");
    prepare_folder(&dir).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);

    let _live = ControlSocket::bind(&socket_path(&dir, &name("live"))).unwrap();
    for dead in ["dead.sock", "no-vm", "-odd.sock"] {
        drop(UnixListener::bind(dir.join(dead)).unwrap());
    }
    fs::write(dir.join("bandwidth"), "kept").unwrap();
    fs::write(dir.join("file.sock"), "kept").unwrap();
    prepare_folder(&dir).unwrap();
    let entries = fs::read_dir(&dir).unwrap();
    let mut left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    let kept = ["-odd.sock", "bandwidth", "file.sock", "live.sock", "no-vm"];
    assert_eq!(left, kept);
    assert_eq!(running(&dir), ["live"]);
}

#[test]
fn a_folder_in_which_others_can_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o777, 0o720, 0o702] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = prepare_folder(dir.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    prepare_folder(dir.path()).unwrap();
}

#[test]
fn nobody_takes_a_socket_away_that_is_being_made() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().to_owned();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    let path = socket_path(&dir, &name("a"));
    let turn = folder::turn(&dir).unwrap();
    // As it is between the two calls that make it.
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    let (sender, cleared) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(prepare_folder(&dir)));
    let early = cleared.recv_timeout(std::time::Duration::from_millis(100));
    assert!(early.is_err(), "it waits for its turn");
    rustix::net::listen(&socket, 1).unwrap();
    drop(turn);
    cleared.recv().unwrap().unwrap();
    assert!(path.exists());
}
