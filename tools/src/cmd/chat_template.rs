//! The chat template and its variables as options, for every command that renders conversations.

use crate::text;
use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use serde_json::{Map, Value as Json};
use std::path::{Path, PathBuf};
use strata::engine::template::ChatTemplate;
use strata::gguf::Gguf;
use strata::io::text::LIST;

/// The chat template, and what it is given beside the messages.
#[derive(Clone, Debug, clap::Args)]
pub struct ChatTemplateArgs {
    /// Chat template as Jinja text, or the name of one in the file [default: the file's, or its tool_use if there are tools]
    #[arg(long, value_name = "TEMPLATE", allow_hyphen_values = true)]
    chat_template: Option<String>,
    /// Chat template from a file
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    chat_template_file: Option<PathBuf>,
    /// More variables of the template, as {"enable_thinking": false}
    #[arg(long, value_name = "JSON", value_parser = variables)]
    chat_template_kwargs: Option<Map<String, Json>>,
    /// Date that templates show by strftime_now, and by date_string if it is given here, as 2024-07-26 or 2024-07-26T12:00
    /// [default: now]
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = date)]
    date: Option<DateTime>,
}

fn variables(text: &str) -> Result<Map<String, Json>> {
    let json = serde_json::from_str(text).context("is not JSON")?;
    let Json::Object(variables) = json else { bail!("give a JSON object, as {{\"enable_thinking\": false}}") };
    let fixed = ["messages", "tools", "add_generation_prompt"].into_iter().find(|&name| variables.contains_key(name));
    if let Some(name) = fixed {
        bail!("{name} is not a variable of its own");
    }
    Ok(variables)
}

/// Whether a text is a template, and not the name of one.
fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

fn date(text: &str) -> Result<DateTime> {
    text.parse().context("give a date as 2024-07-26")
}

impl ChatTemplateArgs {
    /// The text of a template that was given; `None` for one in the model's file.
    fn text(&self) -> Result<Option<(&Path, String)>> {
        Ok(match (&self.chat_template, &self.chat_template_file) {
            (Some(text), _) if is_template(text) => {
                ensure!(text.len() as u64 <= LIST, "--chat-template has more than {LIST} bytes; give a shorter one");
                Some((Path::new("--chat-template"), text.clone()))
            }
            (None, Some(file)) => Some((file, text::read_at_most(file, LIST)?)),
            _ => None,
        })
    }

    /// The template that was given, without the special tokens of a model; `None` for one in the model's file.
    pub fn given(&self) -> Result<Option<ChatTemplate>> {
        self.text()?.map(|(path, text)| Ok(ChatTemplate::new(path, "text", &text)?)).transpose()
    }

    /// All that decides the text of a conversation, beside the model and the messages.
    pub fn decides(&self) -> Result<String> {
        let (text, variables) = (self.text()?.map(|(_, text)| text), Json::Object(self.variables()));
        Ok(format!("{:?} {text:?} {variables} {}", self.chat_template, self.now()))
    }

    /// The date at these seconds since 1970, if none was given.
    pub fn date_or(&mut self, seconds: i64) {
        self.date = self.date.or(Timestamp::from_second(seconds).ok().map(|time| Offset::UTC.to_datetime(time)));
    }

    /// The template for the model of a file; `with_tools` if a conversation has tools.
    pub fn template(&self, gguf: &Gguf, with_tools: bool) -> Result<ChatTemplate> {
        Ok(match self.given()? {
            Some(template) => template.with_special_of(gguf)?,
            None => ChatTemplate::from_gguf(gguf, self.chat_template.as_deref(), with_tools)?,
        })
    }

    /// The variables beside messages and tools. A date that was given is also `date_string`, in the form of Llama 3.1, whose template knows
    /// no clock.
    pub fn variables(&self) -> Map<String, Json> {
        let mut variables = self.chat_template_kwargs.clone().unwrap_or_default();
        if let Some(date) = self.date {
            variables.entry("date_string").or_insert_with(|| date.strftime("%d %b %Y").to_string().into());
        }
        variables
    }

    /// The date and time that templates show, in seconds since 1970: the date that was given, else now, both as the clock on the wall
    /// has it.
    pub fn now(&self) -> i64 {
        let time = self.date.unwrap_or_else(|| TimeZone::system().to_datetime(Timestamp::now()));
        Offset::UTC.to_timestamp(time).map_or(0, Timestamp::as_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        template: ChatTemplateArgs,
    }

    fn parse(args: &[&str]) -> std::result::Result<ChatTemplateArgs, String> {
        let command = Command::try_parse_from([&["x"], args].concat()).map_err(|error| error.to_string())?;
        Ok(command.template)
    }

    #[test]
    fn a_date_is_shown_by_the_clock_and_by_date_string() {
        let dated = parse(&["--date", "2026-01-02"]).unwrap();
        assert_eq!((dated.now(), &dated.variables()["date_string"]), (1_767_312_000, &Json::from("02 Jan 2026")));
        let own = parse(&["--date", "2026-01-02T03:04:05", "--chat-template-kwargs", r#"{"date_string": "today"}"#]);
        let own = own.unwrap();
        assert_eq!((own.now(), &own.variables()["date_string"]), (1_767_323_045, &Json::from("today")));
        assert!(parse(&[]).unwrap().variables().is_empty() && parse(&[]).unwrap().now() > 1_767_312_000);
    }

    #[test]
    fn what_is_no_date_or_no_object_is_refused() {
        for (option, value) in [
            ("--date", "tomorrow"),
            ("--date", "2026-02-30"),
            ("--date", "99999-01-01"),
            ("--chat-template-kwargs", "[1]"),
            ("--chat-template-kwargs", "{\"a\":"),
            ("--chat-template-kwargs", "{\"messages\": []}"),
        ] {
            let error = parse(&[option, value]).err().unwrap();
            assert!(error.contains(option), "{error}");
        }
        assert!(parse(&["--chat-template", "x", "--chat-template-file", "y"]).is_err());
    }
}
