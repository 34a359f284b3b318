//! Command lines of llama.cpp's users.

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use strata::gguf::Gguf;

/// A folder with the model as `m.gguf`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        common::write_model(&folder.0.path().join("m.gguf"), common::mix("bf16"));
        folder
    }

    fn strata(&self, args: &[&str], stdin: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.current_dir(self.0.path()).args(args).env("STRATA_CACHE_DISK", "0").env("STRATA_CONFIG", "");
        command.env("LLAMA_ARG_N_PREDICT", "1").env("LLAMA_ARG_SEED", "x");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What a line prints, which must end well.
    fn prints(&self, line: &str, stdin: &str) -> String {
        let output = self.strata(&line.split(' ').collect::<Vec<_>>(), stdin);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

const RUN: &str = "run -m m.gguf --temp 0 --ignore-eos";

#[test]
fn options_mean_what_they_mean_in_llama_cpp() {
    let folder = Folder::new();
    let plain = folder.prints(&format!("{RUN} -n 8 -p x"), "");
    for line in [
        format!("{RUN} -n 8 -p x -t 1 -tb 1 -b 1 -ub 16 -s 3"),
        format!("{RUN} --n-predict 8 -p x -ngl 0 -fa --mlock --no-mmap --no-warmup --no-display-prompt -no-cnv"),
        format!("{RUN} -n 8 -p x -ngl 99 -fa on -ctk f16 -ctv f16 --no-escape"),
    ] {
        assert_eq!(folder.prints(&line, ""), plain, "{line}");
    }
    assert_eq!(folder.prints(&format!("{RUN} -n 8 -f -"), "x"), plain);
    // Without a limit the context is what ends the answer.
    let all = folder.prints(&format!("{RUN} -n -1 -c 24 -p x --json"), "");
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    let count = |name: &str| all[name].as_array().map_or(all[name].as_u64().unwrap_or(0), |list| list.len() as u64);
    // The last token need not go through the model.
    assert!((24..=25).contains(&(count("prompt_tokens") + count("tokens"))), "{all}");
}

#[test]
fn escapes_are_processed_where_it_is_asked_for() {
    let folder = Folder::new();
    let ids = |args: &[&str]| {
        let output = folder.strata(&[&["tokenize", "-m", "m.gguf", "--ids"], args].concat(), "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ids(&["-e", "-p", "a\\n\\x41\\t"]), ids(&["-p", "a\nA\t"]));
    assert_eq!(ids(&["-e", "--no-escape", "-p", "a\\nb"]), ids(&["-p", "a\\nb"]));
    assert_ne!(ids(&["-e", "-p", "a\\nb"]), ids(&["-p", "a\\nb"]));
}

#[test]
fn quantize_takes_the_arguments_of_llama_quantize() {
    let folder = Folder::new();
    for line in [
        "quantize m.gguf a.gguf Q8_0",
        "quantize m.gguf b.gguf 7 2",
        "quantize m.gguf q8_0",
        "quantize m.gguf c.gguf COPY 1",
    ] {
        folder.prints(line, "");
    }
    let bytes = |name: &str| fs::read(folder.at(name)).unwrap();
    assert!(bytes("a.gguf") == bytes("b.gguf") && bytes("a.gguf") == bytes("ggml-model-Q8_0.gguf"));
    let (model, copy) = (Gguf::open(folder.at("m.gguf")).unwrap(), Gguf::open(folder.at("c.gguf")).unwrap());
    assert_eq!(model.u32("general.file_type").unwrap(), copy.u32("general.file_type").unwrap());
    for tensor in model.tensors() {
        let copied = copy.tensor(&tensor.name).unwrap();
        assert!(copied.ty == tensor.ty && copy.data(copied) == model.data(tensor), "{}", tensor.name);
    }
    // A quantized model, too, without leave to quantize again.
    folder.prints("quantize a.gguf d.gguf copy", "");
    assert!(Gguf::open(folder.at("d.gguf")).unwrap().u32("general.file_type").unwrap() == Some(7));
    for (line, words) in [
        ("quantize m.gguf x.gguf q8_0 many", "no number of threads"),
        ("quantize m.gguf x.gguf 20", "IQ2_XS"),
        ("quantize m.gguf x.gguf", "x.gguf"),
    ] {
        let output = folder.strata(&line.split(' ').collect::<Vec<_>>(), "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(words), "{line}: {said}");
    }
    assert!(!Path::new(&folder.at("x.gguf")).exists());
}
