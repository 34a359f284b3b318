//! GGUF files that break the rules: each must be refused with words that say what and where, and none may panic.

#[path = "fuzz/walk.rs"]
mod walk;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use strata::Error;
use strata::gguf::{Gguf, Layout};
use strata_quant::GgmlType;
use walk::walk;

/// A GGUF file under construction, with no rule enforced.
struct Bytes {
    out: Vec<u8>,
    wide: bool,
}

impl Bytes {
    fn header(version: u32, tensors: u64, pairs: u64) -> Bytes {
        let mut file = Bytes { out: b"GGUF".to_vec(), wide: version != 1 };
        file.u32(version).length(tensors).length(pairs);
        file
    }

    fn u32(&mut self, v: u32) -> &mut Bytes {
        self.raw(&v.to_le_bytes())
    }

    fn u64(&mut self, v: u64) -> &mut Bytes {
        self.raw(&v.to_le_bytes())
    }

    fn length(&mut self, v: u64) -> &mut Bytes {
        if self.wide { self.u64(v) } else { self.u32(v as u32) }
    }

    fn string(&mut self, text: impl AsRef<[u8]>) -> &mut Bytes {
        self.length(text.as_ref().len() as u64).raw(text.as_ref())
    }

    fn tensor(&mut self, name: &str, dims: &[u64], ty: u32, offset: u64) -> &mut Bytes {
        self.string(name).u32(dims.len() as u32);
        for &dim in dims {
            self.length(dim);
        }
        self.u32(ty).u64(offset)
    }

