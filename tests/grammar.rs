//! Grammars allow what their source means, token by token, and nothing else; and a hostile one is an error.

mod common;
#[path = "grammar/hostile.rs"]
mod hostile;
#[path = "grammar/json.rs"]
mod json;

use std::sync::{Arc, LazyLock};
use strata::convert::open_model;
use strata::engine::grammar::{Grammar, Matcher};
use strata::progress::Quiet;
use strata::tokenizer::{EncodeOptions, Tokenizer};

static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tokenizer::from_gguf(&open_model(&common::checkpoint(), &Quiet).unwrap()).unwrap()));

/// The token of each byte.
static BYTES: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let mut of = vec![None; 256];
    for id in 0..TOKENIZER.vocab().tokens.len() as u32 {
        if let ([byte], false) = (&TOKENIZER.token_bytes(id).unwrap()[..], TOKENIZER.is_control(id)) {
            of[*byte as usize].get_or_insert(id);
        }
    }
    of.into_iter().map(|id| id.unwrap_or(u32::MAX)).collect()
});

fn gbnf(source: &str) -> Grammar {
    Grammar::gbnf(source, &TOKENIZER).unwrap_or_else(|error| panic!("{source}: {error}"))
}

/// Whether an answer of these tokens is complete; `None` if a mask forbids one.
fn follow(grammar: &Grammar, tokens: &[u32]) -> Option<Matcher> {
    let mut matcher = grammar.matcher().unwrap();
    for &token in tokens {
        if !matcher.mask().unwrap().allows(token) {
            return None;
        }
        matcher.accept(token).unwrap();
    }
    Some(matcher)
}

/// Whether the grammar accepts a text, in the tokens that the tokenizer makes of it as in single bytes.
fn accepts(grammar: &Grammar, text: &str) -> bool {
    let tokens = TOKENIZER.encode(text, EncodeOptions::default()).unwrap();
    let bytes: Vec<u32> = text.bytes().map(|byte| BYTES[byte as usize]).collect();
    let [by_tokens, by_bytes] = [tokens, bytes].map(|tokens| {
        follow(grammar, &tokens).is_some_and(|mut matcher| {
            let mask = matcher.mask().unwrap().clone();
            let ends: Vec<u32> = mask.tokens().filter(|&token| TOKENIZER.is_eog(token)).collect();
            assert_eq!(!ends.is_empty(), matcher.may_end(), "{text:?}");
            assert!(!matcher.must_end() || mask.count() == ends.len(), "{text:?}");
            matcher.may_end()
        })
    });
    assert_eq!(by_tokens, by_bytes, "{text:?}");
    by_tokens
}

