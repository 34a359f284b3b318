//! What the command adds to an error of the library, which knows no options: those by which the user can avoid it.

use std::io;
use strata::Error;
use strata::error::{Allocation, Setting};

/// What follows the text of `error`: a remedy after a semicolon, an option in parentheses, or nothing.
pub fn after(error: &anyhow::Error) -> String {
    let library = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    if let Some(Error::Invalid { setting: Some(setting), .. }) = library {
        return format!(" ({})", option(*setting));
    }
    let system = || error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).and_then(of_system);
    library.and_then(of_library).or_else(system).map_or_else(String::new, |remedy| format!("; {remedy}"))
}

/// The option that changes a setting of the library.
fn option(setting: Setting) -> &'static str {
    match setting {
        Setting::Restart => "--restart",
        Setting::Requantize => "--allow-requantize",
        Setting::Metadata => "--override-kv",
        Setting::Source => "leave out --source",
        Setting::Tokens => "run --tokens 1,2,3",
        Setting::CacheTypes => "--cache-type-k f32 --cache-type-v f32",
        Setting::BaseFile => "perplexity -f TEXT --kl-divergence-base FILE",
        Setting::Sampling(name) => of_sampling(name),
        Setting::ChatTemplate => "--chat-template-file",
        Setting::Adapter => "convert BASE --lora ADAPTER",
        _ => "see --help",
    }
}

/// The option of a sampling default, by its name in the file.
fn of_sampling(name: &str) -> &'static str {
    match name {
        "sequence" => "--samplers",
        "top_k" => "--top-k",
        "top_p" => "--top-p",
        "min_p" => "--min-p",
        "xtc_probability" => "--xtc-probability",
        "xtc_threshold" => "--xtc-threshold",
        "temp" => "--temp",
        "penalty_last_n" => "--repeat-last-n",
        "penalty_repeat" => "--repeat-penalty",
        "mirostat" => "--mirostat",
        "mirostat_tau" => "--mirostat-ent",
        "mirostat_eta" => "--mirostat-lr",
        _ => "see --help",
    }
}

/// The remedy for an error that the library describes without one.
fn of_library(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::OutOfMemory { what: Allocation::KvCache { .. }, .. } => "choose a smaller context (-c)",
        Error::OutOfMemory { what: Allocation::Activations { .. }, .. } => "take fewer tokens at a time",
        Error::OutOfMemory { what: Allocation::Weights, .. } => "give less --ram",
        Error::OutOfMemory { what: Allocation::Conversion, .. } => "give less by --memory",
        Error::OutOfMemory { .. } => "free some memory",
        Error::Thread(_) => "raise the limits of processes and memory (ulimit -u, ulimit -v)",
        Error::MemoryUnknown => "give --ram in bytes, as 64G",
        Error::BudgetTooSmall { kv, budget, .. } if *kv > budget / 4 => {
            "choose a smaller context (-c) or give more --ram"
        }
        Error::BudgetTooSmall { .. } => "give more --ram",
        Error::ConversionTooLarge { .. } => {
            "give that much by --memory, or fewer threads (--threads) or types (-t) at a time"
        }
        Error::ReaderRefused { .. } => "choose another --reader, or auto",
        Error::ContextFull { .. } => "choose a larger -c",
        Error::EmptyPrompt => "give one with -p",
        Error::NoCandidate => "exclude fewer tokens (--logit-bias)",
        Error::TextTooShort { .. } => "use a longer text, a smaller -c, or --chunks of at least 1",
        Error::ContextTooSmall { .. } => "choose -c 512",
        Error::StrideOutOfRange { .. } => "choose a --stride from 1 to the tokens of -c",
        Error::TooFewScored => "use a longer text, a larger -c or more --chunks",
        Error::TooFewForStatistics { .. } => "take more chunks: a longer text for the base file, or more --chunks",
        Error::ImportanceMissing { .. } => "give --imatrix FILE (strata calibrate makes one), or choose Q2_K",
        Error::MetadataRefused { .. } => "leave it out, or give another value (--override-kv, strata set)",
        Error::FilesWithoutTensors { .. } => "choose no more (--drives)",
        Error::Shared(error) => return of_library(error),
        Error::DatOverflow { .. } => "choose --output-format gguf",
        _ => return None,
    })
}

/// The remedy for a refusal by the operating system.
fn of_system(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::StorageFull => "free some space or choose another disk",
        io::ErrorKind::OutOfMemory => "free some memory, or raise its limit (ulimit -v)",
        io::ErrorKind::PermissionDenied => "check the permissions",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_option_stands_behind_the_error_that_it_avoids() {
        let full = Error::ContextFull { have: 1, more: 2, room: 2 };
        assert_eq!(after(&full.into()), "; choose a larger -c");
        let budget =
            |kv| Error::BudgetTooSmall { budget: 8, need: 9, kv, activations: 0, pinned: 0, ring: 0, program: 0 };
        assert_eq!(after(&budget(2).into()), "; give more --ram");
        assert!(after(&budget(3).into()).contains("smaller context (-c)"));
        assert_eq!(after(&Error::Cancelled.into()), "");
    }

    #[test]
    fn a_remedy_of_the_library_is_not_given_twice() {
        let plain = Error::invalid(Path::new("f"), "header", "is damaged", "get it again");
        assert_eq!(after(&plain.into()), "");
        let setting = |setting| Error::Invalid {
            path: "f".into(),
            place: "tensor".to_owned(),
            problem: "is quantized already".to_owned(),
            remedy: "accept the loss".to_owned(),
            setting: Some(setting),
        };
        for (of, option) in [
            (Setting::Restart, " (--restart)"),
            (Setting::Requantize, " (--allow-requantize)"),
            (Setting::Metadata, " (--override-kv)"),
            (Setting::Source, " (leave out --source)"),
            (Setting::Tokens, " (run --tokens 1,2,3)"),
            (Setting::CacheTypes, " (--cache-type-k f32 --cache-type-v f32)"),
            (Setting::BaseFile, " (perplexity -f TEXT --kl-divergence-base FILE)"),
            (Setting::Sampling("temp"), " (--temp)"),
        ] {
            assert_eq!(after(&setting(of).into()), option);
        }
    }

    #[test]
    fn the_system_has_its_remedies_wherever_its_error_comes_from() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(after(&Error::io("open", Path::new("f"))(missing()).into()), "; check the path");
        assert_eq!(after(&anyhow::Error::from(missing()).context("cannot write")), "; check the path");
        let thread = Error::Thread(io::ErrorKind::OutOfMemory.into());
        assert!(after(&thread.into()).starts_with("; raise the limits of processes"));
    }
}
