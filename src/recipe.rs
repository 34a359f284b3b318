//! Which type each tensor gets: llama-quantize's mixes, rule for rule, and the user's exceptions from them.
//!
//! A *mix* is named by its file type: `Q4_K_M` keeps most matrices in Q4_K and a chosen few in Q6_K. Source of the rules: llama-quant.cpp
//! of llama.cpp at 0c1e57098, for the architecture `llama` (facts only). Every golden file of llama-quantize has the types that these
//! rules give.

use crate::arch::{self, Hyperparameters, Role};
use crate::error::{Error, Result, quoted};
use regex::Regex;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use strata_quant::GgmlType;

/// A file type: what most weights become, and what llama.cpp calls the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// The name, as llama-quantize takes it.
    pub name: &'static str,
    /// `general.file_type`.
    pub file_type: u32,
    /// The type of every matrix that no rule singles out.
    pub base: GgmlType,
}

const fn mix(name: &'static str, file_type: u32, base: GgmlType) -> Mix {
    Mix { name, file_type, base }
}

impl Mix {
    /// Every mix, from the largest files to the smallest.
    pub const ALL: &[Mix] = &[
        mix("F32", 0, GgmlType::F32),
        mix("BF16", 32, GgmlType::BF16),
        mix("F16", 1, GgmlType::F16),
        mix("Q8_0", 7, GgmlType::Q8_0),
        mix("Q6_K", 18, GgmlType::Q6_K),
        mix("Q5_1", 9, GgmlType::Q5_1),
        mix("Q5_K_M", 17, GgmlType::Q5_K),
        mix("Q5_K_S", 16, GgmlType::Q5_K),
        mix("Q5_0", 8, GgmlType::Q5_0),
        mix("Q4_1", 3, GgmlType::Q4_1),
        mix("Q4_K_M", 15, GgmlType::Q4_K),
        mix("Q4_K_S", 14, GgmlType::Q4_K),
        mix("IQ4_NL", 25, GgmlType::IQ4_NL),
        mix("Q4_0", 2, GgmlType::Q4_0),
        mix("IQ4_XS", 30, GgmlType::IQ4_XS),
        mix("Q3_K_L", 13, GgmlType::Q3_K),
        mix("Q3_K_M", 12, GgmlType::Q3_K),
        mix("Q3_K_S", 11, GgmlType::Q3_K),
        mix("Q2_K", 10, GgmlType::Q2_K),
        mix("Q2_K_S", 21, GgmlType::Q2_K),
    ];

    /// Every tensor in the type that it has: `COPY` of llama-quantize. The file type stays that of the source.
    pub const COPY: Mix = mix("COPY", 0, GgmlType::F32);

    /// True for [`Mix::COPY`].
    pub fn is_copy(&self) -> bool {
        self.name == Mix::COPY.name
    }

    /// The mix that llama-quantize takes this text for: a name, the number of a file type, or `COPY`.
    ///
    /// # Errors
    /// As [`Mix::from_name`].
    pub fn from_quantize(text: &str) -> Result<Mix> {
        if text.eq_ignore_ascii_case(Mix::COPY.name) {
            return Ok(Mix::COPY);
        }
        let Ok(number) = text.parse::<u32>() else { return Mix::from_name(text) };
        let not_written = FILE_TYPES_NOT_WRITTEN.iter().find(|(file_type, _)| *file_type == number);
        match Mix::ALL.iter().find(|mix| mix.file_type == number) {
            Some(mix) => Ok(*mix),
            None => Mix::from_name(not_written.map_or(text, |(_, name)| name)),
        }
    }

    /// The mix with this name, in any case; `Q3_K`, `Q4_K` and `Q5_K` mean the medium one.
    ///
    /// # Errors
    /// If there is none; types of ggml that Strata cannot write are told from names that mean nothing.
    pub fn from_name(name: &str) -> Result<Mix> {
        let full = match name.to_ascii_uppercase().as_str() {
            alias @ ("Q3_K" | "Q4_K" | "Q5_K") => format!("{alias}_M"),
            other => other.to_owned(),
        };
        Mix::ALL.iter().find(|mix| mix.name == full).copied().ok_or_else(|| {
            let known: Vec<_> = Mix::ALL.iter().map(|mix| mix.name).collect();
            unknown(name, known)
        })
    }
}

