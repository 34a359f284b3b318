# Asks llama.cpp's own samplers which tokens its chains keep, with what probabilities:
#   pip download --no-deps --no-binary llama-cpp-python llama-cpp-python && tar xzf llama_cpp_python-*.tar.gz
#   cd llama_cpp_python-*/vendor/llama.cpp && cmake -B build -DLLAMA_CURL=OFF && cmake --build build -t llama
#   python make_sampling.py llama_cpp_python-*/vendor/llama.cpp ../../models/tiny-rustdoc/tokenizer.json > sampling.json
# sampling.json was made with llama-cpp-python 0.3.36.
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile

PROGRAM = r"""
#include "llama.h"
#include <cmath>
#include <iostream>
#include <string>
#include <vector>

llama_sampler * llama_sampler_init_dry_testing(float, float, int32_t, int32_t, const std::vector<std::vector<llama_token>> &);

template <class T> static T next() { T value; std::cin >> value; return value; }
template <class T> static std::vector<T> list() {
    std::vector<T> values(next<size_t>());
    for (auto & value : values) value = next<T>();
    return values;
}

// In: logits, history, samplers with their numbers in the order of their functions, "end". Out: what they keep, each with its probability.
int main() {
    size_t n;
    while (std::cin >> n) {
        std::vector<llama_token_data> tokens(n);
        for (size_t i = 0; i < n; i++) tokens[i] = {(llama_token) i, next<float>(), 0};
        auto history = list<llama_token>();
        llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
        for (auto name = next<std::string>(); name != "end"; name = next<std::string>()) {
            std::vector<float> x = list<float>();
            llama_sampler * s = nullptr;
            if (name == "bias") {
                std::vector<llama_logit_bias> biases;
                for (size_t i = 0; i < x.size(); i += 2) biases.push_back({(llama_token) x[i], x[i + 1] < -1e30f ? -INFINITY : x[i + 1]});
                s = llama_sampler_init_logit_bias(n, biases.size(), biases.data());
            }
            if (name == "penalties") s = llama_sampler_init_penalties(n, x[0], x[1], x[2], x[3]);
            if (name == "dry") {
                std::vector<std::vector<llama_token>> breakers;
                for (auto count = next<size_t>(); count > 0; count--) breakers.push_back(list<llama_token>());
                s = llama_sampler_init_dry_testing(x[0], x[1], x[2], x[3], breakers);
            }
            if (name == "top_n_sigma") s = llama_sampler_init_top_n_sigma(x[0]);
            if (name == "top_k") s = llama_sampler_init_top_k(x[0]);
            if (name == "typ_p") s = llama_sampler_init_typical(x[0], x[1]);
            if (name == "top_p") s = llama_sampler_init_top_p(x[0], x[1]);
            if (name == "min_p") s = llama_sampler_init_min_p(x[0], x[1]);
            if (name == "xtc") s = llama_sampler_init_xtc(x[0], x[1], x[2], 1);
            if (name == "temperature") s = llama_sampler_init_temp_ext(x[0], x[1], x[2]);
            if (name == "mirostat") s = llama_sampler_init_mirostat(n, 1, x[0], x[1], 100);
            if (name == "mirostat_v2") s = llama_sampler_init_mirostat_v2(1, x[0], x[1]);
            if (name == "dist") s = llama_sampler_init_dist(1);
            llama_sampler_chain_add(chain, s);
        }
        for (auto token : history) llama_sampler_accept(chain, token);
        llama_token_data_array all = {tokens.data(), tokens.size(), -1, false};
        llama_sampler_apply(chain, &all);
        for (size_t i = 0; i < all.size; i++) {
            if (all.data[i].p > 1e-30f) printf("%d %.9g ", all.data[i].id, all.data[i].p);
        }
        printf("\n");
        llama_sampler_free(chain);
    }
}
"""

DEFAULTS = {  # of strata::engine::sampling::Sampling, which are llama.cpp's
    "sequence": "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature", "logit_bias": [], "repeat_last_n": 64,
    "repeat_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0, "dry_multiplier": 0, "dry_base": 1.75, "dry_allowed_length": 2,
    "dry_last_n": 64, "dry_breakers": [], "top_n_sigma": -1, "top_k": 40, "typical_p": 1, "top_p": 0.95, "min_p": 0.05,
    "xtc_probability": 0, "xtc_threshold": 0.1, "temperature": 0.8, "dynatemp_range": 0, "dynatemp_exponent": 1, "mirostat": 0,
    "mirostat_tau": 5, "mirostat_eta": 0.1, "min_keep": 0}
# All filters off.
OFF = {"top_k": 0, "top_p": 1, "min_p": 0, "temperature": 1}

