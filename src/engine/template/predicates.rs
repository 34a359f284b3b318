//! The tests of Jinja: what stands behind `is`.

use super::args::Args;
use super::budget::{Container, container, wrong};
use super::operators::{compare, contains, equal};
use super::text::f64_of;
use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};
use std::cmp::Ordering;

/// Whether something holds for a value.
pub(super) type Test = fn(&mut State, &Value, &Args<'_>) -> Result<bool, Error>;

/// All of them.
pub(super) const TESTS: &[(&str, Test)] = &[
    ("!=", |state, value, args| equal(state, value, &args.need(0, "other")?).map(|equal| !equal)),
    ("<", |state, value, args| ordered(state, value, args, Ordering::is_lt)),
    ("<=", |state, value, args| ordered(state, value, args, Ordering::is_le)),
    ("==", |state, value, args| equal(state, value, &args.need(0, "other")?)),
    (">", |state, value, args| ordered(state, value, args, Ordering::is_gt)),
    (">=", |state, value, args| ordered(state, value, args, Ordering::is_ge)),
    ("boolean", |_, value, _| Ok(value.kind() == ValueKind::Bool)),
    ("callable", |_, value, _| Ok(value.kind() == ValueKind::Plain)),
    ("defined", |_, value, _| Ok(!value.is_undefined())),
    ("divisibleby", |_, value, args| match (value.as_i64(), args.int(0, "num")?) {
        (Some(value), Some(by)) if by != 0 => Ok(value.checked_rem(by) == Some(0)),
        _ => Err(wrong("divisibleby takes integers, and no zero")),
    }),
    ("eq", |state, value, args| equal(state, value, &args.need(0, "other")?)),
    ("equalto", |state, value, args| equal(state, value, &args.need(0, "other")?)),
    ("escaped", |_, _, _| Ok(false)),
    ("even", |_, value, _| parity(value).map(|odd| !odd)),
    ("false", |_, value, _| Ok(value.kind() == ValueKind::Bool && !value.is_true())),
    ("filter", |_, value, _| Ok(super::filters::FILTERS.iter().any(|(name, _)| value.as_str() == Some(name)))),
    ("float", |_, value, _| Ok(value.is_number() && !value.is_integer())),
    ("ge", |state, value, args| ordered(state, value, args, Ordering::is_ge)),
    ("greaterthan", |state, value, args| ordered(state, value, args, Ordering::is_gt)),
    ("gt", |state, value, args| ordered(state, value, args, Ordering::is_gt)),
    ("in", |state, value, args| contains(state, &args.need(0, "seq")?, value)),
    ("integer", |_, value, _| Ok(value.kind() == ValueKind::Number && value.is_integer())),
    ("iterable", |_, value, _| {
        Ok(is_container(value) || matches!(value.kind(), ValueKind::String | ValueKind::Undefined))
    }),
    ("le", |state, value, args| ordered(state, value, args, Ordering::is_le)),
    ("lessthan", |state, value, args| ordered(state, value, args, Ordering::is_lt)),
    ("lower", |_, value, _| Ok(value.as_str().is_some_and(|text| cased(text, char::is_uppercase, char::is_lowercase)))),
    ("lt", |state, value, args| ordered(state, value, args, Ordering::is_lt)),
    ("mapping", |_, value, _| Ok(matches!(container(value), Container::Map(_)))),
    ("ne", |state, value, args| equal(state, value, &args.need(0, "other")?).map(|equal| !equal)),
    ("none", |_, value, _| Ok(value.is_none())),
    ("number", |_, value, _| Ok(matches!(value.kind(), ValueKind::Number | ValueKind::Bool))),
    ("odd", |_, value, _| parity(value)),
    ("sameas", |state, value, args| {
        let other = args.need(0, "other")?;
        Ok(value.kind() == other.kind() && equal(state, value, &other)?)
    }),
    ("sequence", |_, value, _| {
        Ok(is_container(value) || matches!(value.kind(), ValueKind::String | ValueKind::Undefined))
    }),
    ("string", |_, value, _| Ok(value.as_str().is_some())),
    ("test", |_, value, _| Ok(TESTS.iter().any(|(name, _)| value.as_str() == Some(name)))),
    ("true", |_, value, _| Ok(value.kind() == ValueKind::Bool && value.is_true())),
    ("undefined", |_, value, _| Ok(value.is_undefined())),
    ("upper", |_, value, _| Ok(value.as_str().is_some_and(|text| cased(text, char::is_lowercase, char::is_uppercase)))),
];

fn is_container(value: &Value) -> bool {
    !matches!(container(value), Container::None)
}

fn ordered(state: &State, value: &Value, args: &Args<'_>, holds: fn(Ordering) -> bool) -> Result<bool, Error> {
    Ok(compare(state, value, &args.need(0, "other")?)?.is_some_and(holds))
}

/// Whether a number is odd.
fn parity(value: &Value) -> Result<bool, Error> {
    let number = f64_of(value).ok_or_else(|| wrong("only numbers are odd or even"))?;
    Ok(number.rem_euclid(2.0) == 1.0)
}

/// Whether a text has letters, and all of one case.
fn cased(text: &str, other: fn(char) -> bool, case: fn(char) -> bool) -> bool {
    text.chars().any(case) && !text.chars().any(other)
}
