//! Habits of llama.cpp's users: its short names, its options that change no result here, and its -1 for no limit.

use crate::output;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::sync::Once;

/// llama.cpp's short names of more than one letter, which clap does not support.
const SHORT_NAMES: [(&str, &str); 12] = [
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-np", "--slots"),
    ("-bf", "--binary-file"),
    ("-ub", "--ubatch-size"),
    ("-tb", "--threads-batch"),
    ("-ngl", "--n-gpu-layers"),
    ("-fa", "--flash-attn"),
    ("-cb", "--cont-batching"),
    ("-jf", "--json-schema-file"),
    ("-no-cnv", "--no-conversation"),
    ("-sys", "--system"),
];

/// The commands in which `-t` names a type, unless what it names is a number, which is one of threads.
const TYPED: [&str; 2] = ["bench", "plan"];

/// The arguments of the program with llama.cpp's names as those of this program.
pub fn arguments(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let args: Vec<OsString> = args.collect();
    let typed = args.get(1).and_then(|command| command.to_str()).is_some_and(|command| TYPED.contains(&command));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut renamed = Vec::with_capacity(args.len());
    for (i, arg) in args.iter().enumerate() {
        let text = arg.to_str().unwrap_or_default();
        if let Some((_, long)) = SHORT_NAMES.iter().find(|(short, _)| *short == text) {
            renamed.push((*long).into());
            continue;
        }
        match text.strip_prefix("-t").filter(|_| typed && i > 1) {
            Some("") => {
                let threads = args.get(i + 1).and_then(|next| next.to_str()).is_some_and(is_number);
                renamed.push(if threads { "--threads" } else { "--type" }.into());
            }
            Some(value) => {
                let value = value.strip_prefix('=').unwrap_or(value);
                renamed.push(if is_number(value) { "--threads" } else { "--type" }.into());
                renamed.push(value.into());
            }
            None => renamed.push(arg.clone()),
        }
    }
    renamed
}

/// Options of llama.cpp that say how or where it computes. Results are the same with any of them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct HabitArgs {
    /// Most tokens of prompts in a pass
    #[arg(short = 'b', long, value_name = "N", hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,
    /// Tokens that go through a layer together: chosen by the program
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    ubatch_size: Option<u32>,
    /// Threads of a prompt: those of --threads
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    threads_batch: Option<u32>,
    /// Layers on a GPU: there are none
    #[arg(long, visible_alias = "gpu-layers", value_name = "N", hide = true, allow_negative_numbers = true)]
    n_gpu_layers: Option<String>,
    /// Attention without the matrix of scores, which is how it is computed here
    #[arg(long, value_name = "on|off|auto", hide = true, num_args = 0..=1, default_missing_value = "on")]
    #[arg(value_parser = ["on", "off", "auto", "0", "1"])]
    flash_attn: Option<String>,
    /// Keep the weights in memory: what --ram allows is kept
    #[arg(long, hide = true)]
    mlock: bool,
    /// Read the weights without a memory map: --ram and --reader decide
    #[arg(long, hide = true)]
    no_mmap: bool,
    /// Several answers in a pass, which is how they are made here
    #[arg(long, hide = true)]
    cont_batching: bool,
}

impl HabitArgs {
    /// The most tokens of prompts in a pass, of which `most` are enough.
    pub fn batch(&self, most: usize) -> usize {
        self.batch_size.map_or(most, |batch| most.min(batch as usize))
    }

    /// Says once what was asked for in vain.
    pub fn say(&self) {
        static SAID: Once = Once::new();
        if self.n_gpu_layers.as_deref().is_some_and(|layers| layers != "0") {
            SAID.call_once(|| output::say("note: -ngl has no effect: all layers are computed on the CPU"));
        }
    }
}

/// Options of llama.cpp for what a command that generates text does anyway.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct QuietArgs {
    /// Only the answer is printed
    #[arg(long, hide = true)]
    no_display_prompt: bool,
    /// Nothing is computed in advance
    #[arg(long, hide = true)]
    no_warmup: bool,
    /// Templates are Jinja
    #[arg(long, hide = true)]
    jinja: bool,
}

