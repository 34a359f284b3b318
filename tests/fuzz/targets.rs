//! The fuzz targets: bytes from outside lead to a result or an error, never to a panic, and what is accepted keeps its promises.
//!
//! libFuzzer runs each by its file in `fuzz_targets/`; `tests/fuzz_corpus.rs` runs all over their corpus on stable Rust.

mod checkpoint;
#[path = "../common/mod.rs"]
mod common;
mod walk;

use checkpoint::Folder;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use strata::convert::{Input, Options, Target, convert, plan};
use strata::engine::grammar::Grammar;
use strata::engine::template::{ChatInput, ChatTemplate};
use strata::eval::base_file::BaseFile;
use strata::eval::tasks::{self, Kind, scoring::Answers};
use strata::gguf::Gguf;
use strata::imatrix::Imatrix;
use strata::io::hash::Digest;
use strata::progress::{Progress, Quiet};
use strata::synthetic::{Preset, Synthetic};
use strata::tokenizer::{EncodeOptions, Tokenizer};
use strata::{GgmlType, Isa};

/// A target by its name, which is also that of its corpus. It returns whether the bytes are accepted.
pub type FuzzTarget = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: [FuzzTarget; 16] = [
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("pytorch", pytorch),
    ("config", config),
    ("tokenizer_json", tokenizer_json),
    ("tokenizer_model", tokenizer_model),
    ("imatrix", imatrix),
    ("journal", journal),
    ("tokenizer", tokenizer),
    ("quantize", quantize),
    ("template", template),
    ("gbnf", gbnf),
    ("base_file", base_file),
    ("hellaswag", hellaswag),
    ("winogrande", winogrande),
    ("multiple_choice", multiple_choice),
];

/// A GGUF file, and the tokenizer in its metadata.
pub fn gguf(data: &[u8]) -> bool {
    let Ok(gguf) = Gguf::from_bytes(data) else { return false };
    walk::walk(&gguf);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        let ids = tokenizer.encode("fn main() {}\n é", EncodeOptions { add_special: true, parse_special: true });
        let _ = ids.map(|ids| tokenizer.decode(&ids).expect("encoded tokens exist"));
    }
    true
}

/// The weights of a checkpoint.
pub fn safetensors(data: &[u8]) -> bool {
    Folder::new().with("checkpoint/model.safetensors", data).convert_if_accepted()
}

/// The weights of a checkpoint as torch.save writes them.
pub fn pytorch(data: &[u8]) -> bool {
    Folder::new()
        .without("checkpoint/model.safetensors")
        .with("checkpoint/pytorch_model.bin", data)
        .convert_if_accepted()
}

/// The `config.json` of a checkpoint.
pub fn config(data: &[u8]) -> bool {
    Folder::new().with("checkpoint/config.json", data).convert_if_accepted()
}

/// The `tokenizer.json` of a checkpoint.
pub fn tokenizer_json(data: &[u8]) -> bool {
    Folder::new().with("checkpoint/tokenizer.json", data).convert_if_accepted()
}

/// The `tokenizer.model` of a checkpoint.
pub fn tokenizer_model(data: &[u8]) -> bool {
    Folder::new().without("checkpoint/tokenizer.json").with("checkpoint/tokenizer.model", data).convert_if_accepted()
}

impl Folder {
    /// Converts the checkpoint if a plan accepts it: then the model's tokenizer must be readable.
    fn convert_if_accepted(&self) -> bool {
        let Ok(input) = Input::open(self.path().join("checkpoint")) else { return false };
        let target = Target::new(self.path().join("m.gguf"), common::pure(GgmlType::Q8_0));
        let options = options();
        if plan(&input, &target, &options).is_err() || convert(&input, &[target], &options, &Quiet).is_err() {
            return false;
        }
        let gguf = Gguf::open(self.path().join("m.gguf")).expect("what was written can be read");
        walk::walk(&gguf);
        Tokenizer::from_gguf(&gguf).expect("what was written can be read");
        true
    }
}

/// One thread and little memory: a fuzzer converts thousands of times.
fn options() -> Options {
    Options { threads: Some(1), memory: Some(1 << 20), ..Options::default() }
}

/// An importance matrix of either kind.
pub fn imatrix(data: &[u8]) -> bool {
    let Ok(matrix) = Imatrix::parse(Path::new("m.imatrix"), data.to_vec()) else { return false };
    matrix.notes();
    for (name, entry) in &matrix.entries {
        let weights = matrix.weights(name).expect("the entry is there");
        assert_eq!(weights.len(), entry.in_sum2.len());
        assert!(weights.iter().all(|w| w.is_finite() && *w >= 0.0), "{name}");
    }
    let _ = matrix.clone().merge(matrix);
    true
}

