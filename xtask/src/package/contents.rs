//! What of the package is made rather than written: manual pages, completions, Debian's changelog.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Result,
    cargo::{root, run, target},
};

/// The shells, each with the file that its completions are looked for in.
const SHELLS: [(&str, &str); 3] = [("bash", "me2"), ("zsh", "_me2"), ("fish", "me2.fish")];

/// Writes everything into the folder that the package's metadata names.
pub(super) fn generate(me2: &Path) -> Result {
    let folder = target()?.join("release/package");
    if folder.exists() {
        // Pages of commands that are no more.
        fs::remove_dir_all(&folder).map_err(|error| failed(&folder, &error))?;
    }
    let completions = folder.join("completions");
    fs::create_dir_all(&completions).map_err(|error| failed(&completions, &error))?;
    run(Command::new(me2)
        .args(["man", "--dir"])
        .arg(folder.join("man")))?;
    for (shell, file) in SHELLS {
        let path = completions.join(file);
        let file = File::create(&path).map_err(|error| failed(&path, &error))?;
        run(Command::new(me2).args(["completions", shell]).stdout(file))?;
    }
    let path = folder.join("changelog.Debian");
    fs::write(&path, changelog()?).map_err(|error| failed(&path, &error))?;
    // Without name and time in it: the same build, the same package.
    run(Command::new("gzip").args(["-9n"]).arg(&path))
}

/// In Debian's format, of one entry: what changed is in CHANGELOG.md.
fn changelog() -> Result<String> {
    let manifest = root().join("Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(|error| failed(&manifest, &error))?;
    let version = version(&text).ok_or("Cargo.toml names no version")?;
    let output = Command::new("git")
        .args(["log", "-1", "--format=%cD"])
        .current_dir(root())
        .output();
    // The same build, the same package: the date is that of what it was built from.
    let date = output.ok().filter(|output| output.status.success());
    let date = date.and_then(|output| String::from_utf8(output.stdout).ok());
    let date = date.unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 +0000".into());
    Ok(format!(
        "me2 ({version}-1) unstable; urgency=medium\n\n  * See CHANGELOG.md in this folder.\n\n \
         -- The me2 authors <me2@localhost>  {}\n",
        date.trim()
    ))
}

fn version(manifest: &str) -> Option<&str> {
    let (_, workspace) = manifest.split_once("[workspace.package]")?;
    let mut lines = workspace.lines();
    let value = lines.find_map(|line| line.strip_prefix("version = "))?;
    Some(value.trim_matches('"'))
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("cannot write {}: {error}", PathBuf::from(path).display())
}

#[cfg(test)]
mod tests {
    use super::{root, version};

    #[test]
    fn the_version_is_the_workspaces() {
        let manifest =
            "version = \"9\"\n[workspace.package]\nedition = \"2024\"\nversion = \"0.1.0\"\n";
        assert_eq!(version(manifest), Some("0.1.0"));
        assert_eq!(version("[package]\nversion = \"1\"\n"), None);
    }

    #[test]
    fn what_the_package_takes_is_there() {
        let manifest = include_str!("../../../me2-user/Cargo.toml");
        let (_, assets) = manifest.split_once("assets = [").expect("assets");
        let (assets, _) = assets.split_once("\n]").expect("their end");
        let sources = assets.lines().filter_map(|line| line.split('"').nth(1));
        let sources: Vec<_> = sources
            .filter(|path| !path.starts_with("target/"))
            .collect();
        assert!(sources.len() > 5, "{sources:?}");
        for source in sources {
            let path = root()
                .join("me2-user")
                .join(source.trim_end_matches("*.md"));
            assert!(path.exists(), "{source}");
        }
    }
}
