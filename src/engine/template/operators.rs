//! The operators of templates, with Python's meanings.

use super::args::Args;
use super::budget::{
    Container, ITEM_BYTES, MAX_DEPTH, Namespace, charge, charge_items, container, deeper_list, items, too_deep,
    type_name, weigh, wrong,
};
use super::format::printf;
use super::methods;
use super::text::{Text, escaped, f64_of};
use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, State, Value};
use std::cmp::Ordering;

/// What an operator makes of its operands.
pub(super) type Operator = fn(&mut State, &[Value]) -> Result<Value, Error>;

/// All operators under names that no template can give to anything. `compile.rs` puts calls of them in place of minijinja's instructions.
pub(super) const OPERATORS: &[(&str, Operator)] = &[
    ("+", |state, v| add(state, &v[0], &v[1])),
    ("*", |state, v| multiply(state, &v[0], &v[1])),
    ("%", |state, v| remainder(state, &v[0], &v[1])),
    ("~", |state, v| concatenate(state, &v[0], &v[1])),
    ("==", |state, v| equal(state, &v[0], &v[1]).map(Value::from)),
    ("!=", |state, v| equal(state, &v[0], &v[1]).map(|equal| Value::from(!equal))),
    ("<", |state, v| compare(state, &v[0], &v[1]).map(|order| Value::from(order.is_some_and(Ordering::is_lt)))),
    ("<=", |state, v| compare(state, &v[0], &v[1]).map(|order| Value::from(order.is_some_and(Ordering::is_le)))),
    (">", |state, v| compare(state, &v[0], &v[1]).map(|order| Value::from(order.is_some_and(Ordering::is_gt)))),
    (">=", |state, v| compare(state, &v[0], &v[1]).map(|order| Value::from(order.is_some_and(Ordering::is_ge)))),
    ("x in y", |state, v| contains(state, &v[1], &v[0]).map(Value::from)),
    ("x not in y", |state, v| contains(state, &v[1], &v[0]).map(|contained| Value::from(!contained))),
    ("chain ==", |state, v| chained("==", state, v)),
    ("chain !=", |state, v| chained("!=", state, v)),
    ("chain <", |state, v| chained("<", state, v)),
    ("chain <=", |state, v| chained("<=", state, v)),
    ("chain >", |state, v| chained(">", state, v)),
    ("chain >=", |state, v| chained(">=", state, v)),
    ("chain x in y", |state, v| chained("x in y", state, v)),
    ("chain x not in y", |state, v| chained("x not in y", state, v)),
    ("[]", |state, v| deeper_list(state, v.to_vec())),
    ("()", |state, v| {
        deeper_list(state, v.to_vec())?;
        Ok(Value::from(Tuple::from(v.to_vec())))
    }),
    ("{}", |state, v| dict(state, v.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())))),
    ("for x", |state, v| items(state, &v[0]).map(Value::from)),
];

/// A comparison with another one behind it: its result, and its right operand again.
fn chained(name: &str, state: &mut State, operands: &[Value]) -> Result<Value, Error> {
    let operator = OPERATORS.iter().find(|(known, _)| *known == name).map(|(_, operator)| operator);
    let result = operator.ok_or_else(|| wrong("an operator without a meaning"))?(state, operands)?;
    Ok(Value::from(vec![result, operands[1].clone()]))
}

/// The integer that a number or boolean is.
fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// The double that a number or boolean is.
fn number(value: &Value) -> Option<f64> {
    integer(value).map(|i| i as f64).or_else(|| f64_of(value).filter(|_| value.is_number()))
}

/// A calculation with integers if both are, or with doubles.
fn calculate(
    symbol: &str,
    a: &Value,
    b: &Value,
    integers: fn(i128, i128) -> Option<i128>,
    doubles: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    match (integer(a), integer(b)) {
        (Some(x), Some(y)) => integers(x, y)
            .map(Value::from)
            .ok_or_else(|| wrong(format!("the result of {symbol} is no number of 128 bits"))),
        _ => match (number(a), number(b)) {
            (Some(x), Some(y)) => Ok(Value::from(doubles(x, y))),
            _ => Err(wrong(format!("there is no {symbol} of {} and {}", type_name(a), type_name(b)))),
        },
    }
}

fn add(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        charge(state, x.len() + y.len())?;
        // What `safe` has marked as HTML escapes what is added to it.
        return Ok(match (a.is_safe(), b.is_safe()) {
            (false, false) => Value::from([x, y].concat()),
            (true, true) => Value::from_safe_string([x, y].concat()),
            (true, false) => Value::from_safe_string(x.to_owned() + &escaped(state, y)?),
            (false, true) => Value::from_safe_string(escaped(state, x)? + y),
        });
    }
    if let (Container::List(x), Container::List(y), true) = (container(a), container(b), a.is_tuple() == b.is_tuple()) {
        charge_items(state, a.len().unwrap_or(0).saturating_add(b.len().unwrap_or(0)))?;
        let all: Vec<Value> = x.try_iter().into_iter().chain(y.try_iter()).flatten().collect();
        return Ok(if a.is_tuple() { Value::from(Tuple::from(all)) } else { Value::from(all) });
    }
    calculate("+", a, b, i128::checked_add, |x, y| x + y)
}

