//! `strata perplexity --kl-divergence`: the statistics of llama-perplexity, in its words.

use super::Args;
use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use std::path::Path;
use strata::arch::Hyperparameters;
use strata::eval::base_file::statistics::{DP_SHARES, Estimate, Estimates, KLD_SHARES, need};
use strata::eval::base_file::{BaseFile, Statistics, kl_divergence};
use strata::gguf::Gguf;
use strata::tokenizer::Tokenizer;

/// Says what a base file cannot hold.
pub fn tell_limits() {
    output::say(
        "note: a base file has 16 bits a token, and none below exp(-16) of the most likely: figures of close models, and the perplexity \
         of the base, are off by that; strata compare needs no such file",
    );
}

impl Args {
    /// Compares the model with a base file and prints the statistics.
    pub(super) fn compare_with_base(&self, gguf: Gguf, tokenizer: &Tokenizer, path: &Path) -> Result<()> {
        let of = Hyperparameters::read(&gguf)?;
        let base = BaseFile::open(path, of.vocab)?;
        let shape = base.shape();
        if let Some(context) = self.context.filter(|context| *context != shape.context) {
            bail!("{}: its chunks have {} tokens, not {context}; leave out -c", output::path(path), shape.context);
        }
        if self.text.is_some() {
            output::say("note: the tokens come from the base file, and the text (-f) is not read");
        }
        if base.missing_chunks() > 0 {
            let (whole, all) = (shape.chunks - base.missing_chunks(), shape.chunks);
            let path = output::path(path);
            output::warn(&format!("{path} ends after {whole} of {all} chunks: the run that wrote it was stopped"));
        }
        tell_limits();
        let types = self.cache.types();
        let text = base.text(self.chunks, tokenizer.bos())?;
        let model = self.model.load(gguf, need(&of, &base, &text, types)?)?;
        let statistics = kl_divergence(&model, &base, &text, types, &Shown::new(Unit::Tokens))?;
        if self.json {
            output::print_json(&self.described(json(&statistics, shape.context)))
        } else {
            output::print(&words(&statistics))
        }
    }
}

/// As llama-perplexity prints them.
fn words(of: &Statistics) -> String {
    let mut lines = vec![
        String::new(),
        "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p"
            .to_owned(),
    ];
    lines.extend(of.running.iter().enumerate().map(|(i, chunks)| {
        let Estimates { perplexity, ln_ratio, kld, rms_dp, same_top, .. } = chunks;
        format!(
            "{:4}    {}    {}    {}    {} %    {} %",
            i + 1,
            estimate(perplexity, 9, 9, 4),
            estimate(ln_ratio, 10, 10, 5),
            estimate(kld, 10, 10, 5),
            estimate(&percent(rms_dp), 6, 6, 3),
            estimate(&percent(same_top), 6, 6, 3),
        )
    }));
    let all = &of.all;
    let of_perplexity = |name: &str, of: &Estimate| format!("{name:<30}: {}", estimate(of, 10, 10, 6));
    lines.extend([
        String::new(),
        "====== Perplexity statistics ======".to_owned(),
        of_perplexity("Mean PPL(Q)", &all.perplexity),
        of_perplexity("Mean PPL(base)", &all.base_perplexity),
        format!("Cor(ln(PPL(Q)), ln(PPL(base))): {:6.2}%", 100.0 * all.correlation),
        of_perplexity("Mean ln(PPL(Q)/PPL(base))", &all.ln_ratio),
        of_perplexity("Mean PPL(Q)/PPL(base)", &all.ratio),
        of_perplexity("Mean PPL(Q)-PPL(base)", &all.difference),
        String::new(),
        "====== KL divergence statistics ======".to_owned(),
        format!("Mean    KLD: {}", estimate(&all.kld, 10, 10, 6)),
    ]);
    lines.extend(names(&KLD_SHARES).zip(&of.kld).map(|(name, kld)| format!("{name} KLD: {kld:10.6}")));
    lines.extend([
        String::new(),
        "====== Token probability statistics ======".to_owned(),
        format!("Mean    Δp: {} %", estimate(&percent(&all.dp), 6, 5, 3)),
    ]);
    lines.extend(names(&DP_SHARES).zip(&of.dp).map(|(name, dp)| format!("{name} Δp: {:6.3}%", 100.0 * f64::from(*dp))));
    lines.push(format!("RMS Δp    : {} %", estimate(&percent(&all.rms_dp), 6, 5, 3)));
    lines.push(format!("Same top p: {} %", estimate(&percent(&all.same_top), 6, 5, 3)));
    lines.join("\n") + "\n"
}

/// The names of the greatest value, of those of some shares, and of the smallest.
fn names(shares: &[f32]) -> impl Iterator<Item = String> {
    let share = |share: &f32| if *share == 0.5 { "Median ".to_owned() } else { format!("{:4.1}%  ", 100.0 * share) };
    let shares: Vec<String> = shares.iter().map(share).collect();
    ["Maximum".to_owned()].into_iter().chain(shares).chain(["Minimum".to_owned()])
}

/// `  5.740446 ±   1.542116`, as wide as this and with so many digits.
fn estimate(of: &Estimate, value: usize, error: usize, digits: usize) -> String {
    format!("{:value$.digits$} ± {:error$.digits$}", of.value, of.error)
}

fn percent(of: &Estimate) -> Estimate {
    Estimate { value: 100.0 * of.value, error: 100.0 * of.error }
}

fn json(of: &Statistics, context: usize) -> Value {
    let Estimates { perplexity, base_perplexity, correlation, ln_ratio, ratio, difference, kld, dp, rms_dp, same_top } =
        &of.all;
    let estimates = [
        ("perplexity", perplexity),
        ("base_perplexity", base_perplexity),
        ("ln_perplexity_ratio", ln_ratio),
        ("perplexity_ratio", ratio),
        ("perplexity_difference", difference),
        ("mean_kld", kld),
        ("mean_dp", dp),
        ("rms_dp", rms_dp),
        ("same_top", same_top),
    ];
    let mut all: Map<String, Value> = Map::new();
    all.insert("chunks".to_owned(), of.running.len().into());
    all.insert("context".to_owned(), context.into());
    all.insert("tokens_scored".to_owned(), of.tokens.into());
    all.insert("correlation".to_owned(), (*correlation).into());
    for (name, estimate) in estimates {
        all.insert(name.to_owned(), estimate.value.into());
        all.insert(format!("se_{name}"), estimate.error.into());
    }
    let percentiles = |shares: &[f32], values: &[f32]| {
        let shares = [1.0].iter().chain(shares).chain(&[0.0]);
        // The decimal digits of the share, not those of its nearest float.
        let named =
            shares.zip(values).map(|(share, value)| (format!("{}", (1e3 * share).round() / 10.0), json!(value)));
        Value::Object(named.collect())
    };
    all.insert("kld_percentiles".to_owned(), percentiles(&KLD_SHARES, &of.kld));
    all.insert("dp_percentiles".to_owned(), percentiles(&DP_SHARES, &of.dp));
    all.into()
}
