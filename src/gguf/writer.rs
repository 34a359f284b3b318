//! Writes the data of a GGUF file after the header: tensors in the order of the layout, each complete.

use crate::error::{Error, Result, quoted};
use crate::io::outputs::Outputs;
use std::path::Path;

/// A file whose header is written and whose data is to come, tensor by tensor in the order of the layout:
/// [`begin`](Writer::begin), [`write`](Writer::write) as often as needed, and [`finish`](Writer::finish) after the last.
/// Dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct Writer<'o> {
    files: Files<'o>,
    slots: Vec<Slot>,
    alignment: usize,
    header: u64,
    begun: usize, // the number of tensors begun
    written: u64, // bytes of the last one begun
}

/// The location of a tensor's data.
#[derive(Debug)]
pub(super) struct Slot {
    pub name: String,
    pub offset: u64, // from the start of the data
    pub bytes: u64,
}

/// The files of which the writer writes one.
#[derive(Debug)]
pub(super) enum Files<'o> {
    /// A single file, which gets its name when it is complete.
    Own(Box<Outputs>),
    /// Several that get their names together.
    Several(&'o mut Outputs),
}

impl<'o> Writer<'o> {
    /// Starts a file with its header, after which its tensors go into `slots`.
    pub(super) fn new(files: Files<'o>, slots: Vec<Slot>, alignment: usize, header: &[u8]) -> Result<Writer<'o>> {
        let mut writer = Writer { files, slots, alignment, header: header.len() as u64, begun: 0, written: 0 };
        writer.outputs().write_all(header)?;
        Ok(writer)
    }

    /// Starts the next tensor, which must be `name`.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        self.end()?;
        match self.slots.get(self.begun) {
            Some(next) if next.name == name => {}
            Some(next) => return Err(self.wrong(name, format!("comes where {} is due", quoted(&next.name)))),
            None => return Err(self.wrong(name, "comes after the last tensor of the layout".to_owned())),
        }
        self.begun += 1;
        self.written = 0;
        Ok(())
    }

    /// Appends to the tensor that was begun.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(slot) = self.current() else {
            return Err(Error::argument("data", "no tensor was begun").of_file(self.path()));
        };
        let room = slot.bytes - self.written;
        if bytes.len() as u64 > room {
            let problem = format!("{} bytes are written, {room} of its {} are free", bytes.len(), slot.bytes);
            return Err(self.wrong(&slot.name, problem));
        }
        self.outputs().write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Completes the file, which only now gets its name, unless it is one of several.
    pub fn finish(mut self) -> Result<()> {
        self.end()?;
        if let Some(missing) = self.slots.get(self.begun) {
            return Err(self.wrong(&missing.name, "is missing".to_owned()));
        }
        match self.files {
            Files::Own(outputs) => outputs.commit(),
            Files::Several(_) => Ok(()),
        }
    }

    /// The bytes of the finished file.
    pub fn file_bytes(&self) -> u64 {
        let data = self.slots.last().map(|slot| slot.offset + slot.bytes.next_multiple_of(self.alignment as u64));
        self.header + data.unwrap_or(0)
    }

    /// The path that the file will have.
    pub fn path(&self) -> &Path {
        match &self.files {
            Files::Own(outputs) => outputs.path(),
            Files::Several(outputs) => outputs.path(),
        }
    }

    fn outputs(&mut self) -> &mut Outputs {
        match &mut self.files {
            Files::Own(outputs) => outputs,
            Files::Several(outputs) => outputs,
        }
    }

    /// Ends the tensor that was begun, if any: it must be complete, and is padded.
    fn end(&mut self) -> Result<()> {
        let Some(slot) = self.current() else { return Ok(()) };
        if self.written != slot.bytes {
            return Err(
                self.wrong(&slot.name, format!("only {} of its {} bytes are written", self.written, slot.bytes))
            );
        }
        // Padded once only: every begin counts from 0 again, and finish consumes the writer.
        let padding = slot.bytes.next_multiple_of(self.alignment as u64) - slot.bytes;
        self.outputs().write_all(&vec![0; padding as usize])
    }

    fn current(&self) -> Option<&Slot> {
        self.begun.checked_sub(1).map(|i| &self.slots[i])
    }

    fn wrong(&self, tensor: &str, problem: String) -> Error {
        Error::argument(format!("tensor {}", quoted(tensor)), problem).of_file(self.path())
    }
}
