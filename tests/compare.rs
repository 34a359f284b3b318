//! Comparisons with the reference: the figures of an independent program, and the same bits however they are computed.

mod common;

use common::compared::{file, model, model_on, streamed, text, tokens, ty};
use common::{StopsAfter, checkpoint, mix, model_file, pure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::eval::compare::summary::{Resamples, Summary, pair, summarize};
use strata::eval::compare::text::Chunk;
use strata::eval::compare::{Candidate, Comparison, Mode, Settings, Text, compare, compare_and_keep};
use strata::model::{CacheTypes, Model};
use strata::progress::Quiet;
use strata::recipe::Mix;
use strata::{ActivationBits, Cpu, Error, GgmlType, Isa};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn settings(modes: &[Mode]) -> Settings {
    Settings { modes: modes.to_vec(), cache: CacheTypes::default(), shard: (0, 1), state: None, spill: None }
}

/// The scores of all candidates, as bits.
fn all_bits(comparison: &Comparison) -> Vec<u64> {
    let modes = comparison.modes.iter();
    let scores = modes.flat_map(|mode| {
        let of = mode.candidates.iter().flat_map(|c| c.nll.iter().chain(&c.kld));
        mode.reference.nll.iter().chain(of).map(|score| score.to_bits()).collect::<Vec<_>>()
    });
    scores.collect()
}

/// What the Python package gguf and transformers say of llama-quantize's files: `tests/data/tiny-rustdoc/kld.json`.
#[test]
fn weights_only_is_what_transformers_says() {
    let golden: Value = serde_json::from_slice(&std::fs::read(data("tiny-rustdoc/kld.json")).unwrap()).unwrap();
    let reference = model(&checkpoint(), 2);
    let of_type = |result: &Value| -> Option<(String, Value)> {
        let file = result["file"].as_str()?.strip_prefix("tiny-rustdoc-")?.strip_suffix(".gguf")?.to_owned();
        Mix::from_name(&file).ok().map(|_| (file, result.clone()))
    };
    let golden: BTreeMap<String, Value> = golden["results"].as_array().unwrap().iter().filter_map(of_type).collect();
    assert!(golden.len() >= 5, "{:?}", golden.keys());
    let candidates: Vec<Candidate> = golden.keys().map(|name| ty(&reference, name)).collect();
    let text = text(&reference, 512, 16);
    let result = compare(&reference, &candidates, &text, &settings(&[Mode::WeightsOnly]), &Quiet).unwrap();
    let (mode, resamples) = (&result.modes[0], Resamples::new(result.text.chunks.len()));
    for ((name, golden), scores) in golden.iter().zip(&mode.candidates) {
        let summary = summarize(&mode.reference, scores, &result.ranges(), &resamples);
        let Summary { perplexity, mean_kld, kld_percentiles, same_top, rms_dp, max_kld, .. } = summary;
        for (key, value, tolerance) in [
            ("perplexity", perplexity.value, 0.005),
            ("mean_kld", mean_kld.value, 0.005),
            ("median_kld", kld_percentiles[0].value, 0.005),
            ("p99_kld", kld_percentiles[3].value, 0.01),
            ("max_kld", max_kld, 0.02),
            ("same_top", same_top.value, 0.002),
            ("rms_dp", rms_dp.value, 0.005),
        ] {
            let expected = golden[key].as_f64().unwrap();
            assert!((value / expected - 1.0).abs() < tolerance, "{name} {key}: {value} instead of {expected}");
        }
    }
}

/// With 16-bit activations a run loses what the weights have lost, and next to nothing more.
#[test]
fn sixteen_bit_activations_leave_the_loss_of_the_weights() {
    let names = ["q8_0", "q6_k", "q4_k_m"];
    let mean_kld = |bits: ActivationBits, mode: Mode| {
        let reference = model_on(&checkpoint(), Cpu::new(Isa::best(), 2).with_activations(bits));
        let text = text(&reference, 256, 4);
        let candidates = names.map(|name| ty(&reference, name));
        let settings = Settings { cache: CacheTypes::both(GgmlType::F32), ..settings(&[mode]) };
        let result = compare(&reference, &candidates, &text, &settings, &Quiet).unwrap();
        let mean = |kld: &[f64]| kld.iter().sum::<f64>() / kld.len() as f64;
        result.modes[0].candidates.iter().map(|scores| mean(&scores.kld)).collect::<Vec<_>>()
    };
    let weights = mean_kld(ActivationBits::Eight, Mode::WeightsOnly);
    let (eight, sixteen) =
        (mean_kld(ActivationBits::Eight, Mode::AsRun), mean_kld(ActivationBits::Sixteen, Mode::AsRun16));
    for (i, name) in names.iter().enumerate() {
        let (more_8, more_16) = ((eight[i] - weights[i]).abs(), (sixteen[i] - weights[i]).abs());
        assert!(
            more_16 < 0.02 * more_8 && more_16 < 0.01 * weights[i],
            "{name}: {} {} {}",
            weights[i],
            eight[i],
            sixteen[i]
        );
    }
}

#[test]
fn one_result_however_it_is_computed() {
    let both = settings(&[Mode::AsRun, Mode::WeightsOnly]);
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 64, 5);
    let (_dir, path) = model_file(mix("q4_k_m"));
    let of = |reference: &Arc<Model>, candidates: &[Candidate], settings: &Settings| {
        compare(reference, candidates, &text, settings, &Quiet).unwrap()
    };
    let whole = of(&reference, &[ty(&reference, "q4_k_m"), ty(&reference, "q8_0")], &both);
    let expected = all_bits(&whole);
    assert!(whole.modes[0] != whole.modes[1] && whole.modes[0].candidates[0].kld != whole.modes[0].candidates[1].kld);
    // The file of a type is the type, on any number of threads.
    let one = model(&checkpoint(), 1);
    assert!(all_bits(&of(&one, &[file(model(&path, 1)), ty(&one, "q8_0")], &both)) == expected, "a file, one thread");
    // Streamed.
    let slow = streamed(&checkpoint());
    assert!(all_bits(&of(&slow, &[file(streamed(&path)), ty(&slow, "q8_0")], &both)) == expected, "streamed");
    // With the hidden states in files.
    let folder = tempfile::tempdir().unwrap();
    let spill = Settings { spill: Some(folder.path().to_owned()), ..both.clone() };
    assert!(of(&reference, &[ty(&reference, "q4_k_m"), ty(&reference, "q8_0")], &spill) == whole, "in files");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // In parts.
    let part = |i| {
        let reference = model(&checkpoint(), 2);
        let candidates = [ty(&reference, "q4_k_m"), ty(&reference, "q8_0")];
        of(&reference, &candidates, &Settings { shard: (i, 3), ..both.clone() })
    };
    let parts = [part(2), part(0), part(1)];
    let merged = Comparison::merge(&parts).unwrap();
    assert!(merged == whole);
    assert!(Comparison::merge(&[parts[0].clone(), parts[0].clone()]).is_err());
}

