//! The sampler keeps the same tokens, with the same probabilities, as the chains of llama.cpp in `data/sampling.json`; and whatever its
//! settings are, it chooses a token, the same one for the same seed, as often as its probability says.

mod common;

use proptest::prelude::*;
use serde_json::{Map, Value};
use std::sync::Arc;
use strata::convert::open_model;
use strata::engine::grammar::TokenMask;
use strata::engine::sampling::{FilterKind, MirostatVersion, Sampler, Sampling, Sequence};
use strata::gguf::{Gguf, Layout};
use strata::progress::Quiet;
use strata::tokenizer::Tokenizer;

/// What rounding in `f32`, as llama.cpp's, and to six digits adds up to.
const TOLERANCE: f64 = 1e-5;

/// Settings by their names in `data/make_sampling.py`, over the defaults; without sequence breakers if none are named.
fn settings(given: &Map<String, Value>) -> Sampling {
    let mut to = Sampling { dry_breakers: Vec::new(), ..Sampling::default() };
    for (name, value) in given {
        let (number, count) = (value.as_f64().unwrap_or(0.0) as f32, value.as_u64().unwrap_or(0) as usize);
        match name.as_str() {
            "sequence" => to.sequence = value.as_str().unwrap().parse().unwrap(),
            "min_keep" => to.min_keep = count,
            "logit_bias" => {
                let pair = |pair: &Value| (pair[0].as_u64().unwrap() as u32, bias(&pair[1]));
                to.logit_bias = value.as_array().unwrap().iter().map(pair).collect();
            }
            "repeat_last_n" => to.repeat_last_n = count,
            "repeat_penalty" => to.repeat_penalty = number,
            "presence_penalty" => to.presence_penalty = number,
            "frequency_penalty" => to.frequency_penalty = number,
            "dry_multiplier" => to.dry_multiplier = number,
            "dry_base" => to.dry_base = number,
            "dry_allowed_length" => to.dry_allowed_length = count,
            "dry_last_n" => to.dry_last_n = count,
            "dry_breakers" => to.dry_breakers = serde_json::from_value(value.clone()).unwrap(),
            "top_n_sigma" => to.top_n_sigma = number,
            "top_k" => to.top_k = count,
            "typical_p" => to.typical_p = number,
            "top_p" => to.top_p = number,
            "min_p" => to.min_p = number,
            "xtc_probability" => to.xtc_probability = number,
            "xtc_threshold" => to.xtc_threshold = number,
            "temperature" => to.temperature = number,
            "dynatemp_range" => to.dynatemp_range = number,
            "dynatemp_exponent" => to.dynatemp_exponent = number,
            "mirostat" => to.mirostat = Some(if count == 1 { MirostatVersion::One } else { MirostatVersion::Two }),
            "mirostat_tau" => to.mirostat_tau = number,
            _ => panic!("{name}"),
        }
    }
    to
}

fn bias(value: &Value) -> f32 {
    value.as_f64().map_or(f32::NEG_INFINITY, |bias| bias as f32)
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_gguf(&open_model(&common::checkpoint(), &Quiet).unwrap()).unwrap())
}

#[test]
fn chains_keep_what_llama_cpp_keeps_with_the_same_probabilities() {
    let vectors: Value = serde_json::from_str(include_str!("data/sampling.json")).unwrap();
    let rows: Vec<Vec<f32>> = serde_json::from_value(vectors["logits"].clone()).unwrap();
    let (cases, tokenizer) = (vectors["cases"].as_array().unwrap(), tokenizer());
    assert!(cases.len() >= 400);
    for case in cases {
        let logits = &rows[case["logits"].as_u64().unwrap() as usize];
        let settings = settings(case["settings"].as_object().unwrap());
        let mut sampler = Sampler::new(&settings, logits.len(), Some(&tokenizer)).unwrap();
        for token in case["history"].as_array().unwrap() {
            sampler.accept(token.as_u64().unwrap() as u32);
        }
        let token = sampler.sample(logits).unwrap();
        let kept = sampler.probabilities();
        assert!(kept.iter().any(|&(kept, p)| kept == token && p > 0.0), "{case}: {token}");
        assert!(kept.is_sorted_by(|a, b| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0)), "{case}");
        // llama.cpp's probabilities of 32 bits end at 1e-38.
        let mut kept: Vec<(u32, f64)> = kept.into_iter().filter(|&(_, p)| p > 1e-30).collect();
        kept.sort_by_key(|&(token, _)| token);
        let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        let probabilities: Vec<f64> = serde_json::from_value(case["probabilities"].clone()).unwrap();
        let mut expected: Vec<(u32, f64)> = tokens.into_iter().zip(probabilities).collect();
        expected.sort_by_key(|&(token, _)| token);
        let same = kept.len() == expected.len()
            && kept.iter().zip(&expected).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < TOLERANCE);
        assert!(same, "{case}\n{kept:?}");
    }
}

