//! `strata chat`: a conversation with a model. `talk.rs` keeps it and asks the model, `show.rs` shows answers, `input.rs` reads what the
//! user says, `command.rs` does what begins with a slash.

mod command;
mod input;
mod show;
mod talk;

use super::chat_template::ChatTemplateArgs;
use super::habits::{EscapeArgs, Limit, QuietArgs, limit};
use super::model::{CacheArgs, DEFAULT_CONTEXT, ModelArgs, asked_context};
use super::prefix_cache::PrefixCacheArgs;
use super::sampling::SamplingArgs;
use crate::{output, text};
use anyhow::Result;
use command::{Command, Done};
use input::{Input, message};
use show::Look;
use std::path::PathBuf;
use std::sync::Arc;
use strata::arch::Hyperparameters;
use strata::engine::{Scheduler, SchedulerOptions};
use talk::{Settings, Talk};

/// The most tokens of prompts in a pass.
const BATCH: usize = 2048;

/// Talk with a model
///
/// On a terminal: lines are edited and remembered, Ctrl-C stops an answer, /help names the commands. From a pipe: each line is a message.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    prefix_cache: PrefixCacheArgs,
    #[command(flatten)]
    template: ChatTemplateArgs,
    /// System prompt: what the model is told before everything else
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Say this, print the answer and end
    #[arg(short = 'p', long, value_name = "MESSAGE")]
    prompt: Option<String>,
    /// Say the text of this file, print the answer and end; - is standard input
    #[arg(short = 'f', long = "file", value_name = "TEXT", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Go on with a conversation that /save has written
    #[arg(long, value_name = "FILE.json")]
    load: Option<PathBuf>,
    /// Most tokens of an answer; -1 for no limit [default: until the model ends it or the context is full]
    #[arg(short = 'n', long = "predict", alias = "n-predict", value_name = "TOKENS", value_parser = limit)]
    #[arg(allow_negative_numbers = true)]
    predict: Option<Limit>,
    /// Tokens in the context, conversation and answer together; 0 takes the model's [default: the model's, at most 4096]
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT")]
    context: Option<usize>,
    #[command(flatten)]
    escape: EscapeArgs,
    #[command(flatten)]
    quiet: QuietArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Args {
    /// Talks until the user leaves or the input ends.
    pub fn run(self) -> Result<()> {
        let once = match (&self.prompt, &self.file) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(file)) => Some(text::read(file)?),
            (None, None) => None,
        };
        let once = once.map(|text| self.escape.apply(text)).transpose()?;
        let mut talk = self.talk()?;
        if let Some(file) = &self.load {
            talk.load(file)?;
        }
        if let Some(text) = once {
            return talk.ask(text);
        }
        let mut input = Input::open();
        if input.is_terminal() {
            output::say(&format!("{}, {} tokens of context; /help names the commands", talk.name(), talk.context()));
        }
        loop {
            let Some(line) = input.next("")? else { return Ok(()) };
            match turn(&line, &mut talk, &mut input) {
                Ok(Done::Goes) => {}
                Ok(Done::Leaves) => return Ok(()),
                // What a person got wrong can be put right; a script goes on with nothing that it does not know of.
                Err(error) if input.is_terminal() => output::say_error(&error),
                Err(error) => return Err(error),
            }
        }
    }

    /// Loads the model.
    fn talk(&self) -> Result<Talk> {
        let gguf = self.model.gguf()?;
        let template = self.template.template(&gguf, false)?;
        let tokenizer = Arc::new(text::tokenizer(&gguf)?);
        let format = template.format().with_tokens(&tokenizer);
        let (sampling, of) = (self.sampling.settings(&gguf)?, Hyperparameters::read(&gguf)?);
        let context = asked_context(self.context, &of).unwrap_or(of.context.min(DEFAULT_CONTEXT));
        let name = gguf.str("general.name")?.filter(|name| !name.is_empty()).map(str::to_owned);
        let name = name.unwrap_or_else(|| output::path(&self.model.model));
        let (batch, types) = (self.model.cpu.habits.batch(context.min(BATCH)), self.cache.types());
        let mut options = SchedulerOptions { batch, types, ..SchedulerOptions::single(context) };
        let model = Arc::new(self.model.load(gguf, options.need(&of)?)?);
        options.prefix_cache = self.prefix_cache.open(&model, types);
        let scheduler = Scheduler::new(model, Some(tokenizer.clone()), options)?;
        let settings = Settings {
            name,
            context,
            limit: Limit::of(self.predict).unwrap_or(usize::MAX),
            sampling,
            variables: self.template.variables(),
            now: self.template.now(),
        };
        let system = self.system.clone().filter(|text| !text.is_empty());
        Ok(Talk::new(scheduler, tokenizer, template, format, settings, system, Look::of_stdout()))
    }
}

/// Does what a line says.
fn turn(line: &str, talk: &mut Talk, input: &mut Input) -> Result<Done> {
    match Command::of(line)? {
        Some(command) => command.run(talk, input),
        None => {
            let text = message(line);
            if text.trim().is_empty() { Ok(Done::Goes) } else { talk.ask(text).map(|()| Done::Goes) }
        }
    }
}
