"""Makes decode.safetensors: blocks of every format and what the Python package gguf (0.19) decodes them to.

    python3 -m venv v && v/bin/pip install gguf numpy safetensors && v/bin/python make_decode.py decode.safetensors

NAME.blocks and NAME.values: 24 random blocks. NAME.codes: 256 blocks, in block c every byte of codes and small scales is c, scales in
half precision are 0.5; NAME.codes.sha256: of their values as little-endian float32.
"""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file


def formats():
    """(type, where the half-precision numbers of a block are) of every block format that Strata has, as their files say."""
    for path in (Path(__file__).resolve().parents[2] / "quant/src/formats").glob("*.rs"):
        text = path.read_text()
        name = re.search(r"const TYPE: GgmlType = GgmlType::(\w+);", text)
        halves = re.search(r"blocks::format::<[^(]*>\(\s*&\[([\d, ]+)\]", text)
        if name and halves:
            yield GGMLQuantizationType[name[1]], [int(at) for at in halves[1].split(",")]


rng = np.random.default_rng(1)
out = {}


def decode(blocks, ty):
    return dequantize(blocks.reshape(-1), ty).astype(np.float32).reshape(-1)


for ty, halves in sorted(formats(), key=lambda format: (GGML_QUANT_SIZES[format[0]][0], format[0])):
    name = ty.name
    size = GGML_QUANT_SIZES[ty][1]
    blocks = rng.integers(0, 256, (24, size), dtype=np.uint8)
    codes = np.repeat(np.arange(256, dtype=np.uint8)[:, None], size, axis=1)
    for at in halves:
        # Every finite number in half precision is as likely.
        d = rng.integers(0, 0x7C00, 24, dtype=np.uint16) | rng.integers(0, 2, 24, dtype=np.uint16) << 15
        blocks[:, at : at + 2] = d.view(np.uint8).reshape(-1, 2)
        codes[:, at : at + 2] = np.full(256, 0.5, np.float16).view(np.uint8).reshape(-1, 2)
    out[f"{name}.blocks"] = blocks
    out[f"{name}.values"] = decode(blocks, ty)
    out[f"{name}.codes"] = codes
    digest = hashlib.sha256(decode(codes, ty).astype("<f4").tobytes()).digest()
    out[f"{name}.codes.sha256"] = np.frombuffer(digest, np.uint8)
save_file(out, sys.argv[1])