#[test]
fn gbnf_means_what_llama_cpp_means() {
    for (source, accepted, rejected) in [
        ("root ::= \"a\"", &["a"][..], &["", "b", "aa", "A"][..]),
        ("root ::= \"yes\" | \"no\"", &["yes", "no"], &["y", "yesno", "n"]),
        ("root ::= \"\" | \"x\"", &["", "x"], &["xx"]),
        ("root ::= [a-c0-2_]+", &["a", "cab_012"], &["", "d", "a3"]),
        ("root ::= [^a-c]{2}", &["xy", "é\n"], &["xa", "x", "xyz"]),
        ("root ::= [-a] [a-] [\\]\\[\\\\]", &["-a]", "a-[", "--\\"], &["b-]", "-a-"]),
        ("root ::= .{3}", &["abc", "日本語", "a\nb"], &["ab", "abcd"]),
        ("root ::= \"\\x41\\u00e9\\U0001F600\\n\\t\\r\\\"\\\\\"", &["Aé😀\n\t\r\"\\"], &["Aé😀\n\t\r\""]),
        ("root ::= \"ab\"* \"c\"?", &["", "ab", "abab", "c", "ababc"], &["a", "abb", "cc"]),
        ("root ::= \"ab\"{2,3}", &["abab", "ababab"], &["ab", "abababab"]),
        ("root ::= \"a\"{2,} \"b\"{ 0 , 1 }", &["aa", "aaaaab"], &["a", "ab", "aabb"]),
        ("root ::= \"a\"{0} \"b\"", &["b"], &["ab"]),
        ("root ::= (\"a\" | \"b\")+ \"c\"", &["ac", "babc"], &["c", "ab"]),
        (
            "# comment\nroot ::= x | # more\n  y\n\nx ::= \"x\" # end\ny ::= (\n \"y\"\n\n | \"z\"\n)\n",
            &["x", "y", "z"],
            &["xy"],
        ),
        ("ws ::= [ \\t]*\r\nroot ::= ws \"a\" ws\r\n", &["a", "  a\t"], &["a\n"]),
        ("root ::= \"(\" root \")\" | \"x\"", &["x", "((x))"], &["(x", "x)", "()"]),
        // recursion on the left, on the right, in the middle and of what may be empty
        ("root ::= root \"a\" | \"b\"", &["b", "baa"], &["", "a", "ab"]),
        ("root ::= \"a\" root | \"b\"", &["b", "aab"], &["", "ba"]),
        ("root ::= root root | \"a\" | \"\"", &["", "a", "aaaa"], &["b"]),
        ("root ::= \"a\" root \"b\" | \"\"", &["", "ab", "aaabbb"], &["a", "aab", "abab"]),
        // a rule without an end is no way to go
        ("root ::= \"a\" stuck | \"a\" \"b\"\nstuck ::= \"c\" stuck", &["ab"], &["ac"]),
        // what a longest match would mistake
        ("root ::= [a-z]+ \"b\"", &["ab", "bbb"], &["a", "b"]),
        ("root ::= (\"ab\" | \"a\") x\nx ::= \"b\" x | \"c\"", &["abc", "abbc", "ac"], &["ab"]),
        (
            "root ::= \"a\" \"b\" \"c\" e | \"ab\" \"d\" e\ne ::= \"(\" e \")\" | \"\"",
            &["abc", "abd", "abc()"],
            &["ab", "abc("],
        ),
        (
            "root ::= word | word \" \" root\nword ::= [a-z]+ | \"if\" root \"fi\"",
            &["if", "ifafi", "if a fi b"],
            &["", "a  b"],
        ),
    ] {
        let grammar = gbnf(source);
        for text in accepted {
            assert!(accepts(&grammar, text), "{source} must accept {text:?}");
        }
        for text in rejected {
            assert!(!accepts(&grammar, text), "{source} must reject {text:?}");
        }
    }
}

/// A part of a random grammar over a, b and c.
#[derive(Clone, Debug)]
enum Part {
    Chars(&'static str),
    Rule(usize),
    Seq(Vec<Part>),
    Alt(Vec<Part>),
    Repeat(Box<Part>, usize, Option<usize>),
}

impl Part {
    fn random(random: &mut u64, depth: usize, rules: usize) -> Part {
        let parts =
            |random: &mut u64| (0..1 + pick(random, 3)).map(|_| Part::random(random, depth - 1, rules)).collect();
        match if depth == 0 { pick(random, 4) } else { pick(random, 10) } {
            0..3 => Part::Chars(["a", "b", "c", "ab", "bc", "abc"][pick(random, 6)]),
            3 => Part::Rule(pick(random, rules)),
            4..7 => Part::Seq(parts(random)),
            7..9 => Part::Alt(parts(random)),
            _ => {
                let (least, most) = [(0, None), (1, None), (0, Some(1)), (1, Some(2)), (2, Some(2))][pick(random, 5)];
                Part::Repeat(Box::new(Part::random(random, depth - 1, rules)), least, most)
            }
        }
    }

