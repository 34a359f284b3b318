//! The chat templates, in all the places where checkpoints have them. Files go before entries of the same name in tokenizer_config.json, as
//! in transformers; chat_template.json, which is older than both, only fills in.

use super::Files;
use super::json::Node;
use crate::error::{Error, Result, quoted};
use crate::gguf::Layout;
use crate::io::file::read_regular;
use serde_json::Value as Json;
use std::fs;
use std::path::{Path, PathBuf};

/// The most bytes of a template; real ones have some ten thousand.
const LONGEST: u64 = 1 << 20;
/// The most templates of a checkpoint.
const MOST: usize = 100;
const FOLDER: &str = "additional_chat_templates";

/// A template with its name, "default" for the one without.
struct Named {
    name: String,
    text: String,
    from: String,
}

/// Sets the keys of all templates.
pub(super) fn set(layout: &mut Layout, files: &Files, notes: &mut Vec<String>) -> Result<()> {
    let mut templates = Vec::new();
    if let Some(text) = read(&files.dir.join("chat_template.jinja"))? {
        add(&mut templates, Named { name: "default".to_owned(), text, from: "chat_template.jinja".to_owned() }, notes)?;
    }
    for (name, path) in additional(&files.dir)? {
        let from = format!("{FOLDER}/{name}.jinja");
        let Some(text) = read(&path)? else { continue };
        add(&mut templates, Named { name, text, from }, notes)?;
    }
    for (file, from) in
        [(&files.tokenizer_config, "tokenizer_config.json"), (&files.chat_template, "chat_template.json")]
    {
        for template in listed(&file.root().get("chat_template"), from)? {
            add(&mut templates, template, notes)?;
        }
    }
    if files.chat_template.json.is_some() && files.chat_template.root().get("chat_template").is_none() {
        notes.push("chat_template.json: there is no \"chat_template\" in it".to_owned());
    }
    let mut names = Vec::new();
    for Named { name, text, .. } in templates {
        if name == "default" {
            layout.set("tokenizer.chat_template", text);
        } else {
            layout.set(format!("tokenizer.chat_template.{name}"), text);
            names.push(name);
        }
    }
    if !names.is_empty() {
        layout.set("tokenizer.chat_templates", names);
    }
    Ok(())
}

/// Adds a template unless there is one with its name; the first stays, and a different one is noted.
fn add(templates: &mut Vec<Named>, mut template: Named, notes: &mut Vec<String>) -> Result<()> {
    // The characters that a metadata key may have.
    template.name = template.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if let Some(known) = templates.iter().find(|known| known.name == template.name) {
        if known.text != template.text {
            notes.push(format!(
                "{}: the chat template {} is not the one of {}, which is taken",
                template.from,
                quoted(&template.name),
                known.from
            ));
        }
        return Ok(());
    }
    if templates.len() == MOST {
        let path = Path::new(&template.from);
        return Err(Error::invalid(
            path,
            "chat templates",
            format!("more than {MOST}"),
            "remove those that nobody needs",
        ));
    }
    templates.push(template);
    Ok(())
}

/// The templates of a JSON file: one, a list of objects with name and template, or an object with a template under each name.
fn listed(node: &Node<'_>, from: &str) -> Result<Vec<Named>> {
    let named = |name: &str, node: &Node<'_>| {
        let text = node.text()?;
        if name.is_empty() || text.len() as u64 > LONGEST {
            let problem = format!("has {} bytes under the name {}", text.len(), quoted(name));
            return Err(node.bad(problem, "give the template a name and at most 1 MiB"));
        }
        Ok(Named { name: name.to_owned(), text: text.to_owned(), from: from.to_owned() })
    };
    match node.value() {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Array(_)) => {
            node.list()?.iter().map(|one| named(one.get("name").text()?, &one.get("template"))).collect()
        }
        Some(Json::Object(all)) => all.keys().map(|name| named(name, &node.get(name))).collect(),
        Some(_) => named("default", node).map(|one| vec![one]),
    }
}

/// The named templates in their folder, by name.
fn additional(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let dir = dir.join(FOLDER);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("read", &dir))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", &dir))?.path();
        if path.extension().is_some_and(|ending| ending == "jinja")
            && let Some(name) = path.file_stem()
        {
            found.push((name.to_string_lossy().into_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

/// The text of a file; `None` if it is not there.
fn read(path: &Path) -> Result<Option<String>> {
    let bytes = match read_regular(path, LONGEST) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let place = format!("byte {}", error.utf8_error().valid_up_to());
        Error::invalid(path, place, "is not UTF-8", "get the file again")
    })
}
