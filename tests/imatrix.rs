//! Importance matrices: what llama-imatrix wrote is read and written again to the byte, what we measure is what it
//! measured, and damaged files are refused in one line.

mod common;

use common::{imatrix_path, model_file, open, pure};
use std::fs;

use strata::eval::calibrate::calibrate;
use strata::eval::compare::Text;
use strata::eval::compare::text::Cut;
use strata::gguf::{Layout, Value};
use strata::imatrix::{Entry, Imatrix, ImatrixFormat};
use strata::progress::Quiet;
use strata::tokenizer::{EncodeOptions, Tokenizer};
use strata::{GgmlType, Isa};

fn refused(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, bytes).unwrap();
    let error = Imatrix::open(&path).err().unwrap_or_else(|| panic!("{} bytes were accepted", bytes.len()));
    let said = error.to_string();
    assert!(!said.contains('\n') && said.contains("file"), "{said}");
    said
}

/// Two tensors, one of them of three experts, the second of which no token saw.
fn small() -> Imatrix {
    let entry = |in_sum2: &[f32], counts: &[u64]| Entry { in_sum2: in_sum2.to_vec(), counts: counts.to_vec() };
    Imatrix {
        entries: [
            ("blk.0.attn_q.weight".to_owned(), entry(&[3.0, 0.0, 1.5, 7.0], &[1024])),
            ("blk.0.ffn_up_exps.weight".to_owned(), entry(&[1.0, 2.0, 0.0, 0.0, 5.0, 6.0], &[1000, 0, 24])),
        ]
        .into(),
        datasets: vec!["a.txt".to_owned(), "b.txt".to_owned()],
        chunk_count: 2,
        chunk_size: Some(512),
    }
}

#[test]
fn what_llama_imatrix_wrote_is_written_again_to_the_byte() {
    let matrix = Imatrix::open(imatrix_path()).unwrap();
    assert_eq!((matrix.entries.len(), matrix.chunk_count, matrix.chunk_size), (42, 40, Some(512)));
    assert_eq!(matrix.datasets, ["text/valid.txt"]);
    assert!(matrix.entries.values().all(|entry| entry.counts == [40 * 512]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("again.gguf");
    matrix.write(&path, ImatrixFormat::Gguf).unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(imatrix_path()).unwrap());
}

#[test]
fn weights_are_the_means_of_each_matrix() {
    let matrix = small();
    assert_eq!(matrix.weights("blk.0.attn_q.weight").unwrap(), [3.0 / 1024.0, 0.0, 1.5 / 1024.0, 7.0 / 1024.0]);
    let experts = matrix.weights("blk.0.ffn_up_exps.weight").unwrap();
    assert_eq!(experts, [1.0 / 1000.0, 2.0 / 1000.0, 1.0, 1.0, 5.0 / 24.0, 6.0 / 24.0]);
    assert_eq!(matrix.weights("output.weight"), None);
}

#[test]
fn both_formats_give_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let (dat, gguf) = (dir.path().join("a.dat"), dir.path().join("a.gguf"));
    for matrix in [Imatrix::open(imatrix_path()).unwrap(), small()] {
        matrix.write(&dat, ImatrixFormat::Dat).unwrap();
        let legacy = Imatrix::open(&dat).unwrap();
        assert_eq!((legacy.chunk_size, legacy.chunk_count), (None, matrix.chunk_count));
        assert_eq!(legacy.datasets.last(), matrix.datasets.last());
        legacy.write(&gguf, ImatrixFormat::Gguf).unwrap();
        let again = Imatrix::open(&gguf).unwrap();
        assert_eq!((again.chunk_size, again.chunk_count), (Some(512), matrix.chunk_count));
        assert!(again.entries.keys().eq(matrix.entries.keys()));
        for name in matrix.entries.keys() {
            let [a, b, c] = [&matrix, &legacy, &again].map(|matrix| matrix.weights(name).unwrap());
            for ((a, b), c) in a.iter().zip(b).zip(c) {
                // The detour by way of the number of chunks rounds twice.
                assert!((a - b).abs() <= 2.0 * f32::EPSILON * a, "{name}: {a} became {b}");
                assert_eq!(b, c, "{name}: chunks of 512 scale exactly");
            }
        }
    }
}

