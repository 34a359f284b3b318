//! The filters of Jinja that templates of chats use.

use super::args::Args;
use super::budget::{Container, charge, charge_items, container, deeper_list, items, pairs, type_name, wrong};
use super::format::printf;
use super::methods;
use super::operators::{compare, equal, item};
use super::predicates::TESTS;
use super::text::{Json, Text, escaped, f64_of, str_of};
use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, State, Value};
use std::cmp::Ordering;

/// What a filter makes of a value.
pub(super) type Filter = fn(&mut State, &Value, &Args<'_>) -> Result<Value, Error>;

/// All of them.
pub(super) const FILTERS: &[(&str, Filter)] = &[
    ("abs", |_, value, _| match i128::try_from(value.clone()) {
        Ok(integer) => Ok(Value::from(integer.saturating_abs())),
        Err(_) => Ok(Value::from(number(value)?.abs())),
    }),
    ("attr", |state, value, args| item(state, &[value.clone(), args.need(0, "name")?])),
    ("batch", |state, value, args| {
        let (size, all) = (size(args, "linecount")?, items(state, value)?);
        let rows =
            all.chunks(size).map(|row| filled(row, size, &args.get(1, "fill_with"))).collect::<Result<_, _>>()?;
        deeper_list(state, rows)
    }),
    ("capitalize", |state, value, _| text(state, value).map(|text| Value::from(methods::capitalized(&text)))),
    ("center", |state, value, args| {
        let width = Value::from(args.int(0, "width")?.unwrap_or(80));
        methods::center(state, &text(state, value)?, &Args::new(&[width]))
    }),
    ("count", length),
    ("d", default),
    ("default", default),
    ("dictsort", |state, value, args| {
        let by = args.get(1, "by").is_some_and(|by| by.as_str() == Some("value"));
        let pairs = pairs(state, value)?.into_iter();
        let keyed = pairs.map(|(key, value)| {
            let order = if by { value.clone() } else { key.clone() };
            (order, Value::from(Tuple::from([key, value])))
        });
        let sorted =
            sorted(state, keyed.collect(), args.flag(0, "case_sensitive", false), args.flag(2, "reverse", false))?;
        deeper_list(state, sorted.into_iter().map(|(_, pair)| pair).collect())
    }),
    ("e", escape),
    ("escape", escape),
    ("first", |state, value, _| Ok(items(state, value)?.into_iter().next().unwrap_or_default())),
    ("float", |_, value, args| {
        let parsed = value.as_str().and_then(|text| text.trim().parse::<f64>().ok());
        let number = parsed.or_else(|| number(value).ok()).map(Value::from);
        Ok(number.or_else(|| args.get(0, "default")).unwrap_or_else(|| Value::from(0.0)))
    }),
    ("format", |state, value, args| {
        let named = Value::from_pairs(args.named());
        let values = if named.len() == Some(0) { args.values().to_vec() } else { vec![named] };
        printf(state, &text(state, value)?, &values).map(Value::from)
    }),
    ("groupby", |state, value, args| {
        let keyed = keyed(state, value, &args.need(0, "attribute")?, args.get(1, "default"))?;
        let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
        for (key, item) in sorted(state, keyed, args.flag(2, "case_sensitive", false), false)? {
            match groups.last_mut() {
                Some((known, group)) if equal(state, known, &key)? => group.push(item),
                _ => groups.push((key, vec![item])),
            }
        }
        let pair = |(key, group)| Value::from(Tuple::from([key, Value::from(group)]));
        deeper_list(state, groups.into_iter().map(pair).collect())
    }),
    ("indent", indent),
    ("int", |_, value, args| {
        let base =
            args.int(1, "base")?.and_then(|base| u32::try_from(base).ok()).filter(|base| (2..=36).contains(base));
        let integer = match value.as_str().map(str::trim) {
            Some(text) => i128::from_str_radix(text, base.unwrap_or(10))
                .ok()
                .or_else(|| text.parse::<f64>().ok().filter(|x| x.is_finite()).map(|x| x as i128)),
            None if value.is_integer() => i128::try_from(value.clone()).ok(),
            None => number(value).ok().filter(|x| x.is_finite()).map(|x| x as i128),
        };
        Ok(integer.map(Value::from).or_else(|| args.get(0, "default")).unwrap_or_else(|| Value::from(0)))
    }),
    ("items", |state, value, _| {
        if value.is_undefined() {
            return Ok(Value::from(Vec::<Value>::new()));
        }
        let pairs = pairs(state, value)?.into_iter();
        deeper_list(state, pairs.map(|(key, value)| Value::from(Tuple::from([key, value]))).collect())
    }),
    ("join", |state, value, args| {
        let separator = text(state, &args.get(0, "d").unwrap_or_else(|| Value::from("")))?;
        let all = match args.get(1, "attribute") {
            Some(name) => keyed(state, value, &name, None)?.into_iter().map(|(key, _)| key).collect(),
            None => items(state, value)?,
        };
        let mut joined = Text::new(state);
        for (i, item) in all.iter().enumerate() {
            joined.push(if i == 0 { "" } else { &separator })?;
            joined.push_str_of(item)?;
        }
        joined.finish().map(Value::from)
    }),
    ("last", |state, value, _| Ok(items(state, value)?.pop().unwrap_or_default())),
    ("length", length),
    ("list", |state, value, _| items(state, value).map(Value::from)),
    ("lower", |state, value, _| {
        let text = text(state, value)?;
        charge(state, 3 * text.len())?;
        Ok(Value::from(text.to_lowercase()))
    }),
    ("map", map),
    ("max", |state, value, args| extreme(state, value, args, Ordering::Greater)),
    ("min", |state, value, args| extreme(state, value, args, Ordering::Less)),
    ("pprint", |state, value, _| {
        str_of(state, &Value::from(vec![value.clone()])).map(|s| Value::from(&s[1..s.len() - 1]))
    }),
    ("reject", |state, value, args| chosen(state, value, args, false, false)),
    ("rejectattr", |state, value, args| chosen(state, value, args, true, false)),
    ("replace", |state, value, args| {
        let (old, new) = (text(state, &args.need(0, "old")?)?, text(state, &args.need(1, "new")?)?);
        let count = args.get(2, "count").unwrap_or_else(|| Value::from(()));
        methods::replace(state, &text(state, value)?, &Args::new(&[old.into(), new.into(), count]))
    }),
    ("reverse", |state, value, _| {
        let mut all = items(state, value)?;
        all.reverse();
        match value.as_str() {
            Some(text) => Ok(Value::from(text.chars().rev().collect::<String>())),
            None => Ok(Value::from(all)),
        }
    }),
    ("round", |_, value, args| {
        let (number, precision) = (number(value)?, args.int(0, "precision")?.unwrap_or(0).clamp(-300, 300) as i32);
        let scale = 10f64.powi(precision);
        let method = args.text(1, "method")?;
        Ok(Value::from(match method.as_ref().and_then(Value::as_str) {
            Some("ceil") => (number * scale).ceil() / scale,
            Some("floor") => (number * scale).floor() / scale,
            // The decimal digits of a double are exact, so they are rounded once.
            _ if precision >= 0 => format!("{number:.*}", precision as usize).parse().unwrap_or(number),
            _ => (number * scale).round_ties_even() / scale,
        }))
    }),
    ("safe", |state, value, _| text(state, value).map(Value::from_safe_string)),
    ("select", |state, value, args| chosen(state, value, args, false, true)),
    ("selectattr", |state, value, args| chosen(state, value, args, true, true)),
    ("slice", |state, value, args| {
        let (count, all) = (size(args, "slices")?, items(state, value)?);
        charge_items(state, count)?;
        let (each, more, mut at) = (all.len() / count, all.len() % count, 0);
        let mut columns = Vec::with_capacity(count);
        for i in 0..count {
            let length = each + usize::from(i < more);
            let column = &all[at..at + length];
            at += length;
            let room = if more > 0 && i >= more { length + 1 } else { length };
            columns.push(filled(column, room, &args.get(1, "fill_with"))?);
        }
        deeper_list(state, columns)
    }),
    ("sort", |state, value, args| {
        let keyed = match args.get(2, "attribute") {
            Some(name) => keyed(state, value, &name, None)?,
            None => items(state, value)?.into_iter().map(|item| (item.clone(), item)).collect(),
        };
        let sorted = sorted(state, keyed, args.flag(1, "case_sensitive", false), args.flag(0, "reverse", false))?;
        Ok(sorted.into_iter().map(|(_, item)| item).collect())
    }),
    ("string", |state, value, _| match value.as_str() {
        Some(_) => Ok(value.clone()),
        None => str_of(state, value).map(Value::from),
    }),
    ("sum", |state, value, args| {
        let all = match args.get(0, "attribute") {
            Some(name) if !name.is_none() => {
                keyed(state, value, &name, None)?.into_iter().map(|(key, _)| key).collect()
            }
            _ => items(state, value)?,
        };
        let start = args.get(1, "start").unwrap_or_else(|| Value::from(0));
        let add = super::operators::OPERATORS[0].1;
        all.into_iter().try_fold(start, |sum, item| add(state, &[sum, item]))
    }),
    ("title", |state, value, _| {
        let text = text(state, value)?;
        charge(state, 3 * text.len())?;
        let (mut title, mut starts) = (String::new(), true);
        for c in text.chars() {
            if starts {
                title.extend(c.to_uppercase())
            } else {
                title.extend(c.to_lowercase())
            }
            starts = c.is_whitespace() || "-({[<".contains(c);
        }
        Ok(Value::from(title))
    }),
    ("tojson", tojson),
    ("trim", |state, value, args| methods::strip(&text(state, value)?, args)),
    ("truncate", truncate),
    ("unique", |state, value, args| {
        let keyed = match args.get(1, "attribute") {
            Some(name) => keyed(state, value, &name, None)?,
            None => items(state, value)?.into_iter().map(|item| (item.clone(), item)).collect(),
        };
        let (mut seen, mut unique) = (Vec::new(), Vec::new());
        for (key, item) in keyed {
            let key = folded(state, key, args.flag(0, "case_sensitive", false))?;
            charge_items(state, seen.len())?;
            let mut is_new = true;
            for known in &seen {
                is_new = is_new && !equal(state, known, &key)?;
            }
            if is_new {
                seen.push(key);
                unique.push(item);
            }
        }
        Ok(Value::from(unique))
    }),
    ("upper", |state, value, _| {
        let text = text(state, value)?;
        charge(state, 3 * text.len())?;
        Ok(Value::from(text.to_uppercase()))
    }),
    ("wordcount", |state, value, _| {
        let words = text(state, value)?;
        Ok(Value::from(words.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()))
    }),
];

/// `str(value)`, which most filters of text begin with.
fn text(state: &State, value: &Value) -> Result<String, Error> {
    str_of(state, value)
}

fn number(value: &Value) -> Result<f64, Error> {
    let number = f64_of(value).filter(|_| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    number.ok_or_else(|| wrong(format!("{} is no number", type_name(value))))
}

fn size(args: &Args<'_>, name: &str) -> Result<usize, Error> {
    let size = args.int(0, name)?.and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
    size.ok_or_else(|| wrong(format!("{name} is no positive integer")))
}

/// A row with a value in its free places. A batch has at most one place free for each item.
fn filled(row: &[Value], size: usize, fill: &Option<Value>) -> Result<Value, Error> {
    let mut row = row.to_vec();
    if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none()) {
        if size - row.len() > 1000 {
            return Err(wrong("more than 1000 places would be filled"));
        }
        row.resize(size.max(row.len()), fill.clone());
    }
    Ok(Value::from(row))
}

fn length(_: &mut State, value: &Value, _: &Args<'_>) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => Ok(Value::from(text.chars().count())),
        None if value.is_undefined() => Ok(Value::from(0)),
        None => value.len().map(Value::from).ok_or_else(|| wrong(format!("{} has no length", type_name(value)))),
    }
}

