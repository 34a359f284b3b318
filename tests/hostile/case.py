"""One case: a folder of its own, runs of strata under limits, and the rules that every run is judged by."""
import json
import math
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import time

WRITERS = ("convert", "quantize", "split", "merge", "calibrate")
# What inspect and its like print comes from a file; what a model writes may be anything.
PRINTS_FILES = ("inspect", "verify", "plan", "convert", "quantize", "split", "merge", "calibrate")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Keys of --json that may be null: what was not measured.
MAY_BE_NULL = {"disk_bytes_per_second", "disk_bytes_per_second_while_running", "released_bytes", "unpinned_bytes", "reader",
               "second_opinion", "source", "output", "imatrix", "eta", "bound_by"}
TEXT_BYTES = 3000
# A part of a model, a file of a checkpoint, or a variable of the environment, whose names are on no command line.
FILE_OR_VARIABLE = re.compile(r"\w\.(gguf|json|safetensors|dat|txt)\b|\b[A-Z]+_[A-Z_]+=")
# With a changed vocabulary a text may have too few tokens, or a prompt too many: that is no fault of the model.
TOO_SHORT = re.compile(r"the text has \d+ tokens|the prompt has \d+ tokens and the context")


class Finding:
    """A broken rule: what it is called, and in which run."""

    def __init__(self, case, rule, exit_code, text, args):
        self.kind, self.seed, self.rule, self.exit, self.text = case.kind, case.seed, rule, exit_code, " ".join(text.split())[:400]
        words = [word.decode("utf-8", "backslashreplace") if isinstance(word, bytes) else str(word) for word in args]
        self.args = " ".join(word if len(word) < 200 else f"{word[:60]}...({len(word)})" for word in words).encode("utf-8", "backslashreplace").decode()

    def signature(self):
        """Equal for findings that differ only in numbers, names of files and the like."""
        text = self.text.split(": ")[0] if self.rule in ("accepted", "refused", "dropped") else self.text
        return self.kind, self.rule, re.sub(r"\d+", "#", re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*", "_", text))[:110]

    def line(self):
        """All of it in a line of printable characters."""
        text = f"{self.kind}\t{self.seed}\t{self.rule}\texit {self.exit}\t{self.args}\t{self.text}"
        return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)


class Settings:
    """What the command line sets for all cases."""

    def __init__(self, strata, seconds=20, peak_mb=700, space_mb=6000):
        self.strata, self.seconds, self.peak_mb, self.space_mb = strata, seconds, peak_mb, space_mb


class Result:
    """How a run ended: exit code (negative: a signal), both outputs, seconds, peak memory, whether it hung."""

    def __init__(self, code, out, err, seconds, peak_mb, hung):
        self.code, self.out, self.err, self.seconds, self.peak_mb, self.hung = code, out, err, seconds, peak_mb, hung

    @property
    def said(self):
        """The last line of stderr."""
        lines = self.err.strip().splitlines()
        return lines[-1][:300] if lines else ""


