#!/usr/bin/env python3
"""Makes architectures.json: what transformers computes for a tiny model of each architecture, in float32, and what Hugging Face tokenizers
make of awkward texts with each pre-tokenizer.

    pip install torch transformers tokenizers numpy
    python3 tests/data/make_architectures.py [FOLDER]

The weights are not in the file: both sides compute them from the names of the tensors (`weight` here, `tests/architectures.rs` there). Every
value is a number that BF16 holds. With FOLDER the checkpoints are written there, for other programs.
"""
import json, os, sys
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCAB, SPECIAL = 288, ["<|begin|>", "<|end|>"]
HERE = os.path.dirname(os.path.abspath(__file__))

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
LLAMA3 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
HAN = "[一-龥ࠀ-一가-퟿]+"

# For each pre-tokenizer by llama.cpp's name: its steps before the bytes, whether pieces that are tokens stay whole, whether NFC comes first.
PRE = {
    "llama-bpe": ([LLAMA3], True, False),
    "qwen2": ([QWEN2], False, True),
    "tekken": ([TEKKEN], True, False),
    "deepseek-v3": ([r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3], False, False),
    "deepseek-coder": (["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN, "digits"], False, False),
    "viking": ([r" ?[^(\s|.,!?…。，、।۔،)]+", "digits"], False, False),
    "smollm": (["digits", "words"], False, False),
    "gpt-2": (["words"], False, False),
}

TEXTS = [
    "", " ", "  a", "a  ", "a\n\n  b\r\n", "\t\tx = 10_000; // it's 3.14", "I'LL we've DON'T they'd ''s", "HTTPServer getX ABc aBC",
    "12345 ½ ٣٤٥ 7th", "   \n  \n   x", "naïve cafe\u0301 Å A\u030a", "日本語のテキスト、漢字。ｶﾅ", "안녕하세요 세계", "Привет, мир! Ωμέγα",
    "नमस्ते दुनिया", "🙂🙃👩‍👩‍👧 ok", "/usr/local/bin//\n/x/", "a\u00a0b\u2003c\u3000d", "\x00\x01 \x7f", "(foo|bar)…?! «x»", "end \n", "\r\r\n\n",
    "ﬁ ﬂ Ⅷ ² ㎏", "ǅ ǈ ʰa ª", "\u0301 \u0301x", "x\u200by\u200dz", "﷽ مرحبا ۱۲۳", "$100 €5 `code` ~/.rc", "!important #tag @me", "…\n…",
]


def tokenizer(name):
    steps, ignore_merges, nfc = PRE[name]
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    parts, words = [], False
    for step in steps:
        if step == "digits":
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        elif step == "words":
            words = True
        else:
            parts.append(pre_tokenizers.Split(Regex(step), behavior="isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words))
    t.pre_tokenizer = pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]
    t.decoder = decoders.ByteLevel()
    if nfc:
        t.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    # So small a text that its tokens cross what other pre-tokenizers would cut.
    t.train_from_iterator(["  the 123 it's // ABc xY ...\n\n日本 naïve\n" * 9] + TEXTS, trainer)
    t.add_special_tokens(SPECIAL)
    return t


def weight(name, shape):
    """Values of -127 to 127 / 512, those of norms about 1: splitmix64 of the place, from FNV-1a of the name."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    n = (z >> np.uint64(32)).astype(np.int64) % 255 - 127
    values = 1 + n.astype(np.float32) / 256 if "norm" in name else n.astype(np.float32) / 512
    # Norms have 9 bits: what BF16 holds of them.
    return torch.from_numpy(values.astype(np.float32)).reshape(shape).bfloat16().float()


SMALL = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCAB,
             max_position_embeddings=64, bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1, pad_token_id=None)
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16}


def rope(kind, **values):
    return {"rope_type": kind, "rope_theta": 10000.0, **values}


# Name: class of the configuration, what differs from SMALL, the pre-tokenizer.
CASES = {
    "llama3": ("Llama", dict(rope_parameters=LLAMA3_ROPE), "llama-bpe"),
    "falcon3": ("Llama", dict(head_dim=32, num_attention_heads=3, num_key_value_heads=1, hidden_size=72, rope_parameters=rope("default", rope_theta=1000042.0)), "llama-bpe"),
    "yi": ("Llama", dict(rope_parameters=rope("default", rope_theta=5000000.0), rms_norm_eps=1e-5), "gpt-2"),
    "linear": ("Llama", dict(rope_parameters=rope("linear", factor=4.0)), "smollm"),
    "yarn": ("Llama", dict(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16)), "llama-bpe"),
    "yarn_mscale": ("Llama", dict(rope_parameters=rope("yarn", factor=8.0, original_max_position_embeddings=16, mscale=1.2, mscale_all_dim=0.8,
                                                       beta_fast=16, beta_slow=2)), "deepseek-v3"),
    "dynamic": ("Llama", dict(max_position_embeddings=12, rope_parameters=rope("dynamic", factor=2.0)), "llama-bpe"),
    "biases": ("Llama", dict(attention_bias=True, mlp_bias=True), "deepseek-coder"),
    "mistral": ("Mistral", dict(sliding_window=7), "llama-bpe"),
    "nemo": ("Mistral", dict(sliding_window=None, head_dim=32), "tekken"),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True), "qwen2"),
    "qwen2_window": ("Qwen2", dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, num_hidden_layers=3,
                                   rope_parameters=rope("yarn", factor=2.0, original_max_position_embeddings=16, attention_factor=1.25)), "qwen2"),
    "qwen3": ("Qwen3", dict(head_dim=32), "qwen2"),
    "qwen3_biases": ("Qwen3", dict(head_dim=24, attention_bias=True, tie_word_embeddings=True), "qwen2"),
    "smollm3": ("SmolLM3", dict(num_hidden_layers=5), "llama-bpe"),
    "smollm3_listed": ("SmolLM3", dict(no_rope_layers=[0, 1, 0], num_hidden_layers=3, use_sliding_window=True, sliding_window=6), "llama-bpe"),
    "granite": ("Granite", dict(embedding_multiplier=12.0, attention_multiplier=0.0625, residual_multiplier=0.22, logits_scaling=8.0), "smollm"),
}

PROMPT = [(i * 37 + 11) % 256 for i in range(24)]
NEW, POSITIONS = 12, [0, 9, 23]


@torch.no_grad()
def run(model, name):
    """The logits after some tokens of the prompt, and the greedy continuation."""
    if name == "dynamic":
        # A token at a time: then each position has the frequencies of its own length.
        cache, logits, tokens = transformers.DynamicCache(), [], list(PROMPT)
        for i in range(len(PROMPT) + NEW):
            out = model(torch.tensor([[tokens[i]]]), past_key_values=cache, cache_position=torch.tensor([i]), position_ids=torch.tensor([[i]]))
            logits.append(out.logits[0, -1])
            if i + 1 >= len(PROMPT) and len(tokens) < len(PROMPT) + NEW:
                tokens.append(int(logits[-1].argmax()))
        return torch.stack([logits[p] for p in POSITIONS]), tokens[len(PROMPT):]
    tokens, first, gap = list(PROMPT), None, 1e9
    for _ in range(NEW):
        logits = model(torch.tensor([tokens])).logits[0]
        first = logits if first is None else first
        top = logits[-1].topk(2).values
        gap = min(gap, float(top[0] - top[1]))
        tokens.append(int(logits[-1].argmax()))
    print(f"{name}: logits to {float(first.abs().max()):.2f}, smallest gap {gap:.4f}")
    return first[POSITIONS], tokens[len(PROMPT):]


def make(name, folder, tokenizers):
    kind, values, pre = CASES[name]
    config = getattr(transformers, kind + "Config")(**{**SMALL, **values})
    config._attn_implementation = "eager"
    model = getattr(transformers, kind + "ForCausalLM")(config).float().eval()
    tensors = {n: weight(n, tuple(t.shape)) for n, t in model.state_dict().items() if n != "lm_head.weight" or not config.tie_word_embeddings}
    model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    logits, tokens = run(model, name)
    config.architectures = [kind + "ForCausalLM"]
    settings = json.loads(config.to_json_string(use_diff=True))
    if folder:
        at = os.path.join(folder, name)
        os.makedirs(at, exist_ok=True)
        json.dump(settings, open(os.path.join(at, "config.json"), "w"))
        save_file({n: t.bfloat16().contiguous() for n, t in tensors.items()}, os.path.join(at, "model.safetensors"))
        tokenizers[pre].save(os.path.join(at, "tokenizer.json"))
        json.dump({"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "add_bos_token": False}, open(os.path.join(at, "tokenizer_config.json"), "w"))
    return {
        "config": settings,
        "pre": pre,
        "tensors": {n: list(t.shape) for n, t in tensors.items()},
        "logits": [[round(float(x), 5) for x in row] for row in logits],
        "greedy": tokens,
    }


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    tokenizers = {name: tokenizer(name) for name in PRE}
    encoded = {name: {"json": json.loads(t.to_str()), "ids": [t.encode(x, add_special_tokens=False).ids for x in TEXTS]} for name, t in tokenizers.items()}
    cases = {name: make(name, folder, tokenizers) for name in CASES}
    all = {"transformers": transformers.__version__, "prompt": PROMPT, "positions": POSITIONS, "texts": TEXTS, "tokenizers": encoded, "cases": cases}
    with open(os.path.join(HERE, "architectures.json"), "w") as file:
        json.dump(all, file, separators=(",", ":"), sort_keys=True)


main()
