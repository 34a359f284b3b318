//! What the page says, in its order.

use super::plot::panels::{self, Line};
use super::plot::trades::{self, Trade};
use super::plot::{Size, axis};
use super::{Page, astray, names, recipe, tables, tensors};
use crate::cmd::compare::report::{ModeReport, Section};
use anyhow::Result;
use maud::{Markup, html};
use strata::eval::compare::summary::{Figure, Summary};
use strata::eval::compare::{Mode, ModeScores};

const FIGURES: &str = "Kullback-Leibler divergence (KLD) of each candidate's predictions from the reference's, over the whole vocabulary, \
                       and its percentiles over tokens. Under each figure its 95 % interval; it has no upper end where too few tokens lie beyond. \
                       A best trade is a candidate to which no other is both smaller and nearer to the reference.";
const TRADES: &str = "Lower left is better. Filled points are best trades, and the dashed line is their front. Bars are 95 % intervals, where these have two ends.";
const PAIRS: &str = "On the same tokens, chunk by chunk. Better and worse are said only where the 95 % interval of the difference \
                     excludes zero.";
const ALONG: &str =
    "Mean KL divergence (nats, log scale) by the place of the token in its chunk. Gray: the other candidates.";
const DISTRIBUTION: &str = "Share of tokens that diverge by more than so much, both on log scales. A line that ends farther left is \
                            better. Gray: the other candidates.";
const ASTRAY: &str = "The tokens where each candidate diverges most from the reference, in the text, with the most likely tokens of \
                      both. \u{2423} is a space, \u{21b5} the end of a line.";

/// Bins along the context.
const BINS: usize = 16;

/// The body of the page.
pub fn all(page: &Page<'_>, title: &str) -> Result<Markup> {
    let mut sections = vec![
        ("figures", "Figures", per_mode(page, FIGURES, |mode, _| Ok(figures(page, mode)))?),
        ("trades", "Divergence and size", per_mode(page, TRADES, |mode, _| size(page, &mode.all))?),
    ];
    if page.short.len() > 1 {
        sections.push((
            "pairs",
            "Which is better",
            per_mode(page, PAIRS, |mode, _| Ok(tables::pairs(page, &mode.all)))?,
        ));
    }
    sections.push(("context", "Along the context", per_mode(page, ALONG, |_, scores| along(page, scores))?));
    let distributions = per_mode(page, DISTRIBUTION, |mode, scores| distribution(page, &mode.all, scores))?;
    sections.push(("distribution", "How divergence is distributed", distributions));
    if !page.tensors.is_empty() {
        sections.push(("layers", "Layers and tensors", layers(page)?));
    }
    sections.push(("astray", "Most astray", per_mode(page, ASTRAY, |_, scores| Ok(worst(page, scores)))?));
    sections.push(("recipe", "Recipe", html! { (recipe::settings(page)) (recipe::models(page)) }));
    Ok(html! {
        a.skip href="#main" { "Skip to the figures" }
        header {
            h1 { (title) }
            (summary(page))
            nav aria-label="Contents" { ul { @for (id, name, _) in &sections { li { a href={ "#" (id) } { (name) } } } } }
        }
        main id="main" {
            @for (id, name, body) in &sections {
                section aria-labelledby=(id) { h2 id=(id) { (name) } (body) }
            }
        }
        footer { p { "Made by strata " (env!("CARGO_PKG_VERSION")) ". This page is one file; it loads nothing and sends nothing." } }
    })
}

/// The same section for each mode, under a heading if there are several.
fn per_mode(
    page: &Page<'_>,
    note: &str,
    section: impl Fn(&ModeReport, &ModeScores) -> Result<Markup>,
) -> Result<Markup> {
    let modes = &page.report.modes;
    let sections = modes.iter().zip(&page.comparison.modes).map(|(report, scores)| {
        let about = match report.mode {
            Mode::AsRun => "As run: with 8-bit activations, what the user gets",
            Mode::AsRun16 => "As run: with 16-bit activations",
            Mode::WeightsOnly => "Weights only: with activations in float32, what the file is",
        };
        let body = section(report, scores)?;
        Ok(html! { @if modes.len() > 1 { h3 { (about) } } (body) })
    });
    let sections: Vec<Markup> = sections.collect::<Result<_>>()?;
    Ok(html! { @if !note.is_empty() { p.note { (note) } } @for section in sections { (section) } })
}

