//! Checkpoints that torch.save has written: the same GGUF bytes as from safetensors, and nothing of a hostile pickle is executed or believed.
//! `tests/data/make_torch.py` makes the files with PyTorch itself.

mod common;
#[path = "convert/folder.rs"]
#[allow(dead_code)]
mod folder;

use folder::{Converted, check_error, convert};
use std::fs;
use std::path::{Path, PathBuf};
use strata::convert::{Input, Options, Target};
use strata::model::Model;
use strata::progress::{Progress, Quiet};
use strata::{Cpu, GgmlType, Isa};
use tempfile::TempDir;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/torch").join(name)
}

/// A folder of files of `tests/data/torch`, each under its own name or, behind a colon, another.
struct Gathered {
    _root: TempDir,
    dir: PathBuf,
}

impl Gathered {
    fn new(files: &[&str]) -> Gathered {
        let root = tempfile::tempdir().unwrap();
        // Of the same name: it goes into the metadata.
        let dir = root.path().join("tiny-llama");
        fs::create_dir(&dir).unwrap();
        let gathered = Gathered { dir, _root: root };
        files.iter().for_each(|file| gathered.add(file));
        gathered
    }

    /// The configuration and the tokenizer of the Llama 2 kind, and these.
    fn llama2(files: &[&str]) -> Gathered {
        let gathered = Gathered::new(files);
        ["llama2/config.json", "llama2/tokenizer.json", "llama2/tokenizer_config.json"]
            .iter()
            .for_each(|f| gathered.add(f));
        gathered
    }

    fn add(&self, file: &str) {
        let (from, to) = file.split_once(':').unwrap_or((file, file.rsplit('/').next().unwrap()));
        fs::write(self.dir.join(to), fs::read(data(from)).unwrap()).unwrap();
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.join(name), bytes).unwrap();
    }

    fn contents(&self) -> Vec<u8> {
        Converted::of(&self.dir, GgmlType::Q8_0).contents()
    }

    fn refused(&self, words: &[&str]) {
        let out = tempfile::tempdir().unwrap();
        check_error(convert(&self.dir, &out.path().join("m.gguf"), GgmlType::F16, &Quiet), words);
    }
}

#[test]
fn every_form_gives_the_bytes_of_safetensors() {
    let expected = Gathered::llama2(&["llama2/model.safetensors"]).contents();
    for files in [
        &["llama2/pytorch_model.bin"][..],
        &["forms/shared.bin:pytorch_model.bin"],
        &["forms/legacy.bin:pytorch_model.bin"],
        &[
            "sharded/pytorch_model.bin.index.json",
            "sharded/pytorch_model-00001-of-00002.bin",
            "sharded/pytorch_model-00002-of-00002.bin",
        ],
        &["sharded/pytorch_model-00001-of-00002.bin", "sharded/pytorch_model-00002-of-00002.bin"],
    ] {
        assert!(Gathered::llama2(files).contents() == expected, "{files:?}");
    }
    // Where both are there, nobody looks at the older.
    let both = Gathered::llama2(&["llama2/model.safetensors"]);
    both.write("pytorch_model.bin", b"\x80\x02cos\nsystem\n.");
    assert!(both.contents() == expected);
}

