"""Checkpoints that are damaged: safetensors, config.json and its like, the index of shards, the card, the templates."""
import copy
import json
import os
import struct

import formats
from formats import Gguf

# Values that a key may have by mistake, as JSON text. `None` takes the key away.
WRONG = {"absent": None, "null": "null", "true": "true", "false": "false", "string": '"abc"', "empty string": '""', "list": "[]", "list of one": "[1]",
         "object": "{}", "object of one": '{"a": 1}', "-1": "-1", "0": "0", "1": "1", "0.5": "0.5", "1e60": "1e60", "1e-60": "1e-60",
         "-1e60": "-1e60", "1e400": "1e400", "4294967300": "4294967300", "u64": "18446744073709551616", "NaN": "NaN", "Infinity": "Infinity",
         "nested list": "[[[]]]", "deep": "[" * 3000 + "]" * 3000, "list of null": "[null]", "escape": r'"\u001b[2J\u0007"', "lone surrogate": r'"\ud800"',
         "kelvin": r'"x-1\u212a"', "long": '"' + "z" * 300_000 + '"', "quoted": "quoted", "twice": "twice", "twice other": "twice other"}
CONFIG = ("architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
          "rms_norm_eps", "rope_theta", "rope_scaling", "rope_scaling.factor", "rope_scaling.low_freq_factor", "rope_scaling.high_freq_factor",
          "rope_scaling.original_max_position_embeddings", "rope_scaling.rope_type", "hidden_act", "max_position_embeddings", "vocab_size",
          "tie_word_embeddings", "bos_token_id", "eos_token_id", "attention_bias", "mlp_bias")
GENERATION = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "do_sample", "eos_token_id")
SETTINGS = ("bos_token", "eos_token", "unk_token", "pad_token", "add_bos_token", "add_eos_token", "chat_template", "tokenizer_class", "added_tokens_decoder", "add_prefix_space")
FILES = [("config.json", key) for key in CONFIG] + [("generation_config.json", key) for key in GENERATION] + [("tokenizer_config.json", key) for key in SETTINGS]
# Keys that may be absent or null, since the same follows from elsewhere; a key that is not in the file loses nothing by being taken away.
FOLLOWS = {"head_dim", "vocab_size", "tie_word_embeddings", "hidden_act", "bos_token_id", "eos_token_id", "attention_bias", "mlp_bias", "do_sample", "architectures",
           "model_type", "bos_token", "eos_token", "unk_token", "pad_token", "add_bos_token", "add_eos_token", "tokenizer_class", "added_tokens_decoder", "add_prefix_space", "top_k", "min_p",
           "repetition_penalty", "chat_template", "rope_scaling", "temperature", "top_p"}
# Values of the right type that say what the file says, or what Strata need not take over.
SAME = {("bos_token_id", "0"), ("bos_token_id", "1"), ("eos_token_id", "0"), ("eos_token_id", "1"), ("eos_token_id", "list of one"), ("attention_bias", "false"),
        ("mlp_bias", "false"), ("tie_word_embeddings", "true"), ("tie_word_embeddings", "false"), ("do_sample", "true"), ("do_sample", "false"), ("add_bos_token", "true"),
        ("add_eos_token", "false"), ("add_prefix_space", "false"), ("model_type", "string"), ("tokenizer_class", "string"), ("tokenizer_class", "empty string"),
        ("tokenizer_class", "escape"), ("tokenizer_class", "kelvin"), ("tokenizer_class", "long"), ("tokenizer_class", "lone surrogate"), ("repetition_penalty", "1"),
        ("added_tokens_decoder", "object"), ("top_k", "0"), ("min_p", "0"), ("unk_token", "string"), ("pad_token", "string"), ("min_p", "1e-60")}
