"""The file formats that the generators damage: GGUF, safetensors and the old importance matrix, read and written without any library.

Nothing here checks what it writes: a damaged file must be as easy to make as a sound one.
"""
import json
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
WIDTHS = {U8: 1, I8: 1, U16: 2, I16: 2, U32: 4, I32: 4, F32: 4, BOOL: 1, U64: 8, I64: 8, F64: 8}
LETTERS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
TENSOR_TYPES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110),
                12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136), 30: (1, 2)}


class Tensor:
    """One row of the tensor table: the offset counts from the start of the data."""

    def __init__(self, name, dims, kind, offset):
        self.name, self.dims, self.kind, self.offset = name, dims, kind, offset

    def size(self):
        """Bytes of its data, for the types that are known here."""
        weights = 1
        for dim in self.dims:
            weights *= dim
        per_block, block = TENSOR_TYPES[self.kind]
        return weights // per_block * block


class Gguf:
    """A GGUF file in parts: `pairs` as (key, type, bytes of the value), the tensor table, the data.

    `numbers` lists each number that says how the file is built, as (what it is, offset, width): the places worth damaging.
    """

    def __init__(self, file):
        self.file, self.at, self.numbers = file, 4, []
        self.version = self.number("version", 4)
        tensors = self.number("tensor count", 8)
        pairs = self.number("pair count", 8)
        self.pairs = [self.pair() for _ in range(pairs)]
        self.tensors = [self.tensor() for _ in range(tensors)]
        self.header_end = self.at
        alignment = self.value("general.alignment") or 32
        self.data_start = -(-self.at // alignment) * alignment

    def number(self, what, width):
        """Reads a number of the structure and notes where it is."""
        self.numbers.append((what, self.at, width))
        self.at += width
        return int.from_bytes(self.file[self.at - width:self.at], "little")

    def text(self, what):
        """Reads a string with its length."""
        length = self.number(what + " length", 8)
        self.at += length
        return self.file[self.at - length:self.at]

    def pair(self):
        """Reads a key, the type and the value's bytes."""
        key = self.text("key").decode("utf-8", "replace")
        kind = self.number("value type", 4)
        start = self.at
        if kind == STRING:
            self.text("string")
        elif kind == ARRAY:
            element = self.number("array type", 4)
            length = self.number("array length", 8)
            if element == STRING:
                at, file = self.at, self.file
                for index in range(length):
                    if index < 3:
                        self.numbers.append(("element length", at, 8))
                    at += 8 + int.from_bytes(file[at:at + 8], "little")
                self.at = at
            else:
                self.at += WIDTHS[element] * length
        else:
            self.at += WIDTHS[kind]
        return key, kind, self.file[start:self.at]

    def tensor(self):
        """Reads one row of the tensor table."""
        name = self.text("tensor name").decode("utf-8", "replace")
        dims = [self.number("dimension", 8) for _ in range(self.number("dimension count", 4))]
        return Tensor(name, dims, self.number("tensor type", 4), self.number("tensor offset", 8))

    def value(self, key):
        """A number or string of the metadata, `None` where it is absent or an array."""
        for name, kind, raw in self.pairs:
            if name == key:
                if kind == STRING:
                    return raw[8:].decode("utf-8", "replace")
                return None if kind == ARRAY else struct.unpack("<" + LETTERS[kind], raw)[0]
        return None

    def place(self, tensor):
        """The range of a tensor's bytes in the file."""
        start = self.data_start + tensor.offset
        return start, start + tensor.size()

    def find(self, name):
        """The tensor of this name."""
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def said(self):
        """All that the file says but for what strata notes about its making: equal files behave equally."""
        pairs = [pair for pair in self.pairs if not pair[0].startswith("strata.")]
        table = [(t.name, t.dims, t.kind, t.offset) for t in self.tensors]
        return pairs, table, self.file[self.data_start:]


def string(text):
    """A string of GGUF."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def array(kind, values):
    """The bytes of an array's value."""
    body = b"".join(map(string, values)) if kind == STRING else struct.pack(f"<{len(values)}{LETTERS[kind]}", *values)
    return struct.pack("<IQ", kind, len(values)) + body


def scalar(kind, value):
    """The bytes of a single value."""
    return string(value) if kind == STRING else struct.pack("<" + LETTERS[kind], value)


def write_gguf(pairs, tensors, data, alignment=32, version=3):
    """A GGUF file of these parts; `pairs` and `data` as `Gguf` has them."""
    out = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(pairs))]
    for key, kind, raw in pairs:
        out += [string(key), struct.pack("<I", kind), raw]
    for tensor in tensors:
        out += [string(tensor.name), struct.pack("<I", len(tensor.dims)), struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims),
                struct.pack("<IQ", tensor.kind, tensor.offset)]
    head = b"".join(out)
    return head + bytes(-len(head) % alignment) + data


def with_pairs(gguf, pairs):
    """The same file with other metadata."""
    return write_gguf(pairs, gguf.tensors, gguf.file[gguf.data_start:], version=gguf.version)


def read_safetensors(file):
    """The header as an object, and the data."""
    length = struct.unpack_from("<Q", file)[0]
    return json.loads(file[8:8 + length]), file[8 + length:]


def write_safetensors(header, data):
    """A safetensors file of a header, an object or the bytes of its JSON, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def pack_safetensors(tensors):
    """A safetensors file of (name, dtype, shape, bytes)."""
    header, at = {}, 0
    for name, dtype, shape, raw in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    return write_safetensors(header, b"".join(raw for *_, raw in tensors))


def read_dat(file):
    """The entries of an old importance matrix as [name, calls, values], and what follows them."""
    count, at, entries = struct.unpack_from("<i", file)[0], 4, []
    for _ in range(count):
        length = struct.unpack_from("<i", file, at)[0]
        name = file[at + 4:at + 4 + length]
        calls, values = struct.unpack_from("<ii", file, at + 4 + length)
        at += 12 + length + 4 * values
        entries.append([name, calls, list(struct.unpack_from(f"<{values}f", file, at - 4 * values))])
    return entries, file[at:]


def write_dat(entries, tail):
    """An old importance matrix."""
    out = [struct.pack("<i", len(entries))]
    for name, calls, values in entries:
        out += [struct.pack("<i", len(name)), name, struct.pack("<ii", calls, len(values)), struct.pack(f"<{len(values)}f", *values)]
    return b"".join(out) + tail