#[test]
fn tensors_that_share_their_bytes_are_each_there() {
    // The embedding is the output matrix, and the configuration does not say so.
    let tied = Gathered::llama2(&[]);
    let mut file = Torch::default();
    let whole = fs::read(data("llama2/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&whole).unwrap();
    for (name, view) in tensors.iter() {
        let shape: Vec<i64> = view.shape().iter().map(|&dim| dim as i64).collect();
        match name {
            "lm_head.weight" => file.view(name, "model.embed_tokens.weight", shape),
            _ => file.tensor(name, "BFloat16", view.data(), shape),
        }
    }
    tied.write("pytorch_model.bin", &file.finish());
    let gguf = Converted::of(&tied.dir, GgmlType::BF16);
    let gguf = gguf.open();
    let bytes = |name| gguf.data(gguf.tensor(name).unwrap()).to_vec();
    assert!(bytes("output.weight") == bytes("token_embd.weight"));
    assert!(bytes("token_embd.weight") == tensors.tensor("model.embed_tokens.weight").unwrap().data());
}

#[test]
fn what_is_no_dictionary_of_weights_is_named() {
    for (file, words) in [
        ("forms/transposed.bin", &["lm_head.weight", "not in order", "contiguous"][..]),
        ("forms/nested.bin", &["\"model\"", "a dictionary, not a tensor", "state_dict"]),
        ("forms/integers.bin", &["lm_head.weight", "Long", "not supported"]),
    ] {
        let gathered = Gathered::llama2(&[]);
        gathered.add(&format!("{file}:pytorch_model.bin"));
        gathered.refused(&[&["pytorch_model.bin"], words].concat());
    }
    let gathered = Gathered::llama2(&["sharded/pytorch_model-00001-of-00002.bin"]);
    gathered.refused(&["pytorch_model-00002-of-00002.bin", "missing"]);
    gathered.add("sharded/pytorch_model.bin.index.json");
    gathered.refused(&["pytorch_model-00002-of-00002.bin", "missing"]);
}

#[test]
fn metas_files_give_the_bytes_of_hugging_faces() {
    let tokenizer = ["llama2/tokenizer.json", "llama2/tokenizer_config.json"];
    let expected = Gathered::llama2(&["llama2/model.safetensors"]).contents();
    let meta = |files: &[&str]| Gathered::new(&[&tokenizer[..], files].concat());
    // Whole, and split with an embedding in columns.
    assert!(meta(&["meta2/params.json", "meta2/whole.pth:consolidated.00.pth"]).contents() == expected);
    let split = ["meta2/params.json", "meta2/consolidated.00.pth", "meta2/consolidated.01.pth"];
    assert!(meta(&split).contents() == expected);
    // With an embedding in rows, scaled frequencies, and tiktoken's vocabulary alone.
    let hugging_face =
        ["llama3/config.json", "llama3/tokenizer.json", "llama3/tokenizer_config.json", "llama3/model.safetensors"];
    let expected = Gathered::new(&hugging_face).contents();
    let split =
        ["meta3/params.json", "meta3/consolidated.00.pth", "meta3/consolidated.01.pth", "llama3/tokenizer.model"];
    let whole = Gathered::new(&split);
    assert!(whole.contents() == expected);
    // In the folder `original` of a repository.
    let outer = Gathered::new(&[]);
    fs::create_dir(outer.dir.join("original")).unwrap();
    for entry in fs::read_dir(&whole.dir).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, outer.dir.join("original").join(path.file_name().unwrap())).unwrap();
    }
    assert!(outer.contents() == expected);
    assert!(Converted::of(&outer.dir.join("original"), GgmlType::Q8_0).contents() == expected);
}

#[test]
fn shared_tensors_convert_in_little_memory_and_are_resumed() {
    let split =
        ["meta3/params.json", "meta3/consolidated.00.pth", "meta3/consolidated.01.pth", "llama3/tokenizer.model"];
    let folder = Gathered::new(&split);
    let out = tempfile::tempdir().unwrap();
    let run = |name: &str, memory: Option<u64>, progress: &dyn Progress| {
        let options = Options { name: Some("fixture".to_owned()), memory, ..Options::default() };
        let target = Target::new(out.path().join(name), common::pure(GgmlType::Q8_0));
        strata::convert::convert(&Input::open(&folder.dir)?, &[target], &options, progress)
    };
    run("a.gguf", None, &Quiet).unwrap();
    run("b.gguf", Some(150_000), &Quiet).unwrap();
    let mut stopped = 0;
    while run("c.gguf", None, &common::StopsAfter((20 + 3 * stopped).into())).is_err() {
        stopped += 1;
        assert!(stopped < 100);
    }
    assert!(stopped > 2, "{stopped}");
    let [a, b, c] = ["a.gguf", "b.gguf", "c.gguf"].map(|name| fs::read(out.path().join(name)).unwrap());
    assert!(a == b && a == c);
}

#[test]
fn a_model_in_parts_runs_as_the_whole_one() {
    let tokenizer = ["llama2/tokenizer.json", "llama2/tokenizer_config.json"];
    let logits = |folder: &Gathered| {
        let gguf = strata::convert::open_model(&folder.dir, &Quiet).unwrap();
        let model = Model::new(gguf, Cpu::new(Isa::best(), 2)).unwrap();
        common::logits(&model, &[1, 5, 300, 77, 419, 12], 6).unwrap()
    };
    let whole = logits(&Gathered::llama2(&["llama2/model.safetensors"]));
    let split = ["meta2/params.json", "meta2/consolidated.00.pth", "meta2/consolidated.01.pth"];
    common::assert_same_bits(&logits(&Gathered::new(&[&tokenizer[..], &split].concat())), &whole, "two parts");
    common::assert_same_bits(&logits(&Gathered::llama2(&["forms/legacy.bin:pytorch_model.bin"])), &whole, "legacy");
}

