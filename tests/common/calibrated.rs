//! Runs of the command in a folder with two texts: one to calibrate with, one to compare on.

use super::{checkpoint, repository};
use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A folder with `learn.txt` and `judge.txt`, the halves of `valid.txt`.
pub fn texts() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let valid = fs::read_to_string(repository("tests/data/valid.txt")).unwrap();
    let half = (valid.len() / 2..).find(|&at| valid.is_char_boundary(at)).unwrap();
    fs::write(dir.path().join("learn.txt"), &valid[..half]).unwrap();
    fs::write(dir.path().join("judge.txt"), &valid[half..]).unwrap();
    dir
}

/// The command at `program`, in the folder.
pub fn strata(program: &str, dir: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir.path());
    command
}

/// A conversion of the small model with `learn.txt` in chunks of 128 tokens, of which so many are taken.
pub fn calibrated(program: &str, dir: &TempDir, out: &str, chunks: &str, more: &[&str]) -> Command {
    let source = checkpoint();
    let args = ["convert", source.to_str().unwrap(), "-o", out, "--calibration", "learn.txt"];
    let cut = ["--calibration-context", "128", "--calibration-chunks", chunks];
    strata(program, dir, &[&args[..], &cut, more].concat())
}

/// What a command gives that must succeed.
pub fn ok(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What a command gives that is killed later and later, until it is done: what it has made by then is kept. `begun` says whether there is any.
pub fn killed_until_done(command: impl Fn() -> Command, begun: impl Fn() -> bool) -> Output {
    let (mut resumed, mut wait) = (0, 50);
    loop {
        let mut child = command().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            assert!(resumed > 0, "it was done before it could be killed");
            return output;
        }
        assert!(output.status.code().is_none(), "it failed by itself: {}", output.status);
        resumed += usize::from(begun());
        wait += wait / 4;
    }
}
