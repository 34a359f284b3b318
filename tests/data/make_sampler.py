# Asks llama.cpp's own sampler which tokens its chains keep, with what probabilities:
#   pip download --no-deps --no-binary llama-cpp-python llama-cpp-python && tar xzf llama_cpp_python-*.tar.gz
#   python make_sampler.py llama_cpp_python-*/vendor/llama.cpp > sampler.json
# sampler.json was made with llama-cpp-python 0.3.36. Only the sampler is compiled: what it would need of ggml for GPUs stays undefined.
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
#include <cstdio>
#include <vector>

extern "C" void ggml_abort(const char *, int, const char *, ...) { __builtin_trap(); }
extern "C" int64_t ggml_time_us(void) { return 0; }
llama_sampler_chain_params llama_sampler_chain_default_params(void) { return {true}; }

// Lines of: top_k top_p min_p temperature, n, n logits. Out: the kept tokens, each with its probability.
int main() {
    int k, n;
    float top_p, min_p, temperature;
    while (scanf("%d %f %f %f %d", &k, &top_p, &min_p, &temperature, &n) == 5) {
        std::vector<llama_token_data> tokens;
        for (int i = 0; i < n; i++) {
            float logit;
            if (scanf("%f", &logit) != 1) return 1;
            tokens.push_back({i, logit, 0});
        }
        llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
        llama_sampler_chain_add(chain, llama_sampler_init_top_k(k));
        llama_sampler_chain_add(chain, llama_sampler_init_top_p(top_p, 1));
        llama_sampler_chain_add(chain, llama_sampler_init_min_p(min_p, 1));
        llama_sampler_chain_add(chain, llama_sampler_init_temp(temperature));
        llama_sampler_chain_add(chain, llama_sampler_init_dist(1));
        llama_token_data_array all = {tokens.data(), tokens.size(), -1, false};
        llama_sampler_apply(chain, &all);
        for (size_t i = 0; i < all.size; i++) printf("%d %.9g ", all.data[i].id, all.data[i].p);
        printf("\n");
    }
}
"""


def compiled(source, folder):
    open(folder + "/ask.cpp", "w").write(PROGRAM)
    subprocess.run(["g++", "-std=c++17", "-O1", "-w", "-DNDEBUG", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-static",
                    "-Wl,--unresolved-symbols=ignore-all", f"-I{source}/include", f"-I{source}/ggml/include", f"-I{source}/src",
                    folder + "/ask.cpp", *(f"{source}/src/llama-{part}.cpp" for part in ["sampler", "impl"]), "-o", folder + "/ask"], check=True)
    return folder + "/ask"


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


random.seed(7)
logits = [[f32(random.gauss(0, spread)) for _ in range(n)] for n, spread in [(5, 1), (64, 3), (64, 0.01), (120, 2)]]
logits.append([f32(math.log(p)) for p in [0.5, 0.3, 0.15, 0.04, 0.01]])
logits.append([f32(x) for x in [80, -80, 79.5, 0, 79.9, 60]])
chains = [  # top_k, top_p, min_p, temperature; the first are llama.cpp's defaults; no top_p meets a sum of the probabilities above exactly
    (40, 0.95, 0.05, 0.8), (0, 1, 0, 1), (0, 1, 0, 0.2), (0, 1, 0, 5), (1, 0.95, 0.05, 0.8), (3, 1, 0, 1), (1000, 1, 0, 1), (0, 0.9, 0, 1),
    (0, 0.3, 0, 1), (0, 0.001, 0, 0.7), (0, 1, 0.2, 1), (0, 1, 0.9, 1.5), (0, 1, 1, 1), (8, 0.7, 0.1, 0.5), (20, 0.985, 0.01, 1.3)]
source, cases = sys.argv[1], [(which, *chain) for which in range(len(logits)) for chain in chains]
with tempfile.TemporaryDirectory() as folder:
    lines = [f"{k} {p} {m} {t} {len(logits[which])} {' '.join('%.9g' % x for x in logits[which])}\n" for which, k, p, m, t in cases]
    output = subprocess.run([compiled(source, folder)], input="".join(lines), capture_output=True, text=True, check=True).stdout
answers = [line.split() for line in output.splitlines()]
answers = [sorted(zip(map(float, answer[1::2]), map(int, answer[::2])), key=lambda pair: (-pair[0], pair[1])) for answer in answers]
assert len(answers) == len(cases)
cases = [{"logits": which, "top_k": k, "top_p": p, "min_p": m, "temperature": t,
          "tokens": [token for _, token in answer], "probabilities": [float("%.6g" % p) for p, _ in answer]}
         for (which, k, p, m, t), answer in zip(cases, answers)]
logits = [[float("%.9g" % x) for x in row] for row in logits]
print("{\"logits\": [\n" + ",\n".join(json.dumps(row) for row in logits) + "],\n\"cases\": [\n" + ",\n".join(json.dumps(case) for case in cases) + "]}")
