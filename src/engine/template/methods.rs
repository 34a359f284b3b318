//! The methods of Python's strings, dicts and lists that templates call. Those that change a value are refused, as by Jinja's sandbox.

use super::args::Args;
use super::budget::{
    Container, charge, charge_items, container, deeper_list, items, list, pairs, type_name, weigh, wrong,
};
use super::format::str_format;
use super::operators::equal;
use super::text::Text;
use minijinja::value::{Object, ObjectRepr, Tuple};
use minijinja::{Error, State, Value};
use std::sync::Arc;

/// What a method makes of the value it is called on.
type Method<T> = fn(&State, &T, &Args<'_>) -> Result<Value, Error>;

/// Calls a method: the operands are the value, the arguments, the name.
pub(super) fn call(state: &mut State, operands: &[Value]) -> Result<Value, Error> {
    let [value, arguments @ .., name] = operands else { return Err(wrong("a method needs a value and a name")) };
    let name = name.as_str().unwrap_or_default();
    let args = Args::new(arguments);
    if let Some(text) = value.as_str() {
        charge(state, text.len())?;
        return match find(OF_STRINGS, name) {
            Some(method) => method(state, text, &args),
            None => Err(unknown(value, name)),
        };
    }
    match container(value) {
        Container::Map(_) => match find(OF_DICTS, name) {
            Some(method) => method(state, value, &args),
            None => Err(unknown(value, name)),
        },
        Container::List(_) => match find(OF_LISTS, name) {
            Some(method) => method(state, value, &args),
            None => Err(unknown(value, name)),
        },
        // Loops compare and keep what they are given.
        Container::None => {
            arguments.iter().filter(|value| !value.is_kwargs()).try_for_each(|value| weigh(state, value))?;
            value.call_method(state, name, arguments)
        }
    }
}

fn find<T: ?Sized>(methods: &[(&str, Method<T>)], name: &str) -> Option<Method<T>> {
    methods.iter().find(|(known, _)| *known == name).map(|(_, method)| *method)
}

fn unknown(value: &Value, name: &str) -> Error {
    wrong(format!("{} has no method {name} that a template may call", type_name(value)))
}

/// A method that is not called yet.
#[derive(Debug)]
struct Bound {
    value: Value,
    name: String,
}

impl Object for Bound {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let operands = [std::slice::from_ref(&self.value), args, &[Value::from(self.name.as_str())]].concat();
        call(state, &operands)
    }
}