fn multiply(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    let (sequence, count) = if integer(b).is_some() { (a, b) } else { (b, a) };
    let Some(count) = integer(count).map(|n| usize::try_from(n.max(0)).unwrap_or(usize::MAX)) else {
        return calculate("*", a, b, i128::checked_mul, |x, y| x * y);
    };
    if let Some(text) = sequence.as_str() {
        charge(state, text.len().saturating_mul(count))?;
        return Ok(Value::from(text.repeat(count)));
    }
    if let Container::List(list) = container(sequence) {
        let length = sequence.len().unwrap_or(0).saturating_mul(count);
        charge_items(state, length)?;
        let all: Vec<Value> = list.try_iter().into_iter().flatten().collect();
        let all: Vec<Value> = all.iter().cycle().take(length).cloned().collect();
        return Ok(if sequence.is_tuple() { Value::from(Tuple::from(all)) } else { Value::from(all) });
    }
    calculate("*", a, b, i128::checked_mul, |x, y| x * y)
}

/// The remainder has the sign of the divisor; of a text it is `printf`.
fn remainder(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(text) = a.as_str() {
        let values = if b.is_tuple() { items(state, b)? } else { vec![b.clone()] };
        return printf(state, text, &values).map(Value::from);
    }
    if number(b) == Some(0.0) {
        return Err(wrong("division by zero"));
    }
    let integers = |x: i128, y: i128| x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r });
    calculate("%", a, b, integers, |x, y| {
        let r = x % y;
        if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
    })
}

fn concatenate(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    let mut text = Text::new(state);
    text.push_str_of(a)?;
    text.push_str_of(b)?;
    text.finish().map(Value::from)
}

/// Whether two values are equal.
pub(super) fn equal(state: &State, a: &Value, b: &Value) -> Result<bool, Error> {
    equal_at(state, a, b, 0)
}