#[test]
fn filters_go_by_parts_of_names() {
    let parts = |parts: &[&str]| parts.iter().map(|part| part.to_string()).collect::<Vec<_>>();
    let mut matrix = Imatrix::open(imatrix_path()).unwrap();
    matrix.include(&parts(&["attn_q", "ffn_down"]));
    assert_eq!(matrix.entries.len(), 12);
    matrix.exclude(&parts(&["blk.0.", "down"]));
    assert_eq!(matrix.entries.len(), 5);
    assert!(matrix.entries.keys().all(|name| name.ends_with("attn_q.weight")));
}

#[test]
fn merging_adds_up() {
    let mut matrix = small();
    matrix.merge(small()).unwrap();
    assert_eq!(matrix.weights("blk.0.attn_q.weight"), small().weights("blk.0.attn_q.weight"));
    assert_eq!((matrix.chunk_count, matrix.datasets.len()), (4, 4));
    assert_eq!(matrix.entries["blk.0.attn_q.weight"].counts, [2048]);

    let mut from_nothing = Imatrix::default();
    from_nothing.merge(small()).unwrap();
    assert_eq!(from_nothing, small());

    let mut huge = small();
    huge.entries.get_mut("blk.0.attn_q.weight").unwrap().in_sum2[3] = 2e38;
    let mut sum = huge.clone();
    assert!(
        sum.merge(huge.clone()).unwrap_err().to_string().contains("column 3 of \"blk.0.attn_q.weight\" is too large")
    );
    // Means of chunks become sums of tokens.
    let in_chunks = Imatrix { chunk_size: None, ..huge };
    assert!(small().merge(in_chunks).unwrap_err().to_string().contains("is too large"));

    let mut other = small();
    other.entries.get_mut("blk.0.attn_q.weight").unwrap().in_sum2.push(1.0);
    assert!(matrix.merge(other).unwrap_err().to_string().contains("different models"));
}

#[test]
fn a_cut_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    small().write(&path, ImatrixFormat::Dat).unwrap();
    let bytes = fs::read(&path).unwrap();
    let end = bytes.len() - 4 - 4 - "b.txt".len();
    for cut in 0..bytes.len() {
        // Old files end without a dataset, older ones without the number of chunks.
        if cut == end || cut == end + 4 {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(Imatrix::open(&path).unwrap().datasets.len(), 0);
        } else {
            refused(&bytes[..cut]);
        }
    }
    small().write(&path, ImatrixFormat::Gguf).unwrap();
    let bytes = fs::read(&path).unwrap();
    let used = bytes.len() - 32 + 3 * 4; // the rest is padding
    for cut in 0..used {
        refused(&bytes[..cut]);
    }
}

/// A `.dat` with one tensor `a`.
fn dat(entries: i32, length: i32, chunks: i32, values: i32, data: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    [entries, length].iter().for_each(|int| out.extend(int.to_le_bytes()));
    out.push(b'a');
    [chunks, values].iter().for_each(|int| out.extend(int.to_le_bytes()));
    data.iter().for_each(|value| out.extend(value.to_le_bytes()));
    out
}