/// Any logits of a model: finite, of any size, with ties.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![4 => -20f32..20.0, 2 => (-3i8..3).prop_map(f32::from), 1 => prop::num::f32::NORMAL];
    prop::collection::vec(logit, 1..80)
}

/// A number that [`Sampling::check`] lets pass, with the ends of its range.
fn number(least: f32, usual: f32) -> impl Strategy<Value = f32> {
    prop_oneof![3 => least..usual, 1 => Just(least), 1 => Just(f32::MAX), 1 => Just(usual)]
}

fn count() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..20usize, 1 => Just(usize::MAX), 1 => Just(1 << 31)]
}

fn probability() -> impl Strategy<Value = f32> {
    prop_oneof![4 => 0f32..=1.0, 1 => Just(0.0), 1 => Just(1.0), 1 => Just(f32::MIN_POSITIVE)]
}

prop_compose! {
    /// Settings at random, all of which are valid for a vocabulary of any size.
    fn any_settings()(
        (repeat_last_n, dry_allowed_length, dry_last_n, top_k, min_keep) in (count(), count(), count(), count(), count()),
        (top_p, min_p, typical_p, xtc_probability, xtc_threshold) in
            (probability(), probability(), probability(), probability(), probability()),
        (presence_penalty, frequency_penalty) in (number(f32::MIN, 1.0), number(-2.0, 2.0)),
        (repeat_penalty, dry_multiplier, dry_base) in (number(f32::MIN_POSITIVE, 2.0), number(0.0, 1.0), number(1.0, 2.0)),
        (top_n_sigma, temperature, dynatemp_range, dynatemp_exponent) in
            (number(f32::MIN, 2.0), number(0.0, 2.0), number(0.0, 1.0), number(0.0, 2.0)),
        (mirostat, mirostat_tau, mirostat_eta) in (0..6u8, number(0.0, 8.0), number(0.0, 1.0)),
        bias in prop_oneof![Just(None), prop_oneof![Just(f32::NEG_INFINITY), Just(f32::MAX), -9f32..9.0].prop_map(Some)],
        (order, seed) in (Just(Sequence::default().kinds().to_vec()).prop_shuffle(), any::<u64>()),
        length in 0..10usize,
    ) -> Sampling {
        Sampling {
            sequence: Sequence::new(order[..length.min(order.len())].to_vec()).unwrap(),
            seed, min_keep, logit_bias: bias.map(|bias| (0, bias)).into_iter().collect(),
            repeat_last_n, repeat_penalty, presence_penalty, frequency_penalty,
            dry_multiplier, dry_base, dry_allowed_length, dry_last_n, dry_breakers: vec!["a".to_owned()],
            top_n_sigma, top_k, typical_p, top_p, min_p, xtc_probability, xtc_threshold,
            temperature, dynatemp_range, dynatemp_exponent,
            mirostat: [Some(MirostatVersion::One), Some(MirostatVersion::Two)].get(mirostat as usize).copied().flatten(),
            mirostat_tau, mirostat_eta,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_mask_excludes_tokens_as_a_bias_does(
        settings in any_settings(),
        logits in logits(),
        allowed in prop::collection::btree_set(0..60u32, 0..30),
        history in prop::collection::vec(0..40u32, 0..60),
    ) {
        let mask = TokenMask::of(allowed.iter().copied());
        let excluded = (0..logits.len() as u32).filter(|token| !allowed.contains(token)).map(|token| (token, f32::NEG_INFINITY));
        let logit_bias = settings.logit_bias.iter().copied().chain(excluded).collect();
        let biased = Sampling { logit_bias, ..settings.clone() };
        let mut samplers = [&settings, &biased].map(|settings| Sampler::new(settings, logits.len(), None).unwrap());
        for sampler in &mut samplers {
            history.iter().for_each(|&token| sampler.accept(token));
        }
        let [masked, biased] = &mut samplers;
        for _ in 0..4 {
            let token = masked.sample_masked(&logits, &mask);
            prop_assert_eq!(token, biased.sample(&logits));
            let Some(token) = token else { break };
            prop_assert_eq!(masked.probabilities(), biased.probabilities());
            masked.accept(token);
            biased.accept(token);
        }
    }

    #[test]
    fn whatever_the_settings_are_there_is_a_token_and_the_seed_decides_which(
        settings in any_settings(),
        logits in logits(),
        history in prop::collection::vec(0..40u32, 0..60),
    ) {
        settings.check(logits.len()).unwrap();
        let run = || {
            let mut sampler = Sampler::new(&settings, logits.len(), None).unwrap();
            history.iter().for_each(|&token| sampler.accept(token));
            let mut drawn = Vec::new();
            for _ in 0..4 {
                let token = sampler.sample(&logits);
                let kept = sampler.probabilities();
                drawn.push((token, kept));
                token.iter().for_each(|&token| sampler.accept(token));
            }
            drawn
        };
        let drawn = run();
        prop_assert_eq!(&run(), &drawn);
        for (token, kept) in drawn {
            // A bias may exclude the only token.
            let excluded = settings.logit_bias.first().is_some_and(|&(_, bias)| bias == f32::NEG_INFINITY);
            if token.is_none() {
                prop_assert!(excluded && logits.len() == 1);
                continue;
            }
            prop_assert!(kept.iter().all(|&(token, p)| (token as usize) < logits.len() && (0.0..=1.0).contains(&p)));
            prop_assert!((kept.iter().map(|&(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(kept.iter().any(|&(kept, p)| Some(kept) == token && p > 0.0));
            prop_assert!(!excluded || kept.iter().all(|&(token, _)| token != 0));
            let mut ids: Vec<u32> = kept.iter().map(|&(token, _)| token).collect();
            ids.sort_unstable();
            prop_assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn filters_that_truncate_leave_the_ratios_of_what_they_keep(
        settings in any_settings(),
        logits in prop::collection::vec(-20f32..20.0, 1..80),
        kind in prop::sample::select(vec![
            FilterKind::TopK, FilterKind::TopP, FilterKind::MinP, FilterKind::Typical, FilterKind::TopNSigma, FilterKind::Xtc,
        ]),
    ) {
        let settings = Sampling {
            sequence: Sequence::new(vec![kind]).unwrap(), logit_bias: vec![], mirostat: None, ..settings
        };
        let mut sampler = Sampler::new(&settings, logits.len(), None).unwrap();
        sampler.sample(&logits).unwrap();
        let kept = sampler.probabilities();
        for pair in kept.windows(2) {
            let difference = f64::from(logits[pair[0].0 as usize]) - f64::from(logits[pair[1].0 as usize]);
            prop_assert!(((pair[0].1 / pair[1].1).ln() - difference).abs() < 1e-6);
        }
        let min_keep = settings.min_keep.clamp(1, logits.len());
        if [FilterKind::TopP, FilterKind::MinP, FilterKind::Typical].contains(&kind) {
            prop_assert!(kept.len() >= min_keep);
        }
        if [FilterKind::TopK, FilterKind::TopP, FilterKind::MinP, FilterKind::TopNSigma].contains(&kind) {
            let least = kept.iter().map(|&(token, _)| logits[token as usize]).fold(f32::INFINITY, f32::min);
            let above = logits.iter().filter(|&&logit| logit > least).count();
            prop_assert!(above < kept.len(), "what is dropped is no more likely than what is kept");
        }
    }
}

/// The chi-square statistic of `draws` samples, and the number of tokens it is of.
fn chi_square(settings: &Sampling, logits: &[f32], draws: usize) -> (f64, usize) {
    let mut sampler = Sampler::new(settings, logits.len(), None).unwrap();
    let mut counts = vec![0usize; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits).unwrap() as usize] += 1;
    }
    let kept = sampler.probabilities();
    assert_eq!(kept.iter().map(|&(token, _)| counts[token as usize]).sum::<usize>(), draws);
    let term = |&(token, p): &(u32, f64)| {
        let expected = p * draws as f64;
        (counts[token as usize] as f64 - expected).powi(2) / expected
    };
    (kept.iter().map(term).sum(), kept.len())
}

#[test]
fn tokens_are_drawn_as_often_as_their_probabilities_say() {
    let logits: Vec<f32> = (0..20).map(|i| ((i * 7) % 20) as f32 * 0.15).collect();
    let off = Sampling { top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.0, ..Sampling::default() };
    for (settings, kept) in [
        (off.clone(), 20),
        (Sampling { top_k: 7, ..off.clone() }, 7),
        (Sampling { temperature: 2.0, top_k: 11, ..off.clone() }, 11),
        (Sampling { typical_p: 0.6, ..off.clone() }, 9),
    ] {
        for seed in 1..=5 {
            let (statistic, tokens) = chi_square(&Sampling { seed, ..settings.clone() }, &logits, 20_000);
            assert_eq!(tokens, kept);
            // With so many degrees of freedom n: n + 4.3 sqrt(2n) + 9 is passed about once in 10^5 times.
            let n = (tokens - 1) as f64;
            assert!(statistic < n + 4.3 * (2.0 * n).sqrt() + 9.0, "{seed}: {statistic} of {n}");
        }
    }
}

#[test]
fn xtc_is_applied_as_often_as_its_probability_says() {
    let logits = [0.5f32, 0.3, 0.2].map(f32::ln);
    let settings = Sampling {
        xtc_probability: 0.25,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        temperature: 1.0,
        seed: 3,
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(&settings, 3, None).unwrap();
    let applied = (0..20_000).filter(|_| {
        sampler.sample(&logits).unwrap();
        sampler.probabilities().len() == 1
    });
    let share = applied.count() as f64 / 20_000.0;
    assert!((share - 0.25).abs() < 0.013, "{share}"); // 4 standard deviations
}

#[test]
fn mirostat_moves_its_bound_by_the_surprise_of_what_was_drawn() {
    let logits: Vec<f32> = (0..50).map(|i| -2.0 * ((i + 1) as f32).ln()).collect();
    let (tau, eta) = (2.0, 0.3);
    let settings = Sampling {
        mirostat: Some(MirostatVersion::Two),
        mirostat_tau: tau,
        mirostat_eta: eta,
        temperature: 1.0,
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(&settings, logits.len(), None).unwrap();
    let all: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let (mut mu, mut sizes) = (2.0 * f64::from(tau), std::collections::BTreeSet::new());
    for _ in 0..100 {
        let token = sampler.sample(&logits).unwrap();
        let kept = sampler.probabilities();
        // The tokens are in the order of their probabilities.
        let within = logits.iter().filter(|&&logit| -(f64::from(logit).exp() / all).log2() <= mu).count().max(1);
        assert_eq!(kept.iter().map(|&(token, _)| token).collect::<Vec<_>>(), (0..within as u32).collect::<Vec<_>>());
        sizes.insert(within);
        mu -= f64::from(eta) * (-kept[token as usize].1.log2() - f64::from(tau));
    }
    assert!(sizes.len() > 3, "{sizes:?}");
}

#[test]
fn the_lower_id_wins_a_tie() {
    let logits = [1.0, 3.0, 3.0, 3.0, -0.0, 0.0];
    let kept = |settings: Sampling| {
        let mut sampler = Sampler::new(&settings, logits.len(), None).unwrap();
        sampler.sample(&logits).unwrap();
        sampler.probabilities().iter().map(|&(token, _)| token).collect::<Vec<_>>()
    };
    let plain = Sampling { top_p: 1.0, min_p: 0.0, ..Sampling::default() };
    assert_eq!(kept(Sampling::greedy()), [1]);
    assert_eq!(kept(Sampling { top_k: 2, ..plain.clone() }), [1, 2]);
    assert_eq!(kept(Sampling { top_k: 5, ..plain.clone() }), [1, 2, 3, 0, 4]);
    assert_eq!(kept(Sampling { top_p: 0.5, ..plain.clone() }), [1, 2]);
    assert_eq!(kept(Sampling { xtc_probability: 1.0, ..plain.clone() })[0], 3);
    // Greedy in spite of filters that change logits or drop the best.
    assert_eq!(kept(Sampling { temperature: 0.0, logit_bias: vec![(5, 3.5)], ..plain.clone() }), [5]);
    assert_eq!(kept(Sampling { temperature: 0.0, xtc_probability: 1.0, ..plain }), [3]);
}

#[test]
fn the_defaults_of_a_file_are_taken_unless_they_are_given() {
    let mut layout = Layout::new();
    layout.set("general.architecture", "llama");
    layout.set("general.sampling.sequence", "top_k;temp");
    layout.set("general.sampling.top_k", -1i32);
    layout.set("general.sampling.top_p", 1u32);
    layout.set("general.sampling.min_p", 0.25f64);
    layout.set("general.sampling.xtc_probability", 0.5f32);
    layout.set("general.sampling.xtc_threshold", 0.2f32);
    layout.set("general.sampling.temp", 0.6f32);
    layout.set("general.sampling.penalty_last_n", u64::MAX);
    layout.set("general.sampling.penalty_repeat", 1.25f32);
    layout.set("general.sampling.mirostat", 2u32);
    layout.set("general.sampling.mirostat_tau", 3.0f32);
    layout.set("general.sampling.mirostat_eta", 0.5f32);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    layout.create(&path).unwrap().finish().unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let expected = Sampling {
        sequence: Sequence::from_letters("kt").unwrap(),
        top_k: 0,
        top_p: 1.0,
        min_p: 0.25,
        xtc_probability: 0.5,
        xtc_threshold: 0.2,
        temperature: 0.6,
        repeat_last_n: usize::MAX,
        repeat_penalty: 1.25,
        mirostat: Some(MirostatVersion::Two),
        mirostat_tau: 3.0,
        mirostat_eta: 0.5,
        ..Sampling::default()
    };
    assert_eq!(Sampling::of_model(&gguf, |_| false).unwrap(), expected);
    let given = Sampling { top_k: 40, mirostat: None, temperature: 0.8, ..expected };
    assert_eq!(Sampling::of_model(&gguf, |name| ["top_k", "mirostat", "temp"].contains(&name)).unwrap(), given);
    assert_eq!(Sampling::of_model(&gguf, |_| true).unwrap(), Sampling::default());
}

#[test]
fn a_large_vocabulary_is_cut_as_if_all_of_it_were_sorted() {
    let logits: Vec<f32> = (0..5000u32).map(|i| (i.wrapping_mul(2654435761) >> 20) as f32 / 700.0).collect();
    let mut order: Vec<u32> = (0..5000).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let off = Sampling { top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.0, ..Sampling::default() };
    let kept = |settings: &Sampling| {
        let mut sampler = Sampler::new(settings, logits.len(), None).unwrap();
        sampler.sample(&logits).unwrap();
        sampler.probabilities().iter().map(|&(token, _)| token).collect::<Vec<_>>()
    };
    for p in [0.001, 0.05, 0.2, 0.5, 0.9, 0.99, 0.999999] {
        let mut sum = 0.0;
        let below = order.iter().position(|&token| {
            sum += f64::from(logits[token as usize]).exp() / total;
            sum >= f64::from(p)
        });
        assert_eq!(kept(&Sampling { top_p: p, ..off.clone() }), order[..=below.unwrap()], "{p}");
    }
    for k in [1, 2, 255, 256, 257, 4999, 5000, 5001] {
        assert_eq!(kept(&Sampling { top_k: k, ..off.clone() }), order[..k.min(5000)], "{k}");
    }
    for tau in [0.5, 3.0, 4.0, 5.0, 20.0] {
        let tokens = kept(&Sampling { mirostat: Some(MirostatVersion::One), mirostat_tau: tau, ..off.clone() });
        assert_eq!(tokens, order[..tokens.len()], "{tau}");
    }
}

#[test]
fn nothing_is_chosen_where_nothing_can_be() {
    for settings in [Sampling::greedy(), Sampling::default()] {
        let mut sampler = Sampler::new(&settings, 4, None).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(sampler.sample(&[1.0, bad, 3.0, 3.0]), None, "{bad}");
        }
        assert_eq!(sampler.sample(&[]), None);
        let excluded = (0..4).map(|token| (token, f32::NEG_INFINITY)).collect();
        let mut sampler = Sampler::new(&Sampling { logit_bias: excluded, ..settings }, 4, None).unwrap();
        assert_eq!(sampler.sample(&[1.0; 4]), None);
        assert_eq!(sampler.probabilities(), []);
    }
}

#[test]
fn a_long_history_costs_no_more_than_it_is_long() {
    // One token again and again: every place matches all the rest.
    let settings = Sampling {
        repeat_penalty: 1.1,
        repeat_last_n: usize::MAX,
        dry_multiplier: 1.0,
        dry_last_n: usize::MAX,
        temperature: 0.0,
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(&settings, 4, None).unwrap();
    (0..1_000_000).for_each(|_| sampler.accept(1));
    assert_eq!(sampler.sample(&[0.0, 9.0, 8.0, 1.0]), Some(2));
}
