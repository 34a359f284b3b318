//! Models larger than their budget: the same bits as resident, for every type and budget; and what happens to the files meanwhile is an
//! error that says where, or does not matter.

use super::common::{StopsAfter, TOKENS, bits, mix, model_file, open, pure, streamed_with, write_model};
use crate::eval::calibrate::calibrate;
use crate::eval::compare::Text;
use crate::eval::compare::text::Cut;
use crate::eval::perplexity::perplexity;
use crate::gguf::Gguf;
use crate::gguf::shards::SplitLimit;
use crate::model::{CacheTypes, KvCache, MemoryNeed, Model, Scratch, Segment};
use crate::progress::{Progress, Quiet};
use crate::split::{self, Placement};
use crate::stream::Memory;
use crate::stream::backend::{Backend, Done, Read};
use crate::stream::{Budget, Plan, ReadOptions, Reader};
use crate::{Cpu, Error, GgmlType, Isa, Result};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

const PROMPT: &[u32] = TOKENS.split_at(9).0;

fn q8_0() -> (TempDir, PathBuf) {
    model_file(pure(GgmlType::Q8_0))
}

fn cpu() -> Cpu {
    Cpu::new(Isa::best(), 2)
}

fn resident(path: &Path) -> Model {
    open(path, Isa::best(), 2)
}

fn streamed(path: &Path, share: f64) -> Model {
    streamed_with(path, share, &ReadOptions::default()).unwrap()
}

fn plan(model: &Model) -> &Plan {
    model.plan().unwrap()
}

/// The bits of the logits after every token `(tokens, vocab)`, in passes of `piece` tokens.
fn logits(model: &Model, piece: usize) -> Result<Vec<u32>> {
    super::common::logits(model, PROMPT, piece).map(|logits| bits(&logits))
}

#[test]
fn every_type_gives_the_same_bits_at_every_budget() {
    for format in GgmlType::with_format() {
        let (_dir, path) = model_file(pure(format.ty));
        let expected = logits(&resident(&path), PROMPT.len()).unwrap();
        let mut before = u64::MAX;
        for share in [0.0, 0.3, 0.8] {
            let model = streamed(&path, share);
            assert!(!plan(&model).mapped && plan(&model).streamed_bytes > 0 && plan(&model).streamed_bytes < before);
            before = plan(&model).streamed_bytes;
            for piece in [1, PROMPT.len()] {
                assert!(logits(&model, piece).unwrap() == expected, "{} with {share} of the weights", format.ty);
            }
        }
    }
}

#[test]
fn mixes_and_readers_and_split_files_too() {
    let (dir, path) = model_file(mix("q4_k_m"));
    let expected = logits(&resident(&path), 4).unwrap();
    let parts = |name: &str, placement| {
        let options = split::SplitOptions { placement, first_without_tensors: false };
        split::split(&Gguf::open(&path).unwrap(), &dir.path().join(name), &options, &Quiet).unwrap()
    };
    let linear = parts("linear", Placement::Linear(SplitLimit::Tensors(20)));
    let striped = parts("striped", Placement::Striped(3));
    assert!(linear.len() > 2);
    for path in [&path, &linear[1].path, &striped[1].path] {
        for reader in [Reader::Auto, Reader::Uring, Reader::Pread, Reader::Buffered] {
            let options = ReadOptions { reader, ..ReadOptions::default() };
            let model = match streamed_with(path, 0.2, &options) {
                // Not every kernel has it; every other way is everywhere.
                Err(Error::ReaderRefused { reader: "uring", .. }) if reader == Reader::Uring => {
                    continue;
                }
                model => model.unwrap(),
            };
            assert!(logits(&model, 4).unwrap() == expected, "{}", reader.name());
        }
    }
}

/// A backend that counts the reads under way of each file, and remembers the most at once of both.
struct Counted {
    backend: Box<dyn Backend>,
    flying: [usize; 2],
    most: Arc<AtomicUsize>,
}

impl Backend for Counted {
    fn submit(&mut self, read: Read) {
        self.flying[read.file] += 1;
        if !self.flying.contains(&0) {
            self.most.fetch_max(self.flying.iter().sum(), Ordering::Relaxed);
        }
        self.backend.submit(read);
    }

    fn wait(&mut self, io_timeout: Duration) -> io::Result<Option<Done>> {
        let done = self.backend.wait(io_timeout)?;
        if let Some((read, _)) = &done {
            self.flying[read.file] -= 1;
        }
        Ok(done)
    }
}