#[test]
fn what_was_stopped_is_resumed() {
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 64, 3);
    let candidates = || [ty(&reference, "q4_0"), ty(&reference, "q6_k")];
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let with_state = Settings { state: Some(state.clone()), ..settings(&[Mode::AsRun]) };
    let expected = compare(&reference, &candidates(), &text, &settings(&[Mode::AsRun]), &Quiet).unwrap();
    let mut resumed = 0;
    for looks in [5, 12, 20, 30, 40] {
        let stops = StopsAfter(looks.into());
        match compare(&reference, &candidates(), &text, &with_state, &stops) {
            Err(Error::Cancelled) => resumed += usize::from(state.exists()),
            other => assert!(other.unwrap() == expected),
        }
        assert!(compare(&reference, &candidates(), &text, &with_state, &Quiet).unwrap() == expected, "after {looks}");
        assert!(!state.exists());
    }
    assert!(resumed > 1);
    // The state of another comparison is none of this one.
    let stops = StopsAfter(20.into());
    compare(&reference, &candidates()[..1], &text, &with_state, &stops).unwrap_err();
    let bytes = std::fs::read(&state).unwrap();
    let error = compare(&reference, &candidates(), &text, &with_state, &Quiet).unwrap_err();
    assert!(error.to_string().contains("is not the state of this comparison"), "{error}");
    assert!(std::fs::read(&state).unwrap() == bytes);
    // In a folder every comparison has its own.
    let with_folder = Settings { state: Some(dir.path().to_owned()), ..with_state };
    assert!(compare(&reference, &candidates(), &text, &with_folder, &Quiet).unwrap() == expected);
}

