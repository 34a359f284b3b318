//! Python's pickle format, as far as torch.save needs it: a stack machine of a closed list of opcodes (Lib/pickletools.py of CPython). Nothing is
//! executed: the only calls are those of [`super::objects`], which build plain data, and every other opcode and name is refused.
//!
//! What a hostile file can cost is linear in its length: texts stay where they lie, each opcode makes at most one object, objects and the stack
//! are limited in number, and nothing here recurs into an object.

use super::GET_AGAIN;
use super::objects::{self, Global, Object, Ref};
use crate::error::{Error, Result, quoted};
use std::collections::HashMap;
use std::path::Path;

/// Bytes of a pickle, at most; that of a shard with ten thousand tensors has 3 MB.
pub(super) const LONGEST: usize = 16 << 20;

/// Objects of a pickle, at most: a tensor takes about 20.
const MAX_OBJECTS: usize = 1 << 20;

/// Objects on the stack, at most: dictionaries and lists come in batches of 1000.
const MAX_STACK: usize = 1 << 16;

/// The objects of a pickle, of which others refer to each other by number.
pub(super) struct Pickle<'a> {
    /// All of them.
    pub objects: Vec<Object<'a>>,
    /// The one that the pickle describes.
    pub root: Ref,
    /// The number of its bytes.
    pub bytes: usize,
}

/// Reads the pickle at the start of `bytes`, which lies at byte `base` of the file at `path`.
///
/// # Errors
/// Names the opcode or the global that a state dictionary does not need, with its offset in the file; also if the pickle is cut off,
/// contradicts itself or is too large.
pub(super) fn read<'a>(path: &'a Path, base: u64, bytes: &'a [u8]) -> Result<Pickle<'a>> {
    let mut machine = Machine {
        path,
        base,
        bytes: &bytes[..bytes.len().min(LONGEST)],
        at: 0,
        op_at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Vec::new(),
    };
    let root = machine.run()?;
    Ok(Pickle { root, bytes: machine.at, objects: machine.objects })
}

