//! The prefix cache: keys and values of finished prompts on disk, so that a prompt that begins like one of them is computed from there on,
//! also by another process.
//!
//! A sequence is kept in spans of 256 tokens, each in a file of its own whose name has the hash of the span before it:
//! ```text
//! PARENT-SPAN.kv      SPAN = hash(PARENT, tokens of the span);  the PARENT of the first span = hash(model, types of keys and values)
//! ```
//! So conversations that begin alike share their spans, and going on writes only what is new. The last span of a sequence may have fewer
//! tokens; of any span a beginning can be used. `file.rs` has the form of a file, `folder.rs` the folder and its bound, `identity.rs` what
//! tells models apart.
//!
//! A file is written under another name and renamed, and checked when it is read: processes may share a folder. The cache never fails: what
//! goes wrong is one warning, and the tokens are computed.

mod file;
mod folder;
mod identity;

use super::scheduler::common;
use crate::error::{Error, Result};
use crate::io::hash::{Digest, Hasher};
use crate::model::{CacheTypes, KvCache, Model};
use crate::progress::Progress;
use file::SpanFile;
use folder::Folder;
use std::path::{Path, PathBuf};

/// Tokens of a span.
const SPAN: usize = KvCache::SPAN;

/// Sequences of fewer tokens are not kept: to compute them is as fast as to look for them.
const WORTH_KEEPING: usize = 32;

/// What is wrong with a file under the name of another.
const OTHER_TOKENS: &str = "has other tokens than its name says";

/// Keys and values on disk, of one model.
pub struct PrefixCache {
    folder: Folder,
    root: Digest,
    is_broken: bool, // said already
}

