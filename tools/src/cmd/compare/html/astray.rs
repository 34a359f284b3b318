//! The tokens where a candidate goes most astray: the text around each, and what both models expected in its place.

use super::Page;
use super::names::{Lines, text_of};
use super::numbers::probability;
use super::plot::axis::plain;
use maud::{Markup, html};
use std::collections::BTreeMap;
use strata::eval::compare::astray::{Astray, Expected};

/// How many of a candidate are shown at once; the others are behind a button.
const OPEN: usize = 3;

/// The bytes of tokens.
type Pieces = BTreeMap<u32, Vec<u8>>;

/// Those of candidate `i`.
pub fn of_candidate(page: &Page<'_>, i: usize, all: &[Astray]) -> Markup {
    let name = &page.short[i];
    let (open, rest) = all.split_at(all.len().min(OPEN));
    html! {
        @if all.is_empty() { p { "No token diverges." } }
        @for one in open { (token(page, name, one)) }
        @if !rest.is_empty() {
            details { summary { "The next " (rest.len()) } @for one in rest { (token(page, name, one)) } }
        }
    }
}

fn token(page: &Page<'_>, name: &str, one: &Astray) -> Markup {
    let pieces = &page.comparison.pieces;
    let context = |tokens: &[u32]| text_of(&bytes(pieces, tokens), Lines::Kept);
    let Some(around) = one.surroundings(&page.comparison.text) else { return html! {} };
    let (reference, candidate) = (&one.reference, &one.candidate);
    html! {
        article.astray {
            p.where { "KLD " strong { (plain(one.kld)) } ", chunk " (one.chunk + 1) ", token " (one.place) }
            p.context {
                bdi { "\u{2026}" (context(around.before)) }
                mark { bdi { (text_of(&bytes(pieces, &[around.token]), Lines::Marked)) } }
                bdi { (context(around.after)) "\u{2026}" }
            }
            div.both {
                (expected(pieces, "Reference", around.token, reference))
                (expected(pieces, name, around.token, candidate))
            }
        }
    }
}

fn expected(pieces: &Pieces, who: &str, token: u32, expected: &Expected) -> Markup {
    let listed = expected.top.iter().any(|(other, _)| *other == token);
    let own = (token, expected.token);
    let rows = expected.top.iter().map(|(token, p)| (*token, p.0)).chain((!listed).then_some(own));
    html! {
        table {
            caption { (who) " expected" }
            thead.sr { tr { th scope="col" { "Token" } th scope="col" { "Probability" } } }
            tbody { @for (other, p) in rows {
                tr class=[(other == token).then_some("right")] {
                    th scope="row" {
                        bdi { (text_of(&bytes(pieces, &[other]), Lines::Marked)) }
                        @if other == token { span.tag { " \u{2190} the text" } }
                    }
                    td.n { (probability(p)) }
                }
            } }
        }
    }
}

/// The bytes of tokens; the number of one whose bytes nobody knows.
fn bytes(pieces: &Pieces, tokens: &[u32]) -> Vec<u8> {
    let piece = |token: &u32| pieces.get(token).cloned().unwrap_or_else(|| format!("[{token}]").into_bytes());
    tokens.iter().flat_map(piece).collect()
}
