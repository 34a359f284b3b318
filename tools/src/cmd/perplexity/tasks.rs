//! `strata perplexity --hellaswag`, `--winogrande` and `--multiple-choice`: the answers of a model to tasks.

use super::Args;
use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use strata::arch::Hyperparameters;
use strata::eval::passes::need;
use strata::eval::tasks::answer::answer;
use strata::eval::tasks::scoring::{self, Answers};
use strata::eval::tasks::{Share, Tasks, open};
use strata::gguf::Gguf;
use strata::tokenizer::Tokenizer;

pub use strata::eval::tasks::Kind as TaskKind;

impl Args {
    /// Has the model answer the tasks of a file, and prints how it did.
    pub(super) fn answer(
        &self,
        gguf: Gguf,
        tokenizer: &Tokenizer,
        kind: TaskKind,
        at_most: Option<u64>,
        file: &Path,
    ) -> Result<()> {
        let of = Hyperparameters::read(&gguf)?;
        let (types, shown) = (self.cache.types(), Shown::new(Unit::Tokens));
        let at_most = at_most.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let context = self.context.unwrap_or(of.context);
        let text = open(kind, file, at_most, tokenizer, context, &shown)?;
        let Some(tasks) = text.texts.iter().find_map(|text| text.tasks.as_ref()) else { bail!("there are no tasks") };
        let model = self.model.load(gguf, need(&of, &text, types)?)?;
        let answers = answer(&model, tasks, &text, types, &shown)?;
        if self.json {
            output::print_json(&self.described(json(tasks, &answers)))
        } else {
            output::print(&words(tasks, &answers))
        }
    }
}

/// A line for each task, as llama-perplexity prints it, and the figures of all.
fn words(tasks: &Tasks, answers: &Answers) -> String {
    let mut lines = vec![
        match tasks.kind {
            TaskKind::HellaSwag => "task\tacc_norm\t95% confidence interval",
            TaskKind::Winogrande => "task\taccuracy\tscore 1\tscore 2\tanswer\tright answer",
            TaskKind::MultipleChoice => "task\tacc_norm",
        }
        .to_owned(),
    ];
    let mut right = 0;
    for (i, (task, scores)) in tasks.tasks.iter().zip(&answers.scores).enumerate() {
        right += usize::from(answers.right[i]);
        let Share { value, low, high } = scoring::share(right, i + 1);
        let [value, low, high] = [value, low, high].map(|share| 100.0 * share);
        lines.push(match (tasks.kind, &scores[..]) {
            (TaskKind::HellaSwag, _) => format!("{}\t{value:.8}%\t[{low:.4}%, {high:.4}%]", i + 1),
            (TaskKind::Winogrande, [first, second]) => {
                let (chosen, should) = (answers.chosen[i] + 1, 1 + usize::from(task.right[1]));
                format!("{}\t{value:.4}\t{first:10.6}  {second:10.6}  {chosen}  {should}", i + 1)
            }
            _ => format!("{}\t{value:.8}", i + 1),
        });
    }
    let (Share { value, low, high }, n) = (answers.accuracy(), tasks.tasks.len());
    lines.push(format!(
        "{}: {:.2} % of {n} tasks right, 95 % from {:.2} to {:.2} (Wilson); chance {:.2} %",
        tasks.kind.name(),
        100.0 * value,
        100.0 * low,
        100.0 * high,
        100.0 * chance(tasks),
    ));
    lines.join("\n") + "\n"
}

/// The share of right answers that guessing would give, one right answer a task.
pub(in crate::cmd) fn chance(tasks: &Tasks) -> f64 {
    tasks.tasks.len() as f64 / tasks.tasks.iter().map(|task| task.answers.len()).sum::<usize>() as f64
}

fn json(tasks: &Tasks, answers: &Answers) -> Value {
    let all = tasks.tasks.iter().enumerate().map(|(i, task)| {
        json!({
            "place": task.place,
            "answer": answers.chosen[i],
            "right": answers.right[i],
            "scores": answers.scores[i],
        })
    });
    let Share { value, low, high } = answers.accuracy();
    json!({
        "tasks": tasks.kind.name(),
        "tasks_scored": tasks.tasks.len(),
        "tasks_in_file": tasks.in_file,
        "accuracy": value,
        "interval": {"low": low, "high": high},
        "chance": chance(tasks),
        "answers": all.collect::<Vec<_>>(),
    })
}