/// The names of a dict's methods: as attributes they hide keys of the same name.
pub(super) const DICT_NAMES: &[&str] =
    &["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];

/// The method of that name, if `value` is a dict.
pub(super) fn bound(value: &Value, name: &str) -> Option<Value> {
    let is_method = matches!(container(value), Container::Map(_)) && DICT_NAMES.contains(&name);
    is_method.then(|| Value::from_object(Bound { value: value.clone(), name: name.to_owned() }))
}

const OF_DICTS: &[(&str, Method<Value>)] = &[
    ("items", |state, dict, _| {
        let pairs = pairs(state, dict)?.into_iter();
        deeper_list(state, pairs.map(|(key, value)| Value::from(Tuple::from([key, value]))).collect())
    }),
    ("keys", |state, dict, _| items(state, dict).map(Value::from)),
    ("values", |state, dict, _| Ok(pairs(state, dict)?.into_iter().map(|(_, value)| value).collect())),
    ("get", |state, dict, args| {
        let key = args.need(0, "key")?;
        weigh(state, &key)?;
        let found = dict.as_object().and_then(|dict| dict.get_value(&key));
        Ok(found.or_else(|| args.get(1, "default")).unwrap_or_else(|| Value::from(())))
    }),
    ("copy", |_, dict, _| Ok(dict.clone())),
];

const OF_LISTS: &[(&str, Method<Value>)] = &[
    ("count", |state, list, args| {
        let (what, mut count) = (args.need(0, "value")?, 0);
        for item in items(state, list)? {
            count += usize::from(equal(state, &item, &what)?);
        }
        Ok(Value::from(count))
    }),
    ("index", |state, list, args| {
        let what = args.need(0, "value")?;
        for (i, item) in items(state, list)?.iter().enumerate() {
            if equal(state, item, &what)? {
                return Ok(Value::from(i));
            }
        }
        Err(wrong("the value is not in the list"))
    }),
    ("copy", |_, list, _| Ok(list.clone())),
];

const OF_STRINGS: &[(&str, Method<str>)] = &[
    ("strip", |_, text, args| stripped(text, args, true, true)),
    ("lstrip", |_, text, args| stripped(text, args, true, false)),
    ("rstrip", |_, text, args| stripped(text, args, false, true)),
    ("split", |state, text, args| split(state, text, args, false)),
    ("rsplit", |state, text, args| split(state, text, args, true)),
    ("splitlines", |state, text, args| {
        let lines = lines(text, args.flag(0, "keepends", false));
        list(state, lines.into_iter().map(Value::from).collect())
    }),
    ("partition", |_, text, args| {
        let sep = argument(args, "sep")?;
        let found = text.split_once(sep.as_str()).map(|(head, tail)| [head, &sep, tail]);
        Ok(Value::from(Tuple::from(found.unwrap_or([text, "", ""]).map(Value::from))))
    }),
    ("rpartition", |_, text, args| {
        let sep = argument(args, "sep")?;
        let found = text.rsplit_once(sep.as_str()).map(|(head, tail)| [head, &sep, tail]);
        Ok(Value::from(Tuple::from(found.unwrap_or(["", "", text]).map(Value::from))))
    }),
    ("replace", replace),
    ("startswith", |state, text, args| affix(state, text, args, |text, prefix| text.starts_with(prefix))),
    ("endswith", |state, text, args| affix(state, text, args, |text, suffix| text.ends_with(suffix))),
    ("removeprefix", |_, text, args| Ok(Value::from(text.strip_prefix(&*argument(args, "prefix")?).unwrap_or(text)))),
    ("removesuffix", |_, text, args| Ok(Value::from(text.strip_suffix(&*argument(args, "suffix")?).unwrap_or(text)))),
    ("find", |_, text, args| Ok(Value::from(place(text, args, false)?.unwrap_or(-1)))),
    ("rfind", |_, text, args| Ok(Value::from(place(text, args, true)?.unwrap_or(-1)))),
    ("index", |_, text, args| found(place(text, args, false)?)),
    ("rindex", |_, text, args| found(place(text, args, true)?)),
    ("count", |_, text, args| {
        let (_, part) = part(text, args)?;
        Ok(Value::from(part.matches(&*argument(args, "sub")?).count()))
    }),
    ("upper", |state, text, _| mapped(state, text, |text| text.to_uppercase())),
    ("lower", |state, text, _| mapped(state, text, |text| text.to_lowercase())),
    ("casefold", |state, text, _| mapped(state, text, |text| text.to_lowercase().replace('ß', "ss"))),
    ("capitalize", |state, text, _| mapped(state, text, capitalized)),
    ("title", |state, text, _| mapped(state, text, titled)),
    ("swapcase", |state, text, _| {
        let swap =
            |c: char| if c.is_uppercase() { c.to_lowercase().collect::<String>() } else { c.to_uppercase().collect() };
        mapped(state, text, |text| text.chars().map(swap).collect())
    }),
    ("join", |state, separator, args| {
        let mut joined = Text::new(state);
        for (i, item) in items(state, &args.need(0, "iterable")?)?.iter().enumerate() {
            let item = item.as_str().ok_or_else(|| wrong(format!("join takes strings, not {}", type_name(item))))?;
            joined.push(if i == 0 { "" } else { separator })?;
            joined.push(item)?;
        }
        joined.finish().map(Value::from)
    }),
    ("format", |state, text, args| {
        let mut values = args.values().to_vec();
        let named: minijinja::value::Kwargs =
            args.named().into_iter().filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value))).collect();
        if named.args().next().is_some() {
            values.push(named.into());
        }
        str_format(state, text, &values).map(Value::from)
    }),
    ("zfill", |state, text, args| {
        let missing = missing(state, text, args)?;
        let sign = text.starts_with(['+', '-']).into();
        Ok(Value::from(format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..])))
    }),
    ("ljust", |state, text, args| {
        let fill = fill(args)?;
        Ok(Value::from(format!("{text}{}", fill.repeat(missing(state, text, args)?))))
    }),
    ("rjust", |state, text, args| {
        let fill = fill(args)?;
        Ok(Value::from(format!("{}{text}", fill.repeat(missing(state, text, args)?))))
    }),
    ("center", center),
    ("isalpha", |_, text, _| all(text, char::is_alphabetic)),
    ("isalnum", |_, text, _| all(text, char::is_alphanumeric)),
    ("isdigit", |_, text, _| all(text, |c| c.is_ascii_digit() || (c.is_numeric() && !c.is_ascii()))),
    ("isdecimal", |_, text, _| all(text, |c| c.is_ascii_digit() || (c.is_numeric() && !c.is_ascii()))),
    ("isnumeric", |_, text, _| all(text, char::is_numeric)),
    ("isspace", |_, text, _| all(text, is_space)),
    ("isascii", |_, text, _| Ok(Value::from(text.is_ascii()))),
    ("islower", |_, text, _| {
        Ok(Value::from(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)))
    }),
    ("isupper", |_, text, _| {
        Ok(Value::from(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)))
    }),
    ("istitle", |_, text, _| Ok(Value::from(text.chars().any(char::is_alphabetic) && titled(text) == text))),
    ("isidentifier", |_, text, _| {
        let starts = text.starts_with(|c: char| c == '_' || c.is_alphabetic());
        Ok(Value::from(starts && text.chars().all(|c| c == '_' || c.is_alphanumeric())))
    }),
    ("isprintable", |_, text, _| Ok(Value::from(!text.chars().any(char::is_control)))),
    ("expandtabs", |state, text, args| {
        let size = usize::try_from(args.int(0, "tabsize")?.unwrap_or(8)).unwrap_or(0);
        let (mut expanded, mut column) = (Text::new(state), 0);
        for c in text.chars() {
            match c {
                '\t' if size > 0 => {
                    expanded.repeat(" ", size - column % size)?;
                    column += size - column % size;
                    continue;
                }
                '\t' => continue,
                '\n' | '\r' => column = 0,
                _ => column += 1,
            }
            expanded.push(c.encode_utf8(&mut [0; 4]))?;
        }
        expanded.finish().map(Value::from)
    }),
    ("encode", |_, _, _| Err(wrong("a template has no bytes"))),
    ("translate", |_, _, _| Err(wrong("a template has no tables of characters"))),
];

