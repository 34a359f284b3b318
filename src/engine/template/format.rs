//! Formatting: `"..." % values` and `"...".format(values)`. minijinja does it, after checks that its result is bounded.

use super::budget::{Container, charge, container, wrong};
use super::text::str_of;
use minijinja::formatting::{FormatStyle, format};
use minijinja::{Error, State, Value};

/// The widest field in characters.
const WIDEST: usize = 9999;

/// `text % values`.
pub(super) fn printf(state: &State, text: &str, values: &[Value]) -> Result<String, Error> {
    formatted(state, FormatStyle::Printf, '%', text, values)
}

/// `text.format(values)`.
pub(super) fn str_format(state: &State, text: &str, values: &[Value]) -> Result<String, Error> {
    formatted(state, FormatStyle::StrFormat, '{', text, values)
}

fn formatted(state: &State, style: FormatStyle, mark: char, text: &str, values: &[Value]) -> Result<String, Error> {
    if text.contains('*') && style == FormatStyle::Printf || text.contains(":{") {
        return Err(wrong("the width of a formatted value must be written out"));
    }
    let mut width = 0usize;
    for digits in text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()) {
        match digits.parse::<usize>() {
            Ok(number) if number <= WIDEST => width += number,
            _ => return Err(wrong(format!("a formatted value would be wider than {WIDEST} characters"))),
        }
    }
    let values = values.iter().map(|value| plain(state, value)).collect::<Result<Vec<_>, _>>()?;
    let longest = values.iter().map(longest).max().unwrap_or(0);
    let fields = text.matches(mark).count();
    charge(state, fields.saturating_mul(longest).saturating_add(4 * width).saturating_add(text.len()))?;
    format(style, text, &values)
}

/// The value with containers as their texts, which are paid for.
fn plain(state: &State, value: &Value) -> Result<Value, Error> {
    match container(value) {
        Container::None => Ok(value.clone()),
        Container::Map(map) if value.is_kwargs() || map.try_iter_pairs().is_some() => {
            let pairs = map.try_iter_pairs().into_iter().flatten();
            let pairs = pairs.map(|(key, value)| match container(&value) {
                Container::None => Ok((key, value)),
                _ => Ok((key, Value::from(str_of(state, &value)?))),
            });
            let pairs = pairs.collect::<Result<Vec<_>, Error>>()?;
            if value.is_kwargs() {
                let named = pairs.into_iter().filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value)));
                return Ok(named.collect::<minijinja::value::Kwargs>().into());
            }
            Ok(Value::from_pairs(pairs))
        }
        _ => str_of(state, value).map(Value::from),
    }
}

/// Bytes that a field with this value may take.
fn longest(value: &Value) -> usize {
    match container(value) {
        Container::Map(map) => {
            let values = map.try_iter_pairs().into_iter().flatten();
            values.map(|(key, value)| longest(&key) + longest(&value) + 8).sum()
        }
        _ => 6 * value.as_str().map_or(64, str::len),
    }
}
