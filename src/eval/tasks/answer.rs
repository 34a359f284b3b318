//! The answers of one model.

use super::Tasks;
use super::scoring::Answers;
use crate::error::{Error, Result};
use crate::eval::compare::Text;
use crate::eval::passes::for_each_scored;
use crate::eval::perplexity::nlls;
use crate::model::{CacheTypes, Model};
use crate::progress::Progress;

/// The answers of a model to the tasks of [`super::open`], whose sequences are `text`. `types` are those of the cache; `progress` counts
/// tokens.
///
/// # Errors
/// If the memory cannot be had, weights cannot be read, a number is not finite, the text is of other tasks, or the user stopped.
pub fn answer(
    model: &Model,
    tasks: &Tasks,
    text: &Text,
    types: CacheTypes,
    progress: &dyn Progress,
) -> Result<Answers> {
    let mut nll = Vec::with_capacity(text.scores());
    progress.begin(tasks.kind.name(), text.lengths().iter().sum::<usize>() as u64);
    for_each_scored(model, text, types, progress, &mut |logits, targets| {
        nll.extend(nlls(model.cpu().isa(), logits, targets));
        Ok(())
    })?;
    progress.end();
    Answers::of(tasks, &text.chunks, &nll).ok_or(Error::Internal("the sequences are not those of the tasks"))
}