/// What Python takes for white space: as Rust, and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn argument(args: &Args<'_>, name: &str) -> Result<String, Error> {
    let value = args.text(0, name)?.ok_or_else(|| wrong(format!("the argument {name} is missing")))?;
    match value.as_str() {
        Some("") if name == "sep" => Err(wrong("the separator is empty")),
        text => Ok(text.unwrap_or_default().to_owned()),
    }
}

fn all(text: &str, is: fn(char) -> bool) -> Result<Value, Error> {
    Ok(Value::from(!text.is_empty() && text.chars().all(is)))
}

/// Upper and lower case may take three times the bytes.
fn mapped(state: &State, text: &str, map: impl Fn(&str) -> String) -> Result<Value, Error> {
    charge(state, 3 * text.len())?;
    Ok(Value::from(map(text)))
}

/// The letter at the start of a word: of several that its upper case has, only the first is large, and digraphs have a form of their own.
fn title_case(c: char) -> String {
    match c {
        'Ǆ'..='ǆ' => 'ǅ'.to_string(),
        'Ǉ'..='ǉ' => 'ǈ'.to_string(),
        'Ǌ'..='ǌ' => 'ǋ'.to_string(),
        'Ǳ'..='ǳ' => 'ǲ'.to_string(),
        c => {
            let mut upper = c.to_uppercase();
            upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
        }
    }
}