/// The most tokens of an answer: a number, or -1 for as many as there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(Option<usize>);

impl Limit {
    /// The limit of an option that was given or not; `None` if there is none.
    pub fn of(given: Option<Limit>) -> Option<usize> {
        given.and_then(|Limit(tokens)| tokens)
    }
}

/// Parses a limit.
pub fn limit(text: &str) -> Result<Limit> {
    if text == "-1" {
        return Ok(Limit(None));
    }
    text.parse().map(|tokens| Limit(Some(tokens))).context("give a number of tokens, or -1 for no limit")
}

/// Whether escapes in texts of the command line are processed.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EscapeArgs {
    /// Process escapes in the prompt and in --stop: \n \r \t \' \" \\ \x41; unlike in llama.cpp only if it is asked for
    #[arg(short = 'e', long, overrides_with = "no_escape")]
    escape: bool,
    /// Take texts as they are, which is the default
    #[arg(long, hide = true, overrides_with = "escape")]
    no_escape: bool,
}

impl EscapeArgs {
    /// The text, with its escapes processed if that is wanted.
    pub fn apply(&self, text: String) -> Result<String> {
        if self.escape { unescape(&text) } else { Ok(text) }
    }
}

/// A text with its escapes as llama.cpp processes them: a backslash before anything else stays.
fn unescape(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    let hex = |byte: u8| char::from(byte).to_digit(16);
    while let Some((&byte, after)) = rest.split_first() {
        let (one, used) = match (byte, after) {
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [c @ (b'\'' | b'"' | b'\\'), ..]) => (*c, 2),
            (b'\\', [b'x', a, b, ..]) => match (hex(*a), hex(*b)) {
                (Some(a), Some(b)) => ((a * 16 + b) as u8, 4),
                _ => (byte, 1),
            },
            _ => (byte, 1),
        };
        bytes.push(one);
        rest = &rest[used..];
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            bail!(
                "the escapes make no UTF-8 at byte {at} of the text; write \\xc3\\xa9 for \u{e9}, all bytes of a character"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(line: &str) -> String {
        let args = arguments(line.split(' ').map(OsString::from));
        args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_of_llama_cpp_become_those_of_this_program() {
        assert_eq!(renamed("strata run -ctk q8_0 -ngl 0 -t 4"), "strata run --cache-type-k q8_0 --n-gpu-layers 0 -t 4");
        assert_eq!(renamed("strata bench -t 4 -t q4_k,q8_0 -p 1"), "strata bench --threads 4 --type q4_k,q8_0 -p 1");
        assert_eq!(renamed("strata plan -tq4_k -t=2 8b"), "strata plan --type q4_k --threads 2 8b");
        assert_eq!(renamed("strata convert x -t q4_k"), "strata convert x -t q4_k");
        assert_eq!(renamed("strata bench -t"), "strata bench --type");
    }

    #[test]
    fn escapes_are_those_of_llama_cpp() {
        let cases = [
            ("a\\nb\\r\\t", "a\nb\r\t"),
            ("\\'\\\"\\\\n", "'\"\\n"),
            ("\\x41\\xc3\\xa9", "A\u{e9}"),
            ("\\x4", "\\x4"),
            ("\\xzz\\q\\", "\\xzz\\q\\"),
            ("\u{e9}\\u00e9", "\u{e9}\\u00e9"),
        ];
        for (text, becomes) in cases {
            assert_eq!(unescape(text).unwrap(), becomes, "{text}");
        }
        assert!(unescape("ab\\xff").unwrap_err().to_string().contains("at byte 2"));
    }

    #[test]
    fn minus_one_is_no_limit() {
        assert_eq!((limit("-1").unwrap(), limit("7").unwrap()), (Limit(None), Limit(Some(7))));
        assert!(limit("-2").is_err() && limit("x").is_err());
        assert_eq!((Limit::of(None), Limit::of(Some(Limit(Some(7))))), (None, Some(7)));
    }
}
