"""Texts, prompts and files of types that are empty, binary, endless, no files at all, or come from a pipe."""
import os
import signal
import threading
import time

CONTENTS = {
    "empty": b"", "newline": b"\n", "spaces": b" " * 5000, "binary": bytes(range(256)) * 40, "no UTF-8": b"The quick brown fox. " * 60 + b"\xff" + b" jumps" * 50,
    "cut UTF-8": "é".encode() * 300 + b"\xc3", "surrogates": b"\xed\xa0\x80" * 200, "NULs": bytes(3000), "BOM": b"\xef\xbb\xbf" + b"The type. " * 100, "UTF-16": ("The type. " * 100).encode("utf-16"),
    "CRLF": b"The type.\r\n" * 200, "special": b"<|begin_of_text|><|eot_id|><s></s><unk>" * 50, "one letter": b"a" * 200_000, "one line": b"The type of a value. " * 200_000,
    "spaces of megabytes": b" " * 3_000_000, "no spaces": b"abcdefghij" * 200_000, "newlines": b"\n" * 1_000_000, "marks": "\u0301".encode() * 100_000, "emoji": "👩‍👩‍👧‍👦".encode() * 5000,
    "controls": b"\x1b[2J\x07\x08" * 400, "bidi": "\u202eabc\u2066".encode() * 300, "digits": b"1234567890" * 20_000, "quotes": b"'s" * 50_000, "short": b"Hi",
}
SOURCES = ("missing", "folder", "devnull", "devzero", "urandom", "fifo", "fifo written", "fifo open", "fifo slow", "fifo closed", "dangling", "cycle", "dash", "dash empty", "dash closed", "fd", "full", "mem", "model", "long name")


def commands(case, text):
    """A command that reads the text, and what it would write."""
    model = case.fix.path(case.rng.choice(("f16.gguf", "spm.gguf", "q4_k_m.gguf")))
    return case.rng.choice((
        (("perplexity", "-m", model, "-f", text, "-c", "16", "--chunks", "1"), None), (("perplexity", "-m", model, "-f", text, "-c", "32", "--chunks", "2", "--json"), None),
        (("run", "-m", model, "-f", text, "-n", "1", "-c", "64"), None), (("run", "-m", model, "-f", text, "-n", "1", "-c", "64", "--json"), None),
        (("calibrate", "-m", model, "-f", text, "-c", "16", "--chunks", "1", "-o", "im.gguf"), ["im.gguf"]),
        (("calibrate", "-m", model, "-f", text, "-c", "16", "--chunks", "1", "--parse-special", "-o", "im.dat", "--json"), ["im.dat"])))


def texts(case):
    """A text or prompt of each kind of contents, from a file or from stdin."""
    what, way = case.nth(list(CONTENTS), ("file", "file", "stdin"))
    case.place("text", CONTENTS[what])
    args, outputs = commands(case, "-" if way == "stdin" else "text")
    stdin = os.open(case.path("text"), os.O_RDONLY) if way == "stdin" else None
    result = case.strata(*args, outputs=outputs, stdin=stdin)
    if stdin is not None:
        os.close(stdin)
    if what in ("no UTF-8", "cut UTF-8", "surrogates") and way == "file" and result.code == 1 and args[0] != "run" and "text" in result.err and "byte" not in result.err and "tokens" not in result.err:
        case.fault("no offset", result, f"a text that is no UTF-8, and not where: {result.said}", args)
    if args[0] == "perplexity" and result.code == 0 and what in ("empty", "short", "newline"):
        case.fault("accepted", result, f"a text that is too short: {what}", args)