/// The text with its first letter in upper case and all others in lower case.
pub(super) fn capitalized(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, title_case) + &rest.as_str().to_lowercase()
}

fn titled(text: &str) -> String {
    let mut title = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            title.extend(c.to_lowercase())
        } else {
            title.push_str(&title_case(c))
        }
        in_word = c.is_alphabetic();
    }
    title
}

fn stripped(text: &str, args: &Args<'_>, start: bool, end: bool) -> Result<Value, Error> {
    let chars = args.text(0, "chars")?;
    let drop = |c: char| match chars.as_ref().and_then(|chars| chars.as_str()) {
        Some(chars) => chars.contains(c),
        None => is_space(c),
    };
    let text = if start { text.trim_start_matches(drop) } else { text };
    Ok(Value::from(if end { text.trim_end_matches(drop) } else { text }))
}

/// `strip(chars)`.
pub(super) fn strip(text: &str, args: &Args<'_>) -> Result<Value, Error> {
    stripped(text, args, true, true)
}

/// `split(sep, maxsplit)` from either end. Without a separator it is at runs of white space, and none of the parts is empty.
fn split(state: &State, text: &str, args: &Args<'_>, from_end: bool) -> Result<Value, Error> {
    let most = args
        .int(1, "maxsplit")?
        .and_then(|most| usize::try_from(most).ok())
        .map_or(usize::MAX, |n| n.saturating_add(1));
    let separator = match args.text(0, "sep")? {
        Some(_) => Some(argument(args, "sep")?),
        None => None,
    };
    let count = match &separator {
        Some(separator) => text.matches(&**separator).count(),
        None => text.chars().filter(|&c| is_space(c)).count(),
    };
    charge_items(state, 2 * (count.min(most) + 1))?;
    let parts: Vec<&str> = match (&separator, from_end) {
        (Some(separator), false) => text.splitn(most, &**separator).collect(),
        (Some(separator), true) => {
            let mut parts: Vec<&str> = text.rsplitn(most, &**separator).collect();
            parts.reverse();
            parts
        }
        (None, false) => words(
            text,
            most,
            |text| {
                let text = text.trim_start_matches(is_space);
                text.find(is_space).map_or((text, ""), |at| text.split_at(at))
            },
            str::trim_start_matches,
        ),
        (None, true) => {
            let mut parts = words(
                text,
                most,
                |text| {
                    let text = text.trim_end_matches(is_space);
                    let cut = text.char_indices().rev().find(|(_, c)| is_space(*c));
                    let (rest, word) = text.split_at(cut.map_or(0, |(at, c)| at + c.len_utf8()));
                    (word, rest)
                },
                str::trim_end_matches,
            );
            parts.reverse();
            parts
        }
    };
    list(state, parts.into_iter().map(Value::from).collect())
}

/// Takes characters of a kind from one end of a text.
type Trim<'t> = fn(&'t str, fn(char) -> bool) -> &'t str;

/// At most `most` words, of which the last is all the rest; `next` gives a word and what is left, `trim` takes white space from the rest.
fn words<'t>(text: &'t str, most: usize, next: impl Fn(&'t str) -> (&'t str, &'t str), trim: Trim<'t>) -> Vec<&'t str> {
    let (mut parts, mut rest) = (Vec::new(), trim(text, is_space));
    while !rest.is_empty() {
        if parts.len() + 1 == most {
            parts.push(rest);
            break;
        }
        let (word, left) = next(rest);
        parts.push(word);
        rest = trim(left, is_space);
    }
    parts
}

/// The lines of a text, ended by any of Python's ends of lines.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let (mut lines, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let at = rest.find(is_end).unwrap_or(rest.len());
        let end = match rest[at..].chars().next() {
            Some('\r') if rest[at..].starts_with("\r\n") => at + 2,
            Some(c) => at + c.len_utf8(),
            None => at,
        };
        lines.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    lines
}

