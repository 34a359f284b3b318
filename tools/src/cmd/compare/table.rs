//! The report for people: tables and lines, which Markdown shows as well; and comma-separated values.

use super::report::{ModeReport, Report, Section};
use crate::output;
use comfy_table::{CellAlignment, Table, presets};
use strata::eval::compare::Comparison;
use strata::eval::compare::summary::{Figure, Pair, Summary};

/// A table of each mode, and what is known of every two candidates. In Markdown that is a list.
pub fn tables(report: &Report<'_>, markdown: bool) -> String {
    let (comparison, mut all) = (report.comparison, String::new());
    for mode in &report.modes {
        if report.modes.len() > 1 {
            all += &format!("{}:\n\n", mode.mode.name());
        }
        all += &format!("{}\n", table(&rows(comparison, &mode.all)));
        let pairs = pairs(comparison, &mode.all).into_iter();
        let bullet = if markdown { "- " } else { "" };
        let pairs: String = pairs.map(|line| format!("{bullet}{line}\n")).collect();
        all += &if markdown { format!("\n{pairs}\n") } else { pairs };
        if !mode.texts.is_empty() {
            all += &format!("\nby text:\n\n{}\n", table(&by_text(comparison, mode)));
        }
    }
    all
}

/// A row for each candidate in each mode, on all texts and on each.
pub fn csv(report: &Report<'_>) -> String {
    let mut all: Vec<Vec<String>> = Vec::new();
    for mode in &report.modes {
        for section in [&mode.all].into_iter().chain(&mode.texts) {
            let rows = rows(report.comparison, section).into_iter().enumerate();
            all.extend(rows.skip(usize::from(!all.is_empty())).map(|(i, row)| {
                let labels = if i == 0 { ["mode", "text"] } else { [mode.mode.name(), &section.text] };
                labels.map(str::to_owned).into_iter().chain(row).collect()
            }));
        }
    }
    comma_separated(&all)
}

/// Rows as comma-separated values (RFC 4180).
pub fn comma_separated(rows: &[Vec<String>]) -> String {
    let quoted = |cell: &String| {
        if cell.contains([',', '"', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
    };
    rows.iter().map(|row| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n").collect()
}

/// The header and a row for each candidate.
fn rows(comparison: &Comparison, section: &Section) -> Vec<Vec<String>> {
    let header = [
        "candidate",
        "size",
        "BPW",
        "PPL",
        "PPL ratio",
        "rho PPL",
        "KLD",
        "median KLD",
        "99 % KLD",
        "99.9 % KLD",
        "max KLD",
        "Same Top P",
        "Same Top 5",
        "RMS dp",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (candidate, s) in comparison.candidates.iter().zip(&section.summaries) {
        rows.push(vec![
            candidate.name.clone(),
            output::bytes(candidate.bytes),
            format!("{:.3}", candidate.bits_per_weight()),
            interval(&s.perplexity, 4, 1.0),
            interval(&s.perplexity_ratio, 5, 1.0),
            format!("{:.4}", s.correlation.value),
            interval(&s.mean_kld, 5, 1.0),
            format!("{:.5}", s.kld_percentiles[0].value),
            format!("{:.4}", s.kld_percentiles[3].value),
            interval(&s.kld_percentiles[4], 3, 1.0),
            format!("{:.3}", s.max_kld),
            interval(&s.same_top, 2, 100.0),
            format!("{:.2}", 100.0 * s.common_top.value),
            interval(&s.rms_dp, 3, 100.0),
        ]);
    }
    rows
}

/// The texts side by side: a row for each candidate, and two columns for each text.
fn by_text(comparison: &Comparison, mode: &ModeReport) -> Vec<Vec<String>> {
    let columns = mode.texts.iter().flat_map(|text| ["PPL ratio", "KLD"].map(|what| format!("{what}, {}", text.text)));
    let mut rows = vec![["candidate".to_owned()].into_iter().chain(columns).collect::<Vec<_>>()];
    for (i, candidate) in comparison.candidates.iter().enumerate() {
        let figures = |s: &Summary| [interval(&s.perplexity_ratio, 5, 1.0), interval(&s.mean_kld, 5, 1.0)];
        let cells = mode.texts.iter().flat_map(|text| figures(&text.summaries[i]));
        rows.push([candidate.name.clone()].into_iter().chain(cells).collect());
    }
    rows
}

/// Which candidates are known to be better than which.
fn pairs(comparison: &Comparison, section: &Section) -> Vec<String> {
    let name = |i: usize| &comparison.candidates[i].name;
    let line = |(i, j, pair): &(usize, usize, Pair)| {
        let (better, worse) = if pair.difference.value <= 0.0 { (i, j) } else { (j, i) };
        let Figure { value, low, high } = pair.difference;
        let interval = format!("difference of KLD {value:.5}, 95 % from {low:.5} to {high:.5}");
        match pair.chunks_to_decide {
            Some(chunks) => {
                format!("{} and {}: not decided ({interval}); about {chunks} chunks would", name(*i), name(*j))
            }
            None if pair.difference.is_decided() => {
                format!("{} is better than {} ({interval})", name(*better), name(*worse))
            }
            None => format!("{} and {}: equal ({interval})", name(*i), name(*j)),
        }
    };
    section.pairs.iter().map(line).collect()
}

/// `0.0313 [0.0301, 0.0326]`, or `0.0313 [0.0301, ∞)`, in units of `1 / scale`.
fn interval(figure: &Figure, digits: usize, scale: f64) -> String {
    let [value, low, high] = [figure.value, figure.low, figure.high].map(|x| format!("{:.digits$}", x * scale));
    match (figure.low.is_finite(), figure.high.is_finite()) {
        (true, true) => format!("{value} [{low}, {high}]"),
        (true, false) => format!("{value} [{low}, ∞)"),
        _ => value,
    }
}

/// Rows as a table, which is Markdown as well; the first is its header.
pub fn table(rows: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(&rows[0]);
    for i in 1..rows[0].len() {
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in &rows[1..] {
        table.add_row(row);
    }
    table
}