#[test]
fn metas_files_that_do_not_belong_together_are_refused() {
    let tokenizer = "llama2/tokenizer.model";
    let params = |change: &dyn Fn(&mut serde_json::Value)| {
        let folder =
            Gathered::new(&[tokenizer, "meta2/params.json", "meta2/consolidated.00.pth", "meta2/consolidated.01.pth"]);
        let mut json = serde_json::from_slice(&fs::read(folder.dir.join("params.json")).unwrap()).unwrap();
        change(&mut json);
        folder.write("params.json", json.to_string().as_bytes());
        folder
    };
    for (key, value, words) in [
        ("dim", serde_json::Value::Null, &["params.json", "\"dim\"", "null"][..]),
        ("dim", 64.into(), &["tok_embeddings", "neither rows nor columns of 64"]),
        ("n_layers", 3.into(), &["model.layers.2", "missing"]),
        ("n_layers", 1.into(), &["model.layers.1", "not part of"]),
        ("vocab_size", 32.into(), &["lm_head", "params.json calls for [32, 32]"]),
        ("multiple_of", 128.into(), &["mlp", "params.json calls for"]),
        ("moe", serde_json::json!({"num_experts": 8}), &["params.json", "\"moe\"", "mixture"]),
        ("quantization_args", serde_json::json!({}), &["quantization_args"]),
        ("vision_chunk_size", 448.into(), &["vision_chunk_size", "images"]),
        ("new_thing", 1.into(), &["params.json", "\"new_thing\"", "not a key that strata knows"]),
    ] {
        let folder = params(&|json| json[key] = value.clone());
        folder.refused(words);
    }
    let gap = Gathered::new(&[tokenizer, "meta2/params.json", "meta2/consolidated.01.pth"]);
    gap.refused(&["consolidated.00.pth", "missing"]);
    let half = Gathered::new(&[tokenizer, "meta2/params.json", "meta2/consolidated.00.pth"]);
    half.refused(&["tok_embeddings", "neither rows nor columns"]);
    let mixed =
        Gathered::new(&[tokenizer, "meta2/params.json", "meta2/consolidated.00.pth", "meta3/consolidated.01.pth"]);
    mixed.refused(&["consolidated.00.pth", "in file 1", "different models"]);
    let foreign = Gathered::new(&[tokenizer, "meta2/params.json", "llama2/pytorch_model.bin:consolidated.00.pth"]);
    foreign.refused(&["lm_head.weight", "not part of a Llama model"]);
    let none = Gathered::new(&[tokenizer, "meta2/params.json"]);
    none.refused(&["consolidated.00.pth", "missing"]);
}

/// A zip archive of stored entries, as torch.save lays it out, without what a reader does not need.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    let u16s = |to: &mut Vec<u8>, values: &[u16]| to.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    let u32s = |to: &mut Vec<u8>, values: &[u32]| to.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    for (name, bytes) in entries {
        let (at, len) = (file.len() as u32, bytes.len() as u32);
        file.extend(b"PK\x03\x04");
        u16s(&mut file, &[0, 0, 0, 0, 0]);
        u32s(&mut file, &[0, len, len]);
        u16s(&mut file, &[name.len() as u16, 0]);
        file.extend([name.as_bytes(), bytes].concat());
        directory.extend(b"PK\x01\x02");
        u16s(&mut directory, &[0, 0, 0, 0, 0, 0]);
        u32s(&mut directory, &[0, len, len]);
        u16s(&mut directory, &[name.len() as u16, 0, 0, 0, 0]);
        u32s(&mut directory, &[0, at]);
        directory.extend(name.as_bytes());
    }
    let at = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06");
    u16s(&mut file, &[0, 0, entries.len() as u16, entries.len() as u16]);
    u32s(&mut file, &[directory.len() as u32, at]);
    u16s(&mut file, &[0]);
    file
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn integer(n: i64) -> Vec<u8> {
    [b"\x8a\x08", &n.to_le_bytes()[..]].concat()
}

fn integers(list: &[i64]) -> Vec<u8> {
    [&b"("[..], &list.iter().flat_map(|&n| integer(n)).collect::<Vec<_>>(), b"t"].concat()
}

