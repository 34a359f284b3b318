//! The predicted time of a streamed pass against a drive of a fixed rate. The reads are real; their time is that of a virtual clock, on
//! which the drive brings so many bytes a second and the processor multiplies so many weights: nothing here depends on the machine.

use super::common::{TOKENS, logits, model_file, pure, streamed_with};
use crate::roofline::MatrixSize;
use crate::stream::backend::{Backend, Done, Read};
use crate::stream::{Bound, Contention};
use crate::stream::{Rates, ReadOptions};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strata::GgmlType;
use strata::model::Model;

/// The bytes that each backend was asked for, by ticket: the number of the layer that they belong to, counted through all passes.
type Log = Arc<Mutex<Vec<BTreeMap<u64, u64>>>>;

/// A backend that keeps a log.
struct Logged {
    backend: Box<dyn Backend>,
    log: Log,
    number: usize, // of the backend
}

impl Backend for Logged {
    fn submit(&mut self, read: Read) {
        *self.log.lock().unwrap()[self.number].entry(read.ticket).or_default() += read.target.len() as u64;
        self.backend.submit(read);
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<Option<Done>> {
        self.backend.wait(timeout)
    }
}

/// A streamed model and the log of its backends.
fn logged(path: &std::path::Path) -> (Model, Log) {
    let log = Log::default();
    let shared = log.clone();
    let wrap = move |backend| {
        let log = shared.clone();
        let number = log.lock().unwrap().len();
        log.lock().unwrap().push(BTreeMap::new());
        Box::new(Logged { backend, log, number }) as Box<dyn Backend>
    };
    let options = ReadOptions { wrap: Some(Arc::new(wrap)), ..ReadOptions::default() };
    (streamed_with(path, 0.2, &options).unwrap(), log)
}

/// The bytes of every layer that was asked for in `passes` passes of one token.
fn asked(model: &Model, log: &Log, passes: usize) -> Vec<u64> {
    logits(model, &TOKENS[..passes], 1).unwrap();
    let wanted = passes * model.hyperparameters().layers + model.plan().unwrap().slots as usize;
    let begin = Instant::now();
    loop {
        let ring = log.lock().unwrap().iter().max_by_key(|tickets| tickets.len()).unwrap().clone();
        // The ring reads ahead, a layer for each of its slots: the drive never waits for the processor.
        if ring.len() == wanted {
            return ring.into_values().take(passes * model.hyperparameters().layers).collect();
        }
        assert!(ring.len() < wanted && begin.elapsed() < Duration::from_secs(60), "{} of {wanted} layers", ring.len());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Seconds of a pass in the long run. A slot is filled again when its layer is done; a layer begins when its slot is full and the layer before
/// is done, and the output matrix comes after the last.
fn simulated(model: &Model, asked: &[u64], rates: &Rates) -> f64 {
    let (sizes, slots) = (model.weights().sizes(), model.plan().unwrap().slots as usize);
    let layers = sizes.layers.len();
    let seconds = |i: usize| sizes.layers[i].iter().map(|m| m.rows * m.cols).sum::<u64>() as f64 / rates.macs;
    let output = (sizes.output.rows * sizes.output.cols) as f64 / rates.macs;
    let (mut drive, mut processor, mut ends) = (0.0f64, 0.0f64, Vec::new());
    let (passes, mut middle) = (asked.len() / layers, 0.0);
    for (ticket, &bytes) in asked.iter().enumerate() {
        let free = ticket.checked_sub(slots).map_or(0.0, |before| ends[before]);
        drive = drive.max(free) + bytes as f64 / rates.disk;
        processor = processor.max(drive) + seconds(ticket % layers);
        ends.push(processor);
        if ticket % layers == layers - 1 {
            processor += output;
        }
        if ticket + 1 == passes / 2 * layers {
            middle = processor;
        }
    }
    (processor - middle) / (passes - passes / 2) as f64
}

#[test]
fn a_streamed_pass_takes_as_long_as_predicted() {
    // Large rows: what requests of whole pages read beside them is little.
    let (_dir, path) = model_file(pure(GgmlType::F32));
    let (model, log) = logged(&path);
    let (plan, sizes) = (model.plan().unwrap(), model.weights().sizes());
    let asked = asked(&model, &log, 12);
    let read: u64 = asked[asked.len() - model.hyperparameters().layers..].iter().sum();
    let streamed = plan.streamed_bytes;
    assert!(read >= streamed && read < streamed + streamed / 50, "{read} bytes are read where {streamed} are planned");

    let macs = |m: &MatrixSize| (m.rows * m.cols) as f64;
    let (output, disk) = (macs(&sizes.output), 1e9);
    let all = sizes.layers.iter().flatten().map(macs).sum::<f64>() + output;
    for share in [0.1, 0.5, 0.98, 1.1, 4.0] {
        // The processor needs this share of the time that the drive needs.
        let macs = all / (share * streamed as f64 / disk);
        let rates = Rates { disk, load: disk, memory: f64::INFINITY, macs, contention: Contention::APART };
        let (predicted, simulated) = (plan.pass(&sizes, &rates, 1), simulated(&model, &asked, &rates));
        // Where both need about the same time, the drive finds its slots full while the output matrix is multiplied.
        let waits = if (0.8..1.25).contains(&share) { output / all } else { 0.0 };
        let ratio = simulated / predicted.seconds;
        println!("{share}: {simulated} s, predicted {} s", predicted.seconds);
        assert!((0.995..1.02 + waits).contains(&ratio), "{share}: {simulated} s, predicted {} s", predicted.seconds);
        assert_eq!(predicted.bound, if share < 1.0 { Bound::Disk } else { Bound::Arithmetic });
    }
}
