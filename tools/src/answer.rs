//! Answers that are shown while they are made.

use anyhow::{Error, Result};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use strata::engine::{Collected, Collecting, Event, Listener, Token, collect};

/// An answer that is being shown.
pub struct Shown {
    collecting: Collecting,
    failed: Arc<Mutex<Option<Error>>>, // to show a part
}

impl Shown {
    /// The answer, when it is complete.
    pub fn take(self) -> Result<Collected> {
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(self.collecting.take()?),
        }
    }
}

/// A listener that shows each token and the text that was held back at the end, and keeps the answer. It ends when it cannot be shown.
pub fn shown(mut show: impl FnMut(Option<&Token>, &str) -> Result<()> + Send + 'static) -> (Listener, Shown) {
    let (mut collector, collecting) = collect();
    let failed = Arc::new(Mutex::new(None));
    let of_listener = failed.clone();
    let listener: Listener = Box::new(move |event| {
        let done = match &event {
            Event::Token(token) => show(Some(token), &token.text),
            Event::Finished(finished) => show(None, &finished.rest),
            Event::Prefill { .. } | Event::Failed(_) => Ok(()),
        };
        let went_on = collector(event);
        match done {
            Ok(()) => went_on,
            Err(error) => {
                of_listener.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                ControlFlow::Break(())
            }
        }
    });
    (listener, Shown { collecting, failed })
}