#[test]
fn hostile_dat_files_are_refused() {
    let table: &[(Vec<u8>, &str)] = &[
        (dat(0, 1, 1, 1, &[1.0]), "0 entries"),
        (dat(-1, 1, 1, 1, &[1.0]), "-1 entries"),
        (dat(i32::MAX, 1, 1, 1, &[1.0]), "2147483647 entries where there is room for 1"),
        (dat(2, 1, 1, 5, &[1.0; 5]), "0 are left"),
        (dat(1, i32::MAX, 1, 1, &[1.0]), "2147483647 bytes"),
        (dat(1, -1, 1, 1, &[1.0]), "is negative"),
        (dat(1, 1, -1, 1, &[1.0]), "is negative"),
        (dat(1, 1, 1, 0, &[1.0]), "no values"),
        (dat(1, 1, 1, -4, &[1.0]), "is negative"),
        (dat(1, 1, 1, i32::MAX, &[1.0]), "8589934588 bytes"),
        (dat(1, 1, 1, 1, &[f32::NAN]), "NaN"),
        (dat(1, 1, 1, 2, &[1.0, f32::INFINITY]), "value 1 is inf"),
        (dat(1, 1, 1, 1, &[-1.0]), "value 0 is -1"),
        (b"A text that somebody took for a matrix.".to_vec(), "is not an importance matrix"),
    ];
    for (bytes, words) in table {
        let said = refused(bytes);
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }

    let one = dat(1, 1, 0, 2, &[1.0, 3.0]);
    let twice: Vec<u8> = [&2i32.to_le_bytes()[..], &one[4..], &one[4..]].concat();
    assert!(refused(&twice).contains("appears twice"));
    let long: Vec<u8> = [&one[..], &1i32.to_le_bytes(), &1i32.to_le_bytes(), b"xy"].concat();
    assert!(refused(&long).contains("1 bytes follow"));
    let mut binary = one.clone();
    binary[8] = 0xff;
    assert!(refused(&binary).contains("not UTF-8"));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.dat");
    fs::write(&path, one).unwrap();
    assert_eq!(Imatrix::open(&path).unwrap().weights("a").unwrap(), [1.0, 3.0]);
}

#[test]
fn hostile_gguf_files_are_refused() {
    type Tensors<'a> = &'a [(&'a str, &'a [f32])];
    let file = |change: &dyn Fn(&mut Layout), tensors: Tensors, ty: GgmlType| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let mut layout = Layout::new();
        layout.set("imatrix.datasets", Vec::<String>::new());
        layout.set("imatrix.chunk_count", 1u32);
        layout.set("imatrix.chunk_size", 512u32);
        change(&mut layout);
        tensors.iter().for_each(|(name, values)| layout.tensor(*name, &[values.len() as u64], ty));
        let mut writer = layout.create(&path).unwrap();
        for (name, values) in tensors {
            writer.begin(name).unwrap();
            match ty {
                GgmlType::F32 => writer.write(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()),
                _ => writer.write(&vec![0; values.len()]),
            }
            .unwrap();
        }
        writer.finish().unwrap();
        fs::read(path).unwrap()
    };
    let no_change = |_: &mut Layout| ();
    let refused_tensors = |tensors: Tensors| refused(&file(&no_change, tensors, GgmlType::F32));
    let table: &[(Tensors, &str)] = &[
        (&[], "none is named"),
        (&[("a", &[1.0])], "none is named"),
        (&[("a.in_sum2", &[1.0])], "no counts"),
        (&[("a.in_sum2", &[1.0]), ("a.counts", &[1.0, 2.0])], "1 values do not belong to 2 counts"),
        (&[("a.in_sum2", &[1.0, f32::NAN]), ("a.counts", &[1.0])], "value 1 is NaN"),
        (&[("a.in_sum2", &[-2.0]), ("a.counts", &[1.0])], "value 0 is -2"),
        (&[("a.in_sum2", &[1.0]), ("a.counts", &[f32::NAN])], "NaN is not a count"),
        (&[("a.in_sum2", &[1.0]), ("a.counts", &[-1.0])], "-1 is not a count"),
        (&[("a.in_sum2", &[1.0]), ("a.counts", &[1e30])], "not a count"),
        (&[("a.in_sum2", &[1.0]), ("a.counts", &[f32::INFINITY])], "inf is not a count"),
        (&[("a.in_sum2", &[1.0]), ("a.counts", &[0.5])], "0.5 is not a count"),
        (&[("a.in_sum2", &[1.0, 2.0]), ("a.counts", &[1.0, 2.0])], "2 values do not belong to 2 counts"),
    ];
    for (tensors, words) in table {
        let said = refused_tensors(tensors);
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    let good: Tensors = &[("a.in_sum2", &[1.0]), ("a.counts", &[1.0])];
    assert!(refused(&file(&no_change, good, GgmlType::I8)).contains("must be F32"));
    let without = |key: &'static str| move |layout: &mut Layout| layout.metadata.retain(|(known, _)| known != key);
    for key in ["imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"] {
        assert!(refused(&file(&without(key), good, GgmlType::F32)).contains("is missing"));
    }
    let set = |key: &'static str, value: Value| move |layout: &mut Layout| layout.set(key, value.clone());
    assert!(refused(&file(&set("imatrix.chunk_size", 0u32.into()), good, GgmlType::F32)).contains("is 0"));
    assert!(refused(&file(&set("imatrix.datasets", vec![1u8].into()), good, GgmlType::F32)).contains("no strings"));
    assert!(refused(&file(&set("imatrix.datasets", 1u8.into()), good, GgmlType::F32)).contains("must be an array"));
}