/// `replace(old, new, count)`.
pub(super) fn replace(state: &State, text: &str, args: &Args<'_>) -> Result<Value, Error> {
    let [old, new] = [args.text(0, "old")?, args.text(1, "new")?];
    let (Some(old), Some(new)) = (old.as_ref().and_then(Value::as_str), new.as_ref().and_then(Value::as_str)) else {
        return Err(wrong("replace takes two strings"));
    };
    let most = args.int(2, "count")?.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let count = text.matches(old).count().min(most);
    charge(state, text.len().saturating_add(count.saturating_mul(new.len())))?;
    Ok(Value::from(text.replacen(old, new, count)))
}

/// Whether a text has one of the prefixes or suffixes.
fn affix(state: &State, text: &str, args: &Args<'_>, has: fn(&str, &str) -> bool) -> Result<Value, Error> {
    let affixes = match args.need(0, "prefix")? {
        all if all.is_tuple() => items(state, &all)?,
        one => vec![one],
    };
    let tail = Args::new(args.values()).after(1);
    let (_, text) = bounded(text, tail.int(0, "start")?, tail.int(1, "end")?);
    for affix in affixes {
        let affix = affix.as_str().ok_or_else(|| wrong("a prefix is a string or a tuple of strings"))?;
        if has(text, affix) {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

/// The part of `text` from character `start` to `end`, and the number of characters before it.
fn bounded(text: &str, start: Option<i64>, end: Option<i64>) -> (usize, &str) {
    if start.is_none() && end.is_none() {
        return (0, text);
    }
    let length = text.chars().count();
    let clamp = |i: i64| usize::try_from(if i < 0 { i + length as i64 } else { i }).unwrap_or(0).min(length);
    let (start, end) = (clamp(start.unwrap_or(0)), clamp(end.unwrap_or(length as i64)));
    let byte = |i: usize| text.char_indices().nth(i).map_or(text.len(), |(at, _)| at);
    (start, &text[byte(start)..byte(end.max(start))])
}

/// The part that `find(sub, start, end)` searches.
fn part<'t>(text: &'t str, args: &Args<'_>) -> Result<(usize, &'t str), Error> {
    Ok(bounded(text, args.int(1, "start")?, args.int(2, "end")?))
}

/// The place of the first or last occurrence in characters.
fn place(text: &str, args: &Args<'_>, last: bool) -> Result<Option<i64>, Error> {
    let (before, part) = part(text, args)?;
    let sub = argument(args, "sub")?;
    let at = if last { part.rfind(&*sub) } else { part.find(&*sub) };
    Ok(at.map(|at| (before + part[..at].chars().count()) as i64))
}

fn found(place: Option<i64>) -> Result<Value, Error> {
    place.map(Value::from).ok_or_else(|| wrong("the part is not in the string"))
}

/// Characters that a text lacks of a width, paid for.
fn missing(state: &State, text: &str, args: &Args<'_>) -> Result<usize, Error> {
    let width = args.int(0, "width")?.ok_or_else(|| wrong("the argument width is missing"))?;
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    charge(state, missing.saturating_mul(4))?;
    Ok(missing)
}

fn fill(args: &Args<'_>) -> Result<String, Error> {
    let fill = args.text(1, "fillchar")?;
    let fill = fill.as_ref().and_then(Value::as_str).unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(wrong("a fill is one character"));
    }
    Ok(fill.to_owned())
}

/// `center(width, fill)`: of an odd number of fills Python puts the last to the left if the width is odd.
pub(super) fn center(state: &State, text: &str, args: &Args<'_>) -> Result<Value, Error> {
    let (fill, missing) = (fill(args)?, missing(state, text, args)?);
    let width = missing + text.chars().count();
    let left = missing / 2 + (missing & width & 1);
    Ok(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))))
}
