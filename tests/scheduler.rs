//! One answer: whatever else is in its passes, whatever the slots, the pieces of its prompt, and wherever the beginning of that comes from:
//! computed, another slot, a file of the prefix cache.

mod common;
mod warnings;

use common::{TOKENS, mix, model_file, open};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};
use strata::engine::sampling::Sampling;
use strata::engine::{Collected, End, Event, PrefixCache, Request, Scheduler, SchedulerOptions, collect, embed};
use strata::gguf::Gguf;
use strata::model::{CacheTypes, Model};
use strata::progress::{Progress, Quiet};
use strata::tokenizer::Tokenizer;
use strata::{ActivationBits, Cpu, Error, GgmlType, Isa};
use warnings::Warnings;

const CONTEXT: usize = 700;

/// The model in Q4_K_M, and its tokenizer.
fn engine() -> (Arc<Model>, Arc<Tokenizer>) {
    let (_dir, path) = model_file(mix("Q4_K_M"));
    let model = open(&path, Isa::best(), 2);
    let tokenizer = Tokenizer::from_gguf(model.gguf()).unwrap();
    (Arc::new(model), Arc::new(tokenizer))
}

/// A prompt of `n` tokens, which differs from those of other seeds from token `same` on.
fn prompt(n: usize, same: usize, seed: usize) -> Vec<u32> {
    let token = |i: usize| TOKENS[(i + if i < same { 0 } else { 31 * seed }) % TOKENS.len()];
    (0..n).map(token).collect()
}

fn request(prompt: Vec<u32>, seed: u64) -> Request {
    let sampling = Sampling { seed, ..Sampling::default() };
    Request { limit: 12, sampling, ignore_eos: true, ..Request::new(prompt) }
}

fn options(slots: usize, batch: usize) -> SchedulerOptions {
    SchedulerOptions { slots, batch, ..SchedulerOptions::single(CONTEXT) }
}

fn scheduler(engine: &(Arc<Model>, Arc<Tokenizer>), options: SchedulerOptions) -> Scheduler {
    Scheduler::new(engine.0.clone(), Some(engine.1.clone()), options).unwrap()
}

fn ids(answer: &Collected) -> Vec<u32> {
    answer.tokens.iter().map(|token| token.id).collect()
}

fn answer(scheduler: &mut Scheduler, request: Request, progress: &dyn Progress) -> Collected {
    let (listener, collected) = collect();
    scheduler.submit(request, listener).unwrap();
    scheduler.run(progress).unwrap();
    collected.take().unwrap()
}

/// The answer to a request by a scheduler of its own.
fn alone(engine: &(Arc<Model>, Arc<Tokenizer>), request: Request) -> Vec<u32> {
    ids(&answer(&mut scheduler(engine, options(1, CONTEXT)), request, &Quiet))
}

#[test]
fn an_answer_is_the_same_beside_others() {
    let engine = engine();
    let prompts: Vec<Vec<u32>> = [(1, 0), (300, 280), (290, 280), (40, 7), (600, 0), (300, 280), (41, 40)]
        .into_iter()
        .enumerate()
        .map(|(seed, (n, same))| prompt(n, same, seed))
        .collect();
    let of = |i: usize| request(prompts[i].clone(), i as u64);
    let expected: Vec<_> = (0..prompts.len()).map(|i| alone(&engine, of(i))).collect();
    assert!(expected.iter().any(|tokens| tokens != &expected[0]));
    for (slots, batch) in [(1, 700), (2, 64), (4, 7), (8, 512)] {
        let mut scheduler = scheduler(&engine, options(slots, batch));
        let mut answers = Vec::new();
        for i in 0..prompts.len() {
            let (listener, collected) = collect();
            scheduler.submit(of(i), listener).unwrap();
            answers.push(collected);
            // The next ones come while these are under way.
            (0..i).for_each(|_| scheduler.step(&Quiet).unwrap());
        }
        scheduler.run(&Quiet).unwrap();
        assert!(scheduler.is_idle() && scheduler.waiting() == 0);
        for (answer, expected) in answers.into_iter().zip(&expected) {
            let answer = answer.take().unwrap();
            assert_eq!(&ids(&answer), expected, "{slots} slots, {batch} tokens of prompts");
            assert_eq!(answer.text, engine.1.decode_with(expected, false).unwrap());
        }
    }
}

