//! The sampling fields of a request, with OpenAI's and llama.cpp's names, over the model's own settings.

use super::object::{Object, wrong};
use super::openai::unique;
use super::refusal::{Refusal, Result};
use serde_json::Value;
use strata::engine::sampling::{
    AT_LEAST_ONE, BREAKERS, FINITE, MULTIPLIERS, MirostatVersion, NumberRange, PROBABILITIES, Sampling, Sequence,
    TEMPERATURES,
};

type Number = (&'static str, NumberRange, fn(&mut Sampling) -> &mut f32);

/// The fields that are numbers; `openapi` lists them from here.
pub const NUMBERS: [Number; 16] = [
    ("temperature", TEMPERATURES, |to| &mut to.temperature),
    ("top_p", PROBABILITIES, |to| &mut to.top_p),
    ("min_p", PROBABILITIES, |to| &mut to.min_p),
    ("typical_p", PROBABILITIES, |to| &mut to.typical_p),
    ("top_n_sigma", FINITE, |to| &mut to.top_n_sigma),
    ("xtc_probability", PROBABILITIES, |to| &mut to.xtc_probability),
    ("xtc_threshold", PROBABILITIES, |to| &mut to.xtc_threshold),
    ("dynatemp_range", TEMPERATURES, |to| &mut to.dynatemp_range),
    ("dynatemp_exponent", TEMPERATURES, |to| &mut to.dynatemp_exponent),
    ("repeat_penalty", MULTIPLIERS, |to| &mut to.repeat_penalty),
    ("presence_penalty", FINITE, |to| &mut to.presence_penalty),
    ("frequency_penalty", FINITE, |to| &mut to.frequency_penalty),
    ("dry_multiplier", TEMPERATURES, |to| &mut to.dry_multiplier),
    ("dry_base", AT_LEAST_ONE, |to| &mut to.dry_base),
    ("mirostat_tau", TEMPERATURES, |to| &mut to.mirostat_tau),
    ("mirostat_eta", TEMPERATURES, |to| &mut to.mirostat_eta),
];

type Count = (&'static str, fn(&mut Sampling) -> &mut usize);

/// The fields that are numbers of tokens; as in llama.cpp, -1 is no limit.
pub const COUNTS: [Count; 5] = [
    ("top_k", |to| &mut to.top_k),
    ("repeat_last_n", |to| &mut to.repeat_last_n),
    ("dry_allowed_length", |to| &mut to.dry_allowed_length),
    ("dry_penalty_last_n", |to| &mut to.dry_last_n),
    ("min_keep", |to| &mut to.min_keep),
];

/// The most entries of a logit bias, as OpenAI has it.
const BIASES: usize = 1024;

/// The settings that `body` asks for, over those of the model with `vocab` tokens.
pub fn read(body: &Object<'_>, model: &Sampling, vocab: usize) -> Result<Sampling> {
    let mut to = model.clone();
    for (name, range, field) in NUMBERS {
        if let Some(value) = body.number(name, &range)? {
            *field(&mut to) = value;
        }
    }
    for (name, field) in COUNTS {
        match body.whole(name, -1..=i128::from(i32::MAX))? {
            None => {}
            Some(-1) if name == "top_k" => to.top_k = 0,
            Some(-1) => *field(&mut to) = usize::MAX,
            Some(n) => *field(&mut to) = n as usize,
        }
    }
    to.seed = match body.whole("seed", -1..=i128::from(u64::MAX))? {
        None | Some(-1) => random(),
        Some(seed) => seed as u64,
    };
    to.mirostat = match body.whole("mirostat", 0..=2)? {
        None => to.mirostat,
        Some(1) => Some(MirostatVersion::One),
        Some(2) => Some(MirostatVersion::Two),
        Some(_) => None,
    };
    if body.get("samplers").is_some() {
        let names = body.texts("samplers", 16)?.unwrap_or_default().join(";");
        to.sequence = names.parse::<Sequence>().map_err(|error| Refusal::field("samplers", error))?;
    }
    if let Some(breakers) = body.texts("dry_sequence_breakers", BREAKERS)? {
        to.dry_breakers = breakers;
    }
    if let Some(bias) = body.get("logit_bias") {
        to.logit_bias = logit_bias(bias)?;
    }
    to.check(vocab)?;
    Ok(to)
}

/// `{"15043": 1.5}` as OpenAI has it, or `[[15043, 1.5], [15044, false]]` as llama.cpp has it; `false` excludes a token.
fn logit_bias(value: &Value) -> Result<Vec<(u32, f32)>> {
    let entries: Vec<(Option<u64>, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, bias)| (key.parse().ok(), bias)).collect(),
        Value::Array(list) => {
            let pair = |item: &'_ Value| item.as_array().filter(|pair| pair.len() == 2).map(|pair| pair[0].as_u64());
            list.iter().map(|item| (pair(item).flatten(), item.get(1).unwrap_or(&Value::Null))).collect()
        }
        other => return Err(wrong("logit_bias", other, "an object of token ids and numbers")),
    };
    if entries.len() > BIASES {
        return Err(Refusal::field("logit_bias", format!("has {} entries; give at most {BIASES}", entries.len())));
    }
    let one = |(token, bias): (Option<u64>, &Value)| {
        let bias = match bias {
            Value::Bool(false) => Some(f32::NEG_INFINITY),
            other => other.as_f64().map(|x| x as f32).filter(|x| FINITE.contains(x)),
        };
        let token = token.and_then(|token| u32::try_from(token).ok());
        token
            .zip(bias)
            .ok_or_else(|| Refusal::field("logit_bias", "is not made of token ids and finite numbers (or false)"))
    };
    entries.into_iter().map(one).collect()
}

