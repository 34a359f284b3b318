//! Splitting and joining: what was split comes back byte for byte, each file keeps its limit and opens with all others,
//! and what fails leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};

use strata::convert::{self, Input, Target, convert};
use strata::gguf::{Gguf, Layout, Value};
use strata::progress::{Progress, Quiet};
use strata::recipe::Recipe;
use strata::split::{Options, SplitLimit, merge, plan, split};
use strata::{Error, GgmlType};
use tempfile::TempDir;

/// tiny-rustdoc as Q8_0: 57 tensors.
fn model() -> (TempDir, PathBuf) {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-rustdoc");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let target = Target::new(&path, Recipe::pure(GgmlType::Q8_0).unwrap());
    convert(&Input::open(&checkpoint).unwrap(), &[target], &convert::Options::default(), &Quiet).unwrap();
    (dir, path)
}

fn options(limit: SplitLimit, first_without_tensors: bool) -> Options {
    Options { limit, first_without_tensors }
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
