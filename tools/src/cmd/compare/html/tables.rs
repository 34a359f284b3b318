//! The tables of figures and of pairs.

use super::numbers::{cell, cell_with, decimals, interval, number, plain_cell};
use super::{Page, copyable, names};
use crate::cmd::compare::report::{ModeReport, Section};
use crate::output;
use maud::{Markup, html};
use strata::eval::compare::summary::{PERCENTILES, Pair};

/// How far each candidate's predictions are from the reference's.
pub fn divergence(page: &Page<'_>, section: &Section, front: &[bool]) -> Markup {
    let candidates = page.comparison.candidates.iter().zip(&section.summaries).enumerate();
    let body = html! {
        thead { tr {
            th scope="col" { "Candidate" }
            th.n scope="col" { "Size" }
            th.n scope="col" { abbr title="bits per weight" { "BPW" } }
            th.n scope="col" { "Mean KLD" }
            th.n scope="col" { "Median" }
            @for percent in &PERCENTILES[1..] { th.n scope="col" { (percent) " %" } }
            th.n scope="col" { "Largest" }
            th scope="col" { "Best trade" }
        } }
        tbody { @for (i, (candidate, s)) in candidates { tr {
            (page.row_header(i))
            td.n data-v=(candidate.bytes) { (output::bytes(candidate.bytes)) }
            td.n data-v=(candidate.bits_per_weight()) { (format!("{:.3}", candidate.bits_per_weight())) }
            (cell(&s.mean_kld, 1.0))
            @for figure in &s.kld_percentiles { (cell(figure, 1.0)) }
            (plain_cell(s.max_kld, 0))
            td { @if front[i] { "yes" } @else { "no" } }
        } } }
    };
    copyable("KL divergence from the reference, in nats per token, with 95 % intervals", &body)
}

/// How well each candidate predicts the text.
pub fn predictions(page: &Page<'_>, section: &Section) -> Markup {
    let perplexity = section.reference_nll.exp();
    let body = html! {
        thead { tr {
            th scope="col" { "Model" }
            th.n scope="col" { abbr title="perplexity" { "PPL" } }
            th.n scope="col" { "PPL ratio" }
            th.n scope="col" { abbr title="correlation of the log-probabilities of tokens" { "\u{3c1} PPL" } }
            th.n scope="col" { "Same Top P, %" }
            th.n scope="col" { "Same Top 5, %" }
            th.n scope="col" { abbr title="mean change of the right token's probability" { "Mean \u{394}p, %" } }
            th.n scope="col" { abbr title="root of the mean square of that change" { "RMS \u{394}p, %" } }
        } }
        tbody {
            tr {
                th scope="row" { span.full { (names::visible(&page.comparison.reference.name)) } " (reference)" }
                (plain_cell(perplexity, 3))
                @for _ in 0..6 { td.n { span aria-label="not applicable" { "\u{2013}" } } }
            }
            @for (i, s) in section.summaries.iter().enumerate() { tr {
                (page.row_header(i))
                (cell_with(&s.perplexity, 1.0, 3))
                (cell(&s.perplexity_ratio, 1.0))
                (cell(&s.correlation, 1.0))
                (cell(&s.same_top, 100.0))
                (cell(&s.common_top, 100.0))
                (cell(&s.mean_dp, 100.0))
                (cell(&s.rms_dp, 100.0))
            } }
        }
    };
    copyable("Predictions of the text, with 95 % intervals", &body)
}

