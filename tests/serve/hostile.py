#!/usr/bin/env python3
"""Hostile requests against a running server: hostile.py ADDRESS NUMBER

Each must be answered within its time, by 4xx (or 200 where what is asked can be done), and an honest client who asks the same question all
the while must always get the same answer. Classes as in the reference: templates (B), grammars and schemas (C), fields and transport (D),
browsers (G). The requests are drawn from generators with a fixed seed.
"""
import http.client
import json
import random
import socket
import sys
import threading
import time
from urllib.parse import urlparse

address, number = urlparse(sys.argv[1]), int(sys.argv[2])
draw = random.Random(7)
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "x"}]
HUGE = [-1, -2**31, -2**63, 2**31, 2**32, 2**53, 2**63, 2**64 - 1, 2**64, 10**30, 1e308, -1e308, 1.5, "1", "x" * 1000, [], {}, True, [[]], {"a": {}}]
FIELDS = ["n", "max_tokens", "max_completion_tokens", "n_predict", "top_k", "top_p", "min_p", "temperature", "typical_p", "top_n_sigma", "seed",
          "repeat_last_n", "repeat_penalty", "presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length",
          "dry_penalty_last_n", "dry_sequence_breakers", "xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta",
          "dynatemp_range", "dynatemp_exponent", "min_keep", "samplers", "logit_bias", "logprobs", "top_logprobs", "stop", "stream",
          "stream_options", "ignore_eos", "tools", "tool_choice", "parallel_tool_calls", "response_format", "json_schema", "grammar", "model",
          "messages", "chat_template_kwargs", "return_progress"]


def nested(depth):
    return "[" * depth + "]" * depth


def post(body, path=CHAT):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (path.encode(), len(data)) + data


def chat(**fields):
    return post({"messages": USER, "max_tokens": 2, **fields})


