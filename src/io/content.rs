//! The kind of a file by its first bytes, so that the message about a wrong file names what it is.

use crate::error::Error;
use std::path::Path;

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Content {
    /// The small text that stands for a large file in a repository that was cloned without Git LFS.
    LfsPointer,
    /// HTML or XML: the answer of a server that refused the download.
    WebPage,
    /// A zip archive, which PyTorch's weights are since 1.6.
    Zip,
    /// Python's serialization, which PyTorch's weights were before.
    Pickle,
    /// Compressed: gzip, zstd, xz, bzip2 or 7z.
    Compressed(&'static str),
    /// A tar archive.
    Tar,
    /// A GGUF file.
    Gguf,
    /// A model of llama.cpp from before GGUF.
    Ggml,
    /// A safetensors file.
    Safetensors,
    /// A text that starts like JSON.
    Json,
    /// Zeros only, as far as it was looked at: a download that was given its length but no bytes.
    Zeros,
}

/// Recognizes a file by its first bytes, at most 4 KiB; `None` for a kind that Strata does not know.
pub(crate) fn content(bytes: &[u8]) -> Option<Content> {
    let head = &bytes[..bytes.len().min(4096)];
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let is_tag = |tag: &[u8]| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    let starts = |magic: &[u8]| head.starts_with(magic);
    Some(match () {
        _ if starts(b"version https://git-lfs") || starts(b"version https://hawser") => Content::LfsPointer,
        _ if [&b"<!doctype"[..], b"<html", b"<head", b"<?xml", b"<error", b"<body"].into_iter().any(is_tag) => {
            Content::WebPage
        }
        _ if starts(b"GGUF") || starts(b"FUGG") => Content::Gguf,
        _ if [b"lmgg", b"fmgg", b"tjgg", b"algg"].into_iter().any(|magic| starts(magic)) => Content::Ggml,
        _ if starts(b"PK\x03\x04") || starts(b"PK\x05\x06") => Content::Zip,
        _ if starts(b"\x1f\x8b") => Content::Compressed("gzip"),
        _ if starts(b"\x28\xb5\x2f\xfd") => Content::Compressed("zstd"),
        _ if starts(b"\xfd7zXZ\0") => Content::Compressed("xz"),
        _ if starts(b"BZh") => Content::Compressed("bzip2"),
        _ if starts(b"7z\xbc\xaf\x27\x1c") => Content::Compressed("7z"),
        _ if head.get(257..262) == Some(b"ustar") => Content::Tar,
        _ if matches!(head, [0x80, 2..=5, ..]) => Content::Pickle,
        // The length of a header of JSON, which the format limits to 100 MB.
        _ if matches!(head, [_, _, _, _, 0, 0, 0, 0, b'{', b'"' | b' ' | b'}', ..]) => Content::Safetensors,
        _ if matches!(text, [b'{', ..]) => Content::Json,
        _ if head.len() >= 16 && head.iter().all(|&byte| byte == 0) => Content::Zeros,
        _ => return None,
    })
}

impl Content {
    /// The description of the kind, and a remedy.
    fn words(self) -> (String, &'static str) {
        let (what, remedy) = match self {
            Content::LfsPointer => (
                "is a Git LFS pointer, not the file itself",
                "run `git lfs pull` in the repository, or download the file",
            ),
            Content::WebPage => (
                "is a web page, not a file of a model",
                "the server refused the download; log in, accept the license and get it again",
            ),
            Content::Zip => (
                "is a zip archive, as PyTorch writes its weights",
                "unpack it, or get the model as safetensors (PyTorch: safetensors.torch.save_file) or GGUF",
            ),
            Content::Pickle => (
                "is a Python pickle, as old PyTorch writes its weights",
                "get the model as safetensors (PyTorch: safetensors.torch.save_file) or GGUF",
            ),
            Content::Compressed(how) => return (format!("is compressed ({how})"), "unpack it first"),
            Content::Tar => ("is a tar archive", "unpack it and name the model in it"),
            Content::Gguf => ("is a GGUF file", "name it as the model itself"),
            Content::Ggml => {
                ("is a GGML file from before GGUF", "get the model as GGUF, or convert its checkpoint again")
            }
            Content::Safetensors => ("is a safetensors file", "convert its folder to GGUF (strata convert FOLDER)"),
            Content::Json => ("is a JSON text", "name the folder of the checkpoint, or a .gguf file"),
            Content::Zeros => ("begins with zeros only", "the download is incomplete; get it again"),
        };
        (what.to_owned(), remedy)
    }

    /// The error of a file at `path` of this kind where `wanted` ("a GGUF file") was expected.
    pub fn error(self, path: &Path, wanted: &str) -> Error {
        let (what, remedy) = self.words();
        Error::invalid(path, "file", format!("{what}; expected {wanted}"), remedy)
    }
}

/// True if `rest`, the bytes after the last tensor of a GGUF file, is another GGUF file: parts of a split model were joined by `cat`.
pub(crate) fn is_another_gguf(rest: &[u8]) -> bool {
    // Only the padding up to the alignment comes between.
    let padding = rest.iter().take_while(|&&byte| byte == 0).count();
    rest[padding..].starts_with(b"GGUF")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_their_first_bytes() {
        let mut tar = vec![b'a'; 257];
        tar.extend(b"ustar\0");
        let cases: &[(&[u8], Option<Content>, &str)] = &[
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
                Some(Content::LfsPointer),
                "git lfs pull",
            ),
            (b"<!DOCTYPE html><html>", Some(Content::WebPage), "log in"),
            (b"\xef\xbb\xbf\r\n <HTML lang=en>", Some(Content::WebPage), "web page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", Some(Content::WebPage), "download"),
            (b"PK\x03\x04\0\0\0\0archive/data.pkl", Some(Content::Zip), "safetensors"),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j", Some(Content::Pickle), "pickle"),
            (b"\x1f\x8b\x08\0", Some(Content::Compressed("gzip")), "unpack"),
            (b"\x28\xb5\x2f\xfd\0", Some(Content::Compressed("zstd")), "unpack"),
            (&tar, Some(Content::Tar), "unpack"),
            (b"GGUF\x03\0\0\0", Some(Content::Gguf), "GGUF"),
            (b"tjgg\x03\0\0\0", Some(Content::Ggml), "before GGUF"),
            (b"\x10\0\0\0\0\0\0\0{\"a\":{}}", Some(Content::Safetensors), "strata convert"),
            (b" {\"a\": 1}", Some(Content::Json), "checkpoint"),
            (&[0; 64], Some(Content::Zeros), "incomplete"),
            (b"", None, ""),
            (b"once upon a time", None, ""),
            (&[0xff; 5000], None, ""),
        ];
        for (bytes, expected, words) in cases {
            assert_eq!(content(bytes), *expected, "{bytes:?}");
            if let Some(content) = expected {
                let said = content.error(Path::new("m.gguf"), "a GGUF file").to_string();
                assert!(said.starts_with("m.gguf: ") && said.contains(words), "{said}");
            }
        }
    }

    #[test]
    fn parts_joined_by_cat_are_seen() {
        let mut bytes = b"GGUF header and data".to_vec();
        let end = bytes.len();
        assert!(!is_another_gguf(&bytes[end..]));
        bytes.resize(64, 0);
        assert!(!is_another_gguf(&bytes[end..]));
        bytes.extend(b"GGUF\x03\0\0\0");
        assert!(is_another_gguf(&bytes[end..]));
    }
}
