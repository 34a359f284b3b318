//! Conversations as texts of a comparison: formatted by the reference's chat template, scored on the answers only.
//!
//! Special tokens are parsed in the whole rendered text, as transformers and servers do it: the tokens are those that a user's model gets.
//! A message with `<|eot_id|>` in it therefore has that token, as it would have there. Figures are to be of what is run, and nothing is
//! generated here; who generates from messages of others has to encode them apart.

use super::text::{Chunk, Text};
use crate::engine::template::{ChatInput, ChatTemplate, DEFAULT_NOW};
use crate::error::{Error, Result, quoted};
use crate::progress::Progress;
use crate::tokenizer::Tokenizer;
use serde_json::{Map, Value as Json};
use std::ops::Range;
use std::path::Path;

/// The most messages of a conversation.
const MOST_MESSAGES: usize = 10_000;

/// How conversations become chunks.
#[derive(Clone, Copy, Debug)]
pub struct ChatCut<'a> {
    /// The template, the same for all models.
    pub template: &'a ChatTemplate,
    /// The template of conversations with tools.
    pub tool_template: &'a ChatTemplate,
    /// The tokenizer of the reference.
    pub tokenizer: &'a Tokenizer,
    /// The most tokens of a chunk; what a conversation has beyond is left out.
    pub context: usize,
    /// The most chunks to take.
    pub max_chunks: Option<usize>,
}

/// A conversation of the file.
#[derive(Debug)]
struct Conversation {
    messages: Vec<Json>,
    tools: Option<Vec<Json>>,
    documents: Option<Vec<Json>>,
}

/// A rendered text with the bytes that an assistant says.
#[derive(Debug, PartialEq)]
struct Scored {
    text: String,
    answers: Vec<Range<usize>>,
}

impl Text {
    /// The conversations of a JSONL file, `lines`, which comes from `path`: one a line, `{"messages": [{"role": ..., "content": ...}]}`, or
    /// `{"conversations": [{"from": "human", "value": ...}]}`, or the list alone; with `tools` and `documents` if it has some.
    ///
    /// Each is a chunk, of which the tokens of assistants' messages are scored, to the token that ends the turn. If the template shows an
    /// earlier answer otherwise once others follow it, as those do that drop thoughts, each answer is a chunk of its own with what stands
    /// before it when it is given. `strftime_now` shows [`DEFAULT_NOW`] in all: the figures of a file are the same on every day.
    ///
    /// What is cut or has nothing to score is said to `progress`.
    ///
    /// # Errors
    /// If a line is no conversation, the template refuses it, the start of an answer cannot be told, or there is nothing to score.
    pub fn chat(path: &Path, lines: &str, cut: ChatCut<'_>, progress: &dyn Progress) -> Result<Text> {
        if cut.context < 2 {
            return Err(Error::ContextTooSmall { context: cut.context });
        }
        let most = cut.max_chunks.unwrap_or(usize::MAX);
        let (mut chunks, mut shortened, mut silent) = (Vec::new(), 0usize, 0usize);
        progress.begin("rendering conversations", lines.len() as u64);
        for (number, line) in (1..).zip(lines.split_inclusive('\n')) {
            progress.check()?;
            progress.advance(line.len() as u64);
            if line.trim().is_empty() || chunks.len() >= most {
                continue;
            }
            let place = format!("line {number}");
            let conversation = Conversation::parse(line).map_err(|problem| {
                let remedy = "write one conversation a line, as {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, ...]}";
                Error::invalid(path, &place, problem, remedy)
            })?;
            let before = chunks.len();
            for scored in conversation.render(cut).map_err(|error| at_line(path, &place, error))? {
                let (chunk, is_cut) = scored.chunk(cut)?;
                shortened += usize::from(is_cut);
                chunks.extend(chunk);
            }
            silent += usize::from(chunks.len() == before);
        }
        progress.end();
        chunks.truncate(most);
        let say = |count: usize, what: &str| {
            if count > 0 {
                progress.warn(&format!("{}: {count} {what}", path.display()));
            }
        };
        say(shortened, &format!("texts are cut at the context of {} tokens", cut.context));
        say(silent, "conversations have no answer to score and are left out");
        if chunks.is_empty() {
            let remedy = "give conversations with messages of the role assistant, or a larger context";
            return Err(Error::invalid(path, "text", "has no answer of an assistant to score", remedy));
        }
        Ok(Text::of_chunks(path.display().to_string(), chunks))
    }
}

/// The error of a template with the line of the conversation.
fn at_line(path: &Path, line: &str, error: Error) -> Error {
    match error {
        Error::Invalid { path: of, place, problem, remedy, .. } => {
            Error::invalid(path, line, format!("{} of {}: {problem}", place, of.display()), remedy)
        }
        other => other,
    }
}

