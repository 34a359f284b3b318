//! Architectures that people have and that are of another kind than a dense decoder: what to say of them.

/// A router chooses among several feed-forward networks. Values of `general.architecture`, of `architectures` and of `model_type`.
const EXPERTS: &[&str] = &[
    "MixtralForCausalLM",
    "mixtral",
    "qwen2moe",
    "Qwen2MoeForCausalLM",
    "qwen2_moe",
    "qwen3moe",
    "Qwen3MoeForCausalLM",
    "qwen3_moe",
    "granitemoe",
    "GraniteMoeForCausalLM",
    "GraniteMoeSharedForCausalLM",
    "granitemoeshared",
    "llama4",
    "Llama4ForCausalLM",
    "Llama4ForConditionalGeneration",
    "llama4_text",
    "mistral4",
    "dbrx",
    "DbrxForCausalLM",
    "olmoe",
    "OlmoeForCausalLM",
    "phimoe",
    "PhimoeForCausalLM",
    "gpt-oss",
    "gpt_oss",
    "GptOssForCausalLM",
    "deepseek",
    "deepseek2",
    "DeepseekForCausalLM",
    "DeepseekV2ForCausalLM",
    "deepseek_v2",
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    "ernie4_5-moe",
    "Ernie4_5_MoeForCausalLM",
];

/// Layers that are no attention: state spaces, recurrences, convolutions.
const HYBRIDS: &[&str] = &[
    "mamba",
    "mamba2",
    "MambaForCausalLM",
    "Mamba2ForCausalLM",
    "falcon-h1",
    "falcon_h1",
    "FalconH1ForCausalLM",
    "lfm2",
    "Lfm2ForCausalLM",
    "nemotron_h",
    "NemotronHForCausalLM",
    "bamba",
    "BambaForCausalLM",
];

/// Both.
const HYBRIDS_OF_EXPERTS: &[&str] = &[
    "jamba",
    "JambaForCausalLM",
    "granitehybrid",
    "GraniteMoeHybridForCausalLM",
    "granitemoehybrid",
    "qwen3next",
    "qwen3_next",
    "Qwen3NextForCausalLM",
    "lfm2moe",
    "lfm2_moe",
    "Lfm2MoeForCausalLM",
];

/// What the models of this architecture, class or model type are, if it is a known one of another kind.
pub(crate) fn kind_of(name: &str) -> Option<&'static str> {
    let kinds = [
        (EXPERTS, "a mixture of experts"),
        (HYBRIDS, "a hybrid of attention and other layers"),
        (HYBRIDS_OF_EXPERTS, "a hybrid of attention and other layers with mixtures of experts"),
    ];
    kinds.into_iter().find(|(names, _)| names.contains(&name)).map(|(_, kind)| kind)
}

/// What to do about it.
pub(crate) const REMEDY: &str =
    "strata runs dense models; use a dense one of its family, or run this one with llama.cpp";