/// A conversion that was stopped: the journal's lines, what is in the `.partial`, and the file that an undisturbed run makes.
struct Stopped {
    folder: Folder,
    journal: Vec<Vec<u8>>,
    partial: Vec<u8>,
    whole: Vec<u8>,
}

/// Stops a conversion after so many bytes of the source.
struct StopsAfter(std::sync::atomic::AtomicI64);

impl Progress for StopsAfter {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, bytes: u64) {
        self.0.fetch_sub(bytes as i64, std::sync::atomic::Ordering::Relaxed);
    }
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed) < 0
    }
}

static STOPPED: LazyLock<Stopped> = LazyLock::new(|| {
    let folder = Folder::new();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    // Without a vocabulary: its regular expressions would take most of the time.
    let preset = Preset::llama_3("fuzz", 1, (64, 64), (1, 1), true);
    let source = Synthetic { preset: preset.with_vocab(24), recipe: common::pure(GgmlType::F16), seed: 1 };
    source.write(&folder.path().join("source.gguf"), &Quiet).unwrap();
    folder.quantize(false, &Quiet).unwrap();
    let whole = read("m.gguf");
    fs::remove_file(folder.path().join("m.gguf")).unwrap();
    let stopped = folder.quantize(false, &StopsAfter(20_000.into()));
    assert!(matches!(stopped, Err(strata::Error::Cancelled)), "{stopped:?}");
    let journal = read("m.gguf.partial.journal");
    let journal: Vec<_> = journal.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
    assert!(journal.len() > 3, "some tensors are finished");
    let partial = read("m.gguf.partial");
    Stopped { folder, journal, partial, whole }
});

impl Folder {
    /// Makes `m.gguf` of `source.gguf`, from the start or from where an earlier run has stopped.
    fn quantize(&self, restart: bool, progress: &dyn Progress) -> strata::Result<()> {
        let target = Target::new(self.path().join("m.gguf"), common::pure(GgmlType::Q8_0));
        let input = Input::open(self.path().join("source.gguf"))?;
        convert(&input, &[target], &Options { restart, ..options() }, progress).map(drop)
    }
}

/// The journal of a stopped conversion. If the first byte is 0, the rest is the journal. Otherwise each four bytes are an edit of the
/// true one: what, in which line, where, which byte; a line that was edited gets a right check again if the first byte is even.
pub fn journal(data: &[u8]) -> bool {
    let Some((&mode, data)) = data.split_first() else { return false };
    let Stopped { folder, journal, partial, whole } = &*STOPPED;
    let (mut lines, mut partial) = (journal.clone(), partial.clone());
    for &edit in data.as_chunks().0 {
        change(&mut lines, &mut partial, edit);
    }
    if mode.is_multiple_of(2) {
        check_again(&mut lines);
    }
    folder.write("m.gguf.partial.journal", &if mode == 0 { data.to_vec() } else { lines.concat() });
    folder.write("m.gguf.partial", &partial);
    // A journal that is refused leaves everything as it is, and can be discarded.
    let accepted = folder.quantize(false, &Quiet).is_ok();
    if !accepted {
        folder.quantize(true, &Quiet).expect("--restart discards it");
    }
    assert!(fs::read(folder.path().join("m.gguf")).unwrap() == *whole, "another file than an undisturbed run makes");
    fs::remove_file(folder.path().join("m.gguf")).unwrap();
    accepted
}

/// One edit: what, in which line, where, which byte. A line keeps its end.
fn change(lines: &mut Vec<Vec<u8>>, partial: &mut [u8], [what, line, place, byte]: [u8; 4]) {
    let (count, line) = (lines.len(), usize::from(line) % lines.len());
    let text = &mut lines[line];
    let at = usize::from(place) * (text.len() - 1) / 256;
    match what % 6 {
        0 if at + 1 < text.len() => text[at] = byte,
        1 if at + 1 < text.len() => drop(text.remove(at)),
        2 => text.insert(at, byte),
        3 => lines.insert(line, lines[usize::from(byte) % count].clone()),
        4 if count > 1 => drop(lines.remove(line)),
        _ => {
            let at = (usize::from(place) << 8 | usize::from(byte)) % partial.len();
            partial[at] ^= 1;
        }
    }
}

