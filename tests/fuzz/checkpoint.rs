//! A checkpoint of a few kilobytes in a folder of its own: one layer, 24 tokens.

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// The files of the checkpoint; also the first entries of the corpora.
const CONFIG: &[u8] = include_bytes!("corpus/config/valid.json");
const TOKENIZER: &[u8] = include_bytes!("corpus/tokenizer_json/valid.json");

/// The folder, deleted on drop.
pub struct Folder(TempDir);

impl Folder {
    /// A valid checkpoint in the subfolder `checkpoint`.
    pub fn new() -> Folder {
        let folder = Folder::empty();
        fs::create_dir(folder.path().join("checkpoint")).unwrap();
        folder
            .with("checkpoint/config.json", CONFIG)
            .with("checkpoint/tokenizer.json", TOKENIZER)
            .with("checkpoint/model.safetensors", &weights())
    }

    /// Without a file.
    pub fn empty() -> Folder {
        // Files in memory, where there are such: a fuzzer writes them thousands of times a second.
        Folder(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file of the folder.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).unwrap();
    }

    /// Removes a file, and returns the folder.
    pub fn without(self, name: &str) -> Folder {
        fs::remove_file(self.path().join(name)).unwrap();
        self
    }

    /// Writes a file, as [`Folder::write`], and returns the folder.
    pub fn with(self, name: &str, bytes: &[u8]) -> Folder {
        self.write(name, bytes);
        self
    }
}

/// The weights in F16: all values count up.
fn weights() -> Vec<u8> {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let matrices = [
        ("model.embed_tokens.weight".to_owned(), vec![24, 32]),
        ("model.norm.weight".to_owned(), vec![32]),
        (layer("input_layernorm"), vec![32]),
        (layer("post_attention_layernorm"), vec![32]),
        (layer("self_attn.q_proj"), vec![32, 32]),
        (layer("self_attn.k_proj"), vec![16, 32]),
        (layer("self_attn.v_proj"), vec![16, 32]),
        (layer("self_attn.o_proj"), vec![32, 32]),
        (layer("mlp.gate_proj"), vec![32, 32]),
        (layer("mlp.up_proj"), vec![32, 32]),
        (layer("mlp.down_proj"), vec![32, 32]),
    ];
    // The largest of them; 0x3000 is 0.125 in half precision.
    let bytes: Vec<u8> = (0..32 * 32).flat_map(|i: u16| (0x3000 + i).to_le_bytes()).collect();
    let view = |(name, shape): (String, Vec<usize>)| {
        let len = 2 * shape.iter().product::<usize>();
        (name, TensorView::new(Dtype::F16, shape, &bytes[..len]).unwrap())
    };
    safetensors::serialize(matrices.into_iter().map(view), None).unwrap()
}
