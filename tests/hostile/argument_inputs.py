"""Arguments: numbers that are none, too large or negative, options twice or without value, names that are hard to print."""
import os

VALUES = ("", " ", "-1", "0", "1", "-0", "00", "+5", "1e3", "0.5", "1e60", "1e400", "-1e60", "1e-60", "NaN", "nan", "inf", "-inf", "infinity", "99999999999999999999", "4294967296", "18446744073709551616", "2147483648", "0x10",
          "1_000", "1,5", "é", "٣", "\x1b[31m", "\x07", "a\nb", "\udcff", "x" * 50_000, "--", "-", "true", "null", "512M", "1K", "1k", "9999999999G", "0G", "-1G", "80%", "0%", "-5%", "101%", "1e9%", "NaN%", ".5", "5.", "1T", "1e18G", "G", "%")
MODEL = ("--threads", "--ram", "--reader", "--patience", "--cache-type-k", "--cache-type-v", "-m")
QUANTS = ("--tensor-type", "--output-tensor-type", "--token-embedding-type", "--imatrix", "--include-weights", "--exclude-weights", "--override-kv", "--split-max-size", "--split-max-tensors", "--memory", "--threads", "--name", "-t", "TYPE")
OPTIONS = [("run", option) for option in MODEL + ("-p", "-f", "--tokens", "-n", "-c", "--temp", "--top-k", "--top-p", "--min-p", "--seed")] + \
          [("perplexity", option) for option in MODEL + ("-f", "-c", "--chunks")] + [("calibrate", option) for option in MODEL + ("-f", "-o", "-c", "--chunks", "--output-format", "--in-file")] + \
          [("quantize", option) for option in QUANTS] + [("convert", option) for option in QUANTS] + [("split", option) for option in ("--split-max-size", "--split-max-tensors", "--drives", "PREFIX")] + \
          [("merge", "OUTPUT"), ("verify", "--source"), ("verify", "--with"), ("plan", "--ram"), ("plan", "-m"), ("inspect", "FILE")]


def command(case, name):
    """A sound command line as a list, and what it writes."""
    fix, text = case.fix.path, ["-f", case.fix.path("text.txt")]
    return {
        "run": (["run", "-m", fix("f16.gguf"), "-p", "The type", "-n", "1", "-c", "16"], []), "perplexity": (["perplexity", "-m", fix("f16.gguf"), *text, "-c", "16", "--chunks", "1"], []),
        "calibrate": (["calibrate", "-m", fix("f16.gguf"), *text, "-c", "16", "--chunks", "1", "-o", "im.gguf"], ["im.gguf"]), "quantize": (["quantize", fix("f16.gguf"), "out.gguf", "q4_k_m"], ["out.gguf"]),
        "convert": (["convert", fix("bpe"), "-t", "q4_k_m", "-o", "out.gguf"], ["out.gguf"]), "split": (["split", fix("f16.gguf"), "out", "--split-max-tensors", "8"], []),
        "merge": (["merge", fix("part-00001-of-00003.gguf"), "out.gguf"], ["out.gguf"]), "verify": (["verify", fix("f16.gguf")], []), "plan": (["plan", "-m", fix("f16.gguf")], []), "inspect": (["inspect", fix("f16.gguf")], []),
    }[name]


def arguments(case):
    """Each option of each command has each evil value."""
    (name, option), value = case.nth(OPTIONS, VALUES)
    args, outputs = command(case, name)
    if option in ("TYPE", "OUTPUT", "PREFIX", "FILE") or option in args:
        at = {"TYPE": 3, "OUTPUT": 2, "PREFIX": 2, "FILE": 1}.get(option)
        if option == "TYPE" and name == "convert":
            at = 3
        at = at if at is not None else args.index(option) + 1
        args[at] = value
        if option in ("-o", "OUTPUT"):
            outputs = []
    elif option == "--tokens":
        args[args.index("-p"):args.index("-p") + 2] = ["--tokens", value]
    elif option == "-f" and name == "run":
        args[args.index("-p"):args.index("-p") + 2] = ["-f", value]
    else:
        args += [option, value] if case.rng.random() < 0.7 else [f"{option}={value}"]
    result = case.strata(*args, outputs=outputs if outputs and not option.startswith("--split") else None)
    numeric = option in ("--temp", "--top-k", "--top-p", "--min-p", "-c", "-n", "--threads", "--chunks", "--patience", "--split-max-tensors", "--drives", "--memory", "--ram", "--split-max-size")
    if result.code == 0 and numeric and value in ("NaN", "nan", "inf", "-inf", "infinity", "1e60", "1e400", "-1e60", "", "x" * 50_000, "null", "true", "é", "NaN%", "-1G", "-5%") and not (option == "-n" and value == "-1"):
        case.fault("accepted", result, f"{name} {option} {value}: exit 0", args)
    if result.code == 0 and outputs == ["out.gguf"] and "out.gguf" in case.listing():
        case.check_model("out.gguf", why=f"{name} {option}")


