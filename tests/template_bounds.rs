//! A template is hostile input: none takes more memory or stack than the bounds say, or more steps than the fuel.

use serde_json::json;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use strata::engine::template::{ChatInput, ChatTemplate};

/// The system's allocator, which knows the most bytes that were in use.
struct Watching;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    PEAK.fetch_max(IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// The most bytes of a rendering: three times what 2^21 units of fuel pay for, since a buffer that grows has its old and its new room.
const BOUND: usize = 3 * (128 << 20);

fn render(source: &str) -> strata::Result<String> {
    let messages = [json!({"role": "user", "content": "x"})];
    ChatTemplate::new(Path::new("hostile.gguf"), "metadata", source)?.render(&ChatInput::of(&messages))
}

/// A loop that does something a hundred thousand times with variables of a namespace.
fn again(set: &str, step: &str, then: &str) -> String {
    format!("{{% set ns = namespace({set}) %}}{{% for i in range(100000) %}}{{% set {step} %}}{{% endfor %}}{then}")
}

/// Templates that would take any amount of memory or time.
fn endless() -> Vec<String> {
    let x = "{% set n = 10 ** 9 %}{% set s = messages[0].content %}";
    let million = "{% set n = 10 ** 6 %}{% set s = messages[0].content * n %}";
    let doubled = "{% set ns = namespace(l=['x'], m=['x']) %}{% for i in range(60) %}\
        {% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}";
    let mut all: Vec<String> = [
        "{{ s * n }}",
        "{{ n * s }}",
        "{{ (messages * n) | length }}",
        "{{ [s] * n }}",
        "{{ (1,) * n }}",
        "{{ s.center(n) }}",
        "{{ s.ljust(n) }}",
        "{{ s.rjust(n, 'é') }}",
        "{{ s.zfill(n) }}",
        "{{ s | center(n) }}",
        "{{ s | indent(n) ~ ('a\nb' | indent(n)) }}",
        "{{ [1, [2]] | tojson(indent=n) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (n, 1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, n) }}",
        "{{ '%.1000000000f' % 1.5 }}",
        "{{ range(n) | list }}",
        "{{ '\ta'.expandtabs(n) }}",
        "{{ [1] | slice(n) }}",
        "{{ [1] | batch(n, 2) }}",
        "{% for i in range(100000) %}{% for i in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}xxxxxxxx{% endfor %}{% endfor %}",
    ]
    .map(|use_| format!("{x}{use_}"))
    .to_vec();
    all.extend(
        [
            "{% set k = 10 ** 5 %}{{ ''.join([s] * k) }}",
            "{% set k = 10 ** 5 %}{{ ([s] * k) | join }}",
            "{{ s | replace('x', s) }}",
            "{{ s.replace('', s) }}",
            "{{ ['a'] * n | join(s) }}",
            "{% set k = 10 ** 5 %}{{ (['a'] * k) | join(s) }}",
            "{{ ('a\n' * n) | indent(s) }}",
            "{{ '%s%s%s' * n % ([s] * n) }}",
            "{% set k = 10 ** 5 %}{{ ([s] * k) | tojson }}",
            "{% set k = 10 ** 5 %}{{ ([s] * k) | string }}",
            "{% set k = 10 ** 5 %}{{ ([s] * k) ~ '' }}",
            "{% set k = 10 ** 5 %}{{ [s] * k }}",
            "{% set k = 10 ** 5 %}{{ ([s] * k) | map('upper') | list }}",
            "{% set k = 10 ** 5 %}{{ ([s] * k) | sort }}",
            "{% set k = 10 ** 5 %}{{ ([s] * k) | unique }}",
            "{% set t = messages[0].content * n %}{% for i in range(100000) %}{% set y = t == s %}{% endfor %}",
            "{% for i in range(100000) %}{% set y = 'y' in s %}{% endfor %}",
            "{% for i in range(100000) %}{% set y = s.find('y') %}{% endfor %}",
            "{% for i in range(100000) %}{% set y = s[0:] %}{% endfor %}",
            "{% for i in range(100000) %}{% set y = s.split() %}{% endfor %}",
            "{% for i in range(100000) %}{% set y = s.upper() %}{% endfor %}",
            "{% for i in range(100000) %}{% set y = s[999999] %}{% endfor %}",
        ]
        .map(|use_| format!("{million}{use_}")),
    );
    all.extend(
        [
            "{{ ns.l }}",
            "{{ ns.l ~ '' }}",
            "{{ ns.l | tojson }}",
            "{{ ns.l == ns.m }}",
            "{{ ns.l < ns.m }}",
            "{{ ns.l in [ns.m] }}",
            "{{ [ns.l].count(ns.m) }}",
            "{{ {ns.l: 1} }}",
            "{{ messages[ns.l] }}",
            "{{ '%s' % ns.l }}",
            "{{ '{}'.format(ns.l) }}",
            "{{ [ns.l] | unique }}",
            "{{ [ns.l, ns.m] | sort }}",
            "{{ ns.l | string }}",
        ]
        .map(|use_| format!("{doubled}{use_}")),
    );
    all.extend([
        again("l=[1]", "ns.l = ns.l + ns.l", "{{ ns.l | length }}"),
        again("l=[1]", "ns.l = [ns.l]", "{{ ns.l }}"),
        again("l={'a': 1}", "ns.l = {'a': ns.l}", "{{ ns.l | tojson }}"),
        again("l=[1]", "ns.l = (ns.l + ns.l) | batch(2) | list", "{{ ns.l }}"),
        again("l=[1]", "ns.l = (ns.l,)", "{{ ns.l }}"),
        again("l=[1]", "ns.l = [ns.l] | map('list') | list", "{{ ns.l }}"),
        again("l=[1]", "ns.l = dict(a=ns.l)", "{{ ns.l }}"),
        again("l=[1]", "ns.l = {'a': ns.l}.items()", "{{ ns.l }}"),
        again("l='x'", "ns.l = ns.l ~ ns.l", "{{ ns.l }}"),
        again("l='x'", "ns.l = ns.l + ns.l", "{{ ns.l }}"),
        again("l='x'", "ns.l = ns.l | replace('x', 'xx')", "{{ ns.l }}"),
        again("l=1", "ns.l = ns.l * 1000000007", ""),
        again("l=1", "ns.l = namespace(l=ns)", ""),
        again("l=1", "ns.l = ns", "{{ ns.l }}"),
        again("l=1", "ns.l = [loop]", ""),
        again("l=1", "ns.l = loop", ""),
        again("l=1", "ns.l = [ns]", ""),
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}".to_owned(),
        "{% macro a() %}{% for x in [1] %}{% for x in [1] %}{{ [a()] | join }}{% endfor %}{% endfor %}{% endmacro %}{{ a() }}".to_owned(),
        "{% macro a() %}{% call a() %}x{% endcall %}{% endmacro %}{{ a() }}".to_owned(),
        "{% macro a() %}{{ caller() }}{{ a() }}{% endmacro %}{% call a() %}{% call a() %}{% endcall %}{% endcall %}".to_owned(),
        "{% macro a(n) %}{{ a(n ~ n) }}{{ a(n) }}{% endmacro %}{{ a('x') }}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{% for x in [1] recursive %}{{ loop(loop) }}{% endfor %}".to_owned(),
        "{% macro a() %}{% generation %}{{ a() }}{% endgeneration %}{% endmacro %}{{ a() }}".to_owned(),
        "{% include 'x' %}".to_owned(),
        "{{ [[[1] * 20] * 20] * 20 == [[[1] * 20] * 20] * 20 }}".to_owned(),
        "{{ strftime_now('%9999999999d') }}".to_owned(),
        format!("{{{{ strftime_now('{}') }}}}", "%A".repeat(100_000)),
        format!("{{{{ {} }}}}", "[[1] * 40] * 40, ".repeat(1000)),
        "x".repeat(2 << 20),
    ]);
    all
}

