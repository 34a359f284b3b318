//! Several models in lock step, each layer of each before any next layer, give the hidden states that each gives by itself.

mod common;

use common::{TOKENS, assert_same_bits, checkpoint, mix, model_file, open, pure};
use strata::convert::open_model;
use strata::model::forward::{Feed, Lane, forward};
use strata::model::{CacheTypes, KvCache, MemoryNeed, Model, Scratch, Segment, Sequences, States, WholeSequences};
use strata::progress::Quiet;
use strata::stream::{Budget, ReadOptions};
use strata::{Cpu, GgmlType, Isa};

/// The hidden states of all tokens in one sequence, by a pass.
fn alone(model: &Model) -> Vec<f32> {
    let mut cache = KvCache::new(model.hyperparameters(), TOKENS.len()).unwrap();
    let mut segments = [Segment { tokens: &TOKENS, cache: &mut cache }];
    model.pass(&mut Scratch::default(), &mut segments, &Quiet).unwrap().states().to_vec()
}

#[test]
fn models_in_lock_step_do_not_disturb_each_other() {
    let (_first, path) = model_file(mix("q4_k_m"));
    let resident = open(&path, Isa::best(), 1);
    let (_second, path) = model_file(pure(GgmlType::Q8_0));
    let sizes = open(&path, Isa::best(), 1).weights().sizes();
    let cpu = Cpu::new(Isa::best(), 2);
    let bytes = sizes.output.bytes() + sizes.pass_bytes() / 2 + cpu.memory_bytes();
    let (budget, options) = (Budget { bytes, fixed: 0 }, ReadOptions::default());
    let gguf = open_model(&path, &Quiet).unwrap();
    let streamed = Model::within(gguf, cpu, budget, MemoryNeed::default(), &options, &Quiet).unwrap();
    assert!(streamed.plan().unwrap().streamed_bytes > 0);
    let folder = Model::new(open_model(&checkpoint(), &Quiet).unwrap(), Cpu::new(Isa::best(), 1)).unwrap();

    let models = [&resident, &streamed, &folder];
    let mut layers = models.map(|model| model.weights().layers());
    let mut states = models.map(|model| {
        let mut h = Vec::new();
        model.embed(TOKENS.iter(), TOKENS.len(), &mut h).unwrap();
        States::in_memory(h, model.hyperparameters().hidden)
    });
    let lengths = [TOKENS.len()];
    let mut cache = KvCache::new(folder.hyperparameters(), TOKENS.len()).unwrap();
    let mut segments = [Segment { tokens: &TOKENS, cache: &mut cache }];
    let whole = || {
        Sequences::Whole(
            WholeSequences::new(folder.hyperparameters(), &TOKENS, &lengths, CacheTypes::default()).unwrap(),
        )
    };
    let sequences = [whole(), whole(), Sequences::Cached(&mut segments)];
    let parts = models.into_iter().zip(&mut states).zip(sequences);
    let mut lanes: Vec<_> = parts
        .map(|((model, h), sequences)| Lane {
            model,
            derive: None,
            h,
            sequences,
            rotation: Default::default(),
            hook: None,
        })
        .collect();
    let feeds = layers.iter_mut().zip(lanes.chunks_mut(1)).map(|(layers, lanes)| Feed { layers, lanes });
    let mut done = 0;
    let count = &mut |i, _: &mut [Feed<'_, '_, '_>]| {
        assert_eq!(i, done);
        done += 1;
        Ok(())
    };
    forward(&mut feeds.collect::<Vec<_>>(), &mut Scratch::default(), 0..folder.hyperparameters().layers, &Quiet, count)
        .unwrap();
    assert_eq!(done, folder.hyperparameters().layers);
    drop(lanes);
    drop(layers);
    for (model, states) in models.into_iter().zip(states) {
        assert_same_bits(&states.into_memory(), &alone(model), "hidden states");
    }
}
