//! The fuzz targets over their corpora: what libFuzzer does with nightly features (`tests/fuzz`), on stable and in a moment.

#[path = "fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn every_target_survives_its_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut targets = targets::TARGETS.map(|(name, _)| name.to_owned()).to_vec();
    targets.sort();
    let mut folders: Vec<String> =
        fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    assert_eq!(folders, targets, "a corpus for each target");
    for (name, target) in targets::TARGETS {
        let mut accepted = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display()); // the last one, if it panics
            accepted += usize::from(target(&fs::read(&path).unwrap()));
        }
        println!("{name}: {accepted} accepted");
        assert!(accepted > 0, "{name}: nothing reaches the end");
    }
}
