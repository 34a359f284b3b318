//! `--tensors`: which layers and tensors cost what, for people and for programs.

use super::table::{comma_separated, table};
use crate::output;
use std::path::PathBuf;
use strata::eval::compare::attribution::{Attribution, Options};
use strata::eval::compare::{CandidateFacts, Comparison, Settings};

/// The most tensors in a table for people.
const MOST: usize = 15;

/// What is asked about tensors.
#[derive(clap::Args)]
pub struct TensorArgs {
    /// Also say which layers and tensors cost what, with activations in F32: the share of each in the KL divergence, what it costs by
    /// itself, and where 1 % more bytes would save most. Needs all chunks: not with --shard
    #[arg(long, conflicts_with_all = ["shard", "merge", "hellaswag", "winogrande", "multiple_choice"])]
    tensors: bool,
    /// With --tensors, also measure what the N most costly tensors of each candidate cost by themselves, one at a time
    #[arg(long, value_name = "N", requires = "tensors")]
    verify_tensors: Option<usize>,
}

impl TensorArgs {
    /// The settings beside those of the comparison, if anything is asked. Beside a file for its state is one for this.
    pub fn options(&self, settings: &Settings) -> Option<Options> {
        let beside = |path: &PathBuf| {
            let mut name = path.clone().into_os_string();
            name.push(".tensors");
            if path.is_dir() { path.clone() } else { name.into() }
        };
        let state = settings.state.as_ref().map(beside);
        let verify = self.verify_tensors.unwrap_or(0);
        self.tensors.then(|| Options { probes: None, verify, spill: settings.spill.clone(), state })
    }
}

/// The tables of all candidates.
pub fn tables(comparison: &Comparison, attributions: &[Attribution]) -> String {
    let all = comparison.candidates.iter().zip(attributions);
    all.map(|(candidate, attribution)| of_candidate(candidate, attribution)).collect()
}

fn of_candidate(candidate: &CandidateFacts, of: &Attribution) -> String {
    let (measured, sum, alone) = (of.measured_kld, of.sum_kld, of.alone_kld);
    let uncertain = 100.0 * of.sampling_error;
    let mut text = format!(
        "\n{}: KLD {measured:.5} weights only; shares of all tensors {sum:.5}; by themselves {alone:.5}; a tensor is uncertain by \
         {uncertain:.0} %\n\n",
        candidate.name
    );
    text += &format!("{}\n", table(&tensors(of, MOST)));
    if of.tensors.len() > MOST {
        text += &format!("\n{} more tensors: --json or --csv\n", of.tensors.len() - MOST);
    }
    text += &format!("\n{}\n", table(&layers(of)));
    if !of.upgrades.is_empty() {
        text += &format!("\nwith 1 % more bytes:\n\n{}\n", table(&upgrades(of)));
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// The most costly tensors.
fn tensors(of: &Attribution, most: usize) -> Vec<Vec<String>> {
    let verified = of.tensors.iter().any(|tensor| tensor.verified.is_some());
    let mut header = row(["tensor", "type", "size", "weight error", "output error", "KLD", "share", "by itself"]);
    header.extend(verified.then(|| "by itself, measured".to_owned()));
    let mut rows = vec![header];
    // Those that were measured are all shown.
    let shown = of.tensors.iter().filter(|tensor| tensor.verified.is_some()).count().max(most);
    for tensor in of.tensors.iter().take(shown) {
        let mut cells = vec![
            tensor.name.clone(),
            tensor.ty.to_owned(),
            output::bytes(tensor.bytes),
            format!("{:.2e}", tensor.weight_error),
            format!("{:.2e}", tensor.output_error),
            format!("{:.6}", tensor.kld),
            format!("{:.1} %", 100.0 * tensor.kld / of.sum_kld),
            format!("{:.6}", tensor.alone_kld),
        ];
        cells.extend(verified.then(|| tensor.verified.map_or_else(String::new, |kld| format!("{kld:.6}"))));
        rows.push(cells);
    }
    rows
}

/// The errors of the residual stream after each layer, and the shares of its tensors.
fn layers(of: &Attribution) -> Vec<Vec<String>> {
    let mut rows = vec![row(["layer", "local error", "accumulated error", "KLD", "share"])];
    for layer in &of.layers {
        let own = of.tensors.iter().filter(|tensor| tensor.layer == Some(layer.layer));
        let kld: f64 = own.map(|tensor| tensor.kld).sum();
        rows.push(vec![
            layer.layer.to_string(),
            format!("{:.2e}", layer.local),
            format!("{:.2e}", layer.accumulated),
            format!("{kld:.6}"),
            format!("{:.1} %", 100.0 * kld / of.sum_kld),
        ]);
    }
    rows
}

/// Where one percent more bytes would save most.
fn upgrades(of: &Attribution) -> Vec<Vec<String>> {
    let mut rows = vec![row(["tensor", "from", "to", "more bytes", "saves KLD", "per MB"])];
    for upgrade in &of.upgrades {
        rows.push(vec![
            upgrade.name.clone(),
            upgrade.from.to_owned(),
            upgrade.to.to_owned(),
            output::bytes(upgrade.extra_bytes),
            format!("{:.6}", upgrade.saves_kld),
            format!("{:.6}", upgrade.saves_kld * 1e6 / upgrade.extra_bytes as f64),
        ]);
    }
    rows
}

/// All tensors of all candidates as comma-separated values.
pub fn csv(comparison: &Comparison, attributions: &[Attribution]) -> String {
    let what = ["candidate", "tensor", "layer", "role", "type", "bytes"];
    let costs = ["weight_error", "output_error", "kld", "alone_kld", "verified"];
    let mut rows = vec![[row(what), row(costs)].concat()];
    for (candidate, of) in comparison.candidates.iter().zip(attributions) {
        for tensor in &of.tensors {
            rows.push(vec![
                candidate.name.clone(),
                tensor.name.clone(),
                tensor.layer.map_or_else(String::new, |layer| layer.to_string()),
                tensor.role.to_owned(),
                tensor.ty.to_owned(),
                tensor.bytes.to_string(),
                tensor.weight_error.to_string(),
                tensor.output_error.to_string(),
                tensor.kld.to_string(),
                tensor.alone_kld.to_string(),
                tensor.verified.map_or_else(String::new, |kld| kld.to_string()),
            ]);
        }
    }
    comma_separated(&rows)
}
