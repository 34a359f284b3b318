#!/usr/bin/env python3
"""Tasks in llama.cpp's formats, made of a text: its sentences with their ends and words, or with those of other sentences.

    python3 make_tasks.py valid.txt tiny-rustdoc/tasks 16       # tests/data: hellaswag.txt, winogrande.csv, multiple_choice.bin
"""
import pathlib, random, re, struct, sys

text, out, count = pathlib.Path(sys.argv[1]).read_text(), pathlib.Path(sys.argv[2]), int(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
rng = random.Random(1)
sentences = [" ".join(s.split()) for s in re.split(r"(?<=[.])\s+", text)]
sentences = [s for s in sentences if 10 <= len(s.split()) <= 24 and re.fullmatch(r"[A-Za-z ,.'\-]+", s)]
sentences = list(dict.fromkeys(sentences))
rng.shuffle(sentences)
assert len(sentences) > 3 * count, len(sentences)

def halves(sentence):
    words = sentence.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])

def question(sentence, answers):
    """The beginning, the ends of which one is its own, and the number of that."""
    beginning, end = halves(sentence)
    ends = [halves(s)[1] for s in rng.sample([s for s in sentences if s != sentence], answers - 1)]
    right = rng.randrange(answers)
    return beginning, ends[:right] + [end] + ends[right:], right

lines = []
for sentence in sentences[:count]:
    beginning, ends, right = question(sentence, 4)
    lines += [beginning, str(right), *ends]
(out / "hellaswag.txt").write_text("\n".join(lines) + "\n")

lines = []
words = sorted({w for s in sentences for w in re.findall(r"\b[a-z]{4,}\b", s)})
for i, sentence in enumerate(sentences[count : 2 * count]):
    # Some gaps are near the end, where llama.cpp scores the word itself.
    own = re.findall(r"\b[a-z]{4,}\b", sentence)
    word = own[-1] if i % 3 == 0 else rng.choice(own)
    other = rng.choice([w for w in words if w != word])
    gap = re.sub(rf"\b{word}\b", "_", sentence, count=1)
    right = rng.randint(1, 2)
    choices = [word, other] if right == 1 else [other, word]
    gap = f'"{gap}"' if "," in gap else gap
    lines.append(f"{i},{gap},{choices[0]},{choices[1]},{right}")
(out / "winogrande.csv").write_text("\n".join(lines) + "\n")

def packed(string):
    return struct.pack("<I", len(string.encode())) + string.encode()

def answers(ends, labels):
    return struct.pack("<I", len(ends)) + b"".join(map(packed, ends)) + struct.pack(f"<{len(labels)}i", *labels)

tasks = []
for sentence in sentences[2 * count : 3 * count]:
    beginning, ends, right = question(sentence, rng.randint(2, 5))
    one = answers(ends, [int(i == right) for i in range(len(ends))])
    tasks.append(packed(beginning) + one + answers(ends, [1] * len(ends)))
begins, at = [], 4 + 4 * len(tasks)
for task in tasks:
    begins.append(at)
    at += len(task)
(out / "multiple_choice.bin").write_bytes(struct.pack(f"<{1 + len(begins)}I", len(tasks), *begins) + b"".join(tasks))