struct Machine<'a> {
    path: &'a Path,
    base: u64,
    bytes: &'a [u8],
    at: usize,
    op_at: usize, // of the opcode in work
    stack: Vec<Ref>,
    marks: Vec<usize>, // the heights of the stack where marks lie
    memo: HashMap<u32, Ref>,
    objects: Vec<Object<'a>>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Ref> {
        loop {
            self.op_at = self.at;
            match self.take::<1>()?[0] {
                b'.' => return self.pop(),
                op => self.step(op)?,
            }
            if self.stack.len() > MAX_STACK || self.marks.len() > MAX_STACK {
                return Err(self.bad(format!("more than {MAX_STACK} objects are on the pickle's stack")));
            }
        }
    }

    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            0x80 => self.protocol(),
            0x95 => self.take::<8>().map(drop), // FRAME: lengths of what follows, for readers of streams
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'N' => self.push(Object::None),
            0x88 => self.push(Object::Bool(true)),
            0x89 => self.push(Object::Bool(false)),
            b'J' | b'K' | b'M' | 0x8a | b'G' => self.number(op),
            b'X' | b'U' | 0x8c | 0x8d => self.text(op),
            b'}' => self.push(Object::Dict(Vec::new())),
            b']' => self.push(Object::List(Vec::new())),
            b')' => self.push(Object::Tuple(Vec::new())),
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(op - 0x84))?;
                self.push(Object::Tuple(items))
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Object::Tuple(items))
            }
            b'q' | b'r' | 0x94 => self.put(op),
            b'h' | b'j' => self.get(op),
            b'c' | 0x93 => self.global(op),
            b's' | b'u' | b'a' | b'e' => self.add(op),
            b'b' => self.build(),
            b'R' => self.call(),
            b'Q' => self.storage(),
            other => Err(self.refused_opcode(other)),
        }
    }

    fn protocol(&mut self) -> Result<()> {
        match self.take::<1>()?[0] {
            2..=5 => Ok(()),
            n => Err(self.bad(format!("pickle protocol {n} is not supported, only 2 to 5"))),
        }
    }

    fn number(&mut self, op: u8) -> Result<()> {
        let number = match op {
            b'J' => i64::from(i32::from_le_bytes(*self.take()?)),
            b'K' => i64::from(self.take::<1>()?[0]),
            b'M' => i64::from(u16::from_le_bytes(*self.take()?)),
            b'G' => {
                self.take::<8>()?;
                return self.push(Object::Float);
            }
            _ => {
                let len = usize::from(self.take::<1>()?[0]);
                let bytes = self.slice(len)?;
                if len > 8 {
                    return Err(self.bad(format!("a number of {len} bytes; a state dictionary has none beyond 8")));
                }
                // Two's complement, the sign in the last byte.
                let sign = if bytes.last().is_some_and(|&last| last >= 0x80) { 0xff } else { 0 };
                i64::from_le_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(sign)))
            }
        };
        self.push(Object::Int(number))
    }

    fn text(&mut self, op: u8) -> Result<()> {
        let len = match op {
            b'X' => u64::from(u32::from_le_bytes(*self.take()?)),
            0x8d => u64::from_le_bytes(*self.take()?),
            _ => u64::from(self.take::<1>()?[0]),
        };
        // A length beyond the memory of the machine is beyond the pickle, too.
        let bytes = self.slice(usize::try_from(len).unwrap_or(usize::MAX))?;
        let text = str::from_utf8(bytes).map_err(|_| self.bad("a text is not UTF-8"))?;
        self.push(Object::Text(text))
    }

    fn put(&mut self, op: u8) -> Result<()> {
        let place = match op {
            b'q' => u32::from(self.take::<1>()?[0]),
            b'r' => u32::from_le_bytes(*self.take()?),
            _ => self.memo.len() as u32, // at most `MAX_OBJECTS`
        };
        let top = self.pop()?;
        self.stack.push(top);
        self.memo.insert(place, top);
        if self.memo.len() > MAX_OBJECTS {
            return Err(self.bad(format!("more than {MAX_OBJECTS} objects are kept for later use")));
        }
        Ok(())
    }

    fn get(&mut self, op: u8) -> Result<()> {
        let place = match op {
            b'h' => u32::from(self.take::<1>()?[0]),
            _ => u32::from_le_bytes(*self.take()?),
        };
        let Some(&kept) = self.memo.get(&place) else {
            return Err(self.bad(format!("object {place} is used and was not kept")));
        };
        self.stack.push(kept);
        Ok(())
    }

    fn global(&mut self, op: u8) -> Result<()> {
        let (module, name) = if op == b'c' {
            (self.line()?, self.line()?)
        } else {
            let names = self.pop_many(2)?;
            match (self.object(names[0]), self.object(names[1])) {
                (Object::Text(module), Object::Text(name)) => (*module, *name),
                _ => return Err(self.bad("a global is named by something other than texts")),
            }
        };
        match Global::find(module, name) {
            Some(global) => self.push(Object::Global(global)),
            None => {
                let problem =
                    format!("wants {}, which the weights of a model do not need", quoted(&format!("{module}.{name}")));
                let remedy =
                    "strata executes nothing of a pickle; get the model from someone you trust, as safetensors";
                Err(self.refuse(problem, remedy))
            }
        }
    }

    /// Puts items into a list or a dictionary.
    fn add(&mut self, op: u8) -> Result<()> {
        let items = match op {
            b's' => self.pop_many(2)?,
            b'a' => self.pop_many(1)?,
            _ => self.pop_to_mark()?,
        };
        let to = self.pop()?;
        self.stack.push(to);
        match &mut self.objects[to as usize] {
            Object::List(list) if matches!(op, b'a' | b'e') => list.extend(items),
            Object::Dict(dict) if matches!(op, b's' | b'u') && items.len().is_multiple_of(2) => {
                dict.extend(items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
            }
            other => {
                let problem = format!("{} items are put into {}", items.len(), other.kind());
                return Err(self.bad(problem));
            }
        }
        Ok(())
    }

    /// Attributes of a dictionary: the versions of the modules, which change nothing.
    fn build(&mut self) -> Result<()> {
        let items = self.pop_many(2)?;
        match self.object(items[0]) {
            Object::Dict(_) => {
                self.stack.push(items[0]);
                Ok(())
            }
            other => {
                let problem = format!("sets attributes of {}, which the weights of a model do not need", other.kind());
                Err(self.bad(problem))
            }
        }
    }

    fn call(&mut self) -> Result<()> {
        let items = self.pop_many(2)?;
        let (function, arguments) = (self.object(items[0]), self.object(items[1]));
        let (Object::Global(global), Object::Tuple(arguments)) = (function, arguments) else {
            let problem = format!("calls {} with {}", function.kind(), arguments.kind());
            return Err(self.bad(problem));
        };
        match objects::call(*global, arguments, &self.objects) {
            Ok(objects::Called::New(object)) => self.push(object),
            Ok(objects::Called::Known(known)) => {
                self.stack.push(known);
                Ok(())
            }
            Err(problem) => Err(self.bad(problem)),
        }
    }

    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        match objects::storage(id, &self.objects) {
            Ok(storage) => self.push(Object::Storage(storage)),
            Err(problem) => Err(self.bad(problem)),
        }
    }

    fn push(&mut self, object: Object<'a>) -> Result<()> {
        if self.objects.len() == MAX_OBJECTS {
            return Err(self.bad(format!("more than {MAX_OBJECTS} objects")));
        }
        self.stack.push(self.objects.len() as Ref); // at most `MAX_OBJECTS`
        self.objects.push(object);
        Ok(())
    }

    fn object(&self, at: Ref) -> &Object<'a> {
        &self.objects[at as usize]
    }

    fn pop(&mut self) -> Result<Ref> {
        self.pop_many(1).map(|items| items[0])
    }

    /// The last `n` objects of the stack, down to the last mark at most.
    fn pop_many(&mut self, n: usize) -> Result<Vec<Ref>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(n).filter(|&start| start >= floor) {
            Some(start) => Ok(self.stack.split_off(start)),
            None => Err(self.bad("takes more from the pickle's stack than is on it")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Ref>> {
        let Some(mark) = self.marks.pop() else { return Err(self.bad("no mark is on the pickle's stack")) };
        Ok(self.stack.split_off(mark))
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N]> {
        let bytes = self.slice(N)?;
        Ok(bytes.first_chunk().expect("`slice` returns as many bytes as it was asked for"))
    }

    fn slice(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        if len > rest.len() {
            let limit =
                if self.bytes.len() == LONGEST { format!(" or longer than {LONGEST} bytes") } else { String::new() };
            return Err(self.bad(format!("the pickle is cut off{limit}")));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn line(&mut self) -> Result<&'a str> {
        let len = self.bytes[self.at..].iter().position(|&byte| byte == b'\n');
        let Some(len) = len else { return Err(self.bad("the pickle is cut off in a name")) };
        let line = self.slice(len + 1)?;
        str::from_utf8(&line[..len]).map_err(|_| self.bad("a name is not UTF-8"))
    }

    fn refused_opcode(&self, op: u8) -> Error {
        const NAMES: &[(u8, &str)] = &[
            (b'i', "INST"),
            (b'o', "OBJ"),
            (0x81, "NEWOBJ"),
            (0x92, "NEWOBJ_EX"),
            (0x82, "EXT1"),
            (0x83, "EXT2"),
            (0x84, "EXT4"),
            (b'P', "PERSID"),
            (b'0', "POP"),
            (b'1', "POP_MARK"),
            (b'2', "DUP"),
            (b'd', "DICT"),
            (b'l', "LIST"),
            (b'T', "BINSTRING"),
            (b'B', "BINBYTES"),
            (b'C', "SHORT_BINBYTES"),
            (0x8b, "LONG4"),
            (0x8e, "BINBYTES8"),
            (0x8f, "EMPTY_SET"),
            (0x90, "ADDITEMS"),
            (0x91, "FROZENSET"),
            (0x96, "BYTEARRAY8"),
            (0x97, "NEXT_BUFFER"),
            (0x98, "READONLY_BUFFER"),
        ];
        let name = NAMES.iter().find(|(code, _)| *code == op).map_or("unknown", |(_, name)| name);
        let problem = format!("opcode {op:#04x} ({name}) of the pickle is not one that the weights of a model need");
        self.refuse(problem, "strata executes nothing of a pickle; get the model as safetensors")
    }

    fn refuse(&self, problem: String, remedy: &str) -> Error {
        Error::invalid(self.path, format!("byte {}", self.base + self.op_at as u64), problem, remedy)
    }

    fn bad(&self, problem: impl Into<String>) -> Error {
        self.refuse(problem.into(), GET_AGAIN)
    }
}
