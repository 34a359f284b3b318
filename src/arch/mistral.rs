//! Mistral 7B and Nemo: llama in GGUF files. Version 0.1 attends to the last 4096 tokens, which llama.cpp does not know of such files.

use super::{Architecture, ConfigDefaults, Windows, llama};

/// The architecture.
pub(super) static MISTRAL: Architecture = Architecture {
    hf_classes: &["MistralForCausalLM"],
    hf_model_types: &["mistral"],
    defaults: ConfigDefaults { context: 131_072, ..llama::ROW.defaults },
    windows: Windows::All { default: 4096 },
    ..llama::ROW
};
