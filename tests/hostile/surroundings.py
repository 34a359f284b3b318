"""Surroundings: little memory, few descriptors, a full disk, closed outputs, odd variables, a folder that is gone."""
import os
import resource
import shutil
import signal
import subprocess

COMMANDS = ("run", "perplexity", "calibrate", "quantize", "convert", "split", "merge", "verify", "inspect", "run --json", "perplexity --json", "inspect --json", "verify --json", "quantize --json", "convert --json", "calibrate --json", "plan", "plan --json", "info", "--version")


def command(case, name):
    """A sound command with absolute paths, and the names that it writes."""
    fix = case.fix.path
    word, *json = name.split()
    args = {
        "run": ["run", "-m", fix("f16.gguf"), "-p", "The type", "-n", "2", "-c", "16", "--temp", "0"], "perplexity": ["perplexity", "-m", fix("q8_0.gguf"), "-f", fix("text.txt"), "-c", "16", "--chunks", "1"],
        "calibrate": ["calibrate", "-m", fix("f16.gguf"), "-f", fix("text.txt"), "-c", "16", "--chunks", "1", "-o", case.path("out.gguf")], "quantize": ["quantize", fix("f16.gguf"), case.path("out.gguf"), "q4_k_m"],
        "convert": ["convert", fix("bpe"), "-t", "q4_k_m", "-o", case.path("out.gguf")], "split": ["split", fix("f16.gguf"), case.path("out"), "--split-max-tensors", "8"],
        "merge": ["merge", fix("part-00001-of-00003.gguf"), case.path("out.gguf")], "verify": ["verify", fix("f16.gguf")], "inspect": ["inspect", fix("f16.gguf")], "plan": ["plan", "-m", fix("f16.gguf")], "info": ["info"], "--version": ["--version"],
    }[word] + json
    outputs = {"split": [f"out-0000{number}-of-00003.gguf" for number in (1, 2, 3)]}.get(word, ["out.gguf"] if case.path("out.gguf") in args else None)
    return args, outputs


def checked(case, args, outputs, result):
    """A model that came out in such surroundings is a sound one."""
    if result.code == 0 and outputs and args[0] != "calibrate":
        case.check_model(outputs[0], why="in surroundings of " + args[0])


def limits(case):
    """Address space, descriptors, file size, stack, processes and locked memory are short: an error, or it works."""
    name, (what, value) = case.nth(COMMANDS[:16], [(resource.RLIMIT_AS, mb << 20) for mb in (60, 90, 120, 150, 200, 250, 300, 400, 500, 700, 1000, 1500, 2200)] +
                                   [(resource.RLIMIT_NOFILE, number) for number in (3, 4, 5, 6, 7, 8, 10, 16)] + [(resource.RLIMIT_FSIZE, size) for size in (0, 1, 512, 1000, 4096, 100_000, 600_000, 833_000)] +
                                   [(resource.RLIMIT_STACK, kb << 10) for kb in (256, 1024)] + [(resource.RLIMIT_NPROC, 0), (resource.RLIMIT_MEMLOCK, 0), (resource.RLIMIT_DATA, 20 << 20), (resource.RLIMIT_DATA, 100 << 20)])
    args, outputs = command(case, name)
    threads = case.rng.choice(((), (), ("--threads", "1"), ("--threads", "2"), ("--threads", "64"))) if name.split()[0] in ("run", "perplexity", "calibrate", "quantize", "convert") else ()
    prepare = (lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN)) if what == resource.RLIMIT_FSIZE else None
    word = {resource.RLIMIT_AS: "address space", resource.RLIMIT_NOFILE: "descriptors", resource.RLIMIT_FSIZE: "file size", resource.RLIMIT_STACK: "stack", resource.RLIMIT_NPROC: "processes", resource.RLIMIT_MEMLOCK: "locked memory", resource.RLIMIT_DATA: "data"}[what]
    stdout = os.open("/dev/null", os.O_WRONLY) if what == resource.RLIMIT_FSIZE else None
    stderr = subprocess.PIPE if what == resource.RLIMIT_FSIZE else None
    if stderr:
        read_end, stderr = os.pipe()
    before = case.listing()
    process = case.start(*args, *threads, limits=[(what, value)], prepare=prepare, stdout=stdout, stderr=stderr)
    if stderr:
        os.close(stderr)
        os.close(stdout)
    result = process.wait(case.settings.seconds)
    if stderr:
        result.err = os.read(read_end, 60_000).decode("utf-8", "replace")
        os.close(read_end)
    # With so little the program may not even be loaded.
    if result.code == 127 or what in (resource.RLIMIT_AS, resource.RLIMIT_DATA) and (result.code == -9 or value < 130 << 20 and result.code == -11):
        return
    if result.code == 1 and what != resource.RLIMIT_STACK and not result.err.strip():
        case.fault("error lines", result, f"{word} {value}: exit 1 without a word", args)
    judge_limited(case, args, result, outputs, before, f"{word} of {value}", stdout is not None)
    if word in ("processes", "locked memory", "stack") and result.code != 0:
        case.fault("refused", result, f"{word} {value}: {result.said}", args)
    checked(case, args, outputs, result)


