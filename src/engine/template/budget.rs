//! What a template may use: every step and every byte that it makes is paid for with the fuel of its rendering, before it is made.
//!
//! minijinja counts instructions and output. The operators, filters and methods, which are Strata's, pay for what they read and make. A
//! value that goes into another is walked as a whole, shared parts again each time: so no value can be cheap to make and endless to print,
//! and none is nested deeper than [`MAX_DEPTH`].

use minijinja::value::{DynObject, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that one unit of fuel pays for: the definition of minijinja.
pub(super) const BYTES_PER_FUEL: usize = 64;

/// Fuel of a rendering: two million steps, or 128 MiB.
const BASE_FUEL: u64 = 2 << 20;

/// Fuel for each byte of the input: 64 copies of a message, which is more than any template makes.
const FUEL_PER_INPUT_BYTE: u64 = 1;

/// The deepest nesting of a value. JSON of a conversation has at most 128 levels.
pub(super) const MAX_DEPTH: usize = 200;

/// Bytes that an item of a list counts as: its place in the list and a share of its growth.
pub(super) const ITEM_BYTES: usize = 32;

/// The fuel of a rendering whose input has so many bytes.
pub(super) fn fuel(input_bytes: usize) -> u64 {
    BASE_FUEL.saturating_add((input_bytes as u64).saturating_mul(FUEL_PER_INPUT_BYTE))
}

/// Pays for so many bytes, which are about to be made or read.
pub(super) fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    match bytes / BYTES_PER_FUEL {
        0 => Ok(()),
        fuel => state.consume_fuel(fuel as u64),
    }
}

/// Pays for a list of so many items.
pub(super) fn charge_items(state: &State, items: usize) -> Result<(), Error> {
    charge(state, items.saturating_mul(ITEM_BYTES))
}

/// An error of the template.
pub(super) fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// The value is nested too deep.
pub(super) fn too_deep() -> Error {
    wrong(format!("a value is nested deeper than {MAX_DEPTH} levels"))
}

/// A list or a tuple, a map, or neither.
pub(super) enum Container<'a> {
    List(&'a DynObject),
    Map(&'a DynObject),
    None,
}

/// What kind of container `value` is. Namespaces, macros and loops are none, though minijinja's loops call themselves maps.
pub(super) fn container(value: &Value) -> Container<'_> {
    match (value.kind(), value.as_object()) {
        (ValueKind::Seq, Some(object)) => Container::List(object),
        (ValueKind::Map, Some(object)) if !object.type_name().contains("Loop") => Container::Map(object),
        _ => Container::None,
    }
}

/// Walks what is about to become part of another value, and pays for each part of it.
///
/// # Errors
/// If it is nested too deep, the fuel is spent, or it is an object that could contain the other: a namespace, a macro, a method.
pub(super) fn weigh(state: &State, value: &Value) -> Result<(), Error> {
    let mut unpaid = 0;
    weigh_part(state, value, 0, &mut unpaid)?;
    charge_items(state, unpaid)
}

fn weigh_part(state: &State, value: &Value, depth: usize, unpaid: &mut usize) -> Result<(), Error> {
    *unpaid += 1;
    if *unpaid == 1024 {
        charge_items(state, std::mem::take(unpaid))?;
    }
    let children: Box<dyn Iterator<Item = Value>> = match container(value) {
        Container::None if value.as_object().is_some() => {
            return Err(wrong("a namespace, macro or method cannot be put into another value"));
        }
        Container::None => return Ok(()),
        Container::List(list) => Box::new(list.try_iter().into_iter().flatten()),
        Container::Map(map) => {
            Box::new(map.try_iter_pairs().into_iter().flatten().flat_map(|(key, value)| [key, value]))
        }
    };
    if depth == MAX_DEPTH {
        return Err(too_deep());
    }
    children.into_iter().try_for_each(|child| weigh_part(state, &child, depth + 1, unpaid))
}

/// A list of values that were weighed or come from one list.
pub(super) fn list(state: &State, items: Vec<Value>) -> Result<Value, Error> {
    charge_items(state, items.len())?;
    Ok(Value::from(items))
}

/// A list whose items become one level deeper by it.
pub(super) fn deeper_list(state: &State, items: Vec<Value>) -> Result<Value, Error> {
    items.iter().try_for_each(|item| weigh(state, item))?;
    list(state, items)
}

/// The items that a loop over `value` passes: of a list its items, of a map its keys, of a text its characters, of nothing none.
///
/// # Errors
/// If it is not iterable, or the fuel is spent.
pub(super) fn items(state: &State, value: &Value) -> Result<Vec<Value>, Error> {
    if let Some(text) = value.as_str() {
        charge_items(state, text.len())?;
        return Ok(text.chars().map(Value::from).collect());
    }
    match value.kind() {
        ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            charge_items(state, value.len().unwrap_or(0))?;
            Ok(value.try_iter()?.collect())
        }
        _ => Err(wrong(format!("{} is not iterable", type_name(value)))),
    }
}

/// The pairs of a map.
pub(super) fn pairs(state: &State, value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    let Container::Map(map) = container(value) else {
        return Err(wrong(format!("{} has no items", type_name(value))));
    };
    charge_items(state, 2 * value.len().unwrap_or(0))?;
    Ok(map.try_iter_pairs().into_iter().flatten().collect())
}

/// The name of a value's type, as Python's messages have it.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "an undefined value",
        ValueKind::None => "None",
        ValueKind::Bool => "a bool",
        ValueKind::Number => "a number",
        ValueKind::String => "a string",
        ValueKind::Seq if value.is_tuple() => "a tuple",
        ValueKind::Seq => "a list",
        ValueKind::Map => "a dict",
        _ => "an object",
    }
}

/// What `namespace()` makes: variables that inner scopes may set.
#[derive(Debug, Default)]
pub(super) struct Namespace(Mutex<BTreeMap<String, Value>>);

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.variables().get(key.as_str()?).cloned()
    }
}

impl Namespace {
    fn variables(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a variable.
    pub(super) fn set(&self, state: &State, name: &str, value: &Value) -> Result<(), Error> {
        if name.starts_with('_') {
            return Err(wrong(format!("a namespace takes no variable {name}: it starts with an underscore")));
        }
        if matches!(container(value), Container::None) {
            weigh(state, value)?;
        }
        charge(state, name.len() + ITEM_BYTES)?;
        self.variables().insert(name.to_owned(), value.clone());
        Ok(())
    }
}