/// What the first mode says, in sentences.
fn summary(page: &Page<'_>) -> Markup {
    let (comparison, Some(mode)) = (page.comparison, page.report.modes.first()) else { return html! {} };
    let all = &mode.all;
    let front = trades::on_front(&trades_of(page, all, |s| s.mean_kld));
    let best: Vec<&str> =
        page.short.iter().zip(&front).filter(|(_, front)| **front).map(|(name, _)| name.as_str()).collect();
    let decided = all.pairs.iter().filter(|(_, _, pair)| pair.difference.is_decided()).count();
    let mean = |i: &usize| all.summaries[*i].mean_kld.value;
    let least = (0..all.summaries.len()).min_by(|a, b| mean(a).total_cmp(&mean(b)));
    let (count, chunks) = (comparison.candidates.len(), comparison.text.chunks.len());
    html! {
        p.lead {
            (count) @if count == 1 { " candidate" } @else { " candidates" }
            " beside " (names::visible(&comparison.reference.name)) " on " (chunks) @if chunks == 1 { " chunk" } @else { " chunks" }
            " of " (names::visible(&all.text)) ", " (mode.mode.name()) "."
            @if let Some(i) = least {
                " The least divergence has " strong { (page.short[i]) } ": "
                (tables::in_words(&all.summaries[i].mean_kld)) " nats per token."
            }
            @if best.len() < count { " No other is both smaller and nearer than " (listed(&best)) "." }
            @if !all.pairs.is_empty() { " Of " (all.pairs.len()) " pairs " (decided) " are decided." }
        }
    }
}

/// `a, b and c`
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

fn figures(page: &Page<'_>, mode: &ModeReport) -> Markup {
    let front = |section: &Section| trades::on_front(&trades_of(page, section, |s| s.mean_kld));
    html! {
        (tables::divergence(page, &mode.all, &front(&mode.all)))
        (tables::predictions(page, &mode.all))
        @if page.comparison.text.chunks.len() < 2 {
            p.note { "One chunk tells nothing of its own uncertainty: there are no intervals." }
        }
        @if !mode.texts.is_empty() {
            (tables::texts(page, mode))
            @for text in &mode.texts {
                details {
                    summary { "All figures on " (names::visible(&text.text)) }
                    (tables::divergence(page, text, &front(text)))
                    (tables::predictions(page, text))
                }
            }
        }
    }
}

fn trades_of<'a>(page: &'a Page<'_>, section: &Section, of: impl Fn(&Summary) -> Figure) -> Vec<Trade<'a>> {
    let all = page.comparison.candidates.iter().zip(&page.short).zip(&section.summaries);
    all.map(|((candidate, label), s)| Trade { label, bytes: candidate.bytes, kld: of(s) }).collect()
}

fn size(page: &Page<'_>, section: &Section) -> Result<Markup> {
    let weights = page.comparison.reference.weights;
    let plot = |title: &str, of: &dyn Fn(&Summary) -> Figure| -> Result<Markup> {
        let trades = trades_of(page, section, of);
        let label = format!("{title} against size, {} candidates; the table of figures has the numbers", trades.len());
        let wide = trades::draw(&trades, weights, Size { width: 520, height: 420 }, &label)?;
        let narrow = trades::draw(&trades, weights, Size { width: 343, height: 380 }, &label)?;
        Ok(html! {
            figure {
                figcaption { strong { (title) } ", nats, log scale" }
                div.wide { (wide) } div.narrow { (narrow) }
            }
        })
    };
    let other = page.comparison.candidates.iter().any(|candidate| candidate.weights != weights);
    Ok(html! {
        div.two {
            (plot("Mean KL divergence", &|s| s.mean_kld)?)
            (plot("99.9 % KL divergence", &|s| s.kld_percentiles[4])?)
        }
        @if other { p.note { "Not all models have the same number of weights: bits per weight are those of the reference." } }
    })
}