def judge_limited(case, args, result, outputs, before, where, blind):
    """The rules, where an error of the system need not name a file."""
    if result.code < 0 or result.code == 101:
        rule = "abort without memory" if "memory allocation of" in result.err else {101: "panic", -6: "abort", -11: "segfault"}.get(result.code, "signal")
        case.fault(rule, result, f"{where}: {' '.join(result.err.split())[-300:]}", args)
    else:
        case.judge(args, result, stdout_lost=blind)
    if outputs:
        case.judge_outputs(args, result, outputs, before, {})


VARIABLES = [("RAYON_NUM_THREADS", value) for value in ("0", "-1", "x", "", "100000", "99999999999999999999", "1")] + [("OMP_NUM_THREADS", value) for value in ("0", "x")] + \
            [("STRATA_ISA", value) for value in ("", "x", "avx512", "avx2", "scalar", "AVX2", "\x1b[2J", "neon", "sse", "none", "avx2,avx512")] + [("TMPDIR", value) for value in ("/nowhere", "", "/dev/null", "relative")] + \
            [("HOME", None), ("HOME", "/nowhere"), ("PATH", ""), ("RUST_LOG", "trace"), ("RUST_MIN_STACK", "1"), ("RUST_MIN_STACK", "x"), ("RUST_MIN_STACK", "99999999999999"), ("RUST_BACKTRACE", "full"), ("LANG", "\udcff"), ("LC_ALL", "tr_TR"), ("COLUMNS", "0"),
             ("COLUMNS", "99999999999"), ("TERM", "\x1b"), ("NO_COLOR", ""), ("CLICOLOR_FORCE", "1"), ("ALL", None), ("\udcff", "\udcff"), ("MALLOC_ARENA_MAX", "x"), ("XDG_CACHE_HOME", "/dev/null"), ("SOURCE_DATE_EPOCH", "x"), ("TZ", ":/nowhere")]


def variables(case):
    """Environment variables that are absent or say nonsense: the results are the same, or an error says which variable."""
    name, (variable, value) = case.nth(COMMANDS, VARIABLES)
    args, outputs = command(case, name)
    env = {} if variable == "ALL" else {key: old for key, old in os.environ.items() if key != variable}
    if value is not None and variable != "ALL":
        env[variable] = value
    before = case.listing()
    process = case.start(*args, env=env)
    result = process.wait(case.settings.seconds)
    case.judge(args if variable in result.err else args, result)
    if outputs:
        case.judge_outputs(args, result, outputs, before, {})
    if result.code != 0 and variable not in result.err:
        case.fault("refused", result, f"{variable}={value!r}: {result.said}", args)
    checked(case, args, outputs, result)


STREAMS = ("stdout full", "stdout closed", "stdout gone", "stderr full", "stderr closed", "stderr gone", "all closed", "stdin closed", "both full", "stdout file limit", "stdout read-only", "stdout folder")


