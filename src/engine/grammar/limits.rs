//! What a grammar may use: bounds of its source and of the work that it makes, so that a hostile one is an error soon.

use llguidance::api::ParserLimits;
use std::time::Duration;

/// The longest source of a grammar, regular expression or schema, in bytes.
pub(super) const SOURCE_BYTES: usize = 512 << 10;

/// The deepest nesting of groups in a grammar and of values in a schema.
pub(super) const NESTING: usize = 100;

/// The most rules of a grammar in GBNF.
pub(super) const RULES: usize = 10_000;

/// The largest number of repetitions that a grammar in GBNF may name.
pub(super) const REPETITIONS: u32 = 100_000;

/// The most members of an object in a schema that may be left out. llguidance takes four items of a step for each, of which it allows
/// `max_items_in_row`, and compiles them in more than quadratic time.
pub(super) const OPTIONAL_MEMBERS: usize = 490;

/// The most patterns of names of an object in a schema: each is compared with each.
pub(super) const NAME_PATTERNS: usize = 64;

/// The time that compiling may take. What is in use takes some milliseconds, and what is known to take long is refused before; this is for
/// what is not known, and leaves a busy machine the time for what it can compile.
pub(super) const COMPILE_TIME: Duration = Duration::from_secs(2);

/// Grammars that may be compiled at once, among them those that nobody waits for any more.
pub(super) const COMPILING: usize = 8;

/// The stack of a thread that compiles, in bytes; only what it uses takes memory.
pub(super) const STACK_BYTES: usize = 256 << 20;

/// The limits of llguidance. A step may create ten times its default of Earley items, about 25 ms of work: grammars in GBNF may be read
/// character by character.
pub(super) fn parser() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 500_000,
        max_lexer_states: 100_000,
        max_grammar_size: 500_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}
