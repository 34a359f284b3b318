//! Values as text, as Python has it: `str`, `repr` and `json.dumps`. Each piece is paid for before it is written.

use super::budget::{Container, MAX_DEPTH, charge, container, too_deep, type_name, wrong};
use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

/// A text that grows while there is fuel for it.
pub(super) struct Text<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    text: String,
    unpaid: usize, // bytes
}

impl<'a, 'b, 'c> Text<'a, 'b, 'c> {
    pub(super) fn new(state: &'a State<'b, 'c>) -> Self {
        Text { state, text: String::new(), unpaid: 0 }
    }

    pub(super) fn push(&mut self, part: &str) -> Result<(), Error> {
        self.unpaid = self.unpaid.saturating_add(part.len());
        if self.unpaid > 4096 {
            charge(self.state, std::mem::take(&mut self.unpaid))?;
        }
        self.text.push_str(part);
        Ok(())
    }

    fn push_char(&mut self, c: char) -> Result<(), Error> {
        self.push(c.encode_utf8(&mut [0; 4]))
    }

    /// The same part `n` times.
    pub(super) fn repeat(&mut self, part: &str, n: usize) -> Result<(), Error> {
        charge(self.state, part.len().saturating_mul(n))?;
        (0..n).for_each(|_| self.text.push_str(part));
        Ok(())
    }

    pub(super) fn finish(self) -> Result<String, Error> {
        charge(self.state, self.unpaid)?;
        Ok(self.text)
    }

    /// `str(value)`.
    pub(super) fn push_str_of(&mut self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.push(text),
            None => self.push_repr(value, 0),
        }
    }

    /// `repr(value)`; of an undefined value nothing.
    fn push_repr(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        if let Some(text) = value.as_str() {
            return self.push_quoted(text);
        }
        match container(value) {
            Container::List(list) => {
                let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
                self.push(open)?;
                for (i, item) in list.try_iter().into_iter().flatten().enumerate() {
                    self.push(if i == 0 { "" } else { ", " })?;
                    self.push_repr(&item, depth + 1)?;
                }
                self.push(if value.is_tuple() && value.len() == Some(1) { "," } else { "" })?;
                self.push(close)
            }
            Container::Map(map) => {
                self.push("{")?;
                for (i, (key, item)) in map.try_iter_pairs().into_iter().flatten().enumerate() {
                    self.push(if i == 0 { "" } else { ", " })?;
                    self.push_repr(&key, depth + 1)?;
                    self.push(": ")?;
                    self.push_repr(&item, depth + 1)?;
                }
                self.push("}")
            }
            Container::None => self.push(&scalar(value)),
        }
    }

    /// A text in quotes, escaped: Python takes double quotes if there are single ones and no double ones in it.
    fn push_quoted(&mut self, text: &str) -> Result<(), Error> {
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        self.push_char(quote)?;
        for c in text.chars() {
            match c {
                '\n' => self.push("\\n")?,
                '\r' => self.push("\\r")?,
                '\t' => self.push("\\t")?,
                '\\' => self.push("\\\\")?,
                c if c == quote => {
                    self.push("\\")?;
                    self.push_char(c)?;
                }
                c if is_printable(c) => self.push_char(c)?,
                c => self.push(&match u32::from(c) {
                    code @ ..=0xff => format!("\\x{code:02x}"),
                    code @ ..=0xffff => format!("\\u{code:04x}"),
                    code => format!("\\U{code:08x}"),
                })?,
            }
        }
        self.push_char(quote)
    }
}

/// Whether `repr` shows a character as it is: no control, format, private or separating one, other than the space.
fn is_printable(c: char) -> bool {
    let format = matches!(u32::from(c), 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e
        | 0x2060..=0x206f | 0xfeff | 0xfff0..=0xfffb | 0xe000..=0xf8ff | 0xe0000..=0xe0fff | 0xf0000..);
    c == ' ' || !(c.is_control() || c.is_whitespace() || format)
}

/// The text of what is neither text nor container.
fn scalar(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => match f64_of(value) {
            Some(number) if !value.is_integer() => float(number),
            _ => value.to_string(),
        },
        _ => format!("<{}>", type_name(value)),
    }
}

/// The number as a double; `None` if it is none.
pub(super) fn f64_of(value: &Value) -> Option<f64> {
    f64::try_from(value.clone()).ok().or_else(|| i128::try_from(value.clone()).ok().map(|i| i as f64))
}

