#!/usr/bin/env python3
"""Write a whole Llama 3.1 405B in Q4_K_M that takes no space: 126 layers, 243 GB of length, and holes for weights.

    sparse_405b.py OUT.gguf [--layers N]

Holes read as zeros, so every logit is 0; but every byte goes the way of a real one, from the file to the kernels. What it cannot show is
the disk: holes are read at the speed of the file system. Needs nothing but Python.
"""
import argparse, struct

D, FFN, HEADS, KV_HEADS, VOCAB = 16384, 53248, 128, 8, 128256
TYPES = {"F32": (0, 1, 4), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210)}  # number, values and bytes of a block
ALIGN = 32


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def more_bits(i, n):
    """The layers whose attn_v and ffn_down llama-quantize gives Q6_K in Q4_K_M."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def tensors(layers):
    kv = D // HEADS * KV_HEADS
    yield "token_embd.weight", (D, VOCAB), "Q4_K"
    yield "output_norm.weight", (D,), "F32"
    yield "output.weight", (D, VOCAB), "Q6_K"
    for i in range(layers):
        more = "Q6_K" if more_bits(i, layers) else "Q4_K"
        for name, dims, ty in [
            ("attn_norm", (D,), "F32"), ("attn_q", (D, D), "Q4_K"), ("attn_k", (D, kv), "Q4_K"), ("attn_v", (D, kv), more),
            ("attn_output", (D, D), "Q4_K"), ("ffn_norm", (D,), "F32"), ("ffn_gate", (D, FFN), "Q4_K"),
            ("ffn_up", (D, FFN), "Q4_K"), ("ffn_down", (FFN, D), more),
        ]:
            yield f"blk.{i}.{name}.weight", dims, ty


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=126)
    args = parser.parse_args()
    u32 = lambda n: struct.pack("<II", 4, n)
    f32 = lambda x: struct.pack("<If", 6, x)
    text = lambda s: struct.pack("<I", 8) + string(s)
    pairs = {
        "general.architecture": text("llama"), "general.name": text("sparse-llama-3.1-405b"), "general.file_type": u32(15),
        "llama.block_count": u32(args.layers), "llama.context_length": u32(131072), "llama.embedding_length": u32(D),
        "llama.feed_forward_length": u32(FFN), "llama.attention.head_count": u32(HEADS),
        "llama.attention.head_count_kv": u32(KV_HEADS), "llama.rope.dimension_count": u32(D // HEADS),
        "llama.vocab_size": u32(VOCAB), "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
        "llama.rope.freq_base": f32(500000.0), "tokenizer.ggml.model": text("no_vocab"),
    }
    plan, table, offset = list(tensors(args.layers)), b"", 0
    norms = []
    for name, dims, ty in plan:
        number, block, size = TYPES[ty]
        table += string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", number, offset)
        values = 1
        for n in dims:
            values *= n
        norms += [offset] if ty == "F32" else []
        offset += -(-(values // block * size) // ALIGN) * ALIGN
    header = b"GGUF" + struct.pack("<IQQ", 3, len(plan), len(pairs))
    header += b"".join(string(key) + value for key, value in pairs.items()) + table
    header += bytes(-len(header) % ALIGN)
    with open(args.out, "wb") as file:
        file.write(header)
        file.truncate(len(header) + offset)
        for at in norms:
            file.seek(len(header) + at)
            file.write(struct.pack("<f", 1.0) * D)
    print(f"{args.out}: {len(header) + offset} bytes")


main()
