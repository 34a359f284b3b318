"""tokenizer.json, part by part: each part is honoured, or the conversion fails and names it."""
import copy
import json

from checkpoint_inputs import convert

SPLIT = "pre_tokenizer.pretokenizers.0"
NORMALIZERS = ({"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"}, {"type": "Nmt"},
               {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Replace", "pattern": {"String": "a"}, "content": "b"},
               {"type": "Prepend", "prepend": "x"}, {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, {"type": "ByteLevel"},
               {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
               {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}, {"type": "Unheard"}, {"type": 5}, {}, [], 5, "NFC", True)
PRE_TOKENIZERS = (None, {"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "BertPreTokenizer"}, {"type": "Punctuation", "behavior": "Isolated"},
                  {"type": "Digits", "individual_digits": True}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
                  {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": False}, {"type": "CharDelimiterSplit", "delimiter": "x"},
                  {"type": "UnicodeScripts"}, {"type": "Sequence", "pretokenizers": []}, {"type": "Unheard"}, {"type": None}, {}, [], 5, "ByteLevel",
                  {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True})
DECODERS = (None, {"type": "WordPiece", "prefix": "##", "cleanup": True}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            {"type": "BPEDecoder", "suffix": "</w>"}, {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}, {"type": "Fuse"},
            {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "Unheard"}, {}, [], 5, "x")
POST_PROCESSORS = (None, {"type": "BertProcessing", "sep": ["<|end_of_text|>", 481], "cls": ["<|begin_of_text|>", 480]},
                   {"type": "RobertaProcessing", "sep": ["<|end_of_text|>", 481], "cls": ["<|begin_of_text|>", 480], "trim_offsets": True, "add_prefix_space": True},
                   {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}, {"type": "Unheard"}, {}, [], 5, "x")
JUNK = (None, 5, "x", [], {}, True, -1, 1e60, 4294967300, "")


def special(number, content="<new>", **others):
    """An added token."""
    return dict({"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}, **others)


def edits():
    """All edits, as (path, value or function of the old one, what it is, whether the model may stay as it is)."""
    found = []

    def put(path, value, same=False, name=None):
        found.append((path, value, name or json.dumps(value, ensure_ascii=True)[:120], same))

    def apply(path, name, function, same=False):
        found.append((path, function, name, same))

    for value in NORMALIZERS:
        put("normalizer", value)
    put("normalizer", {"type": "Sequence", "normalizers": []}, same=True)
    for value in PRE_TOKENIZERS:
        put("pre_tokenizer", value)
    for value in ({"type": "Digits", "individual_digits": True}, {"type": "Punctuation"}, {"type": "Whitespace"}, {"type": "Unheard"}, 5, None):
        apply("pre_tokenizer.pretokenizers", f"and {json.dumps(value)}", lambda old, value=value: old + [value])
        apply("pre_tokenizer.pretokenizers", f"{json.dumps(value)} and", lambda old, value=value: [value] + old)
    apply("pre_tokenizer.pretokenizers", "without the first", lambda old: old[1:])
    apply("pre_tokenizer.pretokenizers", "without the last", lambda old: old[:-1])
    apply("pre_tokenizer.pretokenizers", "reversed", lambda old: old[::-1])
    apply(SPLIT + ".pattern.Regex", "one digit a token", lambda old: old.replace("{1,3}", ""))
    apply(SPLIT + ".pattern.Regex", "a space more", lambda old: old + "| ")
    apply(SPLIT + ".pattern.Regex", "case matters", lambda old: old.replace("(?i:", "(?:"))
    for value in ("(", "", "(a+)+$", "(?=a)", "[", "\\p{Unheard}", "x{1000}{1000}", "\x00", "a" * 100_000):
        put(SPLIT + ".pattern.Regex", value, name=repr(value[:30]))
    put(SPLIT + ".pattern", {"String": " "})
    for value in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous", "isolated"):
        put(SPLIT + ".behavior", value)
    put(SPLIT + ".invert", True)
    put("pre_tokenizer.pretokenizers.1.add_prefix_space", True)
    put("pre_tokenizer.pretokenizers.1.use_regex", True)
    put("pre_tokenizer.pretokenizers.1.trim_offsets", False, same=True)
    for path in (SPLIT + ".invert", SPLIT + ".behavior", SPLIT + ".pattern", SPLIT + ".type", "pre_tokenizer.pretokenizers.1.add_prefix_space", "pre_tokenizer.pretokenizers.1.use_regex",
                 "pre_tokenizer.type", "pre_tokenizer.pretokenizers", "decoder.type", "post_processor.type", "post_processor.processors", "post_processor.processors.1.single",
                 "post_processor.processors.1.special_tokens"):
        for value in JUNK[:8]:
            put(path, value)
    for value in DECODERS:
        put("decoder", value)
    for value in POST_PROCESSORS:
        put("post_processor", value)
    apply("post_processor.processors.1.single", "eos at the end", lambda old: old + [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}])
    apply("post_processor.processors.1.single", "text first", lambda old: old[::-1])
    apply("post_processor.processors.1.single", "without bos", lambda old: old[1:])
    apply("post_processor.processors.1.single", "bos twice", lambda old: old[:1] + old)
    apply("post_processor.processors.1.single", "no text", lambda old: old[:1])
    apply("post_processor.processors.1.special_tokens", "bos is token 5", lambda old: {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [5], "tokens": ["&"]}})
    apply("post_processor.processors.1.special_tokens", "bos is two tokens", lambda old: {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [480, 481], "tokens": ["a", "b"]}})
    apply("post_processor.processors.1.pair", "absent pair", lambda old: [], same=True)
    for value in (0.5, 1.5, "x", {}, -1):
        put("model.dropout", value)
    for key in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        for value in ("</w>", "##", 5, [], {}, True):
            put("model." + key, value)
    for key in ("fuse_unk", "byte_fallback"):
        put("model." + key, True, same=True)
    put("model.ignore_merges", False)
    for key in ("fuse_unk", "byte_fallback", "ignore_merges"):
        for value in (5, "true", [], {}):
            put("model." + key, value)
    for value in ("WordPiece", "Unigram", "WordLevel", "bpe", "", None, 5, []):
        put("model.type", value)
    for path in ("model", "model.vocab", "model.merges", "added_tokens"):
        for value in JUNK:
            put(path, value, same=False)
        found.append((path, "absent", "absent", False))
    for path in ("normalizer", "pre_tokenizer", "decoder", "post_processor", "model.type", "model.ignore_merges", "model.byte_fallback"):
        found.append((path, "absent", "absent", path in ("normalizer", "model.byte_fallback", "model.type")))
    for name, function in (
            ("an entry gone", lambda old: {key: value for key, value in old.items() if value != 300}), ("a letter gone", lambda old: {key: value for key, value in old.items() if key != "b"}),
            ("last gone", lambda old: {key: value for key, value in old.items() if value != 479}), ("number twice", lambda old: dict(old, **{"b": 5})),
            ("-1", lambda old: dict(old, b=-1)), ("1e60", lambda old: dict(old, b=1e60)), ("4294967300", lambda old: dict(old, b=4294967300)), ("1.5", lambda old: dict(old, b=1.5)),
            ("string number", lambda old: dict(old, b="66")), ("null number", lambda old: dict(old, b=None)), ("new, beyond", lambda old: dict(old, **{"new": 5000})),
            ("new, far beyond", lambda old: dict(old, **{"new": 4_000_000_000})), ("empty token", lambda old: {("" if value == 300 else key): value for key, value in old.items()}),
            ("no byte-level text", lambda old: {("a b" if value == 300 else key): value for key, value in old.items()}), ("on a special token", lambda old: dict(old, **{"new": 485})),
            ("numbers exchanged", lambda old: dict(old, b=old["c"], c=old["b"])), ("all 0", lambda old: {key: 0 for key in old}), ("float numbers", lambda old: {key: float(value) for key, value in old.items()})):
        apply("model.vocab", name, function)
    for name, function, same in (
            ("one gone", lambda old: old[:50] + old[51:], False), ("one twice", lambda old: old + old[:1], False), ("exchanged", lambda old: [old[1], old[0]] + old[2:], False),
            ("lists", lambda old: [merge.split(" ") if isinstance(merge, str) else merge for merge in old], True), ("strings", lambda old: [merge if isinstance(merge, str) else " ".join(merge) for merge in old], True),
            ("three parts", lambda old: [old[0] + " x" if isinstance(old[0], str) else old[0] + ["x"]] + old[1:], False), ("one part", lambda old: ["abc"] + old, False), ("empty one", lambda old: [""] + old, False),
            ("unknown tokens", lambda old: old + ["qqq zzz"], False), ("unknown result", lambda old: old + ["a Q"], False), ("number", lambda old: old + [5], False), ("null", lambda old: old + [None], False),
            ("both notations", lambda old: old + [["t", "h"]], False), ("all gone but one", lambda old: old[:1], False), ("object", lambda old: {str(at): merge for at, merge in enumerate(old)}, False),
            ("a comment", lambda old: ["#version: 0.2"] + old, False), ("a megabyte", lambda old: old + ["a" * 500_000 + " " + "b" * 500_000], False)):
        apply("model.merges", name, function, same)
    for name, function, same in (
            ("one more", lambda old: old + [special(512)], False), ("far", lambda old: old + [special(100_000)], False), ("very far", lambda old: old + [special(4_000_000_000)], False),
            ("-1", lambda old: old + [special(-1)], False), ("1e60", lambda old: old + [special(1e60)], False), ("string id", lambda old: old + [special("490")], False), ("null id", lambda old: old + [special(None)], False),
            ("no id", lambda old: old + [{"content": "<x>", "special": True}], False), ("id twice", lambda old: old + [special(old[3 % len(old)]["id"])], False), ("content twice", lambda old: old[:-1] + [dict(old[-1], content=old[0]["content"])], False),
            ("over a word", lambda old: old + [special(300, "other")], False), ("over a word, same", lambda old: old + [special(300, None)], False), ("null content", lambda old: old[:-1] + [dict(old[-1], content=None)], False),
            ("empty content", lambda old: old[:-1] + [dict(old[-1], content="")], False), ("number content", lambda old: old[:-1] + [dict(old[-1], content=5)], False), ("no content", lambda old: old + [{"id": 70}], False),
            ("lstrip", lambda old: [dict(old[0], lstrip=True)] + old[1:], False), ("rstrip", lambda old: [dict(old[0], rstrip=True)] + old[1:], False), ("single_word", lambda old: [dict(old[0], single_word=True)] + old[1:], False),
            ("normalized", lambda old: [dict(old[0], normalized=True)] + old[1:], True), ("not special", lambda old: old[:-1] + [dict(old[-1], special=False)], True), ("special of wrong type", lambda old: old[:-1] + [dict(old[-1], special="yes")], False),
            ("lstrip of wrong type", lambda old: [dict(old[0], lstrip="true")] + old[1:], False), ("a hole", lambda old: old[:1] + old[2:], False), ("none but bos", lambda old: old[:1], False), ("strings", lambda old: [token["content"] for token in old], False),
            ("null among them", lambda old: old + [None], False), ("object", lambda old: {token["content"]: token["id"] for token in old}, False), ("backwards", lambda old: old[::-1], True),
            ("escape", lambda old: old[:-1] + [dict(old[-1], content="\x1b[2J\x07")], False), ("very long", lambda old: old[:-1] + [dict(old[-1], content="q" * 300_000)], False), ("a plain word", lambda old: old[:-1] + [dict(old[-1], content="the")], False)):
        apply("added_tokens", name, function, same)
    put("truncation", {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}, same=True)
    put("padding", {"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"}, same=True)
    put("version", "2.0", same=True)
    put("unheard", {"x": 1}, same=True)
    for key, other in (("normalizer", '{"type": "Lowercase"}'), ("model", "{}"), ("added_tokens", "[]"), ("decoder", "null"), ("pre_tokenizer", "null"), ("post_processor", "null")):
        found.append((key, "doubled", "twice, the second " + other, False))
    return found


EDITS = edits()


def step(value, key):
    """The inner value at a key or index, `None` where there is none."""
    try:
        return value[int(key)] if isinstance(value, list) else value[key]
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def tokenizer(case):
    """Each part of tokenizer.json is each other thing that it may be by intent or mistake."""
    (path, value, what, same), base = case.nth(EDITS, ("bpe", "bpe", "spm"))
    tree = copy.deepcopy(case.fix.json(base + "/tokenizer.json"))
    keys, inner = path.split("."), tree
    for key in keys[:-1]:
        inner = step(inner, key)
    if not isinstance(inner, (dict, list)):
        # The other kind of tokenizer lacks this part.
        return
    last = int(keys[-1]) if isinstance(inner, list) else keys[-1]
    old = step(inner, keys[-1])
    if callable(value):
        try:
            inner[last] = value(copy.deepcopy(old))
        except (KeyError, TypeError, AttributeError):
            return
    elif value == "absent":
        inner.pop(last, None)
    elif value != "doubled":
        inner[last] = value
    text = json.dumps(tree)
    if value == "doubled":
        text = text[:-1] + f', "{last}": {what.split("second ")[1]}' + "}"
    # null, false, absent and a dropout of 0 are what most of these are already; SentencePiece's form has other options that say nothing.
    same = same or text == json.dumps(case.fix.json(base + "/tokenizer.json")) or old is None and value in (None, "absent")
    same = same or base == "spm" and (path.startswith("model.ignore_merges") and value is False or path in ("model.unk_token",) and what == '"<unk>"' or what in ("strings", "a letter gone"))
    # A byte-level tokenizer never meets an unknown token; Llama 2's BOS is asked for by tokenizer_config.json.
    same = same or base == "bpe" and path == "model.unk_token" and what[0] == '"' or base == "spm" and path == "post_processor" and what in ("null", "absent")
    checked = None if same else f"tokenizer.json {path}: {what}; the model is as without it ({base})"
    convert(case, base, f"tokenizer.json {path}: {what} ({base})", checked=checked, tokenizer__json=text)


KINDS = {"tokenizer": (tokenizer, 14)}