impl Conversation {
    fn parse(line: &str) -> std::result::Result<Conversation, String> {
        let json: Json = serde_json::from_str(line).map_err(|error| format!("is not JSON: {error}"))?;
        let list = |json: Option<&Json>, what: &str| match json {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Array(all)) => Ok(Some(all.clone())),
            Some(_) => Err(format!("{what:?} is no list")),
        };
        let (messages, all) = match &json {
            Json::Array(messages) => (Some(messages.clone()), Map::new()),
            Json::Object(all) => {
                let messages = list(all.get("messages"), "messages")?;
                (
                    messages.map_or_else(|| list(all.get("conversations"), "conversations"), |m| Ok(Some(m)))?,
                    all.clone(),
                )
            }
            _ => return Err("is no conversation but a single value".to_owned()),
        };
        let messages = messages.ok_or("has neither \"messages\" nor \"conversations\"")?;
        if messages.len() > MOST_MESSAGES {
            return Err(format!("has {} messages, at most {MOST_MESSAGES} are taken", messages.len()));
        }
        Ok(Conversation {
            messages: messages
                .iter()
                .enumerate()
                .map(|(i, m)| message(i + 1, m))
                .collect::<std::result::Result<_, _>>()?,
            tools: list(all.get("tools"), "tools")?,
            documents: list(all.get("documents"), "documents")?,
        })
    }

    fn is_answer(&self, message: usize) -> bool {
        self.messages[message]["role"] == "assistant"
    }

    fn input(&self, messages: usize, add_generation_prompt: bool) -> ChatInput<'_> {
        ChatInput {
            tools: self.tools.as_deref(),
            documents: self.documents.as_deref(),
            add_generation_prompt,
            now: DEFAULT_NOW,
            ..ChatInput::of(&self.messages[..messages])
        }
    }

    /// The texts with what is scored in each: one, or one for each answer.
    fn render(&self, cut: ChatCut<'_>) -> Result<Vec<Scored>> {
        let template = if self.tools.is_some() { cut.tool_template } else { cut.template };
        // An answer to nothing has no prompt.
        let answers: Vec<usize> = (1..self.messages.len()).filter(|&i| self.is_answer(i)).collect();
        let Some(&last) = answers.last() else { return Ok(Vec::new()) };
        let marked = template.render_marked(&self.input(last + 1, false))?;
        if !marked.answers.is_empty() {
            return Ok(vec![Scored { text: marked.text, answers: marked.answers }]);
        }
        let mut alone = Vec::new();
        for &answer in &answers {
            let text = match answer == last {
                true => marked.text.clone(),
                false => template.render(&self.input(answer + 1, false))?,
            };
            let start = self.start(template, answer, &text)?;
            let end = text.len();
            alone.push(Scored { text, answers: vec![start..end] });
        }
        if alone.iter().all(|one| marked.text.starts_with(&one.text)) {
            let answers = alone.into_iter().flat_map(|one| one.answers).collect();
            return Ok(vec![Scored { text: marked.text, answers }]);
        }
        Ok(alone)
    }

    /// Where an answer begins in `text`, the conversation up to it: behind what the template begins answers with, or as much of that as
    /// stands before this one. Templates that let the model think begin answers with more than they show later.
    fn start(&self, template: &ChatTemplate, answer: usize, text: &str) -> Result<usize> {
        let prompt = template.render(&self.input(answer, true))?;
        let common = prompt.char_indices().zip(text.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
        let start = common.unwrap_or(prompt.len().min(text.len()));
        if start == prompt.len() || start >= template.render(&self.input(answer, false))?.len() {
            return Ok(start);
        }
        let problem = format!(
            "the start of the answer in message {} cannot be told: the template shows what stands before it otherwise without it",
            answer + 1
        );
        Err(Error::invalid(
            template.path(),
            "chat template",
            problem,
            "use a template that marks answers by {% generation %}",
        ))
    }
}

/// A message in OpenAI's form; those of ShareGPT have `from` and `value`.
fn message(number: usize, json: &Json) -> std::result::Result<Json, String> {
    let Json::Object(all) = json else { return Err(format!("message {number} is no object")) };
    if let Some(role) = all.get("role") {
        return role.is_string().then(|| json.clone()).ok_or(format!("message {number}: \"role\" is no text"));
    }
    let (Some(Json::String(from)), Some(value)) = (all.get("from"), all.get("value")) else {
        let keys: Vec<&str> = all.keys().take(5).map(String::as_str).collect();
        return Err(format!("message {number} has no \"role\" but {}", quoted(&keys.join(", "))));
    };
    let role = match from.as_str() {
        "human" => "user",
        "gpt" | "chatgpt" | "bing" | "bard" | "model" => "assistant",
        "observation" | "function_response" => "tool",
        other => other,
    };
    Ok(serde_json::json!({"role": role, "content": value}))
}

impl Scored {
    /// The chunk, if something in it is scored, and whether it was cut.
    fn chunk(&self, cut: ChatCut<'_>) -> Result<(Option<Chunk>, bool)> {
        let tokens = cut.tokenizer.encode_with_ends(&self.text, true)?;
        let is_cut = tokens.len() > cut.context;
        let tokens = &tokens[..tokens.len().min(cut.context)];
        let scored = self.answers.iter().filter_map(|answer| {
            // As in transformers, a token belongs to an answer that has a byte of it.
            let first = tokens.partition_point(|&(_, end)| end <= answer.start).max(1);
            let starts_before = |i: usize| tokens[i - 1].1 < answer.end;
            let end = (first..tokens.len()).find(|&i| !starts_before(i)).unwrap_or(tokens.len());
            // What stands behind the end of the turn is no part of it.
            let turn = tokens.get(first..end)?.iter().rposition(|&(token, _)| cut.tokenizer.is_eog(token));
            let end = turn.map_or(end, |turn| first + turn + 1);
            (first < end).then(|| first - 1..end - 1)
        });
        let scored: Vec<Range<usize>> = scored.collect();
        let tokens = tokens.iter().map(|&(token, _)| token).collect();
        Ok(((!scored.is_empty()).then_some(Chunk { number: 0, tokens, scored }), is_cut))
    }
}
