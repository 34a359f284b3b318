//! What the user can do but talk: lines that begin with a slash.

use super::input::{Input, message};
use super::talk::Talk;
use crate::{output, text};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use strata::engine::sampling::{FINITE, NumberRange, PROBABILITIES, TEMPERATURES, wanted};

/// The most bytes of a file that goes with a message.
const LARGEST: u64 = 16 << 20;

/// Each command with its argument, and what it does.
pub const NAMES: [(&str, &str, &str); 11] = [
    ("/help", "", "this list; // begins a message with a slash; a line goes on after \\, or between \"\"\" and \"\"\""),
    ("/clear", "", "forget the conversation, but for the system prompt"),
    ("/regen", "", "answer the last message again"),
    ("/edit", "[TEXT]", "change the last message and answer that; without TEXT it is put into the line"),
    ("/system", "[TEXT]", "show the system prompt, or set it; - removes it"),
    ("/save", "FILE", "write the conversation as JSON (OpenAI's messages)"),
    ("/load", "FILE", "go on with a conversation that was saved"),
    ("/read", "FILE", "put the text of a file in front of the next message"),
    ("/set", "NAME VALUE", "change temp, top-k, top-p, min-p, repeat-penalty, seed or n (tokens of an answer)"),
    ("/stats", "", "tokens of the context, speed of the last answer"),
    ("/exit", "", "leave; also /quit, /bye, Ctrl-D, Ctrl-C twice"),
];

/// A command.
#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    Clear,
    Regenerate,
    Edit(Option<String>),
    System(Option<String>),
    Save(PathBuf),
    Load(PathBuf),
    Read(PathBuf),
    Set(String, String),
    Stats,
    Exit,
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Goes,
    Leaves,
}

impl Command {
    /// The command of a line; `None` if it is a message.
    pub fn of(line: &str) -> Result<Option<Command>> {
        if !line.starts_with('/') || line.starts_with("//") {
            return Ok(None);
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let text = || (!rest.is_empty()).then(|| message(rest));
        let file = || if rest.is_empty() { bail!("{name} needs a file: {name} FILE") } else { Ok(PathBuf::from(rest)) };
        let alone = |command| if rest.is_empty() { Ok(command) } else { bail!("{name} takes nothing behind it") };
        Ok(Some(match name {
            "/help" | "/?" => alone(Command::Help)?,
            "/clear" => alone(Command::Clear)?,
            "/regen" => alone(Command::Regenerate)?,
            "/edit" => Command::Edit(text()),
            "/system" => Command::System(text()),
            "/save" => Command::Save(file()?),
            "/load" => Command::Load(file()?),
            "/read" => Command::Read(file()?),
            "/set" => {
                let (name, value) =
                    rest.split_once(char::is_whitespace).context("give a name and a value: /set temp 0.7")?;
                Command::Set(name.to_owned(), value.trim().to_owned())
            }
            "/stats" => alone(Command::Stats)?,
            "/exit" | "/quit" | "/bye" => alone(Command::Exit)?,
            _ => bail!("{name} is no command; /help names them, // begins a message with a slash"),
        }))
    }

    /// Does it.
    pub fn run(self, talk: &mut Talk, input: &mut Input) -> Result<Done> {
        match self {
            Command::Help => {
                for (name, argument, what) in NAMES {
                    output::say(&format!("{:<17} {what}", format!("{name} {argument}")));
                }
            }
            Command::Clear => talk.clear(),
            Command::Regenerate => talk.again()?,
            Command::Edit(Some(text)) => talk.edit(text)?,
            Command::Edit(None) => {
                ensure!(input.is_terminal(), "give the text: /edit TEXT");
                let last = talk.last_said().context("there is no message yet; say something first")?;
                // Lines of a message stand in the editor as the user would write them.
                if let Some(line) = input.next(&last.replace('\n', "\\\n"))?.filter(|line| !line.trim().is_empty()) {
                    talk.edit(message(&line))?;
                }
            }
            Command::System(None) => output::say(talk.system.as_deref().unwrap_or("there is no system prompt")),
            Command::System(Some(text)) => talk.system = (text != "-").then_some(text),
            Command::Save(file) => {
                talk.save(&file)?;
                output::say(&format!("{} messages are in {}", talk.len(), output::path(&file)));
            }
            Command::Load(file) => {
                talk.load(&file)?;
                output::say(&format!("{} messages from {}", talk.len(), output::path(&file)));
            }
            Command::Read(file) => read(&file, talk)?,
            Command::Set(name, value) => set(&name, &value, talk)?,
            Command::Stats => talk.stats().iter().for_each(|line| output::say(line)),
            Command::Exit => return Ok(Done::Leaves),
        }
        Ok(Done::Goes)
    }
}

fn read(file: &Path, talk: &mut Talk) -> Result<()> {
    ensure!(file != Path::new("-"), "standard input is this conversation; name a file");
    let text = text::read_at_most(file, LARGEST)?;
    let name = file.file_name().map_or_else(|| output::path(file), |name| output::path(Path::new(name)));
    talk.attach(&name, &text);
    output::say(&format!("{} of {name} go with the next message", output::bytes(text.len() as u64)));
    Ok(())
}

fn set(name: &str, value: &str, talk: &mut Talk) -> Result<()> {
    let within = |range: NumberRange| {
        let number = value.parse().ok().filter(|number| range.contains(number));
        number.with_context(|| format!("{name}: give {}", wanted(&range)))
    };
    let count = || value.parse().with_context(|| format!("{name}: give a whole number"));
    let sampling = &mut talk.settings.sampling;
    match name {
        "temp" | "temperature" => sampling.temperature = within(TEMPERATURES)?,
        "top-k" | "top_k" => sampling.top_k = count()?,
        "top-p" | "top_p" => sampling.top_p = within(PROBABILITIES)?,
        "min-p" | "min_p" => sampling.min_p = within(PROBABILITIES)?,
        "repeat-penalty" | "repeat_penalty" => {
            sampling.repeat_penalty = within(strata::engine::sampling::MULTIPLIERS)?;
        }
        "presence-penalty" | "presence_penalty" => sampling.presence_penalty = within(FINITE)?,
        "frequency-penalty" | "frequency_penalty" => sampling.frequency_penalty = within(FINITE)?,
        "seed" => sampling.seed = value.parse().context("seed: give a whole number from 0 to 2^64-1")?,
        "n" | "predict" => talk.settings.limit = count()?,
        _ => bail!("{name} cannot be set here; /help names what can"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_a_slash_are_commands() {
        for (line, command) in [
            ("Hi /help", None),
            ("//help", None),
            ("", None),
            ("/help", Some(Command::Help)),
            ("/quit ", Some(Command::Exit)),
            ("/edit", Some(Command::Edit(None))),
            ("/edit  one\\\ntwo", Some(Command::Edit(Some("one\ntwo".to_owned())))),
            ("/system \"\"\"a\nb\"\"\"", Some(Command::System(Some("a\nb".to_owned())))),
            ("/save my file.json", Some(Command::Save("my file.json".into()))),
            ("/set temp  0.5", Some(Command::Set("temp".to_owned(), "0.5".to_owned()))),
        ] {
            assert_eq!(Command::of(line).unwrap(), command, "{line}");
        }
        for line in ["/hlep", "/clear all", "/save", "/load ", "/set temp", "/"] {
            assert!(Command::of(line).is_err(), "{line}");
        }
        // Every name of the list is a command.
        assert!(
            NAMES.iter().all(|(name, ..)| Command::of(&format!("{name} 1 2")).is_ok() || Command::of(name).is_ok())
        );
    }
}