def streams(case):
    """Standard streams are closed, full, or nobody reads: no panic; a result that is lost is no success."""
    name, how = case.nth(COMMANDS, STREAMS)
    args, outputs = command(case, name)
    if case.rng.random() < 0.3:
        # An error must not break anything either.
        args = args[:1] + [arg.replace("f16.gguf", "none.gguf").replace("fixtures/bpe", "fixtures/none").replace("q8_0.gguf", "none.gguf").replace("part-0", "pert-0") for arg in args[1:]]
    full, opened = os.open("/dev/full", os.O_WRONLY), []
    stdout = stderr = prepare = None
    if how in ("stdout full", "both full"):
        stdout = full
    if how in ("stderr full", "both full"):
        stderr = full
    if how.endswith("gone"):
        reader, writer = os.pipe()
        os.close(reader)
        opened.append(writer)
        stdout, stderr = (writer, None) if how == "stdout gone" else (None, writer)
    if how == "stdout read-only":
        stdout = os.open(case.fix.path("text.txt"), os.O_RDONLY)
        opened.append(stdout)
    if how == "stdout folder":
        stdout = os.open(case.folder, os.O_RDONLY)
        opened.append(stdout)
    numbers = {"stdout closed": (1,), "stderr closed": (2,), "all closed": (0, 1, 2), "stdin closed": (0,)}.get(how, ())
    limited = ()
    if how == "stdout file limit":
        stdout = os.open(case.path("stdout"), os.O_WRONLY | os.O_CREAT, 0o600)
        opened.append(stdout)
        limited = [(resource.RLIMIT_FSIZE, 10)] if not outputs else ()

    def before_exec():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for number in numbers:
            os.close(number)

    prepare = before_exec if numbers or limited else None
    before = case.listing()
    process = case.start(*args, stdout=stdout, stderr=stderr, prepare=prepare, limits=limited)
    result = process.wait(case.settings.seconds)
    for handle in opened + [full]:
        os.close(handle)
    silent = how in ("stderr full", "stderr closed", "stderr gone", "all closed", "both full")
    if result.hung or result.code not in (0, 1, 2) or not silent:
        if result.code == 1 and "stdout" in how and "none" not in " ".join(args):
            # Its only fault is the stream, and that has no name.
            if result.code not in (0, 1):
                case.fault("exit code", result, how, args)
            if sum(line.startswith("error: ") for line in result.err.split("\n")) != 1:
                case.fault("error lines", result, f"{how}: {result.err[:200]!r}", args)
        else:
            case.judge(args, result, stdout_lost=True)
    if outputs and (result.code == 0 or "stdout" not in how and how != "both full"):
        # The file may be there, if all that failed is to say so.
        case.judge_outputs(args, result, outputs, before, {})
    broken = any("none" in arg or "pert-0" in arg for arg in args)
    result_on_stdout = "--json" in args or args[0] in ("run", "perplexity", "inspect", "verify", "plan", "info")
    # The standard library of Rust takes a stdout that is closed or not open for writing for one that swallows all.
    if how in ("stdout full", "both full", "stdout file limit") and result_on_stdout and result.code == 0 and not (how == "stdout file limit" and outputs):
        case.fault("result lost", result, f"{how}: exit 0, though the result could not be written", args)
    if how in ("stderr full", "stderr closed", "stderr gone", "stdin closed") and result.code != 0 and not broken:
        case.fault("refused", result, f"{how}: {result.said}", args)
    if broken and result.code == 0:
        case.fault("accepted", result, f"{how}: a missing input", args)
    if how in ("stdout closed", "all closed", "stdout gone") or silent:
        checked(case, args, outputs, result)


def folders(case):
    """The working folder is gone, deep, or a device is where a folder belongs; outputs are given without a folder."""
    name, how = case.nth(COMMANDS[:9], ("gone", "deep", "odd", "no permission", "relative"))
    args, outputs = command(case, name)
    args = [os.path.basename(arg) if outputs and arg.startswith(case.folder) and how != "gone" else arg for arg in args]
    folder = case.path("gone")
    if how == "deep":
        folder = case.path("/".join(["d" * 200] * 12))
    elif how == "odd":
        folder = case.path("a\nb\x1b[2J\u212a")
    os.makedirs(folder)
    prepare = (lambda: shutil.rmtree(folder)) if how == "gone" else None
    if how == "no permission":
        os.chmod(folder, 0)
    result = case.start(*args, folder=folder, prepare=prepare).wait(case.settings.seconds)
    case.judge(args, result)
    if result.code != 0:
        case.fault("refused", result, f"folder {how}: {result.said}", args)


KINDS = {"limits": (limits, 6), "variables": (variables, 4), "streams": (streams, 5), "folders": (folders, 1)}
