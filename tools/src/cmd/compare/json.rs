//! The report for programs.

use super::report::{ModeReport, Report, Section};
use anyhow::Result;
use serde_json::{Map, Value, json};
use strata::eval::compare::astray::{Astray, Expected, Probability};
use strata::eval::compare::attribution::Attribution;
use strata::eval::compare::scores::CandidateScores;
use strata::eval::compare::summary::{Figure, PERCENTILES, Pair, Summary};
use strata::eval::compare::{CandidateFacts, Comparison, ModeScores};

/// All figures of a candidate, for programs.
fn candidate_json((candidate, s): (&CandidateFacts, &Summary)) -> Value {
    let percentiles = || PERCENTILES.iter().zip(&s.kld_percentiles);
    let figures = [
        ("perplexity", &s.perplexity),
        ("perplexity_ratio", &s.perplexity_ratio),
        ("correlation", &s.correlation),
        ("mean_kld", &s.mean_kld),
        ("same_top", &s.same_top),
        ("same_top_5", &s.common_top),
        ("mean_dp", &s.mean_dp),
        ("rms_dp", &s.rms_dp),
    ];
    let mut all = Map::new();
    all.insert("file".to_owned(), candidate.path.as_ref().unwrap_or(&candidate.name).as_str().into());
    all.insert("name".to_owned(), candidate.name.as_str().into());
    all.insert("bytes".to_owned(), candidate.bytes.into());
    all.insert("bits_per_weight".to_owned(), candidate.bits_per_weight().into());
    all.extend(figures.map(|(name, figure)| (name.to_owned(), figure.value.into())));
    all.insert("se_kld".to_owned(), s.se_kld.into());
    all.insert("max_kld".to_owned(), s.max_kld.into());
    let values: Map<String, Value> = percentiles().map(|(p, figure)| (p.to_string(), figure.value.into())).collect();
    all.insert("kld_percentiles".to_owned(), values.into());
    let mut intervals = Map::new();
    intervals.extend(figures.map(|(name, figure)| (name.to_owned(), interval_json(figure))));
    intervals.extend(percentiles().map(|(p, figure)| (format!("kld_percentile_{p}"), interval_json(figure))));
    all.insert("intervals".to_owned(), intervals.into());
    all.into()
}

fn interval_json(figure: &Figure) -> Value {
    json!({"low": figure.low, "high": figure.high})
}

fn pair_json(comparison: &Comparison, (i, j, pair): &(usize, usize, Pair)) -> Value {
    let Figure { value, low, high } = pair.difference;
    json!({
        "a": comparison.candidates[*i].name,
        "b": comparison.candidates[*j].name,
        "difference": value,
        "low": low,
        "high": high,
        "decided": pair.difference.is_decided(),
        "chunks_to_decide": pair.chunks_to_decide,
    })
}

/// The tokens where each candidate of a mode is most astray, by the candidates' names.
fn astray_json(comparison: &Comparison, scores: &ModeScores) -> Value {
    let candidates = comparison.candidates.iter().zip(&scores.candidates);
    let of_candidate = |(facts, scores): (&CandidateFacts, &CandidateScores)| {
        let tokens: Vec<Value> = scores.astray.tokens().iter().map(|one| one_astray(comparison, one)).collect();
        json!({"name": facts.name, "tokens": tokens})
    };
    candidates.map(of_candidate).collect()
}

fn one_astray(comparison: &Comparison, one: &Astray) -> Value {
    let around = one.surroundings(&comparison.text);
    let (before, token, after) = around.map_or((&[][..], None, &[][..]), |a| (a.before, Some(a.token), a.after));
    let top = |expected: &Expected| -> Value {
        let one =
            |(token, p): &(u32, Probability)| json!({"token": token, "text": piece(comparison, &[*token]), "p": p.0});
        expected.top.iter().map(one).collect()
    };
    json!({
        "kld": one.kld,
        "chunk": one.chunk,
        "place": one.place,
        "token": token,
        "before": piece(comparison, before),
        "text": token.map(|token| piece(comparison, &[token])),
        "after": piece(comparison, after),
        "reference": {"p": one.reference.token, "top": top(&one.reference)},
        "candidate": {"p": one.candidate.token, "top": top(&one.candidate)},
    })
}

/// The text of tokens; what is not UTF-8 is replaced.
fn piece(comparison: &Comparison, tokens: &[u32]) -> String {
    let pieces = tokens.iter().filter_map(|token| comparison.pieces.get(token));
    String::from_utf8_lossy(&pieces.flatten().copied().collect::<Vec<u8>>()).into_owned()
}

fn section_json(comparison: &Comparison, section: &Section) -> Value {
    json!({
        "reference": {
            "file": comparison.reference.path,
            "bytes": comparison.reference.bytes,
            "bits_per_weight": comparison.reference.bits_per_weight(),
            "perplexity": section.reference_nll.exp(),
        },
        "candidates": comparison.candidates.iter().zip(&section.summaries).map(candidate_json).collect::<Vec<_>>(),
        "pairs": section.pairs.iter().map(|pair| pair_json(comparison, pair)).collect::<Vec<_>>(),
    })
}

fn mode_json(comparison: &Comparison, (mode, scores): (&ModeReport, &ModeScores)) -> Value {
    let mut all = json!({"mode": mode.mode.name()});
    extend(&mut all, section_json(comparison, &mode.all));
    all["astray"] = astray_json(comparison, scores);
    if !mode.texts.is_empty() {
        let of_text = |section: &Section| {
            let mut of_text = json!({"text": section.text});
            extend(&mut of_text, section_json(comparison, section));
            of_text
        };
        all["by_text"] = mode.texts.iter().map(of_text).collect();
    }
    all
}

fn extend(object: &mut Value, other: Value) {
    if let (Value::Object(object), Value::Object(other)) = (object, other) {
        object.extend(other);
    }
}

/// The first mode at the top, as most comparisons have one; others beside it. What tensors cost is there with each candidate.
pub fn json(report: &Report<'_>, attributions: &[Attribution]) -> Result<Value> {
    let (comparison, text) = (report.comparison, &report.comparison.text);
    let mut modes = report.modes.iter().zip(&comparison.modes).map(|mode| mode_json(comparison, mode));
    let mut all = modes.next().unwrap_or_default();
    for (c, attribution) in attributions.iter().enumerate() {
        all["candidates"][c]["tensors"] = serde_json::to_value(attribution)?;
    }
    let texts = text
        .texts
        .iter()
        .map(|text| json!({"text": text.name, "tokens_sha256": text.tokens_sha256.to_string(), "chunks": text.chunks}));
    all["texts"] = texts.collect();
    all["context"] = text.lengths().into_iter().max().into();
    all["chunks"] = text.chunks.len().into();
    all["tokens_scored"] = text.scores().into();
    let others: Vec<Value> = modes.collect();
    if !others.is_empty() {
        all["other_modes"] = others.into();
    }
    Ok(all)
}