/// A template with `n` parts that the engine descends into.
fn nested(n: usize) -> Vec<String> {
    let parts = [
        ("a", ".a"),
        ("1", "+messages"),
        ("1", "|string"),
        ("a", "()"),
        ("1", "**1"),
        ("1", " and messages"),
        ("1", " or messages"),
        ("1", "<messages"),
        ("1", " if messages else 1"),
        ("1", " is string"),
        ("1", " ~ messages"),
        ("messages", "[0:]"),
        ("messages", "[0]"),
        ("1", " in messages"),
        ("1", ".a()"),
        ("1", "+1"),
        ("'a'", "'a'"),
    ];
    let mut all: Vec<String> = parts.map(|(first, more)| format!("{{{{ {first}{} }}}}", more.repeat(n))).to_vec();
    for (open, close) in [
        ("not ", ""),
        ("-", ""),
        ("(", ")"),
        ("[", "]"),
        ("{1:", "}"),
        ("(1,", ")"),
        ("a(", ")"),
        ("a[", "]"),
        ("1 if ", " else 1"),
    ] {
        all.push(format!("{{{{ {}1{} }}}}", open.repeat(n), close.repeat(n)));
    }
    all.push(format!("{{% if 0 %}}{}{{% endif %}}", "{% elif messages %}".repeat(n)));
    all.push(format!("{{% set a{} = 1 %}}", ".a".repeat(n)));
    all.push(format!("{{% filter upper{} %}}a{{% endfilter %}}", "|upper".repeat(n)));
    all.push(format!("{{% for a{} in [] %}}{{% endfor %}}", ", a".repeat(n)));
    for (open, close) in [
        ("{% if messages %}", "{% endif %}"),
        ("{% for x in messages %}", "{% endfor %}"),
        ("{% macro a() %}", "{% endmacro %}"),
        ("{% call a() %}", "{% endcall %}"),
        ("{% with %}", "{% endwith %}"),
        ("{% set a %}", "{% endset %}"),
        ("{% generation %}", "{% endgeneration %}"),
        ("{% filter upper %}", "{% endfilter %}"),
    ] {
        all.push(open.repeat(n) + &close.repeat(n));
        all.push(open.repeat(n));
    }
    all
}