/// Ends every line with the check of itself and those before.
fn check_again(lines: &mut [Vec<u8>]) {
    const CHECK: &[u8] = b",\"check\":\"";
    let mut before = String::new();
    for line in lines {
        let end = line.windows(CHECK.len()).rposition(|part| part == CHECK).unwrap_or(line.len());
        line.truncate(end);
        let text = [before.as_bytes(), line, b"}"].concat();
        before = Digest::of(&text).to_string()[..Digest::LEN / 2].to_owned();
        line.extend([CHECK, before.as_bytes(), b"\"}\n"].concat());
    }
}

static TOKENIZERS: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| {
    let (_dir, tiny) = common::model_file(common::pure(GgmlType::Q8_0));
    let tiny = Tokenizer::from_gguf(&Gguf::open(tiny).unwrap()).unwrap();
    [tiny, common::sentencepiece()]
});

/// Text, after a byte that chooses the tokenizer and the options. The text must come back.
pub fn tokenizer(data: &[u8]) -> bool {
    let Some((&mode, data)) = data.split_first() else { return false };
    let tokenizer = &TOKENIZERS[usize::from(mode % 2)];
    let options = EncodeOptions { add_special: mode & 2 != 0, parse_special: mode & 4 != 0 };
    let text = String::from_utf8_lossy(data);
    let ids = tokenizer.encode(&text, options).unwrap();
    let back = tokenizer.decode(&ids).unwrap();
    if options == EncodeOptions::default() && !text.contains('\u{2581}') {
        assert_eq!(back, text);
    }
    let any: Vec<u32> = data.iter().map(|&byte| u32::from(byte) << (mode >> 4)).collect();
    let _ = tokenizer.decode_with(&any, mode & 8 != 0);
    true
}

/// Rows of floats, after a byte that chooses the format and one for the importance: the same bytes from every instruction set. And the
/// same bytes as blocks.
pub fn quantize(data: &[u8]) -> bool {
    let [ty, weighted, data @ ..] = data else { return false };
    let formats: Vec<_> = GgmlType::with_format().collect();
    let format = formats[usize::from(*ty) % formats.len()];
    let number = |bytes: &[u8; 4]| Some(f32::from_le_bytes(*bytes)).filter(|v| v.is_finite()).unwrap_or(0.0);
    let mut values: Vec<f32> = data.as_chunks().0.iter().take(1024).map(number).collect();
    values.resize(values.len().next_multiple_of(format.ty.block_len()).max(256), 0.5);
    let importance: Vec<f32> = values.iter().rev().map(|v| v.abs()).collect();
    let importance = (weighted % 2 == 1).then_some(&importance[..]);
    let mut blocks = vec![0; format.ty.row_bytes(values.len()).unwrap()];
    (format.encode)(&values, importance, &mut blocks);
    for isa in Isa::available() {
        let mut again = vec![0xaa; blocks.len()];
        isa.encode(format.ty, &values, importance, &mut again);
        assert!(again == blocks, "{} {}", format.ty, isa.name());
    }
    (format.decode)(&blocks, &mut values);
    assert!(format.ty.block_len() == 1 || format.bad_block(&blocks).is_some() || values.iter().all(|v| v.is_finite()));
    let blocks = &data[..data.len() / format.ty.block_bytes() * format.ty.block_bytes()];
    let mut values = vec![0.0; blocks.len() / format.ty.block_bytes() * format.ty.block_len()];
    (format.decode)(blocks, &mut values);
    assert!(format.ty.block_len() == 1 || format.bad_block(blocks).is_some() || values.iter().all(|v| v.is_finite()));
    true
}

/// A grammar in GBNF, followed for some tokens, each one that it allows.
pub fn gbnf(data: &[u8]) -> bool {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let gguf = strata::convert::open_model(&common::checkpoint(), &Quiet).unwrap();
        Arc::new(Tokenizer::from_gguf(&gguf).unwrap())
    });
    let grammar = Grammar::gbnf(&String::from_utf8_lossy(data), &TOKENIZER);
    if let Err(error) = &grammar {
        assert!(!error.to_string().contains("panic"), "{error}");
    }
    let Ok(mut matcher) = grammar.and_then(|grammar| grammar.matcher()) else { return false };
    for step in 0..16usize {
        let Ok(mask) = matcher.mask() else { break };
        let allowed = mask.count();
        let Some(token) = mask.tokens().nth(step * 7919 % allowed.max(1)) else { break };
        let is_complete = matcher.may_end();
        assert!(is_complete || !TOKENIZER.is_eog(token), "an answer ends where it is not complete");
        if matcher.accept(token).is_err() || TOKENIZER.is_eog(token) {
            break;
        }
    }
    true
}