def sources(case):
    """A text, file of types or importance matrix that is a pipe, a device, a folder, a link or nothing."""
    what, use = case.nth(SOURCES, ("text", "text", "types", "matrix", "model", "list"))
    rng, path = case.rng, case.path("in")
    name, stdin, helpers = "in", None, []
    good = case.fix.bytes({"text": "text.txt", "types": "types.txt", "matrix": "im.gguf", "model": "f16.gguf", "list": "im.dat"}[use])
    links = {"devnull": "/dev/null", "devzero": "/dev/zero", "urandom": "/dev/urandom", "dangling": "nowhere", "cycle": "in", "full": "/dev/full", "mem": "/proc/self/mem"}
    if what in links:
        os.symlink(links[what], path)
    elif what == "folder":
        os.mkdir(path)
    elif what.startswith("fifo"):
        os.mkfifo(path)
    elif what == "fd":
        name = "/dev/fd/0"
    elif what.startswith("dash"):
        name = "-"
    elif what == "model":
        name = case.fix.path("q8_0.gguf")
    elif what == "long name":
        name = "n" * 5000
    args, outputs = {
        "text": commands(case, name), "types": (("quantize", case.fix.path("f16.gguf"), "out.gguf", "q4_0", "--tensor-type-file", name), ["out.gguf"]),
        "matrix": (("quantize", case.fix.path("f16.gguf"), "out.gguf", "q4_0", "--imatrix", name), ["out.gguf"]),
        "model": (rng.choice((("verify", name), ("perplexity", "-m", name, "-f", case.fix.path("text.txt"), "-c", "16"), ("split", name, "out"), ("merge", name, "out.gguf"), ("inspect", name), ("run", "-m", name, "-p", "a", "-n", "1"), ("quantize", name, "out.gguf", "q4_0"))), []),
        "list": (("calibrate", "--in-file", name, "-o", "im.gguf"), ["im.gguf"])}[use]
    if what in ("dash", "fd"):
        stdin = os.open(case.fix.path({"text": "text.txt", "types": "types.txt", "matrix": "im.gguf", "model": "f16.gguf", "list": "im.dat"}[use]), os.O_RDONLY)
    why = f"{use} from {what}"
    if what in ("fifo", "fifo open", "fifo slow"):
        return waiting(case, what, path, args, good)
    if what == "fifo written":
        helpers.append(threading.Thread(target=feed, args=(path, good), daemon=True))
    elif what == "fifo closed":
        helpers.append(threading.Thread(target=feed, args=(path, b""), daemon=True))
    for helper in helpers:
        helper.start()
    prepare = (lambda: os.close(0)) if what == "dash closed" else None
    must_fail = what in ("missing", "folder", "dangling", "cycle", "long name", "mem") or what in ("devzero", "urandom", "devnull", "full") and use != "types" and not (use == "text" and args[0] == "run")
    may_be_pipe = use in ("text", "types") and what in ("dash", "fd", "fifo written")
    case.strata(*args, outputs=outputs or None, stdin=stdin, prepare=prepare, expect="fail" if must_fail else "ok" if may_be_pipe else None, why=why)
    if stdin is not None:
        os.close(stdin)
    release(path, helpers)


def feed(path, contents):
    """Writes a FIFO's contents as soon as somebody reads."""
    try:
        with open(path, "wb") as file:
            file.write(contents)
    except OSError:
        pass


def release(path, helpers):
    """Lets a writer go that nobody has read from."""
    for helper in helpers:
        if helper.is_alive():
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            except OSError:
                pass
            helper.join(1)


def waiting(case, what, path, args, good):
    """Nobody writes to a FIFO, or its writer does not end: an error soon, or a wait that SIGTERM or Ctrl-C ends."""
    handle = None
    if what != "fifo":
        handle = os.open(path, os.O_RDWR)
        if what == "fifo slow":
            os.write(handle, good[:20])
    process = case.start(*args)
    if process.ended(1.2):
        case.finish(process)
    else:
        number = case.rng.choice((signal.SIGTERM, signal.SIGINT))
        process.send(number)
        begun = time.monotonic()
        ended = process.ended(3)
        result = process.wait(0.1)
        if not ended:
            case.fault("hang", result, f"waits for {what} and signal {int(number)} does not end it", args)
        elif result.code not in (-int(number), 1, 128 + int(number)):
            case.fault("exit code", result, f"{what}, ended by signal {int(number)} after {time.monotonic() - begun:.1f} s: {result.said}", args)
        left = [name for name in case.listing() if name != "in"]
        if left:
            case.fault("left behind", result, f"{left}", args)
    if handle is not None:
        os.close(handle)


TYPE_FILES = (b"", b"x", b"=", b"ffn=", b"=q8_0", b"(=q8_0", b"ffn_down=unheard", b"\xff\xfe=q8_0", b"a=q8_0\x00", b"x=q8_0\n" * 20_000, b"(" * 20_000 + b"=q8_0", b"(x{1000}){1000}=q8_0", b".*=q4_0 .*=q8_0", b"ffn_down=q8_0\r\n", b"# comment\nffn=q8_0",
              b"\x1b[2J=q8_0", b"a" * 1_000_000 + b"=q8_0", b"(a|a)*b=q8_0", b"ffn_down=Q8_0,attn=Q4_0", b"ffn_down==q8_0", b"ffn_down=q4_k\tattn=f16", b"norm=q8_0", b"token_embd=iq4_xs", b"rope=q4_0")


def type_files(case):
    """A file of REGEX=TYPE that is damaged, huge or hard; the same on the command line."""
    contents, way = case.nth(TYPE_FILES, ("file", "file", "option"))
    source = case.fix.path("f16.gguf")
    if way == "file":
        args = ("quantize", source, "out.gguf", "q4_k_m", "--tensor-type-file", case.place("types", contents))
    else:
        args = ("quantize", source, "out.gguf", "q4_k_m", "--tensor-type", contents[:100_000].replace(b"\x00", b""))
    result = case.strata(*args, outputs=["out.gguf"])
    if result.code == 0:
        case.check_model("out.gguf", why="file of types")


KINDS = {"texts": (texts, 4), "sources": (sources, 5), "type_files": (type_files, 2)}
