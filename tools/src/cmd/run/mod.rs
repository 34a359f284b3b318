//! `strata run`: generates text after a prompt. `report.rs` says what came of it.

mod report;

use super::chat_template::ChatTemplateArgs;
use super::grammar::GrammarArgs;
use super::habits::{EscapeArgs, Limit, QuietArgs, limit};
use super::model::{CacheArgs, DEFAULT_CONTEXT, ModelArgs, asked_context};
use super::prefix_cache::PrefixCacheArgs;
use super::sampling::SamplingArgs;
use crate::answer::{Shown as ShownAnswer, shown};
use crate::progress::{Shown, Unit, at_once};
use crate::{machine, output, text};
use anyhow::{Result, bail};
use report::{Run, Wanted};
use serde_json::json;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use strata::arch::Hyperparameters;
use strata::engine::sampling::Sampling;
use strata::engine::template::ChatInput;
use strata::engine::{Collected, Request, Scheduler, SchedulerOptions, Token};
use strata::gguf::Gguf;
use strata::model::Model;
use strata::stream::Estimate;
use strata::tokenizer::{EncodeOptions, Tokenizer};

/// Generate text after a prompt
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    prefix_cache: PrefixCacheArgs,
    /// Prompt [default: standard input, if that is a file or a pipe]
    #[arg(short = 'p', long, value_name = "PROMPT")]
    prompt: Option<String>,
    /// Prompt from a file or a pipe; - is standard input
    #[arg(short = 'f', long = "file", value_name = "TEXT", conflicts_with_all = ["prompt", "tokens"])]
    file: Option<PathBuf>,
    /// Prompt as token ids, as 1,2,3; for files without a vocabulary
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "prompt")]
    tokens: Option<Vec<u32>>,
    /// Take the prompt for a message of a user: the model's chat template makes the text of it
    #[arg(long, conflicts_with = "tokens")]
    chat: bool,
    /// With --chat, the system prompt
    #[arg(long, alias = "system-prompt", value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    #[command(flatten)]
    template: ChatTemplateArgs,
    /// Tokens to generate; -1 for no limit [default: until the model ends the text or the context is full]
    #[arg(short = 'n', long = "predict", alias = "n-predict", value_name = "TOKENS", value_parser = limit)]
    #[arg(allow_negative_numbers = true)]
    predict: Option<Limit>,
    /// Tokens in the context, prompt and answer together [default: the model's, at most 4096]
    #[arg(short = 'c', long = "ctx-size", value_name = "CONTEXT")]
    context: Option<usize>,
    /// End the answer at this text, which is not part of it; may be given often
    #[arg(long, alias = "reverse-prompt", short = 'r', value_name = "TEXT")]
    stop: Vec<String>,
    /// Answers to make, with one pass of the prompt; the seed of each is one more than the last's
    #[arg(long, alias = "slots", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    n_parallel: u16,
    /// With --json, the N most likely tokens in the place of each, with their log-probabilities
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<usize>,
    #[command(flatten)]
    grammar: GrammarArgs,
    /// Continue past the model's end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Print JSON at the end instead of text while it is generated
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    escape: EscapeArgs,
    /// Take the prompt for a text to go on with, as it is without --chat
    #[arg(long, hide = true, conflicts_with = "chat")]
    no_conversation: bool,
    #[command(flatten)]
    quiet: QuietArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Args {
    /// Generates text after the prompt.
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let gguf = self.model.gguf()?;
        let tokenizer = match (&self.tokens, gguf.str("tokenizer.ggml.model")?) {
            (Some(_), None | Some("no_vocab" | "none")) => None,
            _ => Some(Arc::new(text::tokenizer(&gguf)?)),
        };
        let (settings, of) = (self.sampling.settings(&gguf)?, Hyperparameters::read(&gguf)?);
        let prompt = self.prompt(&gguf, tokenizer.as_deref())?;
        let grammar = self.grammar.grammar(tokenizer.as_ref())?;
        let context = self.context(&of, prompt.len())?;
        let batch = self.model.cpu.habits.batch(prompt.len().max(1));
        let (slots, types) = (usize::from(self.n_parallel), self.cache.types());
        let mut options = SchedulerOptions { slots, batch, types, ..SchedulerOptions::single(context) };
        let model = Arc::new(self.model.load(gguf, options.need(&of)?)?);
        let (predicted, load) = (predict(&model), start.elapsed());
        options.prefix_cache = self.prefix_cache.open(&model, types);
        let bytes_read_to_load = machine::bytes_read();
        let mut scheduler = Scheduler::new(model.clone(), tokenizer, options)?;
        let seed = settings.seed;
        let request = Request { sampling: settings, grammar, ..Request::new(prompt) };
        let answers = self.answers(&mut scheduler, &request)?;
        let wanted = Wanted { context, seed, n_parallel: slots, logprobs: self.logprobs.is_some() };
        let run = Run { model: &model, wanted, answers, load, predicted, bytes_read_to_load };
        if self.json {
            output::print_json(&run.json(scheduler.tokenizer().map(|tokenizer| &**tokenizer))?)
        } else {
            run.report()
        }
    }

    /// The answers to the prompt. The first is printed as it comes, the others behind it, unless they become JSON.
    fn answers(&self, scheduler: &mut Scheduler, of: &Request) -> Result<Vec<Collected>> {
        let mut answers: Vec<ShownAnswer> = Vec::new();
        let has_text = scheduler.tokenizer().is_some();
        let stop = self.stop.iter().map(|text| self.escape.apply(text.clone())).collect::<Result<Vec<_>>>()?;
        for i in 0..u64::from(self.n_parallel) {
            let prints = i == 0 && !self.json;
            let (listener, answer) = shown(move |token, text| match token {
                _ if !prints => Ok(()),
                Some(token) if !has_text => output::print(&format!("{} ", token.id)),
                _ => output::print(text),
            });
            let request = Request {
                limit: Limit::of(self.predict).unwrap_or(usize::MAX),
                sampling: Sampling { seed: of.sampling.seed.wrapping_add(i), ..of.sampling.clone() },
                stop: stop.clone(),
                ignore_eos: self.ignore_eos,
                logprobs: self.logprobs,
                grammar: of.grammar.clone(),
                ..Request::new(of.prompt.clone())
            };
            scheduler.submit(request, listener)?;
            answers.push(answer);
        }
        scheduler.run(&Shown::new(Unit::Tokens))?;
        let answers = answers.into_iter().map(ShownAnswer::take).collect::<Result<Vec<_>>>()?;
        if !self.json {
            let ids = |tokens: &[Token]| tokens.iter().map(|token| format!("{} ", token.id)).collect::<String>();
            for answer in &answers[1..] {
                output::print("\n\n")?;
                output::print(&if has_text { answer.text.clone() } else { ids(&answer.tokens) })?;
            }
        }
        Ok(answers)
    }

    /// The tokens of the prompt.
    fn prompt(&self, gguf: &Gguf, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
        if let Some(tokens) = &self.tokens {
            return Ok(tokens.clone());
        }
        let Some(tokenizer) = tokenizer else {
            bail!("the file has no vocabulary; give the prompt as --tokens 1,2,3");
        };
        let text = match (&self.prompt, &self.file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => text::read(file)?,
            (None, None) if io::stdin().is_terminal() => String::new(),
            (None, None) => text::read(Path::new("-"))?,
        };
        let text = self.escape.apply(text)?;
        if !self.chat {
            return text::tokens(tokenizer, &text, EncodeOptions { add_special: true, parse_special: true });
        }
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let system = self.system.iter().map(|text| message("system", text));
        let messages: Vec<_> = system.chain([message("user", &text)]).collect();
        let (template, variables) = (self.template.template(gguf, false)?, self.template.variables());
        let input =
            ChatInput { add_generation_prompt: true, variables, now: self.template.now(), ..ChatInput::of(&messages) };
        let text = template.render(&input)?;
        Ok(at_once(|| tokenizer.encode_chat(&text))?)
    }

    fn context(&self, of: &Hyperparameters, prompt: usize) -> Result<usize> {
        let trained = of.context;
        let wanted = Limit::of(self.predict).map(|n| prompt.saturating_add(n));
        let enough = || wanted.map_or(trained.min(DEFAULT_CONTEXT), |n| n.min(trained).max(1)).max(prompt.min(trained));
        let context = asked_context(self.context, of).unwrap_or_else(enough);
        if prompt > context {
            bail!(
                "the prompt has {prompt} tokens and the context {context}; choose a larger -c (the model was trained for {trained})"
            );
        }
        Ok(context)
    }
}

/// The predicted time of a token; `None` without a budget.
fn predict(model: &Model) -> Option<Estimate> {
    let plan = model.plan()?;
    Some(plan.pass(&model.weights().sizes(), &model.rates(), 1))
}
