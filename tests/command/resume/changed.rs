//! What other programs do to a `.partial` or its journal, while it is written and in between.

use crate::fixture::*;
use crate::warnings::Warnings;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;
use strata::Error;
use strata::convert::Target;
use strata::gguf::Gguf;

#[test]
fn a_partial_that_was_damaged_is_mended() {
    let fixture = Fixture::new();
    let expected = fixture.expected();
    let path = fixture.out("m.gguf");
    let (partial, journal) = (fixture.out("m.gguf.partial"), fixture.out("m.gguf.partial.journal"));
    fixture.half(&path);
    let done = finished(&path);
    flip(&partial, done[0].1 + 5);
    flip(&partial, done[done.len() - 1].1);
    // And the last line was not written whole.
    let text = fs::read(&journal).unwrap();
    fs::write(&journal, &text[..text.len() - 7]).unwrap();
    let said = succeeds(fixture.to(&path));
    assert!(said.contains(&format!("({} of them by", done.len() - 2)), "{said}: {} less 2", done.len());
    assert_eq!(hash(&path), expected);
    assert_eq!(fixture.left(), ["m.gguf"]);

    // What is no journal is not believed; without a .partial it does not matter.
    fixture.half(&path);
    fs::write(&journal, "{}\n").unwrap();
    refused(fixture.to(&path), &["m.gguf.partial.journal", "line 1", "--restart"]);
    fs::remove_file(&partial).unwrap();
    succeeds(fixture.to(&path));
    assert_eq!(hash(&path), expected);

    // A .partial shorter than it was.
    fixture.half(&path);
    File::options().write(true).open(&partial).unwrap().set_len(1 << 20).unwrap();
    succeeds(fixture.to(&path));
    assert_eq!(hash(&path), expected);
}

#[test]
fn a_partial_that_another_program_changes_meanwhile_does_not_get_its_name() {
    let fixture = Fixture::new();
    let path = fixture.out("m.gguf");
    let (partial, journal) = (fixture.out("m.gguf.partial"), fixture.out("m.gguf.partial.journal"));
    let cut = |to: u64| File::options().write(true).open(&partial).unwrap().set_len(to).unwrap();
    type Change<'a> = (&'a str, &'a (dyn Fn() + Sync), &'a Path);
    let patch = || {
        // File systems count time in steps of some milliseconds.
        std::thread::sleep(Duration::from_millis(20));
        flip(&partial, 5_000);
    };
    let changes: [Change<'_>; 7] = [
        ("written to", &patch, &partial),
        // What is written after it would make it as long as it was, with zeros where something was.
        ("cut to 1000 bytes", &|| cut(1000), &partial),
        ("cut by one byte", &|| cut(fs::metadata(&partial).unwrap().len() - 1), &partial),
        ("made longer", &|| cut(1 << 30), &partial),
        ("removed", &|| fs::remove_file(&partial).unwrap(), &partial),
        (
            "replaced",
            &|| fs::write(fixture.out("x"), "x").and_then(|()| fs::rename(fixture.out("x"), &partial)).unwrap(),
            &partial,
        ),
        ("the journal cut", &|| File::options().write(true).open(&journal).unwrap().set_len(10).unwrap(), &journal),
    ];
    for (what, change, blamed) in changes {
        for after in [0, 20 << 20, 50 << 20] {
            let progress = Stop { after, instead: Some(change), ..Stop::default() };
            let error = fixture.run(&[Target::new(&path, recipe("Q8_0"))], &progress).unwrap_err().to_string();
            says(&error, &[blamed.to_str().unwrap(), "another program", "start again"]);
            assert!(!path.exists(), "{what} after {after} bytes");
            fixture.left().iter().for_each(|name| drop(fs::remove_file(fixture.out(name))));
        }
    }
}

#[test]
fn what_another_program_has_changed_in_between_is_said_and_mended() {
    let fixture = Fixture::new();
    let expected = fixture.expected();
    let path = fixture.out("m.gguf");
    let (partial, journal) = (fixture.out("m.gguf.partial"), fixture.out("m.gguf.partial.journal"));
    // A digit of the hash of the source up to a tensor's end.
    let digit = || {
        let text = fs::read_to_string(&journal).unwrap();
        let at = text.rfind("\"source\":\"").unwrap() + 10;
        flip(&journal, at as u64);
    };
    let line = || {
        let text = fs::read_to_string(&journal).unwrap();
        let lines: Vec<&str> = text.lines().enumerate().filter(|(i, _)| *i != 1).map(|(_, line)| line).collect();
        fs::write(&journal, lines.join("\n") + "\n").unwrap();
    };
    let data = || flip(&partial, finished(&path)[1].1 + 9);
    let cut = || File::options().write(true).open(&partial).unwrap().set_len(1 << 20).unwrap();
    type Change<'a> = (&'a dyn Fn(), &'a Path, &'a str);
    let changes: [Change<'_>; 4] = [
        (&digit, &journal, "is damaged"),
        (&line, &journal, "line 2 is damaged"),
        (&data, &partial, "1 tensors are not what the journal says"),
        (&cut, &partial, "tensors are not what the journal says"),
    ];
    for (change, blamed, words) in changes {
        fixture.half(&path);
        change();
        let warnings = Warnings::default();
        fixture.run(&[Target::new(&path, recipe("Q8_0"))], &warnings).unwrap();
        let said = warnings.0.into_inner().unwrap();
        assert_eq!(said.len(), 1, "{said:?}");
        says(&said[0], &[blamed.to_str().unwrap(), words]);
        assert_eq!(hash(&path), expected);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_stands_between_the_tensors_is_zeros_again() {
    let fixture = Fixture::new();
    // Every tensor here fills whole alignments of 32 bytes, none of 64 KiB.
    let path = fixture.out("m.gguf");
    let target = || {
        let mut target = Target::new(&path, recipe("Q8_0"));
        target.metadata.push(("general.alignment".to_owned(), 65_536u32.into()));
        target
    };
    fixture.run(&[target()], &Stop { after: u64::MAX, ..Stop::default() }).unwrap();
    let (expected, gguf) = (hash(&path), Gguf::open(&path).unwrap());
    let mut ends: Vec<(u64, u64)> = gguf.tensors().iter().map(|t| (t.offset, t.offset + t.bytes)).collect();
    ends.sort_unstable();
    let file_end = fs::metadata(&path).unwrap().len();
    let next = ends.iter().skip(1).map(|(start, _)| *start).chain([file_end]).collect::<Vec<_>>();
    let gaps: Vec<(u64, u64)> = ends.iter().map(|(_, end)| *end).zip(next).filter(|(end, next)| end < next).collect();
    assert!(gaps.len() > 5, "{gaps:?}");
    fs::remove_file(&path).unwrap();

    let half = Stop { after: 32 << 20, ..Stop::default() };
    assert!(matches!(fixture.run(&[target()], &half), Err(Error::Cancelled)));
    let mut partial = OpenOptions::new().write(true).open(fixture.out("m.gguf.partial")).unwrap();
    for (start, end) in gaps {
        partial.seek(SeekFrom::Start(start)).unwrap();
        partial.write_all(&vec![0xaa; (end - start) as usize]).unwrap();
    }
    drop(partial);
    fixture.run(&[target()], &Stop { after: u64::MAX, ..Stop::default() }).unwrap();
    assert_eq!(hash(&path), expected);
}
