//! An allocation as people and programs read it: a line for each tensor, comments after `#`.
//!
//! ```text
//! # predicted mean KL divergence 0.03120 nats
//! file_type=Q4_K_M
//! blk.0.attn_q.weight=Q5_K # 0.000123
//! ```

use super::Allocation;
use crate::error::{Error, Result, quoted};
use crate::recipe::{Mix, Recipe, tensor_type};
use std::fmt::Write;
use std::path::Path;

/// The key of the line with the mix: what most weights are of, and what tensors that are not listed become.
const FILE_TYPE: &str = "file_type";

/// The lines of an allocation, after these comments.
pub fn listing(allocation: &Allocation, comments: &[String]) -> String {
    let mut text: String = comments.iter().map(|comment| format!("# {comment}\n")).collect();
    let _ = writeln!(text, "{FILE_TYPE}={}", allocation.recipe.mix.name); // a String takes all
    for (name, ty, kld) in &allocation.tensors {
        let _ = writeln!(text, "{name}={ty} # {kld:.6}");
    }
    text
}

/// The recipe that a listing is of; `path` is where it is from.
///
/// # Errors
/// If a line is none of a listing, a type cannot be written, or a name comes twice.
pub fn parse(path: &Path, text: &str) -> Result<Recipe> {
    let mut recipe = None;
    let mut types = std::collections::BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let bad = |problem: String| {
            Error::invalid(
                path,
                format!("line {}", number + 1),
                problem,
                "lines are NAME=TYPE, and one is file_type=MIX",
            )
        };
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (name, ty) = line.split_once('=').ok_or_else(|| bad(format!("{} has no =", quoted(line))))?;
        let twice = if name == FILE_TYPE {
            recipe.replace(Recipe::new(Mix::from_name(ty).map_err(|error| bad(error.to_string()))?)).is_some()
        } else {
            let ty = tensor_type(ty).map_err(|error| bad(error.to_string()))?;
            types.insert(name.to_owned(), ty).is_some()
        };
        if twice {
            return Err(bad(format!("{} comes twice", quoted(name))));
        }
    }
    let recipe = recipe.filter(|recipe| recipe.mix.base.block_len() > 1).ok_or_else(|| {
        let problem = format!("has no line {FILE_TYPE}=MIX with a quantized type");
        Error::invalid(path, "recipe", problem, "make one by planning with a size, or add the line")
    })?;
    Ok(Recipe { by_name: types, ..recipe })
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_quant::GgmlType;

    #[test]
    fn a_listing_is_read_back() {
        let path = Path::new("r");
        let tensors = vec![("a.weight".to_owned(), GgmlType::Q5_0, 0.25), ("b.weight".to_owned(), GgmlType::BF16, 0.0)];
        let by_name = tensors.iter().map(|(name, ty, _)| (name.clone(), *ty)).collect();
        let recipe = Recipe { by_name, ..Recipe::new(Mix::from_name("Q4_K").unwrap()) };
        let text = listing(&Allocation { recipe, bytes: 1, kld: 0.25, tensors }, &["x".to_owned()]);
        assert_eq!(text, "# x\nfile_type=Q4_K_M\na.weight=Q5_0 # 0.250000\nb.weight=BF16 # 0.000000\n");
        let read = parse(path, &text).unwrap();
        assert_eq!((read.mix.name, read.by_name.len(), read.by_name["a.weight"]), ("Q4_K_M", 2, GgmlType::Q5_0));
        for wrong in [
            "",
            "a=Q4_0",
            "file_type=F16",
            "file_type=Q4_0\nfile_type=Q4_0",
            "file_type=Q4_0\na",
            "file_type=Q4_0\na=Q9",
            "file_type=Q4_0\na=Q4_0\na=Q4_0",
        ] {
            assert!(parse(path, wrong).is_err(), "{wrong}");
        }
    }
}
