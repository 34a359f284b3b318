//! `strata quantize`: a GGUF model to one of another type.

use super::recipe::RecipeArgs;
use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, Error, FromArgMatches};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use strata::convert::Input;
use strata::gguf::Gguf;
use strata::recipe::Mix;

/// Write a GGUF model with the weights of another in another type
///
/// The arguments are those of llama-quantize: a type may be its number, and COPY keeps every tensor as it is.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Args {
    /// Writes the quantized file.
    pub fn run(mut self) -> Result<()> {
        let Files { input, output, mix, threads } = self.files;
        self.recipe.threads_or(threads);
        let input = Input::Gguf(Box::new(Gguf::open(&input)?));
        let mixes: Vec<Mix> = mix.into_iter().collect();
        let outputs: Vec<_> = [output].into_iter().zip(self.recipe.recipes(&mixes, None)?).collect();
        self.recipe.make(&input, &outputs, None)
    }
}

/// `INPUT [OUTPUT] TYPE [THREADS]`, which only the type tells apart; `INPUT OUTPUT [THREADS]` where options give the types.
struct Files {
    input: PathBuf,
    output: PathBuf,
    mix: Option<Mix>,
    threads: Option<u16>,
}

impl Files {
    /// The output is left out where the second word is a type; then it is beside the input.
    fn of(input: PathBuf, words: &[OsString], sized: bool) -> Result<Files, String> {
        let mix = |word: &OsString| word.to_str().map(Mix::from_quantize);
        if let ([output, rest @ ..], true) = (words, sized) {
            return Ok(Files { input, output: output.into(), mix: None, threads: threads(rest)? });
        }
        let (output, mix, rest) = match words {
            [ty, rest @ ..] if mix(ty).is_some_and(|mix| mix.is_ok()) && rest.len() < 2 && !is_type(rest) => {
                (None, mix(ty), rest)
            }
            [output, ty, rest @ ..] => (Some(PathBuf::from(output)), mix(ty), rest),
            [ty] => (None, mix(ty), &[][..]),
            [] => return Err("the type is missing".to_owned()),
        };
        let mix = mix.ok_or("the type is no text")?.map_err(|error| error.to_string())?;
        let beside = || input.parent().unwrap_or(Path::new("")).join(format!("ggml-model-{}.gguf", mix.name));
        let output = output.unwrap_or_else(beside);
        Ok(Files { input, output, mix: Some(mix), threads: threads(rest)? })
    }
}

/// The number of threads in what is left of the words; 0 says nothing, as in llama-quantize.
fn threads(words: &[OsString]) -> Result<Option<u16>, String> {
    let word = match words {
        [] => return Ok(None),
        [word] => word.to_string_lossy(),
        [_, more, ..] => return Err(format!("{:?} is one word too many", more.to_string_lossy())),
    };
    match word.parse::<u16>() {
        Ok(n) if n <= 1024 => Ok(Some(n).filter(|&n| n > 0)),
        _ => Err(format!("{word:?} is no number of threads; give one up to 1024 at the end")),
    }
}

/// True if the word behind names a type, so that the one before it is a file that is called as a type is.
fn is_type(words: &[OsString]) -> bool {
    let named = |word: &OsString| word.to_str().is_some_and(|text| Mix::from_quantize(text).is_ok());
    words.first().is_some_and(|word| named(word) && word.to_str().is_none_or(|text| text.parse::<u16>().is_err()))
}

impl clap::Args for Files {
    fn augment_args(command: Command) -> Command {
        let path = || clap::builder::PathBufValueParser::new();
        let input = Arg::new("input").value_name("INPUT").required(true).value_parser(path());
        let words = Arg::new("words").value_names(["OUTPUT", "TYPE", "THREADS"]).required(true).num_args(1..=3);
        // Options may stand between them.
        let words = words.action(ArgAction::Append);
        command
            .override_usage("strata quantize [OPTIONS] <INPUT> [OUTPUT] <TYPE> [THREADS]")
            .arg(input.help("The model, a GGUF file; of a split one, any part"))
            .arg(words.value_parser(clap::value_parser!(OsString)).help(
                "The file to write [default: ggml-model-TYPE.gguf beside the model], the type or mix of the weights (strata info \
                 lists them), and perhaps the number of threads",
            ))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Files {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Files, Error> {
        let words: Vec<OsString> = matches.get_many("words").into_iter().flatten().cloned().collect();
        let input = matches.get_one::<PathBuf>("input").cloned().unwrap_or_default();
        // These options stand for the type.
        let sized = ["size", "bpw", "recipe"].iter().any(|id| matches.try_contains_id(id).unwrap_or(false));
        Files::of(input, &words, sized).map_err(|problem| {
            let text = format!("{problem}\n\nUsage: strata quantize [OPTIONS] <INPUT> [OUTPUT] <TYPE> [THREADS]\n");
            Error::raw(ErrorKind::ValueValidation, text)
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Files::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(words: &str) -> Result<(String, &'static str, Option<u16>), String> {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        let files = Files::of("dir/in.gguf".into(), &words, false)?;
        Ok((files.output.display().to_string(), files.mix.unwrap().name, files.threads))
    }

    #[test]
    fn arguments_are_those_of_llama_quantize() {
        for (words, output, mix, threads) in [
            ("out.gguf q4_k_m", "out.gguf", "Q4_K_M", None),
            ("out.gguf Q4_K 2", "out.gguf", "Q4_K_M", Some(2)),
            ("out.gguf 7", "out.gguf", "Q8_0", None),
            ("out.gguf 15 0", "out.gguf", "Q4_K_M", None),
            ("Q5_0", "dir/ggml-model-Q5_0.gguf", "Q5_0", None),
            ("2 3", "dir/ggml-model-Q4_0.gguf", "Q4_0", Some(3)),
            ("f16 q8_0", "f16", "Q8_0", None),
            ("7 q8_0 4", "7", "Q8_0", Some(4)),
            ("copy", "dir/ggml-model-COPY.gguf", "COPY", None),
            ("c.gguf COPY 1", "c.gguf", "COPY", Some(1)),
        ] {
            assert_eq!(files(words).unwrap(), (output.to_owned(), mix, threads), "{words}");
        }
        for (words, said) in [
            ("out.gguf", "out.gguf"),
            ("out.gguf q9", "q9"),
            ("out.gguf iq2_xs", "cannot write it"),
            ("out.gguf 20", "cannot write it"),
            ("out.gguf 999", "999"),
            ("out.gguf q8_0 many", "no number of threads"),
            ("out.gguf q8_0 2 3", "one word too many"),
            ("out.gguf q8_0 2000", "no number of threads"),
        ] {
            assert!(files(words).unwrap_err().contains(said), "{words}: {:?}", files(words));
        }
        let sized =
            |words: &[&str]| Files::of("in.gguf".into(), &words.iter().map(OsString::from).collect::<Vec<_>>(), true);
        assert!(sized(&["out.gguf", "3"]).is_ok_and(|files| files.mix.is_none() && files.threads == Some(3)));
        assert!(sized(&["out.gguf", "q4_0"]).is_err_and(|problem| problem.contains("q4_0")));
    }
}
