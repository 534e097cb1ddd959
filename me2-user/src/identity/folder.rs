//! Where the configuration is.

use std::ffi::OsString;
use std::path::PathBuf;

use super::IdentityError;

/// The configuration folder: `chosen` (an option or `ME2_CONFIG_DIR`), else
/// `$XDG_CONFIG_HOME/me2`, else `$HOME/.config/me2`.
pub fn config_dir(chosen: Option<PathBuf>) -> Result<PathBuf, IdentityError> {
    resolve(
        chosen,
        std::env::var_os("XDG_CONFIG_HOME"),
        std::env::var_os("HOME"),
    )
}

fn resolve(
    chosen: Option<PathBuf>,
    xdg_config_home: Option<OsString>,
    home: Option<OsString>,
) -> Result<PathBuf, IdentityError> {
    // The XDG rules: a relative or empty value counts as unset.
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    chosen
        .or_else(|| Some(xdg_config_home.and_then(absolute)?.join("me2")))
        .or_else(|| Some(home.and_then(absolute)?.join(".config/me2")))
        .ok_or(IdentityError::NoFolder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_explicit_wins() {
        let resolve = |chosen: Option<&str>, xdg: Option<&str>, home: Option<&str>| {
            resolve(
                chosen.map(Into::into),
                xdg.map(Into::into),
                home.map(Into::into),
            )
            .ok()
        };
        assert_eq!(
            resolve(Some("x"), Some("/xdg"), Some("/h")),
            Some("x".into())
        );
        assert_eq!(
            resolve(None, Some("/xdg"), Some("/h")),
            Some("/xdg/me2".into())
        );
        assert_eq!(
            resolve(None, Some(""), Some("/h")),
            Some("/h/.config/me2".into())
        );
        assert_eq!(
            resolve(None, Some("xdg"), Some("/h")),
            Some("/h/.config/me2".into())
        );
        assert_eq!(resolve(None, None, None), None);
    }
}