#[test]
#[cfg(target_os = "linux")]
fn drives_are_read_at_once() {
    use std::os::unix::fs::MetadataExt;
    let here = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let drive = |path: &Path| fs::metadata(path).unwrap().dev();
    let mut places = ["/dev/shm", "/tmp", "/run", "/var/tmp"].map(tempfile::tempdir_in).into_iter().flatten();
    let there = places.find(|there| drive(there.path()) != drive(here.path())).expect("a second file system");
    let path = here.path().join("model.gguf");
    write_model(&path, pure(GgmlType::Q8_0));
    let expected = logits(&resident(&path), 4).unwrap();
    let options = split::SplitOptions { placement: Placement::Striped(2), first_without_tensors: false };
    let parts = split::split(&Gguf::open(&path).unwrap(), &here.path().join("part"), &options, &Quiet).unwrap();
    let moved = there.path().join("moved.gguf");
    fs::copy(&parts[1].path, &moved).unwrap();
    fs::remove_file(&parts[1].path).unwrap();
    std::os::unix::fs::symlink(&moved, &parts[1].path).unwrap();

    let most = Arc::new(AtomicUsize::new(0));
    let counted = most.clone();
    let wrap = move |backend| Box::new(Counted { backend, flying: [0; 2], most: counted.clone() }) as Box<dyn Backend>;
    let options = ReadOptions { wrap: Some(Arc::new(wrap)), ..ReadOptions::default() };
    let model = streamed_with(&parts[0].path, 0.1, &options).unwrap();
    // Loading reads from both as well; the ring is what counts.
    most.store(0, Ordering::Relaxed);
    assert!(logits(&model, 4).unwrap() == expected);
    let (most, depth) = (most.load(Ordering::Relaxed), model.weights().streamed().unwrap().strategy().depth);
    assert!(most > depth, "{most} reads at once where each drive takes {depth}");
}

#[test]
fn evaluations_read_the_same() {
    let (_dir, path) = q8_0();
    let tokens: Vec<u32> = (0..4 * 64).map(|i| i * 37 % 3840).collect();
    let text = Text::raw("numbers", &tokens, Cut { context: 64, stride: None, max_chunks: None }, None).unwrap();
    let (resident, streamed) = (resident(&path), streamed(&path, 0.1));
    let nll = |model| {
        perplexity(model, &tokens, 64, None, Some(3840), CacheTypes::default(), &Quiet).unwrap().mean_nll.to_bits()
    };
    assert_eq!(nll(&resident), nll(&streamed));
    let sums = |model| calibrate(model, &text, true, &Quiet).unwrap().entries;
    assert!(sums(&resident) == sums(&streamed));
}

#[test]
fn a_pass_can_be_stopped_between_layers_and_the_next_is_right() {
    let (_dir, path) = q8_0();
    let model = streamed(&path, 0.1);
    let expected = logits(&resident(&path), PROMPT.len()).unwrap();
    for looks in 0..model.hyperparameters().layers {
        let mut cache = KvCache::new(model.hyperparameters(), PROMPT.len()).unwrap();
        let mut segments = [Segment { tokens: PROMPT, cache: &mut cache }];
        let stops = StopsAfter(AtomicUsize::new(looks));
        let mut scratch = Scratch::default();
        let stopped = model.pass(&mut scratch, &mut segments, &stops);
        assert!(matches!(stopped, Err(Error::Cancelled)), "after {looks} layers");
        assert!(cache.is_empty());
        assert!(logits(&model, PROMPT.len()).unwrap() == expected);
    }
}

/// The error of a model after `what` was done to its file while it ran.
fn after(what: impl Fn(&Path)) -> (String, PathBuf, Result<Vec<u32>>) {
    let (_dir, path) = q8_0();
    let model = streamed(&path, 0.1);
    let expected = logits(&model, 1).unwrap();
    what(&path);
    // What was read ahead is still right; soon comes what was not.
    let mut result = Ok(expected.clone());
    for _ in 0..3 {
        result = logits(&model, 1);
        match &result {
            Ok(logits) => assert!(*logits == expected, "garbage"),
            Err(_) => break,
        }
    }
    let said = result.as_ref().err().map_or(String::new(), Error::to_string);
    (said, path, result)
}

#[test]
fn a_file_that_is_cut_short_is_an_error_with_its_place() {
    let (said, path, _) = after(|path| OpenOptions::new().write(true).open(path).unwrap().set_len(100_000).unwrap());
    assert!(said.contains(path.to_str().unwrap()) && said.contains("byte ") && said.contains("100000 now"), "{said}");
}

