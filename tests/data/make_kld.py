# Says by independent programs what quantizations cost, weights only: GGUF files decoded by the Python package gguf, run by transformers in
# float32, beside the checkpoint that they were made of; sums in float64.
#   pip install torch transformers gguf safetensors
#   strata convert CHECKPOINT -t q4_k_m -t q8_0 ...
#   python make_kld.py CHECKPOINT TEXT CHUNKS FILE.gguf... > kld.json
#   python make_kld.py --check compare.json kld.json        # compare.json: strata compare CHECKPOINT FILE.gguf... --weights-only --json
# tiny-rustdoc/kld.json was made so of llama-quantize's files.
import json
import os
import sys

CONTEXT = 512


def check(compare, golden):
    """Prints the differences of two results; 1 if a perplexity or a mean divergence differs by more than 0.5 %.

    Divergences below 1e-9 are what float32 rounds in the same weights (F16 holds most of BF16): they are not compared."""
    ours = {os.path.basename(c["file"]).lower(): c for c in json.load(open(compare))["candidates"]}
    worst = {}
    for result in json.load(open(golden))["results"]:
        c = ours[result["file"].lower()]
        pairs = {"perplexity": c["perplexity"], "mean_kld": c["mean_kld"], "same_top": c["same_top"], "rms_dp": c["rms_dp"],
                 "median_kld": c["kld_percentiles"]["50"], "p99_kld": c["kld_percentiles"]["99"], "max_kld": c["max_kld"]}
        differences = {k: abs(v - result[k]) / max(abs(result[k]), 1e-12) for k, v in pairs.items()
                       if k in ("perplexity", "same_top") or result["mean_kld"] > 1e-9}
        print(f"{result['file']:40}", *(f"{k} {100 * v:.4f} %" for k, v in differences.items()))
        for k, v in differences.items():
            worst[k] = max(worst.get(k, 0), v)
    print(f"{'largest':40}", *(f"{k} {100 * v:.4f} %" for k, v in worst.items()))
    return int(max(worst["perplexity"], worst.get("mean_kld", 0)) > 0.005)


if sys.argv[1] == "--check":
    sys.exit(check(*sys.argv[2:4]))

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

MATRICES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj"}
OTHERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def state(path, config):
    """The weights of a GGUF file by their names in transformers."""
    weights = {}
    for tensor in GGUFReader(path).tensors:
        w = torch.from_numpy(np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type).astype(np.float32)))
        parts = tensor.name.split(".")
        if parts[0] == "rope_freqs":
            continue
        if parts[0] != "blk":
            weights[f"{OTHERS[parts[0]]}.{parts[-1]}"] = w
            continue
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(parts[2])
        if heads:  # GGUF keeps the halves of each head interleaved
            w = w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
        weights[f"model.layers.{parts[1]}.{MATRICES[parts[2]]}.{parts[3]}"] = w
    if "lm_head.weight" not in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


@torch.no_grad()
def log_probabilities(model, chunk):
    logits = model(chunk[None]).logits[0, CONTEXT // 2:CONTEXT - 1]
    return torch.log_softmax(logits.double(), -1)  # (scored, vocab)


checkpoint, text, chunks, files = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
# By tokenizer.json itself: AutoTokenizer may make another of the class that the configuration names.
ids = Tokenizer.from_file(os.path.join(checkpoint, "tokenizer.json")).encode(open(text, encoding="utf-8").read()).ids
tokens = torch.tensor(ids[:chunks * CONTEXT]).reshape(-1, CONTEXT)
base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
if ids[0] == base.config.bos_token_id:  # a tokenizer that adds it
    tokens[:, 0] = ids[0]
reference = [log_probabilities(base, chunk) for chunk in tokens]
targets = tokens[:, CONTEXT // 2 + 1:]
results = []
model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
for file in files:
    missing, unexpected = model.load_state_dict(state(file, model.config), strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    scores = {name: [] for name in ("kld", "nll", "base_nll", "same", "dp")}
    for chunk, target, p in zip(tokens, targets, reference):
        q = log_probabilities(model, chunk)
        nll, base_nll = (-x.gather(1, target[:, None])[:, 0] for x in (q, p))
        scores["kld"].append((p.exp() * (p - q)).sum(-1))
        scores["nll"].append(nll)
        scores["base_nll"].append(base_nll)
        scores["same"].append((p.argmax(-1) == q.argmax(-1)).double())
        scores["dp"].append((-nll).exp() - (-base_nll).exp())
    s = {name: torch.cat(values).numpy() for name, values in scores.items()}
    results.append({
        "file": os.path.basename(file), "bytes": os.path.getsize(file),
        "perplexity": float(np.exp(s["nll"].mean())), "base_perplexity": float(np.exp(s["base_nll"].mean())),
        "mean_kld": float(s["kld"].mean()), "median_kld": float(np.median(s["kld"])), "p99_kld": float(np.percentile(s["kld"], 99)),
        "max_kld": float(s["kld"].max()), "same_top": float(s["same"].mean()), "rms_dp": float(np.sqrt((s["dp"] ** 2).mean())),
    })
    print(json.dumps(results[-1]), file=sys.stderr)
json.dump({"text": text, "chunks": chunks, "context": CONTEXT,
           "computed_by": "weights decoded by the Python package gguf, transformers in float32, sums in float64", "results": results},
          sys.stdout, indent=1)
