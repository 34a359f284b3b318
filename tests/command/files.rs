//! Nothing is lost: no command writes over what it reads, or over what is not its own; a file has its name only when it is whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use strata::gguf::Gguf;
use tempfile::TempDir;

/// A folder with a model, a split one, two matrices, a text and a file of types.
struct Fixture {
    root: TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let fixture = Fixture { root: tempfile::tempdir().unwrap() };
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rustdoc");
        fs::create_dir(fixture.at("checkpoint")).unwrap();
        for entry in fs::read_dir(tiny).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, fixture.at("checkpoint").join(path.file_name().unwrap())).unwrap();
        }
        fs::write(fixture.at("text"), "A vector is a list of values of one type. ".repeat(40)).unwrap();
        fs::write(fixture.at("types"), "ffn_down=q8_0").unwrap();
        for args in [
            "convert checkpoint -t f16 -o m.gguf",
            "split m.gguf p --split-max-tensors 30",
            "calibrate -m m.gguf -f text -c 16 --chunks 1 -o i.gguf",
            "calibrate -m m.gguf -f text -c 16 --chunks 1 -o i.dat",
        ] {
            fixture.succeeds(args);
        }
        fixture
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn strata(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.env("STRATA_CACHE_DISK", "0");
        command.current_dir(self.root.path()).args(args.split_whitespace());
        command
    }

    fn start(&self, args: &str) -> Child {
        self.strata(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn succeeds(&self, args: &str) {
        let Output { status, stderr, .. } = self.strata(args).output().unwrap();
        assert!(status.success(), "{args}: {}", String::from_utf8_lossy(&stderr));
    }

    /// The one line of error of a command that must fail.
    fn refused(&self, args: &str) -> String {
        error_of(args, self.strata(args).output().unwrap())
    }

    /// What is in the folder: of each name what it is, and its contents.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut contents = BTreeMap::new();
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                if kind.is_dir() {
                    folders.push(path.clone());
                }
                let bytes = if kind.is_file() { fs::read(&path).unwrap() } else { format!("{kind:?}").into_bytes() };
                contents.insert(path, bytes);
            }
        }
        contents
    }
}

fn error_of(args: &str, Output { status, stderr, .. }: Output) -> String {
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{args}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{args}: {stderr}");
    errors[0].to_owned()
}

/// Commands with a blank for the output, and what each reads.
const COMMANDS: [(&str, &[&str]); 5] = [
    (
        "convert checkpoint -t q4_0 --imatrix i.gguf --tensor-type-file types -o OUT",
        &[
            "i.gguf",
            "types",
            "checkpoint/config.json",
            "checkpoint/model.safetensors",
            "checkpoint/tokenizer.json",
            "checkpoint/README.md",
        ],
    ),
    ("quantize m.gguf OUT q4_0 --imatrix i.dat --tensor-type-file types", &["m.gguf", "i.dat", "types"]),
    ("quantize p-00001-of-00002.gguf OUT q8_0", &["p-00001-of-00002.gguf", "p-00002-of-00002.gguf"]),
    ("calibrate -m m.gguf -f text -c 16 --chunks 1 --in-file i.gguf -o OUT", &["m.gguf", "text", "i.gguf"]),
    ("merge p-00001-of-00002.gguf OUT", &["p-00001-of-00002.gguf", "p-00002-of-00002.gguf"]),
];

#[cfg(unix)]
#[test]
fn no_input_is_replaced_by_an_output() {
    let fixture = Fixture::new();
    for (args, inputs) in COMMANDS {
        for input in inputs {
            let _ = fs::remove_file(fixture.at("hard.gguf"));
            let _ = fs::remove_file(fixture.at("soft.gguf"));
            fs::hard_link(fixture.at(input), fixture.at("hard.gguf")).unwrap();
            std::os::unix::fs::symlink(input, fixture.at("soft.gguf")).unwrap();
            let before = fixture.contents();
            for output in [*input, "hard.gguf", "soft.gguf", format!("./checkpoint/../{input}").as_str()] {
                let args = args.replace("OUT", output);
                let error = fixture.refused(&args);
                assert!(error.contains("itself, and is the file that is read"), "{args}: {error}");
                assert!(fixture.contents() == before, "{args} changed something");
            }
            fs::remove_file(fixture.at("hard.gguf")).unwrap();
            fs::remove_file(fixture.at("soft.gguf")).unwrap();
        }
    }
    // The parts that split writes have the names of those it reads; an input has the name of what is written beside an output.
    fs::copy(fixture.at("text"), fixture.at("o.gguf.partial")).unwrap();
    fs::copy(fixture.at("text"), fixture.at("o2.gguf.partial.journal")).unwrap();
    let before = fixture.contents();
    for args in [
        "split p-00001-of-00002.gguf p --split-max-tensors 30",
        "calibrate -m m.gguf -f o.gguf.partial -c 16 --chunks 1 -o o.gguf",
        "calibrate -m m.gguf -f o2.gguf.partial.journal -c 16 --chunks 1 -o o2.gguf",
    ] {
        let error = fixture.refused(args);
        assert!(error.contains("itself, and is the file that is read"), "{args}: {error}");
        assert!(fixture.contents() == before, "{args} changed something");
    }
}

