//! Splitting and joining: what was split comes back byte for byte, each file keeps its limit or its share of every layer
//! and opens with all others, and what fails leaves nothing behind.

mod common;

use common::{model_file, pure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use strata::gguf::keys::TENSOR_HASHES;
use strata::gguf::shards::SplitLimit;
use strata::gguf::{Gguf, Layout, Value};
use strata::progress::{Progress, Quiet};
use strata::recipe::{Mix, Recipe};
use strata::split::{Placement, Shard, SplitOptions, merge, plan, split};
use strata::{Error, GgmlType, verify};
use tempfile::TempDir;

/// tiny-rustdoc as Q8_0: 57 tensors.
fn model() -> (TempDir, PathBuf) {
    model_file(pure(GgmlType::Q8_0))
}

fn options(limit: SplitLimit, first_without_tensors: bool) -> SplitOptions {
    SplitOptions { placement: Placement::Linear(limit), first_without_tensors }
}

fn striped(files: usize) -> SplitOptions {
    SplitOptions { placement: Placement::Striped(files), first_without_tensors: false }
}

fn files(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

/// One file, even if it says that it is a part.
fn alone(path: &Path) -> Gguf {
    Gguf::from_bytes(fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_was_split_comes_back_byte_for_byte() {
    let (dir, path) = model();
    let gguf = Gguf::open(&path).unwrap();
    let total = gguf.tensors().len();
    let cases = [
        (SplitLimit::Tensors(128), false, 1),
        (SplitLimit::Tensors(10), false, total.div_ceil(10)),
        (SplitLimit::Tensors(1), true, total + 1),
        (SplitLimit::Bytes(1_000_000), false, 0),
        (SplitLimit::Bytes(1), true, total + 1),
    ];
    for (i, (limit, first, count)) in cases.into_iter().enumerate() {
        let folder = dir.path().join(i.to_string());
        fs::create_dir(&folder).unwrap();
        let prefix = folder.join("part");
        let shards = split(&gguf, &prefix, &options(limit, first), &Quiet).unwrap();
        assert!(count == 0 || shards.len() == count, "{limit:?}: {} files", shards.len());
        assert_eq!(shards, plan(&gguf, &prefix, &options(limit, first)).unwrap());
        assert_eq!(files(&folder).len(), shards.len());
        for (no, shard) in shards.iter().enumerate() {
            let part = alone(&shard.path);
            assert_eq!(shard.path, folder.join(format!("part-{:05}-of-{:05}.gguf", no + 1, shards.len())));
            assert_eq!(part.tensors().len(), shard.tensors.len());
            assert!(shard.tensors.is_empty() == (first && no == 0));
            match limit {
                SplitLimit::Tensors(max) => assert!(shard.tensors.len() <= max),
                SplitLimit::Bytes(max) => assert!(shard.bytes <= max || shard.tensors.len() == 1),
            }
            let keys: Vec<_> = part.metadata().iter().map(|(key, value)| (key, value.to_owned())).collect();
            let last = &keys[keys.len() - 3..];
            let says = [
                ("split.no", Value::U16(no as u16)),
                ("split.tensors.count", Value::I32(total as i32)),
                ("split.count", Value::U16(shards.len() as u16)),
            ];
            assert_eq!(last, says);
            assert_eq!(keys.len() - 3, if no == 0 { gguf.metadata().len() } else { 0 });
        }
        let last = &shards[shards.len() - 1].path;
        let joined = Gguf::open(last).unwrap();
        for (a, b) in gguf.tensors().iter().zip(joined.tensors()) {
            assert_eq!((&a.name, a.ty, &a.dims), (&b.name, b.ty, &b.dims));
            assert!(gguf.data(a) == joined.data(b));
        }
        let whole = folder.join("whole.gguf");
        merge(&joined, &whole, &Quiet).unwrap();
        assert!(fs::read(&whole).unwrap() == fs::read(&path).unwrap(), "{limit:?}");

        // A split model can be split anew.
        let again = split(&joined, &folder.join("again"), &options(SplitLimit::Tensors(20), false), &Quiet).unwrap();
        merge(&Gguf::open(&again[0].path).unwrap(), &whole, &Quiet).unwrap();
        assert!(fs::read(&whole).unwrap() == fs::read(&path).unwrap(), "{limit:?}");
    }
}

/// Every tensor by name: its type, lengths and bytes.
fn contents(gguf: &Gguf) -> BTreeMap<&str, (GgmlType, &[u64], &[u8])> {
    let all: BTreeMap<_, _> =
        gguf.tensors().iter().map(|t| (t.name.as_str(), (t.ty, t.dims.as_slice(), gguf.data(t)))).collect();
    assert_eq!(all.len(), gguf.tensors().len());
    all
}

#[test]
fn striped_files_have_like_shares_of_every_two_layers() {
    let pure = Recipe::pure(GgmlType::Q8_0).unwrap();
    let mix = Recipe::new(Mix::from_name("q4_k_m").unwrap());
    // By how many matrices shares may differ: where all are alike by one, else by two.
    for (recipe, kinds) in [(pure, [("attn", 2), ("ffn", 1)]), (mix, [("attn", 2), ("ffn", 2)])] {
        let (dir, path) = model_file(recipe);
        let gguf = Gguf::open(&path).unwrap();
        let layers = gguf.required_u32("llama.block_count").unwrap();
        assert!(layers > 2);
        for (files, (kind, matrices)) in (2..=5).flat_map(|files| kinds.map(|kind| (files, kind))) {
            let shards = plan(&gguf, &dir.path().join("p"), &striped(files)).unwrap();
            assert_eq!(shards.len(), files);
            let of_kind = |layer: u32| {
                let start = format!("blk.{layer}.{kind}_");
                gguf.tensors().iter().enumerate().filter(move |(_, t)| t.name.starts_with(&start) && t.dims.len() > 1)
            };
            let largest = (0..layers).flat_map(of_kind).map(|(_, t)| t.bytes).max().unwrap();
            for layer in 0..layers - 1 {
                let share = |shard: &Shard| -> u64 {
                    let own = (layer..layer + 2).flat_map(of_kind).filter(|(i, _)| shard.tensors.contains(i));
                    own.map(|(_, t)| t.bytes).sum()
                };
                let shares: Vec<u64> = shards.iter().map(share).collect();
                let apart = shares.iter().max().unwrap() - shares.iter().min().unwrap();
                assert!(apart <= matrices * largest, "{kind} from layer {layer}: {shares:?}, a matrix is {largest}");
            }
        }
    }
}

#[test]
fn striped_files_are_one_model() {
    let (dir, path) = model();
    let gguf = Gguf::open(&path).unwrap();
    let total = gguf.tensors().len();
    let expected = contents(&gguf);
    for (files, first) in [(2, false), (2, true), (5, false)] {
        let folder = dir.path().join(format!("{files}{first}"));
        fs::create_dir(&folder).unwrap();
        let options = SplitOptions { first_without_tensors: first, ..striped(files) };
        let shards = split(&gguf, &folder.join("p"), &options, &Quiet).unwrap();
        assert_eq!(shards, plan(&gguf, &folder.join("p"), &options).unwrap());
        assert_eq!(shards.len(), files + usize::from(first));
        let mut seen = vec![0; total];
        for (no, shard) in shards.iter().enumerate() {
            let part = alone(&shard.path);
            let own = shard.tensors.iter().map(|&i| &gguf.tensors()[i].name);
            assert!(own.eq(part.tensors().iter().map(|t| &t.name)));
            assert!(contents(&part).iter().all(|(name, tensor)| expected[name] == *tensor));
            assert!(shard.tensors.is_sorted());
            assert_eq!(shard.tensors.is_empty(), first && no == 0);
            shard.tensors.iter().for_each(|&i| seen[i] += 1);
            assert_eq!(part.u32("split.no").unwrap(), Some(no as u32));
            assert_eq!(part.u32("split.count").unwrap(), Some(shards.len() as u32));
            assert_eq!(part.u32("split.tensors.count").unwrap(), Some(total as u32));
            assert_eq!(part.metadata().len(), 3 + if no == 0 { gguf.metadata().len() } else { 0 });
        }
        assert_eq!(seen, vec![1; total]);

        // As on several drives: links in one folder.
        #[cfg(unix)]
        let opened = {
            let links = folder.join("links");
            fs::create_dir(&links).unwrap();
            for shard in &shards {
                let link = links.join(shard.path.file_name().unwrap());
                std::os::unix::fs::symlink(&shard.path, link).unwrap();
            }
            links.join(shards[1].path.file_name().unwrap())
        };
        #[cfg(not(unix))]
        let opened = &shards[1].path;
        let joined = Gguf::open(opened).unwrap();
        assert!(contents(&joined) == expected);

        let whole = folder.join("whole.gguf");
        merge(&joined, &whole, &Quiet).unwrap();
        let merged = Gguf::open(&whole).unwrap();
        assert!(contents(&merged) == expected);
        // The recorded hashes follow their tensors; all else is as it was.
        for model in [&joined, &merged] {
            assert!(verify::model(model, None, &Quiet).unwrap().hashes);
        }
        let others = |gguf: &Gguf| -> Vec<(String, Value)> {
            let others = gguf.metadata().iter().filter(|(key, _)| *key != TENSOR_HASHES);
            others.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        assert_eq!(others(&merged), others(&gguf));
    }
}

#[test]
fn the_alignment_is_kept_in_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut layout = Layout::new();
    layout.set("general.architecture", "llama");
    layout.set("general.alignment", 4096u32);
    let names = ["a", "b", "c", "d"];
    names.iter().for_each(|name| layout.tensor(*name, &[3], GgmlType::F32));
    let mut writer = layout.create(&path).unwrap();
    for (i, name) in names.iter().enumerate() {
        writer.begin(name).unwrap();
        writer.write(&[i as u8; 12]).unwrap();
    }
    writer.finish().unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let shards = split(&gguf, &dir.path().join("p"), &options(SplitLimit::Bytes(8192), false), &Quiet).unwrap();
    assert_eq!(shards.len(), 2);
    for shard in &shards {
        let part = alone(&shard.path);
        assert_eq!(part.u32("general.alignment").unwrap(), Some(4096));
        assert!(part.tensors().iter().all(|t| t.offset.is_multiple_of(4096)));
    }
    let whole = dir.path().join("whole.gguf");
    merge(&Gguf::open(&shards[1].path).unwrap(), &whole, &Quiet).unwrap();
    assert!(fs::read(whole).unwrap() == fs::read(path).unwrap());
}

#[test]
fn what_cannot_be_done_is_refused() {
    let (dir, path) = model();
    let gguf = Gguf::open(&path).unwrap();
    let tens = options(SplitLimit::Tensors(10), false);
    let said = |result: strata::Result<()>| result.unwrap_err().to_string();

    assert!(said(merge(&gguf, &dir.path().join("out.gguf"), &Quiet)).contains("not a part of a split model"));
    for files in [0, 64, usize::MAX] {
        let refused = split(&gguf, &dir.path().join("p"), &striped(files), &Quiet).unwrap_err();
        assert!(
            matches!(refused, Error::FilesWithoutTensors { files: asked, used, .. } if asked == files && used < 64),
            "{refused}"
        );
    }
    assert!(said(split(&gguf, &dir.path().join("none/p"), &tens, &Quiet).map(drop)).contains("mkdir -p"));
    let memory = alone(&path);
    assert!(said(split(&memory, &dir.path().join("p"), &tens, &Quiet).map(drop)).contains("in memory"));
    assert_eq!(files(dir.path()), ["model.gguf"]);

    let shards = split(&gguf, &dir.path().join("p"), &tens, &Quiet).unwrap();
    let parts = Gguf::open(&shards[0].path).unwrap();
    let before = files(dir.path());
    assert!(said(merge(&parts, &shards[2].path, &Quiet)).contains("is the file that is read"));
    assert!(said(split(&parts, &dir.path().join("p"), &tens, &Quiet).map(drop)).contains("is the file that is read"));
    assert_eq!(files(dir.path()), before);

    fs::create_dir(dir.path().join("q-00003-of-00006.gguf")).unwrap();
    assert!(said(split(&gguf, &dir.path().join("q"), &tens, &Quiet).map(drop)).contains("is a folder"));
    assert!(said(merge(&parts, dir.path(), &Quiet)).contains("is a folder"));

    fs::remove_file(&shards[3].path).unwrap();
    assert!(Gguf::open(&shards[0].path).unwrap_err().to_string().contains("part 4 of 6 is missing"));
}

/// Stops in the midst.
struct Impatient;

impl Progress for Impatient {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {
        panic!("the work did not end well");
    }
    fn cancelled(&self) -> bool {
        STEPS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 30 == 29
    }
}

static STEPS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

#[test]
fn work_that_was_stopped_leaves_the_old_files() {
    let (dir, path) = model();
    let gguf = Gguf::open(&path).unwrap();
    let tens = options(SplitLimit::Tensors(10), false);
    let shards = split(&gguf, &dir.path().join("p"), &tens, &Quiet).unwrap();
    fs::write(&shards[0].path, "old").unwrap();
    let before = files(dir.path());
    assert!(matches!(split(&gguf, &dir.path().join("p"), &tens, &Impatient), Err(Error::Cancelled)));
    assert_eq!(files(dir.path()), before);
    assert_eq!(fs::read(&shards[0].path).unwrap(), b"old");

    split(&gguf, &dir.path().join("p"), &tens, &Quiet).unwrap();
    let parts = Gguf::open(&shards[0].path).unwrap();
    assert!(matches!(merge(&parts, &dir.path().join("whole.gguf"), &Impatient), Err(Error::Cancelled)));
    assert_eq!(files(dir.path()), before);
}

/// Changes the source once, when the first bytes are copied.
struct Changes<'a> {
    change: &'a (dyn Fn() + Sync),
    done: std::sync::atomic::AtomicBool,
}

impl Progress for Changes<'_> {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {
        if !self.done.swap(true, std::sync::atomic::Ordering::Relaxed) {
            (self.change)();
        }
    }
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        false
    }
}

