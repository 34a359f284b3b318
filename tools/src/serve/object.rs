//! Objects of a request, read field by field: a value of the wrong type or range is refused by the field's name. `null` is no value.

use super::refusal::{Refusal, Result};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use strata::engine::sampling::{NumberRange, wanted};
use strata::error::quoted;

/// An object of the request, and where it is.
#[derive(Clone)]
pub struct Object<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

/// What a value is, as a message says it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// A refusal of a value.
pub fn wrong(name: impl Into<String>, value: &Value, wanted: &str) -> Refusal {
    Refusal::field(name, format!("is {}, not {wanted}", shown(value)))
}

/// The integer that a number is; JSON does not tell 1 from 1.0.
fn whole(value: &Value) -> Option<i128> {
    let integer = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    integer.or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i128))
}

impl<'a> Object<'a> {
    /// The body of a request.
    pub fn body(value: &'a Value) -> Result<Object<'a>> {
        match value {
            Value::Object(map) => Ok(Object { map, path: String::new() }),
            _ => Err(Refusal::request(format!("the body is {}, not an object", shown(value)))),
        }
    }

    /// A value named `name`, which must be an object.
    pub fn of(value: &'a Value, name: impl Into<String>) -> Result<Object<'a>> {
        let name = name.into();
        match value {
            Value::Object(map) => Ok(Object { map, path: name + "." }),
            _ => Err(wrong(name, value, "an object")),
        }
    }

    /// The full name of a field.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// The fields.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// A field of any type.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn read<T>(&self, key: &str, wanted: &str, of: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        of(value).map(Some).ok_or_else(|| wrong(self.name(key), value, wanted))
    }

    /// The refusal of a request without a field.
    pub fn missing(&self, key: &str) -> Refusal {
        Refusal::field(self.name(key), "is missing").code("missing_required_parameter")
    }

    /// A field that must be there.
    pub fn required<T>(&self, key: &str, value: Result<Option<T>>) -> Result<T> {
        value?.ok_or_else(|| self.missing(key))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a text", Value::as_str)
    }

    /// A text that must be there.
    pub fn required_text(&self, key: &str) -> Result<&'a str> {
        self.required(key, self.text(key))
    }

    /// One of some words.
    pub fn word(&self, key: &str, known: &[&'static str]) -> Result<Option<&'static str>> {
        let wanted = format!("one of {}", known.join(", "));
        self.read(key, &wanted, |value| known.iter().find(|word| Some(**word) == value.as_str()).copied())
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// An integer in a range.
    pub fn whole(&self, key: &str, range: RangeInclusive<i128>) -> Result<Option<i128>> {
        let wanted = format!("an integer from {} to {}", range.start(), range.end());
        self.read(key, &wanted, |value| whole(value).filter(|n| range.contains(n)))
    }

    /// A number of things, at least `least` and at most `most`.
    pub fn count(&self, key: &str, least: usize, most: usize) -> Result<Option<usize>> {
        Ok(self.whole(key, least as i128..=most as i128)?.map(|n| n as usize))
    }

    /// A number in a range.
    pub fn number(&self, key: &str, range: &NumberRange) -> Result<Option<f32>> {
        // Checked as it was written: what is beyond the range must not round into it.
        let inside = |x: f64| x >= f64::from(*range.start()) && x <= f64::from(*range.end());
        self.read(key, &wanted(range), |value| value.as_f64().filter(|&x| inside(x)).map(|x| x as f32))
    }

    /// A list of at most `most` values.
    pub fn list(&self, key: &str, most: usize) -> Result<Option<&'a [Value]>> {
        let Some(list) = self.read(key, "a list", |value| value.as_array())? else { return Ok(None) };
        match list.len() <= most {
            true => Ok(Some(list)),
            false => Err(Refusal::field(self.name(key), format!("has {} values; give at most {most}", list.len()))),
        }
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>> {
        self.get(key).map(|value| Object::of(value, self.name(key))).transpose()
    }

    /// A list of at most `most` objects, each of which knows its place.
    pub fn objects(&self, key: &str, most: usize) -> Result<Option<Vec<Object<'a>>>> {
        let Some(list) = self.list(key, most)? else { return Ok(None) };
        let one = |(i, value)| Object::of(value, format!("{}[{i}]", self.name(key)));
        list.iter().enumerate().map(one).collect::<Result<_>>().map(Some)
    }

    /// A text, or a list of at most `most` texts.
    pub fn texts(&self, key: &str, most: usize) -> Result<Option<Vec<String>>> {
        if let Some(Value::String(text)) = self.get(key) {
            return Ok(Some(vec![text.clone()]));
        }
        if self.get(key).is_some_and(|value| !value.is_array()) {
            return Err(wrong(self.name(key), &self.map[key], "a text or a list of texts"));
        }
        let Some(list) = self.list(key, most)? else { return Ok(None) };
        let one = |(i, value): (usize, &Value)| match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(wrong(format!("{}[{i}]", self.name(key)), other, "a text")),
        };
        list.iter().enumerate().map(one).collect::<Result<_>>().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use strata::engine::sampling::PROBABILITIES;

    #[test]
    fn a_wrong_value_is_refused_by_the_name_of_its_field() {
        let value = json!({"n": -1, "big": 18446744073709551615u64, "one": 1.0, "p": 1.00000000001, "none": null, "t": 3, "in": {"x": []}});
        let body = Object::body(&value).unwrap();
        assert_eq!(body.whole("n", 0..=8).unwrap_err().message, "n: is -1, not an integer from 0 to 8");
        assert_eq!(body.whole("big", 0..=8).unwrap_err().param.as_deref(), Some("big"));
        assert_eq!(body.count("one", 1, 8).unwrap(), Some(1));
        assert!(body.number("p", &PROBABILITIES).unwrap_err().message.contains("from 0 to 1"));
        assert_eq!(body.text("none").unwrap(), None);
        assert!(body.text("t").unwrap_err().message.starts_with("t: is 3, not a text"));
        let inner = body.object("in").unwrap().unwrap();
        assert_eq!(inner.text("x").unwrap_err().param.as_deref(), Some("in.x"));
        assert!(inner.required_text("y").unwrap_err().message.contains("in.y: is missing"));
        assert!(Object::body(&json!([1])).is_err());
    }
}
