//! The arguments of all commands that write models, with the names of llama-quantize.

use super::allocate::{AllocateArgs, Sized};
use super::metadata_value::assignment;
use super::method::{self, Calibrated, MethodArgs};
use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value as Json, json};
use std::path::{Path, PathBuf};
use strata::convert::method::Method;
use strata::convert::{Input, Options, Split, Target, TargetPlan, convert_with, plan};
use strata::edit::Assignment;
use strata::error::printable;
use strata::gguf::Value;
use strata::gguf::shards::SplitLimit;
use strata::imatrix::{Imatrix, MAX_BYTES};
use strata::io::file::read_regular;
use strata::io::hash::Digest;
use strata::io::inputs::Inputs;
use strata::io::partial::Partial;
use strata::io::text;
use strata::recipe::{Mix, Recipe, tensor_type};
use strata::size::Size;
use strata::{Cpu, Error, GgmlType, Isa};

/// A pattern of tensor names, and the type of these tensors.
type Exception = (regex::Regex, GgmlType);

/// The recipe of a conversion.
#[derive(clap::Args)]
pub struct RecipeArgs {
    /// Every matrix in the base type, without the exceptions of the mix
    #[arg(long)]
    pure: bool,
    /// Type of the tensors whose name matches REGEX; may be given several times, the first match counts
    #[arg(long, value_name = "REGEX=TYPE", value_parser = Recipe::parse_exception)]
    tensor_type: Vec<Exception>,
    /// File or pipe of REGEX=TYPE, separated by spaces or line ends; - is standard input
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Vec<PathBuf>,
    /// Type of output.weight
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    output_tensor_type: Option<GgmlType>,
    /// Type of token_embd.weight
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    token_embedding_type: Option<GgmlType>,
    /// Leave output.weight as it is in the source
    #[arg(long)]
    leave_output_tensor: bool,
    /// Importance matrix, GGUF or .dat, made by strata calibrate or llama-imatrix
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Use the importance only of tensors with TEXT in their names
    #[arg(long, value_name = "TEXT", requires = "imatrix")]
    include_weights: Vec<String>,
    /// Use the importance of no tensor with TEXT in its name
    #[arg(long, value_name = "TEXT", requires = "imatrix", conflicts_with = "include_weights")]
    exclude_weights: Vec<String>,
    /// Set a metadata key: KEY=int:N, float:X, bool:true, str:TEXT
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = parse_override)]
    override_kv: Vec<(String, Value)>,
    /// Allow a source that is already quantized, which costs more quality than starting from the original
    #[arg(long)]
    allow_requantize: bool,
    /// Split the output into the files of the source, with the same tensors in each
    #[arg(long, conflicts_with_all = ["split_max_size", "split_max_tensors"])]
    keep_split: bool,
    /// Split the output into files with at most SIZE of tensors each, as 48G (10^9 bytes) or 4GiB (2^30)
    #[arg(long, value_name = "SIZE", conflicts_with = "split_max_tensors")]
    split_max_size: Option<Size>,
    /// Split the output into files with at most N tensors each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    split_max_tensors: Option<u32>,
    /// Put only metadata into the first of several files
    #[arg(long)]
    no_tensor_first_split: bool,
    /// Only print the planned type and size of each tensor, and the total
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The most memory for buffers, as 512M, 2G (10^9 bytes) or 2GiB (2^30) [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Threads [default: all that the system offers]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Discard what an interrupted run left, instead of resuming from there
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    allocate: AllocateArgs,
    #[command(flatten)]
    method: MethodArgs,
}

impl RecipeArgs {
    /// Takes so many threads unless --threads is given.
    pub fn threads_or(&mut self, threads: Option<u16>) {
        self.threads = self.threads.or(threads);
    }

    /// What to make: the types that were given, or what is to be allocated. `default` is taken if there is neither.
    pub fn recipes(&self, mixes: &[Mix], default: Option<Mix>) -> Result<Vec<Wanted>> {
        match (self.allocate.wanted()?, mixes, default) {
            (Some(_), [_, ..], _) => bail!("the types follow from --size, --bpw or --recipe; leave out the type"),
            (Some(sized), [], _) => Ok(vec![Wanted::Sized(sized)]),
            (None, [], Some(default)) => Ok(vec![Wanted::Mix(default)]),
            (None, [], None) => bail!("the type is missing: name one, as Q4_K_M, or give --size, --bpw or --recipe"),
            (None, mixes, _) => Ok(mixes.iter().map(|mix| Wanted::Mix(*mix)).collect()),
        }
    }