#[test]
fn a_finished_result_is_kept_until_its_owner_removes_it() {
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 64, 2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let settings = Settings { state: Some(path.clone()), ..settings(&[Mode::WeightsOnly]) };
    let candidates = [ty(&reference, "q4_0")];
    let (result, _) = compare_and_keep(&reference, &candidates, &text, &settings, &Quiet).unwrap();
    // Nothing is computed again: the first look would end it.
    let (again, state) = compare_and_keep(&reference, &candidates, &text, &settings, &StopsAfter(0.into())).unwrap();
    assert!(again == result && path.exists());
    state.remove();
    assert!(!path.exists());
    // Neither a damaged one nor that of other tokens of the same chunks is taken.
    compare_and_keep(&reference, &candidates, &text, &settings, &Quiet).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for at in [80, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let error = compare(&reference, &candidates, &text, &settings, &Quiet).unwrap_err();
        assert!(error.to_string().contains("is not the state of this comparison"), "{at}: {error}");
    }
    std::fs::write(&path, &whole).unwrap();
    let mut other = text.clone();
    other.chunks[0].scored = vec![10..20];
    assert!(compare(&reference, &candidates, &other, &settings, &Quiet).is_err());
}

#[test]
fn a_model_does_not_diverge_from_itself_and_better_is_better() {
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 128, 12);
    let candidates = ["bf16", "q8_0", "q6_k", "q4_0"].map(|name| ty(&reference, name));
    let result = compare(&reference, &candidates, &text, &settings(&[Mode::WeightsOnly]), &Quiet).unwrap();
    let (all, resamples) = (&result.modes[0].candidates, Resamples::new(result.text.chunks.len()));
    assert!(all[0].kld.iter().all(|&kld| kld == 0.0) && all[0].nll == result.modes[0].reference.nll);
    assert!(all[0].same_top.iter().all(|&same| same) && all[0].common_top.iter().all(|&n| n == 5));
    for worse in 1..all.len() {
        let pair = pair(&all[worse - 1], &all[worse], &result.ranges(), &resamples);
        assert!(pair.difference.high < 0.0 && pair.chunks_to_decide.is_none(), "{worse}: {pair:?}");
    }
    let bits = result.candidates.iter().map(|candidate| candidate.bits_per_weight());
    assert!(bits.is_sorted_by(|a, b| a > b));
}

/// A chunk's scores are its own: of any length, beside any others, in any text.
#[test]
fn chunks_of_any_length_do_not_disturb_each_other() {
    let reference = model(&checkpoint(), 2);
    let tokens = tokens(&reference);
    let chunk = |first: usize, len: usize, scored: Vec<std::ops::Range<usize>>| Chunk {
        number: 0,
        tokens: tokens[first..first + len].to_vec(),
        scored,
    };
    let chunks = vec![
        chunk(0, 700, vec![10..20, 600..699]),
        chunk(100, 2, vec![0..1]),
        chunk(7, 60, vec![0..59]),
        chunk(900, 512, vec![511 - 3..511]),
        chunk(300, 33, vec![1..2, 4..8]),
    ];
    let candidates = || [ty(&reference, "q4_k_m")];
    let of = |text: &Text| compare(&reference, &candidates(), text, &settings(&[Mode::AsRun]), &Quiet).unwrap();
    let (mut all, mut alone) = (Text::default(), Vec::new());
    for chunk in chunks {
        let text = Text::of_chunks("one", vec![chunk]);
        alone.push(of(&text));
        all.append(text);
    }
    let together = of(&all);
    assert_eq!(together.ranges().last().unwrap().end, 10 + 99 + 1 + 59 + 3 + 1 + 4);
    for ((alone, scores), (i, text)) in
        alone.iter().zip(together.ranges()).zip(together.chunks_of_texts().iter().enumerate())
    {
        let (alone, together) = (&alone.modes[0], &together.modes[0]);
        assert!(alone.reference.nll == together.reference.nll[scores.clone()], "chunk {i}");
        assert!(alone.candidates[0].kld == together.candidates[0].kld[scores], "chunk {i}");
        assert_eq!(*text, i..i + 1);
    }
}

