//! Strict reading of a checkpoint's JSON files: a duplicate key, a value of the wrong type, and a number that the target type cannot hold
//! are errors that name the file, the key and the value.

use crate::error::{Error, Result, quoted};
use crate::io::content::{Content, content};
use crate::io::file::read_regular;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value as Json};
use std::fmt;
use std::path::Path;

/// The most bytes of a JSON file. The largest tokenizers have 35 MB; a parsed file takes up to twenty times its length.
const LONGEST: u64 = 64 << 20;

/// Reads a JSON file without duplicate keys; `None` if it does not exist.
///
/// # Errors
/// If it is not a regular file, longer than 64 MiB, not JSON, or has an object with a duplicate key.
pub(crate) fn read_json(path: &Path) -> Result<Option<Json>> {
    let Some(text) = read_optional(path, LONGEST)? else { return Ok(None) };
    parse(&text).map(Some).map_err(|error| match content(&text).filter(|content| *content != Content::Json) {
        Some(content) => content.error(path, "JSON"),
        None => {
            let place = format!("line {} column {}", error.line(), error.column());
            Error::invalid(path, place, format!("is not valid JSON ({error})"), "get the file again")
        }
    })
}

/// Reads JSON without duplicate keys.
///
/// # Errors
/// If it is not that.
pub(crate) fn parse(text: &[u8]) -> serde_json::Result<Json> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    Unique.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value))
}

/// The contents of a regular file of at most `limit` bytes; `None` if it does not exist.
pub(crate) fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match read_regular(path, limit) {
        Ok(text) => Ok(Some(text)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Builds a value as serde_json does, except that a duplicate key is an error: serde_json silently keeps the last.
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> std::result::Result<Json, E> {
        Ok(Json::Bool(flag))
    }

    fn visit_u64<E>(self, n: u64) -> std::result::Result<Json, E> {
        Ok(n.into())
    }

    fn visit_i64<E>(self, n: i64) -> std::result::Result<Json, E> {
        Ok(n.into())
    }

    fn visit_f64<E: serde::de::Error>(self, x: f64) -> std::result::Result<Json, E> {
        Number::from_f64(x).map(Json::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Json, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> std::result::Result<Json, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Unique)? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> std::result::Result<Json, A::Error> {
        /// What serde_json calls a number where a dependency has switched its `arbitrary_precision` on, as gguf-rs does.
        const NUMBER: &str = "$serde_json::private::Number";
        let mut map = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if key == NUMBER {
                return object.next_value::<String>()?.parse().map(Json::Number).map_err(A::Error::custom);
            }
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("key {} is given twice", quoted(&key))));
            }
            map.insert(key, object.next_value_seed(Unique)?);
        }
        Ok(Json::Object(map))
    }
}

/// An object of a JSON file, whose members are read by key and type.
///
/// A key that is absent is `None` to the methods called `opt_`, and an error to the others. `null` is a wrong value like any other, except
/// under the keys for which it was declared to mean "absent".
#[derive(Clone)]
pub(crate) struct Object<'a> {
    file: &'a Path,
    prefix: String, // of the keys in messages, as "rope_scaling."
    map: &'a Map<String, Json>,
    nullable: &'static [&'static str],
}

