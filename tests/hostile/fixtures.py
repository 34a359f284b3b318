"""The sound models and texts that the generators start from, made once in the work folder.

The checkpoints are cut out of the tiny one (fewer tokens, two layers, a narrow feed-forward network), so that a run takes milliseconds.
"""
import json
import os
import shutil
import subprocess

import formats

TOKENS = 512
MERGES = 224
SPECIAL = 32
LAYERS = 2
HIDDEN = 256
FEED_FORWARD = 512
WORDS = "The function returns a new value of the type. It panics if the index is out of bounds. "


class Fixtures:
    """Folders and files by name: `path(name)`; their bytes: `bytes(name)`."""

    def __init__(self, strata, tiny, folder):
        self.strata, self.tiny, self.folder, self.kept = strata, tiny, folder, {}
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        self.checkpoints()
        self.models()
        for path in self.files():
            self.bytes(os.path.relpath(path, folder))

    def restore(self, path):
        """Puts a fixture back that a run has damaged."""
        if os.path.lexists(path):
            os.remove(path)
        with open(path, "wb") as file:
            file.write(self.kept[os.path.relpath(path, self.folder)])

    def path(self, name):
        """Where a fixture lies."""
        return os.path.join(self.folder, name)

    def bytes(self, name):
        """What is in it, read once."""
        if name not in self.kept:
            with open(self.path(name), "rb") as file:
                self.kept[name] = file.read()
        return self.kept[name]

    def json(self, name):
        """A fresh object of a JSON fixture."""
        return json.loads(self.bytes(name))

    def files(self):
        """All fixtures, by path: none may ever change."""
        return {os.path.join(at, name): None for at, _, names in os.walk(self.folder) for name in names}

    def save(self, name, contents):
        """Writes a fixture: bytes, text, or an object as JSON."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not isinstance(contents, (bytes, str)):
            contents = json.dumps(contents)
        with open(path, "wb") as file:
            file.write(contents if isinstance(contents, bytes) else contents.encode())

    def make(self, *args):
        """A run that has to work, since all else starts from it."""
        done = subprocess.run([self.strata, *args], cwd=self.folder, capture_output=True)
        if done.returncode != 0:
            raise SystemExit(f"the fixtures cannot be made: strata {' '.join(args)}: {done.stderr.decode(errors='replace')}")

    def checkpoints(self):
        """`bpe` and its two-shard form `shards`, with Llama 3's kind of tokenizer; `spm`, with that of Llama 2 and an output matrix."""
        load = lambda name: json.load(open(os.path.join(self.tiny, name), encoding="utf-8"))
        config, generation, settings, tokenizer = map(load, ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"))
        first = TOKENS - SPECIAL
        config.update(vocab_size=TOKENS, num_hidden_layers=LAYERS, intermediate_size=FEED_FORWARD, bos_token_id=first,
                      eos_token_id=[first + 1, first + 8, first + 9])
        generation.update(bos_token_id=first, eos_token_id=config["eos_token_id"])
        tensors = self.weights()
        half = len(tensors) // 2
        shards = [tensors[:half], tensors[half:]]
        names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        index = {t[0]: name for shard, name in zip(shards, names) for t in shard}
        for folder in ("bpe", "shards"):
            self.save(folder + "/config.json", config)
            self.save(folder + "/generation_config.json", generation)
            self.save(folder + "/tokenizer_config.json", settings)
            self.save(folder + "/tokenizer.json", smaller(tokenizer))
        self.save("bpe/model.safetensors", formats.pack_safetensors(tensors))
        for shard, name in zip(shards, names):
            self.save("shards/" + name, formats.pack_safetensors(shard))
        self.save("shards/model.safetensors.index.json", {"metadata": {"total_size": sum(len(t[3]) for t in tensors)}, "weight_map": index})
        config.update(bos_token_id=1, eos_token_id=2, rope_scaling=None, rope_theta=10000.0, tie_word_embeddings=False)
        self.save("spm/config.json", config)
        self.save("spm/generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.7})
        self.save("spm/tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True,
                                                "add_eos_token": False, "legacy": False, "tokenizer_class": "LlamaTokenizer"})
        self.save("spm/tokenizer.json", sentencepiece())
        embedding = tensors[0]
        self.save("spm/model.safetensors", formats.pack_safetensors(tensors + [("lm_head.weight", *embedding[1:])]))

    def weights(self):
        """The tiny checkpoint's tensors, cut to the small shape; rows and columns are taken from the start."""
        with open(os.path.join(self.tiny, "model.safetensors"), "rb") as file:
            header, data = formats.read_safetensors(file.read())
        names = ["model.embed_tokens.weight"]
        for layer in range(LAYERS):
            part = f"model.layers.{layer}."
            names += [part + end + ".weight" for end in ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                      "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]
        cut = []
        for name in names + ["model.norm.weight"]:
            about = header[name]
            shape, (start, end) = about["shape"], about["data_offsets"]
            raw = data[start:end]
            rows = {"model.embed_tokens.weight": TOKENS}.get(name, FEED_FORWARD if "gate" in name or "up_proj" in name else shape[0])
            if len(shape) == 2:
                columns = FEED_FORWARD if "down_proj" in name else shape[1]
                raw = b"".join(raw[2 * row * shape[1]:2 * (row * shape[1] + columns)] for row in range(rows))
                shape = [rows, columns]
            cut.append((name, about["dtype"], shape, raw))
        return cut

    def models(self):
        """GGUF files of several types, one of them split; importance matrices of both kinds; texts."""
        self.save("text.txt", WORDS * 30)
        self.save("types.txt", "ffn_down=q8_0")
        for kind in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", "q6_k"):
            self.make("convert", "bpe", "-t", kind, "-o", kind + ".gguf")
        self.make("convert", "spm", "-t", "f16", "-o", "spm.gguf")
        self.make("split", "f16.gguf", "part", "--split-max-tensors", "8")
        self.make("split", "q8_0.gguf", "other", "--split-max-tensors", "8")
        self.make("calibrate", "-m", "f16.gguf", "-f", "text.txt", "-c", "16", "--chunks", "2", "-o", "im.gguf")
        self.make("calibrate", "-m", "f16.gguf", "-f", "text.txt", "-c", "16", "--chunks", "2", "-o", "im.dat")
        self.make("convert", self.tiny, "-t", "f16", "-o", "tiny.gguf")
        self.make("split", "tiny.gguf", "tiny", "--split-max-tensors", "12")


def smaller(tokenizer):
    """Llama 3's kind of tokenizer with the first merges only, and the special tokens after them."""
    first = TOKENS - SPECIAL
    model = tokenizer["model"]
    by_id = sorted(model["vocab"], key=model["vocab"].get)
    model["vocab"] = {token: number for number, token in enumerate(by_id[:256 + MERGES])}
    model["merges"] = model["merges"][:MERGES]
    tokenizer["added_tokens"] = [dict(token, id=first + number) for number, token in enumerate(tokenizer["added_tokens"][:SPECIAL])]
    template = tokenizer["post_processor"]["processors"][1]
    template["special_tokens"]["<|begin_of_text|>"]["ids"] = [first]
    return tokenizer


def sentencepiece():
    """A tokenizer as Llama 2's tokenizer.json has it: byte fallback, spaces as U+2581, merges by rank."""
    letters = "▁etaoinsrhldcumfpgwybvkxjqz.,TISA"
    pairs = [(a, b) for a in "▁etaoinsrhl" for b in "etaoinsrhld"]
    vocab = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + list(letters)
    merges = []
    for a, b in pairs:
        if len(vocab) < TOKENS:
            vocab.append(a + b)
            merges.append(f"{a} {b}")
    vocab += [f"<extra_{number}>" for number in range(TOKENS - len(vocab))]
    special = lambda number: {"id": number, "content": vocab[number], "single_word": False, "lstrip": False, "rstrip": False,
                              "normalized": False, "special": True}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    piece = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special(0), special(1), special(2)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                           {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [bos, piece("A", 0)], "pair": [bos, piece("A", 0), piece("B", 1)],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                                     {"type": "ByteFallback"}, {"type": "Fuse"},
                                                     {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": {token: number for number, token in enumerate(vocab)}, "merges": merges},
    }
