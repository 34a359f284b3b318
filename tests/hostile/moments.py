"""Moments: files that change while a command reads or writes them, commands that are killed and come again, two that write one file.

What happens here depends on the time, so a replay of a seed does the same at about the same moment, not at exactly the same one.
"""
import os
import signal
import time

from case import read
from gguf_inputs import valued
from formats import F32, U32, Gguf, with_pairs

# (command with OUT and SRC, source files, output); the tiny model itself, so that there is time to meet.
WRITERS = {
    "convert": (["convert", "ckpt", "-t", "q8_0", "-o", "OUT"], ["ckpt/model.safetensors", "ckpt/tokenizer.json", "ckpt/config.json"], "out.gguf"),
    "convert slow": (["convert", "ckpt", "-t", "q4_k_m", "-o", "OUT"], ["ckpt/model.safetensors"], "out.gguf"),
    "quantize": (["quantize", "tiny.gguf", "OUT", "q4_k_m"], ["tiny.gguf"], "out.gguf"),
    "quantize split": (["quantize", "tiny-00002-of-00005.gguf", "OUT", "q8_0"], [f"tiny-0000{number}-of-00005.gguf" for number in range(1, 6)], "out.gguf"),
    "split": (["split", "tiny.gguf", "OUT", "--split-max-tensors", "12"], ["tiny.gguf"], "out"),
    "merge": (["merge", "tiny-00001-of-00005.gguf", "OUT"], [f"tiny-0000{number}-of-00005.gguf" for number in range(1, 6)], "out.gguf"),
    "calibrate": (["calibrate", "-m", "tiny.gguf", "-f", "text.txt", "-c", "128", "--chunks", "3", "-o", "OUT"], ["tiny.gguf", "text.txt"], "out.gguf"),
}
READERS = {
    "perplexity": (["perplexity", "-m", "tiny.gguf", "-f", "text.txt", "-c", "128", "--chunks", "3"], ["tiny.gguf", "text.txt"]),
    "run": (["run", "-m", "tiny.gguf", "-p", "The type", "-n", "8", "-c", "64", "--temp", "0", "--seed", "1"], ["tiny.gguf"]),
    "verify": (["verify", "tiny.gguf"], ["tiny.gguf"]), "perplexity split": (["perplexity", "-m", "tiny-00001-of-00005.gguf", "-f", "text.txt", "-c", "128", "--chunks", "3"], [f"tiny-0000{number}-of-00005.gguf" for number in range(1, 6)]),
}
CHANGES = ("empty", "half", "cut 1", "cut 4096", "tail 0x55", "head 0xff", "tail NaN", "replace", "replace valid", "delete", "append", "touch", "zero page", "exchange")


def sources(case, names):
    """Copies of the files that a command reads."""
    for name in names:
        if name.startswith("ckpt/"):
            for entry in os.listdir(case.fix.tiny):
                if not os.path.exists(case.path("ckpt/" + entry)):
                    with open(os.path.join(case.fix.tiny, entry), "rb") as file:
                        case.place("ckpt/" + entry, file.read())
        else:
            case.place(name, case.fix.bytes(name))


def undisturbed(case, which):
    """The bytes of all outputs of an undisturbed run, and how long it takes; kept for the whole drive."""
    kept = case.fix.__dict__.setdefault("undisturbed", {})
    if which not in kept:
        args, names, output = WRITERS[which] if which in WRITERS else (*READERS[which], None)
        sources(case, names + ["text.txt"])
        case.strata(*with_output(args, output))
        begun = time.monotonic()
        result = case.strata(*with_output(args, output), expect="ok", why="an undisturbed " + which)
        took = time.monotonic() - begun
        kept[which] = (outputs(case, output) if output else result.out), took
        clear(case, output)
    return kept[which]


def with_output(args, output):
    """The arguments with this output."""
    return [output if arg == "OUT" else arg for arg in args]


def outputs(case, output):
    """The final files of this output, by name."""
    return {name: read(case.path(name)) for name in sorted(case.listing()) if output and (name == output or name.startswith(output + "-0") and name.endswith(".gguf"))}


def clear(case, output):
    """Removes all that a run has left of this output."""
    for name in case.listing():
        if output and name.startswith(output):
            os.remove(case.path(name))