impl<'a> Object<'a> {
    /// The top-level object of a file; `nullable` are the keys under which `null` means "absent".
    ///
    /// # Errors
    /// If the file is not an object.
    pub fn of_file(file: &'a Path, json: &'a Json, nullable: &'static [&'static str]) -> Result<Object<'a>> {
        let map = json.as_object().ok_or_else(|| {
            let problem = format!("must be an object, is {}", shown(json));
            Error::invalid(file, "file", problem, "get the file again from the model's page")
        })?;
        Ok(Object { file, prefix: String::new(), map, nullable })
    }

    /// The same object, found at a place in the file that errors name.
    pub fn inside(&self, place: &str) -> Object<'a> {
        Object { prefix: format!("{place}: {}", self.prefix), ..self.clone() }
    }

    /// The same object, with other keys under which `null` means "absent".
    pub fn with_nullable(&self, nullable: &'static [&'static str]) -> Object<'a> {
        Object { nullable, ..self.clone() }
    }

    /// The value of a key; `None` if it is absent, or `null` under a nullable key.
    pub fn get(&self, key: &str) -> Option<&'a Json> {
        self.map.get(key).filter(|value| !(value.is_null() && self.nullable.contains(&key)))
    }

    /// The keys of the object.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// The error of a key, with a remedy.
    pub fn refused(&self, key: &str, problem: impl Into<String>, remedy: &str) -> Error {
        Error::invalid(self.file, quoted(&format!("{}{key}", self.prefix)), problem, remedy)
    }

    /// The error of a key in a damaged file.
    pub fn wrong(&self, key: &str, problem: impl Into<String>) -> Error {
        self.refused(key, problem, "get the file again from the model's page")
    }

    /// The value of a key as `read` converts it; `wanted` names the type in the error, as "a list".
    fn typed<T>(&self, key: &str, wanted: &str, read: impl FnOnce(&'a Json) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(key, format!("must be {wanted}, is {}", shown(value))))
    }

    /// A boolean.
    pub fn opt_flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Json::as_bool)
    }

    /// A string.
    pub fn opt_text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a text", Json::as_str)
    }

    /// A list of any values.
    pub fn opt_list(&self, key: &str) -> Result<Option<&'a [Json]>> {
        self.typed(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// An object inside this one.
    pub fn opt_object(&self, key: &str) -> Result<Option<Object<'a>>> {
        let map = self.typed(key, "an object", Json::as_object)?;
        Ok(map.map(|map| Object { map, prefix: format!("{}{key}.", self.prefix), ..self.clone() }))
    }

    /// An integer from 1 to 2^31.
    pub fn opt_count(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a count from 1 on", |value| match value.as_u64()? {
            n @ 1..=0x8000_0000 => Some(n as usize), // at most 2^31, which every usize holds
            _ => None,
        })
    }

    /// [`Object::opt_count`], or an error if the key is absent.
    pub fn count(&self, key: &str) -> Result<usize> {
        self.required(key, self.opt_count(key)?)
    }

    /// An integer that an i32 holds.
    pub fn opt_i32(&self, key: &str) -> Result<Option<i32>> {
        self.typed(key, "an integer of 32 bits", |value| value.as_i64()?.try_into().ok())
    }

    /// A number that rounds to a finite f32, and not to zero unless it is zero.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        let Some(wide) = self.typed(key, "a number", Json::as_f64)? else { return Ok(None) };
        let x = wide as f32; // checked in the next lines
        match () {
            _ if !x.is_finite() => Err(self.wrong(key, format!("{wide:e} is more than a 32-bit float holds"))),
            _ if x == 0.0 && wide != 0.0 => Err(self.wrong(key, format!("{wide:e} is 0 as a 32-bit float"))),
            _ => Ok(Some(x)),
        }
    }

    /// A number above 0, as [`Object::opt_f32`].
    pub fn opt_positive(&self, key: &str) -> Result<Option<f32>> {
        match self.opt_f32(key)? {
            Some(x) if x <= 0.0 => Err(self.wrong(key, format!("must be above 0, is {x}"))),
            x => Ok(x),
        }
    }

    /// [`Object::opt_positive`], or an error if the key is absent.
    pub fn positive(&self, key: &str) -> Result<f32> {
        self.required(key, self.opt_positive(key)?)
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.wrong(key, "the key is missing"))
    }
}

