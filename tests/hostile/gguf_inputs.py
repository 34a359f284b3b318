"""GGUF files that are damaged: bytes, numbers of the structure, metadata, tensor table, weights."""
import os
import struct

import formats
from formats import ARRAY, BOOL, F32, F64, I32, STRING, U8, U32, U64, Gguf, Tensor

BASES = ("f16.gguf", "spm.gguf", "q4_k_m.gguf", "q8_0.gguf")
EVIL = (0, 1, 2, 7, 31, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**60, 2**63 - 1, 2**63, 2**64 - 1, "-1", "+1", "x2", "/2")
# Metadata that decides what is computed, and what of it llama.cpp lets be absent.
SHAPE = ("llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length", "llama.attention.head_count",
         "llama.attention.head_count_kv", "llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon", "llama.attention.key_length",
         "llama.attention.value_length", "llama.rope.dimension_count", "llama.vocab_size", "llama.rope.scaling.type",
         "llama.rope.scaling.factor", "llama.rope.scaling.original_context_length", "llama.expert_count", "llama.attention.causal",
         "llama.attention.sliding_window", "llama.tensor_data_layout", "general.alignment", "general.architecture", "split.count",
         "split.no", "split.tensors.count")
WORDS = ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type",
         "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
         "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id", "tokenizer.ggml.add_bos_token",
         "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix", "tokenizer.chat_template")
SAMPLING = ("general.sampling.temp", "general.sampling.top_p", "general.sampling.top_k", "general.sampling.min_p",
            "general.sampling.penalty_repeat")
VALUES = (
    ("absent", None, None), ("null string", STRING, ""), ("string", STRING, "text"), ("number as string", STRING, "10000"),
    ("escape", STRING, "\x1b[31m\x07"), ("no UTF-8", STRING, b"\xff\xfe\x00"), ("long string", STRING, "y" * 1_000_000),
    ("0", U32, 0), ("-1", I32, -1), ("u32 max", U32, 2**32 - 1), ("u64 max", U64, 2**64 - 1), ("4294967300", U64, 4294967300),
    ("0.0", F32, 0.0), ("NaN", F32, float("nan")), ("inf", F32, float("inf")), ("-1.0", F32, -1.0), ("1e60", F64, 1e60), ("1e-60", F64, 1e-60),
    ("0.5", F32, 0.5), ("bool", BOOL, True), ("u8", U8, 3), ("array of none", ARRAY, (U32, [])), ("array of one", ARRAY, (U32, [1])),
    ("array of strings", ARRAY, (STRING, ["a", "a", ""])), ("array of NaN", ARRAY, (F32, [float("nan")] * 512)),
    ("array of floats", ARRAY, (F32, [1.0] * 2)), ("twice", "twice", None),
)


def a_command(case, name):
    """One of the commands that read a model, judged by the general rules; exit 0 of a writer is looked at."""
    rng = case.rng
    which = rng.choice(("perplexity", "perplexity", "verify", "inspect", "inspect", "quantize", "split", "calibrate", "merge", "run", "plan", "source"))
    if which == "perplexity":
        return case.perplexity(name)
    if which == "run":
        return case.strata("run", "-m", name, "-p", "The type", "-n", "1", "-c", "16", *rng.choice(((), ("--json",))))
    if which == "calibrate":
        return case.strata("calibrate", "-m", name, "-f", case.fix.path("text.txt"), "-c", "16", "--chunks", "1", "-o", "im.gguf", outputs=["im.gguf"])
    if which == "plan":
        return case.strata("plan", "-m", name)
    if which == "source":
        return case.strata("verify", case.fix.path("f16.gguf"), "--source", name)
    if which in ("verify", "inspect"):
        return case.strata(which, name, *rng.choice(((), ("--json",))))
    if which == "quantize":
        made = case.strata("quantize", name, "out.gguf", rng.choice(("q4_0", "q8_0", "q4_k_m", "f32")), "--allow-requantize", outputs=["out.gguf"])
        return after_writing(case, name, "out.gguf", made, always=True)
    if which == "merge":
        made = case.strata("merge", name, "out.gguf", outputs=["out.gguf"])
        return after_writing(case, name, "out.gguf", made)
    before = case.listing()
    made = case.strata("split", name, "out", "--split-max-tensors", str(rng.choice((1, 3, 8, 100))))
    parts = sorted(case.listing() - before)
    return after_writing(case, name, parts[0] if parts else "out", made)