/// Different for every request. Below 2^53, which every JSON reader keeps exactly.
fn random() -> u64 {
    unique() % (1 << 53)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: Value) -> Result<Sampling> {
        read(&Object::body(&value).unwrap(), &Sampling::default(), 100)
    }

    #[test]
    fn fields_become_settings() {
        let settings = of(json!({"seed": 7, "temperature": 0, "top_k": -1, "repeat_last_n": -1, "mirostat": 2,
            "logit_bias": {"5": -100, "6": 1}, "samplers": ["top_k", "temperature"], "dry_sequence_breakers": ["x"]}));
        let expected = Sampling {
            seed: 7,
            temperature: 0.0,
            top_k: 0,
            repeat_last_n: usize::MAX,
            mirostat: Some(MirostatVersion::Two),
            logit_bias: vec![(5, -100.0), (6, 1.0)],
            sequence: "top_k;temperature".parse().unwrap(),
            dry_breakers: vec!["x".to_owned()],
            ..Sampling::default()
        };
        assert_eq!(settings.unwrap(), expected);
        let bias = of(json!({"logit_bias": [[5, false], [6, 0.5]], "seed": -1})).unwrap().logit_bias;
        assert_eq!(bias, [(5, f32::NEG_INFINITY), (6, 0.5)]);
    }

    #[test]
    fn hostile_fields_are_refused_by_name() {
        for (name, values) in [
            ("temperature", vec![json!(-1), json!(1e300), json!("1"), json!([])]),
            ("top_p", vec![json!(1.5), json!(-0.1)]),
            ("top_k", vec![json!(-2), json!(1e10), json!(1.5), json!(u64::MAX)]),
            ("dry_allowed_length", vec![json!(i64::MIN), json!(u64::MAX)]),
            ("repeat_penalty", vec![json!(0), json!(-1)]),
            ("seed", vec![json!(-2), json!(1.5), json!("x")]),
            ("mirostat", vec![json!(3), json!(-1)]),
            ("samplers", vec![json!(["nonsense"]), json!([1]), json!(7)]),
            ("dry_sequence_breakers", vec![json!([""]), json!(vec!["x"; 101]), json!(1)]),
            (
                "logit_bias",
                vec![json!({"-1": 1}), json!({"x": 1}), json!({"1": "1"}), json!([[1]]), json!([[1, 2, 3]]), json!(3)],
            ),
        ] {
            for value in values {
                let refusal = of(json!({name: value})).unwrap_err();
                assert!(refusal.message.contains(name), "{name} {value}: {}", refusal.message);
            }
        }
        assert!(of(json!({"logit_bias": {"100": 1}})).unwrap_err().message.contains("token 100"));
    }
}
