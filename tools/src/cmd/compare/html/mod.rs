//! The report as a page: one file, which loads nothing and sends nothing.
//!
//! * `sections.rs`: what the page says, in its order; `tables.rs`, `astray.rs`, `recipe.rs`, `tensors.rs`: its parts;
//! * [`plot`]: SVG by plotters; `numbers.rs` and `names.rs`: figures, names and pieces of text as they are shown;
//! * `style.css`, `script.js`: how it looks, and the buttons that copy a table.
//!
//! All text goes through maud, which escapes it; plots escape their own. The policy in the head allows this style sheet and this script by
//! their hashes and nothing else, so that no text that came from a model could do anything even if it were not escaped.

mod astray;
mod names;
mod numbers;
mod plot;
mod recipe;
mod sections;
mod tables;
mod tensors;

use super::report::Report;
use anyhow::Result;
use base64::prelude::{BASE64_STANDARD, Engine};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};
use strata::eval::compare::Comparison;
use strata::eval::compare::attribution::Attribution;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// What a page is made of.
pub struct Page<'a> {
    report: &'a Report<'a>,
    comparison: &'a Comparison,
    tensors: &'a [Attribution],
    short: Vec<String>,              // of each candidate
    settings: Vec<(String, String)>, // what else was asked for, and where
}

impl<'a> Page<'a> {
    /// Of a comparison. `settings` are named values for the recipe; `tensors` is what each tensor of each candidate costs, or empty.
    pub fn new(report: &'a Report<'a>, tensors: &'a [Attribution], settings: Vec<(String, String)>) -> Page<'a> {
        let comparison = report.comparison;
        let names: Vec<&str> = comparison.candidates.iter().map(|candidate| candidate.name.as_str()).collect();
        Page { report, comparison, tensors, short: names::short(&names), settings }
    }

    /// The whole file.
    ///
    /// # Errors
    /// If a plot cannot be drawn.
    pub fn render(&self) -> Result<String> {
        let reference = names::visible(&self.comparison.reference.name);
        let title = format!("What quantizations of {reference} cost");
        let allowed = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
        let policy = format!(
            "default-src 'none'; style-src {}; script-src {}; base-uri 'none'; form-action 'none'",
            allowed(STYLE),
            allowed(SCRIPT)
        );
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="generator" content={ "strata " (env!("CARGO_PKG_VERSION")) };
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body { (sections::all(self, &title)?) script { (PreEscaped(SCRIPT)) } }
            }
        };
        Ok(page.into_string())
    }

    /// The header of a candidate's row: its short name, and the whole one if that says more.
    fn row_header(&self, i: usize) -> Markup {
        let (short, full) = (&self.short[i], names::visible(&self.comparison.candidates[i].name));
        html! { th scope="row" { (short) @if *full != **short { span.full { (full) } } } }
    }
}