/// The file types of llama.cpp that Strata names and does not write, by their numbers: llama.h's `llama_ftype`.
const FILE_TYPES_NOT_WRITTEN: [(u32, &str); 16] = [
    (19, "IQ2_XXS"),
    (20, "IQ2_XS"),
    (22, "IQ3_XS"),
    (23, "IQ3_XXS"),
    (24, "IQ1_S"),
    (26, "IQ3_S"),
    (27, "IQ3_M"),
    (28, "IQ2_S"),
    (29, "IQ2_M"),
    (31, "IQ1_M"),
    (36, "TQ1_0"),
    (37, "TQ2_0"),
    (38, "MXFP4_MOE"),
    (39, "NVFP4"),
    (40, "Q1_0"),
    (41, "Q2_0"),
];

/// The type of one tensor with this name, for the user's exceptions.
///
/// # Errors
/// If Strata cannot write it.
pub fn tensor_type(name: &str) -> Result<GgmlType> {
    match GgmlType::from_name(name) {
        Some(ty) if ty.format().is_some() => Ok(ty),
        _ => {
            let known: Vec<_> = GgmlType::with_format().map(|format| format.ty.name()).collect();
            Err(unknown(name, known))
        }
    }
}

/// Families of ggml types that Strata names and does not write.
const NOT_WRITTEN: [&str; 7] = ["IQ1_", "IQ2_", "IQ3_", "TQ", "MXFP4", "NVFP4", "Q1_"];

/// The error of a name that is no type to write: one that means nothing, or one of ggml's that Strata does not write.
fn unknown(name: &str, known: Vec<&'static str>) -> Error {
    let upper = name.to_ascii_uppercase();
    if NOT_WRITTEN.iter().any(|family| upper.starts_with(family)) || GgmlType::from_name(name).is_some() {
        let problem = format!("exists in ggml, but Strata cannot write it; choose one of {}", known.join(", "));
        Error::argument(format!("type {upper}"), problem)
    } else {
        Error::UnknownName { kind: "type", name: name.to_owned(), known }
    }
}

/// A mix and the exceptions from it.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Types of single tensors by their whole names, before all else. They count only where the mix is quantized.
    pub by_name: BTreeMap<String, GgmlType>,
    /// What most tensors become.
    pub mix: Mix,
    /// The base type for every matrix: none of the mix's rules.
    pub pure: bool,
    /// `output.weight` stays as it is in the source.
    pub leave_output: bool,
    /// The type of `output.weight`.
    pub output: Option<GgmlType>,
    /// The type of `token_embd.weight`.
    pub embedding: Option<GgmlType>,
    /// Types by name: the first pattern that is found in a tensor's name wins. They count only where the mix is quantized.
    pub tensor_types: Vec<(Regex, GgmlType)>,
}

/// What the rules look at in a tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorFacts<'a> {
    /// Its name in the GGUF file.
    pub name: &'a str,
    /// Its lengths, the fastest dimension first.
    pub dims: &'a [u64],
    /// Its type where it is not quantized: that of the source.
    pub kept: GgmlType,
}

impl Recipe {
    /// Every matrix in one type, except where rows are not a multiple of its blocks.
    ///
    /// # Errors
    /// If no file may be mostly of that type.
    pub fn pure(ty: GgmlType) -> Result<Recipe> {
        match Mix::ALL.iter().find(|mix| mix.base == ty) {
            Some(mix) => Ok(Recipe { pure: true, ..Recipe::new(*mix) }),
            None => Err(tensor_type(ty.name()).err().unwrap_or_else(|| unknown(ty.name(), Vec::new()))),
        }
    }