    /// Writes a file of each kind to its path, or prints its plan. `name` replaces the model's name in the source.
    pub fn make(&self, input: &Input, outputs: &[(PathBuf, Wanted)], name: Option<String>) -> Result<()> {
        let isa = Isa::from_environment().context("STRATA_ISA")?;
        let options = Options {
            name,
            memory: self.memory.map(Size::bytes),
            threads: self.threads.map(usize::from),
            isa,
            restart: self.restart,
            requantize: self.allow_requantize,
            inputs: self.inputs(),
        };
        let threads = options.threads.unwrap_or_else(strata::threads::physical_cores);
        let calibrated = self.method.prepare(input, self.allocate.chooses(), || Cpu::new(isa, threads))?;
        let importance = match (&self.imatrix, &calibrated) {
            (Some(path), _) => Some(self.importance(path)?),
            // Error feedback measures it on its way.
            (None, Some(calibrated)) if calibrated.feedback && !self.allocate.chooses() => None,
            (None, Some(calibrated)) => Some(Importance { weights: calibrated.importance()?, ..Importance::default() }),
            (None, None) => None,
        };
        let Some(targets) = self.targets(input, outputs, (calibrated.as_ref(), importance.as_ref()), &options)? else {
            return Ok(());
        };
        if self.dry_run {
            return targets.iter().try_for_each(|target| self.show_plan(input, target, &options));
        }
        let mut rounded = Vec::new();
        let mut method = calibrated.as_ref().and_then(|calibrated| calibrated.method(&mut rounded));
        let made = method.as_mut().map(|method| method as &mut Method<'_>);
        let converted = convert_with(input, &targets, &options, made, &Shown::new(Unit::Bytes));
        drop(method);
        match converted {
            Ok(reports) => {
                if !rounded.is_empty() {
                    let files: Vec<PathBuf> = reports.iter().map(|report| report.path.clone()).collect();
                    method::say(&rounded, input.path(), &files);
                }
                self.show(&reports)
            }
            Err(Error::Cancelled) => match left_over(input, &targets, &options) {
                Some(partial) => bail!("stopped; the same command resumes from {}", output::path(&partial)),
                None => Err(Error::Cancelled.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// The files to make; `None` if only a recipe was to be printed.
    fn targets(
        &self,
        input: &Input,
        outputs: &[(PathBuf, Wanted)],
        (calibrated, importance): (Option<&Calibrated>, Option<&Importance>),
        options: &Options,
    ) -> Result<Option<Vec<Target>>> {
        let listed = self.listed_types()?;
        let record: Map<String, Json> = calibrated.into_iter().flat_map(Calibrated::record).collect();
        let measures = importance.is_none() && calibrated.is_some_and(|calibrated| calibrated.feedback);
        let mut targets = Vec::new();
        for (path, wanted) in outputs {
            let target = |recipe: Recipe| {
                let mut target = self.target(path, recipe, &listed, importance);
                target.record.extend(record.clone());
                target.measures_importance = measures;
                target
            };
            let recipe = match wanted {
                Wanted::Mix(mix) => Recipe::new(*mix),
                Wanted::Sized(sized) => {
                    let weights = importance.map(|importance| &importance.weights);
                    let size = |recipe: Recipe| Ok(plan(input, &target(recipe), options)?);
                    match self.allocate.recipe(sized, path, calibrated, weights, &size)? {
                        Some(recipe) => recipe,
                        None => return Ok(None),
                    }
                }
            };
            targets.push(target(recipe));
        }
        Ok(Some(targets))
    }

    /// The files that are read beside the model.
    fn inputs(&self) -> Inputs {
        let mut inputs = Inputs::default();
        self.imatrix.iter().for_each(|path| inputs.add(path, "the importance matrix"));
        self.tensor_type_file.iter().for_each(|path| inputs.add(path, "the file of types"));
        self.allocate.inputs(&mut inputs);
        self.method.inputs(&mut inputs);
        inputs
    }

    /// Reads the exceptions of --tensor-type-file, once, since the file may be a pipe.
    fn listed_types(&self) -> Result<Vec<Exception>> {
        let mut listed = Vec::new();
        for file in &self.tensor_type_file {
            let text = text::read(file, text::LIST, &Shown::new(Unit::Bytes))?;
            for exception in text.split_whitespace() {
                listed.push(Recipe::parse_exception(exception).with_context(|| output::path(file))?);
            }
        }
        Ok(listed)
    }

    fn target(&self, path: &Path, mut recipe: Recipe, listed: &[Exception], importance: Option<&Importance>) -> Target {
        recipe.pure = self.pure;
        recipe.leave_output = self.leave_output_tensor;
        recipe.output = self.output_tensor_type;
        recipe.embedding = self.token_embedding_type;
        recipe.tensor_types.clone_from(&self.tensor_type);
        recipe.tensor_types.extend_from_slice(listed);
        let mut target = Target::new(path, recipe);
        target.split = match (self.keep_split, self.split_max_size, self.split_max_tensors) {
            (true, ..) => Split::AsSource,
            (_, Some(size), _) => Split::Limit(SplitLimit::Bytes(size.bytes()), self.no_tensor_first_split),
            (_, _, Some(n)) => Split::Limit(SplitLimit::Tensors(n as usize), self.no_tensor_first_split),
            _ => Split::Whole,
        };
        if let Some(importance) = importance {
            target.importance = Some(importance.weights.clone());
            target.importance_file.clone_from(&self.imatrix);
            target.metadata.clone_from(&importance.metadata);
            target.record.clone_from(&importance.record);
        }
        target.metadata.extend(self.override_kv.iter().cloned());
        target
    }

    fn importance(&self, path: &Path) -> Result<Importance> {
        let bytes = read_regular(path, MAX_BYTES)?;
        let digest = Digest::of(&bytes);
        let mut matrix = Imatrix::parse(path, bytes)?;
        if !self.include_weights.is_empty() {
            matrix.include(&self.include_weights);
        }
        matrix.exclude(&self.exclude_weights);
        matrix.notes().iter().for_each(|note| output::warn(note));
        // llama-quantize's keys.
        let mut metadata = vec![("quantize.imatrix.file".to_owned(), path.display().to_string().into())];
        if let Some(dataset) = matrix.datasets.first() {
            metadata.push(("quantize.imatrix.dataset".to_owned(), dataset.as_str().into()));
        }
        metadata.push(("quantize.imatrix.entries_count".to_owned(), (matrix.entries.len() as u32).into()));
        if matrix.chunk_count > 0 {
            metadata.push(("quantize.imatrix.chunks_count".to_owned(), matrix.chunk_count.into()));
        }
        let mut record = Map::new();
        record.insert("imatrix_sha256".to_owned(), digest.to_string().into());
        for (key, parts) in [("include_weights", &self.include_weights), ("exclude_weights", &self.exclude_weights)] {
            if !parts.is_empty() {
                record.insert(key.to_owned(), parts.clone().into());
            }
        }
        let weights = matrix.entries.keys().filter_map(|name| Some((name.clone(), matrix.weights(name)?))).collect();
        Ok(Importance { weights, metadata, record })
    }

    fn show(&self, reports: &[strata::convert::Report]) -> Result<()> {
        if self.json {
            let report = |report: &strata::convert::Report| {
                json!({
                    "path": report.path.display().to_string(), "files": report.files, "tensors": report.tensors,
                    "weights": report.weights, "bytes": report.bytes, "bits_per_weight": report.bits_per_weight,
                    "resumed_tensors": report.resumed,
                })
            };
            return output::print_json(&reports.iter().map(report).collect::<Json>());
        }
        for report in reports {
            let resumed = match report.resumed {
                0 => String::new(),
                n => format!(" ({n} of them by an earlier run)"),
            };
            let files = match report.files {
                1 => String::new(),
                n => format!(" and {} more files", n - 1),
            };
            output::print_lines(&format!(
                "{}{files}: {} tensors{resumed}, {}, {:.3} bits per weight\n",
                output::path(&report.path),
                report.tensors,
                output::bytes(report.bytes),
                report.bits_per_weight
            ))?;
        }
        Ok(())
    }

    fn show_plan(&self, input: &Input, target: &Target, options: &Options) -> Result<()> {
        let TargetPlan { tensors, files } = plan(input, target, options)?;
        let bits = |weights: u64, bytes: u64| bytes as f64 * 8.0 / weights.max(1) as f64;
        let weights = |dims: &[u64]| dims.iter().product::<u64>();
        let total: u64 = tensors.iter().map(|tensor| weights(&tensor.dims)).sum();
        let data: u64 = tensors.iter().map(|tensor| tensor.bytes_to).sum();
        if self.json {
            let tensor = |tensor: &strata::convert::TensorPlan| {
                json!({
                    "name": tensor.name, "shape": tensor.dims, "from": tensor.from, "bytes_from": tensor.bytes_from,
                    "to": tensor.to.name(), "bytes_to": tensor.bytes_to,
                    "bits_per_weight": bits(weights(&tensor.dims), tensor.bytes_to),
                })
            };
            return output::print_json(&json!({
                "type": target.recipe.mix.name, "weights": total, "bits_per_weight": bits(total, data),
                "files": files.iter().map(|(path, bytes)| json!({"path": path.display().to_string(), "bytes": bytes}))
                    .collect::<Json>(),
                "tensors": tensors.iter().map(tensor).collect::<Json>(),
            }));
        }
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["tensor", "shape", "from", "size", "to", "size", "bits per weight"]);
        for i in [1, 3, 5, 6] {
            if let Some(column) = table.column_mut(i) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for tensor in &tensors {
            table.add_row([
                printable(&tensor.name).into_owned(),
                tensor.dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" x "),
                tensor.from.clone(),
                output::bytes(tensor.bytes_from),
                tensor.to.name().to_owned(),
                output::bytes(tensor.bytes_to),
                format!("{:.3}", bits(weights(&tensor.dims), tensor.bytes_to)),
            ]);
        }
        let mut text = format!("{table}\n");
        for (path, bytes) in &files {
            text += &format!("{}: {}\n", output::path(path), output::bytes(*bytes));
        }
        let all = output::bytes(files.iter().map(|(_, bytes)| bytes).sum());
        text += &format!(
            "{}: {} tensors, {all}, {:.3} bits per weight\n",
            target.recipe.mix.name,
            tensors.len(),
            bits(total, data)
        );
        output::print_lines(&text)
    }
}

/// An importance matrix, prepared for the targets.
#[derive(Default)]
struct Importance {
    weights: std::collections::BTreeMap<String, Vec<f32>>,
    metadata: Vec<(String, Value)>,
    record: Map<String, Json>,
}

/// The first `.partial` from which a stopped run can be resumed.
fn left_over(input: &Input, targets: &[Target], options: &Options) -> Option<PathBuf> {
    let plans = targets.iter().filter_map(|target| plan(input, target, options).ok());
    plans.flat_map(|plan| plan.files).map(|(path, _)| Partial::path_for(&path)).find(|partial| partial.exists())
}

/// `KEY=TYPE:VALUE`, as llama-quantize takes it: integers become unsigned where they can. A float must fit 32 bits.
fn parse_override(text: &str) -> Result<(String, Value)> {
    const LONGEST_KEY: usize = 65535;
    let Assignment { key, value, .. } = assignment(text)?;
    let ty = text[key.len() + 1..].split(':').next().unwrap_or_default();
    if !["int", "float", "bool", "str"].contains(&ty) {
        bail!("there is no type {ty:?}; use int, float, bool or str");
    }
    if matches!(value, Value::U64(_)) {
        bail!("is no integer of 64 bits with a sign");
    }
    if key.len() > LONGEST_KEY {
        bail!("the key has {} bytes, GGUF allows {LONGEST_KEY}", key.len());
    }
    Ok((key, value))
}

/// A file to make.
pub enum Wanted {
    /// Of this mix.
    Mix(Mix),
    /// With types that are chosen, or read.
    Sized(Sized),
}

impl Wanted {
    /// What it is called in names of files.
    fn label(&self) -> String {
        match self {
            Wanted::Mix(mix) => mix.name.to_owned(),
            Wanted::Sized(sized) => sized.label(),
        }
    }
}

/// The output path of each file: `-o` is a file if there is one, else a folder or a name with `{type}` in it.
pub fn output_paths(given: Option<PathBuf>, input: &Input, wanted: &[Wanted]) -> Result<Vec<PathBuf>> {
    let (name, labels) = (input.name(), wanted.iter().map(Wanted::label));
    let in_folder =
        |folder: PathBuf| labels.clone().map(|label| folder.join(format!("{name}-{label}.gguf"))).collect::<Vec<_>>();
    let Some(given) = given else { return Ok(in_folder(PathBuf::new())) };
    if let Some(template) = given.to_str().filter(|text| text.contains("{type}")) {
        return Ok(labels.map(|label| template.replace("{type}", &label).into()).collect());
    }
    match wanted.len() {
        1 if !given.is_dir() => Ok(vec![given]),
        _ if given.is_dir() => Ok(in_folder(given)),
        n => bail!("{} cannot be {n} files: name a folder, or put {{type}} into the name", output::path(&given)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides() {
        assert_eq!(parse_override("a.b=int:-3").unwrap(), ("a.b".to_owned(), (-3i32).into()));
        assert_eq!(parse_override("a=int:4000000000").unwrap().1, 4_000_000_000u32.into());
        assert_eq!(parse_override("a=str:x=y:z").unwrap().1, "x=y:z".into());
        assert_eq!(parse_override("a=bool:false").unwrap().1, false.into());
        assert_eq!(parse_override("a=float:1e-5").unwrap().1, 1e-5f32.into());
        assert_eq!(parse_override("a=float:-0").unwrap().1, (-0f32).into());
        let long = format!("{}=int:3", "a".repeat(65536));
        let wrong = ["", "a", "a=3", "=int:3", "a=int:x", "a=int:", "a=int:9223372036854775808", "a=bool:1", "a=u8:1"];
        let no_floats = ["a=float:nan", "a=float:inf", "a=float:-inf", "a=float:1e60", "a=float:1e-60", "a=float:"];
        for text in wrong.into_iter().chain(no_floats).chain([long.as_str()]) {
            assert!(parse_override(text).is_err(), "{text}");
        }
    }
}
