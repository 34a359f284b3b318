//! A conversation: what was said, and how the model is asked.

use super::show::{Look, Printer};
use crate::answer::shown;
use crate::conversation::Conversation;
use crate::output;
use crate::progress::{self, Shown, Unit};
use anyhow::{Result, bail};
use serde_json::{Map, Value as Json, json};
use std::path::Path;
use std::sync::Arc;
use strata::Error;
use strata::engine::chat::{ChatFormat, Delta};
use strata::engine::sampling::Sampling;
use strata::engine::template::{ChatInput, ChatTemplate};
use strata::engine::{Cancel, End, Finished, Request, Scheduler};
use strata::io::inputs::Inputs;
use strata::io::outputs::Outputs;
use strata::tokenizer::Tokenizer;

/// What stays the same for a conversation, or is changed by the user.
pub struct Settings {
    /// The model's name.
    pub name: String,
    /// Tokens of the context.
    pub context: usize,
    /// The most tokens of an answer.
    pub limit: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Variables of the template.
    pub variables: Map<String, Json>,
    /// The time that the template shows, in seconds since 1970.
    pub now: i64,
}

/// A conversation with a model.
pub struct Talk {
    scheduler: Scheduler,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    format: ChatFormat,
    /// What the user can change.
    pub settings: Settings,
    /// The system prompt.
    pub system: Option<String>,
    look: Look,
    messages: Vec<Json>, // without the system prompt
    first: usize,        // the first message that still fits into the context
    attached: String,    // goes in front of the next message
    answers: u64,        // so far, for seeds
    last: Option<Finished>,
}

impl Talk {
    /// A conversation in which nothing was said.
    pub fn new(
        scheduler: Scheduler,
        tokenizer: Arc<Tokenizer>,
        template: ChatTemplate,
        format: ChatFormat,
        settings: Settings,
        system: Option<String>,
        look: Look,
    ) -> Talk {
        let (messages, attached) = (Vec::new(), String::new());
        let (first, answers, last) = (0, 0, None);
        Talk {
            scheduler,
            tokenizer,
            template,
            format,
            settings,
            system,
            look,
            messages,
            first,
            attached,
            answers,
            last,
        }
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Tokens of the context.
    pub fn context(&self) -> usize {
        self.settings.context
    }

    /// Says `text` to the model and shows its answer. If that fails, nothing was said.
    pub fn ask(&mut self, text: String) -> Result<()> {
        let said = [self.attached.as_str(), &text].concat();
        self.messages.push(json!({"role": "user", "content": said}));
        self.answer().inspect_err(|_| drop(self.messages.pop()))?;
        self.attached.clear();
        Ok(())
    }

    /// Answers the last message of the user again.
    pub fn again(&mut self) -> Result<()> {
        let Some(last) = self.last_user() else { bail!("there is no answer yet; say something first") };
        let behind = self.messages.split_off(last + 1);
        self.answer().inspect_err(|_| {
            self.messages.truncate(last + 1);
            self.messages.extend(behind);
        })
    }

    /// The last message of the user; `None` if there is none that is text.
    pub fn last_said(&self) -> Option<String> {
        Some(self.messages[self.last_user()?]["content"].as_str()?.to_owned())
    }

    /// Says `text` in place of the last message of the user, and shows the answer to that.
    pub fn edit(&mut self, text: String) -> Result<()> {
        let Some(last) = self.last_user() else { bail!("there is no message yet; say something first") };
        let behind = self.messages.split_off(last);
        self.ask(text).inspect_err(|_| self.messages.extend(behind))
    }

    /// Forgets what was said, but for the system prompt.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.attached.clear();
        self.first = 0;
    }

    /// Puts the text of a file in front of the next message.
    pub fn attach(&mut self, name: &str, text: &str) {
        // A fence longer than any in the text.
        let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        self.attached += &format!("{name}:\n{fence}\n{}\n{fence}\n\n", text.trim_end_matches('\n'));
    }

    /// Writes the conversation as JSON, all or nothing.
    pub fn save(&self, path: &Path) -> Result<()> {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages: Vec<Json> = system.chain(self.messages.iter().cloned()).collect();
        let mut file = Outputs::single("chat", path, &Inputs::default())?;
        file.write_all(format!("{:#}\n", json!({"messages": messages})).as_bytes())?;
        file.commit()?;
        Ok(())
    }