def after_writing(case, source, output, made, always=False):
    """What a command made of a damaged file is at least as good as that file."""
    if made.code != 0:
        return
    verified = case.strata("verify", source)
    runs = case.perplexity(source).code == 0
    case.check_model(output, sound=always or verified.code == 0, runs=runs)


def gguf_bytes(case):
    """Random bytes of the header, or of all, are others; pieces move, repeat or vanish."""
    rng = case.rng
    base = rng.choice(BASES + ("part-00001-of-00003.gguf",))
    file = bytearray(case.fix.bytes(base))
    end = Gguf(bytes(file)).data_start
    for _ in range(rng.choice((1, 1, 1, 2, 5, 30))):
        at = rng.randrange(rng.choice((24, 200, end, len(file))))
        how = rng.randrange(6)
        if how < 3:
            file[at] = rng.choice((0, 255, 127, 128, file[at] ^ 1 << rng.randrange(8), rng.randrange(256)))
        elif how == 3:
            del file[at:at + rng.choice((1, 4, 8, 32))]
        elif how == 4:
            file[at:at] = file[at:at + rng.choice((1, 4, 8, 32))]
        else:
            file[at:at + 8] = struct.pack("<Q", rng.choice([value for value in EVIL if not isinstance(value, str)]))
    for _ in range(3):
        a_command(case, case.place("m.gguf", bytes(file)))