/// The opcodes of a tensor over a storage.
fn tensor(numbers: &str, key: &str, len: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let storage = format!("torch\n{numbers}Storage\n");
    let id = [&b"("[..], &text("storage"), b"c", storage.as_bytes(), &text(key), &text("cpu"), &integer(len), b"tQ"]
        .concat();
    let start = b"ctorch._utils\n_rebuild_tensor_v2\n(";
    [&start[..], &id, &integer(offset), &integers(shape), &integers(strides), b"\x89ccollections\nOrderedDict\n)RtR"]
        .concat()
}

/// A file of torch.save in the making.
#[derive(Default)]
struct Torch {
    pickle: Vec<u8>,
    storages: Vec<(String, String, Vec<u8>)>, // the tensor, the type, the bytes
}

impl Torch {
    fn tensor(&mut self, name: &str, numbers: &str, bytes: &[u8], shape: Vec<i64>) {
        if self.storages.iter().all(|(known, ..)| known != name) {
            self.storages.push((name.to_owned(), numbers.to_owned(), bytes.to_owned()));
        }
        self.view(name, name, shape);
    }

    fn view(&mut self, name: &str, of: &str, shape: Vec<i64>) {
        let i = self.storages.iter().position(|(name, ..)| name == of);
        // A tensor may come before the one whose numbers it shares.
        let i = i.unwrap_or_else(|| {
            let whole = fs::read(data("llama2/model.safetensors")).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&whole).unwrap();
            self.storages.push((of.to_owned(), "BFloat16".to_owned(), tensors.tensor(of).unwrap().data().to_vec()));
            self.storages.len() - 1
        });
        let (_, numbers, bytes) = &self.storages[i];
        let strides: Vec<i64> = (1..=shape.len()).map(|d| shape[d..].iter().product()).collect();
        let tensor = tensor(numbers, &i.to_string(), bytes.len() as i64 / 2, 0, &shape, &strides);
        self.pickle.extend([text(name), tensor, b"s".to_vec()].concat());
    }

    fn finish(&self) -> Vec<u8> {
        let pickle = [b"\x80\x02}", &self.pickle[..], b"."].concat();
        let keys: Vec<String> = (0..self.storages.len()).map(|i| format!("m/data/{i}")).collect();
        let mut entries = vec![("m/data.pkl", pickle.as_slice()), ("m/byteorder", b"little")];
        entries.extend(keys.iter().zip(&self.storages).map(|(key, (_, _, bytes))| (key.as_str(), bytes.as_slice())));
        zip(&entries)
    }
}

/// A file whose dictionary is this pickle, over one storage of 12 bytes.
fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    zip(&[("m/data.pkl", pickle), ("m/data/0", &[0; 12])])
}

/// The message for a checkpoint with these bytes as its weights.
fn opened(folder: &Gathered, bytes: &[u8]) -> String {
    folder.write("pytorch_model.bin", bytes);
    Input::open(&folder.dir).err().expect("three numbers are no Llama model").to_string()
}

fn one(tensor: &[u8]) -> Vec<u8> {
    [&b"\x80\x02}"[..], &text("w"), tensor, b"s."].concat()
}