/// A double as Python writes it: the shortest digits that give it back, with an exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(-4..=15) => format!("{number:?}"),
        Ok(exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        Err(_) => scientific,
    }
}

/// `str(value)`.
pub(super) fn str_of(state: &State, value: &Value) -> Result<String, Error> {
    let mut text = Text::new(state);
    text.push_str_of(value)?;
    text.finish()
}

/// A text as HTML.
pub(super) fn escaped(state: &State, text: &str) -> Result<String, Error> {
    let mut escaped = Text::new(state);
    for c in text.chars() {
        match c {
            '&' => escaped.push("&amp;")?,
            '<' => escaped.push("&lt;")?,
            '>' => escaped.push("&gt;")?,
            '\'' => escaped.push("&#39;")?,
            '"' => escaped.push("&#34;")?,
            c => escaped.push_char(c)?,
        }
    }
    escaped.finish()
}

/// Settings of `json.dumps`.
pub(super) struct Json {
    pub ensure_ascii: bool,
    /// What each level is indented by; `None` is one line.
    pub indent: Option<String>,
    /// Between items, and between key and value.
    pub separators: [String; 2],
    pub sort_keys: bool,
}

impl Json {
    /// `json.dumps(value)`.
    ///
    /// # Errors
    /// If a value is none that JSON has, nested too deep, or the fuel is spent.
    pub(super) fn dumps(&self, state: &State, value: &Value) -> Result<String, Error> {
        let mut out = Text::new(state);
        self.push(&mut out, value, 0)?;
        out.finish()
    }

    fn push(&self, out: &mut Text<'_, '_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match (container(value), value.as_str()) {
            (_, Some(text)) => self.push_string(out, text),
            (Container::List(list), _) => {
                let items = list.try_iter().into_iter().flatten();
                self.push_all(out, "[]", items, depth, |out, item| self.push(out, &item, depth + 1))
            }
            (Container::Map(map), _) => {
                let mut pairs: Vec<(Value, Value)> = map.try_iter_pairs().into_iter().flatten().collect();
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.push_all(out, "{}", pairs.into_iter(), depth, |out, (key, item)| {
                    match key.as_str() {
                        Some(key) => self.push_string(out, key)?,
                        None => self.push_string(out, &json_scalar(&key)?)?,
                    }
                    out.push(&self.separators[1])?;
                    self.push(out, &item, depth + 1)
                })
            }
            (Container::None, None) => out.push(&json_scalar(value)?),
        }
    }

    /// Items within brackets, each on its line if there is an indent.
    fn push_all<T>(
        &self,
        out: &mut Text<'_, '_, '_>,
        brackets: &str,
        items: impl Iterator<Item = T>,
        depth: usize,
        mut push: impl FnMut(&mut Text<'_, '_, '_>, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |out: &mut Text<'_, '_, '_>, depth: usize| match &self.indent {
            Some(indent) => out.push("\n").and_then(|()| out.repeat(indent, depth)),
            None => Ok(()),
        };
        let mut is_empty = true;
        out.push(&brackets[..1])?;
        for item in items {
            out.push(if is_empty { "" } else { &self.separators[0] })?;
            line(out, depth + 1)?;
            push(out, item)?;
            is_empty = false;
        }
        if !is_empty {
            line(out, depth)?;
        }
        out.push(&brackets[1..])
    }

    fn push_string(&self, out: &mut Text<'_, '_, '_>, text: &str) -> Result<(), Error> {
        out.push("\"")?;
        for c in text.chars() {
            match c {
                '"' => out.push("\\\"")?,
                '\\' => out.push("\\\\")?,
                '\n' => out.push("\\n")?,
                '\r' => out.push("\\r")?,
                '\t' => out.push("\\t")?,
                '\u{8}' => out.push("\\b")?,
                '\u{c}' => out.push("\\f")?,
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push(&format!("\\u{unit:04x}"))?;
                    }
                }
                c => out.push_char(c)?,
            }
        }
        out.push("\"")
    }
}

/// A number, boolean or nothing in JSON, with Python's names for what is not finite.
fn json_scalar(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::Number => match scalar(value).as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            number => number.to_owned(),
        },
        _ => return Err(wrong(format!("{} is not JSON serializable", type_name(value)))),
    })
}
