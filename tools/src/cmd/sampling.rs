//! Sampler settings as options: llama.cpp's names, for every command that generates text.

use anyhow::{Context, Result, bail};
use std::time::{SystemTime, UNIX_EPOCH};
use strata::engine::sampling::{
    AT_LEAST_ONE, BREAKER_BYTES, FINITE, MULTIPLIERS, MirostatVersion, NumberRange, PROBABILITIES, Sampling, Sequence,
    TEMPERATURES, wanted,
};
use strata::gguf::Gguf;

/// Sampler settings. Where "the model's" is named, the default is that of the file (general.sampling.*). To be flattened behind all other
/// options, which would stand under its heading.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Samplers in their order, with semicolons between them [default: the model's, else
    /// penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature]
    #[arg(long, value_name = "NAMES", conflicts_with = "sampling_seq")]
    samplers: Option<Sequence>,
    /// The same as letters [default: the model's, else edskypmxt]
    #[arg(long, alias = "sampler-seq", value_name = "LETTERS", value_parser = Sequence::from_letters)]
    sampling_seq: Option<Sequence>,
    /// Seed of the random numbers; -1 is random [default: random]
    #[arg(short = 's', long, value_name = "S", value_parser = seed, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Temperature; 0 selects the most likely token [default: the model's, else 0.8]
    #[arg(long, alias = "temperature", value_name = "T", value_parser = within(TEMPERATURES), allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Keep the N most likely tokens; 0 keeps all [default: the model's, else 40]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Keep the most likely tokens with a total probability of P; 1 keeps all [default: the model's, else 0.95]
    #[arg(long, value_name = "P", value_parser = within(PROBABILITIES), allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Drop tokens less likely than P times the most likely one; 0 keeps all [default: the model's, else 0.05]
    #[arg(long, value_name = "P", value_parser = within(PROBABILITIES), allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Keep logits within N standard deviations of the largest; 0 or less keeps all [default: -1]
    #[arg(long, alias = "top-nsigma", value_name = "N", value_parser = within(FINITE), allow_negative_numbers = true)]
    top_n_sigma: Option<f32>,
    /// Keep the most typical tokens with a total probability of P; 1 keeps all [default: 1]
    #[arg(long, alias = "typical-p", value_name = "P", value_parser = within(PROBABILITIES), allow_negative_numbers = true)]
    typical: Option<f32>,
    /// How often XTC drops the most likely tokens; 0 is never [default: the model's, else 0]
    #[arg(long, value_name = "P", value_parser = within(PROBABILITIES), allow_negative_numbers = true)]
    xtc_probability: Option<f32>,
    /// Of the tokens at least this likely, XTC keeps the least likely [default: the model's, else 0.1]
    #[arg(long, value_name = "P", value_parser = within(PROBABILITIES), allow_negative_numbers = true)]
    xtc_threshold: Option<f32>,
    /// Dynamic temperature: between --temp - RANGE and --temp + RANGE, by the entropy; 0 is off [default: 0]
    #[arg(long, value_name = "RANGE", value_parser = within(TEMPERATURES), allow_negative_numbers = true)]
    dynatemp_range: Option<f32>,
    /// Dynamic temperature: exponent of the entropy [default: 1]
    #[arg(long, value_name = "E", value_parser = within(TEMPERATURES), allow_negative_numbers = true)]
    dynatemp_exp: Option<f32>,
    /// Tokens that the three penalties below look back; 0 turns them off [default: the model's, else 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    repeat_last_n: Option<usize>,
    /// Divide the logits of tokens that have been there; 1 is off [default: the model's, else 1]
    #[arg(long, value_name = "X", value_parser = within(MULTIPLIERS), allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// Subtract from the logits of tokens that have been there [default: 0]
    #[arg(long, value_name = "X", value_parser = within(FINITE), allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtract from the logits of tokens for each time that they have been there [default: 0]
    #[arg(long, value_name = "X", value_parser = within(FINITE), allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// DRY: factor of the penalty for continuing a repetition; 0 is off [default: 0]
    #[arg(long, value_name = "X", value_parser = within(TEMPERATURES), allow_negative_numbers = true)]
    dry_multiplier: Option<f32>,
    /// DRY: factor by which the penalty grows with each repeated token [default: 1.75]
    #[arg(long, value_name = "X", value_parser = within(AT_LEAST_ONE), allow_negative_numbers = true)]
    dry_base: Option<f32>,
    /// DRY: repeated tokens from which the penalty grows [default: 2]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    dry_allowed_length: Option<usize>,
    /// DRY: tokens that are searched for repetitions; 0 is off [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    dry_penalty_last_n: Option<usize>,
    /// DRY: text that ends a repetition, \n for a line break; may be given often; none for no text [default: \n : " *]
    #[arg(long, value_name = "TEXT", value_parser = breaker, allow_hyphen_values = true)]
    dry_sequence_breaker: Vec<String>,
    /// Mirostat 1 or 2 instead of all other samplers but --temp; 0 is off [default: the model's, else 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=2), allow_negative_numbers = true)]
    mirostat: Option<u8>,
    /// Mirostat: learning rate [default: the model's, else 0.1]
    #[arg(long, value_name = "X", value_parser = within(TEMPERATURES), allow_negative_numbers = true)]
    mirostat_lr: Option<f32>,
    /// Mirostat: target surprise in bits [default: the model's, else 5]
    #[arg(long, value_name = "BITS", value_parser = within(TEMPERATURES), allow_negative_numbers = true)]
    mirostat_ent: Option<f32>,
    /// Add to the logit of a token, as 15043+1 or 15043-1; 15043-inf excludes it; may be given often
    #[arg(short = 'l', long, value_name = "TOKEN(+/-)BIAS", value_parser = logit_bias, allow_negative_numbers = true)]
    logit_bias: Vec<(u32, f32)>,
}

