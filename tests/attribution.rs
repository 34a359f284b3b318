//! Which tensor costs what, on the small model: the shares against measurements, and the same bits however they are computed.

mod common;

use common::compared::{file, model, streamed, text, ty};
use common::{StopsAfter, checkpoint, mix, model_file};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use strata::eval::compare::attribution::{Attribution, Options, TensorCost, attribute};
use strata::gguf::{Gguf, Layout};
use strata::model::Model;
use strata::progress::{Progress, Quiet};
use strata::{Cpu, Error, GgmlType, Isa};

fn options(probes: usize, verify: usize) -> Options {
    Options { probes: Some(probes), verify, spill: None, state: None }
}

/// Spearman's rank correlation of the shares with the measured divergences.
fn rank_correlation(tensors: &[TensorCost]) -> f64 {
    let ranks = |of: &dyn Fn(&TensorCost) -> f64| -> Vec<f64> {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by(|&a, &b| of(&tensors[a]).total_cmp(&of(&tensors[b])));
        let mut ranks = vec![0.0; order.len()];
        order.iter().enumerate().for_each(|(rank, &i)| ranks[i] = rank as f64);
        ranks
    };
    let (a, b) = (ranks(&|tensor| tensor.kld), ranks(&|tensor| tensor.verified.unwrap()));
    let n = tensors.len() as f64;
    1.0 - 6.0 * a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / (n * (n * n - 1.0))
}

#[test]
fn the_shares_are_what_is_measured() {
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 128, 6);
    let candidates = ["q4_k_m", "q4_0", "q3_k_m"].map(|name| ty(&reference, name));
    let all = attribute(&reference, &candidates, &text, &options(16, usize::MAX), &Quiet).unwrap();
    for (candidate, of) in candidates.iter().zip(&all) {
        let Attribution { measured_kld, sum_kld, alone_kld, layers, tensors, upgrades, .. } = of;
        let near = sum_kld / measured_kld;
        assert!((0.95..1.05).contains(&near), "{}: {near}", candidate.name);
        assert_eq!((layers.len(), tensors.len()), (6, 43));
        let measured = tensors.iter().map(|tensor| tensor.verified.unwrap()).sum::<f64>();
        assert!((0.85..1.15).contains(&(alone_kld / measured)), "{}: {alone_kld} {measured}", candidate.name);
        let rank = rank_correlation(tensors);
        assert!(rank > 0.9, "{}: {rank}", candidate.name);
        // The first layer has the same input in both; errors accumulate.
        assert!(layers.iter().all(|layer| layer.local > 0.0 && layer.accumulated >= layer.local));
        assert!(tensors.is_sorted_by(|a, b| a.kld >= b.kld));
        assert!(tensors.iter().all(|tensor| (1e-5..0.2).contains(&tensor.weight_error)));
        let bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
        assert!(!upgrades.is_empty());
        assert!(upgrades.iter().map(|upgrade| upgrade.extra_bytes).sum::<u64>() <= bytes / 100);
    }
}

/// The small model with an output matrix of its own, and with biases.
fn untied_and_biased() -> Arc<Model> {
    let (_dir, path) = model_file(mix("bf16"));
    let source = Gguf::open(&path).unwrap();
    let mut layout = Layout::new();
    layout.metadata = source.metadata().iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    source.tensors().iter().for_each(|tensor| layout.tensor(tensor.name.as_str(), &tensor.dims, tensor.ty));
    let extra = [
        ("output.weight", &[256, 4096][..], GgmlType::BF16),
        ("output.bias", &[4096], GgmlType::F32),
        ("blk.0.attn_q.bias", &[256], GgmlType::F32),
        ("blk.2.attn_k.bias", &[128], GgmlType::F32),
        ("blk.2.attn_v.bias", &[128], GgmlType::F32),
        ("blk.3.attn_output.bias", &[256], GgmlType::F32),
        ("blk.3.ffn_gate.bias", &[768], GgmlType::F32),
        ("blk.1.ffn_down.bias", &[256], GgmlType::F32),
    ];
    extra.iter().for_each(|(name, dims, ty)| layout.tensor(*name, dims, *ty));
    let placed = layout.place().unwrap();
    let mut file = placed.header;
    file.resize(placed.file_bytes as usize, 0);
    let have = source.tensors().iter().map(|tensor| source.data(tensor).to_vec());
    let embedding = source.data(source.required_tensor("token_embd.weight").unwrap()).to_vec();
    let bias = |len: u64| (0..len).flat_map(|i| (0.3 * (i as f32).sin()).to_le_bytes()).collect();
    let new = extra[1..].iter().map(|(_, dims, _)| bias(dims[0]));
    for (bytes, range) in have.chain([embedding]).chain(new).zip(&placed.tensors) {
        file[range.start as usize..range.start as usize + bytes.len()].copy_from_slice(&bytes);
    }
    Arc::new(Model::new(Gguf::from_bytes(file).unwrap(), Cpu::new(Isa::best(), 2)).unwrap())
}

