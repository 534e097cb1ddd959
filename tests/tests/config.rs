//! Defaults of options: which counts, as the program tells it and as it behaves.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use me2_tests::{Bench, Process, require_kvm, say};
use serde_json::Value;

/// `/etc` is a folder of the test's own, with this file for all users, in a mount namespace.
const WITH_SYSTEM_FILE: &str = "\
mount -t tmpfs none /etc && mkdir /etc/me2 && cp \"$1\" /etc/me2/me2.toml && shift && exec \"$@\"";

/// `me2` with the files of a user and of the system, and nothing else of this host's.
fn with_files(bench: &Bench, user: &str, system: &str, arguments: &[&str]) -> Command {
    let home = bench.folder().join("home");
    let folder = home.join(".config/me2");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join("me2.toml"), user).expect("it can be written");
    let file = bench.folder().join("system.toml");
    fs::write(&file, system).expect("it can be written");
    let me2 = bench.me2(arguments);
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount"])
        .args(["sh", "-c", WITH_SYSTEM_FILE, "sh"])
        .arg(file)
        .arg(me2.get_program())
        .args(arguments)
        .env("HOME", home)
        .env("ME2_RUNTIME_DIR", bench.runtime())
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("ME2_CONFIG")
        .env_remove("RUST_LOG");
    command
}

/// Whether mount namespaces can be made here; else the test ends, and says so.
fn can_mount() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]);
    let output = command
        .args(["mount", "-t", "tmpfs", "none", "/etc"])
        .output();
    let can = output.is_ok_and(|output| output.status.success());
    if !can {
        say("SKIPPED: no mount namespaces for this user");
    }
    can
}

fn output(command: &mut Command) -> Output {
    command.output().expect("it runs")
}

/// What `me2 config` says of an option of `hybrid-migrate`: its value, and from where.
fn told(command: &mut Command) -> (String, String) {
    let output = output(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("one document");
    let rows = document["defaults"].as_array().expect("a list");
    let mut of = rows
        .iter()
        .filter(|row| row["command"] == "hybrid-migrate" && row["option"] == "max-bandwidth");
    let row = of.next().unwrap_or_else(|| panic!("{document}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let source = match text(&row["source"]).as_str() {
        "file" => format!("{}:{}", text(&row["file"]), row["line"]),
        "environment" => text(&row["variable"]),
        other => other.to_owned(),
    };
    (text(&row["values"][0]), source)
}

#[test]
fn environment_before_the_users_file_before_the_systems() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let table = |rate: &str| format!("[hybrid-migrate]\nmax-bandwidth = '{rate}'\n");
    let (user, system) = (table("2M"), format!("\n{}", table("1M")));
    let all = ["config", "--all", "--output", "json"];
    let (value, source) = told(&mut with_files(&bench, "", "", &all));
    assert_eq!((value.as_str(), source.as_str()), ("", "built_in"));
    let (value, source) = told(&mut with_files(&bench, "", &system, &all));
    assert_eq!(
        (value.as_str(), source.as_str()),
        ("1M", "/etc/me2/me2.toml:3")
    );
    let (value, source) = told(&mut with_files(&bench, &user, &system, &all));
    let line = bench.folder().join("home/.config/me2/me2.toml:2");
    assert_eq!((value.as_str(), Path::new(&source)), ("2M", line.as_path()));
    let mut command = with_files(&bench, &user, &system, &all);
    let (value, source) = told(command.env("ME2_MAX_BANDWIDTH", "3M"));
    assert_eq!(
        (value.as_str(), source.as_str()),
        ("3M", "ME2_MAX_BANDWIDTH")
    );
}

#[test]
fn the_command_line_before_all_of_them() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let is_json = |command: &mut Command| {
        let output = output(command);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        serde_json::from_slice::<Value>(&output.stdout).is_ok()
    };
    let (json, human) = ("output = 'json'", "output = 'human'");
    assert!(!is_json(&mut with_files(&bench, "", "", &["list"])));
    assert!(is_json(&mut with_files(&bench, "", json, &["list"])));
    assert!(!is_json(&mut with_files(&bench, human, json, &["list"])));
    let mut command = with_files(&bench, human, json, &["list"]);
    assert!(is_json(command.env("ME2_OUTPUT", "json")));
    let mut command = with_files(&bench, json, json, &["list", "--output", "human"]);
    assert!(!is_json(command.env("ME2_OUTPUT", "json")));
    // A file that is named takes the place of both.
    let mut command = with_files(&bench, json, json, &["list", "--config", "/dev/null"]);
    assert!(!is_json(&mut command));
}

#[test]
fn mistakes_end_with_status_2_and_one_line() {
    let bench = Bench::new();
    let file = bench.folder().join("me2.toml");
    let file = file.to_str().expect("plain text");
    let refused = |arguments: &[&str]| {
        let output = bench.run(arguments);
        let error = String::from_utf8(output.stderr).expect("plain text");
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert_eq!(
            (error.lines().count(), output.stdout.len()),
            (1, 0),
            "{error}"
        );
        error
    };
    fs::write(file, "# mine\n[run]\nmemroy = '1G'\n").expect("it can be written");
    let error = refused(&["list", "--config", file]);
    let said = format!("me2: {file}:3: no option memroy of me2 run; did you mean memory?\n");
    assert_eq!(error, said);
    // Whatever it has, help is given.
    assert!(
        bench
            .run(&["--config", file, "list", "--help"])
            .status
            .success()
    );
    fs::remove_file(file).expect("it is there");
    let error = refused(&["--config", file, "list"]);
    assert!(
        error.starts_with(&format!("me2: {file}: cannot read it: ")),
        "{error}"
    );
    let output = bench
        .me2(&["list"])
        .env("ME2_TIMEOUT", "soon")
        .output()
        .expect("me2 runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.starts_with("me2: ME2_TIMEOUT: cannot be \"soon\": "),
        "{error}"
    );
}

#[test]
fn a_process_of_a_vm_has_the_defaults_of_the_file() {
    require_kvm!();
    let bench = Bench::new();
    let file = bench.folder().join("me2.toml");
    let text =
        "log-format = 'json'\nno-probes = true\n[receive]\nonce = true\nlisten = '127.0.0.1:0'\n";
    fs::write(&file, text).expect("it can be written");
    let mut me2 = bench.me2(&["receive", "--name", "waiting"]);
    let mut process = Process::start("waiting", me2.env("ME2_CONFIG", &file));
    let line = process.wait_stderr("line of the log", |log| {
        let (line, _) = log.split_once('\n')?;
        Some(line.to_owned())
    });
    let line: Value = serde_json::from_str(&line).expect("JSON, as the file has it");
    let address = process.wait_stderr("address", |log| {
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut addresses = lines.filter_map(|line| line["address"].as_str().map(str::to_owned));
        addresses.next()
    });
    assert!(address.starts_with("127.0.0.1:"), "{line}");
    bench.ask(&["stop", "--vm", "waiting"]);
    assert!(process.wait().success());
}