OVERRIDES = ("llama.block_count=int:1", "llama.block_count=int:-1", "llama.block_count=int:99999999999", "split.count=int:5", "split.no=int:3", "split.tensors.count=int:7", "general.alignment=int:7", "general.alignment=int:64",
             "general.alignment=int:0", "general.alignment=str:x", "general.architecture=str:gpt2", "general.architecture=int:5", "tokenizer.ggml.bos_token_id=int:-1", "tokenizer.ggml.bos_token_id=int:99999",
             "tokenizer.ggml.eos_token_id=str:x", "tokenizer.ggml.model=str:unheard", "tokenizer.ggml.pre=str:unheard", "tokenizer.ggml.tokens=str:x", "tokenizer.ggml.merges=int:1", "llama.rope.freq_base=float:NaN",
             "llama.rope.freq_base=float:inf", "llama.rope.freq_base=float:1e60", "llama.rope.freq_base=str:10000", "llama.rope.freq_base=int:10000", "llama.attention.layer_norm_rms_epsilon=float:0", "llama.attention.layer_norm_rms_epsilon=float:-1",
             "llama.attention.head_count=int:0", "llama.attention.head_count=int:3", "llama.attention.head_count_kv=int:4", "llama.context_length=int:0", "llama.context_length=int:18446744073709551615", "llama.vocab_size=int:5",
             "general.file_type=str:x", "general.file_type=int:9999", "general.quantization_version=int:99", "general.sampling.temp=float:NaN", "general.sampling.temp=float:-5", "general.sampling.top_p=str:x", "general.sampling.top_k=int:-1",
             "strata.version=str:x", "strata.recipe=str:{", "strata.tensors.sha256=str:x", "strata.source.sha256=int:5", "=int:5", "x=int:", "x=", "x", "x=int", "x=bool:maybe", "x=int:1.5", "x=float:", "x=str:" + "y" * 100_000,
             "\x1b[2J=str:\x1b[2J", "a b=int:1", "x=str:\udcff", "é=str:é", "tokenizer.chat_template=str:{{", "llama.rope.scaling.type=str:yarn", "llama.rope.scaling.type=int:1", "llama.rope.scaling.factor=float:0", "tokenizer.ggml.add_bos_token=int:1",
             "tokenizer.ggml.token_type=int:1", "llama.expert_count=int:8", "llama.feed_forward_length=int:100", "llama.embedding_length=int:128", "llama.attention.key_length=int:32", "llama.rope.dimension_count=int:32", "llama.rope.dimension_count=int:65")


def overrides(case):
    """--override-kv with keys that decide how the file is read: what is written can be read."""
    text, name = case.nth(OVERRIDES, ("quantize", "convert"))
    args, outputs = command(case, name)
    args += ["--override-kv", text]
    if case.rng.random() < 0.3:
        args += ["--override-kv", case.rng.choice(OVERRIDES)]
    result = case.strata(*args, outputs=outputs)
    if result.code == 0:
        # Convert promises a file that runs, or says that only other programs may; quantize may write what another program is to read.
        case.check_model("out.gguf", runs=name == "convert" and "cannot run" not in result.err, why=f"{name} --override-kv {text[:60]}")


