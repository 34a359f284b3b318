//! What holds of the sources of the library, whatever they compute.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use regex::Regex;
use std::fs;
use std::path::Path;

/// The literals of a source, but not its documentation.
fn literals(tokens: TokenStream, to: &mut Vec<String>) {
    for tree in tokens {
        match tree {
            TokenTree::Literal(literal) => to.push(literal.to_string()),
            TokenTree::Group(group) => {
                let is_doc = |tree: &TokenTree| matches!(tree, TokenTree::Ident(name) if name == "doc");
                if group.delimiter() != Delimiter::Bracket
                    || !group.stream().into_iter().next().is_some_and(|t| is_doc(&t))
                {
                    literals(group.stream(), to);
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// Calls `f` with the path and text of every source in a folder.
fn for_each_source(folder: &Path, f: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for_each_source(&path, f);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            f(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}

/// The library has other callers than the command, which adds its options (`tools/src/remedy.rs`). A text may name those of other programs
/// whose whole command it gives.
#[test]
fn no_text_of_the_library_names_an_option() {
    let option = Regex::new(r"(^|[^[:alnum:]}-])(--[[:alpha:]]|-[[:alpha:]]([^[:alnum:]-]|$))").unwrap();
    let other_program = Regex::new(r"(head -c [{0-9]|iconv -f UTF-16 -t UTF-8|mkdir -p )").unwrap();
    let named = |text: &str| option.is_match(&other_program.replace_all(text, ""));
    for text in ["\"make one (-f)\"", "\"give --ram\"", "\"-c 512\"", "r#\"--x\"#"] {
        assert!(named(text), "{text}");
    }
    for text in ["\"a - b\"", "\"llama-perplexity\"", "\"ends in -00001-of\"", "b'-'", "\"run `mkdir -p {}`\"", "-1"] {
        assert!(!named(text), "{text}");
    }
    let (mut count, mut wrong) = (0, Vec::new());
    for_each_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut |path, source| {
        let mut texts = Vec::new();
        literals(source.parse().unwrap(), &mut texts);
        count += texts.len();
        wrong.extend(texts.into_iter().filter(|text| named(text)).map(|text| format!("{}: {text}", path.display())));
    });
    assert!(count > 5000, "{count} literals");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