#[cfg(unix)]
#[test]
fn what_stands_in_the_way_is_left_alone() {
    let fixture = Fixture::new();
    fs::write(fixture.at("precious"), "precious").unwrap();
    type Put = fn(&Path);
    let puts: [(&str, Put); 6] = [
        ("a file", |path| fs::write(path, "work of hours").unwrap()),
        ("a link", |path| std::os::unix::fs::symlink("precious", path).unwrap()),
        ("a dangling link", |path| std::os::unix::fs::symlink("nowhere", path).unwrap()),
        ("a hard link", |path| fs::hard_link(path.with_file_name("precious"), path).unwrap()),
        ("a folder", |path| fs::create_dir(path).unwrap()),
        ("a pipe", |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
    ];
    let split = ("split m.gguf o --split-max-tensors 30", "o-00002-of-00002.gguf", "o");
    let commands = COMMANDS.map(|(args, _)| (args, "o.gguf", "o.gguf"));
    for (args, output, claimed) in commands.into_iter().chain([split]) {
        let args = args.replace("OUT", output);
        for (what, put) in puts {
            for place in [format!("{output}.partial"), format!("{claimed}.partial.journal")] {
                // A journal alone binds nobody.
                if what == "a file" && place.ends_with("journal") {
                    continue;
                }
                put(&fixture.at(&place));
                let before = fixture.contents();
                let error = fixture.refused(&args);
                assert!(error.contains(&place), "{args} with {what} as {place}: {error}");
                assert!(fixture.contents() == before, "{args} with {what} as {place} changed something");
                let _ = fs::remove_file(fixture.at(&place)).or_else(|_| fs::remove_dir(fixture.at(&place)));
            }
        }
    }
}

#[test]
fn an_unfinished_conversion_is_taken_up_by_nobody_else() {
    let fixture = Fixture::new();
    fixture.succeeds("convert checkpoint -t q8_0 -o whole.gguf");
    let journal = || fs::read_to_string(fixture.at("o.gguf.partial.journal")).unwrap_or_default();
    for _ in 0..200 {
        let mut child = fixture.start("convert checkpoint -t q8_0 -o o.gguf --restart");
        while !journal().contains("{\"tensor\":{") && child.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if fixture.at("o.gguf.partial").exists() && journal().contains("{\"tensor\":{") {
            break;
        }
    }
    assert!(fixture.at("o.gguf.partial").exists(), "no conversion could be stopped half way");
    let before = fixture.contents();
    for args in [
        "merge p-00001-of-00002.gguf o.gguf",
        "calibrate -m m.gguf -f text -c 16 --chunks 1 -o o.gguf",
        "quantize m.gguf o.gguf q8_0",
        "convert checkpoint -t q4_0 -o o.gguf",
    ] {
        let error = fixture.refused(args);
        assert!(error.contains("o.gguf"), "{args}: {error}");
        assert!(fixture.contents() == before, "{args} changed something");
    }
    fixture.succeeds("convert checkpoint -t q8_0 -o o.gguf");
    assert!(fs::read(fixture.at("o.gguf")).unwrap() == fs::read(fixture.at("whole.gguf")).unwrap());
    assert!(!fixture.at("o.gguf.partial").exists() && !fixture.at("o.gguf.partial.journal").exists());
}

#[test]
fn a_command_that_was_killed_is_given_again() {
    let fixture = Fixture::new();
    let start = std::time::Instant::now();
    fixture.succeeds("merge p-00001-of-00002.gguf whole.gguf");
    let took = start.elapsed();
    let mut left = 0;
    for (args, again) in [
        ("merge p-00001-of-00002.gguf o.gguf", "merge p-00001-of-00002.gguf o.gguf"),
        ("split m.gguf o --split-max-tensors 10", "split m.gguf o --split-max-tensors 30"),
    ] {
        for i in 1..20 {
            let mut child = fixture.start(args);
            std::thread::sleep(took * i / 20);
            child.kill().unwrap();
            child.wait().unwrap();
            let before = fixture.contents();
            if before.keys().any(|path| path.extension() == Some("partial".as_ref())) {
                left += 1;
                // Whatever has this name to write takes nothing over, unless it is told to discard it.
                let name = if args.starts_with("merge") { "o.gguf" } else { "o" };
                for other in ["calibrate -m m.gguf -f text -c 16 --chunks 1 -o NAME", "quantize m.gguf NAME q8_0"] {
                    let error = fixture.refused(&other.replace("NAME", name));
                    assert!(
                        error.contains("an unfinished `strata") && error.contains("give that command again"),
                        "{error}"
                    );
                    assert!(fixture.contents() == before, "{other}");
                }
            }
            // The same command leaves nothing of it, be it for other parts.
            fixture.succeeds(if i % 2 == 0 { args } else { again });
            let names = fixture.contents().into_keys().filter(|path| path.to_string_lossy().contains(".partial"));
            assert_eq!(names.collect::<Vec<_>>(), [] as [PathBuf; 0], "{args}");
        }
    }
    println!("{left} kills left a .partial");
    fixture.succeeds("merge p-00001-of-00002.gguf o.gguf");
    assert!(fs::read(fixture.at("o.gguf")).unwrap() == fs::read(fixture.at("whole.gguf")).unwrap());
}

#[test]
fn of_two_writers_of_one_name_one_wins() {
    let fixture = Fixture::new();
    fixture.succeeds("convert checkpoint -t q8_0 -o b.gguf");
    fixture.succeeds("split b.gguf b --split-max-tensors 30");
    let commands = [
        "merge p-00001-of-00002.gguf o.gguf",
        "merge b-00001-of-00002.gguf o.gguf",
        "quantize m.gguf o.gguf q8_0",
        "convert checkpoint -t f32 -o o.gguf",
    ];
    for round in 0..24 {
        let pair = [commands[round % 4], commands[(round / 4 + 1 + round) % 4]];
        let children = pair.map(|args| fixture.start(args));
        let mut won = 0;
        for (child, args) in children.into_iter().zip(pair) {
            let output = child.wait_with_output().unwrap();
            match output.status.success() {
                true => won += 1,
                false => assert!(error_of(args, output).contains("another strata is writing it"), "{args}"),
            }
        }
        assert!(won >= 1, "{pair:?}");
        fixture.succeeds("verify o.gguf");
        assert!(!fixture.at("o.gguf.partial").exists() && !fixture.at("o.gguf.partial.journal").exists());
        fs::remove_file(fixture.at("o.gguf")).unwrap();
    }
}

/// Starts a command that reads its text from a pipe, changes the model while it waits, and lets it go on.
#[cfg(unix)]
fn with_change(fixture: &Fixture, args: &str, change: &dyn Fn(&Path)) -> Output {
    let (pipe, model) = (fixture.at("pipe"), fixture.at("x.gguf"));
    fs::copy(fixture.at("m.gguf"), &model).unwrap();
    if !pipe.exists() {
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    }
    let child = fixture.start(args);
    // This waits for the command to open the pipe, which it does after the model.
    let mut text = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    // Time to take stamps with: file systems count it in steps of some milliseconds.
    std::thread::sleep(Duration::from_millis(20));
    change(&model);
    text.write_all("A vector is a list of values of one type. ".repeat(40).as_bytes()).unwrap();
    drop(text);
    child.wait_with_output().unwrap()
}

#[cfg(unix)]
#[test]
fn a_model_that_changes_while_a_text_is_read_is_an_error_that_says_so() {
    use std::os::unix::fs::FileExt;
    let fixture = Fixture::new();
    let write = |path: &Path, at: u64, bytes: &[u8]| {
        fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    };
    let cut = |path: &Path, to: u64| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(to).unwrap();
    let length = fs::metadata(fixture.at("m.gguf")).unwrap().len();
    let norm = Gguf::open(fixture.at("m.gguf")).unwrap().tensor("output_norm.weight").unwrap().offset;
    type Change<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);
    let changes: [Change<'_>; 7] = [
        // What is read only now is not finite, and not for the file's fault.
        ("a norm of NaN", &|path| write(path, norm, &f32::NAN.to_le_bytes()), "written to"),
        ("cut to nothing", &|path| cut(path, 0), "has 0 now"),
        ("cut to half", &|path| cut(path, length / 2), "bytes when it was opened"),
        ("longer", &|path| cut(path, length + 1), "bytes when it was opened"),
        ("another header", &|path| write(path, 24, &[0xff; 150_000]), "written to"),
        ("other weights", &|path| write(path, length / 2, &[0x11; 4096]), "written to"),
        ("written over", &|path| fs::write(path, vec![0; length as usize]).unwrap(), "written to"),
    ];
    let commands = [
        "run -m x.gguf -f pipe -n 2 --temp 0",
        "perplexity -m x.gguf -f pipe -c 16 --chunks 2",
        "calibrate -m x.gguf -f pipe -c 16 --chunks 2 -o new.gguf",
    ];
    for args in commands {
        let kept = with_change(&fixture, args, &|_| ());
        assert!(kept.status.success(), "{args}: {}", String::from_utf8_lossy(&kept.stderr));
        let _ = fs::remove_file(fixture.at("new.gguf"));
        for (what, change, words) in changes {
            let error = error_of(args, with_change(&fixture, args, change));
            assert!(error.contains("x.gguf") && error.contains(words), "{args}, {what}: {error}");
            assert!(!fixture.at("new.gguf").exists(), "{args}, {what}");
        }
        // Whoever has a file open keeps its bytes, whatever becomes of its name.
        let replace = |path: &Path| {
            fs::write(fixture.at("other"), "another file").unwrap();
            fs::rename(fixture.at("other"), path).unwrap();
        };
        for change in [&replace as &dyn Fn(&Path), &|path| fs::remove_file(path).unwrap()] {
            let output = with_change(&fixture, args, change);
            assert!(output.status.success() && output.stdout == kept.stdout, "{args}: {output:?}");
            let _ = fs::remove_file(fixture.at("new.gguf"));
        }
    }
}
