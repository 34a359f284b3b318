//! What the server is doing, as of a moment ago: read without asking the worker, who may be in a long pass.

use serde_json::{Value, json};
use strata::engine::SlotStatus;

/// A model in memory.
#[derive(Clone, Debug, Default)]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// Bytes of memory that it may take.
    pub bytes: u64,
    /// Requests without a slot.
    pub waiting: usize,
    /// What its file says of itself, and what it is served with.
    pub about: Value,
    /// Its slots.
    pub slots: Vec<SlotStatus>,
}

/// What the server is doing.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The models in memory.
    pub models: Vec<ModelStatus>,
    /// The models that are being loaded.
    pub loading: Vec<String>,
    /// Where the pass is that goes on now: the model and the layer.
    pub step: Option<(String, String)>,
}

impl Status {
    /// Requests in slots.
    pub fn processing(&self) -> usize {
        self.models.iter().flat_map(|model| &model.slots).filter(|slot| slot.is_processing).count()
    }

    /// Requests without a slot.
    pub fn waiting(&self) -> usize {
        self.models.iter().map(|model| model.waiting).sum()
    }

    /// How the model of this name is: `loaded`, `loading` or `unloaded`.
    pub fn state_of(&self, name: &str) -> &'static str {
        match (self.models.iter().any(|model| model.name == name), self.loading.iter().any(|one| one == name)) {
            (true, _) => "loaded",
            (_, true) => "loading",
            _ => "unloaded",
        }
    }

    /// The layer that the pass of a model is in, if one goes on.
    pub fn step_of(&self, name: &str) -> Value {
        match &self.step {
            Some((model, step)) if model == name => json!(step),
            _ => Value::Null,
        }
    }
}