/// A candidate's own KV cache is what it is with that cache for all, and costs something.
#[test]
fn a_cache_has_its_own_cost() {
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 64, 3);
    let q8_0 = CacheTypes::both(GgmlType::Q8_0);
    let own = Candidate { cache: Some(q8_0), ..ty(&reference, "bf16") };
    let of = |candidates: &[Candidate], cache| {
        let settings = Settings { cache, ..settings(&[Mode::AsRun]) };
        compare(&reference, candidates, &text, &settings, &Quiet).unwrap()
    };
    let result = of(&[own, ty(&reference, "bf16")], CacheTypes::default());
    let all = of(&[ty(&reference, "bf16")], q8_0);
    let [own, usual] = &result.modes[0].candidates[..] else { panic!() };
    assert!(own.nll == all.modes[0].reference.nll && own.nll != usual.nll);
    assert!(own.kld.iter().sum::<f64>() > 0.0 && usual.kld.iter().all(|&kld| kld == 0.0));
}

/// The 95 % interval of twenty chunks holds what a long text says, about as often as it promises.
#[test]
fn intervals_hold_what_the_long_text_says() {
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 128, 1000);
    let result = compare(&reference, &[ty(&reference, "q4_k_m")], &text, &settings(&[Mode::AsRun]), &Quiet).unwrap();
    let (mode, ranges) = (&result.modes[0], result.ranges());
    let (few, trials) = (20, 200);
    assert!(ranges.len() > 10 * few, "{} chunks", ranges.len());
    let of = |chunks: &[std::ops::Range<usize>]| {
        let s = summarize(&mode.reference, &mode.candidates[0], chunks, &Resamples::new(chunks.len()));
        let [p50, p90, p95, p99, p999] = s.kld_percentiles;
        [
            ("perplexity", s.perplexity),
            ("ratio", s.perplexity_ratio),
            ("correlation", s.correlation),
            ("mean", s.mean_kld),
            ("median", p50),
            ("90 %", p90),
            ("95 %", p95),
            ("99 %", p99),
            ("99.9 %", p999),
            ("same top", s.same_top),
            ("common top", s.common_top),
            ("mean dp", s.mean_dp),
            ("rms dp", s.rms_dp),
        ]
    };
    let truth = of(&ranges);
    let mut held = vec![0; truth.len()];
    let mut state = 1u64;
    let mut draw = |_| {
        // Knuth's generator, MMIX.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ranges[(state >> 33) as usize % ranges.len()].clone()
    };
    for _ in 0..trials {
        let drawn = (0..few).map(&mut draw);
        let figures = of(&drawn.collect::<Vec<_>>());
        for ((held, (_, figure)), (_, truth)) in held.iter_mut().zip(figures).zip(&truth) {
            *held += usize::from(figure.low <= truth.value && truth.value <= figure.high);
        }
    }
    for (held, (name, _)) in held.into_iter().zip(&truth) {
        // Of twenty chunks, one or two tokens are beyond the last percentile: its interval is open above, and errs to the safe side.
        let most = if *name == "99.9 %" { trials } else { trials * 99 / 100 };
        assert!((trials * 9 / 10..=most).contains(&held), "{name}: {held} of {trials}");
    }
}

#[test]
fn other_models_are_refused() {
    let reference = model(&checkpoint(), 1);
    let text = text(&reference, 64, 1);
    let preset = strata::synthetic::Preset::llama_3("other", 2, (256, 512), (4, 2), true).with_vocab(300);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.gguf");
    strata::synthetic::Synthetic { preset, recipe: pure(GgmlType::Q8_0), seed: 1 }.write(&path, &Quiet).unwrap();
    let error = compare(&reference, &[file(model(&path, 1))], &text, &settings(&[Mode::AsRun]), &Quiet).unwrap_err();
    assert!(error.to_string().contains("vocabulary"), "{error}");
}