#[test]
fn pickles_that_want_more_than_tensors_are_refused_by_name() {
    let folder = Gathered::llama2(&[]);
    // What is right is read: what then is missing are the other tensors of the model.
    for right in [
        one(&tensor("Half", "0", 6, 0, &[2, 3], &[3, 1])),
        one(&tensor("Float", "0", 3, 1, &[2], &[1])),
        one(&tensor("BFloat16", "0", 6, 6, &[0, 7], &[7, 1])),
        b"\x80\x02}.".to_vec(),
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R\x94}b.".to_vec(),
    ] {
        let said = opened(&folder, &with_pickle(&right));
        assert!(said.contains("tensor") && (said.contains("is missing") || said.contains("not part of")), "{said}");
    }
    let deep = |op: &[u8], n: usize| [&b"\x80\x02)"[..], &op.repeat(n), b"."].concat();
    let cases: &[(&[u8], &[&str])] = &[
        (b"\x80\x02cos\nsystem\n(X\x02\0\0\0lstR.", &["\"os.system\"", "executes nothing", "byte 42"]),
        (b"\x80\x02cbuiltins\neval\n.", &["\"builtins.eval\""]),
        (b"\x80\x02c__builtin__\nexec\n.", &["\"__builtin__.exec\""]),
        (b"\x80\x02ctorch\nload\n.", &["\"torch.load\""]),
        (b"\x80\x02ctorch\nComplexFloatStorage\n.", &["torch.ComplexFloatStorage"]),
        (b"\x80\x02ctorch._utils\n_rebuild_qtensor\n.", &["torch._utils._rebuild_qtensor"]),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", &["\"posix.system\""]),
        (b"\x80\x04K\x01\x8c\x06system\x93.", &["named by something other"]),
        (b"(S'ls'\nios\nsystem\n.", &["opcode 0x53"]),
        (b"(ios\nsystem\n.", &["INST"]),
        (b"\x80\x02(cos\nsystem\no.", &["os.system"]),
        (b"\x80\x02(o.", &["OBJ"]),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", &["NEWOBJ"]),
        (b"\x80\x02\x82\x01.", &["EXT1"]),
        (b"\x80\x02Pstorage\n.", &["PERSID"]),
        (b"\x80\x02ccollections\nOrderedDict\n(]tR.", &["OrderedDict", "1 arguments"]),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", &["storage is made"]),
        (b"\x80\x02X\x01\0\0\0a)R.", &["calls a text"]),
        (b"\x80\x02)}b.", &["sets attributes of a tuple"]),
        (b"\x80\x02]K\x01K\x02s.", &["are put into a list"]),
        (b"\x80\x02}(K\x01u.", &["1 items are put into a dictionary"]),
        (b"\x80\x02}K\x01Ns.", &["a key is an integer"]),
        (b"\x80\x02K\x01.", &["is an integer, not a dictionary"]),
        (b"\x80\x02(.", &["takes more"]),
        (b"\x80\x02t.", &["no mark"]),
        (b"\x80\x02h\x07.", &["object 7", "not kept"]),
        (b"\x80\x02]r\xff\xff\xff\xffj\xfe\xff\xff\xff.", &["object 4294967294"]),
        (b"\x80\x02}", &["cut off"]),
        (b"", &["cut off"]),
        (b"\x80\x02X\xff\xff\xff\xffaaaa", &["cut off"]),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffaaaa", &["cut off"]),
        (b"\x80\x02cos", &["cut off in a name"]),
        (b"\x80\x02X\x01\0\0\0\xff.", &["not UTF-8"]),
        (b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\x01.", &["9 bytes"]),
        (b"\x80\x09}.", &["protocol 9"]),
        (b"\x80\x02K\x01Q.", &["an integer is the id"]),
        (b"\x80\x02(X\x07\0\0\0storageNNNNtQ.", &["id of a storage"]),
        (&deep(b"(", 1 << 17), &["stack"]),
        (&deep(b"\x85", 1 << 20), &["objects"]),
        (&deep(b")", 1 << 17), &["stack"]),
        (&[b"\x80\x02}".repeat(1 << 23), vec![b'.']].concat(), &["25165825 bytes"]),
        (&one(b"K\x01"), &["key \"w\"", "an integer, not a tensor"]),
        (
            &[&b"\x80\x02}"[..], &text("w"), &tensor("Half", "0", 6, 0, &[6], &[1]), b"s", &text("w"), b"h\0s."]
                .concat(),
            &["not kept"],
        ),
    ];
    for (pickle, words) in cases {
        let said = opened(&folder, &with_pickle(pickle));
        let shown = &pickle[..pickle.len().min(40)];
        assert!(
            said.contains("pytorch_model.bin") && words.iter().all(|word| said.contains(word)),
            "{shown:?}: {said}"
        );
    }
}

#[test]
fn tensors_beyond_their_storage_or_the_file_are_refused() {
    let folder = Gathered::llama2(&[]);
    let (max, big) = (i64::MAX, 1 << 40);
    let cases: &[(Vec<u8>, &[&str])] = &[
        (tensor("Half", "0", 6, 1, &[6], &[1]), &["beyond its storage of 6"]),
        (tensor("Half", "0", 6, max, &[6], &[1]), &["beyond its storage"]),
        (tensor("Half", "0", 6, 0, &[max, max], &[max, 1]), &["beyond its storage"]),
        (tensor("Half", "0", 6, 0, &[big, big, big], &[1, 1, 1]), &["not in order"]),
        (tensor("Half", "0", 6, 0, &[3, 2], &[1, 3]), &["not in order"]),
        (tensor("Half", "0", 6, 0, &[2, 6], &[0, 1]), &["not in order"]),
        (tensor("Half", "0", 6, 0, &[-6], &[1]), &["-6"]),
        (tensor("Half", "0", 6, -1, &[6], &[1]), &["-1"]),
        (tensor("Half", "0", 6, 0, &[6], &[1, 1]), &["1 dimensions and 2 strides"]),
        (tensor("Half", "0", 6, 0, &[1; 9], &[1; 9]), &["9 dimensions"]),
        (tensor("Half", "0", 7, 0, &[6], &[1]), &["12 bytes where 7 numbers"]),
        (tensor("Half", "0", -1, 0, &[6], &[1]), &["-1 numbers"]),
        (tensor("Half", "0", max, 0, &[6], &[1]), &["12 bytes"]),
        (tensor("Half", "1", 6, 0, &[6], &[1]), &["storage \"1\" is not in the file"]),
        (tensor("Byte", "0", 12, 0, &[12], &[1]), &["Byte", "not supported"]),
    ];
    for (tensor, words) in cases {
        let said = opened(&folder, &with_pickle(&one(tensor)));
        assert!(
            said.contains("pytorch_model.bin") && words.iter().all(|word| said.contains(word)),
            "{words:?}: {said}"
        );
    }
}