/// A grid of panels, each under the name of its candidate.
fn grid(page: &Page<'_>, panels: Vec<Markup>, class: &str) -> Markup {
    html! { div class={ "panels " (class) } {
        @for (name, panel) in page.short.iter().zip(panels) { figure { figcaption { (name) } (panel) } }
    } }
}

fn along(page: &Page<'_>, scores: &ModeScores) -> Result<Markup> {
    let places: Vec<usize> = page.comparison.text.scored().iter().map(|token| token.place).collect();
    let bins = panels::bins(&places, BINS);
    let all = scores.candidates.iter();
    let lines: Vec<Line> = all.map(|scores| panels::by_place(&places, &scores.kld, &bins)).collect();
    let Some((x, y)) = panels::along_axes(&lines) else { return Ok(html! {}) };
    let drawn = panels::draw(&lines, &x, &y, "place in the chunk", |i| {
        let ends = (lines[i].first(), lines[i].last());
        let from_to = match ends {
            (Some(first), Some(last)) => format!(", from {} to {} nats", axis::plain(first.1), axis::plain(last.1)),
            _ => String::new(),
        };
        format!("Mean KL divergence along the context, {}{from_to}", page.short[i])
    })?;
    Ok(html! {
        (grid(page, drawn, "small"))
        (tables::numbers_of(page, "Mean KL divergence by place in the chunk, in nats", "Place", &lines))
    })
}

fn distribution(page: &Page<'_>, section: &Section, scores: &ModeScores) -> Result<Markup> {
    let all: Vec<&[f64]> = scores.candidates.iter().map(|scores| scores.kld.as_slice()).collect();
    let thresholds = panels::thresholds(&all);
    let lines: Vec<Line> = all.iter().map(|kld| panels::shares_above(kld, &thresholds)).collect();
    let Some((x, y)) = panels::share_axes(&lines) else { return Ok(html! { p { "No token diverges." } }) };
    let drawn = panels::draw(&lines, &x, &y, "KLD of a token", |i| {
        let s = &section.summaries[i];
        let [median, _, _, p99, _] = s.kld_percentiles.map(|figure| axis::plain(figure.value));
        format!(
            "Share of tokens by divergence, {}: half above {median}, one in a hundred above {p99} nats",
            page.short[i]
        )
    })?;
    let shown: Vec<Line> = lines.iter().map(|line| line.iter().step_by(5).copied().collect()).collect();
    Ok(html! {
        (grid(page, drawn, "small"))
        (tables::numbers_of(page, "Share of tokens that diverge by more than so many nats", "Nats", &shown))
    })
}

fn layers(page: &Page<'_>) -> Result<Markup> {
    let (maps, scale) = tensors::maps(page)?;
    let errors = tensors::errors(page)?;
    Ok(html! {
        h3 { "Error by layer" }
        p.note { "Relative error of the residual stream. Solid: accumulated over all layers so far. Dashed: of the layer alone, with the reference's input." }
        (grid(page, errors, "medium"))
        h3 { "Share of the divergence by tensor" }
        p.note { "An estimate from gradients, by layer and tensor; all sum to the divergence. Darker costs more (in a dark page, lighter)." }
        (scale)
        (grid(page, maps, "large"))
        @for i in 0..page.tensors.len() { (tensors::table(page, i)) }
    })
}

fn worst(page: &Page<'_>, scores: &ModeScores) -> Markup {
    html! {
        @for (i, scores) in scores.candidates.iter().enumerate() {
            details.candidate open[i == 0] { summary { (page.short[i]) } (astray::of_candidate(page, i, scores.astray.tokens())) }
        }
    }
}