/// A value as error messages show it: its type where that is not obvious, and at most 200 characters of text.
pub(crate) fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => format!("the text {}", quoted(text)),
        Json::Array(list) => format!("a list of {} values", list.len()),
        Json::Object(object) => format!("an object of {} keys", object.len()),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &[u8]) -> Result<Option<Json>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f.json"), text).unwrap();
        read_json(&folder.path().join("f.json"))
    }

    #[test]
    fn a_file_is_read_as_serde_json_reads_it() {
        let text = r#" {"a": [1, -2, 3.5, 18446744073709551615, 1e300], "b": {"a": "\u00e9\ud83d\ude00", "": null}, "c": true} "#;
        assert_eq!(read(text.as_bytes()).unwrap(), Some(serde_json::from_str(text).unwrap()));
        assert_eq!(read_json(Path::new("/nowhere/f.json")).unwrap(), None);
    }

    #[test]
    fn files_that_say_two_things_or_nothing_are_refused() {
        for (text, words) in [
            (r#"{"a": 1, "a": 1}"#, &["line 1", "\"a\" is given twice"][..]),
            ("{\"x\": [{\"b\": {\"c\": 1,\n\"d\": 2, \"\\u0063\": 3}}]}", &["line 2", "\"c\" is given twice"]),
            ("", &["not valid JSON"]),
            ("{} {}", &["line 1", "trailing"]),
            ("[NaN]", &["line 1"]),
            ("[1e400]", &["out of range"]),
            ("{\"a\": \"\u{1}\"}", &["control character"]),
            ("\u{feff}{}", &["line 1"]),
            ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", &["Git LFS", "git lfs pull"]),
            ("<!DOCTYPE html>\n<html>", &["web page"]),
        ] {
            let said = read(text.as_bytes()).unwrap_err().to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{text:?}: {said}");
        }
        assert!(read(&[b'[', b'"', 0xff, b'"', b']']).is_err());
        // Deep nesting is an error, not the end of the stack.
        assert!(read("[".repeat(1 << 20).as_bytes()).unwrap_err().to_string().contains("recursion"));
    }

    #[test]
    #[cfg(unix)]
    fn what_is_not_a_regular_file_or_too_long_is_refused_at_once() {
        assert!(read_json(Path::new("/dev/zero")).unwrap_err().to_string().contains("not a regular file"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.json");
        std::fs::File::create(&path).unwrap().set_len(2 << 30).unwrap();
        assert!(read_json(&path).unwrap_err().to_string().contains("has 2147483648 bytes"));
    }

    #[test]
    fn members_have_the_type_that_is_asked_for_or_are_refused() {
        let path = Path::new("config.json");
        let json = json!({
            "text": "32", "null": null, "absent": null, "float": 1.5, "whole": 2.0, "zero": 0, "minus": -1, "big": 4294967300u64,
            "huge": 1e60, "tiny": 1e-60, "most": 3.4e38, "list": [1], "object": {"inner": "x"}, "flag": true, "long": "y".repeat(1 << 20),
        });
        let object = Object::of_file(path, &json, &["absent"]).unwrap();
        assert_eq!(object.opt_f32("most").unwrap(), Some(3.4e38));
        assert_eq!(object.opt_f32("zero").unwrap(), Some(0.0));
        assert_eq!(object.opt_f32("minus").unwrap(), Some(-1.0));
        assert_eq!(object.opt_count("absent").unwrap(), None);
        assert_eq!(object.opt_flag("none").unwrap(), None);
        assert_eq!(object.opt_i32("minus").unwrap(), Some(-1));
        type Ask = fn(&Object<'_>, &str) -> Result<()>;
        let f32: Ask = |o, key| o.opt_f32(key).map(drop);
        let positive: Ask = |o, key| o.opt_positive(key).map(drop);
        let count: Ask = |o, key| o.opt_count(key).map(drop);
        let i32: Ask = |o, key| o.opt_i32(key).map(drop);
        let flag: Ask = |o, key| o.opt_flag(key).map(drop);
        let text: Ask = |o, key| o.opt_text(key).map(drop);
        let list: Ask = |o, key| o.opt_list(key).map(drop);
        let object_of: Ask = |o, key| o.opt_object(key).map(drop);
        let inner: Ask = |o, key| o.opt_object(key)?.unwrap().opt_f32("inner").map(drop);
        let needed: Ask = |o, key| o.positive(key).map(drop);
        let cases: &[(Ask, &str, &[&str])] = &[
            (f32, "text", &["\"text\"", "must be a number", "the text \"32\""]),
            (f32, "null", &["is null"]),
            (f32, "flag", &["is true"]),
            (f32, "huge", &["1e60", "more than a 32-bit float"]),
            (f32, "tiny", &["1e-60", "is 0 as"]),
            (positive, "zero", &["above 0"]),
            (positive, "minus", &["above 0", "-1"]),
            (count, "zero", &["must be a count", "is 0"]),
            (count, "minus", &["is -1"]),
            (count, "whole", &["is 2.0"]),
            (count, "big", &["4294967300"]),
            (count, "flag", &["is true"]),
            (i32, "big", &["4294967300"]),
            (i32, "float", &["1.5"]),
            (flag, "zero", &["true or false", "is 0"]),
            (flag, "null", &["null"]),
            (text, "list", &["must be a text", "a list of 1 values"]),
            (text, "object", &["an object of 1 keys"]),
            (list, "text", &["must be a list"]),
            (object_of, "long", &["must be an object", "yyy"]),
            (inner, "object", &["\"object.inner\"", "the text \"x\""]),
            (needed, "none", &["\"none\"", "missing"]),
            (needed, "absent", &["\"absent\"", "missing"]),
        ];
        for (ask, key, words) in cases {
            let said = ask(&object, key).unwrap_err().to_string();
            assert!(said.starts_with("config.json: ") && words.iter().all(|word| said.contains(word)), "{key}: {said}");
            assert!(said.len() < 500, "{key}: {said}");
        }
        assert!(Object::of_file(path, &json!([1]), &[]).is_err());
    }
}
