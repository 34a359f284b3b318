"""Outputs that are inputs, or whose place is taken: by files, folders, pipes, links, unfinished work of others."""
import os
import socket
import stat

from case import read

WRITERS = ("convert", "quantize", "split", "merge", "calibrate", "convert imatrix", "quantize imatrix", "quantize types", "calibrate list", "quantize split", "convert many")


def writer(case, which, copies=True):
    """A command that writes, as (arguments with OUT for its output, what it reads, the name of its output). All inputs are copies."""
    place = lambda name: case.place(name, case.fix.bytes(name))
    if which.startswith("convert"):
        for name in os.listdir(case.fix.path("bpe")):
            case.place("ckpt/" + name, case.fix.bytes("bpe/" + name))
        args, inputs = ["convert", "ckpt", "-t", "q4_0", "-o", "OUT"], ["ckpt/config.json", "ckpt/model.safetensors", "ckpt/tokenizer.json"]
        if which == "convert many":
            args[3:5] = ["q4_0", "-t", "q8_0", "-o"]
            return args[:-1] + ["OUT"], inputs, "folder"
    elif which == "split":
        return ["split", place("f16.gguf"), "OUT", "--split-max-tensors", "8"], ["f16.gguf"], "out"
    elif which == "merge":
        parts = [place(f"part-0000{number}-of-00003.gguf") for number in (1, 2, 3)]
        return ["merge", parts[0], "OUT"], parts, "out.gguf"
    elif which.startswith("calibrate"):
        if which == "calibrate list":
            return ["calibrate", "--in-file", place("im.gguf"), "--in-file", place("im.dat"), "-o", "OUT"], ["im.gguf", "im.dat"], "out.gguf"
        return ["calibrate", "-m", place("f16.gguf"), "-f", place("text.txt"), "-c", "16", "--chunks", "1", "-o", "OUT"], ["f16.gguf", "text.txt"], "out.gguf"
    elif which == "quantize split":
        parts = [place(f"part-0000{number}-of-00003.gguf") for number in (1, 2, 3)]
        return ["quantize", parts[1], "OUT", "q8_0"], parts, "out.gguf"
    else:
        args, inputs = ["quantize", place("f16.gguf"), "OUT", "q4_0"], ["f16.gguf"]
    if which.endswith("imatrix"):
        args += ["--imatrix", place("im.gguf")]
        inputs.append("im.gguf")
    if which.endswith("types"):
        args += ["--tensor-type-file", place("types.txt")]
        inputs.append("types.txt")
    return args, inputs, "out.gguf"


def with_output(args, output):
    """The arguments with this output."""
    return [output if arg == "OUT" else arg for arg in args]


def over_inputs(case):
    """The output is an input of the command: by its name, another path, a hard link, a symbolic link, or by what it becomes."""
    which, way, victim_number = case.nth([which for which in WRITERS if which not in ("convert many",)], ("name", "./", "folder/..", "absolute", "hard link", "symlink", "symlink of folder", "as .partial", "hard link as .partial"), (0, 1, 2))
    args, inputs, output = writer(case, which)
    victim = inputs[victim_number % len(inputs)]
    path, name = case.path(victim), victim
    if way == "./":
        name = "./" + victim
    elif way == "folder/..":
        os.makedirs(case.path("inner"))
        name = "inner/../" + victim
    elif way == "absolute":
        name = path
    elif way == "hard link":
        name = "linked.gguf"
        os.link(path, case.path(name))
    elif way == "symlink":
        name = "linked.gguf"
        os.symlink(path, case.path(name))
    elif way == "symlink of folder":
        os.symlink(case.folder, case.path("again"))
        name = "again/" + victim
    elif way == "as .partial":
        # The input is called as the unfinished output would be.
        os.rename(path, case.path("made.gguf.partial"))
        case.own[case.path("made.gguf.partial")] = case.own.pop(path)
        case.guarded[case.path("made.gguf.partial")] = case.guarded.pop(path)
        args = ["made.gguf.partial" if arg == victim else arg for arg in args]
        name = "made.gguf"
    elif way == "hard link as .partial":
        name = "made.gguf"
        os.link(path, case.path("made.gguf.partial"))
    if which == "split":
        # The name of a part is the input's.
        part = "made-00002-of-00003.gguf"
        if way in ("as .partial", "hard link as .partial"):
            return
        if way in ("name", "absolute", "./", "folder/..", "symlink of folder"):
            os.rename(path, case.path(part))
            case.own[case.path(part)], case.guarded[case.path(part)] = case.own.pop(path), case.guarded.pop(path)
            args[1] = part
            name = {"absolute": case.path("made"), "symlink of folder": "again/made", "./": "./made", "folder/..": "inner/../made"}.get(way, "made")
        else:
            os.rename(case.path(name), case.path(part))
            name = "made"
    # A checkpoint's folder may hold an earlier conversion, which may be replaced; nothing here is one.
    case.strata(*with_output(args, name), expect=None if "partial" in way else "fail", why=f"output over input, {which}, {way}: {victim}")


