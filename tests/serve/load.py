#!/usr/bin/env python3
"""Load by hand: load.py ADDRESS [CLIENTS] [SECONDS] [TOKENS] [PID]

Clients that stream at the same time, each with prompts whose answer alone is known; nothing but 200 and 429 may come, and every answer must
be the one that it is alone. With the process id of the server its resident memory is shown over time.
"""
import http.client
import json
import sys
import threading
import time
from urllib.parse import urlparse

address = urlparse(sys.argv[1])
clients, seconds, tokens = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((2, 64), (3, 300), (4, 64)))
pid = sys.argv[5] if len(sys.argv) > 5 else None
topics = ["iterators", "vectors", "strings", "threads", "errors", "hash maps", "closures", "traits", "slices", "pipes", "files", "sockets"]


def ask(i, stream=True):
    """The status, the text and the number of tokens."""
    body = {"messages": [{"role": "user", "content": f"Tell me of {topics[i % len(topics)]}."}], "max_tokens": tokens, "seed": i % len(topics),
            "stream": stream, "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=600)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        answer.read()
        return answer.status, "", 0
    text, count = "", 0
    for line in answer:
        if line.startswith(b"data: {"):
            data = json.loads(line[6:])
            if "error" in data:
                return 500, data["error"]["message"], 0
            text += "".join(choice["delta"].get("content") or "" for choice in data["choices"])
            count = (data.get("usage") or {}).get("completion_tokens", count)
    connection.close()
    return 200, text, count


def resident():
    with open(f"/proc/{pid}/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


alone = [ask(i) for i in range(len(topics))]
assert all(status == 200 for status, _, _ in alone), alone
counts, wrong, lock, end, total = {}, [], threading.Lock(), time.monotonic() + seconds, 0


def client(number):
    global total
    i = number
    while time.monotonic() < end:
        try:
            status, text, count = ask(i)
        except OSError as error:
            status, text, count = repr(error), "", 0
        with lock:
            counts[status] = counts.get(status, 0) + 1
            total += count
            if status == 200 and text != alone[i % len(topics)][1]:
                wrong.append((i, text))
        if status == 429:
            time.sleep(0.5)
        i += 1


threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
begin = time.monotonic()
for thread in threads:
    thread.start()
while pid and any(thread.is_alive() for thread in threads):
    print(f"{time.monotonic() - begin:.0f} s: resident {resident():.1f} MiB, {counts}", flush=True)
    time.sleep(min(15, seconds / 4))
for thread in threads:
    thread.join()
print(f"{clients} clients, {time.monotonic() - begin:.0f} s: {counts}, {total / (time.monotonic() - begin):.1f} tokens/s, {len(wrong)} answers differ")
if wrong or set(counts) - {200, 429}:
    sys.exit(f"wrong: {wrong[:2]} {counts}")
