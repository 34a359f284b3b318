//! The answers of the reference and of all candidates to tasks: accuracy, and which answers changed.

use super::super::perplexity::tasks::chance;
use super::Args;
use super::table::{comma_separated, table};
use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use strata::arch::Hyperparameters;
use strata::eval::compare::text::TextFacts;
use strata::eval::compare::{CandidateFacts, Comparison, ModeScores, Text};
use strata::eval::tasks::scoring::Answers;
use strata::eval::tasks::{Flips, Kind, Share, Tasks, open};
use strata::tokenizer::Tokenizer;

/// Tasks in place of a text.
#[derive(clap::Args)]
pub struct TaskArgs {
    /// HellaSwag in place of a text: llama.cpp's file of six lines a task
    #[arg(long, value_name = "FILE", conflicts_with_all = ["texts", "chats", "context", "stride", "chunks"])]
    hellaswag: Option<PathBuf>,
    /// HellaSwag tasks, chosen at random as llama.cpp chooses them
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    hellaswag_tasks: u64,
    /// Winogrande in place of a text: llama.cpp's file of comma-separated values
    #[arg(long, value_name = "FILE", conflicts_with_all = ["texts", "chats", "context", "stride", "chunks"])]
    winogrande: Option<PathBuf>,
    /// Winogrande tasks, chosen at random as llama.cpp chooses them [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    winogrande_tasks: Option<u64>,
    /// Multiple choice, as MMLU, ARC, TruthfulQA, in place of a text: llama.cpp's binary file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["texts", "chats", "context", "stride", "chunks"])]
    multiple_choice: Option<PathBuf>,
    /// Multiple choices, chosen at random as llama.cpp chooses them [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    multiple_choice_tasks: Option<u64>,
}

impl TaskArgs {
    /// The files of tasks, with their kinds and the most tasks to take.
    fn all(&self) -> impl Iterator<Item = (Kind, &Path, Option<u64>)> {
        let all = [
            (Kind::HellaSwag, &self.hellaswag, Some(self.hellaswag_tasks)),
            (Kind::Winogrande, &self.winogrande, self.winogrande_tasks),
            (Kind::MultipleChoice, &self.multiple_choice, self.multiple_choice_tasks),
        ];
        all.into_iter().filter_map(|(kind, file, at_most)| Some((kind, file.as_deref()?, at_most)))
    }

    /// The files of tasks.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.all().map(|(_, file, _)| file)
    }

    /// The sequences of all tasks; `None` if there are to be none.
    pub fn text(&self, tokenizer: &Tokenizer, of: &Hyperparameters) -> Result<Option<Text>> {
        let (mut all, shown) = (None, Shown::new(Unit::Bytes));
        for (kind, file, at_most) in self.all() {
            let at_most = at_most.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            let text = open(kind, file, at_most, tokenizer, of.context, &shown)?;
            all.get_or_insert_with(Text::default).append(text);
        }
        Ok(all)
    }
}

/// The answers to the tasks of one file in one mode.
struct Section<'c> {
    mode: &'c ModeScores,
    text: &'c TextFacts,
    tasks: &'c Tasks,
    reference: Answers,
    candidates: Vec<(&'c CandidateFacts, Answers, Flips)>,
}

impl Args {
    /// Prints the answers to all tasks.
    pub(super) fn report_tasks(&self, comparison: &Comparison) -> Result<()> {
        let sections = sections(comparison)?;
        if self.json {
            let all: Vec<Value> = sections.iter().map(|section| section.json(comparison)).collect();
            return output::print_json(&json!({ "tasks": all }));
        }
        if self.csv {
            let mut all: Vec<Vec<String>> = Vec::new();
            for section in &sections {
                let rows = section.rows(comparison).into_iter().enumerate().skip(usize::from(!all.is_empty()));
                let labels = [section.mode.mode.name(), section.tasks.kind.name()];
                all.extend(rows.map(|(i, row)| {
                    let labels = if i == 0 { ["mode", "tasks"] } else { labels };
                    labels.map(str::to_owned).into_iter().chain(row).collect()
                }));
            }
            return output::print_lines(&comma_separated(&all));
        }
        let one = |section: &Section<'_>| {
            let Tasks { kind, tasks, .. } = section.tasks;
            let (name, mode, n) = (kind.name(), section.mode.mode.name(), tasks.len());
            let chance = 100.0 * chance(section.tasks);
            format!(
                "{name}, {n} tasks, {mode}; percent, with 95 % intervals; chance {chance:.1}:\n\n{}\n\n",
                table(&section.rows(comparison))
            )
        };
        output::print_lines(sections.iter().map(one).collect::<String>().trim_end())
    }
}