#[test]
fn a_file_that_is_written_to_is_an_error_with_its_place() {
    let (said, path, _) = after(|path| {
        // The clock of a file system may be as coarse as a hundredth of a second.
        std::thread::sleep(Duration::from_millis(50));
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0; 64], 2_000_000).unwrap();
    });
    assert!(said.contains(path.to_str().unwrap()) && said.contains("byte ") && said.contains("written to"), "{said}");
}

#[test]
fn a_file_that_is_deleted_or_replaced_by_name_does_not_matter() {
    assert!(after(|path| fs::remove_file(path).unwrap()).2.is_ok());
    let replace = |path: &Path| {
        let other = path.with_extension("new");
        fs::File::create(&other).unwrap().write_all(&vec![7; 1_000_000]).unwrap();
        fs::rename(other, path).unwrap();
    };
    assert!(after(replace).2.is_ok());
}

#[test]
fn a_resident_model_whose_file_changes_is_an_error_not_a_crash() {
    let changes: [fn(&Path); 2] = [
        |path| OpenOptions::new().write(true).open(path).unwrap().set_len(1_000_000).unwrap(),
        |path| {
            std::thread::sleep(Duration::from_millis(50));
            OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0; 64], 2_000_000).unwrap();
        },
    ];
    for change in changes {
        let (_dir, path) = q8_0();
        let model = resident(&path);
        logits(&model, 1).unwrap();
        change(&path);
        let said = logits(&model, 1).unwrap_err().to_string();
        assert!(said.contains(path.to_str().unwrap()) && said.contains("byte "), "{said}");
    }
}

/// What goes wrong with reads.
#[derive(Clone, Copy)]
enum Fault {
    Fails,
    IsShort,
    ComesInPieces,
    Interrupted,
    NeverComes,
}

/// A backend whose reads go wrong once `broken` is set.
struct Faulty {
    backend: Box<dyn Backend>,
    broken: Arc<AtomicBool>,
    fault: Fault,
    kept: Vec<Read>,
    count: usize,
}

impl Backend for Faulty {
    fn submit(&mut self, read: Read) {
        self.backend.submit(read);
    }

    fn wait(&mut self, io_timeout: Duration) -> io::Result<Option<Done>> {
        let Some((read, result)) = self.backend.wait(io_timeout)? else { return Ok(None) };
        self.count += 1;
        if !self.broken.load(Ordering::Relaxed) {
            return Ok(Some((read, result)));
        }
        match self.fault {
            Fault::Fails => Ok(Some((read, Err(io::Error::from_raw_os_error(5))))),
            Fault::IsShort => Ok(Some(cut(read, 0))),
            // Half of it, in whole blocks.
            Fault::ComesInPieces => {
                let half = result? / 2;
                Ok(Some(cut(read, half.max(4096))))
            }
            Fault::Interrupted if self.count.is_multiple_of(2) => {
                Ok(Some((read, Err(io::ErrorKind::Interrupted.into()))))
            }
            Fault::Interrupted => Ok(Some((read, result))),
            Fault::NeverComes => {
                self.kept.push(read);
                std::thread::sleep(io_timeout);
                Ok(None)
            }
        }
    }
}

/// The read as if only `bytes` of it had come. What has come after them is overwritten: nobody may use it.
fn cut(mut read: Read, bytes: usize) -> Done {
    let bytes = bytes.min(read.target.len());
    read.target.bytes()[bytes..].fill(0xaa);
    (read, Ok(bytes))
}

/// What a model says whose reads go wrong after the first pass.
fn with_fault(fault: Fault) -> Result<()> {
    let (_dir, path) = q8_0();
    let broken = Arc::new(AtomicBool::new(false));
    let options = ReadOptions {
        io_timeout: Duration::from_millis(300),
        wrap: Some(Arc::new({
            let broken = broken.clone();
            move |backend| {
                Box::new(Faulty { backend, broken: broken.clone(), fault, kept: Vec::new(), count: 0 })
                    as Box<dyn Backend>
            }
        })),
        ..ReadOptions::default()
    };
    let model = streamed_with(&path, 0.1, &options)?;
    let expected = logits(&model, 1)?;
    broken.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        match logits(&model, 1) {
            Ok(logits) => assert!(logits == expected, "garbage"),
            Err(error) => {
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                // And so it stays.
                let again = logits(&model, 1).unwrap_err();
                assert!(matches!(again, Error::ReaderStopped { after_error: true }), "{again}");
                return Err(error);
            }
        }
    }
    Ok(())
}

/// The system's reason for an error.
fn cause(error: &Error) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