# Valid settings of other models, which change what is computed: to be honoured or refused.
OTHER = {"rope_theta": "10000.0", "rms_norm_eps": "0.001", "hidden_act": '"gelu"', "head_dim": "32", "num_attention_heads": "8", "num_hidden_layers": "1",
         "rope_scaling": '{"type": "linear", "factor": 2.0}', "rope_scaling.factor": "16.0", "rope_scaling.rope_type": '"linear"', "rope_scaling.low_freq_factor": "2.0",
         "rope_parameters": '{"rope_type": "default", "rope_theta": 10000.0}', "partial_rotary_factor": "0.5", "sliding_window": "16",
         "quantization_config": '{"quant_method": "fp8"}', "max_position_embeddings": "100", "architectures": '["GPT2LMHeadModel"]', "attention_bias": "true", "mlp_bias": "true",
         "vocab_size": "500"}


def edited(value, path, text):
    """JSON of `value` with the key at `path` (dots between) replaced by JSON text; words of WRONG for what needs the old value."""
    value = copy.deepcopy(value)
    inner, keys = value, path.split(".")
    for key in keys[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    key = keys[-1]
    if text is None:
        inner.pop(key, None)
        return json.dumps(value)
    old = json.dumps(inner.get(key))
    if text == "quoted":
        text = json.dumps(old if not isinstance(inner.get(key), str) else [inner[key]])
    if text in ("twice", "twice other"):
        other = old if text == "twice" else "7"
        inner.setdefault(key, None)
        inner["@@key"] = "@@value"
        return json.dumps(value).replace('"@@key"', json.dumps(key)).replace('"@@value"', other)
    inner[key] = "@@value"
    return json.dumps(value).replace('"@@value"', text)


def said_of(case, name):
    """What a file of the case says, strata's own notes apart."""
    with open(case.path(name), "rb") as file:
        return Gguf(file.read()).said()


def unchanged(case, base):
    """What the conversion of an undamaged checkpoint says; kept for the whole run."""
    kept = case.fix.__dict__.setdefault("said", {})
    if base not in kept:
        folder = case.path("undamaged")
        os.makedirs(folder + "/checkpoint")
        for name in os.listdir(case.fix.path(base)):
            os.symlink(os.path.join(case.fix.path(base), name), os.path.join(folder, "checkpoint", name))
        case.strata("convert", "undamaged/checkpoint", "-t", "q8_0", "-o", "undamaged.gguf", expect="ok", why="an undamaged checkpoint")
        kept[base] = said_of(case, "undamaged.gguf")
        os.remove(case.path("undamaged.gguf"))
    return kept[base]


def convert(case, base, why, checked=None, expect=None, options=(), kind="q8_0", **files):
    """Converts a checkpoint with other files; what is accepted runs, and a `checked` edit is not without effect."""
    before = unchanged(case, base) if checked else None
    folder = case.checkpoint(base, **files)
    result = case.strata("convert", folder, "-t", kind, "-o", "out.gguf", *options, outputs=["out.gguf"], expect=expect, why=why)
    if result.code == 0:
        case.check_model("out.gguf", why=why)
        if any(name.startswith(("generation", "config")) for name in files):
            case.strata("run", "-m", "out.gguf", "-p", "The type", "-n", "1", "-c", "16", expect="ok", why="written, but does not run, " + why)
        # What is said in a warning is not dropped.
        if checked and said_of(case, "out.gguf") == before and "warning" not in result.err:
            case.fault("dropped", result, checked, ["convert"])
    return result


def json_keys(case):
    """Each known key of each JSON file of a checkpoint is absent, twice, null, or of each wrong type and value."""
    (file, key), what = case.nth(FILES, list(WRONG))
    base = "spm" if case.number % 5 == 4 else "bpe"
    old = case.fix.json(f"{base}/{file}")
    there = old
    for part in key.split("."):
        there = there.get(part) if isinstance(there, dict) else None
    last = key.split(".")[-1]
    text = edited(old, key, WRONG[what])
    harmless = what in ("absent", "null") and (last in FOLLOWS or there is None) or (last, what) in SAME or base == "spm" and key.startswith("rope_scaling.")
    # A value that the file has already, and a double that says the same as before in a file that lacks the key.
    try:
        harmless = harmless or json.loads(text) == old and "twice" not in what
    except (ValueError, RecursionError):
        pass
    harmless = harmless or there is None and what in ("quoted", "twice")
    why = f"{file} {key}: {what}"
    convert(case, base, why, checked=None if harmless else f"{file} {key}: {what}; the model is as without it", **{file.replace(".", "__"): text})


def json_other(case):
    """A setting of other models is in config.json: it is honoured or refused."""
    key = case.nth(list(OTHER))
    text = edited(case.fix.json("bpe/config.json"), key, OTHER[key])
    # transformers itself ignores a sliding window of a Llama, and a vocabulary that is larger than it says is padding.
    checked = None if key in ("vocab_size", "sliding_window") else f"config.json {key} {OTHER[key]}: the model is as without it"
    convert(case, "bpe", f"config.json {key}: {OTHER[key]}", checked=checked, config__json=text)


def random_place(value, rng):
    """A container in a tree of JSON, and a key or index in it."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        inner = value[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.4:
            return value, key
        value = inner


def json_random(case):
    """Any place of any JSON file is anything: no panic, and no file that does not run."""
    rng = case.rng
    base = rng.choice(("bpe", "spm", "shards"))
    name = rng.choice([name for name in os.listdir(case.fix.path(base)) if name.endswith(".json")] + ["tokenizer.json", "config.json"])
    raw = case.fix.bytes(f"{base}/{name}")
    if rng.random() < 0.25:
        raw = bytearray(raw)
        for _ in range(rng.choice((1, 3))):
            at = rng.randrange(len(raw))
            raw[at:at + rng.choice((0, 1, 5))] = rng.choice((b"", b"\x00", b"\xff", b"{", b'"', b",", b"1e999", b"//", b"\\u", rng.randbytes(3)))
        text = bytes(raw[:rng.randrange(len(raw))] if rng.random() < 0.2 else raw)
        text = rng.choice((text, text, b"\xef\xbb\xbf" + text, text + b"x", text.decode("utf-8", "replace").encode("utf-16"), b"", b"[]", b"null"))
    else:
        value = json.loads(raw)
        for _ in range(rng.choice((1, 1, 2))):
            container, key = random_place(value, rng)
            new = json.loads(rng.choice([text for text in WRONG.values() if text and text[0] not in "qtNI1e" and "[" * 9 not in text] or ["0"]))
            if rng.random() < 0.3:
                del container[key]
            elif isinstance(container, dict) and rng.random() < 0.2:
                container[rng.choice(("", "x", "\x1b[1m", str(key) + "2"))] = container.pop(key)
            else:
                container[key] = new
        text = json.dumps(value)
    convert(case, base, f"{name}: edited at random", **{name.replace(".", "__"): text})


def safetensors_header(case):
    """A number, type or name in the header of the weights is another, or the header is no header."""
    rng = case.rng
    file = case.fix.bytes("bpe/model.safetensors")
    header, data = formats.read_safetensors(file)
    name = rng.choice([name for name in header if name != "__metadata__"])
    about = header[name]
    how = case.nth(("dtype", "shape", "offsets", "absent", "twice", "extra", "metadata", "rename", "length", "cut", "raw", "overlap", "hole", "order", "bias", "other"))
    must_fail = how in ("dtype", "shape", "offsets", "absent", "rename", "cut", "overlap", "bias", "twice")
    if how == "dtype":
        about["dtype"] = rng.choice(("F32", "F64", "I8", "BOOL", "F8_E4M3", "", "bf16", None, 5, "\x1b[1m", "U64"))
    elif how == "shape":
        about["shape"] = rng.choice(([], [0], about["shape"][::-1] + [2], [2**63, 2], [-1], ["256"], [1.5], None, [2**32, 2**32], about["shape"] + [0], {}))
    elif how == "offsets":
        start, end = about["data_offsets"]
        about["data_offsets"] = rng.choice(([start + 2, end + 2], [end, start], [start], [-1, end], [start, 2**64 - 1], [0, 2**70], [start, end, end], None, "x", [start, end - 2], [float(start), end + .5]))
    elif how == "absent":
        del header[name]
    elif how == "twice":
        text = json.dumps(header)
        header = (text[:-1] + f', "{name}": {json.dumps(about)}' + "}").encode()
    elif how in ("extra", "bias", "other"):
        key = {"extra": "model.layers.0.self_attn.rotary_emb.inv_freq", "bias": rng.choice(("model.layers.0.self_attn.q_proj.bias", "model.layers.7.mlp.up_proj.weight", "model.layers.0.self_attn.q_norm.weight", "lm_head.bias")),
               "other": rng.choice(("\x1b]0;x\x07", "", "y" * 100_000, "lm_head.weight"))}[how]
        header[key] = {"dtype": "BF16", "shape": [256], "data_offsets": [len(data), len(data) + 512]}
        data += bytes(512)
    elif how == "metadata":
        header["__metadata__"] = rng.choice(({"format": "pt"}, {"a": 1}, [], None, {"x": None}, {"format": "\x1b[2J"}, {"k": "v" * 200_000}))
    elif how == "rename":
        header[rng.choice(("x", name.upper(), name + ".weight", "model.layers.-1.mlp.up_proj.weight"))] = header.pop(name)
    elif how == "overlap":
        other = rng.choice([entry for entry in header.values() if "shape" in entry and entry is not about])
        about["data_offsets"] = [other["data_offsets"][0], other["data_offsets"][0] + about["data_offsets"][1] - about["data_offsets"][0]]
    elif how == "hole":
        data += bytes(rng.choice((1, 4096)))
    elif how == "order":
        header = dict(rng.sample(list(header.items()), len(header)))
    file = formats.write_safetensors(header, data)
    if how == "length":
        file = struct.pack("<Q", rng.choice((0, 1, 2, len(file), len(file) + 1, 2**31, 2**63, 2**64 - 1, 100_000_000))) + file[8:]
        must_fail = True
    elif how == "cut":
        file = rng.choice((file[:-rng.randrange(1, len(file))], file[:7], b"", file[:-1]))
    elif how == "raw":
        file = bytearray(file)
        for _ in range(rng.choice((1, 3))):
            file[rng.randrange(2000)] = rng.randrange(256)
        file = bytes(file)
    result = convert(case, "bpe", f"safetensors header, {how}: {name}", expect="fail" if must_fail else None, model__safetensors=file)
    if result.code == 0:
        case.strata("verify", "out.gguf", "--source", "checkpoint", expect="ok", why="verify --source of a fresh conversion")


def safetensors_data(case):
    """Weights are NaN, infinite, huge, tiny or all the same: no result that is no number."""
    what, kind, amount = case.nth(("NaN", "inf", "-inf", "huge", "tiny", "zero", "denormal", "large"), ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", "q6_k", "q5_k_m", "iq4_nl", "iq4_xs", "q2_k", "q3_k_m"), ("one", "block", "all"))
    bits = {"NaN": 0x7FC0, "inf": 0x7F80, "-inf": 0xFF80, "huge": 0x7F7F, "tiny": 0x0080, "zero": 0, "denormal": 0x0001, "large": 0x4980}[what]
    header, data = formats.read_safetensors(case.fix.bytes("bpe/model.safetensors"))
    name = case.rng.choice([name for name in header if name != "__metadata__"])
    start, end = header[name]["data_offsets"]
    length = {"one": 1, "block": min(256, (end - start) // 2), "all": (end - start) // 2}[amount]
    at = start + 2 * case.rng.randrange((end - start) // 2 - length + 1)
    data = data[:at] + struct.pack("<H", bits) * length + data[at + 2 * length:]
    folder = case.checkpoint("bpe", model__safetensors=formats.write_safetensors(header, data))
    why = f"{what} weights, convert: {amount} of {name} to {kind}"
    result = case.strata("convert", folder, "-t", kind, "-o", "out.gguf", outputs=["out.gguf"], expect="fail" if what in ("NaN", "inf", "-inf") else None, why=why)
    if result.code == 0:
        case.strata("verify", "out.gguf", expect="ok", why=f"written of {what} weights and not sound: {amount} of {name} to {kind}")
        case.strata("perplexity", "-m", "out.gguf", "-f", case.fix.path("text.txt"), "-c", "16", "--chunks", "1", "--json")


def shards(case):
    """The index of shards and the shards do not fit together."""
    rng = case.rng
    index = case.fix.json("shards/model.safetensors.index.json")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    victim = rng.choice(list(index["weight_map"]))
    files, must_fail, how = {}, True, case.nth(("other shard", "no shard", "path", "absent", "extra", "type", "map", "missing shard", "same shards", "swapped", "twice", "total", "folder", "fifo", "absolute"))
    if how == "other shard":
        index["weight_map"][victim] = names[1 - names.index(index["weight_map"][victim])]
    elif how == "no shard":
        index["weight_map"][victim] = "model-00003-of-00002.safetensors"
    elif how in ("path", "absolute"):
        # A path out of the folder may be refused or followed; it must not be mistaken.
        index["weight_map"][victim] = "../" + index["weight_map"][victim] if how == "path" else "/etc/passwd"
    elif how == "absent":
        # The shard has it all the same.
        del index["weight_map"][victim]
        must_fail = False
    elif how == "extra":
        index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = names[0]
    elif how == "type":
        index["weight_map"][victim] = rng.choice((None, 5, [], {}, "", "\x1b[2J", "x" * 100_000, "."))
    elif how == "map":
        index["weight_map"] = rng.choice((None, [], {}, "x", 5))
    elif how == "missing shard":
        files[rng.choice(names).replace(".", "__")] = None
    elif how == "same shards":
        files[names[0].replace(".", "__")] = case.fix.bytes("shards/" + names[1])
    elif how == "swapped":
        files = {names[0].replace(".", "__"): case.fix.bytes("shards/" + names[1]), names[1].replace(".", "__"): case.fix.bytes("shards/" + names[0])}
    elif how == "total":
        index["metadata"] = rng.choice(({"total_size": -1}, {"total_size": "x"}, {}, None, {"total_size": 5}))
        must_fail = False
    text = json.dumps(index)
    if how == "twice":
        text = text.replace('"weight_map": {', '"weight_map": {' + json.dumps(victim) + ": " + json.dumps(names[0]) + ", ")
    folder = case.checkpoint("shards", **files, **{"model__safetensors__index__json": text})
    if how in ("folder", "fifo"):
        os.remove(case.path("checkpoint/" + names[1]))
        (os.mkdir if how == "folder" else os.mkfifo)(case.path("checkpoint/" + names[1]))
    result = case.strata("convert", folder, "-t", "q8_0", "-o", "out.gguf", outputs=["out.gguf"], expect="fail" if must_fail else None, why=f"shards, {how}: {victim}")
    if result.code == 0:
        case.check_model("out.gguf")


CARDS = ("---\nlicense: mit\n---\n", "---\nbase_model:\n" + "- a/b\n" * 3000 + "---\n", "---\nlicense: [\n---\n", "---\n" + "a: &x [*x]\n" + "---\n", "---\nname: \"\\e[2J\"\n---\n",
         "---\nmodel_name: !!binary aGk=\nlanguage: {a: b}\ntags: 5\n---\n", "---\n" + "x: {" * 2000 + "\n---\n", "---\nlanguage:\n- en\n- 5\n- null\n---\n", "---\n", "---", "\xff\xfe", "---\nmodel_name: 8\u212a\n---\n",
         "---\nlicense: " + "y" * 300_000 + "\n---\n", "# only text\n", "---\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e]\ntags: *f\n---\n")
TEMPLATES = ("", "{{", "\x1b[2J", "x" * 2_000_000, "{% for", "\x00", "\ud8ff", "ok {{ messages }}")


def cards(case):
    """The model card, chat templates and names of the folder are hostile, or are no files."""
    rng = case.rng
    how = case.nth(("card", "jinja", "chat_template.json", "additional", "link", "fifo", "device", "folder", "cycle", "name", "special_tokens_map.json", "added_tokens.json"))
    why = f"checkpoint, {how}"
    if how == "card":
        return convert(case, "bpe", why, README__md=rng.choice(CARDS).encode("utf-8", "surrogatepass") if rng.random() < 0.9 else rng.randbytes(3000))
    if how in ("jinja", "chat_template.json", "special_tokens_map.json", "added_tokens.json"):
        template = rng.choice(TEMPLATES)
        name = "chat_template__jinja" if how == "jinja" else how.replace(".", "__")
        text = template.encode("utf-8", "surrogatepass") if how == "jinja" else json.dumps(rng.choice(({"chat_template": template}, {"chat_template": None}, [], 5, {"chat_template": [{"name": "default", "template": template}]}, {"x": 700}, {"bos_token": "nothing"})))
        settings = case.fix.json("bpe/tokenizer_config.json")
        settings.pop("chat_template", None)
        return convert(case, "bpe", why, tokenizer_config__json=json.dumps(settings), **{name: text})
    folder = case.checkpoint("bpe")
    victim = rng.choice(("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors", "README.md", "chat_template.jinja", "model.safetensors.index.json"))
    path = case.path("checkpoint/" + victim)
    if os.path.lexists(path) and how not in ("additional", "name"):
        os.remove(path)
    if how == "link":
        os.symlink("nowhere", path)
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "device":
        os.symlink(rng.choice(("/dev/zero", "/dev/urandom", "/dev/null", "/dev/full", "/proc/self/mem", "/dev/tty")), path)
    elif how == "folder":
        os.mkdir(path)
    elif how == "cycle":
        os.symlink(victim, path)
    elif how == "additional":
        os.mkdir(case.path("checkpoint/additional_chat_templates"))
        place = case.path("checkpoint/additional_chat_templates/" + rng.choice(("tool.jinja", "\x1b[2J.jinja", ".jinja", "default.jinja", "x" * 200 + ".jinja")))
        how = rng.choice(("file", "fifo", "folder"))
        if how == "file":
            case.place(os.path.relpath(place, case.folder), rng.choice(TEMPLATES).encode("utf-8", "surrogatepass"))
        else:
            (os.mkfifo if how == "fifo" else os.mkdir)(place)
    elif how == "name":
        new = rng.choice(("8\u212a-model", "\x1b[2J", "a\nb", "-t", "\udcff\udcfe", " ", "x" * 250, "Llama-3.1-8B-Instruct-7B-1K", "é" * 100, "a b'\"c", "snapshots"))
        os.rename(folder if os.path.isabs(folder) else case.path(folder), case.path(new))
        folder = "./" + new
    result = case.strata("convert", folder, "-t", "q8_0", "-o", "out.gguf", outputs=["out.gguf"], why=why)
    if result.code == 0:
        case.check_model("out.gguf")
    case.strata("convert", folder, "-t", "q8_0", "--dry-run")


KINDS = {"json_keys": (json_keys, 14), "json_other": (json_other, 2), "json_random": (json_random, 6), "safetensors_header": (safetensors_header, 6), "safetensors_data": (safetensors_data, 5),
         "shards": (shards, 3), "cards": (cards, 4)}