/// Which candidate is better than which: a square of words, and the differences below.
pub fn pairs(page: &Page<'_>, section: &Section) -> Markup {
    let mut order: Vec<usize> = (0..section.summaries.len()).collect();
    order.sort_by(|a, b| section.summaries[*a].mean_kld.value.total_cmp(&section.summaries[*b].mean_kld.value));
    let find = |a: usize, b: usize| section.pairs.iter().find(|(i, j, _)| (*i, *j) == (a.min(b), a.max(b)));
    let verdict = |a: usize, b: usize| match find(a, b) {
        Some((first, _, pair)) => words(pair, *first == a),
        None => (String::new(), ""),
    };
    let square = html! {
        thead { tr {
            th scope="col" { "is \u{2026} than" }
            @for b in &order { th scope="col" { (page.short[*b]) } }
        } }
        tbody { @for a in &order { tr {
            th scope="row" { (page.short[*a]) }
            @for b in &order {
                @if a == b { td.same { span aria-label="itself" { "\u{b7}" } } }
                @else { @let (text, class) = verdict(*a, *b); td class=(class) { (text) } }
            }
        } } }
    };
    let list = html! {
        thead { tr {
            th scope="col" { "A" } th scope="col" { "B" }
            th.n scope="col" { "KLD of A less that of B" }
            th scope="col" { "Verdict" } th.n scope="col" { "Chunks to decide" }
        } }
        tbody { @for (i, j, pair) in &section.pairs { tr {
            th scope="row" { (page.short[*i]) } td { (page.short[*j]) }
            (cell(&pair.difference, 1.0))
            td { (sentence(page, *i, *j, pair)) }
            @match pair.chunks_to_decide {
                Some(chunks) => { td.n data-v=(chunks) { "about " (chunks) } }
                None => { td.n { span aria-label="not applicable" { "\u{2013}" } } }
            }
        } } }
    };
    html! {
        (copyable("Mean KL divergence, each row's candidate beside each column's", &square))
        details { summary { "The differences and their intervals" } (copyable("Pairs of candidates on the same tokens", &list)) }
    }
}

/// What is known of a pair, for its first candidate or for its second, and the class of the cell.
fn words(pair: &Pair, first: bool) -> (String, &'static str) {
    let less = (pair.difference.value < 0.0) == first;
    match (pair.difference.is_decided(), less) {
        (true, true) => ("better".to_owned(), "better"),
        (true, false) => ("worse".to_owned(), "worse"),
        (false, _) if pair.difference.value == 0.0 => ("equal".to_owned(), "open"),
        (false, _) => ("not known".to_owned(), "open"),
    }
}

fn sentence(page: &Page<'_>, i: usize, j: usize, pair: &Pair) -> String {
    let (a, b) = (&page.short[i], &page.short[j]);
    match words(pair, true).1 {
        "better" => format!("{a} is better"),
        "worse" => format!("{b} is better"),
        _ => "not known".to_owned(),
    }
}

/// The mean divergence on each text, side by side.
pub fn texts(page: &Page<'_>, mode: &ModeReport) -> Markup {
    let sections = || std::iter::once(&mode.all).chain(&mode.texts);
    let body = html! {
        thead { tr {
            th scope="col" { "Candidate" }
            th.n scope="col" { "All texts" }
            @for text in &mode.texts { th.n scope="col" { span.name { (names::visible(&text.text)) } } }
        } }
        tbody { @for i in 0..page.short.len() { tr {
            (page.row_header(i))
            @for section in sections() { (cell(&section.summaries[i].mean_kld, 1.0)) }
        } } }
    };
    copyable("Mean KL divergence on each text, in nats per token", &body)
}

/// Numbers of a plot, for whoever does not see it or wants to copy them.
pub fn numbers_of(page: &Page<'_>, caption: &str, x: &str, lines: &[Vec<(f64, f64)>]) -> Markup {
    let mut all: Vec<f64> = lines.iter().flatten().map(|(x, _)| *x).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    let at = |line: &[(f64, f64)], x: f64| line.iter().find(|point| point.0 == x).map(|point| point.1);
    let body = html! {
        thead { tr { th.n scope="col" { (x) } @for name in &page.short { th.n scope="col" { (name) } } } }
        tbody { @for x in all { tr {
            th.n scope="row" data-v=(x) { (super::plot::axis::plain(x)) }
            @for line in lines { @match at(line, x) {
                Some(y) => { td.n data-v=(y) { (super::plot::axis::plain(y)) } }
                None => { td.n { "0" } }
            } }
        } } }
    };
    html! { details { summary { "The numbers" } (copyable(caption, &body)) } }
}

/// A figure in a sentence: `0.0313 (95 %: 0.0301 – 0.0326)`.
pub fn in_words(figure: &strata::eval::compare::summary::Figure) -> String {
    let digits = decimals(figure.value, (figure.high - figure.low) / 2.0);
    match figure.low.is_finite() {
        true => format!("{} (95 %: {})", number(figure.value, digits), interval(figure.low, figure.high, digits)),
        false => number(figure.value, digits.max(4)),
    }
}
