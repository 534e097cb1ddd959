//! What is wrong is told in one line, and help is given all the same.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn mistakes_are_told_with_their_line_and_what_is_meant() {
    for (text, said) in [
        (
            "\n[run]\nmemroy = '1G'",
            "user:3: no option memroy of me2 run; did you mean memory?",
        ),
        (
            "[run]\nmax_bandwidth = '1G'",
            "user:2: no option max_bandwidth of me2 run; those that can have a default are balloon, ",
        ),
        (
            "[run]\nmax-bandwidth = '1G'",
            "user:2: no option max-bandwidth of me2 run; it belongs below [hybrid-migrate]",
        ),
        (
            "[hybrid-migrat]\n",
            "user:1: no command hybrid-migrat of me2; did you mean [hybrid-migrate]?",
        ),
        (
            "[run.memory]\n",
            "user:1: no command memory of me2 run; memory is an option: memory = …",
        ),
        (
            "[general]\n",
            "user:1: no command general of me2; there are run, receive, ",
        ),
        (
            "run = 3",
            "user:1: run is a command: its options go below [run]",
        ),
        ("[[run]]", "user:1: run is a command"),
        (
            "[run]\nkernel = '/boot/vmlinuz'",
            "user:2: kernel cannot have a default: --kernel belongs to one VM",
        ),
        (
            "config = '/x'",
            "user:1: config cannot have a default: --config says which file is read",
        ),
        (
            "[run]\nno-sandbox = true",
            "user:2: no-sandbox cannot have a default: --no-sandbox must be meant each time",
        ),
        (
            "[run]\nmemory = '1Gi'",
            "user:2: memory cannot be \"1Gi\": expected a size such as 512M or 1G (K, M, G, T: powers of 1024)",
        ),
        (
            "[run]\ncpus = 9",
            "user:2: cpus cannot be \"9\": 9 is not in 1..=8",
        ),
        (
            "[run]\nmemory = true",
            "user:2: memory takes a text in quotes or a number",
        ),
        (
            "[run]\nmemory = 1.5",
            "user:2: memory takes a text in quotes or a number",
        ),
        (
            "[run]\nmemory = ['1G']",
            "user:2: memory takes a text in quotes or a number",
        ),
        (
            "[run]\nmemory = 99999999999999999999",
            "user:2: memory takes a text in quotes or a number",
        ),
        ("[run]\nrng = 'yes'", "user:2: rng takes true or false"),
        (
            "[run]\nserial = ''",
            "user:2: serial cannot be \"\": expected stdio, none or file:PATH",
        ),
        (
            "config-dir = ''",
            "user:1: config-dir cannot be \"\": it is empty",
        ),
        (
            "[hybrid-migrate]\nmode = 'fast'",
            "user:2: mode cannot be \"fast\": expected hybrid, precopy, postcopy, stop-and-copy",
        ),
        (
            "[hybrid-migrate]\nmode = 'hybird'",
            "user:2: mode cannot be \"hybird\": expected hybrid, precopy, postcopy, stop-and-copy; did you mean hybrid?",
        ),
        (
            "[hybrid-migrate]\ntimeout = '1500ms'",
            "user:2: timeout cannot be \"1500ms\": expected whole seconds, such as 90s or 10m",
        ),
        (
            "[hybrid-migrate]\nwithout = [1.5]",
            "user:2: without takes a list of texts",
        ),
        (
            "[hybrid-migrate]\nwithout = ['delta', 'luck']",
            "user:2: without cannot be \"delta,luck\": expected ",
        ),
        ("[run]\ncpus = 1\ncpus = 2", "user:3: duplicate key"),
        ("[run]\ncpus = ", "user:2: "),
        ("[run]\ncpus = 9\n[list]\nbad = 1", "user:2: "),
        ("a = 1\n# é\n\u{0}", "user:3: "),
    ] {
        let problem = user(text).problem();
        assert!(problem.starts_with(said), "{text:?}: {problem:?}");
        assert_eq!(problem.lines().count(), 1, "{problem:?}");
    }
    let variables = [("ME2_MEMORY", "lots")];
    let host = Host {
        variables: &variables,
        ..Host::default()
    };
    assert!(
        host.problem()
            .starts_with("ME2_MEMORY: cannot be \"lots\": expected a size"),
        "{}",
        host.problem()
    );
}

#[test]
fn help_shows_the_defaults_and_comes_whatever_the_file_has() {
    let help = |host: &Host| match host.parse("hybrid-migrate --help") {
        Err(Unparsed::CommandLine(help)) if !help.use_stderr() => {
            let words: Vec<String> = help
                .to_string()
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            words.join(" ")
        }
        other => panic!("{other:?}"),
    };
    let plain = help(&Host::default());
    assert!(plain.contains("[default: what the link takes]"), "{plain}");
    let set = help(&user(
        "[hybrid-migrate]\nmax-bandwidth = '7M'\nno-auto-recover = true",
    ));
    assert!(
        set.contains("[default: 7M]") && set.contains("[default: true]"),
        "{set}"
    );
    assert!(!set.contains("[default: what the link takes]"), "{set}");
    assert_eq!(help(&user("nonsense")), plain);
}

#[test]
fn a_file_is_bounded_and_only_its_owner_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, is_named| file::Place {
        path: folder.path().join(name),
        is_named,
    };
    let put =
        |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).unwrap();
    let problem = |name: &str| place(name, true).read().unwrap_err().to_string();
    assert_eq!(place("none", false).read(), Ok(None));
    assert!(problem("none").contains("none: cannot read it: No such file"));
    put("large", &[b'\n'; (64 << 10) + 1]);
    assert!(problem("large").ends_with("larger than 64 KiB"));
    put("largest", &[b'\n'; 64 << 10]);
    assert!(place("largest", true).read().unwrap().is_some());
    put("bytes", b"# \n# \xff");
    assert!(problem("bytes").ends_with("bytes:2: not UTF-8"));
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    assert!(problem("folder").contains("cannot read it"));
    put("open", b"");
    std::fs::set_permissions(folder.path().join("open"), PermissionsExt::from_mode(0o666)).unwrap();
    assert!(problem("open").contains("anybody can write it (mode 666)"));
    let nothing = file::Place {
        path: "/dev/null".into(),
        is_named: true,
    };
    assert_eq!(nothing.read(), Ok(Some(String::new())));
    // However deep it goes.
    put("deep", "a = ".to_owned().into_bytes().as_slice());
    let deep = format!("[run]\ncpus = {}", "[".repeat(60_000));
    assert!(user(&deep).problem().starts_with("user:2: "));
}