#[test]
fn a_matrix_that_nobody_can_use_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let refused =
        |matrix: Imatrix| matrix.write(dir.path().join("a.gguf"), ImatrixFormat::Gguf).unwrap_err().to_string();
    assert!(refused(Imatrix::default()).contains("no entries"));
    let mut infinite = small();
    infinite.entries.get_mut("blk.0.attn_q.weight").unwrap().in_sum2[2] = f32::INFINITY;
    assert!(refused(infinite).contains("blk.0.attn_q.weight: the sum of squares of column 2 is inf"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// `|a - b| / max(a, b)` of all means of two matrices, sorted.
fn differences(a: &Imatrix, b: &Imatrix) -> Vec<f32> {
    let of = |name: &String| {
        let [a, b] = [a, b].map(|matrix| matrix.weights(name).unwrap());
        assert_eq!(a.len(), b.len(), "{name}");
        a.into_iter().zip(b).map(|(a, b)| (a - b).abs() / a.max(b).max(f32::MIN_POSITIVE)).collect::<Vec<_>>()
    };
    let mut all: Vec<f32> = a.entries.keys().flat_map(of).collect();
    all.sort_by(f32::total_cmp);
    all
}

#[test]
fn what_we_measure_is_what_llama_imatrix_measured() {
    let (dir, path) = model_file(pure(GgmlType::BF16));
    let open = |threads| open(&path, Isa::best(), threads);
    let model = open(2);
    let tokenizer = Tokenizer::from_gguf(model.gguf()).unwrap();
    let text = EncodeOptions { add_special: true, parse_special: false };
    let tokens = tokenizer.encode(include_str!("data/valid.txt"), text).unwrap();
    let cut = |tokens: &[u32], context, max_chunks| {
        let cut = Cut { context, stride: None, max_chunks: Some(max_chunks) };
        Text::raw("text/valid.txt", tokens, cut, tokenizer.bos())
    };

    // Chunks that go together, more than one sub-batch, a last group that is not full; the model has no output matrix
    // of its own.
    let few = cut(&tokens, 100, 12).unwrap();
    let files: Vec<_> = [1, 2]
        .map(|threads| {
            let matrix = calibrate(&open(threads), &few, true, &Quiet).unwrap();
            assert!(matrix.entries.len() == 42 && matrix.entries.values().all(|entry| entry.counts == [1200]));
            let written = dir.path().join(format!("{threads}.gguf"));
            matrix.write(&written, ImatrixFormat::Gguf).unwrap();
            fs::read(written).unwrap()
        })
        .into();
    assert!(files[0] == files[1], "the matrix depends on the number of threads");
    let none = cut(&tokens[..99], 100, 12).unwrap_err().to_string();
    assert!(none.contains("99 tokens") && none.contains("chunk takes 100"), "{none}");

    let ours = calibrate(&model, &cut(&tokens, 512, 40).unwrap(), false, &Quiet).unwrap();
    let theirs = Imatrix::open(imatrix_path()).unwrap();
    assert_eq!((&ours.datasets, ours.chunk_count, ours.chunk_size), (&theirs.datasets, 40, Some(512)));
    assert!(ours.entries.keys().eq(theirs.entries.keys()));
    assert!(ours.entries.iter().all(|(name, entry)| entry.counts == theirs.entries[name].counts));
    let differences = differences(&ours, &theirs);
    let (median, most) = (differences[differences.len() / 2], differences[differences.len() - 1]);
    println!("relative difference of the means: median {median:e}, at most {most:e}");
    // llama.cpp rounds activations to BF16, 8 bits, before it multiplies.
    assert!(median < 1e-3 && most < 3e-2, "median {median}, at most {most}");
}
