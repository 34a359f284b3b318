//! Values of metadata as arguments: `KEY=TYPE:VALUE`.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use std::fmt::Display;
use std::str::FromStr;
use strata::edit::Assignment;
use strata::gguf::Value;

/// The types of values as they are written.
const TYPES: &str =
    "int, float, bool, str, u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, or one of these with [] for a list";

/// An assignment. `int` and `float` take the length that the key's value has in the file; all other types are GGUF's own, and a list is
/// JSON: `KEY=str[]:["a","b"]`, `KEY=u32[]:[1,2]`.
pub fn assignment(text: &str) -> Result<Assignment> {
    let (key, rest) = text.split_once('=').context("must be KEY=TYPE:VALUE")?;
    let (ty, value) =
        rest.split_once(':').with_context(|| format!("the type is missing: KEY=TYPE:VALUE with {TYPES}"))?;
    ensure!(!key.is_empty(), "the key is missing");
    let (value, any_length) = match ty {
        "int" => (integer(value)?, true),
        "float" => (one::<f32>(value)?, true),
        _ => match ty.strip_suffix("[]") {
            Some(ty) => (list(ty, value)?, false),
            None => (scalar(ty, value)?, false),
        },
    };
    Ok(Assignment { key: key.to_owned(), value, any_length })
}

/// An integer of the shortest type of 32 bits or more that holds it.
fn integer(text: &str) -> Result<Value> {
    let n: i128 = text.parse().context("is no integer")?;
    Ok(match n {
        n if u32::try_from(n).is_ok() => (n as u32).into(),
        n if i32::try_from(n).is_ok() => (n as i32).into(),
        n if i64::try_from(n).is_ok() => (n as i64).into(),
        n if u64::try_from(n).is_ok() => (n as u64).into(),
        _ => bail!("is no integer of 64 bits"),
    })
}

/// A value of the type of that name.
fn scalar(ty: &str, text: &str) -> Result<Value> {
    match ty {
        "str" | "string" => Ok(text.into()),
        "bool" => one::<bool>(text),
        "u8" => one::<u8>(text),
        "i8" => one::<i8>(text),
        "u16" => one::<u16>(text),
        "i16" => one::<i16>(text),
        "u32" => one::<u32>(text),
        "i32" => one::<i32>(text),
        "u64" => one::<u64>(text),
        "i64" => one::<i64>(text),
        "f32" => one::<f32>(text),
        "f64" => one::<f64>(text),
        other => bail!("there is no type {other:?}; use {TYPES}"),
    }
}

/// A number or flag.
fn one<T: FromStr<Err: Display> + Checked + Into<Value>>(text: &str) -> Result<Value> {
    let value = text.parse::<T>().map_err(|error| anyhow::anyhow!("{text:?}: {error}"))?;
    ensure!(value.is_sound(text), "{text:?} is not a number that this type holds");
    Ok(value.into())
}

/// Values that a parser takes and that would be other numbers.
trait Checked {
    fn is_sound(&self, text: &str) -> bool;
}

macro_rules! checked {
    ($($exact:ty),*; $($float:ty),*) => {
        $(impl Checked for $exact { fn is_sound(&self, _: &str) -> bool { true } })*
        $(impl Checked for $float {
            fn is_sound(&self, text: &str) -> bool {
                self.is_finite() && (*self != 0.0 || text.parse::<f64>() == Ok(0.0))
            }
        })*
    };
}
checked!(bool, u8, i8, u16, i16, u32, i32, u64, i64; f32, f64);

/// A list in JSON of values of one type.
fn list(ty: &str, text: &str) -> Result<Value> {
    let elements: Vec<Json> = serde_json::from_str(text).context("is no list in JSON, as [1,2] or [\"a\",\"b\"]")?;
    if matches!(ty, "str" | "string") {
        return Ok(serde_json::from_str::<Vec<String>>(text).context("is no list of texts, as [\"a\",\"b\"]")?.into());
    }
    let texts: Vec<String> = elements.iter().map(Json::to_string).collect();
    macro_rules! numbers {
        ($($name:literal => $rust:ty),*) => {
            match ty {
                $($name => {
                    let parse = |text: &String| {
                        let value = text.parse::<$rust>().ok().filter(|value| value.is_sound(text));
                        value.with_context(|| format!("{text} is no {}", $name))
                    };
                    Ok(texts.iter().map(parse).collect::<Result<Vec<$rust>>>()?.into())
                })*
                other => bail!("there is no type {other:?}[]; use {TYPES}"),
            }
        };
    }
    numbers!("bool" => bool, "u8" => u8, "i8" => i8, "u16" => u16, "i16" => i16, "u32" => u32, "i32" => i32, "u64" => u64, "i64" => i64,
             "f32" => f32, "f64" => f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_type() {
        for (text, value, any_length) in [
            ("a.b=int:-3", (-3i32).into(), true),
            ("a=int:4000000000", 4_000_000_000u32.into(), true),
            ("a=int:18446744073709551615", u64::MAX.into(), true),
            ("a=float:0.5", 0.5f32.into(), true),
            ("a=str:x=y:z", "x=y:z".into(), false),
            ("a=str:", "".into(), false),
            ("a=bool:false", false.into(), false),
            ("a=u8:255", 255u8.into(), false),
            ("a=f64:1e-300", Value::F64(1e-300), false),
            ("a=u16[]:[1, 2]", vec![1u16, 2].into(), false),
            ("a=str[]:[\"a\",\"b]\"]", vec!["a".to_owned(), "b]".to_owned()].into(), false),
            ("a=bool[]:[true]", vec![true].into(), false),
            ("a=i64[]:[-9223372036854775808]", vec![i64::MIN].into(), false),
            ("a=f32[]:[]", Vec::<f32>::new().into(), false),
        ] {
            let assigned = assignment(text).unwrap();
            assert_eq!((assigned.value, assigned.any_length), (value, any_length), "{text}");
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        let words = [
            "",
            "a",
            "a=3",
            "=int:3",
            "a=int:x",
            "a=int:18446744073709551616",
            "a=u8:256",
            "a=u8:-1",
            "a=f32:nan",
            "a=f32:1e60",
            "a=f32:1e-60",
            "a=float:inf",
            "a=bool:1",
            "a=q8:1",
            "a=u8[]:1",
            "a=u8[]:[1.5]",
            "a=u8[]:[256]",
            "a=u8[]:[[1]]",
            "a=str[]:[1]",
            "a=f32[]:[null]",
            "a=q8[]:[1]",
            "a=f32[]:[1e60]",
        ];
        for text in words {
            assert!(assignment(text).is_err(), "{text}");
        }
    }
}