def gguf_numbers(case):
    """Each number of the structure (lengths, counts, types, dimensions, offsets) becomes each evil value."""
    gguf = Gguf(case.fix.bytes("f16.gguf"))
    (what, at, width), evil = case.nth(gguf.numbers, EVIL)
    old = int.from_bytes(gguf.file[at:at + width], "little")
    new = {"-1": old - 1, "+1": old + 1, "x2": old * 2, "/2": old // 2}.get(evil, evil) % (1 << 8 * width)
    case.place("m.gguf", gguf.file[:at] + new.to_bytes(width, "little") + gguf.file[at + width:])
    for _ in range(2):
        a_command(case, "m.gguf")


def gguf_cut(case):
    """The file ends too early, or there is more than it says; the file is something else."""
    rng, gguf = case.rng, Gguf(case.fix.bytes(case.rng.choice(BASES)))
    file = gguf.file
    kinds = [lambda: file[:rng.randrange(200)], lambda: file[:rng.randrange(gguf.header_end)], lambda: file[:gguf.data_start],
             lambda: file[:rng.randrange(len(file))], lambda: file[:-1], lambda: file[:-rng.randrange(1, 4000)], lambda: b"", lambda: b"GGUF",
             lambda: b"FUGG" + file[4:], lambda: b"<!DOCTYPE html><html>", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123\n",
             lambda: bytes(rng.randrange(1, 5000)), lambda: rng.randbytes(2000), lambda: b"GGUF" + struct.pack(">I", 3) + file[8:], lambda: file[:4] + struct.pack("<I", 1) + file[8:]]
    case.place("m.gguf", case.nth(kinds)())
    a_command(case, "m.gguf")
    for command in (("perplexity", "-m", "m.gguf", "-f", case.fix.path("text.txt"), "-c", "16", "--chunks", "1"), ("verify", "m.gguf"), ("quantize", "m.gguf", "out.gguf", "q8_0"),
                    ("split", "m.gguf", "out"), ("merge", "m.gguf", "out.gguf"), ("inspect", "m.gguf", "--json")):
        header_only = command[0] in ("inspect",)
        case.strata(*command, expect=None if header_only else "fail", why="a damaged or foreign file")
    case.place("m.gguf", file + rng.randbytes(rng.choice((1, 31, 32, 4096))))
    a_command(case, "m.gguf")
    case.place("m.gguf", file + gguf.file)
    a_command(case, "m.gguf")


def valued(gguf, key, kind, value):
    """The metadata with another value of a key, or without it."""
    rest = [pair for pair in gguf.pairs if pair[0] != key]
    if kind is None:
        return rest
    if kind == "twice":
        mine = [pair for pair in gguf.pairs if pair[0] == key] or [(key, U32, struct.pack("<I", 1))]
        return gguf.pairs + [mine[0]]
    raw = formats.array(*value) if kind == ARRAY else formats.scalar(kind, value)
    place = next((at for at, pair in enumerate(gguf.pairs) if pair[0] == key), len(rest))
    return rest[:place] + [(key, kind, raw)] + rest[place:]


def gguf_metadata(case):
    """Each known key is absent, twice, or of each wrong type or value."""
    key, (what, kind, value), base = case.nth(SHAPE + WORDS + SAMPLING, VALUES, ("f16.gguf", "spm.gguf"))
    gguf = Gguf(case.fix.bytes(base))
    there = [pair[1] for pair in gguf.pairs if pair[0] == key]
    case.place("m.gguf", formats.with_pairs(gguf, valued(gguf, key, kind, value)))
    options = () if key in SAMPLING else ("perplexity",)
    if options:
        result = case.perplexity("m.gguf")
    else:
        result = case.strata("run", "-m", "m.gguf", "-p", "The type", "-n", "1", "-c", "16", "--seed", "1")
    numbers = {U8, U32, I32, U64}
    fits = there and kind in (there[0], "twice") or there and there[0] in numbers and kind in numbers or kind == F64 and there == [F32]
    if result.code == 0 and kind is not None and what != "absent" and there:
        if what == "twice":
            case.fault("accepted", result, f"{key} comes twice and the file runs", ["perplexity"])
        elif not fits and not (key == "llama.attention.head_count" and kind == ARRAY):
            case.fault("accepted", result, f"{key} is of the wrong type and the file runs: {what}; {result.said[:100]}", ["perplexity"])
        elif what in ("NaN", "inf", "1e60") and kind in (F32, F64):
            case.fault("accepted", result, f"{key} is {what} and the file runs", ["perplexity"])
    a_command(case, "m.gguf")


def gguf_tensors(case):
    """The tensor table is edited: names, shapes, types and places are exchanged, doubled, removed; tensors are added."""
    rng, gguf = case.rng, Gguf(case.fix.bytes(case.rng.choice(BASES)))
    tensors, data = gguf.tensors, gguf.file[gguf.data_start:]
    a, b = rng.sample(range(len(tensors)), 2)
    how = case.nth(["swap", "twice", "remove", "rename", "transpose", "alias", "type", "gap", "extra", "dims", "one dim", "overlap", "add", "bias", "beyond"])
    must_fail = how in ("twice", "remove", "rename", "type", "add", "dims", "beyond")
    if how == "swap":
        tensors[a].offset, tensors[b].offset = tensors[b].offset, tensors[a].offset
    elif how == "twice":
        tensors[a].name = tensors[b].name
    elif how == "remove":
        if tensors[a].name in ("rope_freqs.weight", "output.weight"):
            must_fail = False
        del tensors[a]
    elif how == "rename":
        must_fail = tensors[a].name not in ("rope_freqs.weight",)
        tensors[a].name = rng.choice(("", "blk.2.attn_q.weight", "blk.-1.attn_q.weight", "blk.0.attn_q_norm.weight", "x" * 70, "\x1b]0;x\x07", "blk.99999999999999999999.attn_q.weight"))
    elif how == "transpose":
        tensors[a].dims.reverse()
    elif how == "alias":
        tensors[a].offset = tensors[b].offset
    elif how == "type":
        tensors[a].kind = rng.choice((4, 5, 9, 31, 36, 99, 2**31, 2**32 - 1))
    elif how == "gap":
        tensors[a].offset += rng.choice((1, 16, 32, 2**20))
    elif how == "extra":
        tensors[a].dims += [1] * rng.choice((1, 2, 3, 100))
    elif how == "dims":
        tensors[a].dims = rng.choice(([], [0], [2**32, 2**32], [2**63], [2**64 - 1, 1], [32, 2**59], [256, 0]))
    elif how == "one dim":
        tensors[a].dims[0] = rng.choice((1, 31, 255, 257, 512))
    elif how == "overlap":
        tensors[a].offset = max(0, tensors[a].offset - 32)
    elif how == "beyond":
        tensors[a].offset = rng.choice((len(data) + 32, 2**62, 2**64 - 32))
    elif how in ("add", "bias"):
        name, dims = ("blk.0.attn_q_norm.weight", [64]) if how == "add" else (rng.choice(("blk.0.attn_q.bias", "blk.0.ffn_up.bias", "output.bias", "blk.1.attn_output.bias", "blk.0.attn_q.scale", "token_types.weight", "blk.2.attn_norm.weight", "rope_factors_long.weight")), [256])
        tensors.append(Tensor(name, dims, 0, -(-len(data) // 32) * 32))
        data = data + bytes(-len(data) % 32) + struct.pack("<f", 0.5) * dims[0]
    case.place("m.gguf", formats.write_gguf(gguf.pairs, tensors, data))
    case.try_model("m.gguf", expect="fail" if must_fail else None, why=f"tensor table: {how} ({tensors[min(a, len(tensors) - 1)].name[:40]!r})")
    a_command(case, "m.gguf")


SCALES = {0: [("f", 0)], 1: [("e", 0)], 30: [("b", 0)], 2: [("e", 0)], 8: [("e", 0)], 12: [("e", 0), ("e", 2)], 14: [("e", 208)], 13: [("e", 0), ("e", 2)]}
BAD = {"f": (0x7FC00000, 0x7F800000, 0xFF800000), "e": (0x7E00, 0x7C00, 0xFC00), "b": (0x7FC0, 0x7F80, 0xFF80)}


def gguf_weights(case):
    """A weight or a block's scale of each tensor is NaN or infinite, once or everywhere: no command may give a result."""
    base, which, how, amount = case.nth(("f32.gguf", "f16.gguf", "bf16.gguf", "q8_0.gguf", "q4_0.gguf", "q4_k_m.gguf", "q6_k.gguf", "spm.gguf"),
                                        list(range(21)), (0, 1, 2), ("one", "all"))
    gguf = Gguf(case.fix.bytes(base))
    tensor = gguf.tensors[which % len(gguf.tensors)]
    if tensor.kind not in SCALES:
        return
    (start, end), block = gguf.place(tensor), formats.TENSOR_TYPES[tensor.kind][1]
    letter, inside = case.rng.choice(SCALES[tensor.kind])
    bad = BAD[letter][how].to_bytes(4 if letter == "f" else 2, "little")
    file = bytearray(gguf.file)
    for at in range(start + inside, end, block) if amount == "all" else [start + inside + block * case.rng.randrange((end - start) // block)]:
        file[at:at + len(bad)] = bad
    name = case.place("m.gguf", bytes(file))
    command = case.rng.choice(("perplexity", "run", "calibrate", "quantize", "json"))
    why = f"{'NaN' if how == 0 else 'inf'} weights, {command}: {tensor.name} of {base} has {amount} {('NaN', 'inf', '-inf')[how]}"
    # A row of an embedding that is not the output matrix too may belong to a token that the text lacks.
    unread = amount == "one" and tensor.name == "token_embd.weight" and base == "spm.gguf"
    expect = None if unread else "fail"
    case.strata("verify", name, expect="fail", why=why)
    if command == "perplexity":
        case.perplexity(name, expect=expect, why=why)
    elif command == "json":
        case.perplexity(name, expect=expect, why=why, options=("--json",))
    elif command == "run":
        case.strata("run", "-m", name, "-p", "The type", "-n", "2", "-c", "16", "--temp", case.rng.choice(("0", "1")), expect=expect, why=why)
    elif command == "calibrate":
        # What is after the last matrix that is measured does not count there.
        late = tensor.name in ("output_norm.weight", "output.weight") or unread or tensor.name == "token_embd.weight" and amount == "one" or tensor.name == "blk.1.ffn_down.weight"
        case.strata("calibrate", "-m", name, "-f", case.fix.path("text.txt"), "-c", "16", "--chunks", "1", "-o", "im.gguf", outputs=["im.gguf"],
                    expect=None if late else "fail", why=why)
    elif tensor.kind in (0, 1, 30):
        made = case.strata("quantize", name, "out.gguf", case.rng.choice(("q8_0", "q4_k_m", "q4_0", "q6_k", "iq4_nl", "bf16", "f32")), "--allow-requantize", outputs=["out.gguf"])
        if made.code == 0:
            case.strata("verify", "out.gguf", expect="ok", why=why + ", and quantize wrote it on")


def gguf_foreign(case):
    """Keys and tokens that a terminal or a program would take for something else, and arrays of millions."""
    rng, gguf = case.rng, Gguf(case.fix.bytes("f16.gguf"))
    texts = ("\x1b[2J\x1b]0;x\x07", "a\rb", "\u202eabc", "\u212a" * 5, "x" * 200_000, b"\xff\xfe", "", "\x00", "line\nline", "8\u212a-1K")
    key, text = case.nth(("general.architecture", "general.name", "general.basename", "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template", "strata.recipe", "strata.version", "NEW KEY", "TENSOR", "TOKEN", "HUGE"), texts)
    pairs, tensors = list(gguf.pairs), gguf.tensors
    if key == "NEW KEY":
        pairs.append((text if isinstance(text, str) else "k", STRING, formats.string(text)))
    elif key == "TENSOR":
        rng.choice(tensors).name = text if isinstance(text, str) else "\udcff"
    elif key == "TOKEN":
        at = next(at for at, pair in enumerate(pairs) if pair[0] == "tokenizer.ggml.tokens")
        pairs[at] = ("tokenizer.ggml.tokens", ARRAY, formats.array(STRING, [text] + [f"t{number}" for number in range(511)]))
    elif key == "HUGE":
        kind, values = rng.choice(((U8, [1] * 8_000_000), (STRING, [""] * 1_000_000), (F32, [1.0] * 1_000_000), (BOOL, [True] * 2_000_000)))
        pairs.append(("some.array", ARRAY, formats.array(kind, values)))
    else:
        pairs = valued(gguf, key, STRING, text)
    case.place("m.gguf", formats.write_gguf(pairs, tensors, gguf.file[gguf.data_start:]))
    for command in ("inspect", "verify"):
        case.strata(command, "m.gguf")
    case.strata("inspect", "--json", "m.gguf")
    case.perplexity("m.gguf")
    a_command(case, "m.gguf")


def gguf_parts(case):
    """A part of a split model is missing, doubled, of another model, damaged, renamed, or says another number."""
    rng = case.rng
    parts = [f"part-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    files = {name: case.fix.bytes(name) for name in parts}
    victim, how = case.nth(parts, ("missing", "other", "cut", "number", "count", "tensors", "absent key", "renamed", "joined", "twice", "folder", "empty", "fifo"))
    must_fail = True
    gguf = Gguf(files[victim])
    if how == "missing":
        del files[victim]
    elif how == "other":
        files[victim] = case.fix.bytes(victim.replace("part", "other"))
        must_fail = False
    elif how == "cut":
        files[victim] = files[victim][:-rng.randrange(1, 1000)]
    elif how in ("number", "count", "tensors"):
        key = {"number": "split.no", "count": "split.count", "tensors": "split.tensors.count"}[how]
        files[victim] = formats.with_pairs(gguf, valued(gguf, key, I32 if how == "tensors" else 2, rng.choice((0, 1, 2, 5, 1000)) if how != "tensors" else rng.choice((0, 20, -1, 1000))))
        must_fail = False
    elif how == "absent key":
        files[victim] = formats.with_pairs(gguf, valued(gguf, rng.choice(("split.no", "split.count", "split.tensors.count")), None, None))
        must_fail = False
    elif how == "renamed":
        files[victim.replace("part", "pert")] = files.pop(victim)
    elif how == "joined":
        files = {"part-00001-of-00003.gguf": b"".join(files.values())}
    elif how == "twice":
        files[victim] = files[parts[(parts.index(victim) + 1) % 3]]
    elif how == "empty":
        files[victim] = b""
    for name, contents in files.items():
        case.place(name, contents)
    if how in ("folder", "fifo"):
        case.changed(case.path(victim))
        os.remove(case.path(victim))
        (os.mkdir if how == "folder" else os.mkfifo)(case.path(victim))
    start = rng.choice(sorted(files))
    why = f"part {how}: {victim}, opened by {start}"
    made = case.strata("merge", start, "out.gguf", outputs=["out.gguf"], expect="fail" if must_fail else None, why=why)
    after_writing(case, start, "out.gguf", made)
    case.perplexity(start, expect="fail" if must_fail else None, why=why)
    a_command(case, start)


KINDS = {"gguf_bytes": (gguf_bytes, 8), "gguf_numbers": (gguf_numbers, 8), "gguf_cut": (gguf_cut, 3), "gguf_metadata": (gguf_metadata, 8), "gguf_tensors": (gguf_tensors, 6),
         "gguf_weights": (gguf_weights, 6), "gguf_foreign": (gguf_foreign, 3), "gguf_parts": (gguf_parts, 4)}
