//! Architectures that people have and that are of another kind than a dense decoder: what to say of them.

/// Why the models of an architecture do not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A router chooses among several feed-forward networks.
    Experts,
    /// Layers that are no attention: state spaces, recurrences, convolutions.
    Hybrid,
    /// Both.
    HybridExperts,
}

/// The values of `general.architecture`, of `architectures` and of `model_type`, with their kind.
const KNOWN: &[(&[&str], Kind)] = &[
    (
        &[
            "MixtralForCausalLM",
            "mixtral",
            "qwen2moe",
            "Qwen2MoeForCausalLM",
            "qwen2_moe",
            "qwen3moe",
            "Qwen3MoeForCausalLM",
        ],
        Kind::Experts,
    ),
    (
        &["qwen3_moe", "granitemoe", "GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM", "granitemoeshared"],
        Kind::Experts,
    ),
    (
        &["llama4", "Llama4ForCausalLM", "Llama4ForConditionalGeneration", "llama4_text", "mistral4", "dbrx"],
        Kind::Experts,
    ),
    (
        &["DbrxForCausalLM", "olmoe", "OlmoeForCausalLM", "phimoe", "PhimoeForCausalLM", "gpt-oss", "gpt_oss"],
        Kind::Experts,
    ),
    (&["GptOssForCausalLM", "deepseek", "deepseek2", "DeepseekForCausalLM", "DeepseekV2ForCausalLM"], Kind::Experts),
    (
        &["deepseek_v2", "deepseek_v3", "DeepseekV3ForCausalLM", "ernie4_5-moe", "Ernie4_5_MoeForCausalLM"],
        Kind::Experts,
    ),
    (
        &["mamba", "mamba2", "MambaForCausalLM", "Mamba2ForCausalLM", "falcon-h1", "falcon_h1", "FalconH1ForCausalLM"],
        Kind::Hybrid,
    ),
    (&["lfm2", "Lfm2ForCausalLM", "nemotron_h", "NemotronHForCausalLM", "bamba", "BambaForCausalLM"], Kind::Hybrid),
    (
        &["jamba", "JambaForCausalLM", "granitehybrid", "GraniteMoeHybridForCausalLM", "granitemoehybrid"],
        Kind::HybridExperts,
    ),
    (
        &["qwen3next", "qwen3_next", "Qwen3NextForCausalLM", "lfm2moe", "lfm2_moe", "Lfm2MoeForCausalLM"],
        Kind::HybridExperts,
    ),
];

/// What the models of this architecture, class or model type are, if it is a known one of another kind.
pub(crate) fn kind_of(name: &str) -> Option<&'static str> {
    let (_, kind) = KNOWN.iter().find(|(names, _)| names.contains(&name))?;
    Some(match kind {
        Kind::Experts => "a mixture of experts",
        Kind::Hybrid => "a hybrid of attention and other layers",
        Kind::HybridExperts => "a hybrid of attention and other layers with mixtures of experts",
    })
}

/// What to do about it.
pub(crate) const REMEDY: &str =
    "strata runs dense models; use a dense one of its family, or run this one with llama.cpp";