# The tokens of abab:ababcab.
LETTERS = [64, 65, 64, 65, 25, 64, 65, 64, 65, 66, 64, 65]


def breakers(texts, vocab):
    """The tokens that a breaker lies in, and the pairs of tokens that it is cut into."""
    tokens = [[token] for token, text in vocab.items() if any(breaker in text for breaker in texts)]
    ids = {text: token for token, text in vocab.items()}
    return tokens + [[ids[text[0]], ids[text[1]]] for text in texts if len(text) == 2]


def samplers(s, vocab):
    """The samplers of the settings, as common_sampler_init has them."""
    keep = s["min_keep"]
    numbers = {
        "penalties": [s["repeat_last_n"], s["repeat_penalty"], s["frequency_penalty"], s["presence_penalty"]],
        "dry": [s["dry_multiplier"], s["dry_base"], s["dry_allowed_length"], s["dry_last_n"]], "top_n_sigma": [s["top_n_sigma"]],
        "top_k": [s["top_k"]], "typ_p": [s["typical_p"], keep], "top_p": [s["top_p"], keep], "min_p": [s["min_p"], keep],
        "xtc": [s["xtc_probability"], s["xtc_threshold"], keep], "temperature": [s["temperature"], s["dynatemp_range"], s["dynatemp_exponent"]],
        "mirostat": [s["mirostat_tau"], s["mirostat_eta"]], "mirostat_v2": [s["mirostat_tau"], s["mirostat_eta"]], "dist": []}
    names = [name for name in s["sequence"].split(";") if name] + ["dist"]
    if s["mirostat"]:
        numbers["temperature"] = [s["temperature"], 0, 1]
        names = ["temperature", "mirostat" if s["mirostat"] == 1 else "mirostat_v2"]
    line = ""
    if s["logit_bias"]:
        line += words(["bias", 2 * len(s["logit_bias"])] + [-3e38 if x is None else x for pair in s["logit_bias"] for x in pair])
    for name in names:
        if name == "dry" and not s["dry_multiplier"]:
            continue  # llama.cpp's function for tests takes no other
        line += words([name, len(numbers[name]), *numbers[name]])
        if name == "dry":
            lists = breakers(s["dry_breakers"], vocab)
            line += words([len(lists), *(x for one in lists for x in [len(one), *one])])
    return line + "end\n"


