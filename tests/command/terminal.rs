//! The command where the world is hostile: a full disk, a reader that has gone, texts without an end or a writer, threads and memory that
//! the system refuses, arguments of any size, names that would command a terminal. It ends by itself, with exit code 0, 1 or 2 and a line
//! that says why.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder with the model `m.gguf`, of tiny-rustdoc, and the text `t.txt`; and the command where every user may run it.
struct Place {
    folder: TempDir,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let place = Place { folder: tempfile::tempdir().unwrap() };
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    fs::copy(env!("CARGO_BIN_EXE_strata"), place.path("strata")).unwrap();
    fs::copy(tests.join("data/valid.txt"), place.path("t.txt")).unwrap();
    let tiny = tests.join("../models/tiny-rustdoc");
    let made = place.sh(&format!("$S convert {} -t q8_0 -o m.gguf && chmod -R a+rX . && chmod 1777 .", tiny.display()));
    assert!(made.status.success(), "{}", said(&made));
    place
});

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.env("STRATA_CACHE_DISK", "0");
        command.arg("-c").arg(script).current_dir(self.folder.path()).env("S", self.path("strata"));
        command.stdin(Stdio::null());
        command
    }

    fn sh(&self, script: &str) -> Output {
        self.command(script).output().unwrap()
    }

    /// Starts the command and waits until it has opened `pipe`.
    fn start_reading(&self, args: &str, pipe: &Path) -> Child {
        let mut command = self.command(&format!("exec $S {args}"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let fds = PathBuf::from(format!("/proc/{}/fd", child.id()));
        let is_open = || {
            let entries = fs::read_dir(&fds).into_iter().flatten().flatten();
            entries.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target == pipe)
        };
        let begin = Instant::now();
        while !is_open() {
            assert!(begin.elapsed() < Duration::from_secs(60), "{args} does not open the pipe");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// That a run ended well or with one line that says why.
fn ended_properly(output: &Output, what: &str) {
    let said = said(output);
    match output.status.code() {
        Some(0) => {}
        Some(1) => assert_eq!(said.matches("error: ").count(), 1, "{what}: {said}"),
        _ => panic!("{what}: {:?} (signal {:?}): {said}", output.status, output.status.signal()),
    }
    assert!(!said.contains("panicked"), "{what}: {said}");
}

const RUN: &str = "run -m m.gguf -p hi -n 2 --temp 0 --threads 2";

#[test]
fn a_full_disk_and_a_reader_that_has_gone() {
    let perplexity = "perplexity -m m.gguf -f t.txt -c 128 --chunks 1";
    for (args, usage) in [
        (RUN, false),
        (perplexity, false),
        ("inspect m.gguf", false),
        ("inspect m.gguf --json", false),
        ("verify m.gguf", false),
        ("info", false),
        ("--help", false),
        ("bench -m m.gguf -p 8 -n 2 -r 1 --csv", false),
        ("run --nonsense", true),
    ] {
        for (streams, code) in [
            (">/dev/full", 1),
            (">/dev/null 2>/dev/full", 0),
            (">/dev/full 2>/dev/full", 1),
            (">/dev/null 2>&-", 0),
            (">&-", 0),
            ("| true; exit ${PIPESTATUS[0]}", 0),
            ("2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}", 0),
        ] {
            let output = PLACE.sh(&format!("$S {args} {streams}"));
            let code = if usage { 2 } else { code };
            assert_eq!(output.status.code(), Some(code), "{args} {streams}: {}", said(&output));
            if streams == ">/dev/full" && !usage {
                assert!(
                    said(&output).contains("error: cannot write to standard output: No space"),
                    "{}",
                    said(&output)
                );
            }
        }
    }
}

#[test]
fn who_waits_for_a_pipe_can_be_stopped() {
    for (i, args) in ["run -m m.gguf -n 1 -f", "perplexity -m m.gguf -f", "calibrate -m m.gguf -o im.gguf -f"]
        .into_iter()
        .chain(["quantize m.gguf q.gguf q4_0 --allow-requantize --tensor-type-file"])
        .enumerate()
    {
        for signal in ["TERM", "INT"] {
            let pipe = PLACE.path(&format!("wait-{i}-{signal}"));
            assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            let child = PLACE.start_reading(&format!("{args} {}", pipe.display()), &pipe);
            assert!(PLACE.sh(&format!("kill -s {signal} {}", child.id())).status.success());
            let output = child.wait_with_output().unwrap();
            assert_eq!(
                (output.status.code(), said(&output).as_str()),
                (Some(1), "error: stopped\n"),
                "{args} {signal}"
            );
        }
    }
}

#[test]
fn a_text_is_the_same_from_wherever_it_comes() {
    let told_of = |source: &str| {
        let output = PLACE.sh(&format!("{} -c 128 --chunks 1", source.replace('@', "$S perplexity -m m.gguf -f")));
        assert!(output.status.success(), "{source}: {}", said(&output));
        told(&output)
    };
    let wanted = told_of("@ t.txt");
    for source in [
        "cat t.txt | @ -",
        "cat t.txt | @ /dev/stdin",
        "@ - <t.txt",
        "@ <(cat t.txt)",
        "@ <(head -c 5000 t.txt; sleep 0.5; tail -c +5001 t.txt)",
        "mkfifo late; (sleep 0.5; cat t.txt >late) & @ late",
    ] {
        assert_eq!(told_of(source), wanted, "{source}");
    }
    // A prompt of one dash is a prompt.
    assert!(PLACE.sh("$S run -m m.gguf -p - -n 1 </dev/zero").status.success());
    // A list of types that comes once serves for all outputs.
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rustdoc");
    let two = "-t q8_0 -t q4_0 --dry-run --tensor-type-file <(echo ffn_up=q6_k)";
    let output = PLACE.sh(&format!("$S convert {} {two} | grep -c 'ffn_up.*Q6_K'", tiny.display()));
    let layers = PLACE.sh("$S inspect m.gguf | grep -c 'ffn_up'");
    let number = |output: &Output| told(output).trim().parse::<usize>().unwrap();
    assert_eq!(number(&output), 2 * number(&layers), "{}", said(&output));
}

#[test]
fn texts_without_an_end_and_of_other_kinds_are_refused() {
    for (args, words) in [
        ("perplexity -m m.gguf -f /dev/zero", "/dev/zero: text: is longer, at most"),
        ("run -m m.gguf -f - </dev/urandom", "standard input: text: is longer"),
        ("calibrate -m m.gguf -o im.gguf -f <(yes)", "is longer"),
        ("quantize m.gguf q.gguf q4_0 --allow-requantize --tensor-type-file /dev/zero", "at most 1048576 bytes"),
        ("run -m m.gguf -f .", "is a folder"),
        ("run -m m.gguf -f - <.", "is a folder"),
        ("run -m m.gguf -f nothing", "check the path"),
        ("run -m m.gguf -f <(printf '\\xff\\xfea\\0')", "UTF-16"),
    ] {
        let output = PLACE.sh(&format!("ulimit -v 2000000; $S {args}"));
        assert_eq!(output.status.code(), Some(1), "{args}: {}", said(&output));
        ended_properly(&output, args);
        assert!(said(&output).contains(words), "{args}: {}", said(&output));
    }
}

#[test]
fn a_bad_byte_is_replaced_and_said_with_its_offset() {
    let mut text = fs::read(PLACE.path("t.txt")).unwrap();
    text.splice(8703..8704, *b"\xe9");
    fs::write(PLACE.path("bad.txt"), &text).unwrap();
    text.splice(8703..8704, "\u{fffd}".bytes());
    fs::write(PLACE.path("mended.txt"), &text).unwrap();
    let measure = |name: &str| PLACE.sh(&format!("$S perplexity -m m.gguf -f {name} -c 512 --chunks 10"));
    let (bad, mended) = (measure("bad.txt"), measure("mended.txt"));
    assert_eq!(said(&bad), "warning: bad.txt: byte 8703: not UTF-8; 1 sequence was replaced by U+FFFD\n");
    assert!(bad.status.success() && told(&bad) == told(&mended) && said(&mended).is_empty());
}

#[test]
fn threads_and_memory_that_are_refused() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rustdoc");
    let commands = [
        RUN.to_owned(),
        "run -m m.gguf -p hi -n 1 --threads 1024".to_owned(),
        "run -m m.gguf -p hi -n 2 --ram 28M --reader pread".to_owned(),
        "perplexity -m m.gguf -f t.txt -c 128 --chunks 1".to_owned(),
        "calibrate -m m.gguf -f t.txt -c 128 --chunks 1 -o $D/im.gguf".to_owned(),
        "verify m.gguf".to_owned(),
        format!("convert {} -t q4_k_m -o $D/o.gguf --restart", tiny.display()),
        "info".to_owned(),
    ];
    let folders: String = "D=$(mktemp -d -p .); chmod 777 $D".to_owned();
    // Where the system has no room for the program's own code, it never begins.
    let begins = |kilobytes: &u32| PLACE.sh(&format!("ulimit -v {kilobytes}; $S -V")).status.success();
    let limits = [40_000, 50_000, 60_000, 80_000, 120_000, 200_000, 300_000, 400_000, 800_000];
    let limits: Vec<u32> = limits.into_iter().filter(begins).collect();
    assert!(limits.len() >= 6, "the program begins within {limits:?} kB only");
    for command in &commands {
        for kilobytes in &limits {
            let output = PLACE.sh(&format!("{folders}; ulimit -v {kilobytes}; $S {command}"));
            ended_properly(&output, &format!("ulimit -v {kilobytes}: {command}"));
        }
        // The limit does not hold for root.
        let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
        let root = told(&PLACE.sh("id -u")).trim() == "0";
        for processes in 1..7 {
            let user = if root { nobody } else { "" };
            let output = PLACE.sh(&format!("{folders}; exec {user} prlimit --nproc={processes} $S {command}"));
            ended_properly(&output, &format!("ulimit -u {processes}: {command}"));
        }
    }
    for threads in ["1000000", "0", "-1", "many", ""] {
        let output = PLACE.sh(&format!("RAYON_NUM_THREADS={threads} $S verify m.gguf"));
        assert!(output.status.success(), "{threads}: {}", said(&output));
    }
}

#[test]
fn a_part_takes_one_descriptor_and_the_limit_is_raised() {
    let split = PLACE.sh("$S split m.gguf parts --split-max-tensors 1 && ls parts-* | wc -l");
    let parts: usize = told(&split).lines().last().unwrap().parse().unwrap();
    assert!(parts > 50);
    let first = format!("parts-00001-of-{parts:05}.gguf");
    for limits in ["ulimit -Sn 30".to_owned(), format!("ulimit -n {}", parts + 20)] {
        let output = PLACE.sh(&format!("{limits}; $S run -m {first} -p hi -n 2 --temp 0"));
        assert!(output.status.success(), "{limits}: {}", said(&output));
    }
    let output = PLACE.sh(&format!("ulimit -n 30; $S run -m {first} -p hi -n 2"));
    ended_properly(&output, "too few descriptors");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn arguments_of_any_size() {
    const MOST: &str = "18446744073709551615";
    for (args, code, words) in [
        ("run -m m.gguf -p hi -n 2 --min-p 2", 2, "--min-p"),
        ("run -m m.gguf -p hi -n 2 --min-p -1", 2, "--min-p"),
        ("run -m m.gguf -p hi -n 2 --top-p -1", 2, "--top-p"),
        ("run -m m.gguf -p hi -n 2 --top-p nan", 2, "--top-p"),
        ("run -m m.gguf -p hi -n 2 --temp inf", 2, "--temp"),
        ("run -m m.gguf -p hi -n 2 --temp 1e60", 2, "--temp"),
        ("run -m m.gguf -p hi -n 2 --temp -1", 2, "--temp"),
        ("run -m m.gguf -p hi -n 2 --top-k -1", 2, "--top-k"),
        ("run -m m.gguf -p hi -n 2 --repeat-last-n -1", 2, "--repeat-last-n"),
        ("run -m m.gguf -p hi -n 2 --samplers top_k,top_p", 2, "--samplers"),
        ("run -m m.gguf -p hi -n 2 -l 4294967295+1", 1, "not in the vocabulary"),
        (
            "run -m m.gguf -p hi -n 9 --repeat-last-n @ --dry-penalty-last-n @ --dry-multiplier 3e38 --repeat-penalty 3e38",
            0,
            "",
        ),
        ("run -m m.gguf -p hi -n 2 --threads 65535", 2, "--threads"),
        ("run -m m.gguf -p hi -n 2 --io-timeout 0", 2, "--io-timeout"),
        ("run -m m.gguf -p hi -n 2 --patience 5 --min-p 1 --top-p 0 --temp 3e38 --top-k @", 0, ""),
        ("run -m m.gguf -p hi -n @ -c 16", 0, "the context of 16 is full"),
        ("run -m m.gguf -p hi -n 2 -c 4294967296", 1, "smaller context (-c)"),
        ("run -m m.gguf -p hi -n 2 -c @", 1, "smaller context (-c)"),
        ("run -m m.gguf -p hi -n 2 -c 1", 1, "choose a larger -c"),
        ("run -m m.gguf --tokens 4294967295 -n 1", 1, "not in the vocabulary"),
        ("perplexity -m m.gguf -f t.txt -c @", 1, "smaller -c"),
        ("perplexity -m m.gguf -f t.txt -c 0", 1, "choose -c 512"),
        ("perplexity -m m.gguf -f t.txt -c 128 --chunks 0", 1, "--chunks"),
        ("calibrate -m m.gguf -f t.txt -o im.gguf -c @", 1, "-c"),
        ("calibrate -m m.gguf -f t.txt -o im.gguf -c 0", 1, "-c"),
        ("bench -m m.gguf -p 4294967295 -n 0", 1, "smaller -p"),
        ("bench -m m.gguf -p 0 -n 1 -d 4294967295 --batch 1024", 1, "-d or --batch"),
        ("plan -m m.gguf -c @ -p @ --disk 1G --memory-bandwidth 1G --macs 1G", 1, "smaller context (-c)"),
        ("quantize m.gguf q.gguf q4_0 --memory 1", 1, ""),
    ] {
        let output = PLACE.sh(&format!("$S {}", args.replace('@', MOST)));
        assert_eq!(output.status.code(), Some(code), "{args}: {}", said(&output));
        assert!(said(&output).contains(words), "{args}: {}", said(&output));
        assert!(!said(&output).contains("damaged"), "{args}: {}", said(&output));
    }
}

#[test]
fn sampling_numbers_of_a_file_are_named_by_their_key() {
    for (set, key) in [
        ("top_p=float:2", "general.sampling.top_p"),
        ("min_p=float:-1", "general.sampling.min_p"),
        ("temp=float:-0.5", "general.sampling.temp"),
        ("top_k=str:many", "general.sampling.top_k"),
        ("min_p=str:x", "general.sampling.min_p"),
        ("mirostat=int:3", "general.sampling.mirostat"),
        ("penalty_repeat=float:0", "general.sampling.penalty_repeat"),
        ("sequence=str:top_k;nothing", "general.sampling.sequence"),
    ] {
        let make = "$S quantize m.gguf s.gguf q8_0 --allow-requantize --restart --override-kv general.sampling";
        let output = PLACE.sh(&format!("{make}.'{set}' && $S run -m s.gguf -p hi -n 1"));
        // Refused where it is written, or where it is read.
        assert_eq!(output.status.code(), Some(1), "{set}: {}", said(&output));
        assert!(said(&output).contains(key) && !said(&output).contains("damaged"), "{set}: {}", said(&output));
    }
}

#[test]
fn what_a_file_says_does_nothing_to_a_terminal() {
    let name = "a\nb\x1b]0;x\x07\u{9b}31m";
    fs::copy(PLACE.path("m.gguf"), PLACE.path(name)).unwrap();
    let set = "$S quantize m.gguf hostile.gguf q8_0 --allow-requantize --restart --override-kv";
    let esc = "$'\\x1b]0;x\\x07\\r\\u009b31m'";
    for (script, code) in [
        ("$S inspect \"$N\"".to_owned(), 0),
        ("$S verify \"$N\"".to_owned(), 0),
        ("$S perplexity -m m.gguf -c 128 --chunks 1 -f \"$N.text\"".to_owned(), 1),
        ("$S run -m \"$N.gguf\" -p x".to_owned(), 1),
        ("$S run -m m.gguf -p x --ram \"$N\"".to_owned(), 2),
        ("$S \"$N\"".to_owned(), 2),
        (format!("{set} general.name=str:{esc} && $S inspect hostile.gguf"), 0),
        (format!("{set} a{esc}=str:x && $S inspect hostile.gguf"), 0),
        (format!("{set} llama.rope.scaling.type=str:{esc} >/dev/null; $S run -m hostile.gguf -p x"), 1),
        (format!("{set} tokenizer.ggml.pre=str:{esc} >/dev/null; $S run -m hostile.gguf -p x"), 1),
        (format!("{set} tokenizer.ggml.model=str:{esc} >/dev/null; $S run -m hostile.gguf -p x"), 1),
    ] {
        let output = PLACE.command(&script).env("N", name).output().unwrap();
        let shown = told(&output) + &said(&output);
        assert!(!shown.contains(['\x1b', '\x07', '\r', '\u{9b}']), "{script}: {shown:?}");
        assert!(output.status.code() == Some(code) || script.contains("override"), "{script}: {shown:?}");
        assert!(output.status.code().is_some_and(|code| code < 3), "{script}: {shown:?}");
    }
}