#[test]
fn an_output_matrix_and_biases_are_part_of_it() {
    let reference = untied_and_biased();
    let text = text(&reference, 128, 4);
    let of = &attribute(&reference, &[ty(&reference, "q4_0")], &text, &options(16, usize::MAX), &Quiet).unwrap()[0];
    assert_eq!(of.tensors.len(), 44);
    for name in ["output.weight", "token_embd.weight"] {
        let tensor = of.tensors.iter().find(|tensor| tensor.name == name).unwrap();
        let ratio = tensor.alone_kld / tensor.verified.unwrap();
        assert!(tensor.layer.is_none() && (0.6..1.6).contains(&ratio), "{name}: {ratio}");
    }
    let measured = of.tensors.iter().map(|tensor| tensor.verified.unwrap()).sum::<f64>();
    assert!((0.8..1.2).contains(&(of.alone_kld / measured)), "{} {measured}", of.alone_kld);
    assert!((0.95..1.05).contains(&(of.sum_kld / of.measured_kld)), "{} {}", of.sum_kld, of.measured_kld);
    assert!(rank_correlation(&of.tensors) > 0.9);
}

#[test]
fn one_result_however_it_is_computed() {
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 64, 3);
    let of = |reference: &Arc<Model>, candidate, options: &Options| {
        attribute(reference, &[candidate], &text, options, &Quiet).unwrap().remove(0)
    };
    let whole = of(&reference, ty(&reference, "q4_k_m"), &options(2, 2));
    let one = model(&checkpoint(), 1);
    assert!(of(&one, ty(&one, "q4_k_m"), &options(2, 2)) == whole, "one thread");
    let dir = tempfile::tempdir().unwrap();
    let on_disk = Options { spill: Some(dir.path().to_owned()), ..options(2, 2) };
    assert!(of(&reference, ty(&reference, "q4_k_m"), &on_disk) == whole, "states in files");
    // A file, whose rows of queries and keys are in another order than the checkpoint's; and its layers from disk.
    let (_dir, path) = model_file(mix("q4_k_m"));
    assert!(of(&reference, file(model(&path, 2)), &options(2, 2)) == whole, "a file");
    assert!(of(&streamed(&checkpoint()), file(streamed(&path)), &options(2, 2)) == whole, "streamed");
}

#[test]
fn a_model_costs_nothing_beside_itself_and_others_are_refused() {
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 64, 1);
    let same = &attribute(&reference, &[file(reference.clone())], &text, &options(2, 1), &Quiet).unwrap()[0];
    assert_eq!((same.measured_kld, same.sum_kld, same.alone_kld), (0.0, 0.0, 0.0));
    assert!(same.layers.iter().all(|layer| layer.local == 0.0 && layer.accumulated == 0.0));
    assert!(same.tensors[0].verified == Some(0.0) && same.upgrades.is_empty());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.gguf");
    let preset = strata::synthetic::Preset::llama_3("other", 6, (256, 512), (4, 2), true).with_vocab(300);
    strata::synthetic::Synthetic { preset, recipe: mix("q8_0"), seed: 1 }.write(&path, &Quiet).unwrap();
    let error = attribute(&reference, &[file(model(&path, 1))], &text, &options(2, 0), &Quiet).unwrap_err();
    assert!(error.to_string().contains("vocabulary"), "{error}");
}

#[test]
fn it_stops_when_the_user_wants() {
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 64, 2);
    for looks in [0, 10, 40, 60] {
        let stops = StopsAfter(looks.into());
        let stopped = attribute(&reference, &[ty(&reference, "q4_0")], &text, &options(2, 1), &stops);
        assert!(matches!(stopped, Err(Error::Cancelled)) && stops.cancelled(), "{looks}");
    }
}

#[test]
fn what_was_stopped_is_resumed_to_the_same_bits() {
    let reference = model(&checkpoint(), 2);
    let text = text(&reference, 64, 2);
    let candidates = || [ty(&reference, "q4_0"), ty(&reference, "q3_k_m")];
    let expected = attribute(&reference, &candidates(), &text, &options(2, 9), &Quiet).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let on_disk = Options { spill: Some(dir.path().to_owned()), ..options(2, 9) };
    let whole = Looks::default();
    attribute(&reference, &candidates(), &text, &options(2, 9), &whole).unwrap();
    let (all, mut resumed) = (whole.0.load(Ordering::Relaxed), 0);
    for (i, share) in [0.1, 0.3, 0.5, 0.7, 0.9, 0.97].into_iter().enumerate() {
        // In memory and in files, by turns.
        let options =
            Options { state: Some(state.clone()), ..if i % 2 == 0 { options(2, 9) } else { on_disk.clone() } };
        let stops = StopsAfter(((all as f64 * share) as usize).into());
        let stopped = attribute(&reference, &candidates(), &text, &options, &stops);
        assert!(matches!(stopped, Err(Error::Cancelled)), "{share}");
        let rest = Looks::default();
        let kept = state.exists();
        assert!(attribute(&reference, &candidates(), &text, &options, &rest).unwrap() == expected, "{share}");
        resumed += usize::from(kept && rest.0.load(Ordering::Relaxed) < all);
        assert!(!state.exists());
    }
    assert!(resumed > 3, "{resumed}");
    // The state of another is none of this one.
    let options = Options { state: Some(state.clone()), ..options(2, 9) };
    attribute(&reference, &candidates()[..1], &text, &options, &StopsAfter((all / 2).into())).unwrap_err();
    let error = attribute(&reference, &candidates(), &text, &options, &Quiet).unwrap_err();
    assert!(error.to_string().contains("is not the state of this comparison"), "{error}");
}

/// Counts how often the work looks whether it should stop.
#[derive(Default)]
struct Looks(AtomicUsize);

impl Progress for Looks {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        false
    }
}