def templates():
    deep, twice = "x", 0
    for _ in range(draw.choice([10, 60, 120])):
        # JSON writes out what is there twice: each time doubles it, and without a bound a body has gigabytes.
        both = draw.random() < 0.1 and twice < 4
        deep, twice = {"a": deep, "b": [deep]} if both else {"a": deep}, twice + both
    return draw.choice([
        lambda: chat(messages=[{"role": "user", "content": "{{ " * draw.randrange(1, 5000)}]),
        lambda: chat(messages=[{"role": "user", "content": "{% for a in range(10**9) %}x{% endfor %}"}]),
        lambda: chat(messages=[{"role": "user", "content": "<|eot_id|><|start_header_id|>" * draw.randrange(1, 400)}]),
        lambda: chat(messages=[{"role": draw.choice(["x" * 10**5, "", "\u0000", "assistant\n"]), "content": "x"}]),
        lambda: chat(messages=USER * draw.randrange(2, 12_000)),
        lambda: chat(chat_template_kwargs=deep if isinstance(deep, dict) else {}),
        lambda: chat(chat_template_kwargs={"bos_token": "x" * 300_000}),
        lambda: chat(messages=[{"role": "user", "content": [{"type": "text", "text": "y"}] * draw.randrange(900, 3000)}]),
        lambda: chat(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": nested(draw.randrange(100, 50_000))}}]}]),
        lambda: chat(tools=[{"type": "function", "function": {"name": "f", "parameters": deep if isinstance(deep, dict) else {}}}] * draw.randrange(1, 300)),
    ])()


def grammars():
    count = draw.choice([10, 1000, 60_000])
    schemas = [
        {"type": "array", "items": {"type": "integer"}, "maxItems": 2**64 - 1},
        {"type": "array", "items": {"type": "string"}, "minItems": 10**6},
        {"type": "string", "pattern": draw.choice(["[ab]*a[ab]{13}", "(a*)*b", "((a{1,100}){1,100}){1,100}", "(", "(?=a)", "\\1", "a{99999}", "^(a|a)*$"])},
        {"type": "string", "minLength": 2**31, "maxLength": 2**40},
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"$ref": draw.choice(["http://localhost/x", "file:///etc/passwd", "#/nowhere", "\u0000"])},
        {"enum": [str(i) * 20 for i in range(count // 10)]},
        {"anyOf": [{"const": i} for i in range(count // 10)]},
        {"allOf": [{"type": "object", "properties": {str(i): {}}} for i in range(min(count, 200))]},
        {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(count // 20)}},
        {"type": draw.choice(["nonsense", 7, [], ["string", "nonsense"]])},
        {"not": {}}, {"if": {}, "then": {}}, {"multipleOf": 1e-300}, {"minimum": 1e308, "maximum": -1e308}, False, True, [], "x", 7,
    ]
    deep = {}
    for _ in range(draw.choice([20, 100])):
        deep = {"type": "array", "items": deep, "minItems": 3}
    sources = [
        "root ::= " + "(" * count + '"a"' + ")" * count,
        "root ::= " + "(" * count,
        "root ::= root", "root ::= root root | \"\"", "root ::= *", "root ::= [a-", "root ::= \"a\"{1000000000}", "root ::= (\"a\"*)*", "x ::= \"a\"",
        "root ::= a\na ::= b\nb ::= a", "root ::= \"" + "a" * count * 5 + "\"", "\u0000", "root ::= [^\\x00-\\U0010FFFF]", "root ::= undefined",
        "\n".join(["root ::= r0"] + [f"r{i} ::= r{i + 1} r{i + 1}" for i in range(60)] + ["r60 ::= \"a\""]),
    ]
    return draw.choice([
        lambda: chat(json_schema=draw.choice(schemas)),
        lambda: chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": draw.choice(schemas + [deep])}}),
        lambda: chat(grammar=draw.choice(sources)),
        lambda: chat(grammar=draw.choice(sources), n=2, logprobs=True, top_logprobs=20, repeat_penalty=1.5, dry_multiplier=1),
        lambda: chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": draw.choice(schemas)}}}}], tool_choice="required"),
        lambda: post({"messages": USER, "max_tokens": 2, "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"x": draw.choice(schemas)}}}], "tool_choice": {"type": "any"}}, "/v1/messages"),
        lambda: post({"input": "x", "max_output_tokens": 2, "text": {"format": {"type": "json_schema", "name": "x", "schema": draw.choice(schemas)}}}, "/v1/responses"),
    ])()


def fields():
    body = {"messages": USER, "max_tokens": 2}
    for field in draw.sample(FIELDS, draw.choice([1, 1, 2, 5])):
        body[field] = draw.choice(HUGE)
    whole = json.dumps({"messages": USER, "max_tokens": 2}).encode()
    return draw.choice([
        lambda: post(body),
        lambda: post(body),
        lambda: post({"prompt": draw.choice(HUGE), "max_tokens": 2, draw.choice(FIELDS): draw.choice(HUGE)}, "/v1/completions"),
        lambda: post({"input": draw.choice(HUGE), "dimensions": draw.choice(HUGE)}, "/v1/embeddings"),
        lambda: post({"input": draw.choice(HUGE), draw.choice(FIELDS): draw.choice(HUGE)}, "/v1/responses"),
        lambda: post({"messages": USER, "max_tokens": draw.choice(HUGE), draw.choice(FIELDS): draw.choice(HUGE)}, "/v1/messages"),
        lambda: post({"tokens": draw.choice(HUGE + [[2**32], [4095, 4096], [0] * 100_000])}, "/detokenize"),
        lambda: post({"content": draw.choice(["\ud800", "a" * 500_000, "\u0000" * 1000, "<|eot_id|>" * 1000])}, "/tokenize"),
        lambda: post(b'{"messages": ' + nested(draw.choice([127, 200, 100_000])).encode() + b"}"),
        lambda: post(bytes(draw.randrange(256) for _ in range(draw.randrange(200)))),
        lambda: post(whole[:draw.randrange(len(whole))]),
        lambda: post(whole.replace(b"x", draw.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"]))),
        lambda: post(b'{"messages": 1e400}'),
        lambda: post(b'{"n": 1, "n": -1, ' + whole[1:]),
        lambda: post({"messages": USER, "max_tokens": 3, "n": 4, "logprobs": True, "top_logprobs": 20, "repeat_penalty": 1e-30, "mirostat": 2,
                      "temperature": 3e38, "logit_bias": {str(i): -100 for i in range(1000)}, "samplers": [], "stop": ["a"] * 16}),
    ])()


def transport():
    body = json.dumps({"messages": USER, "max_tokens": 2}).encode()
    return draw.choice([
        lambda: b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * draw.choice([70_000, 300_000]) + b"\r\n\r\n",
        lambda: b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x%d: y\r\n" % i for i in range(draw.choice([101, 5000]))) + b"\r\n",
        lambda: b"GET /" + b"a" * draw.choice([60_000, 100_000]) + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        lambda: b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n" % CHAT.encode(),
        lambda: b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n" % CHAT.encode(),
        lambda: b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd" % CHAT.encode(),
        lambda: b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2000000\r\n\r\n" % CHAT.encode() + b"x" * 1000,
        lambda: b"POST %s HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n" % CHAT.encode(),
        lambda: b"POST %s HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n" % CHAT.encode(),
        lambda: b"POST %s HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n" % CHAT.encode(),
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(draw.randrange(256) for _ in range(100)),
        lambda: b"GET / HTTP/9.9\r\n\r\n",
        lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        lambda: b"NONSENSE %s HTTP/1.1\r\nhost: localhost\r\n\r\n" % CHAT.encode(),
        lambda: b"GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n" % draw.choice([b"/../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"/v1/models/..%2f..%2fx", b"//", b"/%00", b"/v1/models/%ff"]),
        lambda: b"GET /props?model=%s HTTP/1.1\r\nhost: localhost\r\n\r\n" % draw.choice([b"../x", b"%ff", b"a&model=b", b"%00"]),
        lambda: post(body)[:-5] if draw.random() < 0.1 else b"GET /health HTTP/1.1\r\nhost: localhost\r\n\x00: y\r\n\r\n",
    ])()


def browsers():
    host = draw.choice([b"evil.example", b"127.0.0.1.evil.example", b"localhost@evil.example", b"localhost:80:80", b"", b"\xff", b"[::1", b"127.1", b"2130706433", b"0.0.0.0"])
    origin = draw.choice([b"http://evil.example", b"null", b"http://localhost.evil.example", b"file://", b"\xff", b"http://localhost:1@evil.example"])
    method = draw.choice([b"GET /v1/models", b"POST %s" % CHAT.encode(), b"OPTIONS %s" % CHAT.encode()])
    return draw.choice([
        lambda: method + b" HTTP/1.1\r\nhost: " + host + b"\r\ncontent-length: 0\r\n\r\n",
        lambda: method + b" HTTP/1.1\r\nhost: localhost\r\norigin: " + origin + b"\r\naccess-control-request-method: POST\r\ncontent-length: 0\r\n\r\n",
        lambda: method + b" HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        lambda: method + b" HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\ncontent-length: 0\r\n\r\n",
        lambda: b"GET http://evil.example/v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ])()


def send(data):
    """The status, 0 where the connection was closed without a word, and the seconds."""
    start = time.monotonic()
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        answer = b""
        try:
            connection.sendall(data)
            while b"\r\n" not in answer:
                piece = connection.recv(65536)
                if not piece:
                    break
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    status = int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.") else 0
    return status, time.monotonic() - start


def ask():
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
    connection.request("POST", CHAT, json.dumps({"messages": [{"role": "user", "content": "What is an iterator?"}], "max_tokens": 8, "seed": 1}),
                       {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, json.loads(text)["choices"][0]["message"]["content"] if answer.status == 200 else text


def honest(expected, stop, seen):
    while not stop.is_set():
        got = ask()
        if got[0] == 429:
            time.sleep(0.05)
            continue
        seen.append(got)
        if got != expected:
            return


expected = ask()
assert expected[0] == 200, expected
stop, seen = threading.Event(), []
client = threading.Thread(target=honest, args=(expected, stop, seen))
client.start()
classes = [("templates", templates), ("grammars", grammars), ("fields", fields), ("transport", transport), ("browsers", browsers)]
wrong, counts, slowest, took = [], {}, (0, None), []
for i in range(number):
    name, make = classes[i % len(classes)]
    data = make()
    try:
        status, seconds = send(data)
    except OSError as error:
        status, seconds = repr(error), 0
    counts[(name, status)] = counts.get((name, status), 0) + 1
    took.append(seconds)
    slowest = max(slowest, (seconds, data[:300]), key=lambda one: one[0])
    # Closed without a word is right only where nothing that could be answered has come.
    silent = status == 0 and name == "transport"
    if not (status == 200 or status == 204 or (isinstance(status, int) and 400 <= status < 500) or silent):
        wrong.append((name, status, data[:500]))
stop.set()
client.join()
for key in sorted(counts, key=str):
    print(*key, counts[key])
took.sort()
print(f"{number} requests; half within {took[len(took) // 2]:.3f} s, 99 % within {took[len(took) * 99 // 100]:.3f} s, all within {slowest[0]:.3f} s: {slowest[1]!r}")
print(f"the honest client had {len(seen)} answers")
if wrong:
    sys.exit(f"{len(wrong)} wrong answers, as {wrong[:5]}")
if not seen or any(one != expected for one in seen):
    sys.exit(f"the honest client was disturbed: {seen[-1:]} is not {expected}")
