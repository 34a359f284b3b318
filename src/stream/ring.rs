//! The ring: slots that a thread fills with the streamed part of one layer after the other, round and round, ahead of the pass.
//!
//! After the last layer comes the first of the next pass, so the drives work while the processor makes logits and the sampler chooses.
//! A pass takes the slots in order and gives each back when its layer is done. Nothing is copied: a slot changes hands.

use crate::error::{Error, Result};
use crate::stream::files::Piece;
use crate::stream::memory::Buffer;
use crate::stream::queue::Queue;
use crate::threads;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The interval at which a waiting pass checks for cancellation and memory pressure.
const LOOK_AROUND: Duration = Duration::from_millis(20);

/// The streamed part of a layer.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The layer.
    pub layer: usize,
    /// The reads that fetch it.
    pub pieces: Vec<Piece>,
}

/// A slot with the streamed part of a layer in it.
pub struct FilledSlot {
    /// The layer.
    pub layer: usize,
    /// The bytes.
    pub buffer: Buffer,
    /// The time that the drives worked for it: since the previous slot was full, or since they were idle.
    pub took: Duration,
}

/// Fills buffers with slices, in order.
pub struct Feeder {
    queue: Queue,
    slices: Vec<Slice>,
    next: usize,                // the slice that the next buffer gets
    filling: VecDeque<Filling>, // in the order of their slices
    first: u64,                 // the ticket of the first of them
    since: Instant,             // the last was full, or there was none
    single_pass: bool,          // stops after the last slice
    idle: Vec<Buffer>,          // those that it stopped with
}

struct Filling {
    slice: usize,
    buffer: Buffer,
    left: usize, // pieces
}

impl Feeder {
    /// Starts with the first of `slices`, of which there is at least one.
    pub fn new(queue: Queue, slices: Vec<Slice>) -> Feeder {
        let (filling, since, idle) = (VecDeque::new(), Instant::now(), Vec::new());
        Feeder { queue, slices, next: 0, filling, first: 0, since, single_pass: false, idle }
    }

    /// The same that stops after the last slice, until it is told to start over; others go on with the first slice.
    pub fn single_pass(self, single_pass: bool) -> Feeder {
        Feeder { single_pass, ..self }
    }

    /// Starts to fill `buffer`.
    pub fn start(&mut self, mut buffer: Buffer) {
        if self.is_idle() {
            self.since = Instant::now();
        }
        if self.next == self.slices.len() {
            if self.single_pass {
                return self.idle.push(buffer);
            }
            self.next = 0;
        }
        let slice = self.next;
        self.next += 1;
        let pieces = &self.slices[slice].pieces;
        let targets = buffer.carve(pieces.iter().map(|piece| piece.at..piece.at + piece.len));
        let ticket = self.first + self.filling.len() as u64;
        self.filling.push_back(Filling { slice, buffer, left: pieces.len() });
        self.queue.push(pieces, targets, ticket);
    }

    /// Starts over with the first slice from layer `layer` on.
    pub fn start_over(&mut self, layer: usize) {
        self.next = self.slices.iter().position(|slice| slice.layer >= layer).unwrap_or(self.slices.len());
        std::mem::take(&mut self.idle).into_iter().for_each(|buffer| self.start(buffer));
    }

    /// True if nothing is being filled.
    pub fn is_idle(&self) -> bool {
        self.filling.is_empty()
    }

    /// Waits for a read to complete; returns the oldest buffer if that completes it.
    ///
    /// # Errors
    /// As [`Queue::finish_one`]; also if a file has changed.
    pub fn turn(&mut self) -> Result<Option<FilledSlot>> {
        if self.filling.front().is_some_and(|filling| filling.left > 0) {
            let ticket = self.queue.finish_one()?;
            self.filling[(ticket - self.first) as usize].left -= 1;
        }
        if self.filling.front().is_none_or(|filling| filling.left > 0) {
            return Ok(None);
        }
        let Some(Filling { slice, buffer, .. }) = self.filling.pop_front() else { return Ok(None) };
        self.first += 1;
        let Slice { layer, pieces } = &self.slices[slice];
        // Checked when all of it has come: what was changed before that is found.
        let mut before = None;
        for piece in pieces.iter().filter(|piece| before.replace(piece.file) != Some(piece.file)) {
            self.queue.files()[piece.file].check(piece.offset)?;
        }
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.since, now);
        Ok(Some(FilledSlot { layer: *layer, buffer, took }))
    }
}

/// A message from the pass to the thread.
enum Order {
    /// A slot to fill.
    Fill(Buffer),
    /// Fills the next slots with the slices from this layer on.
    StartOver(usize),
}

/// The pass's end of the ring.
pub struct Ring {
    full: Receiver<Result<FilledSlot>>,
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    failed: bool,
}

impl Ring {
    /// Starts the thread that fills `slots` in turn.
    ///
    /// # Errors
    /// If a file cannot be read, or the system starts no thread.
    pub fn start(mut feeder: Feeder, slots: Vec<Buffer>) -> Result<Ring> {
        let ((orders, from), (to, full)) = (channel(), channel());
        slots.into_iter().for_each(|slot| feeder.start(slot));
        while !feeder.is_idle() {
            if let Some(full) = feeder.turn()? {
                // The other end is right here.
                let _ = to.send(Ok(full));
            }
        }
        let thread = threads::builder().name("strata-ring".to_owned()).spawn(move || feed(feeder, &from, &to));
        let thread = thread.map_err(Error::Thread)?;
        Ok(Ring { full, orders: Some(orders), thread: Some(thread), failed: false })
    }

    /// Waits for the slot with the slice of `layer`. `look` is called now and then and may end the wait.
    ///
    /// # Errors
    /// The error of a read, or of `look`.
    pub fn take(&mut self, layer: usize, look: &mut dyn FnMut() -> Result<()>) -> Result<FilledSlot> {
        loop {
            match self.full.recv_timeout(LOOK_AROUND) {
                Ok(Ok(full)) if full.layer == layer => return Ok(full),
                // From before a restart.
                Ok(Ok(full)) => self.give(full.buffer),
                Ok(Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
                Err(RecvTimeoutError::Timeout) => look()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::ReaderStopped { after_error: self.failed });
                }
            }
        }
    }

    /// Gives a slot back to be filled.
    pub fn give(&mut self, slot: Buffer) {
        self.send(Order::Fill(slot));
    }

    /// Starts over with layer `layer`.
    pub fn start_over(&mut self, layer: usize) {
        self.send(Order::StartOver(layer));
    }

    fn send(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // Without a receiver there has been an error, which `take` tells.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // Its memory is free when it has ended; it does not panic.
            let _ = thread.join();
        }
    }
}

/// The thread's loop: fills slots until the ring is dropped.
fn feed(mut feeder: Feeder, orders: &Receiver<Order>, to: &Sender<Result<FilledSlot>>) {
    loop {
        let order = match feeder.is_idle() {
            true => orders.recv().map_err(|_| TryRecvError::Disconnected),
            false => orders.try_recv(),
        };
        match order {
            Ok(Order::Fill(buffer)) => feeder.start(buffer),
            Ok(Order::StartOver(layer)) => feeder.start_over(layer),
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                let full = match feeder.turn() {
                    Ok(None) => continue,
                    Ok(Some(full)) => Ok(full),
                    Err(error) => Err(error),
                };
                let failed = full.is_err();
                if to.send(full).is_err() || failed {
                    return;
                }
            }
        }
    }
}