/// A parser of numbers in `range`.
fn within(range: NumberRange) -> impl Fn(&str) -> Result<f32> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.with_context(|| format!("give {}", wanted(&range)))
    }
}

fn seed(text: &str) -> Result<u64> {
    if text == "-1" {
        return Ok(clock());
    }
    text.parse().context("give an integer from 0 to 2^64-1, or -1 for a random one")
}

/// Nanoseconds since 1970: different for every run, and printed so that a run can be repeated.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

fn logit_bias(text: &str) -> Result<(u32, f32)> {
    let parse = || {
        let (token, bias) = text.split_at_checked(text.find(['+', '-'])?)?;
        // The number itself has no second sign.
        let bias = bias.parse().ok().filter(|_| !bias[1..].starts_with(['+', '-']))?;
        let valid = FINITE.contains(&bias) || bias == f32::NEG_INFINITY;
        valid.then_some((token.parse().ok()?, bias))
    };
    parse().context("give a token id, + or -, and a number, as 15043+1 or 15043-inf")
}

fn breaker(text: &str) -> Result<String> {
    let (mut breaker, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        breaker.push(match (c, c == '\\') {
            (c, false) => c,
            (_, true) => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(c @ ('\\' | '"' | '\'')) => c,
                _ => bail!("a backslash stands before n, r, t, a quote or a backslash"),
            },
        });
    }
    if breaker.is_empty() || breaker.len() > BREAKER_BYTES {
        bail!("give 1 to {BREAKER_BYTES} bytes");
    }
    Ok(breaker)
}

/// Replaces a setting that was given.
fn set<T: Clone>(setting: &mut T, given: &Option<T>) {
    if let Some(value) = given {
        setting.clone_from(value);
    }
}

