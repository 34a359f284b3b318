//! JSON schemas, checked before they are compiled: their size and depth, and that nothing in them would be passed over in silence.
//!
//! llguidance refuses keywords of the schema's own draft that it does not implement, and passes over what it does not know, as the
//! specification wants of annotations. But a keyword of another draft, one of llguidance's own, or a number that it rounds would change
//! what the schema means.

use super::limits;
use crate::error::{Error, Result};
use serde_json::{Map, Value as Json};
use std::collections::HashSet;

/// Keywords whose value is a schema.
const SCHEMA: [&str; 3] = ["additionalProperties", "additionalItems", "items"];

/// Keywords whose value is a list of schemas.
const SCHEMAS: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];

/// Keywords whose value is an object with a schema for each name.
const NAMED_SCHEMAS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Keywords of any draft that restrict values and are not supported.
const UNSUPPORTED: [&str; 21] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
    "$dynamicRef",
    "$recursiveRef",
    "extends",
    "disallow",
    "divisibleBy",
    "x-guidance",
];

/// Keywords whose value values are compared with.
const COMPARED: [&str; 7] =
    ["const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];

/// Whole numbers up to here are exact as floats, which llguidance computes with.
const EXACT: f64 = (1u64 << 53) as f64;

/// The longest `minLength` or `maxLength`: a state for each character.
const LONGEST: u64 = 1 << 20;

/// A schema as part of a grammar: checked, and with llguidance's own setting of what may stand between the parts of values.
///
/// # Errors
/// If the schema is too large or too deep, or uses a keyword that is not supported.
pub(crate) fn checked_schema(schema: &Json) -> Result<Json> {
    Walk { place: String::new(), depth: 0, bytes: 0 }.schema(schema)?;
    let mut schema = if schema == &Json::Bool(true) { serde_json::json!({}) } else { schema.clone() };
    if let Json::Object(members) = &mut schema {
        let pattern = r"[\x20\x0A\x0D\x09]{1,32}";
        members.insert("x-guidance".to_owned(), serde_json::json!({ "whitespace_pattern": pattern }));
    }
    Ok(schema)
}

/// Where the check is.
struct Walk {
    /// A JSON pointer.
    place: String,
    depth: usize,
    /// An estimate of the size of what was seen.
    bytes: usize,
}

impl Walk {
    fn wrong(&self, problem: impl Into<String>, remedy: &str) -> Error {
        let place = if self.place.is_empty() { "the root" } else { &self.place };
        Error::GrammarRefused {
            what: "JSON schema",
            place: place.to_owned(),
            problem: problem.into(),
            remedy: remedy.to_owned(),
        }
    }

    /// Goes one level deeper, to `name`.
    fn within(&mut self, name: &str, check: impl FnOnce(&mut Walk) -> Result<()>) -> Result<()> {
        if self.depth == limits::NESTING {
            return Err(self.wrong(
                format!("it is nested deeper than {} levels", limits::NESTING),
                "use $ref or a flatter schema",
            ));
        }
        self.pay(name.len())?;
        let length = self.place.len();
        self.place.push('/');
        self.place.push_str(&name.replace('~', "~0").replace('/', "~1"));
        self.depth += 1;
        check(self)?;
        self.depth -= 1;
        self.place.truncate(length);
        Ok(())
    }

    /// Counts a value with so many bytes of text.
    fn pay(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes + 4;
        if self.bytes > limits::SOURCE_BYTES {
            return Err(self.wrong(format!("it is larger than {} bytes", limits::SOURCE_BYTES), "make it smaller"));
        }
        Ok(())
    }

    fn schema(&mut self, schema: &Json) -> Result<()> {
        self.pay(0)?;
        match schema {
            Json::Bool(_) => Ok(()),
            Json::Object(keywords) => {
                self.members(keywords)?;
                keywords.iter().try_for_each(|(name, value)| self.within(name, |walk| walk.keyword(name, value)))
            }
            _ => Err(self.wrong("it is neither an object nor true or false", "put a schema here")),
        }
    }

    /// How many members and patterns of names an object may have.
    fn members(&self, keywords: &Map<String, Json>) -> Result<()> {
        let of = |name: &str| keywords.get(name).and_then(Json::as_object);
        let patterns = of("patternProperties").map_or(0, Map::len);
        if patterns > limits::NAME_PATTERNS {
            let problem = format!("{patterns} patternProperties are more than {}", limits::NAME_PATTERNS);
            return Err(self.wrong(problem, "join some of them to one pattern"));
        }
        let required = keywords.get("required").and_then(Json::as_array).into_iter().flatten();
        let required: HashSet<&str> = required.filter_map(Json::as_str).collect();
        let names = of("properties").into_iter().flat_map(Map::keys);
        let optional = names.filter(|name| !required.contains(name.as_str())).count();
        if optional > limits::OPTIONAL_MEMBERS {
            let problem =
                format!("{optional} properties that may be left out are more than {}", limits::OPTIONAL_MEMBERS);
            return Err(self.wrong(problem, "list some of them as required, or make the schema smaller"));
        }
        Ok(())
    }

    fn keyword(&mut self, name: &str, value: &Json) -> Result<()> {
        match name {
            _ if UNSUPPORTED.contains(&name) => {
                Err(self
                    .wrong(format!("the keyword {name} is not supported"), "state it in another way, or leave it out"))
            }
            "items" if value.is_array() => self.each(value),
            _ if SCHEMA.contains(&name) => self.schema(value),
            _ if SCHEMAS.contains(&name) => self.each(value),
            _ if NAMED_SCHEMAS.contains(&name) => match value {
                Json::Object(named) => {
                    named.iter().try_for_each(|(name, schema)| self.within(name, |walk| walk.schema(schema)))
                }
                _ => Err(self.wrong("it is not an object", "put an object with schemas here")),
            },
            "minLength" | "maxLength" if value.as_u64().is_some_and(|length| length > LONGEST) => {
                Err(self.wrong(format!("{value} is more than {LONGEST}"), "use a smaller length"))
            }
            _ => self.value(value, COMPARED.contains(&name)),
        }
    }

    fn each(&mut self, list: &Json) -> Result<()> {
        let Json::Array(list) = list else { return Err(self.wrong("it is not a list", "put a list of schemas here")) };
        (0..).zip(list).try_for_each(|(i, schema): (usize, _)| self.within(&i.to_string(), |walk| walk.schema(schema)))
    }

    /// Any value, whose numbers must be exact if values are compared with them.
    fn value(&mut self, value: &Json, is_compared: bool) -> Result<()> {
        match value {
            Json::Null | Json::Bool(_) => self.pay(0),
            Json::String(text) => self.pay(text.len()),
            Json::Number(number) if is_compared && number.as_f64().is_none_or(|number| number.abs() > EXACT) => {
                Err(self.wrong(format!("{value} is more than 2^53 and would be rounded"), "use a smaller number"))
            }
            Json::Number(_) => self.pay(0),
            Json::Array(list) => (0..).zip(list).try_for_each(|(i, value): (usize, _)| {
                self.within(&i.to_string(), |walk| walk.value(value, is_compared))
            }),
            Json::Object(object) => {
                object.iter().try_for_each(|(name, value)| self.within(name, |walk| walk.value(value, is_compared)))
            }
        }
    }
}
