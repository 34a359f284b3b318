#!/usr/bin/env python3
"""Gradients of the small model by PyTorch: `python3 make_gradients.py ../../models/tiny-rustdoc tiny-rustdoc/gradients.json`.

Needs torch and transformers. For the function `L = sum over tokens t and places j of sin(0.37 t + 0.11 j) h[t][j]` of the hidden states h
after the last layer, before its norm, and the first tokens that tests use: the inner product of `dL/dW` with `W`, for every matrix W of
every layer, by its name in GGUF files. It does not depend on the order of rows.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM

TOKENS = [3840, 533, 1381, 1375, 260, 317, 303, 348, 603, 616, 2138, 271, 1381, 1375, 260, 11, 794, 554, 471, 198, 403]
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager")
model.double()
ends = []
model.model.layers[-1].register_forward_hook(lambda _, __, out: ends.append(out[0] if isinstance(out, tuple) else out))
model(torch.tensor([TOKENS]))
h = ends[0].reshape(len(TOKENS), -1)
t, j = torch.arange(h.shape[0], dtype=torch.float64)[:, None], torch.arange(h.shape[1], dtype=torch.float64)[None, :]
(torch.sin(0.37 * t + 0.11 * j) * h).sum().backward()
result = {}
for i, layer in enumerate(model.model.layers):
    for hf, gguf in NAMES.items():
        w = layer.get_submodule(hf).weight
        result[f"blk.{i}.{gguf}.weight"] = (w.grad * w.detach()).sum().item()
with open(sys.argv[2], "w") as f:
    json.dump({"torch": torch.__version__, "products": result}, f, indent=1)
    f.write("\n")