    /// All of it by name, for the record.
    pub fn describe(&self) -> Map<String, Json> {
        let mut all = Map::new();
        all.insert("type".to_owned(), self.mix.name.into());
        all.extend(self.pure.then(|| ("pure".to_owned(), true.into())));
        all.extend(self.leave_output.then(|| ("leave_output_tensor".to_owned(), true.into())));
        all.extend(self.output.map(|ty| ("output_tensor_type".to_owned(), ty.name().into())));
        all.extend(self.embedding.map(|ty| ("token_embedding_type".to_owned(), ty.name().into())));
        if !self.by_name.is_empty() {
            let types = self.by_name.iter().map(|(name, ty)| (name.clone(), ty.name().into()));
            all.insert("types".to_owned(), Json::Object(types.collect()));
        }
        if !self.tensor_types.is_empty() {
            let exceptions = self.tensor_types.iter().map(|(pattern, ty)| format!("{pattern}={ty}"));
            all.insert("tensor_type".to_owned(), exceptions.collect::<Vec<_>>().into());
        }
        all
    }

    /// A mix with no exceptions.
    pub fn new(mix: Mix) -> Recipe {
        let (by_name, tensor_types) = Default::default();
        Recipe { mix, by_name, pure: false, leave_output: false, output: None, embedding: None, tensor_types }
    }

    /// Parses an exception `REGEX=TYPE`. As in llama-quantize the pattern is put in lower case, as all names of tensors are.
    ///
    /// # Errors
    /// If it is not of that form, the pattern no regular expression, or the type none that Strata writes.
    pub fn parse_exception(text: &str) -> Result<(Regex, GgmlType)> {
        let bad = |why: String| Error::argument(quoted(text), why);
        // The last `=`: types have none, patterns may.
        let (pattern, ty) = text.rsplit_once('=').ok_or_else(|| bad("must be REGEX=TYPE".into()))?;
        if pattern.is_empty() {
            return Err(bad("the pattern before = is missing".into()));
        }
        let regex = Regex::new(&pattern.to_ascii_lowercase()).map_err(|error| {
            let reason = error.to_string();
            bad(format!("the pattern is not a regular expression ({})", reason.lines().last().unwrap_or_default()))
        })?;
        let ty = tensor_type(ty).map_err(|error| bad(error.to_string()))?;
        Ok((regex, ty))
    }

    /// True if llama-quantize, and so this recipe, refuses to work without an importance matrix.
    pub fn requires_importance(&self) -> bool {
        self.mix.name == "Q2_K_S"
    }

    /// True if llama-quantize refuses to make the tensor of that name one of type `ty` without importance of its own.
    pub fn requires_importance_of(&self, name: &str, ty: GgmlType) -> bool {
        use GgmlType::*;
        match ty {
            _ if !measured(name) => false,
            IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS => true,
            Q2_K => self.requires_importance(),
            _ => false,
        }
    }

    /// The type of every tensor. `importance` says whether there is an importance matrix: some rules ask.
    pub fn types(&self, model: &Hyperparameters, tensors: &[TensorFacts<'_>], importance: bool) -> Vec<GgmlType> {
        let tied = !tensors.iter().any(|tensor| role(tensor.name) == Some(Role::Output));
        let (layers, is_gqa, n_gqa) = (model.layers, model.heads != model.kv_heads, model.heads / model.kv_heads);
        let mut rules = Rules { recipe: self, layers, is_gqa, n_gqa, importance, tied, values_seen: 0, downs_seen: 0 };
        // The rules count the matrices they meet: layer by layer, whatever the order of the file.
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&i| arch::weight(tensors[i].name).and_then(|named| named.layer));
        let mut types: Vec<_> = tensors.iter().map(|tensor| tensor.kept).collect();
        for i in order {
            types[i] = rules.ty(&tensors[i]);
        }
        types
    }
}

fn role(name: &str) -> Option<Role> {
    arch::weight(name).map(|named| named.spec.role)
}

/// True for the tensors that llama-imatrix measures: the matrices of layers.
pub(crate) fn measured(name: &str) -> bool {
    !matches!(role(name), Some(Role::TokenEmbedding | Role::Output))
}