#[test]
fn a_beginning_is_computed_once_for_all() {
    let engine = engine();
    let mut scheduler = scheduler(&engine, options(4, 50));
    let mut answers = Vec::new();
    for seed in 0..6 {
        let (listener, collected) = collect();
        scheduler.submit(request(prompt(200, 190, 0), seed), listener).unwrap();
        answers.push(collected);
    }
    scheduler.run(&Quiet).unwrap();
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.take().unwrap()).collect();
    assert_eq!(answers[0].finished.reused_tokens, 0);
    for (seed, answer) in answers.iter().enumerate() {
        assert!(seed == 0 || answer.finished.reused_tokens >= 150, "{}", answer.finished.reused_tokens);
        assert_eq!(ids(answer), alone(&engine, request(prompt(200, 190, 0), seed as u64)));
    }
    // A conversation goes on: its prompt is what was said, and more.
    let mut longer = prompt(200, 190, 0);
    longer.extend(ids(&answers[3]));
    longer.extend([5, 6, 7]);
    let next = answer(&mut scheduler, request(longer.clone(), 3), &Quiet);
    assert!(next.finished.reused_tokens >= 200, "{}", next.finished.reused_tokens);
    assert_eq!(ids(&next), alone(&engine, request(longer, 3)));
}

#[test]
fn prompts_are_resumed_from_disk_with_the_same_bits() {
    let engine = engine();
    for types in [CacheTypes::default(), CacheTypes { k: GgmlType::Q8_0, v: GgmlType::F32 }] {
        let dir = tempfile::tempdir().unwrap();
        let open = |limit| PrefixCache::open(&dir.path().join("a/b"), limit, &engine.0, types).unwrap();
        let fresh = |limit| {
            let prefix_cache = Some(open(limit));
            scheduler(&engine, SchedulerOptions { types, prefix_cache, ..options(2, 300) })
        };
        let without = |request| {
            let mut scheduler = scheduler(&engine, SchedulerOptions { types, ..options(1, CONTEXT) });
            ids(&answer(&mut scheduler, request, &Quiet))
        };
        let warnings = Warnings::default();
        let first = answer(&mut fresh(1 << 30), request(prompt(600, 0, 0), 1), &warnings);
        assert_eq!((first.finished.reused_tokens, ids(&first)), (0, without(request(prompt(600, 0, 0), 1))));
        // Another process, as it were: up to the very token where the prompts differ, whole spans and a part of one.
        for (n, same) in [
            (600, 600),
            (650, 600),
            (620, 601),
            (600, 599),
            (600, 520),
            (600, 512),
            (300, 256),
            (600, 255),
            (300, 40),
            (41, 40),
        ] {
            let mut scheduler = fresh(1 << 30);
            let next = answer(&mut scheduler, request(prompt(n, same, 3), 2), &warnings);
            assert!(
                next.finished.reused_tokens >= same.min(n - 1).min(600),
                "{n} {same}: {}",
                next.finished.reused_tokens
            );
            assert_eq!(ids(&next), without(request(prompt(n, same, 3), 2)), "{n} {same}");
        }
        // What was said is kept too.
        let mut longer = prompt(600, 0, 0);
        longer.extend(ids(&first));
        let next = answer(&mut fresh(1 << 30), request(longer.clone(), 2), &warnings);
        assert_eq!((next.finished.reused_tokens, ids(&next)), (611, without(request(longer, 2))));
        assert!(warnings.0.into_inner().unwrap().is_empty());
    }
}

