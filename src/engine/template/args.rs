//! The arguments of a filter, method or function: by place or by name, as in Python.

use super::budget::wrong;
use minijinja::value::DynObject;
use minijinja::{Error, Value};

/// Arguments of a call.
pub(super) struct Args<'a> {
    values: &'a [Value],
    named: Option<&'a DynObject>,
}

impl<'a> Args<'a> {
    /// Of a call with these values, of which the last may hold those by name.
    pub(super) fn new(values: &'a [Value]) -> Args<'a> {
        match values.split_last() {
            Some((last, values)) if last.is_kwargs() => Args { values, named: last.as_object() },
            _ => Args { values, named: None },
        }
    }

    /// The arguments after the first `n`.
    pub(super) fn after(&self, n: usize) -> Args<'a> {
        Args { values: self.values.get(n..).unwrap_or_default(), named: self.named }
    }

    /// All by place.
    pub(super) fn values(&self) -> &'a [Value] {
        self.values
    }

    /// All by name.
    pub(super) fn named(&self) -> Vec<(Value, Value)> {
        self.named.and_then(|named| named.try_iter_pairs()).into_iter().flatten().collect()
    }

    /// The argument at place `i`, or called `name`.
    pub(super) fn get(&self, i: usize, name: &str) -> Option<Value> {
        self.values.get(i).cloned().or_else(|| self.named?.get_value(&Value::from(name)))
    }

    /// The same, which must be there.
    pub(super) fn need(&self, i: usize, name: &str) -> Result<Value, Error> {
        self.get(i, name).ok_or_else(|| wrong(format!("the argument {name} is missing")))
    }

    /// The text at place `i`, or called `name`.
    pub(super) fn text(&self, i: usize, name: &str) -> Result<Option<Value>, Error> {
        match self.get(i, name) {
            None => Ok(None),
            Some(value) if value.is_none() => Ok(None),
            Some(value) if value.as_str().is_some() => Ok(Some(value)),
            Some(_) => Err(wrong(format!("the argument {name} is no string"))),
        }
    }

    /// The integer at place `i`, or called `name`.
    pub(super) fn int(&self, i: usize, name: &str) -> Result<Option<i64>, Error> {
        match self.get(i, name) {
            None => Ok(None),
            Some(value) if value.is_none() => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| wrong(format!("the argument {name} is no integer"))),
        }
    }

    /// The truth of the argument at place `i`, or called `name`.
    pub(super) fn flag(&self, i: usize, name: &str, default: bool) -> bool {
        self.get(i, name).map_or(default, |value| value.is_true())
    }
}
