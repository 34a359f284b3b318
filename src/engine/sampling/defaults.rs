//! The sampling defaults of a model: the keys `general.sampling.*` of its file.

use super::mirostat::MirostatVersion;
use super::settings::{MULTIPLIERS, NumberRange, PROBABILITIES, Sampling, TEMPERATURES, wanted};
use crate::error::{Error, Result, Setting, quoted};
use crate::gguf::{Gguf, ValueRef};

/// The numbers that a file may set, by their names behind `general.sampling.`.
type Number = (&'static str, NumberRange, fn(&mut Sampling) -> &mut f32);
const NUMBERS: [Number; 8] = [
    ("top_p", PROBABILITIES, |to| &mut to.top_p),
    ("min_p", PROBABILITIES, |to| &mut to.min_p),
    ("xtc_probability", PROBABILITIES, |to| &mut to.xtc_probability),
    ("xtc_threshold", PROBABILITIES, |to| &mut to.xtc_threshold),
    ("temp", TEMPERATURES, |to| &mut to.temperature),
    ("penalty_repeat", MULTIPLIERS, |to| &mut to.repeat_penalty),
    ("mirostat_tau", TEMPERATURES, |to| &mut to.mirostat_tau),
    ("mirostat_eta", TEMPERATURES, |to| &mut to.mirostat_eta),
];

impl Sampling {
    /// The settings that a file recommends, and the defaults where it is silent. A key whose name behind `general.sampling.` is `given`
    /// is not read: the caller knows better.
    ///
    /// # Errors
    /// If a key is of another type, or its value out of range.
    pub fn of_model(gguf: &Gguf, given: impl Fn(&str) -> bool) -> Result<Sampling> {
        let mut settings = Sampling::default();
        let file = Keys { gguf, given };
        if let Some(names) = file.read("sequence", "a text", ValueRef::as_str)? {
            settings.sequence = names.parse().map_err(|error: Error| file.refused("sequence", error.to_string()))?;
        }
        // As in llama.cpp, a negative top-k keeps all, and a negative number of last tokens is none.
        let count = |n: i128| usize::try_from(n.max(0)).unwrap_or(usize::MAX);
        settings.top_k = file.read("top_k", "an integer", integer)?.map_or(settings.top_k, count);
        settings.repeat_last_n =
            file.read("penalty_last_n", "an integer", integer)?.map_or(settings.repeat_last_n, count);
        settings.mirostat = match file.read("mirostat", "an integer", integer)? {
            None | Some(0) => None,
            Some(1) => Some(MirostatVersion::One),
            Some(2) => Some(MirostatVersion::Two),
            Some(n) => return Err(file.refused("mirostat", format!("is {n}, not 0, 1 or 2"))),
        };
        for (name, range, number) in NUMBERS {
            let wanted = wanted(&range);
            if let Some(value) = file.read(name, &wanted, float)? {
                if !range.contains(&value) {
                    return Err(file.refused(name, format!("is {value}, not {wanted}")));
                }
                *number(&mut settings) = value;
            }
        }
        Ok(settings)
    }
}

/// The value of an integer of any type.
fn integer(value: ValueRef) -> Option<i128> {
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
}

/// The value of a float, or of an integer, which llama.cpp takes too.
fn float(value: ValueRef) -> Option<f32> {
    value.as_f32().or_else(|| integer(value).map(|n| n as f32))
}

/// The sampling keys of a file, without those that are given.
struct Keys<'a, F: Fn(&str) -> bool> {
    gguf: &'a Gguf,
    given: F,
}

impl<'a, F: Fn(&str) -> bool> Keys<'a, F> {
    fn read<T>(&self, name: &'static str, wanted: &str, of: impl Fn(ValueRef<'a>) -> Option<T>) -> Result<Option<T>> {
        let key = format!("general.sampling.{name}");
        let Some(value) = self.gguf.metadata().get(&key).filter(|_| !(self.given)(name)) else { return Ok(None) };
        let problem = || format!("is {}, not {wanted}", quoted(&format!("{value:?}")));
        of(value).map(Some).ok_or_else(|| self.refused(name, problem()))
    }

    fn refused(&self, name: &'static str, problem: String) -> Error {
        let place = format!("key \"general.sampling.{name}\"");
        Error::invalid(self.gguf.path(), place, problem, "give another value").with_setting(Setting::Sampling(name))
    }
}
