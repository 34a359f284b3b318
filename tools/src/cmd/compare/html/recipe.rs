//! What the figures are of: models, texts, settings, and the hashes by which all of it is known again.

use super::{Page, copyable, names};
use crate::output;
use maud::{Markup, html};
use strata::eval::compare::CandidateFacts;

/// Models and their types of weights.
pub fn models(page: &Page<'_>) -> Markup {
    let comparison = page.comparison;
    let all = [(&comparison.reference, "reference".to_owned())].into_iter();
    let all = all.chain(comparison.candidates.iter().zip(page.short.iter().cloned()));
    let body = html! {
        thead { tr {
            th scope="col" { "Model" } th scope="col" { "Origin" }
            th scope="col" { "Types of its tensors" }
            th.n scope="col" { "Weights" } th.n scope="col" { "Bytes" }
            th scope="col" { "SHA-256 of the header" }
        } }
        tbody { @for (facts, short) in all { tr {
            th scope="row" { (short) @if facts.name != short { span.full { (names::visible(&facts.name)) } } }
            td { (origin(facts)) }
            td { (types(facts)) }
            td.n data-v=(facts.weights) { (grouped(facts.weights)) }
            td.n data-v=(facts.bytes) { (grouped(facts.bytes)) }
            td { @match &facts.identity {
                Some(identity) => { code.hash { (identity.sha256) } @if !identity.covers_weights { " \u{2020}" } }
                None => { "as the reference" }
            } }
        } } }
    };
    html! {
        (copyable("Models", &body))
        p.note {
            "The hash is that of the file's header, of a split model that of its first file, and of the names, types and dimensions of all "
            "tensors; of a checkpoint, that of the header that Strata makes of it. The header of a file that Strata wrote has the SHA-256 of "
            "every tensor and of the source, so that its hash covers the weights (" code { "strata verify" } " compares them). For others, "
            "marked \u{2020}, it does not: no file was read for a hash alone."
        }
    }
}

fn origin(facts: &CandidateFacts) -> Markup {
    html! { @match &facts.path {
        Some(path) => { code.path { (names::visible(path)) } }
        None => { "made of the reference, as it was needed" }
    } }
}

fn types(facts: &CandidateFacts) -> Markup {
    html! { ul.types { @for share in &facts.types {
        li { (names::visible(&share.ty)) ": " (share.tensors) @if share.tensors == 1 { " tensor, " } @else { " tensors, " } (output::bytes(share.bytes)) }
    } } }
}

/// What was asked for, and where.
pub fn settings(page: &Page<'_>) -> Markup {
    let text = &page.comparison.text;
    let modes: Vec<&str> = page.report.modes.iter().map(|mode| mode.mode.name()).collect();
    let chunks: usize = text.texts.iter().map(|text| text.chunks).sum();
    html! { dl.facts {
        @for one in &text.texts {
            dt { "Text" }
            dd { (names::visible(&one.name)) ", " (one.chunks) " chunks; SHA-256 of the tokens " code.hash { (one.tokens_sha256) } }
        }
        dt { "Chunks" }
        dd {
            (text.chunks.len()) @if text.chunks.len() < chunks { " of " (chunks) ": other parts are missing" }
            ", of " (lengths(page)) " tokens; " (grouped(text.scores() as u64)) " tokens scored"
        }
        dt { "Mode" } dd { (modes.join(", ")) }
        @for (name, value) in &page.settings { dt { (names::visible(name)) } dd { (names::visible(value)) } }
    } }
}

/// The least and the greatest length of a chunk.
fn lengths(page: &Page<'_>) -> String {
    let lengths = page.comparison.text.lengths();
    match (lengths.iter().min(), lengths.iter().max()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (Some(length), _) => length.to_string(),
        _ => "no".to_owned(),
    }
}

/// `1 234 567`, with spaces that do not break.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let first = (digits.len() + 2) % 3 + 1;
    let mut text = digits[..first].to_owned();
    for group in digits.as_bytes()[first..].chunks(3) {
        text.push('\u{202f}');
        text.extend(group.iter().map(|digit| *digit as char));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1\u{202f}000"), (1234567, "1\u{202f}234\u{202f}567")] {
            assert_eq!(grouped(n), text);
        }
    }
}