/// The state of the rules, which count matrices.
struct Rules<'a> {
    recipe: &'a Recipe,
    layers: usize,
    is_gqa: bool,
    n_gqa: usize, // query heads that share a key head
    importance: bool,
    tied: bool,
    values_seen: usize,
    downs_seen: usize,
}

impl Rules<'_> {
    fn ty(&mut self, tensor: &TensorFacts<'_>) -> GgmlType {
        let recipe = self.recipe;
        let role = role(tensor.name);
        if recipe.mix.is_copy() || !may_be_quantized(tensor) || (recipe.leave_output && role == Some(Role::Output)) {
            return tensor.kept;
        }
        let base = recipe.mix.base;
        if let Some(&ty) = recipe.by_name.get(tensor.name)
            && base.block_len() > 1
        {
            return ty_that_fits(ty, tensor.dims[0]);
        }
        match (role, recipe.embedding, recipe.output) {
            (Some(Role::TokenEmbedding), Some(ty), _) | (Some(Role::Output), _, Some(ty)) => {
                return ty_that_fits(ty, tensor.dims[0]);
            }
            _ => {}
        }
        if base.block_len() == 1 {
            return base;
        }
        let exception = recipe.tensor_types.iter().find(|(pattern, _)| pattern.is_match(tensor.name));
        let wanted = match exception {
            Some(&(_, ty)) => ty,
            None if recipe.pure => base,
            None => self.by_mix(role, tensor.dims[0]),
        };
        ty_that_fits(wanted, tensor.dims[0])
    }

    /// The mix's rule for a tensor with rows of `cols` values.
    fn by_mix(&mut self, role: Option<Role>, cols: u64) -> GgmlType {
        let mix = self.recipe.mix;
        match role {
            Some(Role::Output) => self.output(cols),
            Some(Role::TokenEmbedding) if self.tied => self.output(cols),
            Some(Role::AttnV) => {
                self.values_seen += 1;
                self.values(self.values_seen - 1)
            }
            Some(Role::FfnDown) => {
                self.downs_seen += 1;
                self.down(self.downs_seen - 1)
            }
            Some(Role::AttnOutput) => match mix.name {
                "Q2_K" => GgmlType::Q3_K,
                "Q3_K_M" => GgmlType::Q4_K,
                "Q3_K_L" => GgmlType::Q5_K,
                _ => mix.base,
            },
            _ => mix.base,
        }
    }

    /// The type of the output matrix, or of the embedding that takes its place.
    fn output(&self, cols: u64) -> GgmlType {
        let base = self.recipe.mix.base;
        match self.recipe.output {
            Some(ty) => ty,
            None if base == GgmlType::Q8_0 || !cols.is_multiple_of(base.block_len() as u64) => GgmlType::Q8_0,
            None => GgmlType::Q6_K,
        }
    }

    /// The type of the `i`-th value matrix.
    fn values(&self, i: usize) -> GgmlType {
        use GgmlType::*;
        let (mix, grouped) = (self.recipe.mix, self.n_gqa >= 4);
        let ty = match mix.name {
            "Q2_K" if grouped => Q4_K,
            "Q2_K" => Q3_K,
            "Q2_K_S" if grouped => Q4_K,
            "Q3_K_M" if i < 2 => Q5_K,
            "Q3_K_M" => Q4_K,
            "Q3_K_L" => Q5_K,
            "IQ4_NL" | "IQ4_XS" if grouped => Q5_K,
            "Q4_K_M" | "Q5_K_M" if more_bits(i, self.layers) => Q6_K,
            "Q4_K_S" if i < 4 => Q5_K,
            _ => mix.base,
        };
        // llama.cpp's rule for its model type 70B, by which it means 80 layers with shared key and value heads.
        let is_70b = self.layers == 80 && self.is_gqa;
        if is_70b && matches!(ty, Q3_K | Q4_K) { Q5_K } else { ty }
    }

    /// The type of the `i`-th down matrix.
    fn down(&self, i: usize) -> GgmlType {
        use GgmlType::*;
        let (mix, layers) = (self.recipe.mix, self.layers);
        match mix.name {
            "Q2_K" => Q3_K,
            "Q2_K_S" if i < layers / 8 => Q4_K,
            "Q3_K_M" if i < layers / 16 => Q5_K,
            "Q3_K_M" => Q4_K,
            "Q3_K_L" => Q5_K,
            "Q4_K_M" | "Q5_K_M" if more_bits(i, layers) => Q6_K,
            "Q4_K_S" if i < layers / 8 => Q5_K,
            "IQ4_NL" | "IQ4_XS" if i < layers / 8 && !self.importance => Q5_K,
            "Q4_0" if i < layers / 8 && self.importance => Q4_1,
            "Q5_0" if i < layers / 8 && self.importance => Q5_1,
            _ => mix.base,
        }
    }
}

