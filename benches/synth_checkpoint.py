#!/usr/bin/env python3
"""A Hugging Face checkpoint of a real shape with random weights, in several shards, for measuring conversion.

    benches/synth_checkpoint.py DIR [--shape 1b|8b|70b|405b] [--layers N] [--shard-gb 5] [--fp8] [--tokenizer models/tiny-rustdoc]

Needs only the standard library. Weights are BF16, nearly normal; one 16 MiB block of random numbers is repeated at other offsets. With --fp8
the matrices of layers are FP8 (E4M3) with a scale for each row, as in Meta's Llama 3.1 405B Instruct FP8.
"""

import argparse
import json
import math
import os
import random
import shutil
import struct

SHAPES = {  # layers, hidden, ffn, heads, kv heads, vocabulary, tied
    "1b": (16, 2048, 8192, 32, 8, 128256, True),
    "8b": (32, 4096, 14336, 32, 8, 128256, False),
    "70b": (80, 8192, 28672, 64, 8, 128256, False),
    "405b": (126, 16384, 53248, 128, 8, 128256, False),
}
BLOCK = 16 << 20


def tensors(layers, d, ffn, heads, kv, vocab, tied):
    yield "model.embed_tokens.weight", [vocab, d]
    kv_width = d // heads * kv
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", [d]
        yield p + "mlp.down_proj.weight", [d, ffn]
        yield p + "mlp.gate_proj.weight", [ffn, d]
        yield p + "mlp.up_proj.weight", [ffn, d]
        yield p + "post_attention_layernorm.weight", [d]
        yield p + "self_attn.k_proj.weight", [kv_width, d]
        yield p + "self_attn.o_proj.weight", [d, d]
        yield p + "self_attn.q_proj.weight", [d, d]
        yield p + "self_attn.v_proj.weight", [kv_width, d]
    yield "model.norm.weight", [d]
    if not tied:
        yield "lm_head.weight", [vocab, d]


def typed(all_tensors, fp8):
    for name, shape in all_tensors:
        if fp8 and name.startswith("model.layers.") and len(shape) == 2:
            yield name, shape, "F8_E4M3"
            yield name + "_scale", [shape[0], 1], "F32"
        else:
            yield name, shape, "BF16"


BYTES = {"BF16": 2, "F8_E4M3": 1, "F32": 4}


def size(shape, dtype):
    n = BYTES[dtype]
    for length in shape:
        n *= length
    return n


def e4m3(x):
    """The code of the nearest number of FP8 (E4M3), cut off at the largest; what is below the normal ones is 0."""
    if abs(x) < 2**-6:
        return 0
    mantissa, exponent = math.frexp(abs(x))  # 0.5 <= mantissa < 1
    code = round((mantissa * 2 - 1) * 8) + (exponent - 1 + 7) * 8
    return (128 if x < 0 else 0) | min(code, 0x7E)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir")
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--shard-gb", type=float, default=5)
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--tokenizer", default=os.path.join(os.path.dirname(__file__), "../models/tiny-rustdoc"))
    args = parser.parse_args()
    layers, d, ffn, heads, kv, _, tied = SHAPES[args.shape]
    layers = args.layers or layers
    # The vocabulary is that of the given tokenizer, padded as checkpoints pad it.
    vocab = SHAPES[args.shape][5]
    os.makedirs(args.dir, exist_ok=True)
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]:
        shutil.copyfile(os.path.join(args.tokenizer, name), os.path.join(args.dir, name))
    with open(os.path.join(args.tokenizer, "config.json")) as file:
        config = json.load(file)
    config.update(
        num_hidden_layers=layers, hidden_size=d, intermediate_size=ffn, num_attention_heads=heads, num_key_value_heads=kv,
        head_dim=d // heads, vocab_size=vocab, tie_word_embeddings=tied, torch_dtype="bfloat16", max_position_embeddings=131072,
        rope_theta=500000.0,
        rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192},
    )
    if args.fp8:
        config["quantization_config"] = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}
    with open(os.path.join(args.dir, "config.json"), "w") as file:
        json.dump(config, file, indent=2)

    rng = random.Random(1)
    print("random numbers ...", flush=True)
    normal = [rng.gauss(0, 0.02) for _ in range(1 << 16)]
    halves = [struct.pack("<f", x)[2:] for x in normal]
    blocks = {
        "BF16": b"".join(rng.choices(halves, k=BLOCK // 2)) * 2,
        "F8_E4M3": bytes(rng.choices([e4m3(100 * x / 0.02) for x in normal], k=BLOCK)) * 2 if args.fp8 else b"",
        "F32": struct.pack("<f", 0.02 / 100) * (BLOCK // 2),
    }

    shards, used = [[]], 0
    for name, shape, dtype in typed(tensors(layers, d, ffn, heads, kv, vocab, tied), args.fp8):
        if used and used + size(shape, dtype) > args.shard_gb * 1e9:
            shards.append([])
            used = 0
        shards[-1].append((name, shape, dtype))
        used += size(shape, dtype)
    weight_map, total = {}, 0
    for i, shard in enumerate(shards):
        file_name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        header, offset = {}, 0
        for name, shape, dtype in shard:
            end = offset + size(shape, dtype)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
            offset = end
            weight_map[name] = file_name
        total += offset
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(args.dir, file_name), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, shape, dtype in shard:
                left = size(shape, dtype)
                while left:
                    start = rng.randrange(BLOCK // 4) * 4
                    n = min(left, BLOCK)
                    file.write(memoryview(blocks[dtype])[start : start + n])
                    left -= n
        print(file_name, offset, flush=True)
    if len(shards) > 1:
        with open(os.path.join(args.dir, "model.safetensors.index.json"), "w") as file:
            json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, file)


if __name__ == "__main__":
    main()