    /// Padding and `n` bytes of data.
    fn data(&mut self, n: usize) -> &mut Bytes {
        self.out.resize(self.out.len().next_multiple_of(32) + n, 7);
        self
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Bytes {
        self.out.extend(bytes);
        self
    }
}

const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const F32: u32 = 0;
const Q8_0: u32 = 8;

/// A file with one pair, the rest of which `fill` writes.
fn pair(key: &str, ty: u32, fill: impl FnOnce(&mut Bytes) -> &mut Bytes) -> Vec<u8> {
    let mut file = Bytes::header(3, 0, 1);
    fill(file.string(key).u32(ty));
    file.data(64).out.clone()
}

/// A file with these tensors and 256 bytes of data.
fn tensors(list: &[(&str, &[u64], u32, u64)]) -> Vec<u8> {
    let mut file = Bytes::header(3, list.len() as u64, 0);
    for &(name, dims, ty, offset) in list {
        file.tensor(name, dims, ty, offset);
    }
    file.data(256).out.clone()
}

fn said(bytes: Vec<u8>) -> String {
    Gguf::from_bytes(bytes).expect_err("must be refused").to_string()
}

#[test]
fn broken_files_are_refused_with_a_reason() {
    let header = |tensors, pairs| Bytes::header(3, tensors, pairs).data(64).out.clone();
    let alignment = |v: u32| {
        let mut file = Bytes::header(3, 1, 1);
        file.string("general.alignment").u32(U32).u32(v).tensor("a", &[4], F32, 0);
        file.data(256).out.clone()
    };
    let mut twice = Bytes::header(3, 0, 3);
    for key in ["a.key", "b.key", "a.key"] {
        twice.string(key).u32(U32).u32(1);
    }
    let mut swapped = b"GGUF".to_vec();
    swapped.extend(3u32.to_be_bytes());
    swapped.resize(64, 0);

    let table: &[(&str, Vec<u8>, &[&str])] = &[
        ("nothing", vec![], &["header", "ends in the middle"]),
        ("magic", b"once upon a time, and so on".to_vec(), &["header", "\"GGUF\"", ".gguf"]),
        (
            "magic of a zip",
            b"PK\x03\x04 and so on, like a zip".to_vec(),
            &["file", "zip archive", "a GGUF file", "unpack"],
        ),
        ("magic turned", b"FUGG\0\0\0\x03".to_vec(), &["big-endian"]),
        ("big-endian", swapped, &["big-endian"]),
        ("version 0", Bytes::header(0, 0, 0).out, &["version 0"]),
        ("version 4", Bytes::header(4, 0, 0).out, &["version 4", "version 1, 2 or 3"]),
        ("2^60 tensors", header(1 << 60, 0), &["1152921504606846976 tensors", "room"]),
        ("2^60 pairs", header(0, 1 << 60), &["1152921504606846976 key-value pairs", "room"]),
        (
            "key of 2^63",
            Bytes::header(3, 0, 1).u64(1 << 63).data(64).out.clone(),
            &["key 0", "9223372036854775808 bytes"],
        ),
        (
            "key of 2^64-1",
            Bytes::header(3, 0, 1).u64(u64::MAX).data(64).out.clone(),
            &["key 0", "18446744073709551615 bytes"],
        ),
        ("key not UTF-8", Bytes::header(3, 0, 1).string(b"ab\xff").data(64).out.clone(), &["key 0", "UTF-8", "byte 2"]),
        ("value of 2^63", pair("k", STRING, |f| f.u64(1 << 63)), &["key \"k\"", "9223372036854775808 bytes"]),
        ("value not UTF-8", pair("k", STRING, |f| f.string(b"\xc0")), &["key \"k\"", "UTF-8"]),
        ("value type 13", pair("k", 13, |f| f), &["key \"k\"", "value type 13"]),
        ("bool 2", pair("k", BOOL, |f| f.raw(&[2])), &["key \"k\"", "bool", "2"]),
        ("bool 2 in an array", pair("k", ARRAY, |f| f.u32(BOOL).u64(2).raw(&[1, 2])), &["key \"k\"", "bool", "2"]),
        ("nested array", pair("k", ARRAY, |f| f.u32(ARRAY).u64(1).u32(U32).u64(0)), &["key \"k\"", "array of arrays"]),
        ("element type 99", pair("k", ARRAY, |f| f.u32(99).u64(0)), &["key \"k\"", "value type 99"]),
        (
            "array of 2^63",
            pair("k", ARRAY, |f| f.u32(U32).u64(1 << 63)),
            &["key \"k\"", "9223372036854775808 elements"],
        ),
        ("strings 2^60", pair("k", ARRAY, |f| f.u32(STRING).u64(1 << 60)), &["key \"k\"", "elements", "room"]),
        ("key twice", twice.data(64).out.clone(), &["key \"a.key\"", "twice"]),
        ("alignment 0", alignment(0), &["key \"general.alignment\"", "is 0", "power of two"]),
        ("alignment 3", alignment(3), &["key \"general.alignment\"", "is 3", "power of two"]),
        ("alignment 4", alignment(4), &["key \"general.alignment\"", "is 4", "at least 8"]),
        ("alignment 2^31", alignment(1 << 31), &["tensor \"a\"", "past the end"]),
        ("alignment a bool", pair("general.alignment", BOOL, |f| f.raw(&[1])), &["must be a u32", "bool"]),
        (
            "name of 2^63",
            Bytes::header(3, 1, 0).u64(1 << 63).data(64).out.clone(),
            &["tensor 0", "9223372036854775808 bytes"],
        ),
        ("name not UTF-8", Bytes::header(3, 1, 0).string(b"\xff").data(64).out.clone(), &["tensor 0", "UTF-8"]),
        ("tensor type 4", tensors(&[("a", &[4], 4, 0)]), &["tensor \"a\"", "tensor type 4"]),
        ("tensor type 2^32-1", tensors(&[("a", &[4], u32::MAX, 0)]), &["tensor \"a\"", "tensor type 4294967295"]),
        ("tensor twice", tensors(&[("a", &[4], F32, 0), ("a", &[4], F32, 32)]), &["tensor \"a\"", "twice"]),
        ("no dims", tensors(&[("a", &[], F32, 0)]), &["tensor \"a\"", "0 dimensions"]),
        ("5 dims", tensors(&[("a", &[1; 5], F32, 0)]), &["tensor \"a\"", "5 dimensions"]),
        ("dim 0", tensors(&[("a", &[4, 0], F32, 0)]), &["tensor \"a\"", "dimension of 0"]),
        ("dims overflow", tensors(&[("a", &[1 << 32, 1 << 32], F32, 0)]), &["tensor \"a\"", "overflow"]),
        ("dims overflow to 0", tensors(&[("a", &[1 << 16; 4], F32, 0)]), &["tensor \"a\"", "overflow"]),
        ("bytes overflow", tensors(&[("a", &[1 << 63], F32, 0)]), &["tensor \"a\"", "overflow"]),
        ("33 columns", tensors(&[("a", &[33, 2], Q8_0, 0)]), &["tensor \"a\"", "row length 33", "Q8_0", "32"]),
        ("unaligned", tensors(&[("a", &[4], F32, 8)]), &["tensor \"a\"", "offset 8", "aligned to 32"]),
        ("overlap", tensors(&[("a", &[16], F32, 0), ("b", &[4], F32, 32)]), &["tensor \"b\"", "overlaps", "\"a\""]),
        ("overlap backwards", tensors(&[("a", &[4], F32, 32), ("b", &[16], F32, 0)]), &["overlaps"]),
        ("same place", tensors(&[("a", &[4], F32, 0), ("b", &[4], F32, 0)]), &["overlaps"]),
        ("out of bounds", tensors(&[("a", &[65], F32, 0)]), &["tensor \"a\"", "past the end"]),
        ("offset far out", tensors(&[("a", &[4], F32, 1 << 62)]), &["tensor \"a\"", "past the end"]),
        ("offset overflow", tensors(&[("a", &[4], F32, u64::MAX - 31)]), &["tensor \"a\"", "overflow"]),
    ];
    for (name, bytes, words) in table {
        let said = said(bytes.clone());
        for word in *words {
            assert!(said.contains(word), "{name}: {word:?} is not in: {said}");
        }
    }
}

#[test]
fn names_are_escaped_and_cut_in_errors() {
    let long = "\u{1b}[2J\n".repeat(1000);
    let said = said(tensors(&[(&long, &[4], 4, 0)]));
    assert!(said.len() < 800 && !said.contains('\n') && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn empty_files_and_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.gguf");
    fs::write(&empty, "").unwrap();
    assert!(Gguf::open(&empty).unwrap_err().to_string().contains("is empty"));
    assert!(Gguf::open(folder.path()).unwrap_err().to_string().contains("is a folder"));
    let missing = Gguf::open(folder.path().join("none.gguf"));
    assert!(matches!(missing, Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = valid(3);
    assert!(Gguf::from_bytes(whole.clone()).is_ok());
    assert!(whole.len() > 200);
    for i in 0..200 {
        // Both ends included: nothing, and all but the last byte.
        let cut = i * (whole.len() - 1) / 199;
        assert!(said(whole[..cut].to_vec()).contains("the file"), "cut at {cut}");
    }
    for cut in 0..whole.len() {
        said(whole[..cut].to_vec());
    }
}

/// A small file with a pair of every shape, whose last byte is data.
fn valid(version: u32) -> Vec<u8> {
    let mut file = Bytes::header(version, 3, 6);
    file.string("general.architecture").u32(STRING).string("llama");
    file.string("a.bool").u32(BOOL).raw(&[1]);
    file.string("a.number").u32(U32).u32(77);
    file.string("tokens").u32(ARRAY).u32(STRING).length(3).string("<s>").string("").string("é");
    file.string("scores").u32(ARRAY).u32(6).length(2).raw(&1.5f32.to_le_bytes()).raw(&(-2f32).to_le_bytes());
    file.string("none").u32(ARRAY).u32(STRING).length(0);
    file.tensor("token_embd.weight", &[32, 3], Q8_0, 0);
    file.tensor("output_norm.weight", &[4], F32, 160);
    file.tensor("one", &[1, 1, 1, 1], F32, 128);
    file.data(176).out.clone()
}

#[test]
fn all_versions_are_read_alike() {
    for version in 1..=3 {
        let gguf = Gguf::from_bytes(valid(version)).unwrap();
        assert_eq!(gguf.version(), version);
        assert_eq!(gguf.required_str("general.architecture").unwrap(), "llama");
        assert!(gguf.bool("a.bool").unwrap().unwrap());
        assert_eq!(gguf.required_u32("a.number").unwrap(), 77);
        let tokens = gguf.array("tokens").unwrap().unwrap();
        assert_eq!(tokens.strings().unwrap().collect::<Vec<_>>(), ["<s>", "", "é"]);
        assert_eq!(gguf.array("scores").unwrap().unwrap().to_f32s().unwrap(), [1.5, -2.0]);
        assert!(gguf.array("none").unwrap().unwrap().is_empty());
        assert!(
            gguf.required_f32("a.number").unwrap_err().to_string().contains("\"a.number\": must be a float, is 77")
        );
        assert!(gguf.required_f32("no").unwrap_err().to_string().contains("key \"no\": is missing"));
        assert_eq!(gguf.u32("no").unwrap(), None);

        let names: Vec<_> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["token_embd.weight", "output_norm.weight", "one"]);
        let embd = gguf.required_tensor("token_embd.weight").unwrap();
        assert_eq!((embd.ty, embd.cols(), embd.rows(), embd.bytes), (GgmlType::Q8_0, 32, 3, 102));
        assert_eq!(gguf.data(embd), [7; 102]);
        assert_eq!(gguf.data(gguf.tensor("one").unwrap()).len(), 4);
        assert!(gguf.required_tensor("two").unwrap_err().to_string().contains("tensor \"two\""));
        assert_eq!(gguf.file_bytes(), valid(version).len() as u64);
    }
}

/// Writes part `no` of `count` to `path`, saying that there are `total` tensors.
fn part(path: &Path, no: u16, count: u16, total: i32, names: &[&str]) {
    let mut layout = Layout::new();
    layout.set("split.no", no);
    layout.set("split.count", count);
    layout.set("split.tensors.count", total);
    if no == 0 {
        layout.set("general.name", "whole");
    }
    for name in names {
        layout.tensor(*name, &[8], GgmlType::F32);
    }
    let mut writer = layout.create(path).unwrap();
    for name in names {
        writer.begin(name).unwrap();
        writer.write(&[name.as_bytes()[0]; 32]).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn any_part_opens_the_whole_split_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = |no: u32| folder.path().join(format!("m-{no:05}-of-00003.gguf"));
    let refused = || Gguf::open(path(2)).unwrap_err().to_string();
    part(&path(1), 0, 3, 4, &["a", "b"]);
    part(&path(2), 1, 3, 4, &["c"]);
    let said = refused();
    assert!(said.contains("part 3 of 3 is missing") && said.contains("m-00003-of-00003.gguf"), "{said}");

    part(&path(3), 2, 3, 4, &["d"]);
    for no in 1..=3 {
        let gguf = Gguf::open(path(no)).unwrap();
        assert_eq!(gguf.path(), path(no));
        assert_eq!(gguf.required_str("general.name").unwrap(), "whole");
        let found: Vec<_> = gguf.tensors().iter().map(|t| (t.name.as_str(), t.part, gguf.data(t)[31])).collect();
        assert_eq!(found, [("a", 0, b'a'), ("b", 0, b'b'), ("c", 1, b'c'), ("d", 2, b'd')]);
        assert_eq!(gguf.data(gguf.tensor("d").unwrap()), [b'd'; 32]);
        assert_eq!(gguf.file_bytes(), (1..=3).map(|no| fs::metadata(path(no)).unwrap().len()).sum::<u64>());
    }

    part(&path(3), 2, 3, 4, &["a"]);
    assert!(refused().contains("tensor \"a\": is also in an earlier part"), "{}", refused());
    part(&path(3), 2, 3, 4, &["d", "e"]);
    assert!(refused().contains("split.tensors.count\": is 4, but the parts have 5"), "{}", refused());
    part(&path(3), 1, 3, 4, &["d"]);
    assert!(refused().contains("is not part 3 of 3"), "{}", refused());
    part(&path(2), 7, 3, 4, &["c"]);
    assert!(refused().contains("split.no\": is 7, but split.count is 3"), "{}", refused());
    let renamed = folder.path().join("renamed.gguf");
    fs::rename(path(1), &renamed).unwrap();
    let said = Gguf::open(&renamed).unwrap_err().to_string();
    assert!(said.contains("-00001-of-00003.gguf"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_panics(
        version in 1u32..=3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        words in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0u32..64), 0..3),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = valid(version);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for (at, word, shift) in words {
            let at = at.index(bytes.len() - 8);
            bytes[at..][..8].copy_from_slice(&(word >> shift).to_le_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(gguf) = Gguf::from_bytes(bytes) {
            walk(&gguf);
        }
    }
}

/// What is wrong with a file that was right: a number picks the pair, the tensor or the byte.
#[derive(Clone, Debug)]
enum Fault {
    Counts(u64, u64),
    SameKey(usize),
    ValueType(usize, u32),
    ElementType(usize, u32),
    Length(usize, u64),
    Text(usize, Vec<u8>),
    SameName(usize),
    TensorType(usize, u32),
    Dims(usize, Vec<u64>),
    Offset(usize, u64),
    Byte(usize, u8),
    Cut(usize),
}

/// Numbers near the bounds that parsers forget.
fn number() -> impl Strategy<Value = u64> {
    let shifted = (any::<u64>(), 0u32..64).prop_map(|(number, shift)| number >> shift);
    prop_oneof![3 => shifted, 1 => (0u64..64).prop_map(|n| n.wrapping_neg()), 1 => (0u32..64).prop_map(|n| 1 << n)]
}

fn fault() -> impl Strategy<Value = Fault> {
    let at = any::<u16>().prop_map(usize::from);
    prop_oneof![
        (number(), number()).prop_map(|(tensors, pairs)| Fault::Counts(tensors, pairs)),
        at.clone().prop_map(Fault::SameKey),
        (at.clone(), 0u32..16).prop_map(|(i, ty)| Fault::ValueType(i, ty)),
        (at.clone(), 0u32..16).prop_map(|(i, ty)| Fault::ElementType(i, ty)),
        (at.clone(), number()).prop_map(|(i, length)| Fault::Length(i, length)),
        (at.clone(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(i, text)| Fault::Text(i, text)),
        at.clone().prop_map(Fault::SameName),
        (at.clone(), 0u32..50).prop_map(|(i, ty)| Fault::TensorType(i, ty)),
        (at.clone(), prop::collection::vec(number(), 0..6)).prop_map(|(i, dims)| Fault::Dims(i, dims)),
        (at.clone(), number()).prop_map(|(i, offset)| Fault::Offset(i, offset)),
        (at.clone(), any::<u8>()).prop_map(|(i, byte)| Fault::Byte(i, byte)),
        at.prop_map(Fault::Cut),
    ]
}

/// A pair: key, type, for arrays the type and the number of the elements, and the elements, which are texts or plain numbers.
#[derive(Clone, Debug)]
struct Pair {
    key: Vec<u8>,
    ty: u32,
    array: Option<(u32, u64)>,
    elements: Vec<Vec<u8>>,
}

/// Bytes of a value of each type; texts and arrays have none of their own.
const VALUE_BYTES: [usize; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

fn any_pair() -> impl Strategy<Value = Pair> {
    let scalar = prop::sample::select(vec![0, 1, 2, 3, 4, 5, 6, BOOL, STRING, 10, 11, 12]);
    let elements = prop::collection::vec(prop::collection::vec(any::<u8>(), 12), 0..6);
    ("[a-zé]{1,9}", scalar, any::<bool>(), elements).prop_map(|(key, ty, is_array, mut elements)| {
        elements.resize(if is_array { elements.len() } else { 1 }, vec![b'x'; 12]);
        for element in &mut elements {
            match ty {
                STRING => *element = String::from_utf8_lossy(element).into_owned().into_bytes(),
                BOOL => *element = vec![element[0] % 2],
                _ => element.truncate(VALUE_BYTES[ty as usize]),
            }
        }
        let array = is_array.then_some((ty, elements.len() as u64));
        Pair { key: key.into_bytes(), ty: if is_array { ARRAY } else { ty }, array, elements }
    })
}

/// A tensor of the table.
#[derive(Clone, Debug)]
struct Row {
    name: Vec<u8>,
    ty: u32,
    dims: Vec<u64>,
    offset: u64,
}

fn any_row() -> impl Strategy<Value = Row> {
    let dims = prop::collection::vec(1u64..4, 1..5);
    ("[a-zé]{1,9}", prop::sample::select(GgmlType::ALL), dims).prop_map(|(name, ty, mut dims)| {
        dims[0] *= ty.block_len() as u64;
        Row { name: name.into_bytes(), ty: ty.id(), dims, offset: 0 }
    })
}

/// A file that every rule allows.
#[derive(Clone, Debug)]
struct File {
    version: u32,
    alignment: Option<u32>,
    pairs: Vec<Pair>,
    rows: Vec<Row>,
    counts: Option<(u64, u64)>, // claimed instead of the true ones
}

fn any_file() -> impl Strategy<Value = File> {
    let alignment = prop::option::of(prop::sample::select(vec![8u32, 16, 64, 256]));
    let (pairs, rows) = (prop::collection::vec(any_pair(), 0..8), prop::collection::vec(any_row(), 0..8));
    (1u32..=3, alignment, pairs, rows).prop_map(|(version, alignment, mut pairs, mut rows)| {
        pairs.iter_mut().enumerate().for_each(|(i, pair)| pair.key.extend(i.to_string().bytes()));
        let mut end = 0;
        for (i, row) in rows.iter_mut().enumerate() {
            row.name.extend(i.to_string().bytes());
            row.offset = end;
            let ty = GgmlType::from_id(row.ty).unwrap();
            let bytes = row.dims.iter().product::<u64>() / ty.block_len() as u64 * ty.block_bytes() as u64;
            end = (end + bytes).next_multiple_of(alignment.unwrap_or(32).into());
        }
        File { version, alignment, pairs, rows, counts: None }
    })
}

impl File {
    /// Breaks the file before it is written; what cannot be broken stays.
    fn apply(&mut self, fault: &Fault) {
        let (pairs, rows) = (self.pairs.len().max(1), self.rows.len().max(1));
        let mut on_pair =
            |i: usize, change: &dyn Fn(&mut Pair)| self.pairs.get_mut(i % pairs).into_iter().for_each(change);
        let mut on_row = |i: usize, change: &dyn Fn(&mut Row)| self.rows.get_mut(i % rows).into_iter().for_each(change);
        match fault {
            Fault::Counts(tensors, pairs) => self.counts = Some((*tensors, *pairs)),
            Fault::SameKey(i) => on_pair(*i, &|pair| pair.key = b"same".to_vec()),
            Fault::ValueType(i, ty) => on_pair(*i, &|pair| pair.ty = *ty),
            Fault::ElementType(i, ty) => on_pair(*i, &|pair| pair.array = pair.array.map(|(_, len)| (*ty, len))),
            Fault::Length(i, len) => on_pair(*i, &|pair| pair.array = pair.array.map(|(ty, _)| (ty, *len))),
            Fault::Text(i, text) => on_pair(*i, &|pair| pair.elements.iter_mut().for_each(|e| e.clone_from(text))),
            Fault::SameName(i) => on_row(*i, &|row| row.name = b"same".to_vec()),
            Fault::TensorType(i, ty) => on_row(*i, &|row| row.ty = *ty),
            Fault::Dims(i, dims) => on_row(*i, &|row| row.dims.clone_from(dims)),
            Fault::Offset(i, offset) => on_row(*i, &|row| row.offset = *offset),
            Fault::Byte(..) | Fault::Cut(_) => {}
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let (pairs, rows) = (self.pairs.len() + usize::from(self.alignment.is_some()), self.rows.len());
        let (tensors, pairs) = self.counts.unwrap_or((rows as u64, pairs as u64));
        let mut file = Bytes::header(self.version, tensors, pairs);
        if let Some(alignment) = self.alignment {
            file.string("general.alignment").u32(U32).u32(alignment);
        }
        for pair in &self.pairs {
            file.string(&pair.key).u32(pair.ty);
            if let Some((ty, len)) = pair.array {
                file.u32(ty).length(len);
            }
            let is_text = pair.array.map_or(pair.ty, |(ty, _)| ty) == STRING;
            for element in &pair.elements {
                if is_text {
                    file.string(element)
                } else {
                    file.raw(element)
                };
            }
        }
        for row in &self.rows {
            file.string(&row.name).u32(row.dims.len() as u32);
            for &dim in &row.dims {
                file.length(dim);
            }
            file.u32(row.ty).u64(row.offset);
        }
        let data = file.out.len().next_multiple_of(256) + (64 << 10);
        file.out.resize(data, 7);
        file.out
    }
}

/// Files of the right structure, with a few faults or none: no panic, what has no fault is read whole, and the cases reach the end of the
/// parser instead of failing in the first lengths.
#[test]
fn no_structured_file_panics() {
    let config = ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() };
    let counts = std::cell::RefCell::new(std::collections::BTreeMap::<&str, u32>::new());
    let case = (any_file(), prop::collection::vec(fault(), 0..4));
    let result = TestRunner::new(config).run(&case, |(mut file, faults)| {
        faults.iter().for_each(|fault| file.apply(fault));
        let mut bytes = file.bytes();
        for fault in &faults {
            match *fault {
                // The header: what follows is data.
                Fault::Byte(i, byte) => bytes.get_mut(i % 512).into_iter().for_each(|at| *at = byte),
                Fault::Cut(i) => bytes.truncate(i),
                _ => {}
            }
        }
        let reached = match Gguf::from_bytes(bytes) {
            Ok(gguf) => {
                walk(&gguf);
                if faults.is_empty() {
                    assert_eq!(gguf.tensors().len(), file.rows.len());
                    assert!(file.pairs.iter().all(|p| gguf.metadata().get(str::from_utf8(&p.key).unwrap()).is_some()));
                }
                "accepted"
            }
            Err(error) if faults.is_empty() => panic!("a file without a fault is refused: {error}"),
            Err(error) => {
                let said = error.to_string();
                ["tensor \"", "tensor ", "key \"", "key "]
                    .into_iter()
                    .find(|place| said.contains(place))
                    .unwrap_or("header")
            }
        };
        *counts.borrow_mut().entry(reached).or_default() += 1;
        Ok(())
    });
    result.unwrap();
    let counts = counts.into_inner();
    println!("{counts:?}");
    let share =
        |places: &[&str]| places.iter().map(|place| counts.get(place).unwrap_or(&0)).sum::<u32>() as f64 / 20_000.0;
    assert!(share(&["accepted", "tensor \"", "tensor "]) > 0.6, "most cases get through the metadata: {counts:?}");
    assert!(share(&["tensor \""]) > 0.1, "tensors are refused, too: {counts:?}");
    assert!(share(&["key \""]) > 0.05, "and values: {counts:?}");
    assert!(share(&["header"]) < 0.2, "few cases end in the header: {counts:?}");
}
