//! JSON values with their file and key, which the error of a wrong type names.

use crate::error::{Error, Result, quoted};
use serde_json::{Map, Value as Json};
use std::path::Path;

/// A value of a JSON file with its key, or the key of a missing value.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    path: &'a Path,
    place: String,
    value: Option<&'a Json>,
}

impl<'a> Node<'a> {
    /// The whole file at `path`; `None` if it is not there.
    pub fn root(path: &'a Path, value: Option<&'a Json>) -> Node<'a> {
        Node { path, place: String::new(), value }
    }

    /// The value of a key; of anything but an object, a missing one.
    pub fn get(&self, key: &str) -> Node<'a> {
        let place = if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) };
        Node { path: self.path, place, value: self.value.and_then(|value| value.get(key)) }
    }

    /// Whether there is no value: the key is absent or its value null.
    pub fn is_none(&self) -> bool {
        self.value.is_none_or(Json::is_null)
    }

    /// An error about this value.
    pub fn bad(&self, problem: impl Into<String>, remedy: &str) -> Error {
        let place = if self.place.is_empty() { "file".to_owned() } else { format!("\"{}\"", self.place) };
        Error::invalid(self.path, place, problem, remedy)
    }

    /// The error of a setting that GGUF cannot express.
    pub fn refuse(&self, what: impl std::fmt::Display) -> Error {
        self.bad(format!("{what}, which GGUF cannot express"), "use a checkpoint whose tokenizer does without it")
    }

    fn wrong(&self, wanted: &str) -> Error {
        match self.value {
            None => self.bad(format!("is missing; it must be {wanted}"), "get the file again"),
            Some(value) => self.bad(format!("is {}, not {wanted}", shown(value)), "get the file again"),
        }
    }

    /// An object.
    pub fn object(&self) -> Result<&'a Map<String, Json>> {
        self.value.and_then(Json::as_object).ok_or_else(|| self.wrong("an object"))
    }

    /// An array, as it stands.
    pub fn array(&self) -> Result<&'a [Json]> {
        self.value.and_then(Json::as_array).map(Vec::as_slice).ok_or_else(|| self.wrong("a list"))
    }

    /// The elements of an array.
    pub fn list(&self) -> Result<Vec<Node<'a>>> {
        let element = |(i, value)| Node { path: self.path, place: format!("{}[{i}]", self.place), value: Some(value) };
        Ok(self.array()?.iter().enumerate().map(element).collect())
    }

    /// A string.
    pub fn text(&self) -> Result<&'a str> {
        self.value.and_then(Json::as_str).ok_or_else(|| self.wrong("a string"))
    }

    /// A string, or nothing.
    pub fn opt_text(&self) -> Result<Option<&'a str>> {
        if self.is_none() { Ok(None) } else { self.text().map(Some) }
    }

    /// The text of a token, which may be an object with its content; or nothing.
    pub fn opt_content(&self) -> Result<Option<&'a str>> {
        if self.value.is_some_and(Json::is_object) { self.get("content").text().map(Some) } else { self.opt_text() }
    }

    /// True or false; an absent key is `default`, null is neither.
    pub fn flag(&self, default: bool) -> Result<bool> {
        match self.value {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong("true or false")),
        }
    }

    /// True, false, or nothing.
    pub fn opt_flag(&self) -> Result<Option<bool>> {
        if self.is_none() { Ok(None) } else { self.flag(false).map(Some) }
    }

    /// The number of one of `n` tokens.
    pub fn id(&self, n: usize) -> Result<u32> {
        let id = self.value.and_then(Json::as_u64).filter(|&id| id < n as u64).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| self.wrong(&format!("the number of a token, from 0 to {}", n.saturating_sub(1))))
    }

    /// The value itself.
    pub fn value(&self) -> Option<&'a Json> {
        self.value
    }
}

/// A value as error messages show it: its type, and its text where that is short.
pub(super) fn shown(value: &Json) -> String {
    match value {
        Json::Object(_) => "an object".to_owned(),
        Json::Array(_) => "a list".to_owned(),
        Json::String(text) => format!("the string {}", quoted(text)),
        other => other.to_string(),
    }
}