fn default(_: &mut State, value: &Value, args: &Args<'_>) -> Result<Value, Error> {
    let is_missing = value.is_undefined() || (args.flag(1, "boolean", false) && !value.is_true());
    Ok(if is_missing { args.get(0, "default_value").unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

fn escape(state: &mut State, value: &Value, _: &Args<'_>) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let text = text(state, value)?;
    escaped(state, &text).map(Value::from_safe_string)
}

/// The attribute of each item, by a path as `function.name`, with the item.
fn keyed(state: &mut State, value: &Value, name: &Value, default: Option<Value>) -> Result<Vec<(Value, Value)>, Error> {
    let all = items(state, value)?;
    let keyed = all.into_iter().map(|item| {
        let key = at_path(state, &item, name)?;
        Ok((if key.is_undefined() { default.clone().unwrap_or(key) } else { key }, item))
    });
    keyed.collect()
}

fn at_path(state: &mut State, value: &Value, path: &Value) -> Result<Value, Error> {
    let Some(path) = path.as_str() else { return item(state, &[value.clone(), path.clone()]) };
    path.split('.').try_fold(value.clone(), |value, name| {
        let key = name.parse::<i64>().map_or_else(|_| Value::from(name), Value::from);
        item(state, &[value, key])
    })
}

/// A key that is compared without regard to case.
fn folded(state: &State, key: Value, case_sensitive: bool) -> Result<Value, Error> {
    match key.as_str() {
        Some(text) if !case_sensitive => {
            charge(state, 3 * text.len())?;
            Ok(Value::from(text.to_lowercase()))
        }
        _ => Ok(key),
    }
}

/// Keys with their items, in the order of the keys; equal ones stay as they were.
fn sorted(
    state: &State,
    keyed: Vec<(Value, Value)>,
    case_sensitive: bool,
    reverse: bool,
) -> Result<Vec<(Value, Value)>, Error> {
    charge_items(state, keyed.len())?;
    let folded = keyed.into_iter().map(|(key, item)| Ok((folded(state, key.clone(), case_sensitive)?, (key, item))));
    let mut folded = folded.collect::<Result<Vec<_>, Error>>()?;
    let mut failed = None;
    folded.sort_by(|(a, _), (b, _)| {
        // After an error the order does not matter, and nothing more is compared.
        if failed.is_some() {
            return Ordering::Equal;
        }
        let order = charge(state, 64).and_then(|()| compare(state, a, b)).unwrap_or_else(|error| {
            failed = Some(error);
            None
        });
        let order = order.unwrap_or(Ordering::Equal);
        if reverse { order.reverse() } else { order }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(folded.into_iter().map(|(_, pair)| pair).collect()),
    }
}

fn extreme(state: &mut State, value: &Value, args: &Args<'_>, wanted: Ordering) -> Result<Value, Error> {
    let keyed = match args.get(1, "attribute") {
        Some(name) => keyed(state, value, &name, None)?,
        None => items(state, value)?.into_iter().map(|item| (item.clone(), item)).collect(),
    };
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keyed {
        let key = folded(state, key, args.flag(0, "case_sensitive", false))?;
        match &best {
            Some((known, _)) if compare(state, &key, known)? != Some(wanted) => {}
            _ => best = Some((key, item)),
        }
    }
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}

/// `map("filter", ...)`, or `map(attribute="name", default=...)`.
fn map(state: &mut State, value: &Value, args: &Args<'_>) -> Result<Value, Error> {
    if !value.is_true() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    if args.values().is_empty() {
        let keyed = keyed(state, value, &args.need(0, "attribute")?, args.get(1, "default"))?;
        return Ok(keyed.into_iter().map(|(key, _)| key).collect());
    }
    let name = args.need(0, "filter")?;
    let known = FILTERS.iter().find(|(known, _)| name.as_str() == Some(known));
    let (_, filter) = known.ok_or_else(|| wrong("map names a filter that does not exist"))?;
    let all = items(state, value)?;
    let mapped = all.iter().map(|item| charge(state, 64).and_then(|()| filter(state, item, &args.after(1))));
    let mapped = mapped.collect::<Result<Vec<_>, _>>()?;
    deeper_list(state, mapped)
}

/// The items, or those with an attribute, that a test holds for or not. Without a test it is their truth.
fn chosen(state: &mut State, value: &Value, args: &Args<'_>, by_attribute: bool, wanted: bool) -> Result<Value, Error> {
    // As in Jinja, nothing has no items here, also where it could not be passed.
    if !value.is_true() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    let keyed = match by_attribute {
        true => keyed(state, value, &args.need(0, "attribute")?, None)?,
        false => items(state, value)?.into_iter().map(|item| (item.clone(), item)).collect(),
    };
    let args = args.after(usize::from(by_attribute));
    let test = match args.get(0, "test") {
        None => None,
        Some(name) => {
            let known = TESTS.iter().find(|(known, _)| name.as_str() == Some(known));
            Some(known.ok_or_else(|| wrong("there is no test of that name"))?.1)
        }
    };
    let mut chosen = Vec::new();
    for (key, item) in keyed {
        charge(state, 64)?;
        let holds = match test {
            Some(test) => test(state, &key, &args.after(1))?,
            None => key.is_true(),
        };
        if holds == wanted {
            chosen.push(item);
        }
    }
    Ok(Value::from(chosen))
}

/// `indent(width, first, blank)`: empty lines and the first line are not indented unless asked for.
fn indent(state: &mut State, value: &Value, args: &Args<'_>) -> Result<Value, Error> {
    let by = match args.get(0, "width") {
        Some(width) if width.as_str().is_some() => text(state, &width)?,
        width => spaces(state, width.and_then(|width| width.as_i64()).unwrap_or(4))?,
    };
    let (first, blank) = (args.flag(1, "first", false), args.flag(2, "blank", false));
    // As Jinja has it: with one more line end, which makes a last line of the empty text behind the last one.
    let text = text(state, value)? + "\n";
    charge_items(state, text.matches('\n').count())?;
    let mut indented = Text::new(state);
    for (i, line) in methods::lines(&text, false).into_iter().enumerate() {
        indented.push(if i == 0 { "" } else { "\n" })?;
        if if i == 0 { first } else { blank || !line.is_empty() } {
            indented.push(&by)?;
        }
        indented.push(line)?;
    }
    indented.finish().map(Value::from)
}

/// So many spaces, paid for.
fn spaces(state: &State, count: i64) -> Result<String, Error> {
    let mut spaces = Text::new(state);
    spaces.repeat(" ", usize::try_from(count).unwrap_or(0))?;
    spaces.finish()
}

fn truncate(state: &mut State, value: &Value, args: &Args<'_>) -> Result<Value, Error> {
    let text = text(state, value)?;
    let length = usize::try_from(args.int(0, "length")?.unwrap_or(255)).unwrap_or(0);
    let leeway = usize::try_from(args.int(3, "leeway")?.unwrap_or(5)).unwrap_or(0);
    let end = args.text(2, "end")?;
    let end = end.as_ref().and_then(Value::as_str).unwrap_or("...");
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(Value::from(text));
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept =
        if args.flag(1, "killwords", false) { &kept } else { kept.rsplit_once(' ').map_or(&*kept, |(kept, _)| kept) };
    Ok(Value::from(format!("{kept}{end}")))
}

/// `tojson(ensure_ascii, indent, separators, sort_keys)` of transformers, which is `json.dumps` and escapes nothing for HTML.
fn tojson(state: &mut State, value: &Value, args: &Args<'_>) -> Result<Value, Error> {
    let indent = match args.get(1, "indent") {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) if indent.as_str().is_some() => Some(text(state, &indent)?),
        Some(indent) => Some(spaces(state, indent.as_i64().ok_or_else(|| wrong("the indent is no integer"))?)?),
    };
    let separators = match args.get(2, "separators") {
        Some(pair) if matches!(container(&pair), Container::List(_)) => {
            let pair = items(state, &pair)?;
            let [between, after] = &pair[..] else { return Err(wrong("there are two separators")) };
            [text(state, between)?, text(state, after)?]
        }
        _ => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
    };
    let json = Json {
        ensure_ascii: args.flag(0, "ensure_ascii", false),
        indent,
        separators,
        sort_keys: args.flag(3, "sort_keys", false),
    };
    json.dumps(state, value).map(Value::from)
}