def words(values):
    return " ".join(map(str, values)) + " "


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def cases(rows):
    """Names a row of logits, a history and settings. No setting meets a sum of probabilities exactly."""
    random.seed(11)
    every = range(len(rows))
    for row in every:
        for s in [{}, OFF, {**OFF, "temperature": 0.2}, {**OFF, "temperature": 5}, {**OFF, "top_k": 1}, {**OFF, "top_k": 3}, {**OFF, "top_k": 1000},
                  {**OFF, "top_p": 0.9}, {**OFF, "top_p": 0.3}, {**OFF, "top_p": 0.001}, {**OFF, "top_p": 0.3, "min_keep": 4},
                  {**OFF, "min_p": 0.2}, {**OFF, "min_p": 0.9}, {**OFF, "min_p": 1}, {**OFF, "min_p": 0.9, "min_keep": 3},
                  {**OFF, "typical_p": 0.9}, {**OFF, "typical_p": 0.4}, {**OFF, "typical_p": 0.01}, {**OFF, "typical_p": 0.2, "min_keep": 5},
                  {**OFF, "top_n_sigma": 1}, {**OFF, "top_n_sigma": 0.1}, {**OFF, "top_n_sigma": 3},
                  {**OFF, "xtc_probability": 1, "xtc_threshold": 0.1}, {**OFF, "xtc_probability": 1, "xtc_threshold": 0.02},
                  {**OFF, "xtc_probability": 1, "xtc_threshold": 0.02, "min_keep": 60}, {**OFF, "xtc_probability": 1, "xtc_threshold": 0.51},
                  {**OFF, "dynatemp_range": 0.5}, {**OFF, "dynatemp_range": 1.5, "dynatemp_exponent": 2}, {**OFF, "temperature": 0.3, "dynatemp_range": 0.3},
                  {**OFF, "mirostat": 1}, {**OFF, "mirostat": 1, "mirostat_tau": 1.5}, {**OFF, "mirostat": 2, "mirostat_tau": 1.5},
                  {**OFF, "mirostat": 2, "mirostat_tau": 0.4, "temperature": 0.7}, {**OFF, "mirostat": 2, "mirostat_tau": 0},
                  {**OFF, "logit_bias": [[1, 2.5], [3, -1.5], [0, None]]}]:
            # Of logits that are nearly the same Mirostat 1 keeps more than an int counts, of which llama.cpp makes one token. A probability
            # of 0 makes its entropy NaN in typical sampling.
            if (row != 2 or s.get("mirostat") != 1) and (row != 5 or "typical_p" not in s):
                yield row, [], s
    for row in every:
        n = len(rows[row])
        for length in [2, 8, 120]:
            history = [random.randrange(min(n, 6)) for _ in range(length)]
            for s in [{"repeat_penalty": 1.3}, {"presence_penalty": 0.7, "frequency_penalty": 0.2}, {"repeat_penalty": 0.8, "frequency_penalty": -0.1,
                      "repeat_last_n": 5}, {"dry_multiplier": 0.8}, {"dry_multiplier": 0.5, "dry_allowed_length": 0, "dry_base": 1},
                      {"dry_multiplier": 1, "dry_last_n": 20, "dry_base": 3}]:
                yield row, history, {**OFF, **s}
    for row in every:  # whole chains
        n = len(rows[row])
        for _ in range(6):
            sequence = DEFAULTS["sequence"].split(";")
            if random.random() < 0.5:
                random.shuffle(sequence)
                sequence = sequence[:random.randrange(1, 9)]
            # Behind top_n_sigma llama.cpp keeps tokens of probability 0, which NaN, or another entropy, comes of.
            sigma = "typ_p" in sequence or "temperature" in sequence
            yield row, [random.randrange(min(n, 9)) for _ in range(30)], {
                "sequence": ";".join(sequence), "repeat_penalty": 1.1, "presence_penalty": 0.1, "dry_multiplier": random.choice([0, 0.8]),
                "top_n_sigma": -1 if sigma else 1.5, "top_k": random.choice([0, 5, 20]), "typical_p": random.choice([1, 0.8]) if row != 5 else 1,
                "top_p": random.choice([0.93, 1]), "min_p": random.choice([0, 0.03]), "xtc_probability": random.choice([0, 1]), "xtc_threshold": 0.15,
                "temperature": random.choice([0, 0.6, 1.2]), "dynatemp_range": random.choice([0, 0.4]), "logit_bias": [[2, 1]]}
    for history in [LETTERS, LETTERS[:-1], [64, 65, 66, 64, 65, 66, 64, 65], [64, 25, 65, 64, 25], [64, 65, 66, 67, 64, 65, 66, 67, 64, 65]]:
        for texts in [[], [":"], ["b"], ["ab"], ["bc"], [":", "ca"]]:
            yield len(rows) - 1, history, {**OFF, "top_k": 10, "dry_multiplier": 0.8, "dry_allowed_length": 1, "dry_breakers": texts}


source, tokenizer = sys.argv[1:]
random.seed(7)
rows = [[f32(random.gauss(0, spread)) for _ in range(n)] for n, spread in [(5, 1), (36, 3), (24, 0.01), (60, 2)]]
rows.append([f32(math.log(p)) for p in [0.5, 0.3, 0.15, 0.04, 0.01]])
rows.append([f32(x) for x in [80, -80, 79.5, 0, 79.9, 60]])
rows.append([f32(random.gauss(4 if token in LETTERS else 0, 1)) for token in range(70)])
vocab = {token: text for text, token in json.load(open(tokenizer))["model"]["vocab"].items()}
asked = list(cases(rows))
lines = [words([len(rows[row]), *("%.9g" % x for x in rows[row]), len(history), *history]) + samplers({**DEFAULTS, **s}, vocab)
         for row, history, s in asked]
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/ask.cpp", "w").write(PROGRAM)
    libraries = os.path.abspath(source + "/build/bin")
    subprocess.run(["g++", "-std=c++17", "-O1", "-w", f"-I{source}/include", f"-I{source}/ggml/include", folder + "/ask.cpp", f"-L{libraries}",
                    f"-Wl,-rpath,{libraries}", f"-Wl,-rpath-link,{libraries}", "-lllama", "-o", folder + "/ask"], check=True)
    output = subprocess.run([folder + "/ask"], input="".join(lines), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
answers = [line.split() for line in output.splitlines()]
assert len(answers) == len(asked)
print("{\"logits\": [\n" + ",\n".join(json.dumps([float("%.9g" % x) for x in row]) for row in rows) + "],\n\"cases\": [\n" + ",\n".join(
    json.dumps({"logits": row, "history": history, "settings": s, "tokens": list(map(int, answer[::2])),
                "probabilities": [round(float(p), 6) for p in answer[1::2]]}, separators=(",", ":"))
    for (row, history, s), answer in zip(asked, answers)) + "]}")