/// A table that scrolls by itself, with buttons that copy it where there is a script.
fn copyable(caption: &str, rows: &Markup) -> Markup {
    html! {
        div.copyable {
            div.scroll role="group" aria-label=(caption) tabindex="0" { table { caption { span { (caption) } } (rows) } }
            p.copy hidden {
                button type="button" data-separator="tab" { "Copy as TSV" }
                button type="button" data-separator="comma" { "Copy as CSV" }
                span role="status" {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use strata::eval::compare::astray::{Astray, Expected, Probability, Worst};
    use strata::eval::compare::attribution::{LayerError, TensorCost, Upgrade};
    use strata::eval::compare::result::{Identity, TypeShare};
    use strata::eval::compare::scores::{CandidateScores, ReferenceScores};
    use strata::eval::compare::text::Chunk;
    use strata::eval::compare::{CandidateFacts, Mode, ModeScores, Text};

    const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\0\u{202e}";

    /// A comparison in which everything that has a name has a hostile one.
    fn comparison(candidates: usize, chunks: usize) -> Comparison {
        let chunk =
            |i: usize| Chunk { number: 0, tokens: (0..8).map(|t| (i as u32 + t) % 4).collect(), scored: vec![3..7] };
        let text = Text::of_chunks(HOSTILE, (0..chunks).map(chunk).collect());
        let n = text.scores();
        let expected = || Expected { token: 0.25, top: (0..4).map(|t| (t, Probability(0.2))).collect() };
        let astray = |kld: f64| Astray { kld, chunk: 0, place: 4, reference: expected(), candidate: expected() };
        let facts = |i: usize| CandidateFacts {
            name: format!("{HOSTILE}{i}.gguf"),
            path: Some(HOSTILE.to_owned()),
            bytes: 1000 * (i as u64 + 1),
            weights: 2000,
            types: vec![TypeShare { ty: HOSTILE.to_owned(), tensors: 1, bytes: 2 }],
            identity: Some(Identity { sha256: text.texts[0].tokens_sha256, covers_weights: false }),
        };
        let scores = |c: usize| CandidateScores {
            nll: (0..n).map(|i| 1.0 + (i * c % 5) as f64 / 10.0).collect(),
            // The first is the reference itself: no logarithm has its zeros.
            kld: (0..n).map(|i| (c * (1 + i % 7)) as f64 / 100.0).collect(),
            same_top: vec![true; n],
            common_top: vec![5; n],
            astray: Worst::of((0..c).map(|i| astray(i as f64))),
        };
        let mode = |mode| ModeScores {
            mode,
            reference: ReferenceScores { nll: vec![1.0; n] },
            candidates: (0..candidates).map(scores).collect(),
        };
        let pieces = [HOSTILE.as_bytes().to_vec(), b"\xff\xfe<b>".to_vec(), b"\r\n".to_vec(), Vec::new()];
        Comparison {
            reference: facts(99),
            candidates: (0..candidates).map(facts).collect(),
            modes: vec![mode(Mode::AsRun), mode(Mode::WeightsOnly)],
            pieces: (0..).zip(pieces).collect::<BTreeMap<_, _>>(),
            text,
        }
    }

    fn tensors() -> Attribution {
        let row = |i: usize| TensorCost {
            name: format!("blk.{i}.{HOSTILE}"),
            layer: (i < 40).then_some(i / 2),
            role: "attn_q",
            ty: "Q4_K",
            bytes: 5,
            weight_error: 1e-3,
            output_error: 0.0,
            kld: 1e-5 * i as f64,
            alone_kld: 2e-5 * i as f64,
            verified: (i == 3).then_some(0.1),
        };
        let upgrade = Upgrade { name: HOSTILE.to_owned(), from: "Q4_K", to: "Q5_K", extra_bytes: 1, saves_kld: 0.1 };
        Attribution {
            measured_kld: 0.1,
            sum_kld: 0.09,
            alone_kld: 0.11,
            sampling_error: 0.05,
            layers: (0..20)
                .map(|layer| LayerError { layer, local: 0.001, accumulated: 0.002 * layer as f64 })
                .collect(),
            tensors: (0..42).map(row).collect(),
            upgrades: vec![upgrade],
        }
    }

    #[test]
    fn no_text_gets_out_of_its_place() {
        for (candidates, chunks) in [(1, 1), (7, 3), (30, 2)] {
            let comparison = comparison(candidates, chunks);
            let report = Report::of(&comparison);
            let tensors: Vec<Attribution> = (0..candidates).map(|_| tensors()).collect();
            let settings = vec![(HOSTILE.to_owned(), HOSTILE.to_owned())];
            let page = Page::new(&report, &tensors, settings).render().unwrap();
            assert_eq!(page.matches("<script").count(), 1, "{candidates}");
            assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<img") && !page.contains("NaN"));
            assert!(!page.contains(['\0', '\u{202e}', '\r']) && !page.contains("://"));
            // Two for size in two widths, two small multiples in each mode; two of layers, and the scale of the maps.
            // Of the reference alone there is no distribution.
            let distributions = if candidates > 1 { candidates } else { 0 };
            let of_modes = 2 * (4 + candidates + distributions);
            assert_eq!(page.matches("<svg").count(), of_modes + 2 * candidates + 1);
        }
    }

    #[test]
    fn the_policy_allows_this_script_only() {
        let comparison = comparison(2, 2);
        let page = Page::new(&Report::of(&comparison), &[], Vec::new()).render().unwrap();
        let hash = BASE64_STANDARD.encode(Sha256::digest(SCRIPT));
        assert!(
            page.contains(&format!("script-src &#39;sha256-{hash}"))
                || page.contains(&format!("script-src 'sha256-{hash}"))
        );
        assert!(page.contains(&format!("<script>{SCRIPT}</script>")) && !page.contains("Layers and tensors"));
        assert!(!SCRIPT.contains("</") && !page.contains("style=\"") && !page.contains("onclick"));
    }
}