/// Matrices called weights, except those of norms.
fn may_be_quantized(tensor: &TensorFacts<'_>) -> bool {
    // As in ggml, trailing dimensions of 1 do not count.
    let dims = tensor.dims.iter().rposition(|&d| d != 1).map_or(1, |last| last + 1);
    dims >= 2 && tensor.name.ends_with("weight") && !tensor.name.contains("_norm.weight")
}

/// The first and last eighth of the layers, and every third between.
fn more_bits(i: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    i < eighth || i >= 7 * layers / 8 || (i - eighth) % 3 == 2
}

/// `ty`, or its fallback where rows of `cols` values are not a multiple of its blocks.
fn ty_that_fits(ty: GgmlType, cols: u64) -> GgmlType {
    use GgmlType::*;
    let fits = |ty: GgmlType| cols.is_multiple_of(ty.block_len() as u64);
    if fits(ty) {
        return ty;
    }
    let smaller = match ty {
        IQ4_XS => IQ4_NL,
        Q2_K | Q3_K => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        other => other,
    };
    if fits(smaller) { smaller } else { F16 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::Preset;

    fn types(recipe: &Recipe, model: &Hyperparameters, names: &[(&str, [u64; 2])], importance: bool) -> Vec<GgmlType> {
        let tensors: Vec<_> =
            names.iter().map(|(name, dims)| TensorFacts { name, dims, kept: GgmlType::BF16 }).collect();
        recipe.types(model, &tensors, importance)
    }

    fn llama(name: &str) -> Hyperparameters {
        Preset::from_name(name).unwrap().hyperparameters
    }

    #[test]
    fn sizes_of_published_files() {
        // GB of the tensors of Llama 3.1 in each mix; quantization.md 1.5 gives them from the published files.
        let cases = [
            ("8b", [("Q8_0", 8.53), ("Q6_K", 6.59), ("Q5_K_M", 5.73), ("Q5_K_S", 5.59), ("Q4_K_M", 4.91)]),
            ("8b", [("Q4_K_S", 4.68), ("Q4_K", 4.91), ("BF16", 16.06), ("Q3_K_M", 4.01), ("q5_k", 5.73)]),
            ("70b", [("Q8_0", 74.97), ("Q6_K", 57.88), ("Q5_K_M", 49.94), ("Q4_K_M", 42.51), ("Q3_K_M", 34.26)]),
            ("405b", [("Q8_0", 431.2), ("Q6_K", 332.9), ("Q5_K_M", 286.6), ("Q4_K_M", 243.1), ("Q4_K_S", 230.5)]),
        ];
        for (name, mixes) in cases {
            let model = llama(name);
            let matrices = arch::LLAMA.all_tensors(model.layers).filter(|(spec, _)| spec.is_matrix());
            let names: Vec<_> = matrices.map(|(spec, layer)| (spec.name(layer), spec.dims(&model))).collect();
            let names: Vec<_> = names.iter().map(|(name, dims)| (name.as_str(), [dims[0], dims[1]])).collect();
            for (mix, gigabytes) in mixes {
                let recipe = Recipe::new(Mix::from_name(mix).unwrap());
                let sizes = types(&recipe, &model, &names, false);
                let bytes: usize = sizes
                    .iter()
                    .zip(&names)
                    .map(|(ty, (_, d))| ty.row_bytes(d[0] as usize).unwrap() * d[1] as usize)
                    .sum();
                let error = (bytes as f64 / 1e9 - gigabytes).abs() / gigabytes;
                assert!(error < 0.0015, "{mix} of {name}: {bytes} bytes, {gigabytes} GB");
            }
        }
    }

    #[test]
    fn exceptions_come_in_their_order() {
        let mut recipe = Recipe::new(Mix::from_name("q4_k_m").unwrap());
        for text in ["blk\\.0\\..*=Q5_K", "FFN_DOWN=q8_0", "ffn_down=q6_k"] {
            recipe.tensor_types.push(Recipe::parse_exception(text).unwrap());
        }
        let names = [
            ("blk.0.ffn_down.weight", [14336, 4096]),
            ("blk.1.ffn_down.weight", [14336, 4096]),
            ("blk.1.attn_q.weight", [4096, 4096]),
            ("blk.1.attn_norm.weight", [4096, 1]),
            ("token_embd.weight", [4096, 128256]),
        ];
        use GgmlType::*;
        assert_eq!(types(&recipe, &llama("8b"), &names, false), [Q5_K, Q8_0, Q4_K, BF16, Q6_K]);
        recipe.embedding = Some(Q4_0);
        recipe.pure = true;
        assert_eq!(types(&recipe, &llama("8b"), &names, false), [Q5_K, Q8_0, Q4_K, BF16, Q4_0]);
        assert!(Recipe::parse_exception("=q4_0").is_err());
        assert!(Recipe::parse_exception("a(=q4_0").is_err());
        assert!(Recipe::parse_exception("a").is_err());
    }

    #[test]
    fn rows_that_256_does_not_divide_fall_back() {
        use GgmlType::*;
        for (mix, wanted) in [("Q4_K_S", Q5_0), ("Q5_K_S", Q5_1), ("Q6_K", Q8_0), ("IQ4_XS", IQ4_NL), ("Q3_K_S", Q4_0)]
        {
            let recipe = Recipe::new(Mix::from_name(mix).unwrap());
            let names = [("blk.9.attn_q.weight", [96, 96]), ("blk.9.attn_k.weight", [72, 96])];
            assert_eq!(types(&recipe, &llama("8b"), &names, false), [wanted, F16], "{mix}");
        }
    }

    #[test]
    fn types_that_require_importance_do_so_tensor_by_tensor() {
        use GgmlType::*;
        let [small, q2_k] = ["Q2_K_S", "Q2_K"].map(|name| Recipe::new(Mix::from_name(name).unwrap()));
        let table = [
            (&small, "blk.0.attn_q.weight", Q2_K, true),
            (&small, "blk.0.attn_v.weight", Q4_K, false),
            (&small, "token_embd.weight", Q2_K, false),
            (&small, "output.weight", Q2_K, false),
            (&q2_k, "blk.0.attn_q.weight", Q2_K, false),
            (&q2_k, "blk.0.attn_q.weight", IQ2_XXS, true),
            (&q2_k, "blk.0.attn_q.weight", IQ1_M, true),
            (&q2_k, "blk.0.attn_q.weight", IQ3_XXS, true),
            (&q2_k, "blk.0.attn_q.weight", IQ3_S, false),
            (&q2_k, "token_embd.weight", IQ1_S, false),
        ];
        for (recipe, name, ty, wanted) in table {
            assert_eq!(recipe.requires_importance_of(name, ty), wanted, "{} {name} {ty}", recipe.mix.name);
        }
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let error = |name| Mix::from_name(name).unwrap_err().to_string();
        assert!(error("iq2_xs").contains("IQ2_XS: exists in ggml"));
        assert!(error("MXFP4").contains("exists in ggml"));
        assert!(matches!(Mix::from_name("q9_z"), Err(Error::UnknownName { kind: "type", name, .. }) if name == "q9_z"));
        assert!(tensor_type("tq1_0").unwrap_err().to_string().contains("exists in ggml"));
    }
}
