//! Recognizes folders that are not checkpoints, so that the error names what they are.

use super::json::{Object, read_json};
use crate::error::{Error, Result, Setting, quoted};
use std::path::Path;

/// The error that names what a folder without a safetensors model is; `None` if Strata does not know.
///
/// # Errors
/// If the folder, or the description of an adapter in it, cannot be read.
pub(crate) fn folder(dir: &Path) -> Result<Option<Error>> {
    let adapter = dir.join("adapter_config.json");
    if let Some(json) = read_json(&adapter)? {
        let object = Object::of_file(&adapter, &json, &["base_model_name_or_path", "peft_type"])?;
        let kind = object.opt_text("peft_type")?.unwrap_or("LORA");
        let base =
            object.opt_text("base_model_name_or_path")?.map_or("a model that it does not name".to_owned(), quoted);
        let problem = format!("is an adapter ({}) for {base}, not a model", quoted(kind));
        let remedy = "convert its base model, and merge it meanwhile";
        return Ok(Some(Error::invalid(dir, "folder", problem, remedy).with_setting(Setting::Adapter)));
    }
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let first = |test: &dyn Fn(&str) -> bool| names.iter().find(|name| test(name)).map(String::as_str);
    let named = |problem: String, remedy: String| Ok(Some(Error::invalid(dir, "folder", problem, remedy)));
    let save =
        "save it as safetensors first (Python: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER))";
    if let Some(name) = first(&|name| {
        name.starts_with("consolidated") && [".pth", ".pt", ".safetensors"].iter().any(|end| name.ends_with(end))
    }) {
        let problem = format!("has its weights in the original layout of Meta or Mistral only ({})", quoted(name));
        let remedy = "get its params.json, or the Hugging Face version, which has config.json and model*.safetensors";
        return named(problem, remedy.to_owned());
    }
    if let Some(name) =
        first(&|name| ["tf_model.h5", "flax_model.msgpack", "model.onnx", "rust_model.ot"].contains(&name))
    {
        return named(format!("has its weights for another framework only ({})", quoted(name)), save.to_owned());
    }
    if let Some(name) = first(&|name| name.ends_with(".gguf")) {
        return named(format!("has no checkpoint, but a GGUF file: {}", quoted(name)), "name that file".to_owned());
    }
    if first(&|name| name == "model_index.json").is_some() {
        return named("is a diffusion pipeline, not a language model".to_owned(), "name a Llama checkpoint".to_owned());
    }
    if first(&|name| name == "snapshots").is_some() {
        let remedy = format!("name a folder in {}", dir.join("snapshots").display());
        return named(
            "is a folder of the Hugging Face cache, whose checkpoints are in its snapshots".to_owned(),
            remedy,
        );
    }
    match first(&|name| dir.join(name).join("config.json").is_file()) {
        Some(name) => {
            named(format!("has no config.json, but its folder {} has", quoted(name)), "name that folder".to_owned())
        }
        None => Ok(None),
    }
}

/// Refuses a folder whose tokenizer is neither in `tokenizer.json` nor in `tokenizer.model`.
pub(crate) fn other_tokenizer(dir: &Path) -> Result<()> {
    let has = |name: &str| dir.join(name).exists();
    if has("tokenizer.json") || has("tokenizer.model") || !has("tekken.json") {
        return Ok(());
    }
    let problem = "is missing; the folder has its tokenizer as tekken.json only";
    let remedy = "make it first (Python: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER))";
    Err(Error::invalid(&dir.join("tokenizer.json"), "file", problem, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn folders_are_named_by_what_is_in_them() {
        type Files = &'static [(&'static str, &'static str)];
        let cases: &[(Files, &[&str])] = &[
            (
                &[("adapter_config.json", r#"{"peft_type": "LORA", "base_model_name_or_path": "meta/L"}"#)],
                &["adapter", "\"meta/L\"", "merge"],
            ),
            (
                &[("adapter_config.json", r#"{"base_model_name_or_path": null}"#), ("a.gguf", "")],
                &["adapter", "does not name"],
            ),
            (
                &[("adapter_config.json", r#"{"base_model_name_or_path": 3}"#)],
                &["base_model_name_or_path", "must be a text"],
            ),
            (&[("consolidated.00.pth", ""), ("params.json", "{}")], &["consolidated.00.pth", "Hugging Face version"]),
            (&[("tf_model.h5", "")], &["tf_model.h5"]),
            (&[("m-Q4_K_M.gguf", "")], &["m-Q4_K_M.gguf", "name that file"]),
            (&[("model_index.json", "{}")], &["diffusion"]),
            (&[("snapshots/0123/config.json", "{}")], &["snapshots"]),
            (&[("inner/config.json", "{}")], &["\"inner\"", "name that folder"]),
        ];
        for (files, words) in cases {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in *files {
                fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
                fs::write(dir.path().join(name), text).unwrap();
            }
            let said = folder(dir.path()).unwrap_or_else(Some).expect("is named").to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        assert!(folder(dir.path()).unwrap().is_none());
        other_tokenizer(dir.path()).unwrap();
        fs::write(dir.path().join("tekken.json"), "").unwrap();
        assert!(other_tokenizer(dir.path()).unwrap_err().to_string().contains("tekken.json only"));
        fs::write(dir.path().join("tokenizer.json"), "").unwrap();
        other_tokenizer(dir.path()).unwrap();
    }
}
