//! What a template finds: filters, tests, functions, operators. Nothing of it reads files, the clock or the environment.

use super::args::Args;
use super::budget::{Namespace, charge_items, wrong};
use super::compile::GENERATION;
use super::filters::FILTERS;
use super::operators::{self, OPERATORS, dict};
use super::predicates::TESTS;
use super::text::{Text, str_of};
use super::{methods, moment};
use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value};
use std::fmt;

/// What `raise_exception` of a template says.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// The name of the variable with the two characters that mark what an assistant says; no template can name it.
pub(super) const MARKS: &str = "marks of generation";

/// The name of the variable with the seconds since 1970 that `strftime_now` shows.
pub(super) const NOW: &str = "now in seconds";

/// The most items of a range, as in Jinja's sandbox.
const LONGEST_RANGE: i64 = 100_000;

/// An environment with so much fuel for a rendering.
pub(super) fn environment(fuel: u64) -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(fuel));
    env.set_formatter(|out, state, value| {
        let text = match value.as_str() {
            Some(text) => return out.write_str(text).map_err(Error::from),
            None => str_of(state, value)?,
        };
        out.write_str(&text).map_err(Error::from)
    });
    for &(name, filter) in FILTERS {
        env.add_filter(name, move |state: &mut State, value: &Value, rest: Rest<ValueOrKwargs>| {
            filter(state, value, &Args::new(&rest.into_values()))
        });
    }
    for &(name, test) in TESTS {
        env.add_test(name, move |state: &mut State, value: &Value, rest: Rest<ValueOrKwargs>| {
            test(state, value, &Args::new(&rest.into_values()))
        });
    }
    let more: [(&str, operators::Operator); 11] = [
        ("x[i]", operators::item),
        ("x[i:j]", operators::slice),
        ("x.name", operators::attribute),
        ("x.name = y", operators::set_attribute),
        ("x.name()", methods::call),
        ("dict", |state, values| match Args::new(values).get(0, "") {
            Some(value) if value.as_object().is_some() => {
                let pairs = super::budget::pairs(state, &value)?.into_iter().chain(Args::new(values).named());
                dict(state, pairs)
            }
            _ => dict(state, Args::new(values).named().into_iter()),
        }),
        ("namespace", namespace),
        ("range", range),
        ("raise_exception", |state, values| {
            let said = str_of(state, &Args::new(values).need(0, "message")?)?;
            Err(wrong("the template refuses").with_source(Refusal(said)))
        }),
        ("strftime_now", |state, values| {
            let format = Args::new(values).text(0, "format")?.ok_or_else(|| wrong("strftime_now takes a format"))?;
            let seconds = state.lookup(NOW).and_then(|now| now.as_i64()).unwrap_or(0);
            moment::strftime(seconds, format.as_str().unwrap_or_default()).map(Value::from).map_err(wrong)
        }),
        (GENERATION, generation),
    ];
    for (name, function) in OPERATORS.iter().copied().chain(more) {
        env.add_function(name, move |state: &mut State, rest: Rest<ValueOrKwargs>| {
            function(state, &rest.into_values())
        });
    }
    env
}

fn namespace(state: &mut State, values: &[Value]) -> Result<Value, Error> {
    let (args, namespace) = (Args::new(values), Namespace::default());
    let first = match args.get(0, "") {
        Some(map) => super::budget::pairs(state, &map)?,
        None => Vec::new(),
    };
    for (name, value) in first.into_iter().chain(args.named()) {
        namespace.set(state, name.as_str().ok_or_else(|| wrong("a variable's name is a string"))?, &value)?;
    }
    Ok(Value::from_object(namespace))
}

fn range(state: &mut State, values: &[Value]) -> Result<Value, Error> {
    let args = Args::new(values);
    let first = args.int(0, "start")?.ok_or_else(|| wrong("range takes an integer"))?;
    let (start, stop) = args.int(1, "stop")?.map_or((0, first), |stop| (first, stop));
    let step = args.int(2, "step")?.unwrap_or(1);
    if step == 0 {
        return Err(wrong("a range cannot have a step of 0"));
    }
    let distance = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) }.max(0);
    let count = (distance as u64).div_ceil(step.unsigned_abs()) as i64;
    if count > LONGEST_RANGE {
        return Err(wrong(format!("a range has more than {LONGEST_RANGE} items")));
    }
    charge_items(state, count as usize)?;
    Ok((0..count).map(|i| Value::from(start + i * step)).collect())
}

/// The block of `{% generation %}`, between marks if there are any.
fn generation(state: &mut State, values: &[Value]) -> Result<Value, Error> {
    let caller = Args::new(values).need(0, "caller")?;
    let said = caller.call(state, &[])?;
    let Some(marks) = state.lookup(MARKS) else { return Ok(said) };
    let (mut text, marks) = (Text::new(state), marks.as_str().unwrap_or_default());
    let middle = marks.chars().next().map_or(0, char::len_utf8);
    text.push(&marks[..middle])?;
    text.push_str_of(&said)?;
    text.push(&marks[middle..])?;
    text.finish().map(Value::from)
}