#[cfg(unix)]
#[test]
fn a_source_that_changes_while_it_is_copied_is_an_error() {
    use std::os::unix::fs::FileExt;
    let (dir, path) = model();
    let tens = options(SplitLimit::Tensors(10), false);
    let original = fs::read(&path).unwrap();
    let write = |at: u64| {
        // File systems count time in steps of some milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[7; 64], at).unwrap();
    };
    let cut = |to: u64| fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(to).unwrap();
    let len = original.len() as u64;
    type Change<'a> = (&'a (dyn Fn() + Sync), &'a str);
    let changes: [Change<'_>; 4] = [
        (&|| cut(len / 2), "bytes when it was opened"),
        (&|| cut(0), "has 0 now"),
        (&|| write(len - 64), "written to"),
        (&|| write(200), "written to"),
    ];
    let progress = |change| Changes { change, done: false.into() };
    for (change, words) in changes {
        fs::write(&path, &original).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let error = split(&gguf, &dir.path().join("p"), &tens, &progress(change)).map(drop).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(files(dir.path()).len(), 1);
    }
    fs::write(&path, &original).unwrap();
    let shards = split(&Gguf::open(&path).unwrap(), &dir.path().join("q"), &tens, &Quiet).unwrap();
    let (parts, before) = (Gguf::open(&shards[0].path).unwrap(), files(dir.path()).len());
    let last = &shards.last().unwrap().path;
    let cut_last = || fs::OpenOptions::new().write(true).open(last).unwrap().set_len(100).unwrap();
    let error = merge(&parts, &dir.path().join("whole.gguf"), &progress(&cut_last)).unwrap_err().to_string();
    assert!(error.contains("00006-of-00006") && error.contains("bytes when it was opened"), "{error}");
    assert_eq!(files(dir.path()).len(), before);

    // Another file under its name does not matter: the one that was opened is read.
    fs::write(&path, &original).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let expected = split(&gguf, &dir.path().join("e"), &tens, &Quiet).unwrap();
    let replace = || {
        fs::write(dir.path().join("other"), "another").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
    };
    let shards = split(&gguf, &dir.path().join("r"), &tens, &progress(&replace)).unwrap();
    for (a, b) in expected.iter().zip(shards) {
        assert!(fs::read(&a.path).unwrap() == fs::read(b.path).unwrap());
    }
}