impl PrefixCache {
    /// The cache of `model` with keys and values of these `types` in the folder `path`, which is made; the folder, with the caches of other
    /// models, keeps at most `limit` bytes.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(path: &Path, limit: u64, model: &Model, types: CacheTypes) -> Result<PrefixCache> {
        let folder = Folder::open(path, limit)?;
        Ok(PrefixCache { folder, root: identity::of(model, types), is_broken: false })
    }

    /// Appends to `cache`, which holds a beginning of `tokens`, what the folder has of the rest. Returns how many tokens at the beginning,
    /// in whole spans, the folder has.
    pub(super) fn restore(&mut self, tokens: &[u32], cache: &mut KvCache, progress: &dyn Progress) -> usize {
        let found = self.find(tokens, progress);
        let whole = found.iter().filter(|span| span.tokens == SPAN).count() * SPAN;
        for (i, span) in found.iter().enumerate() {
            let start = i * SPAN;
            if start + span.common <= cache.len() {
                continue;
            }
            if let Err(error) = self.load(span, i, &tokens[start..], cache) {
                cache.truncate(start);
                self.discard(&span.path, &error, progress);
                return start;
            }
        }
        // A span is wanted whenever one behind it is: the first was used last.
        found.iter().rev().for_each(|span| self.folder.touch(&span.path));
        whole
    }

    /// The files that have the longest beginning of `tokens`.
    fn find(&self, tokens: &[u32], progress: &dyn Progress) -> Vec<Found> {
        let (names, mut found, mut parent) = (self.folder.names(), Vec::new(), self.root);
        loop {
            let rest = &tokens[found.len() * SPAN..];
            if let Some(span) = rest.get(..SPAN) {
                let this = child(&parent, span);
                let name = name(&parent, &this);
                if names.contains(&name) {
                    found.push(Found { path: self.folder.path(&name), tokens: SPAN, common: SPAN });
                    parent = this;
                    continue;
                }
            }
            let children = names.iter().filter(|name| name.starts_with(&short(&parent)));
            let candidates = children.filter_map(|of_child| {
                let path = self.folder.path(of_child);
                let of_name = |file: SpanFile| match name(&parent, &child(&parent, &file.tokens)) == *of_child {
                    true => Ok(file),
                    false => Err(file.damaged(OTHER_TOKENS)),
                };
                match SpanFile::open(&path, &self.root).and_then(of_name) {
                    Ok(file) => Some(Found { path, tokens: file.tokens.len(), common: common(&file.tokens, rest) }),
                    Err(error) => {
                        self.discard(&path, &error, progress);
                        None
                    }
                }
            });
            found.extend(candidates.max_by_key(|found| found.common).filter(|found| found.common > 0));
            return found;
        }
    }

    /// Removes a file that cannot be used, so that it is written anew; one that another process has removed is no news.
    fn discard(&self, path: &Path, error: &Error, progress: &dyn Progress) {
        if path.exists() {
            progress.warn(&format!("{error}; its tokens are computed instead"));
            self.folder.remove(path);
        }
    }

    /// Reads span `i`, of which the tokens `rest` are wanted as far as they are its own.
    fn load(&self, span: &Found, i: usize, rest: &[u32], cache: &mut KvCache) -> Result<()> {
        let mut file = SpanFile::open(&span.path, &self.root)?;
        if file.tokens.len() != span.tokens || common(&file.tokens, rest) < span.common {
            return Err(file.damaged(OTHER_TOKENS));
        }
        file.read(cache, i)?;
        cache.truncate(i * SPAN);
        cache.grow(span.common);
        Ok(())
    }

    /// Keeps the keys and values of `tokens` in `cache` from token `from` on, the first of a span: whole spans, and what is left of the
    /// sequence if it `ended`.
    pub(super) fn save(
        &mut self,
        tokens: &[u32],
        cache: &mut KvCache,
        from: usize,
        ended: bool,
        progress: &dyn Progress,
    ) {
        if self.is_broken || tokens.len() < WORTH_KEEPING {
            return;
        }
        if let Err(error) = self.try_save(tokens, cache, from, ended) {
            self.is_broken = true;
            progress.warn(&format!("{error}; prompts are kept no longer"));
        }
    }

    fn try_save(&self, tokens: &[u32], cache: &mut KvCache, from: usize, ended: bool) -> Result<()> {
        let (names, mut parent) = (self.folder.names(), self.root);
        for (i, span) in tokens.chunks(SPAN).enumerate() {
            let this = child(&parent, span);
            let name = name(&parent, &this);
            let wanted = i * SPAN >= from && (ended || span.len() == SPAN);
            if wanted && names.contains(&name) {
                self.folder.touch(&self.folder.path(&name));
            } else if wanted {
                let path = self.folder.path(&name);
                let mut sink = self.folder.create(&name)?;
                file::write(&mut sink, &path, &self.root, span, cache, i)?;
                self.folder.name(sink, &path)?;
                let shorter = names.iter().filter(|other| other.starts_with(&short(&parent)));
                for path in shorter.map(|other| self.folder.path(other)) {
                    let is_shorter = |file: SpanFile| file.tokens.len() < span.len() && span.starts_with(&file.tokens);
                    if SpanFile::open(&path, &self.root).is_ok_and(is_shorter) {
                        self.folder.remove(&path);
                    }
                }
            }
            parent = this;
        }
        self.folder.keep_within_limit();
        Ok(())
    }
}

/// A file with a beginning of the tokens that are looked for.
struct Found {
    path: PathBuf,
    tokens: usize, // that it has
    common: usize, // of these at its beginning that are looked for
}

/// The key of the span with these tokens behind `parent`.
fn child(parent: &Digest, tokens: &[u32]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(parent.to_string().as_bytes());
    tokens.iter().for_each(|token| hasher.update(&token.to_le_bytes()));
    hasher.digest()
}

/// Digits of a key in a name: 128 bits.
const DIGITS: usize = 32;

fn short(key: &Digest) -> String {
    key.to_string()[..DIGITS].to_owned()
}

fn name(parent: &Digest, this: &Digest) -> String {
    format!("{}-{}.kv", short(parent), short(this))
}

/// The error of a file that cannot be used.
fn damaged(path: &Path, problem: impl Into<String>) -> Error {
    Error::invalid(path, "prefix cache", problem, "it is removed")
}
