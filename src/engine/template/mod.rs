//! Chat templates: from messages to the text that a model was trained on.
//!
//! A template is a Jinja program in the model's file, and as hostile as the rest of it. minijinja parses and runs it. The semantics that
//! templates lean on are Python's, and everything that takes time or memory is paid for, so operators, filters, tests and methods are
//! Strata's own: `operators.rs`, `filters.rs`, `predicates.rs` (what stands behind `is`), `methods.rs`, `format.rs`, and `text.rs` (`str`,
//! `repr`, `json.dumps`). `budget.rs` has the bounds; `compile.rs` puts the operators in the place of minijinja's; `environment.rs` has the
//! functions; `source.rs` chooses among a model's templates. The rendered text is that of transformers' `apply_chat_template`.

mod args;
mod budget;
mod compile;
mod environment;
mod filters;
mod format;
mod methods;
mod moment;
mod operators;
mod predicates;
mod source;
mod text;

pub use moment::DEFAULT_NOW;

use crate::engine::chat::ChatFormat;
use crate::error::{Error, Result, quoted};
use environment::{MARKS, NOW, Refusal};
use minijinja::machinery::{Instructions, eval, make_string_output};
use minijinja::{AutoEscape, ErrorKind, Value};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;

/// A model's chat template.
///
/// ```
/// # fn main() -> strata::Result<()> {
/// use strata::engine::template::{ChatInput, ChatTemplate};
/// let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}";
/// let template = ChatTemplate::new("chat.jinja".as_ref(), "template", source)?;
/// let messages = [serde_json::json!({"role": "user", "content": " Hello "})];
/// assert_eq!(template.render(&ChatInput::of(&messages))?, "<user>Hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    place: String,
    prepared: String,
    special: Vec<(&'static str, String)>,
}

/// What a template is given.
#[derive(Clone, Debug)]
pub struct ChatInput<'a> {
    /// Messages in OpenAI's form: objects with `role`, `content` (text, or a list of parts), `tool_calls` and so on.
    pub messages: &'a [Json],
    /// Tools in OpenAI's form, if there are any.
    pub tools: Option<&'a [Json]>,
    /// Documents with `title` and `text`, if there are any.
    pub documents: Option<&'a [Json]>,
    /// Whether the text ends with what begins an answer.
    pub add_generation_prompt: bool,
    /// Other variables: `date_string`, `enable_thinking`, ...
    pub variables: Map<String, Json>,
    /// Seconds since 1970 that `strftime_now` shows, in the zone that the text is meant for.
    pub now: i64,
}

impl<'a> ChatInput<'a> {
    /// These messages and nothing else, at [`DEFAULT_NOW`].
    pub fn of(messages: &'a [Json]) -> ChatInput<'a> {
        let (tools, documents, variables) = (None, None, Map::new());
        ChatInput { messages, tools, documents, add_generation_prompt: false, variables, now: DEFAULT_NOW }
    }
}

/// A rendered text, and what in it an assistant says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The text.
    pub text: String,
    /// The parts within `{% generation %}`, in bytes; none if the template has no such blocks.
    pub answers: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// A template with this text, which comes from `place` in the file `path`.
    ///
    /// # Errors
    /// If it is no template, or larger than any.
    pub fn new(path: &Path, place: &str, source: &str) -> Result<ChatTemplate> {
        let mut template = ChatTemplate {
            path: path.to_owned(),
            place: place.to_owned(),
            prepared: String::new(),
            special: Vec::new(),
        };
        template.prepared = compile::prepare(source).map_err(|error| template.error(&error))?;
        template.with_stack(|| compile::compile(&template.prepared).map(drop))?;
        Ok(template)
    }

    /// The same template, which finds this text in a variable as `bos_token`.
    pub fn with_special(mut self, name: &'static str, text: impl Into<String>) -> ChatTemplate {
        self.special.push((name, text.into()));
        self
    }

    /// Where the template is: its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How models write that this template is for.
    pub fn format(&self) -> ChatFormat {
        ChatFormat::of(&self.prepared)
    }