#[test]
fn archives_that_lie_are_refused() {
    let folder = Gathered::llama2(&[]);
    let pickle = one(&tensor("Half", "0", 6, 0, &[2, 3], &[3, 1]));
    let plain = with_pickle(&pickle);
    let at = |magic: &[u8]| plain.windows(magic.len()).position(|bytes| bytes == magic).unwrap();
    let (central, end) = (at(b"PK\x01\x02"), at(b"PK\x05\x06"));
    let changed = |place: usize, bytes: &[u8]| {
        let mut file = plain.clone();
        file[place..place + bytes.len()].copy_from_slice(bytes);
        file
    };
    let cases: &[(Vec<u8>, &[&str])] = &[
        (changed(central + 10, &[8, 0]), &["compressed (method 8)"]),
        (changed(central + 8, &[1, 0]), &["encrypted"]),
        (changed(central + 20, &[255, 255, 255, 0]), &["as it is stored"]),
        (changed(central + 20, &[255, 255, 255, 0, 255, 255, 255, 0]), &["beyond the file's end"]),
        (changed(central + 20, &[255; 8]), &["sizes of 64 bits"]),
        (changed(central + 42, &[255, 255, 255, 127]), &["header of an entry is not there"]),
        (changed(central + 28, &[255, 255]), &["longer than the directory"]),
        (changed(end + 10, &[255, 255]), &["entry of the archive's directory is not there"]),
        (changed(end + 12, &[255, 255, 255, 255]), &["beyond the file's end"]),
        (changed(end + 16, &[255, 255, 255, 255]), &["beyond the file's end"]),
        (plain[..plain.len() - 1].to_vec(), &["cut off"]),
        (b"PK\x03\x04".to_vec(), &["cut off"]),
        (zip(&[("m/data.pkl", &pickle), ("m/data.pkl", &pickle)]), &["twice"]),
        (zip(&[("m/data.pkl", &pickle), ("n/data.pkl", &pickle)]), &["no data.pkl, or several"]),
        (zip(&[("m/version", b"3")]), &["no data.pkl"]),
        (zip(&[("m/data.pkl", &pickle), ("m/constants.pkl", b"")]), &["TorchScript"]),
        (zip(&[("m/data.pkl", &pickle), ("m/byteorder", b"big")]), &["byte order", "\"big\""]),
        (zip(&[("m/data.pkl", &pickle), ("n/data/0", &[0; 12])]), &["not in the file"]),
        (b"\x80\x02cos\nsystem\n.".to_vec(), &["Python pickle", "none that torch.save"]),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), &["Git LFS"]),
        (b"hello".to_vec(), &["not a PyTorch file"]),
    ];
    for (file, words) in cases {
        let said = opened(&folder, file);
        assert!(
            said.contains("pytorch_model.bin") && words.iter().all(|word| said.contains(word)),
            "{words:?}: {said}"
        );
    }
    // Whatever byte is changed or wherever a file ends, there is an error or the tensor, and no panic.
    let legacy = fs::read(data("forms/legacy.bin")).unwrap();
    let head = &legacy[..legacy.len().min(5000)];
    for file in [&plain[..], head] {
        for i in (0..file.len()).step_by(if file.len() > 1000 { 17 } else { 1 }) {
            let mut flipped = file.to_vec();
            flipped[i] ^= 0x81;
            opened(&folder, &flipped);
            if i > 0 {
                opened(&folder, &file[..i]);
            }
        }
    }
}