#[test]
fn reads_that_fail_are_errors_with_their_place() {
    let said = cause(&with_fault(Fault::Fails).unwrap_err());
    assert!(said.contains("at byte ") && said.contains("os error 5"), "{said}");
    let said = cause(&with_fault(Fault::IsShort).unwrap_err());
    assert!(said.contains("at byte ") && said.contains("end of file"), "{said}");
}

#[test]
fn reads_that_come_in_pieces_or_are_interrupted_go_on() {
    with_fault(Fault::ComesInPieces).unwrap();
    with_fault(Fault::Interrupted).unwrap();
}

#[test]
fn a_drive_that_gives_no_answer_is_an_error_in_time() {
    let said = cause(&with_fault(Fault::NeverComes).unwrap_err());
    assert!(said.contains("at byte ") && said.contains("no answer from the drive in 0.3 seconds"), "{said}");
}

/// What a pass says of itself.
#[derive(Default)]
struct Says(Mutex<Vec<String>>);

impl Progress for Says {
    fn begin(&self, _: &str, _: u64) {}
    fn step(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        false
    }
}

#[test]
fn memory_that_others_need_is_given_back_and_the_bits_stay() {
    let (_dir, path) = q8_0();
    let available = Arc::new(AtomicU64::new(1 << 40));
    let ask = available.clone();
    // 200 KB of this should be free.
    let memory = move || Some(Memory { total: 32 * 200_000, available: ask.load(Ordering::Relaxed) });
    let options = ReadOptions { memory: Some(Arc::new(memory)), ..ReadOptions::default() };
    let model = streamed_with(&path, 0.5, &options).unwrap();
    let expected = logits(&resident(&path), PROMPT.len()).unwrap();
    let streamed = model.weights().streamed().unwrap();
    let pass = || {
        // The memory is looked at now and then only.
        std::thread::sleep(Duration::from_millis(50));
        let mut cache = KvCache::new(model.hyperparameters(), PROMPT.len()).unwrap();
        let (mut scratch, says) = (Scratch::default(), Says::default());
        let mut segments = [Segment { tokens: PROMPT, cache: &mut cache }];
        let mut hidden = model.pass(&mut scratch, &mut segments, &says).unwrap();
        let all = hidden.logits(0..PROMPT.len(), &Quiet).unwrap();
        assert!(all.iter().map(|l| l.to_bits()).eq(expected.iter().copied()));
        says.0.into_inner().unwrap().join(", ")
    };
    assert_eq!((pass(), streamed.released()), (String::new(), 0));
    let (mut before, mut times) = (0, 0);
    loop {
        available.store(100_000, Ordering::Relaxed);
        let (said, given) = (pass(), streamed.released());
        assert_eq!(said.contains("memory is short"), given > before, "{said}");
        if given == before {
            break;
        }
        (before, times) = (given, times + 1);
        // Nothing more is given back when there is enough, and what was stays so.
        available.store(300_000, Ordering::Relaxed);
        assert_eq!((pass(), streamed.released()), (String::new(), before));
    }
    // All but the output matrix; what a plan counts for it has room for two pages a matrix.
    let pinned = plan(&model).pinned_bytes - streamed.output_bytes().len() as u64;
    assert!(times > 1 && before <= pinned && before > pinned / 2, "{before} of {pinned} in {times} times");
}

#[test]
fn what_cannot_fit_is_refused_with_the_numbers() {
    let (_dir, path) = q8_0();
    let within = |bytes, need| {
        let budget = Budget { bytes, fixed: 1_000_000 };
        Model::within(Gguf::open(&path).unwrap(), cpu(), budget, need, &ReadOptions::default(), &Quiet).err().unwrap()
    };
    assert!(matches!(within(1_500_000, MemoryNeed::default()), Error::BudgetTooSmall { budget: 1_500_000, .. }));
    let error = within(5_000_000, MemoryNeed { kv: 100_000_000, scratch: 0 });
    assert!(matches!(error, Error::BudgetTooSmall { kv: 100_000_000, .. }), "{error}");
    let memory = Gguf::from_bytes(fs::read(&path).unwrap()).unwrap();
    let budget = Budget { bytes: 4_000_000, fixed: 0 };
    let error =
        Model::within(memory, cpu(), budget, MemoryNeed::default(), &ReadOptions::default(), &Quiet).err().unwrap();
    assert!(matches!(error, Error::InMemory { .. }), "{error}");
}

#[test]
fn sequences_on_many_threads_take_turns() {
    let (_dir, path) = q8_0();
    let model = streamed(&path, 0.1);
    let expected = logits(&model, 1).unwrap();
    let different = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| *different.lock().unwrap() += usize::from(logits(&model, 1).unwrap() != expected));
        }
    });
    assert_eq!(different.into_inner().unwrap(), 0);
}