def change(case, path, how):
    """Changes a file in place, or what its name means; `None` if it is not there (yet)."""
    rng = case.rng
    if how == "delete":
        return os.remove(path) if os.path.lexists(path) else None
    size = os.stat(path).st_size if os.path.exists(path) else 0
    if how in ("replace", "replace valid"):
        contents = rng.randbytes(5000)
        if how == "replace valid":
            contents = other(case, path)
        with open(path + ".other", "wb") as file:
            file.write(contents)
        return os.replace(path + ".other", path)
    if not os.path.isfile(path):
        return None
    cuts = {"empty": 0, "half": size // 2, "cut 1": max(0, size - 1), "cut 4096": max(0, size - 4096)}
    if how in cuts:
        return os.truncate(path, cuts[how])
    if how == "touch":
        return os.utime(path)
    with open(path, "r+b") as file:
        if how == "append":
            file.seek(0, 2)
            file.write(b"x" * 100)
        elif how == "head 0xff":
            file.seek(24)
            file.write(b"\xff" * min(150_000, max(0, size - 24)))
        elif how == "zero page":
            file.seek(rng.randrange(max(1, size - 4096)))
            file.write(bytes(4096)[:size])
        elif how == "exchange":
            contents = other(case, path)
            file.write(contents[:size])
        else:
            at = size * 3 // 4
            file.seek(at)
            pattern = b"\x55" if how == "tail 0x55" else b"\x00\x7e"
            file.write((pattern * (size - at))[:size - at])
    return None


def other(case, path):
    """Another sound file of the same kind as the one at this path, where there is one."""
    name = os.path.basename(path)
    if name in ("tiny.gguf",):
        gguf = Gguf(case.fix.bytes(name))
        data = bytearray(with_pairs(gguf, valued(gguf, "llama.rope.freq_base", F32, 10000.0)))
        return bytes(data)
    if name.startswith("tiny-0"):
        gguf = Gguf(case.fix.bytes(name))
        return with_pairs(gguf, valued(gguf, "general.quantization_version", U32, 2))
    if name == "text.txt":
        return case.fix.bytes("text.txt")[::-1]
    if name == "model.safetensors":
        raw = bytearray(case.own.get(path) or b"")
        for at in range(len(raw) // 2 & ~1, len(raw) - 1, 2000):
            raw[at] ^= 1
        return bytes(raw)
    return case.rng.randbytes(3000)


def at_a_moment(case, args, took, action):
    """Starts a command, stops it at some time of its life, acts, and lets it go on; `None` if it had ended before."""
    process = case.start(*args)
    ended = process.ended(took * case.rng.random() ** 1.5 * 1.1)
    if ended:
        return case.finish(process), False
    process.send(signal.SIGSTOP)
    action()
    process.send(signal.SIGCONT)
    return case.finish(process), True


def source_changes(case):
    """A source changes while a command reads it: an error, or the result of the one state or of the other."""
    which, how = case.nth(list(WRITERS) + list(READERS), CHANGES)
    expected, took = undisturbed(case, which)
    args, names, output = WRITERS[which] if which in WRITERS else (*READERS[which], None)
    sources(case, names + ["text.txt"])
    victim = case.path(case.rng.choice(names))
    case.changed(victim)
    args = with_output(args, output)
    result, met = at_a_moment(case, args, took, lambda: change(case, victim, how))
    got = outputs(case, output) if output else result.out
    if result.code == 0 and got != expected and met:
        # It may have read nothing before the change: then it has the result of the changed source.
        if output:
            clear(case, output)
        again = case.strata(*args, judged=False)
        if again.code != 0 or (outputs(case, output) if output else again.out) != got:
            case.fault("mixed", result, f"{which}, {how} of {os.path.basename(victim)}: exit 0, and the result is of neither state ({again.said[:150]})", args)
    if result.code == 0 and output and (left := [name for name in case.listing() if name.endswith((".partial", ".journal", ".new"))]):
        case.fault("left behind", result, f"{which}, {how}: {left}", args)
    if result.code == 1:
        if output and outputs(case, output):
            case.fault("output of a failure", result, f"{which}, {how}: {list(outputs(case, output))}; {result.said}", args)
        if "convert the model again" in result.err and how not in ("touch",) and "chang" not in result.err and met and how not in ("replace valid", "exchange") and not still_bad(case, args):
            case.fault("blames", result, f"{which}, {how}: {result.said}", args)


def still_bad(case, args):
    """True if the command says so of the changed file as well: then the message is right."""
    return case.strata(*args, judged=False).code != 0


def work_changes(case):
    """What a command has written so far changes: noticed, or set right; a file that is called finished is right."""
    which, what, how = case.nth(list(WRITERS), (".partial", ".partial.journal", "final", "folder"), ("empty", "half", "cut 1", "tail 0x55", "zero page", "replace", "delete", "append", "exchange", "head 0xff"))
    expected, took = undisturbed(case, which)
    args, names, output = WRITERS[which]
    sources(case, names + ["text.txt"])
    base = {"out": "out-00002-of-00005.gguf"}.get(output, output)
    args = with_output(args, output)

    def act():
        if what == "folder":
            return
        name = base + ("" if what == "final" else what)
        candidates = [name] + [entry for entry in case.listing() if entry.startswith("out") and entry.endswith(".new")] if what == ".partial" else [name]
        for candidate in candidates:
            path = case.path(candidate)
            if what == "final" and how in ("replace", "append", "exchange"):
                with open(path, "wb") as file:
                    file.write(b"somebody else's")
            elif os.path.lexists(path):
                change(case, path, how)

    result, met = at_a_moment(case, args, took, act)
    got = outputs(case, output)
    where = f"{which}, {how} of {what}"
    if result.code == 0 and what != "final" and got != expected:
        case.fault("wrong output", result, f"{where}: exit 0, and the output is not that of an undisturbed run", args)
    if result.code == 1 and what not in ("final",) and got:
        case.fault("output of a failure", result, f"{where}: {list(got)}; {result.said}", args)
    if result.code == 1 and "damaged" in result.err and "partial" not in result.err and "journal" not in result.err and what.startswith(".partial") and met:
        case.fault("blames", result, f"{where}: {result.said}", args)
    # The same command again ends well, or says what is in its way; from the start it always ends well.
    if result.code == 1 and what != "final":
        again = case.strata(*args)
        if again.code == 0 and outputs(case, output) != expected:
            case.fault("wrong output", again, f"{where}, then the same again: exit 0, and the output is not that of an undisturbed run", args)
        if again.code == 1 and args[0] in ("convert", "quantize"):
            case.strata(*args, "--restart", expect="ok", why=f"--restart after {where}")


def killed(case):
    """A command is killed and given again: the same bytes as undisturbed, nothing left; another command does not take over."""
    which, then = case.nth(list(WRITERS), ("same", "same", "same", "other", "garbage", "padding", "source", "options"))
    expected, took = undisturbed(case, which)
    args, names, output = WRITERS[which]
    sources(case, names + ["text.txt"])
    args = with_output(args, output)
    process = case.start(*args)
    process.ended(took * (0.05 + 0.95 * case.rng.random()))
    process.send(signal.SIGKILL)
    first = process.wait(5)
    if first.code == 0:
        return
    left = {name: read(case.path(name)) for name in case.listing() if name.startswith("out")}
    done = outputs(case, output)
    if done and output == "out.gguf":
        if done != expected:
            case.fault("wrong output", first, f"{which}: killed, and a finished output is there that is not right", args)
        return
    journal = output + ".partial.journal"
    if then == "other" and journal in left:
        takeover(case, which, output, left)
    elif then == "garbage" and journal in left:
        damage(case, output)
    elif then == "padding" and output + ".partial" in left:
        change(case, case.path(output + ".partial"), case.rng.choice(("zero page", "tail 0x55", "append", "cut 1", "half", "empty", "delete")))
    elif then == "source":
        victim = case.path(names[0])
        case.changed(victim)
        change(case, victim, case.rng.choice(("exchange", "replace valid", "tail 0x55", "half")))
        fresh = case.strata(*with_output(args[:], output), judged=False)
        if fresh.code == 0:
            got = outputs(case, output)
            clear(case, output)
            clean = case.strata(*args, judged=False)
            if clean.code != 0 or outputs(case, output) != got:
                case.fault("wrong output", fresh, f"{which}: killed, the source changed, then the same: exit 0, and not what the changed source gives from the start", args)
        return
    elif then == "options":
        args = [{"q4_k_m": "q6_k", "q8_0": "q5_1", "12": "20", "3": "2"}.get(arg, arg) for arg in args]
        again = case.strata(*args)
        if again.code == 0:
            got = outputs(case, output)
            clear(case, output)
            case.strata(*args, expect="ok", why="the same from the start")
            # Whole parts of the run that was killed may have other names, and stay.
            if any(got.get(name) != bytes for name, bytes in outputs(case, output).items()):
                case.fault("wrong output", again, f"{which}: killed, then with other options: not the bytes of a run from the start", args)
        return
    again = case.strata(*args)
    if again.code == 0:
        got = outputs(case, output)
        if got != expected:
            case.fault("wrong output", again, f"{which}: killed, then {then}: exit 0, and not the bytes of an undisturbed run", args)
        if rest := [name for name in case.listing() if name.endswith((".partial", ".journal", ".new", ".lock"))]:
            case.fault("left behind", again, f"{which}: killed, then {then}: {rest}", args)
    elif then in ("same", "other"):
        case.fault("refused", again, f"{which} killed, then {then}: {again.said}", args)
    else:
        if then in ("garbage", "padding") and not any(word in again.err for word in ("partial", "journal")):
            case.fault("blames", again, f"{which}: {then} in the unfinished work: {again.said}", args)
        if args[0] in ("convert", "quantize"):
            case.strata(*args, "--restart", expect="ok", why=f"--restart after {then}")


def takeover(case, which, output, left):
    """Another command to the same output leaves unfinished work of others as it is."""
    rivals = {"convert": (["convert", "ckpt", "-t", "f16", "-o", output], "ckpt/config.json"), "quantize": (["quantize", "tiny.gguf", output, "q6_k"], "tiny.gguf"), "merge": (["merge", "tiny-00001-of-00005.gguf", output], "tiny-00001-of-00005.gguf"),
              "calibrate": (["calibrate", "--in-file", case.fix.path("im.gguf"), "-o", output], "text.txt")}
    name = case.rng.choice([name for name in rivals if not which.startswith(name)])
    args, needs = rivals[name]
    for source in [needs] if name != "merge" else [f"tiny-0000{number}-of-00005.gguf" for number in range(1, 6)]:
        sources(case, [source])
    result = case.strata(*args)
    now = {name: read(case.path(name)) for name in left}
    if now != left:
        case.fault("took over", result, f"{name} on the unfinished work of {which}: {[key for key in left if now[key] != left[key]]} changed", args)


def damage(case, output):
    """Random bytes of the journal are others, lines are gone, doubled or exchanged."""
    path, rng = case.path(output + ".partial.journal"), case.rng
    raw = read(path)
    lines = raw.split(b"\n")
    how = rng.randrange(5)
    if how == 0 and raw:
        at = rng.randrange(len(raw))
        raw = raw[:at] + bytes([rng.choice((raw[at] ^ 1, 0, 0x30, 0xff))]) + raw[at + 1:]
    elif how == 1:
        raw = raw[:rng.randrange(len(raw) + 1)]
    else:
        at = rng.randrange(len(lines))
        lines = lines[:at] + lines[at + 1:] if how == 2 else lines[:at] + lines[at:at + 1] + lines[at:] if how == 3 else rng.sample(lines, len(lines))
        raw = b"\n".join(lines)
    with open(path, "wb") as file:
        file.write(raw)


def together(case):
    """Two commands write one output at once: the winner's file is right, the loser says so, nothing is left."""
    one, two = case.nth(list(WRITERS), list(WRITERS))
    if (one == "split") != (two == "split"):
        return
    wanted, took = undisturbed(case, one)
    also, _ = undisturbed(case, two)
    sources(case, WRITERS[one][1] + WRITERS[two][1] + ["text.txt"])
    output = WRITERS[one][2]
    pair = [with_output(WRITERS[which][0], output) for which in (one, two)]
    stopped = case.rng.random() < 0.5
    first = case.start(*pair[0])
    if stopped:
        if first.ended(took * case.rng.random()):
            case.finish(first)
            return
        first.send(signal.SIGSTOP)
    second = case.start(*pair[1])
    if stopped:
        # The second must not wait for ever for the first.
        second.ended(3)
        first.send(signal.SIGCONT)
    results = [case.finish(first), case.finish(second)]
    got = outputs(case, output)
    codes = [result.code for result in results]
    where = f"{one} and {two}{' (the first was stopped meanwhile)' if stopped else ''}, exits {codes}"
    if 0 in codes and got not in [expected for code, expected in zip(codes, (wanted, also)) if code == 0]:
        case.fault("wrong output", results[codes.index(0)], f"{where}: the file is not the winner's", pair[codes.index(0)])
    if 0 not in codes:
        case.fault("nobody wins", results[0], f"{where}: {results[0].said} / {results[1].said}", pair[0])
    if 0 in codes and (rest := [name for name in case.listing() if name.endswith((".partial", ".journal", ".new"))]):
        case.fault("left behind", results[codes.index(0)], f"{where}: {rest}", pair[codes.index(0)])


KINDS = {"source_changes": (source_changes, 7), "work_changes": (work_changes, 5), "killed": (killed, 5), "together": (together, 3)}
