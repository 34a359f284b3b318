"""Importance matrices of both kinds that are damaged or belong to another model."""
import struct

import formats
from formats import F32, Gguf, Tensor
from gguf_inputs import VALUES, valued

# Of the types that quantize: what needs an importance matrix, and what only uses it.
TYPES = ("q4_0", "q4_k_m", "q5_k_m", "q6_k", "q2_k", "q3_k_m", "iq4_nl", "iq4_xs", "q5_1")
NUMBERS = {"0": 0.0, "NaN": float("nan"), "inf": float("inf"), "-inf": float("-inf"), "-1": -1.0, "3e38": 3e38, "1e30": 1e30, "1e-38": 1e-38, "denormal": 1e-45}


def use(case, name, why, expect=None):
    """Quantizes, or converts, with a matrix; what comes out is sound, and --json and merging of matrices are tried."""
    kind = case.rng.choice(TYPES)
    if case.rng.random() < 0.5:
        args = ("convert", case.fix.path("bpe"), "-t", kind, "-o", "out.gguf", "--imatrix", name)
    else:
        args = ("quantize", case.fix.path("f16.gguf"), "out.gguf", kind, "--imatrix", name)
    result = case.strata(*args, outputs=["out.gguf"], expect=expect, why=why)
    if result.code == 0:
        case.check_model("out.gguf", why=why)
    elif result.code == 1 and name not in result.err and not case.findings:
        case.fault("names nothing", result, f"the error does not name the matrix: {result.said}", args)
    other = case.rng.choice(("again.gguf", "again.dat"))
    again = case.strata("calibrate", "--in-file", name, "--in-file", case.fix.path("im.gguf"), "-o", other, *case.rng.choice(((), ("--json",))), outputs=[other])
    if again.code == 0:
        case.strata("quantize", case.fix.path("f16.gguf"), "out2.gguf", "q4_k_m", "--imatrix", other, outputs=["out2.gguf"])


def matrix_gguf(case):
    """Numbers, shapes, names and metadata of a GGUF matrix are others."""
    rng, gguf = case.rng, Gguf(case.fix.bytes("im.gguf"))
    data = bytearray(gguf.file[gguf.data_start:])
    how, number, amount = case.nth(("sums", "counts", "columns", "rename", "absent sums", "absent counts", "metadata", "type", "cut", "bytes", "twice", "half zero"), list(NUMBERS), ("one", "tensor", "all"))
    tensors, expect = gguf.tensors, None
    sums = [tensor for tensor in tensors if tensor.name.endswith(".in_sum2")]
    counts = [tensor for tensor in tensors if tensor.name.endswith(".counts")]
    victim = rng.choice(sums)
    mate = next(tensor for tensor in counts if tensor.name[:-7] == victim.name[:-8])
    if how in ("sums", "counts"):
        chosen = (sums if how == "sums" else counts) if amount == "all" else [victim if how == "sums" else mate]
        for tensor in chosen:
            places = range(tensor.offset, tensor.offset + tensor.size(), 4)
            for at in places if amount != "one" else [rng.choice(places)]:
                struct.pack_into("<f", data, at, NUMBERS[number])
        expect = "fail" if number in ("NaN", "inf", "-inf", "-1") else None
    elif how == "columns":
        factor = rng.choice((0, 1, 2, 2, 3))
        dims = [256 * factor or 1] if factor != 1 else [257]
        tensors = [t for t in tensors if t is not victim] + [Tensor(victim.name, dims, 0, len(data))]
        tensors = sorted(tensors, key=lambda tensor: tensor.offset)
        data += struct.pack("<f", 1.0) * (256 * 3 + 8)
        expect = "fail" if dims != victim.dims else None
    elif how == "rename":
        new = rng.choice(("blk.9.attn_q.weight", "unheard", "", "\x1b[2J", "x" * 60))
        victim.name, mate.name = new + ".in_sum2", new + ".counts"
    elif how == "absent sums":
        tensors.remove(victim)
        expect = "fail"
    elif how == "absent counts":
        tensors.remove(mate)
        expect = "fail"
    elif how == "type":
        victim.kind = rng.choice((1, 2, 8, 24, 99))
        expect = "fail"
    elif how == "twice":
        tensors.append(Tensor(victim.name, victim.dims, 0, victim.offset))
        expect = "fail"
    elif how == "half zero":
        data[victim.offset:victim.offset + victim.size() // 2] = bytes(victim.size() // 2)
    pairs = gguf.pairs
    if how == "metadata":
        _, kind, value = rng.choice(VALUES)
        pairs = valued(gguf, rng.choice(("general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")), kind, value)
    file = formats.write_gguf(pairs, tensors, bytes(data))
    if how == "cut":
        file, expect = file[:rng.randrange(len(file) - 40)], "fail"
    elif how == "bytes":
        file = bytearray(file)
        for _ in range(rng.choice((1, 4, 20))):
            file[rng.randrange(len(file))] = rng.randrange(256)
        file = bytes(file)
    if how == "sums" and number in ("3e38", "1e30") or how == "counts" and number in ("0", "1e-38", "denormal"):
        expect = None
    use(case, case.place("m.gguf", file), f"matrix, {how}: {number} {amount}" if how in ("sums", "counts") else f"matrix, {how}", expect)


def matrix_dat(case):
    """An old matrix: its numbers, lengths and end are others."""
    rng = case.rng
    entries, tail = formats.read_dat(case.fix.bytes("im.dat"))
    how = case.nth(("values", "calls", "length", "name length", "count", "cut", "tail", "bytes", "columns", "name", "twice", "none", "foreign"))
    number, expect = rng.choice(list(NUMBERS)), None
    victim = rng.choice(entries)
    if how == "values":
        victim[2] = [NUMBERS[number]] * len(victim[2])
        expect = "fail" if number in ("NaN", "inf", "-inf", "-1") else None
    elif how == "calls":
        victim[1] = rng.choice((0, -1, 2**31 - 1, -2**31))
    elif how == "columns":
        victim[2] = victim[2] * 2 if rng.random() < 0.5 else victim[2][:-1]
        expect = "fail"
    elif how == "name":
        victim[0] = rng.choice((b"", b"\xff\xfe", b"\x1b[2J", b"blk.9.attn_q.weight", b"x" * 100_000))
    elif how == "twice":
        entries.append(list(victim))
    elif how == "none":
        entries = []
        expect = "fail"
    file = formats.write_dat(entries, tail)
    if how in ("length", "name length", "count"):
        at = {"count": 0, "name length": 4, "length": 12 + len(entries[0][0])}[how]
        file, expect = file[:at] + struct.pack("<i", rng.choice((-1, 0, 2**31 - 1, -2**31, 10_000_000))) + file[at + 4:], "fail"
    elif how == "cut":
        file, expect = file[:rng.randrange(1, len(file) - len(tail))], "fail"
    elif how == "tail":
        file += rng.randbytes(rng.choice((1, 4, 1000)))
    elif how == "bytes":
        file = bytearray(file)
        for _ in range(rng.choice((1, 4, 20))):
            file[rng.randrange(len(file))] = rng.randrange(256)
        file = bytes(file)
    elif how == "foreign":
        file, expect = rng.choice((b"", b"GGUF", b"{}", rng.randbytes(500), b"\x00" * 4, case.fix.bytes("f16.gguf")[:5000], b"<html>", case.fix.bytes("text.txt"))), "fail"
    use(case, case.place("m.dat", file), f"old matrix, {how}: {number if how == 'values' else ''}", expect)


KINDS = {"matrix_gguf": (matrix_gguf, 5), "matrix_dat": (matrix_dat, 3)}