/// The answers in all modes to the tasks of all files.
fn sections(comparison: &Comparison) -> Result<Vec<Section<'_>>> {
    let (ranges, mut sections) = (comparison.ranges(), Vec::new());
    for mode in &comparison.modes {
        for (text, chunks) in comparison.text.texts.iter().zip(comparison.chunks_of_texts()) {
            let Some(tasks) = &text.tasks else { continue };
            let sequences = &comparison.text.chunks[chunks.clone()];
            let scores = match &ranges[chunks] {
                [first, .., last] => first.start..last.end,
                [only] => only.clone(),
                [] => 0..0,
            };
            let answers = |nll: &[f64]| {
                let answers = Answers::of(tasks, sequences, &nll[scores.clone()]);
                answers.with_context(|| format!("{}: parts of the answers are missing; merge all parts", text.name))
            };
            let reference = answers(&mode.reference.nll)?;
            let candidates = comparison.candidates.iter().zip(&mode.candidates);
            let candidates = candidates.map(|(facts, scores)| {
                let answers = answers(&scores.nll)?;
                let flips = answers.flips(&reference);
                Ok((facts, answers, flips))
            });
            let candidates = candidates.collect::<Result<Vec<_>>>()?;
            sections.push(Section { mode, text, tasks, reference, candidates });
        }
    }
    Ok(sections)
}

impl Section<'_> {
    /// The header, and a row for the reference and each candidate.
    fn rows(&self, comparison: &Comparison) -> Vec<Vec<String>> {
        let header =
            ["model", "size", "BPW", "accuracy", "change", "answers changed", "right to wrong", "wrong to right"];
        let row = |facts: &CandidateFacts, answers: &Answers, flips: Option<&Flips>| {
            let sizes = [facts.name.clone(), output::bytes(facts.bytes), format!("{:.3}", facts.bits_per_weight())];
            let flips = match flips {
                Some(flips) => [
                    percent(&flips.accuracy),
                    percent(&flips.changed),
                    flips.right_to_wrong.to_string(),
                    flips.wrong_to_right.to_string(),
                ],
                None => ["", "", "", ""].map(str::to_owned),
            };
            sizes.into_iter().chain([percent(&answers.accuracy())]).chain(flips).collect::<Vec<_>>()
        };
        let mut rows = vec![header.map(str::to_owned).to_vec(), row(&comparison.reference, &self.reference, None)];
        rows.extend(self.candidates.iter().map(|(facts, answers, flips)| row(facts, answers, Some(flips))));
        rows
    }

    fn json(&self, comparison: &Comparison) -> Value {
        let of = |facts: &CandidateFacts, answers: &Answers| {
            json!({
                "name": facts.name,
                "file": facts.path.as_ref().unwrap_or(&facts.name),
                "bytes": facts.bytes,
                "bits_per_weight": facts.bits_per_weight(),
                "accuracy": share(&answers.accuracy()),
                "answers": answers.chosen,
            })
        };
        let candidates = self.candidates.iter().map(|(facts, answers, flips)| {
            let mut all = of(facts, answers);
            all["accuracy_change"] = share(&flips.accuracy);
            all["changed"] = share(&flips.changed);
            all["right_to_wrong"] = flips.right_to_wrong.into();
            all["wrong_to_right"] = flips.wrong_to_right.into();
            all
        });
        json!({
            "kind": self.tasks.kind.name(),
            "file": self.text.name,
            "mode": self.mode.mode.name(),
            "tasks": self.tasks.tasks.len(),
            "tasks_in_file": self.tasks.in_file,
            "chance": chance(self.tasks),
            "reference": of(&comparison.reference, &self.reference),
            "candidates": candidates.collect::<Vec<_>>(),
        })
    }
}

/// `45.25 [40.43, 50.16]`
fn percent(share: &Share) -> String {
    let [value, low, high] = [share.value, share.low, share.high].map(|share| 100.0 * share);
    format!("{value:.2} [{low:.2}, {high:.2}]")
}

fn share(share: &Share) -> Value {
    json!({"value": share.value, "low": share.low, "high": share.high})
}
