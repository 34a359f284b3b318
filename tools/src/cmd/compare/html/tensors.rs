//! What each layer and each tensor of a candidate costs, if that was asked for.

use super::numbers::{decimals, number};
use super::plot::layers::{self, Map};
use super::{Page, copyable, names};
use crate::output;
use anyhow::Result;
use maud::{Markup, html};
use strata::eval::compare::attribution::{Attribution, TensorCost, Upgrade};

/// Rows of a table that is shown at once.
const SHOWN: usize = 12;

/// Lines of errors by layer, a panel for each candidate.
pub fn errors(page: &Page<'_>) -> Result<Vec<Markup>> {
    let all: Vec<&[_]> = page.tensors.iter().map(|report| &report.layers[..]).collect();
    layers::errors(&all, |i| {
        let last = page.tensors[i].layers.last();
        let end = last.map_or_else(String::new, |last| format!(", {} after the last", number(last.accumulated, 4)));
        format!("Relative error of the residual stream by layer, {}{end}", page.short[i])
    })
}

/// A map of layers and tensors for each candidate, and the scale of all.
pub fn maps(page: &Page<'_>) -> Result<(Vec<Markup>, Markup)> {
    let costs = page.tensors.iter().flat_map(|report| report.tensors.iter().map(|row| row.kld));
    let costs: Vec<f64> = costs.filter(|kld| *kld > 0.0).collect();
    let high = costs.iter().fold(0.0f64, |a, b| a.max(*b)).max(f64::MIN_POSITIVE);
    // What is a thousandth of the worst does not matter.
    let ends = (costs.iter().fold(high, |a, b| a.min(*b)).max(high / 1000.0), high);
    let maps = page.tensors.iter().enumerate().map(|(i, report)| {
        let label =
            format!("Share of the divergence by layer and tensor, {}; the table below has the numbers", page.short[i]);
        layers::map(&map(report), ends, &label)
    });
    let words = [ends.0, ends.1].map(super::plot::axis::plain);
    let scale = layers::scale(&format!("From {} to {} nats", words[0], words[1]))?;
    let scale = html! { p.scale { (words[0]) " " (scale) " " (words[1]) " nats, logarithmic" } };
    Ok((maps.collect::<Result<_>>()?, scale))
}

fn map(report: &Attribution) -> Map<'_> {
    let within = || report.tensors.iter().filter_map(|row| Some((row, row.layer?)));
    let mut roles: Vec<&str> = Vec::new();
    within().for_each(|(row, _)| {
        if !roles.contains(&row.role) {
            roles.push(row.role);
        }
    });
    roles.sort_unstable();
    let layers = within().map(|(_, layer)| layer + 1).max().unwrap_or(0);
    let mut cells = vec![vec![None; layers]; roles.len()];
    for (row, layer) in within() {
        if let Some(r) = roles.iter().position(|role| *role == row.role) {
            cells[r][layer] = Some(row.kld);
        }
    }
    Map { roles, cells }
}

/// The tensors of a candidate, the most costly first, and where more bytes would save most.
pub fn table(page: &Page<'_>, i: usize) -> Markup {
    let (name, report) = (&page.short[i], &page.tensors[i]);
    let all = &report.tensors;
    let [measured, sum, alone] = [report.measured_kld, report.sum_kld, report.alone_kld].map(super::plot::axis::plain);
    let uncertain = 100.0 * report.sampling_error;
    let rows = |rows: &[TensorCost]| {
        html! {
            thead { tr {
                th scope="col" { "Tensor" } th scope="col" { "Type" } th.n scope="col" { "Size" }
                th.n scope="col" { "Weight error" } th.n scope="col" { "Output error" }
                th.n scope="col" { "Share of KLD" } th.n scope="col" { "By itself" } th.n scope="col" { "By itself, measured" }
            } }
            tbody { @for row in rows { tr {
                th scope="row" { (names::visible(&row.name)) }
                td { (row.ty) }
                td.n data-v=(row.bytes) { (output::bytes(row.bytes)) }
                @for error in [row.weight_error, row.output_error, row.kld, row.alone_kld] { (short(error)) }
                @match row.verified { Some(kld) => { (short(kld)) } None => { td.n { "\u{2013}" } } }
            } } }
        }
    };
    html! {
        h4 { (name) }
        p.note {
            "Measured " (measured) " nats a token with activations in F32; the shares sum to " (sum) ", what each costs by itself to " (alone)
            ". Of one tensor they are known to about " (format!("{uncertain:.0}")) " %."
        }
        (copyable(&format!("{name}: the tensors that cost most"), &rows(&all[..all.len().min(SHOWN)])))
        @if all.len() > SHOWN { details { summary { "All " (all.len()) " tensors" } (copyable(&format!("{name}: all tensors"), &rows(all))) } }
        @if !page.tensors[i].upgrades.is_empty() {
            (copyable(&format!("{name}: with 1 % more bytes, spend them here"), &upgrades(&page.tensors[i].upgrades)))
        }
    }
}

fn upgrades(all: &[Upgrade]) -> Markup {
    html! {
        thead { tr {
            th scope="col" { "Tensor" } th scope="col" { "From" } th scope="col" { "To" }
            th.n scope="col" { "More bytes" } th.n scope="col" { "Saves KLD" }
        } }
        tbody { @for upgrade in all { tr {
            th scope="row" { (names::visible(&upgrade.name)) }
            td { (upgrade.from) } td { (upgrade.to) }
            td.n data-v=(upgrade.extra_bytes) { (output::bytes(upgrade.extra_bytes)) }
            (short(upgrade.saves_kld))
        } } }
    }
}

fn short(value: f64) -> Markup {
    html! { td.n data-v=(value) { (number(value, decimals(value, value.abs() / 50.0))) } }
}