class Process:
    """A strata that runs; its outputs go to files in memory, so that it never waits for a reader."""

    def __init__(self, settings, args, folder, env=None, stdin=None, stdout=None, stderr=None, limits=(), prepare=None):
        self.args, self.begun = args, time.monotonic()
        self.files = [os.memfd_create(name) for name in ("out", "err")]

        def before():
            for what, value in limits:
                resource.setrlimit(what, (value, value))
            if prepare:
                prepare()

        self.popen = subprocess.Popen([settings.strata, *args], cwd=folder, env=env, stdin=subprocess.DEVNULL if stdin is None else stdin,
                                      stdout=self.files[0] if stdout is None else stdout, stderr=self.files[1] if stderr is None else stderr,
                                      preexec_fn=before if limits or prepare else None)
        self.pid, self.handle = self.popen.pid, os.pidfd_open(self.popen.pid)

    def ended(self, seconds):
        """Waits at most so long; true if it has ended."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(max(0, seconds) * 1000))

    def send(self, number):
        """Sends a signal, if it still runs."""
        if self.popen.returncode is None:
            os.kill(self.pid, number)

    def wait(self, seconds):
        """The result; one that runs longer is killed."""
        hung = not self.ended(seconds)
        if hung:
            self.send(signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        took = time.monotonic() - self.begun
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        os.close(self.handle)
        outputs = []
        for file in self.files:
            size = os.fstat(file).st_size
            outputs.append(os.pread(file, min(size, 64 << 20), 0))
            os.close(file)
        out, err = outputs
        return Result(self.popen.returncode, out.decode("utf-8", "backslashreplace"), err.decode("utf-8", "backslashreplace"), took,
                      usage.ru_maxrss >> 10, hung)


class Case:
    """The surroundings of one case; a generator gets one and runs strata through it."""

    def __init__(self, settings, fixtures, folder, kind, seed_base, number):
        self.settings, self.fix, self.kind, self.number = settings, fixtures, kind, number
        self.seed = f"{kind}/{seed_base}/{number}"
        self.rng = random.Random(self.seed)
        self.folder, self.findings, self.runs = folder, [], 0
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        self.guarded = {path: stamp(path) for path in fixtures.files()}
        self.own = {}

    # Choices

    def nth(self, *lists):
        """One of each list, so that the numbers of a kind go through all combinations before one comes again."""
        total = math.prod(map(len, lists))
        step = next(step for step in range(int(total * 0.618) | 1, 2 * total + 3) if math.gcd(step, total) == 1)
        at, chosen = self.number * step % total, []
        for options in lists:
            chosen.append(options[at % len(options)])
            at //= len(options)
        return chosen[0] if len(lists) == 1 else chosen

    # Files

    def path(self, name):
        """A path in the case's folder."""
        return os.path.join(self.folder, name)

    def place(self, name, contents):
        """Writes an input; it must not be changed by any run from now on."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(contents, str):
            contents = contents.encode("utf-8", "surrogateescape")
        with open(path, "wb") as file:
            file.write(contents)
        self.own[path] = contents
        self.guarded[path] = stamp(path)
        return name

    def checkpoint(self, name, **files):
        """A copy of a checkpoint of the fixtures, whose files are links to them but for those given: bytes, text, or None for absent."""
        target = self.path("checkpoint")
        os.makedirs(target)
        files = {key.replace("__", "."): value for key, value in files.items()}
        source = self.fix.path(name)
        for entry in os.listdir(source):
            if entry not in files:
                os.symlink(os.path.join(source, entry), os.path.join(target, entry))
        for entry, contents in files.items():
            if contents is not None:
                self.place("checkpoint/" + entry, contents)
        return "checkpoint"

    def changed(self, *paths):
        """The generator itself has changed these: they are no longer guarded."""
        for path in paths:
            self.guarded.pop(path, None)

    def listing(self):
        """The names in the folder."""
        return set(os.listdir(self.folder))

    # Runs

    def start(self, *args, **how):
        """Starts a run that the caller waits for by `finish`."""
        self.runs += 1
        how.setdefault("folder", self.folder)
        return Process(self.settings, [str(arg) if not isinstance(arg, bytes) else arg for arg in args], **how)

    def finish(self, process, **rules):
        """Waits for a run and judges it."""
        result = process.wait(self.settings.seconds)
        self.judge(process.args, result, **rules)
        return result

    def strata(self, *args, outputs=None, expect=None, why="", judged=True, stdout_lost=False, **how):
        """Runs strata and judges the run. `outputs`: what exit 0 makes; `expect`: "fail" or "ok", and `why`."""
        before = self.listing()
        old = {name: stamp(self.path(name)) for name in outputs or () if name in before}
        result = self.start(*args, **how).wait(self.settings.seconds)
        if judged:
            self.judge(args, result, expect=expect, why=why, stdout_lost=stdout_lost)
        if outputs is not None:
            self.judge_outputs(args, result, outputs, before, old)
        return result

    def fault(self, rule, result, text, args):
        """Notes a finding."""
        self.findings.append(Finding(self, rule, result.code if result else "-", text, args))

    def judge(self, args, result, expect=None, why="", stdout_lost=False):
        """The rules for every run, whatever the input."""
        fault = lambda rule, text: self.fault(rule, result, text, args)
        if result.hung:
            return fault("hang", f"no end after {result.seconds:.0f} s; {result.said}")
        if result.code not in (0, 1, 2):
            name = {101: "panic", -6: "abort", -11: "segfault", -7: "bus error"}.get(result.code, "exit code")
            fault(name, first_line(result.err, "panicked") or result.said)
        elif "panicked at" in result.err:
            fault("panic of a thread", first_line(result.err, "panicked"))
        if result.peak_mb > self.settings.peak_mb:
            fault("memory", f"peak of {result.peak_mb} MB; {result.said}")
        if result.code == 1:
            errors = [line for line in result.err.split("\n") if line.startswith("error: ")]
            if len(errors) != 1:
                fault("error lines", f"{len(errors)} lines begin with 'error: ': {result.err[:300]!r}")
            elif not self.names_something(args, errors[0]):
                fault("names nothing", errors[0])
        # What the user has typed may be shown again.
        if result.code in (1, 2) and len(result.err.encode()) > TEXT_BYTES + 4 * sum(max(0, len(arg) - 200) for arg in args):
            fault("long error", f"{len(result.err)} bytes: {result.err[:200]}")
        if result.code != 2:
            found = CONTROL.search(result.err)
            raw = [arg for arg in map(str, args) if "\n" in arg and arg in result.err]
            if raw:
                fault("control characters", f"the line end of the name {raw[0]!r} is shown as it is: {result.err[:120]!r}")
            if found:
                fault("control characters", f"stderr has {found.group()!r}: {result.err[max(0, found.start() - 80):found.end() + 20]!r}")
            if str(args[0]) in PRINTS_FILES and "--json" not in args and (found := CONTROL.search(result.out)):
                fault("control characters", f"stdout has {found.group()!r}: {result.out[max(0, found.start() - 80):found.end() + 20]!r}")
        if result.code == 0 and "--json" in args and "--help" not in args and not stdout_lost:
            problem = json_problem(result.out)
            if problem:
                fault("json", problem)
        if result.code == 0 and args[0] == "perplexity" and "--json" not in args and re.search(r"\b(nan|inf)", result.out, re.I):
            fault("not a number", result.out)
        if expect == "fail" and result.code == 0:
            fault("accepted", f"{why}: exit 0, {(result.out.strip().splitlines() or [''])[-1][:100]} {result.said[:120]}")
        if expect == "ok" and result.code != 0 and not TOO_SHORT.search(result.err):
            fault("refused", f"{why}: {result.said}")
        self.judge_inputs(args, result)

    def names_something(self, args, line):
        """True if an error names a file, an option, or stdin."""
        words = [arg.decode("utf-8", "replace") if isinstance(arg, bytes) else str(arg) for arg in args[1:]]
        words = [word.split("=", 1)[1] if word.startswith("--") and "=" in word else word for word in words]
        names = [os.path.basename(word.rstrip("/")) or word for word in words] + [name for name in self.listing() if len(name) > 1]
        # Of a name that cannot be printed as it is, the longest part that can.
        names = [max(re.split(r"[^ -~]+", name), key=len)[:40] or name for name in names if name]
        return any(name in line for name in names + ["--", "stdin", "standard ", "stdout", "-c ", "-n ", "-f", "-m", "-p"]) or FILE_OR_VARIABLE.search(line) is not None

    def judge_inputs(self, args, result):
        """No input may have another byte, or be another file, than before."""
        for path, old in list(self.guarded.items()):
            now = stamp(path)
            if now == old:
                continue
            del self.guarded[path]
            kept = self.own.get(path)
            if kept is None:
                self.fault("input touched", result, f"{path} of the fixtures was changed", args)
                self.fix.restore(path)
            elif now is None:
                self.fault("input lost", result, f"{os.path.basename(path)} is gone", args)
            elif not os.path.isfile(path) or read(path) != kept:
                self.fault("input changed", result, f"{os.path.basename(path)} has other contents than before", args)

    def judge_outputs(self, args, result, outputs, before, old):
        """After exit 0 the outputs and nothing else; after a failure none of them."""
        after = self.listing()
        if result.code == 0:
            for name in outputs:
                if name not in after and "--dry-run" not in args:
                    self.fault("no output", result, f"{name} is missing", args)
            left = [name for name in after - before - set(outputs) if re.search(r"\.(partial|journal|new|tmp|lock)", name)]
            if left:
                self.fault("left behind", result, f"{sorted(left)}", args)
        else:
            for name in outputs:
                if name in after and (name not in old or stamp(self.path(name)) != old[name]):
                    self.fault("output of a failure", result, f"{name} was written; {result.said}", args)

    def check_model(self, name, sound=True, runs=True, why="a writer's output"):
        """A model that was written with exit 0: it verifies, it can be shown, and it runs."""
        if sound:
            self.strata("verify", name, expect="ok", why="written, but does not verify, " + why)
        self.strata("inspect", "--json", name, expect="ok", why="written, but cannot be inspected, " + why)
        if runs:
            self.try_model(name, expect="ok", why="written, but does not run, " + why)

    def try_model(self, name, expect=None, why="", options=()):
        """Reads a short text with the model; every eighth time it writes a token as well."""
        if self.number % 8 == 0:
            self.strata("run", "-m", name, "-p", "The type", "-n", "1", "-c", "16", "--temp", "0", expect=expect, why=why, *options)
        return self.perplexity(name, expect=expect, why=why, options=options)

    def perplexity(self, name, expect=None, why="", options=()):
        """Measures one chunk of the text of the fixtures."""
        return self.strata("perplexity", "-m", name, "-f", self.fix.path("text.txt"), "-c", "16", "--chunks", "1", expect=expect, why=why,
                           *options)


def stamp(path):
    """What changes if a file is written to, replaced or removed."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def read(path):
    """A file's bytes, `None` if it is not there."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def first_line(text, word):
    """The lines from the one that has the word on."""
    lines = text.splitlines()
    return next((" ".join(lines[at:at + 2]) for at, line in enumerate(lines) if word in line), "")


class Doubled(Exception):
    """A key that comes twice in an object."""


def json_problem(text):
    """What is wrong with a document of --json, or `None`."""
    def constant(name):
        raise ValueError(f"{name} is no number of JSON")

    def pairs(items):
        seen = dict(items)
        if len(seen) != len(items):
            raise Doubled(next(key for key, _ in items if [k for k, _ in items].count(key) > 1))
        return seen

    try:
        value = json.loads(text, parse_constant=constant, object_pairs_hook=pairs)
    except Doubled as doubled:
        return f"the key {doubled} comes twice"
    except (ValueError, RecursionError) as error:
        if len(text) >= 60 << 20:
            return None  # only its beginning was read
        return f"is not one JSON document ({error}): {text[:100]!r}"
    null = null_at(value, "")
    return f"null at {null}" if null else None


def null_at(value, path):
    """The path of a null where something belongs."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if inner is None and key not in MAY_BE_NULL:
            return f"{path}.{key}"
        if isinstance(inner, (dict, list)) and (found := null_at(inner, f"{path}.{key}")):
            return found
    return None