fn equal_at(state: &State, a: &Value, b: &Value, depth: usize) -> Result<bool, Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        if x.len() == y.len() {
            charge(state, x.len())?;
        }
        return Ok(x == y);
    }
    match (container(a), container(b)) {
        (Container::None, Container::None) => Ok(a == b),
        (Container::List(x), Container::List(y)) => {
            if a.is_tuple() != b.is_tuple() || a.len() != b.len() {
                return Ok(false);
            }
            for (x, y) in x.try_iter().into_iter().flatten().zip(y.try_iter().into_iter().flatten()) {
                charge(state, 2 * ITEM_BYTES)?;
                if !equal_at(state, &x, &y, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Container::Map(x), Container::Map(y)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, x) in x.try_iter_pairs().into_iter().flatten() {
                charge(state, 2 * ITEM_BYTES)?;
                let Some(y) = y.get_value(&key) else { return Ok(false) };
                if !equal_at(state, &x, &y, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The order of two numbers, texts or lists; `None` of numbers that have none.
///
/// # Errors
/// If values of these types have no order.
pub(super) fn compare(state: &State, a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    compare_at(state, a, b, 0)
}

fn compare_at(state: &State, a: &Value, b: &Value, depth: usize) -> Result<Option<Ordering>, Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        charge(state, x.len().min(y.len()))?;
        return Ok(Some(x.cmp(y)));
    }
    if let (Some(x), Some(y)) = (integer(a), integer(b)) {
        return Ok(Some(x.cmp(&y)));
    }
    if let (Some(x), Some(y)) = (number(a), number(b)) {
        return Ok(x.partial_cmp(&y));
    }
    let (Container::List(x), Container::List(y)) = (container(a), container(b)) else {
        return Err(wrong(format!("{} and {} have no order", type_name(a), type_name(b))));
    };
    for (x, y) in x.try_iter().into_iter().flatten().zip(y.try_iter().into_iter().flatten()) {
        charge(state, 2 * ITEM_BYTES)?;
        if !equal_at(state, &x, &y, depth + 1)? {
            return compare_at(state, &x, &y, depth + 1);
        }
    }
    Ok(Some(a.len().cmp(&b.len())))
}

/// `value in within`.
pub(super) fn contains(state: &State, within: &Value, value: &Value) -> Result<bool, Error> {
    if let Some(text) = within.as_str() {
        let part = value.as_str().ok_or_else(|| wrong(format!("{} cannot be in a string", type_name(value))))?;
        charge(state, text.len())?;
        return Ok(text.contains(part));
    }
    match container(within) {
        Container::Map(map) => {
            key(state, value)?;
            Ok(map.get_value(value).is_some())
        }
        Container::List(list) => {
            for item in list.try_iter().into_iter().flatten() {
                charge(state, 2 * ITEM_BYTES)?;
                if equal(state, &item, value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Container::None if within.is_undefined() => Ok(false),
        Container::None => Err(wrong(format!("{} contains nothing", type_name(within)))),
    }
}

/// Checks a key of a dict, which is hashed: no list, no dict.
fn key(state: &State, key: &Value) -> Result<(), Error> {
    match container(key) {
        Container::None => charge(state, key.as_str().map_or(0, str::len)),
        Container::List(_) if key.is_tuple() => weigh(state, key),
        _ => Err(wrong(format!("{} is no key of a dict", type_name(key)))),
    }
}

/// A dict of these pairs.
pub(super) fn dict(state: &State, pairs: impl Iterator<Item = (Value, Value)>) -> Result<Value, Error> {
    let pairs: Vec<(Value, Value)> = pairs.collect();
    charge_items(state, 2 * pairs.len())?;
    for (name, value) in &pairs {
        key(state, name)?;
        weigh(state, value)?;
    }
    Ok(Value::from_pairs(pairs))
}

/// `value.name`: of a dict its method, if it has one of that name.
pub(super) fn attribute(_: &mut State, operands: &[Value]) -> Result<Value, Error> {
    let name = operands[1].as_str().unwrap_or_default();
    match methods::bound(&operands[0], name) {
        Some(method) => Ok(method),
        None => operands[0].get_attr(name),
    }
}

/// `value[key]`; of a missing key an attribute of that name.
pub(super) fn item(state: &mut State, operands: &[Value]) -> Result<Value, Error> {
    let [value, at] = operands else { return Err(wrong("an item needs a value and a key")) };
    if matches!(container(at), Container::Map(_)) || matches!(container(at), Container::List(_)) && !at.is_tuple() {
        return if value.is_undefined() { value.get_item(at) } else { Ok(Value::UNDEFINED) };
    }
    key(state, at)?;
    if let (Some(text), Some(i)) = (value.as_str(), at.as_i64()) {
        charge(state, text.len())?;
        let i = if i < 0 { text.chars().count() as i64 + i } else { i };
        let found = usize::try_from(i).ok().and_then(|i| text.chars().nth(i));
        return Ok(found.map_or(Value::UNDEFINED, Value::from));
    }
    let found = value.get_item(at)?;
    let method = || methods::bound(value, at.as_str()?);
    Ok(if found.is_undefined() { method().unwrap_or(found) } else { found })
}

/// `value[start:stop:step]`.
pub(super) fn slice(state: &mut State, operands: &[Value]) -> Result<Value, Error> {
    let bounds = Args::new(&operands[1..]);
    let (start, stop, step) = (bounds.int(0, "start")?, bounds.int(1, "stop")?, bounds.int(2, "step")?.unwrap_or(1));
    if step == 0 {
        return Err(wrong("a slice cannot have a step of 0"));
    }
    let value = &operands[0];
    if let Some(text) = value.as_str() {
        charge(state, text.len())?;
        let characters: Vec<char> = if step == 1 { Vec::new() } else { text.chars().collect() };
        if step == 1 {
            let length = text.chars().count();
            let (first, end) = ends(length, start, stop, 1);
            let taken = usize::try_from(end - first).unwrap_or(0);
            return Ok(Value::from(text.chars().skip(first as usize).take(taken).collect::<String>()));
        }
        charge_items(state, characters.len())?;
        return Ok(Value::from(picked(characters.len(), start, stop, step).map(|i| characters[i]).collect::<String>()));
    }
    let all = match container(value) {
        Container::List(list) => {
            charge_items(state, value.len().unwrap_or(0))?;
            list.try_iter().into_iter().flatten().collect::<Vec<_>>()
        }
        _ if value.is_undefined() => Vec::new(),
        _ => return Err(wrong(format!("{} cannot be sliced", type_name(value)))),
    };
    let taken: Vec<Value> = picked(all.len(), start, stop, step).map(|i| all[i].clone()).collect();
    Ok(if value.is_tuple() { Value::from(Tuple::from(taken)) } else { Value::from(taken) })
}

/// The first place and the one where a slice ends, as Python clamps them.
fn ends(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> (i64, i64) {
    let length = length as i64;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |i: i64| if i < 0 { i.saturating_add(length).max(low) } else { i.min(high) };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    (start.map_or(first, clamp), stop.map_or(last, clamp))
}

/// The places of a slice.
fn picked(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = usize> {
    let (first, end) = ends(length, start, stop, step);
    std::iter::successors(Some(first), move |i| i.checked_add(step))
        .take_while(move |&i| if step > 0 { i < end } else { i > end })
        .map(|i| i as usize)
}

/// `{% set namespace.name = value %}`.
pub(super) fn set_attribute(state: &mut State, operands: &[Value]) -> Result<Value, Error> {
    let [value, target, name] = operands else { return Err(wrong("an assignment needs a value and a name")) };
    let namespace = target.downcast_object_ref::<Namespace>();
    let namespace =
        namespace.ok_or_else(|| wrong(format!("{} takes no attributes; a namespace does", type_name(target))))?;
    namespace.set(state, name.as_str().unwrap_or_default(), value)?;
    Ok(Value::UNDEFINED)
}
