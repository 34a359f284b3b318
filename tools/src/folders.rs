//! The folders of this user, as the XDG Base Directory Specification has them.

use std::path::PathBuf;

/// Strata's folder where the variable says, if it names an absolute path, else in this one of the user's home; `None` without a home.
pub fn of_user(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = named(variable).filter(|path| path.is_absolute()).or_else(|| Some(named("HOME")?.join(below_home)));
    Some(folder?.join("strata"))
}
