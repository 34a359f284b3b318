//! Defaults of options from a file and from the environment. An option of the command line comes first, then the variable, then the file.
//!
//! ```toml
//! # ~/.config/strata/config.toml
//! [all]              # options of every command that has them
//! threads = 8
//! ram = "64G"
//! [serve]            # options of one command, by their long names
//! port = 9000
//! api-key = ["first", "second"]
//! ```
//! The variable of `--cache-disk` is `STRATA_CACHE_DISK`, and so for every option.

use crate::folders;
use clap::{Arg, ArgAction, Command};
use std::path::PathBuf;
use strata::error::quoted;
use strata::io::file::read_regular;
use strata::io::text::LIST;
use toml::{Table, Value};

/// The table of options of all commands.
const ALL: &str = "all";

/// A configuration that cannot be used, in one line.
pub type Problem = String;

/// `command` with the defaults of the file of this user, if there is one, and of the environment; and the path of that file.
pub fn configured(command: Command) -> Result<(Command, Option<PathBuf>), Problem> {
    let command = with_environment(command);
    let Some((path, must_exist)) = path() else { return Ok((command, None)) };
    if !path.exists() && !must_exist {
        return Ok((command, None));
    }
    let bytes = read_regular(&path, LIST).map_err(|error| error.to_string())?;
    let at = |problem: String| format!("{}: {problem}", path.display());
    let text = String::from_utf8(bytes).map_err(|_| at("is not UTF-8; write it as UTF-8".to_owned()))?;
    let table = text.parse::<Table>().map_err(|error| at(error.to_string().replace('\n', " ")))?;
    let command = with_table(command, &table).map_err(at)?;
    Ok((command, Some(path)))
}

/// The file that STRATA_CONFIG names, which must exist then, else that of the user.
fn path() -> Option<(PathBuf, bool)> {
    if let Some(path) = std::env::var_os("STRATA_CONFIG") {
        return (!path.is_empty()).then(|| (path.into(), true));
    }
    Some((folders::of_user("XDG_CONFIG_HOME", ".config")?.join("config.toml"), false))
}

/// Every option of every subcommand by its variable.
fn with_environment(command: Command) -> Command {
    command.mut_subcommands(|sub| {
        sub.mut_args(|arg| match (arg.get_long(), arg.get_env()) {
            (Some(long), None) if is_option(&arg) => {
                let name = format!("STRATA_{}", long.replace('-', "_").to_uppercase());
                arg.env(name).hide_env(true)
            }
            _ => arg,
        })
    })
}

/// True for what can have a default.
fn is_option(arg: &Arg) -> bool {
    arg.get_long().is_some()
        && matches!(arg.get_action(), ArgAction::Set | ArgAction::Append | ArgAction::SetTrue)
        && !matches!(arg.get_long(), Some("help" | "version"))
}

/// The defaults of a table. Those of a command come before those of all.
fn with_table(mut command: Command, table: &Table) -> Result<Command, Problem> {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for (name, options) in table {
        let Value::Table(options) = options else {
            return Err(format!("{} is no table; write options below [{ALL}] or the name of a command", quoted(name)));
        };
        if name != ALL && !names.contains(name) {
            return Err(format!("there is no command {}; choose {ALL}, {}", quoted(name), names.join(", ")));
        }
        for (option, value) in options {
            let values = texts(value).ok_or_else(|| {
                format!("{}: {} is no text, number, true, false, or list of these", quoted(name), quoted(option))
            })?;
            let has = |sub: &str| command.find_subcommand(sub).is_some_and(|sub| id_of(sub, option).is_some());
            let overridden = |sub: &str| name == ALL && table.get(sub).is_some_and(|own| own.get(option).is_some());
            let of: Vec<String> =
                names.iter().filter(|sub| (name == ALL || *sub == name) && has(sub)).cloned().collect();
            if of.is_empty() {
                return Err(format!("[{name}] has no option {}; its long name is meant", quoted(option)));
            }
            for sub in of.into_iter().filter(|sub| !overridden(sub)) {
                let values = values.clone();
                command = command.mut_subcommand(sub, |sub| match id_of(&sub, option) {
                    Some(id) => sub.mut_arg(id, |arg| arg.default_values(values)),
                    None => sub,
                });
            }
        }
    }
    Ok(command)
}

/// The option of a command with this long name.
fn id_of(command: &Command, long: &str) -> Option<String> {
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(long) && is_option(arg))?;
    Some(arg.get_id().to_string())
}

/// A value as it would be written on the command line.
fn texts(value: &Value) -> Option<Vec<String>> {
    Some(match value {
        Value::String(text) => vec![text.clone()],
        Value::Integer(number) => vec![number.to_string()],
        Value::Float(number) => vec![number.to_string()],
        Value::Boolean(flag) => vec![flag.to_string()],
        Value::Array(values) => {
            let one = |value: &Value| if value.is_array() { None } else { texts(value)?.pop() };
            values.iter().map(one).collect::<Option<_>>()?
        }
        Value::Datetime(_) | Value::Table(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let threads = || Arg::new("t").long("threads").value_parser(clap::value_parser!(u16));
        let run = Command::new("run").arg(threads()).arg(Arg::new("json").long("json").action(ArgAction::SetTrue));
        let key = Arg::new("key").long("api-key").action(ArgAction::Append);
        Command::new("strata").subcommand(run).subcommand(Command::new("serve").arg(threads()).arg(key))
    }

    fn with(text: &str, args: &[&str]) -> Result<clap::ArgMatches, String> {
        let command = with_table(command(), &text.parse::<Table>().unwrap())?;
        command.try_get_matches_from([&["strata"], args].concat()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_comes_before_the_command_and_that_before_all() {
        let text = "[all]\nthreads = 3\n[serve]\nthreads = 4\napi-key = [\"a\", \"b\"]\n[run]\njson = true\n";
        let threads = |matches: &clap::ArgMatches| *matches.subcommand().unwrap().1.get_one::<u16>("t").unwrap();
        let run = with(text, &["run"]).unwrap();
        assert!(threads(&run) == 3 && run.subcommand().unwrap().1.get_flag("json"));
        let serve = with(text, &["serve"]).unwrap();
        let keys: Vec<_> = serve.subcommand().unwrap().1.get_many::<String>("key").unwrap().cloned().collect();
        assert_eq!((threads(&serve), keys), (4, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(threads(&with(text, &["serve", "--threads", "5"]).unwrap()), 5);
    }

    #[test]
    fn what_no_command_knows_is_refused_by_name() {
        for (text, words) in [
            ("threads = 3", "\"threads\" is no table"),
            ("[runs]\nthreads = 3", "no command \"runs\""),
            ("[run]\nthread = 3", "[run] has no option \"thread\""),
            ("[run]\nhelp = true", "[run] has no option \"help\""),
            ("[all]\nthreads = {a = 1}", "\"threads\" is no text"),
            ("[run]\nthreads = \"many\"", "invalid value 'many'"),
        ] {
            let error = with(text, &["run"]).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