/// A chat template, rendered with a conversation, tools and documents. With marks the text is the same.
pub fn template(data: &[u8]) -> bool {
    let source = String::from_utf8_lossy(data);
    let template = ChatTemplate::new(Path::new("fuzz"), "template", &source);
    assert!(!matches!(template, Err(strata::Error::Internal(_))), "it panicked");
    let Ok(template) = template else { return false };
    let template = template.with_special("bos_token", "<s>").with_special("eos_token", "</s>");
    let json: serde_json::Value = serde_json::from_str(CONVERSATION).unwrap();
    let list = |key: &str| json[key].as_array().map(Vec::as_slice);
    let messages = list("messages").unwrap();
    let input = ChatInput {
        tools: list("tools"),
        documents: list("documents"),
        add_generation_prompt: true,
        ..ChatInput::of(messages)
    };
    let rendered = template.render(&input);
    assert!(!matches!(rendered, Err(strata::Error::Internal(_))), "it panicked");
    let Ok(text) = rendered else { return false };
    if let Ok(marked) = template.render_marked(&input) {
        assert_eq!(marked.text, text);
        assert!(marked.answers.iter().all(|answer| text.get(answer.clone()).is_some()));
    }
    true
}

/// llama.cpp's base file of a vocabulary of 7 tokens: a row that is accepted is one of probabilities.
pub fn base_file(data: &[u8]) -> bool {
    const VOCAB: usize = 7;
    let folder = Folder::empty().with("base", data);
    let Ok(base) = BaseFile::open(&folder.path().join("base"), VOCAB) else { return false };
    let (shape, tokens) = (base.shape(), base.tokens());
    let chunks = tokens.len() / shape.context;
    assert!(
        chunks > 0 && chunks + base.missing_chunks() == shape.chunks && tokens.iter().all(|t| (*t as usize) < VOCAB)
    );
    let text = base.text(None, Some(1)).expect("it has a chunk");
    assert_eq!((text.chunks.len(), text.scores()), (chunks, chunks * shape.scored()));
    let (mut bytes, mut log_p) = (Vec::new(), [0.0; VOCAB]);
    let mut probabilities = |row| {
        let read = base.read_rows(row..row + 1, &mut bytes, &mut log_p);
        assert!(read.is_err() || log_p.iter().all(|log_p| log_p.is_finite() && *log_p < 1.0), "{log_p:?}");
        read.is_ok()
    };
    let accepted = (0..text.scores()).filter(|row| probabilities(*row)).count();
    base.check().expect("nobody has changed it");
    accepted == text.scores()
}

/// HellaSwag's tasks.
pub fn hellaswag(data: &[u8]) -> bool {
    tasks(Kind::HellaSwag, data)
}

/// Winogrande's tasks.
pub fn winogrande(data: &[u8]) -> bool {
    tasks(Kind::Winogrande, data)
}

/// Multiple choices.
pub fn multiple_choice(data: &[u8]) -> bool {
    tasks(Kind::MultipleChoice, data)
}

/// The file of tasks, all of them and three, cut into tokens: every answer of a task that is accepted can be judged.
fn tasks(kind: Kind, data: &[u8]) -> bool {
    let folder = Folder::empty().with("tasks", data);
    let [byte_level, sentencepiece] = &*TOKENIZERS;
    [(byte_level, None), (sentencepiece, Some(3))].map(|(tokenizer, at_most)| {
        let Ok(text) = tasks::open(kind, &folder.path().join("tasks"), at_most, tokenizer, CONTEXT, &Quiet) else {
            return false;
        };
        let tasks = text.texts[0].tasks.as_ref().expect("they are tasks");
        assert_eq!(tasks.tasks.len(), at_most.unwrap_or(tasks.in_file).min(tasks.in_file));
        for chunk in &text.chunks {
            assert!(chunk.tokens.len() <= CONTEXT && chunk.scored.iter().all(|scored| scored.end < chunk.tokens.len()));
        }
        let answers = Answers::of(tasks, &text.chunks, &vec![1.0; text.scores()]).expect("every answer can be judged");
        assert_eq!(answers.right.len(), tasks.tasks.len());
        true
    }) == [true; 2]
}

/// Tokens of a task's longest sequence.
const CONTEXT: usize = 256;

const CONVERSATION: &str = r#"{
    "messages": [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi é"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.5, null]}}}]},
        {"role": "tool", "content": "{}"},
        {"role": "assistant", "content": "<think>a</think>b"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]}],
    "tools": [{"type": "function", "function": {
        "name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "array"}}}}}],
    "documents": [{"title": "t", "text": "u"}]}"#;