/// The files of a prefix cache.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_damaged_or_foreign_file_is_one_warning_and_the_answer_is_right() {
    let engine = engine();
    let expected = alone(&engine, request(prompt(600, 0, 0), 1));
    let cached = |folder: &Path, progress: &dyn Progress| {
        let prefix_cache = Some(PrefixCache::open(folder, 1 << 30, &engine.0, CacheTypes::default()).unwrap());
        answer(
            &mut scheduler(&engine, SchedulerOptions { prefix_cache, ..options(1, 300) }),
            request(prompt(600, 0, 0), 1),
            progress,
        )
    };
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage, usize); 5] = [
        (
            "a bit of keys",
            |file| {
                let at = file.len() / 2;
                file[at] ^= 1
            },
            1,
        ),
        ("the checksum", |file| *file.last_mut().unwrap() ^= 1, 1),
        ("a token", |file| file[8 + 64 + 4] ^= 1, 1),
        ("cut", |file| file.truncate(file.len() / 2), 1),
        ("empty", |file| file.clear(), 1),
    ];
    for (what, damage, most) in damages {
        for which in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(ids(&cached(dir.path(), &Quiet)), expected);
            let path = &files(dir.path())[which];
            let mut bytes = fs::read(path).unwrap();
            damage(&mut bytes);
            fs::write(path, bytes).unwrap();
            let warnings = Warnings::default();
            let again = cached(dir.path(), &warnings);
            assert_eq!(ids(&again), expected, "{what}");
            assert!(again.finished.reused_tokens < 599, "{what}: {}", again.finished.reused_tokens);
            let said = warnings.0.into_inner().unwrap();
            assert!(said.len() <= most, "{said:?}");
            // It was written anew.
            let warnings = Warnings::default();
            assert_eq!(cached(dir.path(), &warnings).finished.reused_tokens, 599, "{what}");
            assert!(warnings.0.into_inner().unwrap().is_empty());
        }
    }
    // Files of another model, of the same with other activations, and what is none: they stay as they are.
    let dir = tempfile::tempdir().unwrap();
    let ((_a, q8_0), (_b, q4_k_m)) = (model_file(mix("Q8_0")), model_file(mix("Q4_K_M")));
    let cpu = Cpu::new(Isa::best(), 1).with_activations(ActivationBits::Sixteen);
    let same_16 = Model::new(Gguf::open(&q4_k_m).unwrap(), cpu).unwrap();
    let others = [(open(&q8_0, Isa::best(), 1), 0), (same_16, 0), (open(&q4_k_m, Isa::best(), 1), 599)];
    fs::write(dir.path().join("notes.kv"), "mine").unwrap();
    fs::create_dir(dir.path().join("folder.kv")).unwrap();
    cached(dir.path(), &Quiet);
    for (other, reused) in others {
        let prefix_cache = Some(PrefixCache::open(dir.path(), 1 << 30, &other, CacheTypes::default()).unwrap());
        let mut of_other =
            Scheduler::new(Arc::new(other), None, SchedulerOptions { prefix_cache, ..options(1, 300) }).unwrap();
        assert_eq!(answer(&mut of_other, request(prompt(600, 0, 0), 1), &Quiet).finished.reused_tokens, reused);
    }
    assert_eq!(fs::read(dir.path().join("notes.kv")).unwrap(), b"mine");
}

