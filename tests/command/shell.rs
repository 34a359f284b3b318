//! The command in a shell: defaults from a file and the environment, completions, man pages, the version.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn strata(config: &Path, env: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.args(args).env("STRATA_CONFIG", config).envs(env.iter().copied()).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn defaults_come_from_the_file_then_the_environment_then_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    let threads = |env: &[(&str, &str)], args: &[&str]| {
        let output = strata(&config, env, &[&["info", "--json"], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["threads"].as_u64().unwrap()
    };
    fs::write(&config, "[all]\nthreads = 1\n").unwrap();
    assert_eq!(threads(&[], &[]), 1);
    fs::write(&config, "[all]\nthreads = 1\n[info]\nthreads = 2\n[run]\nthreads = 3\n").unwrap();
    assert_eq!(threads(&[], &[]), 2);
    assert_eq!(threads(&[("STRATA_THREADS", "3")], &[]), 3);
    assert_eq!(threads(&[("STRATA_THREADS", "3")], &["--threads", "4"]), 4);
}

#[test]
fn a_wrong_file_is_a_usage_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    for (file, words) in [
        ("[all]\nthread = 1\n", "no option \"thread\""),
        ("[inf]\nthreads = 1\n", "no command \"inf\""),
        ("[all\n", "config.toml"),
        ("[info]\nthreads = \"\\u001b[31m\"\n", "defaults are also read from"),
        ("[info]\nthreads = 0\n", "defaults are also read from"),
    ] {
        fs::write(&config, file).unwrap();
        let output = strata(&config, &[], &["info"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{file}: {said}");
        assert!(said.contains(words) && !said.contains("\u{1b}[31m"), "{file}: {said}");
    }
    fs::write(&config, b"\xff").unwrap();
    assert_eq!(strata(&config, &[], &["info"]).status.code(), Some(2));
    assert_eq!(strata(&dir.path().join("none.toml"), &[], &["info"]).status.code(), Some(2), "named, and not there");
    assert_eq!(strata(Path::new(""), &[], &["info"]).status.code(), Some(0), "none is wanted");
}

#[test]
fn shells_and_man_know_the_command() {
    let none = Path::new("");
    for shell in ["bash", "zsh", "fish"] {
        let output = strata(none, &[], &["completions", shell]);
        let script = text(&output.stdout);
        assert!(output.status.success() && script.contains("cache-type-k") && script.contains("perplexity"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("strata.bash");
    fs::write(&script, strata(none, &[], &["completions", "bash"]).stdout).unwrap();
    // What bash offers behind `strata comp`.
    let offer = format!(
        "source {}; COMP_WORDS=(strata comp); COMP_CWORD=1; _strata strata comp strata; echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let offered = Command::new("bash").args(["-c", &offer]).output().unwrap();
    assert_eq!(text(&offered.stdout).trim(), "compare completions", "{}", text(&offered.stderr));
    let pages = dir.path().join("man");
    assert!(strata(none, &[], &["man", pages.to_str().unwrap()]).status.success());
    let run = fs::read_to_string(pages.join("strata-run.1")).unwrap();
    assert!(run.starts_with(".") && run.contains(".TH strata-run 1") && run.contains("top\\-k"), "{run}");
    assert!(pages.join("strata.1").exists() && pages.join("strata-batch.1").exists());
}

#[test]
fn the_version_says_what_the_processor_can_do() {
    let version = |option: &str| text(&strata(Path::new(""), &[], &[option]).stdout);
    assert_eq!(version("-V"), format!("strata {}\n", env!("CARGO_PKG_VERSION")));
    assert!(version("--version").contains("instruction sets: scalar"), "{}", version("--version"));
}
