//! From the text of a template to minijinja's instructions, with Strata's operators in the place of its own.
//!
//! Before that the text is checked: minijinja descends into expressions, so their length bounds the stack that this takes. And
//! `{% generation %}` of transformers, around what an assistant says, becomes a call block, which is what it is in Jinja.

use super::budget::wrong;
use super::methods::DICT_NAMES;
use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, Value};
use std::fmt::Write;

/// The most bytes of a template; real ones have some ten thousand.
pub(super) const LONGEST: usize = 1 << 20;

/// The most parts of one tag, as names, numbers and operators; real ones have a hundred.
const MOST_TOKENS: usize = 1500;

/// The most multiplications in one tag. minijinja calculates with constants when it compiles, and compares lists that are repeated in lists
/// that are repeated: each level is up to forty times the work.
const MOST_PRODUCTS: usize = 2;

/// The most items of lists that minijinja has calculated.
const MOST_ITEMS: usize = 100_000;

/// The most branches by `elif`, which are nested in one another.
const MOST_BRANCHES: usize = 1000;

/// The stack for what passes these limits: `tests/template_bounds.rs` goes up to each.
pub(super) const STACK: usize = 32 << 20;

/// The name of the function that `{% generation %}` calls.
pub(super) const GENERATION: &str = "__generation__";

/// The syntax of transformers: the line end after a tag, and white space before one at the start of a line, are dropped.
fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

/// The text that is compiled: checked, with `{% generation %}` replaced.
pub(super) fn prepare(source: &str) -> Result<String, Error> {
    if source.len() > LONGEST {
        return Err(wrong(format!("the template has {} bytes, at most {LONGEST} are read", source.len())));
    }
    let (mut prepared, mut copied) = (String::with_capacity(source.len()), 0);
    let (mut in_tag, mut products, mut branches, mut is_statement) = (0, 0, 0, false);
    for token in tokenize(source, false, syntax()?) {
        let (token, span) = token?;
        let tag = match token {
            Token::VariableStart | Token::BlockStart => {
                (in_tag, products, is_statement) = (0, 0, matches!(token, Token::BlockStart));
                continue;
            }
            Token::Ident(name) if is_statement && in_tag == 0 => name,
            _ => "",
        };
        in_tag += 1;
        branches += usize::from(tag == "elif");
        products += usize::from(matches!(token, Token::Mul));
        for (count, most, what) in [
            (in_tag, MOST_TOKENS, "parts in a tag"),
            (products, MOST_PRODUCTS, "multiplications in a tag"),
            (branches, MOST_BRANCHES, "branches by elif"),
        ] {
            if count > most {
                return Err(wrong(format!("there are more than {most} {what} up to line {}", span.start_line)));
            }
        }
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        let replacement = match tag {
            "generation" => format!("call {GENERATION}()"),
            "endgeneration" => "endcall".to_owned(),
            _ => continue,
        };
        write!(prepared, "{}{replacement}", source.get(copied..start).unwrap_or_default()).map_err(Error::from)?;
        copied = end;
    }
    prepared.push_str(source.get(copied..).unwrap_or_default());
    Ok(prepared)
}

/// The instructions of a prepared text.
pub(super) fn compile(prepared: &str) -> Result<Instructions<'_>, Error> {
    let tree = parse(prepared, "chat template", syntax()?)?;
    let mut generator = CodeGenerator::new("chat template", prepared);
    generator.compile_stmt(&tree);
    let (instructions, _) = generator.finish();
    with_own_operators(&instructions)
}