def mixtures(case):
    """Several options at random, wanted or not, in any order; files where others belong."""
    rng = case.rng
    name = rng.choice(("run", "perplexity", "calibrate", "quantize", "convert", "split", "merge", "verify", "inspect", "plan"))
    args, outputs = command(case, name)
    files = ["f16.gguf", "spm.gguf", "part-00002-of-00003.gguf", "im.gguf", "im.dat", "bpe", "shards", "text.txt", "types.txt", "bpe/config.json", "bpe/model.safetensors", "."]
    for _ in range(rng.choice((1, 2, 3))):
        how = rng.randrange(6) if len(args) > 1 else 1
        if how == 0:
            args[rng.randrange(1, len(args))] = case.fix.path(rng.choice(files))
        elif how == 1:
            args.insert(rng.randrange(1, len(args) + 1), rng.choice(("--json", "--pure", "--dry-run", "--keep-split", "--restart", "--leave-output-tensor", "--allow-requantize", "--process-output", "--ignore-eos", "--no-tensor-first-split", "-q", "--help", "-V")))
        elif how == 2:
            del args[rng.randrange(1, len(args))]
        elif how == 3:
            option = rng.choice([option for command_name, option in OPTIONS if command_name == name and option.startswith("-")] or ["--json"])
            args += [option, rng.choice(("1", "2", "3", "q4_0", "q8_0", "f16", "512M", "4", case.fix.path("im.gguf"), case.fix.path("text.txt")))]
        elif how == 4:
            args += [args[rng.randrange(1, len(args))]]
        else:
            rest = args[1:]
            rng.shuffle(rest)
            args[1:] = rest
    # A shuffled command may name a fixture as its output; so it works in a folder where names lead to copies.
    place = case.path("copies")
    os.makedirs(place)
    for file in files[:10]:
        source = case.fix.path(file)
        if f"{source}" in args and os.path.isfile(source):
            case.place("copies/" + os.path.basename(file), case.fix.bytes(file))
    args = [case.path("copies/" + os.path.basename(arg)) if os.path.exists(case.path("copies/" + os.path.basename(arg))) and arg.startswith(case.fix.folder) and os.path.isfile(arg) else arg for arg in args]
    inputs = {case.path("copies/" + entry) for entry in os.listdir(place)}
    output = args[2] if name in ("quantize", "merge") and len(args) > 2 else args[args.index("-o") + 1] if "-o" in args and args[-1] != "-o" else None
    if output in inputs:
        case.changed(output)
    case.strata(*args)


NAMES = ("\x1b[2J.gguf", "a\nb.gguf", "\u202egpj.gguf", "\udcff.gguf", "8\u212a.gguf", " .gguf", "x" * 240 + ".gguf", "x" * 250 + ".gguf", "é.gguf", "-m.gguf", "m{type}.gguf", "m-00001-of-00003.gguf", "m-00005-of-00003.gguf", "m-00001-of-99999.gguf", "m.GGUF", "m", ".gguf", "m.gguf.partial",
         "m.dat", "a'b\"c.gguf", "con", "m-00000-of-00000.gguf", "\u2028.gguf", "名.gguf")


def names(case):
    """Files with names that are hard to print or mean something, as inputs and as outputs."""
    name, use = case.nth(NAMES, ("input", "output", "missing", "damaged"))
    dashed = "./" + name
    if use == "input":
        case.place(name, case.fix.bytes("f16.gguf"))
        case.strata("inspect", dashed)
        case.strata("verify", dashed)
        case.strata("perplexity", "-m", dashed, "-f", dashed, "-c", "16", "--chunks", "1")
        case.strata("split", dashed, "./s" + name[:200], "--split-max-tensors", "9")
        case.strata("quantize", dashed, "out.gguf", "q4_0", outputs=["out.gguf"])
    elif use == "output":
        for args in (("quantize", case.fix.path("f16.gguf"), dashed, "q4_0"), ("convert", case.fix.path("bpe"), "-t", "q4_0", "-o", dashed), ("merge", case.fix.path("part-00001-of-00003.gguf"), dashed),
                     ("calibrate", "-m", case.fix.path("f16.gguf"), "-f", case.fix.path("text.txt"), "-c", "16", "--chunks", "1", "-o", dashed)):
            result = case.strata(*args)
            if result.code == 0 and args[0] != "calibrate" and name in case.listing():
                case.check_model(dashed, why=f"to a file named {name[:20]!r}, {args[0]}")
    else:
        if use == "damaged":
            case.place(name, b"GGUF" + bytes(50))
        for args in (("inspect", dashed), ("perplexity", "-m", dashed, "-f", dashed), ("merge", dashed, "out.gguf"), ("convert", dashed, "-o", "out.gguf"), ("quantize", dashed, "out.gguf", "q4_0", "--imatrix", dashed), ("verify", case.fix.path("f16.gguf"), "--source", dashed)):
            case.strata(*args, expect="fail", why="a file that is not there or damaged")


KINDS = {"arguments": (arguments, 6), "overrides": (overrides, 3), "mixtures": (mixtures, 4), "names": (names, 3)}