    /// Renders a conversation, within bounds of time and memory.
    ///
    /// # Errors
    /// If the template refuses the conversation, fails, or does more than any template should.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String> {
        self.render_with(input, None)
    }

    /// The same with the places of what the assistant says.
    ///
    /// # Errors
    /// As [`render`](ChatTemplate::render).
    pub fn render_marked(&self, input: &ChatInput<'_>) -> Result<Marked> {
        if !self.marks_answers() {
            return Ok(Marked { text: self.render(input)?, answers: Vec::new() });
        }
        let all = format!("{:?}{:?}{:?}{:?}", input.messages, input.tools, input.documents, input.variables);
        // Noncharacters, of which a text has none; if it has, others are taken.
        let pairs = (0xfdd0..0xfdef).step_by(2).filter_map(|c| Some([char::from_u32(c)?, char::from_u32(c + 1)?]));
        let free = |marks: &[char; 2]| !all.contains(*marks) && !self.prepared.contains(*marks);
        let escaped = |marks: &[char; 2]| !all.contains(&format!("{}", marks[0].escape_debug()));
        let Some(marks) = pairs.into_iter().find(|marks| free(marks) && escaped(marks)) else {
            return Err(self.invalid("", "the messages have all noncharacters of Unicode", "remove them"));
        };
        let text = self.render_with(input, Some(marks))?;
        let mut marked = Marked { text: String::with_capacity(text.len()), answers: Vec::new() };
        let mut start = None;
        for part in text.split_inclusive(marks) {
            let plain = part.trim_end_matches(marks);
            marked.text.push_str(plain);
            match part.chars().next_back() {
                Some(c) if c == marks[0] => start = Some(marked.text.len()),
                Some(c) if c == marks[1] => marked.answers.extend(start.take().map(|start| start..marked.text.len())),
                _ => {}
            }
        }
        Ok(marked)
    }

    /// Whether the template marks what an assistant says.
    fn marks_answers(&self) -> bool {
        self.prepared.contains(compile::GENERATION)
    }

    fn render_with(&self, input: &ChatInput<'_>, marks: Option<[char; 2]>) -> Result<String> {
        self.with_stack(|| {
            let instructions: Instructions<'_> = compile::compile(&self.prepared)?;
            let (root, bytes) = self.root(input, marks)?;
            let env = environment::environment(budget::fuel(bytes));
            let mut text = String::new();
            let mut out = make_string_output(&mut text);
            let blocks = BTreeMap::new();
            eval(&env, &instructions, root, &blocks, &mut out, AutoEscape::None)?;
            Ok(text)
        })
    }

    /// The variables, and their bytes.
    fn root(
        &self,
        input: &ChatInput<'_>,
        marks: Option<[char; 2]>,
    ) -> std::result::Result<(Value, usize), minijinja::Error> {
        let mut bytes = 0;
        let messages = input.messages.iter().map(|message| source::message(message, &mut bytes));
        let messages = messages.collect::<std::result::Result<Vec<_>, _>>()?;
        let mut list = |values: Option<&[Json]>| match values {
            Some(values) => Ok(Value::from(
                values
                    .iter()
                    .map(|value| source::value(value, 1, &mut bytes))
                    .collect::<std::result::Result<Vec<_>, _>>()?,
            )),
            None => Ok::<_, minijinja::Error>(Value::from(())),
        };
        let (tools, documents) = (list(input.tools)?, list(input.documents)?);
        let mut root: Vec<(String, Value)> = vec![
            ("messages".to_owned(), Value::from(messages)),
            ("tools".to_owned(), tools),
            ("documents".to_owned(), documents),
            ("add_generation_prompt".to_owned(), Value::from(input.add_generation_prompt)),
            (NOW.to_owned(), Value::from(input.now)),
        ];
        root.extend(self.special.iter().map(|(name, text)| ((*name).to_owned(), Value::from(text.as_str()))));
        for (name, json) in &input.variables {
            root.push((name.clone(), source::value(json, 1, &mut bytes)?));
        }
        root.extend(marks.map(|marks| (MARKS.to_owned(), Value::from(marks.iter().collect::<String>()))));
        Ok((Value::from_pairs(root), bytes))
    }

    /// Does work whose stack the limits of `compile.rs` bound, on a thread that has it.
    fn with_stack<T: Send>(&self, work: impl FnOnce() -> std::result::Result<T, minijinja::Error> + Send) -> Result<T> {
        let done = thread::scope(|scope| {
            let thread = thread::Builder::new().name("template".to_owned()).stack_size(compile::STACK);
            let thread = thread.spawn_scoped(scope, work).map_err(Error::Thread)?;
            Ok(thread.join())
        })?;
        match done {
            Ok(result) => result.map_err(|error| self.error(&error)),
            // A server goes on; the fuzz target does not.
            Err(_) => Err(Error::Internal("the engine of chat templates panicked")),
        }
    }

    /// What went wrong, with its line.
    fn error(&self, error: &minijinja::Error) -> Error {
        let line = error.line().map_or_else(String::new, |line| format!(", line {line}"));
        let refusal = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source())
            .find_map(|error| error.downcast_ref::<Refusal>());
        if let Some(Refusal(said)) = refusal {
            return self.invalid(&line, format!("refuses these messages: {}", quoted(said)), "change them as it says");
        }
        let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        match error.kind() {
            ErrorKind::OutOfFuel => self.invalid(
                &line,
                "takes more steps or memory than any template should",
                "use another template, or fewer messages at a time",
            ),
            ErrorKind::SyntaxError => self.invalid(&line, format!("is no template: {detail}"), "use another template"),
            _ => self.invalid(
                &line,
                format!("fails: {detail}"),
                "check that the messages are what it takes, or use another template",
            ),
        }
    }

    fn invalid(&self, line: &str, problem: impl Into<String>, remedy: &str) -> Error {
        Error::invalid(&self.path, format!("{}{line}", self.place), problem, remedy)
    }
}
