//! An importance matrix fits the model exactly or is refused, and what it lacks is said; encoders never write what it makes of their scales.

mod common;
mod warnings;

use common::{imatrix, input};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use strata::convert::{Options, Target, convert, plan};
use strata::gguf::Gguf;
use strata::imatrix::{Entry, Imatrix};
use strata::progress::Quiet;
use strata::recipe::{Mix, Recipe};
use warnings::Warnings;

type Entries = BTreeMap<String, Entry>;

const Q: &str = "blk.0.attn_q.weight";

/// A target at `path` with the golden matrix changed, and that matrix.
fn target(mix: &str, path: PathBuf, change: impl FnOnce(&mut Entries)) -> (Target, Imatrix) {
    let mut matrix = imatrix();
    change(&mut matrix.entries);
    let mut target = Target::new(path, Recipe::new(Mix::from_name(mix).unwrap()));
    let weights = matrix.entries.keys().map(|name| (name.clone(), matrix.weights(name).unwrap()));
    target.importance = Some(weights.collect());
    target.importance_file = Some("im.gguf".into());
    (target, matrix)
}

/// What is said where the small model is written in a mix, twice at a time.
fn said(mix: &str, change: impl FnOnce(&mut Entries)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let (target, matrix) = target(mix, dir.path().join("a.gguf"), change);
    let targets = [target.clone(), Target { path: dir.path().join("b.gguf"), ..target }];
    let says = Warnings(Mutex::new(matrix.notes()));
    convert(&input(), &targets, &Options::default(), &says).unwrap();
    strata::verify::model(&Gguf::open(dir.path().join("a.gguf")).unwrap(), None, &Quiet).unwrap();
    says.0.into_inner().unwrap()
}

fn twice(entry: &mut Entry) {
    entry.in_sum2.extend_from_within(..);
}

fn of_q(entries: &mut Entries) -> &mut Entry {
    entries.get_mut(Q).unwrap()
}

#[test]
fn a_matrix_that_does_not_fit_is_refused() {
    type Change = fn(&mut Entries);
    let table: &[(&str, Change, &[&str])] = &[
        ("q4_k_m", |all| all.values_mut().for_each(twice), &["512 values", "256 columns"]),
        ("q4_k_m", |all| twice(of_q(all)), &[Q, "512 values", "256 columns"]),
        ("f16", |all| twice(of_q(all)), &[Q, "512 values"]),
        ("q4_k_m", |all| of_q(all).in_sum2.truncate(128), &[Q, "128 values", "256 columns"]),
        ("q4_k_m", |all| twice(all.get_mut("blk.5.ffn_down.weight").unwrap()), &["1536 values", "768 columns"]),
        (
            "q4_k_m",
            |all| {
                twice(of_q(all));
                of_q(all).counts.push(7);
            },
            &[Q, "512 values"],
        ),
        ("q4_k_m", |all| all.clear(), &["none of its tensors"]),
        ("q4_k_m", |all| *all = [("other".to_owned(), all[Q].clone())].into(), &["none of its tensors"]),
        (
            "q2_k_s",
            |all| {
                all.remove("blk.2.attn_k.weight");
            },
            &["blk.2.attn_k.weight", "Q2_K is of no use in Q2_K_S"],
        ),
    ];
    for (mix, change, words) in table {
        let dir = tempfile::tempdir().unwrap();
        let (target, _) = target(mix, dir.path().join("a.gguf"), change);
        let converted = convert(&input(), std::slice::from_ref(&target), &Options::default(), &Quiet).map(drop);
        let planned = plan(&input(), &target, &Options::default()).map(drop);
        for error in [converted.unwrap_err(), planned.unwrap_err()].map(|error| error.to_string()) {
            assert!(error.starts_with("im.gguf: "), "{error}");
            for words in *words {
                assert!(error.contains(words), "{words:?} is not in: {error}");
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn what_a_matrix_lacks_is_said_once() {
    type Change = fn(&mut Entries);
    let table: &[(Change, &[&str])] = &[
        (|_| (), &[]),
        (|all| of_q(all).in_sum2[..128].fill(0.0), &["zero for columns of 1 tensor", Q, "128 of 256"]),
        (|all| of_q(all).in_sum2.fill(0.0), &["zero for columns of 1 tensor", "256 of 256"]),
        (
            |all| all.values_mut().for_each(|e| e.in_sum2[0] = 0.0),
            &["columns of 42 tensors", "1 of 256", "and 37 more"],
        ),
        (|all| of_q(all).counts[0] = 0, &["no data for 1 tensor", Q]),
        (|all| drop(all.remove(Q)), &["no importance for 1 tensor", Q, "quantized without"]),
        (|all| all.retain(|name, _| name.starts_with("blk.0.")), &["no importance for 35 tensors", "and 30 more"]),
        (
            |all| drop(all.insert("blk.7.attn_q.weight".to_owned(), all[Q].clone())),
            &["does not have", "blk.7.attn_q.weight"],
        ),
    ];
    for (change, words) in table {
        let said = said("q4_0", change);
        assert_eq!(said.len(), usize::from(!words.is_empty()), "{said:?}");
        for words in *words {
            assert!(said[0].contains(words), "{words:?} is not in: {said:?}");
        }
    }
    // Types that no importance weighs.
    assert_eq!(said("q8_0", |all| drop(all.remove(Q))), [""; 0]);
}

#[test]
fn importance_too_large_for_the_search_is_an_error_of_the_matrix() {
    let all = ["q4_0", "q4_1", "q5_1", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs"];
    let mut refused = 0;
    for mix in all {
        for sum in [1e20, 1e38, 3.4e38] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.gguf");
            let (target, _) = target(mix, path.clone(), |all| {
                all.values_mut().for_each(|e| *e = Entry { in_sum2: vec![sum; e.in_sum2.len()], counts: vec![1] })
            });
            match convert(&input(), &[target], &Options::default(), &Quiet) {
                Ok(_) => drop(strata::verify::model(&Gguf::open(&path).unwrap(), None, &Quiet).unwrap()),
                Err(error) => {
                    let error = error.to_string();
                    for words in
                        ["im.gguf: tensor \"blk.", "row ", "block ", "importance matrix is too large", "mean square"]
                    {
                        assert!(error.contains(words), "{mix} {sum:e}: {words:?} is not in: {error}");
                    }
                    refused += 1;
                }
            }
        }
    }
    assert!(refused >= 4, "only {refused} of {}", 3 * all.len());
}