/// One test, because the peak is that of the whole process.
#[test]
fn every_template_is_bounded() {
    let check = |source: &str, must_fail: bool| {
        let shown: String = source.chars().take(300).collect();
        println!("{shown}"); // the last one, if it ends the process
        let before = IN_USE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let rendered = render(source);
        let peak = PEAK.load(Ordering::Relaxed) - before;
        assert!(peak < BOUND + 64 * source.len(), "{shown}: {peak} bytes");
        if must_fail {
            let error = rendered.expect_err(&shown).to_string();
            assert!(error.starts_with("hostile.gguf: metadata") && error.contains("; "), "{shown}: {error}");
        }
    };
    for source in endless() {
        check(&source, true);
    }
    for n in [100, 140, 700] {
        nested(n).iter().for_each(|source| check(source, false));
    }
    nested(100_000).iter().for_each(|source| check(source, true));
    // What honest templates need is far below the bounds.
    let long = json!({"role": "user", "content": "word ".repeat(1 << 20)});
    let messages = vec![long; 4];
    let source = "{% for m in messages %}{% set c = m.content | trim %}{{ '<' + m.role + '>' + c + eos }}{{ m | tojson }}{% endfor %}";
    let template = ChatTemplate::new(Path::new("long"), "t", source).unwrap().with_special("eos", "</s>");
    assert!(template.render(&ChatInput::of(&messages)).unwrap().len() > 40 << 20);
    let many: Vec<_> =
        (0..3000).map(|i| json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": "x"})).collect();
    let source = "{% for m in messages %}{% if loop.last and (messages | selectattr('role', 'eq', 'user') | list | length) > 1 %}\
        {{ m == messages[-1] }}{% endif %}{{ m.role ~ m.content.strip() }}{% endfor %}";
    assert!(ChatTemplate::new(Path::new("many"), "t", source).unwrap().render(&ChatInput::of(&many)).is_ok());
}

#[test]
fn errors_name_the_line_and_the_remedy() {
    for (source, words) in [
        (
            "a\n{{ raise_exception('Roles must alternate\u{1b}') }}",
            "metadata, line 2: refuses these messages: \"Roles must alternate",
        ),
        ("a\n\n{% if %}", "metadata, line 3: is no template"),
        ("a\n{{ x.y }}", "metadata, line 2: fails"),
        ("{{ 'a'.append(1) }}", "no method append"),
        ("{{ 1 | nothing }}", "line 1: fails"),
        (
            "\n{% for i in range(100000) %}{% for i in range(100000) %}\n{% endfor %}{% endfor %}",
            "takes more steps or memory",
        ),
    ] {
        let error = render(source).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("; ") && !error.contains('\u{1b}'), "{source}: {error}");
    }
}