impl SamplingArgs {
    /// The settings for the model of a file. What is given wins over what the file says, which is then not even read.
    pub fn settings(&self, gguf: &Gguf) -> Result<Sampling> {
        let sequence = self.samplers.clone().or_else(|| self.sampling_seq.clone());
        let given = |name: &str| match name {
            "sequence" => sequence.is_some(),
            "top_k" => self.top_k.is_some(),
            "top_p" => self.top_p.is_some(),
            "min_p" => self.min_p.is_some(),
            "xtc_probability" => self.xtc_probability.is_some(),
            "xtc_threshold" => self.xtc_threshold.is_some(),
            "temp" => self.temp.is_some(),
            "penalty_last_n" => self.repeat_last_n.is_some(),
            "penalty_repeat" => self.repeat_penalty.is_some(),
            "mirostat" => self.mirostat.is_some(),
            "mirostat_tau" => self.mirostat_ent.is_some(),
            "mirostat_eta" => self.mirostat_lr.is_some(),
            _ => false,
        };
        let mut to = Sampling::of_model(gguf, given)?;
        set(&mut to.sequence, &sequence);
        to.seed = self.seed.unwrap_or_else(clock);
        to.logit_bias.clone_from(&self.logit_bias);
        set(&mut to.repeat_last_n, &self.repeat_last_n);
        set(&mut to.repeat_penalty, &self.repeat_penalty);
        set(&mut to.presence_penalty, &self.presence_penalty);
        set(&mut to.frequency_penalty, &self.frequency_penalty);
        set(&mut to.dry_multiplier, &self.dry_multiplier);
        set(&mut to.dry_base, &self.dry_base);
        set(&mut to.dry_allowed_length, &self.dry_allowed_length);
        set(&mut to.dry_last_n, &self.dry_penalty_last_n);
        if !self.dry_sequence_breaker.is_empty() {
            // As in llama.cpp: none discards those before it.
            let after_none =
                self.dry_sequence_breaker.iter().rposition(|text| text == "none").map_or(0, |none| none + 1);
            to.dry_breakers = self.dry_sequence_breaker[after_none..].to_vec();
        }
        set(&mut to.top_n_sigma, &self.top_n_sigma);
        set(&mut to.top_k, &self.top_k);
        set(&mut to.typical_p, &self.typical);
        set(&mut to.top_p, &self.top_p);
        set(&mut to.min_p, &self.min_p);
        set(&mut to.xtc_probability, &self.xtc_probability);
        set(&mut to.xtc_threshold, &self.xtc_threshold);
        set(&mut to.temperature, &self.temp);
        set(&mut to.dynatemp_range, &self.dynatemp_range);
        set(&mut to.dynatemp_exponent, &self.dynatemp_exp);
        set(&mut to.mirostat_tau, &self.mirostat_ent);
        set(&mut to.mirostat_eta, &self.mirostat_lr);
        to.mirostat = match self.mirostat {
            None => to.mirostat,
            Some(1) => Some(MirostatVersion::One),
            Some(2) => Some(MirostatVersion::Two),
            Some(_) => None,
        };
        Ok(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        /// Stands under another heading.
        #[arg(long)]
        other: bool,
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn settings(options: &str) -> std::result::Result<Sampling, String> {
        let words = ["x"].into_iter().chain(options.split(' ').filter(|word| !word.is_empty()));
        let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        assert!(!command.other);
        let gguf = Gguf::from_bytes(Vec::from(b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")).unwrap();
        command.sampling.settings(&gguf).map_err(|error| error.to_string())
    }

    #[test]
    fn options_of_llama_cpp_become_settings() {
        let plain = Sampling { seed: 7, ..Sampling::default() };
        for (options, expected) in [
            ("", plain.clone()),
            ("--temperature 0.5 --top-k 0", Sampling { temperature: 0.5, top_k: 0, ..plain.clone() }),
            ("--sampler-seq kt", Sampling { sequence: "top_k;temp".parse().unwrap(), ..plain.clone() }),
            ("--samplers xtc", Sampling { sequence: "xtc".parse().unwrap(), ..plain.clone() }),
            ("--top-nsigma -1 --typical-p 0.5", Sampling { typical_p: 0.5, ..plain.clone() }),
            ("--top-n-sigma 2 --typical 1", Sampling { top_n_sigma: 2.0, ..plain.clone() }),
            ("--mirostat 2 --mirostat-ent 3", {
                Sampling { mirostat: Some(MirostatVersion::Two), mirostat_tau: 3.0, ..plain.clone() }
            }),
            ("-l 5-inf -l 5+1.5 --logit-bias 0-2e1", {
                Sampling { logit_bias: vec![(5, f32::NEG_INFINITY), (5, 1.5), (0, -20.0)], ..plain.clone() }
            }),
            ("--presence-penalty -1 --frequency-penalty -0.5", {
                Sampling { presence_penalty: -1.0, frequency_penalty: -0.5, ..plain.clone() }
            }),
            ("--dry-sequence-breaker none", Sampling { dry_breakers: vec![], ..plain.clone() }),
            ("--dry-sequence-breaker a --dry-sequence-breaker none --dry-sequence-breaker -\\n\\\\", {
                Sampling { dry_breakers: vec!["-\n\\".to_owned()], ..plain.clone() }
            }),
            ("--dry-penalty-last-n 18446744073709551615", Sampling { dry_last_n: usize::MAX, ..plain.clone() }),
        ] {
            assert_eq!(settings(&format!("-s 7 {options}")).unwrap(), expected, "{options}");
        }
        assert_ne!(settings("--seed -1").unwrap().seed, settings("").unwrap().seed);
    }

    #[test]
    fn hostile_values_are_refused_with_the_name_of_the_option() {
        for options in [
            "--seed -2",
            "--seed 18446744073709551616",
            "--temp nan",
            "--temp -1",
            "--top-k -1",
            "--top-k 18446744073709551616",
            "--top-p 1.1",
            "--min-p inf",
            "--top-n-sigma nan",
            "--typical 2",
            "--xtc-probability -1",
            "--xtc-threshold 1e60",
            "--dynatemp-range -1",
            "--dynatemp-exp -1",
            "--repeat-last-n -1",
            "--repeat-penalty 0",
            "--repeat-penalty nan",
            "--presence-penalty inf",
            "--frequency-penalty nan",
            "--dry-multiplier -1",
            "--dry-base 0.9",
            "--dry-allowed-length -1",
            "--dry-penalty-last-n -9223372036854775808",
            "--dry-sequence-breaker a\\x",
            "--dry-sequence-breaker \\",
            "--mirostat 3",
            "--mirostat -1",
            "--mirostat-lr inf",
            "--mirostat-ent -1",
            "--logit-bias 5",
            "--logit-bias x+2",
            "--logit-bias 4294967296+1",
            "--logit-bias 5+inf",
            "--logit-bias 5+nan",
            "--logit-bias 5+-1",
            "--logit-bias 5\u{e9}+1",
            "--samplers top_k;top_k",
            "--samplers nonsense",
            "--sampling-seq kq",
        ] {
            let error = settings(options).unwrap_err();
            assert!(error.contains(options.split(' ').next().unwrap()), "{options}: {error}");
        }
        assert!(settings("--samplers xtc --sampling-seq k").unwrap_err().contains("cannot be used with"));
        let long = format!("--dry-sequence-breaker {}", "x".repeat(101));
        assert!(settings(&long).unwrap_err().contains("1 to 100 bytes"));
    }

    #[test]
    fn help_has_a_heading_for_the_options() {
        let help = <Command as clap::CommandFactory>::command().render_help().to_string();
        let (before, after) = help.split_once("Sampling:").unwrap();
        assert!(before.contains("--other") && after.contains("--mirostat") && !after.contains("--other"), "{help}");
    }
}