/// The same instructions with calls of Strata's operators.
fn with_own_operators<'s>(old: &Instructions<'s>) -> Result<Instructions<'s>, Error> {
    let mut new = Instructions::new(old.name(), old.source());
    let mut moved = Vec::new(); // where each old instruction is now
    let (mut count, mut items) = (0, MOST_ITEMS);
    for at in 0.. {
        let Some(instruction) = old.get(at) else { break };
        moved.push(count);
        let line = old.get_line(at).and_then(|line| u16::try_from(line).ok()).unwrap_or(u16::MAX);
        for instruction in replacement(instruction, &mut items)? {
            count = new.add_with_line(instruction, line) + 1;
        }
    }
    moved.push(count);
    for at in 0..count {
        if let Some(
            Instruction::Jump(target)
            | Instruction::JumpIfFalse(target)
            | Instruction::JumpIfFalseOrPop(target)
            | Instruction::JumpIfTrueOrPop(target)
            | Instruction::Iterate(target)
            | Instruction::BuildMacro(_, target, _),
        ) = new.get_mut(at)
        {
            *target = *moved.get(*target as usize).ok_or_else(|| wrong("break or continue outside of a loop"))?;
        }
    }
    Ok(new)
}

/// What does the work of an instruction.
fn replacement<'s>(instruction: &Instruction<'s>, items: &mut usize) -> Result<Vec<Instruction<'s>>, Error> {
    use minijinja::machinery::Instruction as I;
    let call = |name: &'static str, operands: u16| vec![I::CallFunction(name, Some(operands))];
    let count = |operands: usize| u16::try_from(operands).map_err(|_| wrong("a list has too many items"));
    let named = |name: &'s str, operator: &'static str, operands: u16| {
        vec![I::LoadConst(Value::from(name)), I::CallFunction(operator, Some(operands))]
    };
    Ok(match instruction {
        I::LoadConst(value) => vec![I::LoadConst(eager(value, items)?)],
        I::Add => call("+", 2),
        I::Mul => call("*", 2),
        I::Rem => call("%", 2),
        I::StringConcat => call("~", 2),
        I::Eq => call("==", 2),
        I::Ne => call("!=", 2),
        I::Lt => call("<", 2),
        I::Lte => call("<=", 2),
        I::Gt => call(">", 2),
        I::Gte => call(">=", 2),
        I::In => call("x in y", 2),
        I::GetItem => call("x[i]", 2),
        I::Slice => call("x[i:j]", 4),
        I::BuildList(Some(n)) => call("[]", count(*n)?),
        I::BuildTuple(Some(n)) => call("()", count(*n)?),
        I::BuildMap(n) => call("{}", count(2 * n)?),
        I::GetAttr(name) if DICT_NAMES.contains(name) => named(name, "x.name", 2),
        I::SetAttr(name) => [named(name, "x.name = y", 3), vec![I::DiscardTop]].concat(),
        I::CallMethod(name, Some(n)) => named(name, "x.name()", count(usize::from(*n) + 1)?),
        I::PushLoop(flags) => [call("for x", 1), vec![I::PushLoop(*flags)]].concat(),
        // The result, and below it the right operand for the next comparison.
        I::CompareAndPreserve(op) => [call(CHAINED[*op as usize], 2), vec![I::UnpackList(2)]].concat(),
        I::UnpackLists(_) | I::CallMethod(_, None) => return Err(wrong("arguments by * are not supported")),
        other => vec![other.clone()],
    })
}

/// A constant with lists in place of what minijinja calculates when it is read, as `[0] * 3`. They may have `room` items.
fn eager(value: &Value, room: &mut usize) -> Result<Value, Error> {
    let (true, Ok(items)) = (matches!(value.kind(), ValueKind::Iterable | ValueKind::Seq), value.try_iter()) else {
        return Ok(value.clone());
    };
    let mut all = Vec::new();
    for item in items {
        *room =
            room.checked_sub(1).ok_or_else(|| wrong(format!("constant lists have more than {MOST_ITEMS} items")))?;
        all.push(eager(&item, room)?);
    }
    Ok(if value.is_tuple() { Value::from(Tuple::from(all)) } else { Value::from(all) })
}

/// Comparisons with another one behind them, in the order of minijinja's operators.
const CHAINED: [&str; 8] =
    ["chain ==", "chain !=", "chain <", "chain <=", "chain >", "chain >=", "chain x in y", "chain x not in y"];
