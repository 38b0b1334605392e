//! PostgreSQL's programs: where they are, as whom they run, and how they make a database.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Places, PostgresError, io_error, private_folder, run_to_end};

/// The programs of one version.
pub(super) struct Programs {
    initdb: PathBuf,
    pub(super) postgres: PathBuf,
    /// Major version, such as `15`.
    pub(super) version: String,
}

impl Programs {
    /// Looks in `given` only, if that is said; else in this order: what `pg_config` says, the
    /// distributions' versioned folders (newest first), the search path.
    pub(super) fn find(given: Option<&Path>) -> Result<Self, PostgresError> {
        let folders = match given {
            Some(folder) => vec![folder.to_owned()],
            None => known_folders(),
        };
        folders.iter().find_map(|folder| Self::in_folder(folder)).ok_or(PostgresError::NotInstalled)
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let (initdb, postgres) = (folder.join("initdb"), folder.join("postgres"));
        // An empty folder stands for the search path, which only running a program asks.
        if !folder.as_os_str().is_empty() && !initdb.exists() {
            return None;
        }
        let said = said_by(Command::new(&postgres).arg("--version"))?;
        let number = said.split_whitespace().find(|word| word.starts_with(char::is_numeric))?;
        let version = number.split('.').next()?.to_owned();
        Some(Self { initdb, postgres, version })
    }
}

fn known_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(said) = said_by(Command::new("pg_config").arg("--bindir")) {
        folders.push(PathBuf::from(said.trim()));
    }
    for root in ["/usr/lib/postgresql", "/usr/local/lib/postgresql"] {
        folders.extend(versions_in(Path::new(root), ""));
    }
    for (root, prefix) in [("/usr", "pgsql-"), ("/opt/homebrew/opt", "postgresql@")] {
        folders.extend(versions_in(Path::new(root), prefix));
    }
    folders.push(PathBuf::new());
    folders
}

/// `<root>/<prefix><number>/bin`, greatest number first.
fn versions_in(root: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, folder)| folder).collect()
}

fn said_by(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// A user of this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// As whom to run the server: PostgreSQL refuses root. None: as ourselves.
    pub(super) fn to_run_as() -> Result<Option<Self>, PostgresError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let named = |name: &str| users.lines().find_map(|line| parse_user(line, name));
        named("postgres").or_else(|| named("nobody")).map(Some).ok_or_else(|| {
            PostgresError::Folder {
                folder: PathBuf::from("/etc/passwd"),
                problem: "it has no user `postgres` or `nobody` to run the server as".to_owned(),
            }
        })
    }
}

fn parse_user(line: &str, name: &str) -> Option<User> {
    let mut fields = line.split(':');
    if fields.next()? != name {
        return None;
    }
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User { uid, gid })
}

/// Makes the data, and in it the database `zcp`. Works beside and renames at the end, so that
/// being killed leaves nothing that looks like a database.
pub(super) fn init(
    programs: &Programs,
    user: Option<User>,
    places: &Places,
) -> Result<(), PostgresError> {
    let fresh = places.folder.join("data.new");
    let _left_by_a_killed_process = fs::remove_dir_all(&fresh);
    private_folder(&fresh, user)?;
    let mut initdb = as_user(Command::new(&programs.initdb), user);
    initdb.arg("-D").arg(&fresh);
    initdb.args(["-U", "zcp", "-A", "trust", "--auth-host=reject", "-E", "UTF8"]);
    initdb.args(["--locale=C.UTF-8", "--no-instructions"]);
    run_to_end("initdb", &mut initdb, "")?;
    let mut single = as_user(Command::new(&programs.postgres), user);
    single.args(["--single", "-D"]).arg(&fresh).arg("postgres");
    run_to_end("postgres", &mut single, "CREATE DATABASE zcp\n")?;
    fs::rename(&fresh, &places.data).map_err(io_error("name the data"))
}

fn as_user(mut command: Command, user: Option<User>) -> Command {
    command.current_dir("/");
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name() {
        let line = "postgres:x:107:111:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash";
        let user = parse_user(line, "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (107, 111));
        assert!(parse_user(line, "nobody").is_none());
    }

    #[test]
    fn a_missing_program_is_a_clear_error() {
        let error = Programs::find(Some(Path::new("/nonexistent"))).err().unwrap();
        assert!(error.to_string().contains("apt-get install postgresql"));
    }
}