    /// It in GBNF: three characters are a class, fewer a literal.
    fn gbnf(&self) -> String {
        let joined =
            |parts: &[Part], with: &str| format!("({})", parts.iter().map(Part::gbnf).collect::<Vec<_>>().join(with));
        match self {
            Part::Chars(chars) if chars.len() == 3 => format!("[{chars}]"),
            Part::Chars(chars) => format!("\"{chars}\""),
            Part::Rule(0) => "root".to_owned(),
            Part::Rule(rule) => format!("r{rule}"),
            Part::Seq(parts) => joined(parts, " "),
            Part::Alt(parts) => joined(parts, " | "),
            Part::Repeat(part, least, most) => {
                format!("({}){{{least},{}}}", part.gbnf(), most.map_or(String::new(), |most| most.to_string()))
            }
        }
    }

    /// Where texts of it that begin at `from` end, as bits, as far as `known` has those of the rules.
    fn ends(&self, text: &[u8], from: usize, known: &[Vec<u32>]) -> u32 {
        let all = |part: &Part, starts: u32| {
            (0..=text.len()).filter(|i| starts >> i & 1 == 1).fold(0, |ends, i| ends | part.ends(text, i, known))
        };
        match self {
            Part::Chars(chars) if chars.len() == 3 => u32::from(from < text.len()) << (from + 1),
            Part::Chars(chars) => u32::from(text[from..].starts_with(chars.as_bytes())) << (from + chars.len()),
            Part::Rule(rule) => known[*rule][from],
            Part::Seq(parts) => parts.iter().fold(1 << from, |starts, part| all(part, starts)),
            Part::Alt(parts) => parts.iter().fold(0, |ends, part| ends | part.ends(text, from, known)),
            Part::Repeat(part, least, most) => {
                let mut starts = (0..*least).fold(1 << from, |starts, _| all(part, starts));
                // More often than there are characters brings nothing new.
                for _ in *least..most.unwrap_or(least + text.len()) {
                    starts |= all(part, starts);
                }
                starts
            }
        }
    }
}

fn pick(random: &mut u64, below: usize) -> usize {
    *random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    ((*random >> 33) as usize) % below
}

/// Whether the rules match the text: the least solution of their equations.
fn matches(rules: &[Part], text: &[u8]) -> bool {
    let mut known = vec![vec![0u32; text.len() + 1]; rules.len()];
    loop {
        let next: Vec<Vec<u32>> =
            rules.iter().map(|rule| (0..=text.len()).map(|from| rule.ends(text, from, &known)).collect()).collect();
        if next == known {
            return known[0][0] >> text.len() & 1 == 1;
        }
        known = next;
    }
}

#[test]
fn random_grammars_accept_what_their_rules_derive() {
    let texts: Vec<String> = (0..=5u32)
        .flat_map(|length| {
            (0..3usize.pow(length))
                .map(move |i| (0..length).map(|at| ['a', 'b', 'c'][i / 3usize.pow(at) % 3]).collect::<String>())
        })
        .collect();
    let (mut random, mut compiled, mut accepted) = (16, 0, 0);
    for _ in 0..400 {
        let rules: Vec<Part> = (0..3).map(|_| Part::random(&mut random, 3, 3)).collect();
        let source: String = rules
            .iter()
            .enumerate()
            .map(|(i, rule)| format!("{} ::= {}\n", Part::Rule(i).gbnf(), rule.gbnf()))
            .collect();
        let expected: Vec<bool> = texts.iter().map(|text| matches(&rules, text.as_bytes())).collect();
        let grammar = match Grammar::gbnf(&source, &TOKENIZER) {
            Ok(grammar) => grammar,
            Err(error) => {
                assert!(error.to_string().contains("matches no text"), "{source}: {error}");
                assert!(!expected.contains(&true), "{source}: {error}");
                continue;
            }
        };
        compiled += 1;
        accepted += expected.iter().filter(|&&is_accepted| is_accepted).count();
        for (text, &expected) in texts.iter().zip(&expected) {
            assert_eq!(accepts(&grammar, text), expected, "{text:?} under\n{source}");
        }
    }
    assert!(compiled > 200 && accepted > 1000, "{compiled} grammars accept {accepted} texts");
}

#[test]
fn tokens_are_named_by_number_and_by_text() {
    let think = TOKENIZER.find("<|reserved_special_token_0|>").unwrap();
    let plain = TOKENIZER.encode("fn", EncodeOptions::default()).unwrap()[0];
    let text = |text: &str| TOKENIZER.encode(text, EncodeOptions::default()).unwrap();
    let by_number = format!("root ::= <[{think}]> [a-z]* <[{think}]>");
    for source in [by_number.as_str(), "root ::= <|reserved_special_token_0|> [a-z]* <|reserved_special_token_0|>"] {
        let grammar = gbnf(source);
        assert!(follow(&grammar, &[&[think][..], &text("abc"), &[think]].concat()).unwrap().must_end(), "{source}");
        assert!(follow(&grammar, &[&[think][..], &text("1"), &[think]].concat()).is_none(), "{source}");
        assert!(!accepts(&grammar, "<|reserved_special_token_0|>"), "the text of a token is not the token");
    }
    let grammar = gbnf(&format!("root ::= !<[{think}]>+ <[{think}]>"));
    assert!(follow(&grammar, &[plain, plain, think]).unwrap().must_end());
    assert!(follow(&grammar, &[think]).is_none());
    let mut matcher = grammar.matcher().unwrap();
    assert!(matcher.mask().unwrap().tokens().all(|token| !TOKENIZER.is_eog(token)));
    // any text is no control token
    assert!(!gbnf("root ::= .*").matcher().unwrap().mask().unwrap().allows(think));
}

#[test]
fn regular_expressions_match_all_of_an_answer() {
    for (pattern, accepted, rejected) in [
        ("[a-c]+|x/y", &["abc", "x/y"][..], &["", "abd", "x"][..]),
        ("", &[""], &["a"]),
        (r"\d{3}-\d{4}", &["555-1234"], &["555-12345", "5551234"]),
        ("(?i)yes", &["yes", "YeS"], &["no"]),
        ("a\nb#c", &["a\nb#c"], &["a b"]),
    ] {
        let grammar = Grammar::regex(pattern, &TOKENIZER).unwrap();
        accepted.iter().for_each(|text| assert!(accepts(&grammar, text), "{pattern} must match {text:?}"));
        rejected.iter().for_each(|text| assert!(!accepts(&grammar, text), "{pattern} must not match {text:?}"));
    }
}

#[test]
fn lark_has_schemas_and_control_tokens_behind_plain_text() {
    let call = TOKENIZER.find("<|reserved_special_token_0|>").unwrap();
    let source = r#"
        start: TEXT | TEXT tool
        tool: <|reserved_special_token_0|> %json {"type": "object", "properties": {"name": {"const": "f"}}, "required": ["name"],
            "additionalProperties": false}
        TEXT: /(.|\n)*/
    "#;
    let grammar = Grammar::lark(source, &TOKENIZER).unwrap();
    let text = |text: &str| TOKENIZER.encode(text, EncodeOptions::default()).unwrap();
    assert!(accepts(&grammar, "plain text\n"));
    let answer = |json: &str| follow(&grammar, &[&text("First. ")[..], &[call], &text(json)].concat());
    assert!(answer("{\"name\": \"f\"}").unwrap().must_end());
    assert!(!answer("{\"name\"").unwrap().may_end());
    assert!(answer("{\"name\": \"g\"}").is_none());
}

#[test]
fn a_matcher_stays_failed() {
    let mut matcher = gbnf("root ::= \"ab\"").matcher().unwrap();
    assert!(matcher.accept(BYTES[b'b' as usize]).is_err());
    assert!(matcher.mask().is_err() && matcher.accept(BYTES[b'a' as usize]).is_err() && !matcher.must_end());
    let grammar = gbnf("root ::= \"a\"");
    let mut matcher = follow(&grammar, &[BYTES[b'a' as usize]]).unwrap();
    let end = matcher.mask().unwrap().tokens().next().unwrap();
    assert!(TOKENIZER.is_eog(end) && matcher.accept(end).is_ok() && matcher.must_end());
    assert!(matcher.accept(BYTES[b'a' as usize]).is_err());
    assert!(matcher.accept(u32::MAX).is_err());
}