#[test]
fn a_prefix_cache_keeps_within_its_limit_and_what_was_used_last() {
    let engine = engine();
    let dir = tempfile::tempdir().unwrap();
    let with_limit = |limit, seed| {
        let prefix_cache = Some(PrefixCache::open(dir.path(), limit, &engine.0, CacheTypes::default()).unwrap());
        let mut scheduler = scheduler(&engine, SchedulerOptions { prefix_cache, ..options(1, 300) });
        answer(&mut scheduler, request(prompt(300, 0, seed), 1), &Quiet).finished.reused_tokens
    };
    let bytes = || files(dir.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
    with_limit(1 << 30, 0);
    let one = bytes();
    // Prompts are private.
    #[cfg(unix)]
    for file in files(dir.path()) {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    for seed in 1..6 {
        assert_eq!(with_limit(3 * one, seed), 0);
        assert!(bytes() <= 3 * one);
        assert_eq!(with_limit(3 * one, 0), 299, "used last, after {seed}");
    }
    assert_eq!(with_limit(1, 9), 0);
    assert_eq!(files(dir.path()).len(), 0);
}

#[test]
fn an_answer_ends_where_it_should() {
    let engine = engine();
    let mut one = scheduler(&engine, options(2, 300));
    let all = answer(&mut one, request(prompt(30, 0, 0), 1), &Quiet);
    assert_eq!(all.finished.end, End::Length);
    assert_eq!(all.finished.tokens, 12);
    let middle: String = all.text.chars().skip(3).take(4).collect();
    let stopped = Request { stop: vec!["\u{1}".to_owned(), middle.clone()], ..request(prompt(30, 0, 0), 1) };
    let stopped = answer(&mut one, stopped, &Quiet);
    assert_eq!(stopped.finished.end, End::StopText(1));
    assert_eq!(stopped.text, all.text[..all.text.find(&middle).unwrap()]);
    let nothing = answer(&mut one, Request { limit: 0, ..request(prompt(30, 0, 0), 1) }, &Quiet);
    assert_eq!((nothing.finished.end, nothing.text.as_str(), nothing.tokens.len()), (End::Length, "", 0));
    let full = answer(&mut one, Request { limit: usize::MAX, ..request(prompt(CONTEXT - 3, 0, 0), 1) }, &Quiet);
    assert_eq!((full.finished.end, full.tokens.len()), (End::Context, 4));
    // Whoever leaves does not disturb others.
    let expected = alone(&engine, request(prompt(30, 0, 1), 1));
    let (listener, stays) = collect();
    one.submit(request(prompt(30, 0, 1), 1), listener).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    let leaves = Box::new(move |event: Event<'_>| {
        heard.lock().unwrap().push(match event {
            Event::Finished(finished) => format!("{:?} {}", finished.end, finished.tokens),
            event => format!("{event:?}").split_whitespace().next().unwrap().to_owned(),
        });
        ControlFlow::Break(())
    });
    one.submit(request(prompt(30, 0, 2), 1), leaves).unwrap();
    let gone = request(prompt(30, 0, 3), 1);
    gone.cancel.cancel();
    let (listener, gone_answer) = collect();
    one.submit(gone, listener).unwrap();
    one.run(&Quiet).unwrap();
    assert_eq!(ids(&stays.take().unwrap()), expected);
    assert_eq!(gone_answer.take().unwrap().finished.end, End::Cancelled);
    let told = told.lock().unwrap().clone();
    assert_eq!(told.last().unwrap(), "Cancelled 1", "{told:?}");
}

#[test]
fn what_can_never_be_answered_is_refused() {
    let engine = engine();
    let mut scheduler = scheduler(&engine, options(1, 300));
    let mut refused = |request| scheduler.submit(request, collect().0).unwrap_err();
    assert!(matches!(refused(request(Vec::new(), 0)), Error::EmptyPrompt));
    assert!(matches!(refused(request(vec![1, u32::MAX], 0)), Error::TokenOutOfVocabulary { token: u32::MAX, .. }));
    assert!(matches!(refused(request(vec![1; CONTEXT + 1], 0)), Error::ContextFull { room: CONTEXT, .. }));
    let sampling = Sampling { temperature: f32::NAN, ..Sampling::default() };
    refused(Request { sampling, ..Request::new(vec![1]) });
    assert!(scheduler.is_idle());
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let engine = engine();
    let mut one = scheduler(&engine, options(1, 300));
    let answer = answer(&mut one, Request { logprobs: Some(3), ..request(prompt(30, 0, 0), 1) }, &Quiet);
    let mut tokens = prompt(30, 0, 0);
    for token in &answer.tokens {
        let logits = common::logits(&engine.0, &tokens, 512).unwrap();
        let last: Vec<f64> =
            logits[logits.len() - engine.0.hyperparameters().vocab..].iter().map(|v| f64::from(*v)).collect();
        let total = last.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let of = token.logprobs.as_ref().unwrap();
        assert!((of.chosen - (last[token.id as usize] - total)).abs() < 1e-9);
        assert_eq!(of.top.len(), 3);
        assert!(of.top.is_sorted_by(|a, b| a.logprob >= b.logprob) && of.top[0].logprob >= of.chosen);
        tokens.push(token.id);
    }
}

#[test]
fn an_embedding_does_not_depend_on_the_others() {
    let (model, _) = engine();
    let texts = [prompt(30, 0, 0), prompt(1, 0, 1), prompt(600, 0, 2)];
    let together = embed(&model, &texts, &Quiet).unwrap();
    for (text, together) in texts.iter().zip(&together) {
        let alone = embed(&model, std::slice::from_ref(text), &Quiet).unwrap();
        common::assert_same_bits(&alone[0], together, "an embedding");
        let length: f32 = together.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
    assert!(embed(&model, &[Vec::new()], &Quiet).is_err());
}