PLACES = ("file", "folder", "full folder", "fifo", "symlink", "dangling symlink", "symlink to device", "hard link", "socket")
JOURNALS = (b"", b"{}", b"x", b'{"journal":1}\n', b"\x00" * 1000, b"[" * 100_000, b'{"journal":1,"output":"out.gguf"}\n{"tensor":"token_embd.weight","sha256":"00","source":"00"}\n', b"\xff\xfe")


def in_the_way(case):
    """Something lies where the output, its .partial or its journal belongs; what is not strata's own must survive."""
    which, where, what = case.nth(WRITERS, ("", ".partial", ".partial.journal", ".journal", ".lock", ".new", ".tmp", "both"), PLACES)
    args, _, output = writer(case, which)
    final = {"out": "out-00001-of-00003.gguf", "folder": "folder"}.get(output, output)
    case.place("precious", b"precious " * 1000)
    targets = [final + ".partial", final + ".partial.journal"] if where == "both" else [final + where]
    for target in targets:
        put(case, target, what if target == targets[0] or what not in ("folder", "full folder") else "file")
    result = case.strata(*with_output(args, output))
    if result.code == 0:
        if output.endswith(".gguf") and not which.startswith("calibrate") and where != "" and os.path.isfile(case.path(output)):
            case.check_model(output, why=f"{what} at {where}, {which}")
        if where == "" and what in ("fifo", "symlink to device", "socket", "full folder") and output == final != "folder" and not os.path.isfile(case.path(final)):
            case.fault("no output", result, f"exit 0, and a {what} is where the output belongs", args)


def device(case, name):
    """Makes a device like /dev/null in the case's folder; false where the user may not."""
    try:
        os.mknod(case.path(name), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except FileExistsError:
        return True
    except PermissionError:
        return False
    return True


def put(case, name, what):
    """Makes something at a place; what a link leads to must not change."""
    path = case.path(name)
    if what == "file":
        with open(path, "wb") as file:
            file.write(case.rng.choice((b"", b"work of hours" * 100, bytes(100_000))) if not name.endswith("journal") else case.rng.choice(JOURNALS))
    elif what in ("folder", "full folder"):
        os.mkdir(path)
        if what == "full folder":
            case.place(name + "/inner", b"inner")
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "symlink":
        os.symlink("precious", path)
    elif what == "hard link":
        os.link(case.path("precious"), path)
    elif what == "dangling symlink":
        os.symlink("nowhere", path)
    elif what == "symlink to device":
        # One of the case's own: the system's must not be replaced, which a program that root runs can do.
        if device(case, "device"):
            os.symlink("device", path)
    elif what == "socket":
        place = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(case.folder)
        try:
            place.bind(name)
        finally:
            os.chdir(here)
            place.close()


def no_place(case):
    """The folder of the output is missing, is a file, is read-only, a device, or its name is too long."""
    which, where = case.nth([which for which in WRITERS if which != "convert many"], ("none/out.gguf", "precious/out.gguf", "/dev/null/x", "device", "/proc/out.gguf", "", ".", "..", "/", "out/", "x" * 300, "/" + "y" * 5000, "none/", "-", "/dev/fd/1", "link/out.gguf", "a\x1bb.gguf"))
    if where in ("/", "..") and which.split()[0] in ("convert", "split") or where == "device" and not device(case, "device"):
        # Convert takes a folder and split a prefix: they would write outside of the case.
        return
    args, _, _ = writer(case, which)
    case.place("precious", b"precious")
    os.symlink("/nowhere", case.path("link"))
    args = with_output(args, where)
    result = case.strata(*args)
    if where == "device" and which != "split" and not stat.S_ISCHR(os.stat(case.path("device")).st_mode):
        case.fault("device lost", result, "the device is a file now", args)
    if result.code == 0 and which != "split" and where in ("none/out.gguf", "precious/out.gguf", "/dev/null/x", "", "/", ".."):
        case.fault("accepted", result, f"output {where!r}, {which}", args)
    leftover = [name for name in case.listing() if name.endswith((".partial", ".journal", ".lock"))]
    if result.code != 0 and leftover:
        # Nothing was begun, so nothing should be there.
        case.fault("left behind", result, f"output {where!r}, {which}: {leftover}", args)


def older(case):
    """An older output is there: after a failure it is as it was, after exit 0 it is the new one; a damaged input decides."""
    which = case.nth(("quantize", "merge", "calibrate", "convert", "split"))
    args, inputs, output = writer(case, which)
    final = {"out": "out-00002-of-00003.gguf"}.get(output, output)
    contents = case.rng.choice((b"old", case.fix.bytes("q8_0.gguf")))
    with open(case.path(final), "wb") as file:
        file.write(contents)
    broken = case.rng.random() < 0.6
    if broken:
        victim = case.rng.choice(inputs)
        raw = case.own[case.path(victim)]
        case.place(victim, raw[:case.rng.randrange(len(raw))])
    result = case.strata(*with_output(args, output))
    now = read(case.path(final))
    if result.code != 0 and now != contents:
        case.fault("output of a failure", result, f"{which}: the older output was changed", args)
    if result.code == 0 and now == contents:
        case.fault("no output", result, f"{which}: exit 0, and the older output is still there", args)


KINDS = {"over_inputs": (over_inputs, 5), "in_the_way": (in_the_way, 7), "no_place": (no_place, 4), "older": (older, 2)}