    /// Goes on with the conversation of a file.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let mut messages = Conversation::read(path)?.messages;
        let is_system = |message: &Json| message["role"] == "system" && message["content"].is_string();
        let system = messages.first().is_some_and(is_system).then(|| messages.remove(0));
        self.system = system.and_then(|message| message["content"].as_str().map(str::to_owned));
        self.clear();
        self.messages = messages;
        Ok(())
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Lines about the context and the last answer.
    pub fn stats(&self) -> Vec<String> {
        let slots = self.scheduler.slots();
        let used = slots.first().map_or(0, |slot| slot.cached_tokens);
        let mut lines = vec![format!(
            "{}: {} messages, {used} of {} tokens in the context; seed {}",
            self.name(),
            self.len(),
            self.context(),
            self.settings.sampling.seed
        )];
        if let Some(last) = &self.last {
            let read = last.prompt_tokens - last.reused_tokens;
            let rate = |tokens: usize, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
            lines.push(format!(
                "the last answer: prompt {} tokens, {} of them known, {:.1} t/s; {} tokens, {:.1} t/s",
                last.prompt_tokens,
                last.reused_tokens,
                rate(read, last.prefill.as_secs_f64()),
                last.tokens,
                last.decode_rate()
            ));
        }
        lines
    }

    fn last_user(&self) -> Option<usize> {
        self.messages.iter().rposition(|message| message["role"] == "user")
    }

    /// Shows the model's answer to what was said, and keeps it.
    fn answer(&mut self) -> Result<()> {
        let (text, prompt) = self.prompt()?;
        let format = self.format.clone().after(&text);
        let cancel = Cancel::default();
        let request = Request {
            limit: self.settings.limit,
            sampling: Sampling {
                seed: self.settings.sampling.seed.wrapping_add(self.answers),
                ..self.settings.sampling.clone()
            },
            render_special: format.needs_special(false),
            cancel: cancel.clone(),
            ..Request::new(prompt)
        };
        let mut printer = Printer::new(self.look, format.parser(false));
        let (listener, answer) = shown(move |token, text| printer.push(text, token.is_none()));
        self.scheduler.submit(request, listener)?;
        self.answers += 1;
        while !self.scheduler.is_idle() {
            match self.scheduler.step(&Shown::new(Unit::Tokens)) {
                // Ctrl-C: the request ends, the program does not.
                Err(Error::Cancelled) => {
                    cancel.cancel();
                    progress::go_on();
                }
                done => done?,
            }
        }
        progress::go_on();
        let answer = answer.take()?;
        let mut parser = format.parser(false);
        let mut deltas = parser.push(&answer.text);
        deltas.extend(parser.finish());
        self.messages.push(said(deltas));
        match answer.finished.end {
            End::Cancelled => output::say("(stopped)"),
            End::Context => {
                output::say(&format!("(the context of {} tokens is full; choose a larger -c)", self.context()))
            }
            End::Length if self.look.terminal => {
                output::say(&format!("(stopped after {} tokens)", self.settings.limit))
            }
            End::Length | End::Stop | End::StopText(_) => {}
        }
        self.last = Some(answer.finished);
        Ok(())
    }

    /// The prompt as text and as tokens, without the oldest turns if they leave no room for an answer.
    fn prompt(&mut self) -> Result<(String, Vec<u32>)> {
        let context = self.context();
        let room = self.settings.limit.min(context / 4).max(1);
        let before = self.first;
        self.first = before.min(self.last_user().unwrap_or(0));
        let (text, tokens) = loop {
            let text = self.render()?;
            let tokens = self.tokenizer.encode_chat(&text)?;
            let is_user = |message: &Json| message["role"] == "user";
            let next = self.messages.iter().skip(self.first + 1).position(is_user);
            match next {
                _ if tokens.len() + room <= context => break (text, tokens),
                Some(next) => self.first += 1 + next,
                None if tokens.len() < context => break (text, tokens),
                None => bail!(
                    "this message makes a prompt of {} tokens, and the context has {context}; shorten it, or choose a larger -c",
                    tokens.len()
                ),
            }
        };
        if self.first > before {
            let (left, all) = (self.first, self.messages.len());
            output::say(&format!(
                "(the context of {context} tokens is full: the model no longer sees the oldest {left} of {all} messages)"
            ));
        }
        Ok((text, tokens))
    }

    fn render(&self) -> Result<String> {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages = self.messages[self.first..].iter().cloned().map(|mut message| {
            // A model sees its answers, not how it came to them.
            message.as_object_mut().map(|all| all.shift_remove("reasoning_content"));
            message
        });
        let messages: Vec<Json> = system.chain(messages).collect();
        let (variables, now) = (self.settings.variables.clone(), self.settings.now);
        let input = ChatInput { add_generation_prompt: true, variables, now, ..ChatInput::of(&messages) };
        Ok(self.template.render(&input)?)
    }
}

/// The message that an answer becomes.
fn said(deltas: Vec<Delta>) -> Json {
    let (mut content, mut reasoning) = (String::new(), String::new());
    for delta in deltas {
        match delta {
            Delta::Content(text) => content += &text,
            Delta::Reasoning(text) => reasoning += &text,
            Delta::ToolCall { .. } | Delta::ToolArguments { .. } => {}
        }
    }
    let mut message = json!({"role": "assistant", "content": content});
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    message
}
