//! Types for tensors by the size that a file may have: `--size`, `--bpw`, and recipes as files.

use super::method::Calibrated;
use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use strata::convert::TargetPlan;
use strata::io::inputs::Inputs;
use strata::io::text;
use strata::quantize::allocate::{self, Allocation, Judgement, Sensitivity, Settings};
use strata::recipe::Recipe;
use strata::size::Size;

/// How types are chosen.
#[derive(clap::Args)]
pub struct AllocateArgs {
    /// Choose the type of each tensor so that the file has at most SIZE, as 4.9GB (10^9 bytes) or 4.5GiB (2^30), and the KL divergence is least,
    /// by what each tensor costs on the calibration text
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["bpw", "recipe", "pure", "keep_split"])]
    size: Option<Size>,
    /// The same for at most so many bits per weight
    #[arg(long, value_name = "BITS", conflicts_with_all = ["recipe", "pure"], value_parser = bits_per_weight)]
    bpw: Option<f64>,
    /// With --size or --bpw only print the recipe, with the divergence that is expected
    #[arg(long, conflicts_with = "dry_run")]
    plan_only: bool,
    /// Take the type of each tensor from FILE, as --plan-only prints it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pure", "plan_only"])]
    recipe: Option<PathBuf>,
}

/// Types that are chosen, or read.
pub enum Sized {
    /// For a file of at most so many bytes.
    Bytes(u64),
    /// For at most so many bits per weight.
    Bits(f64),
    /// Those of a file.
    Listed(PathBuf),
}

impl Sized {
    /// What it is called in names of files.
    pub fn label(&self) -> String {
        match self {
            Sized::Bytes(bytes) => format!("{:.2}GB", *bytes as f64 / 1e9),
            Sized::Bits(bits) => format!("{bits}bpw"),
            Sized::Listed(path) => {
                path.file_stem().map_or_else(|| "recipe".into(), |stem| stem.to_string_lossy().into_owned())
            }
        }
    }
}

fn bits_per_weight(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(bits) if (1.0..=32.0).contains(&bits) => Ok(bits),
        _ => bail!("must be a number from 1 to 32"),
    }
}

/// The files and tensors that a recipe would make.
type PlanOf<'p> = dyn Fn(Recipe) -> Result<TargetPlan> + 'p;

impl AllocateArgs {
    /// What was asked for.
    pub fn wanted(&self) -> Result<Option<Sized>> {
        let size = self.size.map(|size| Sized::Bytes(size.bytes())).or(self.bpw.map(Sized::Bits));
        if size.is_none() && self.plan_only {
            bail!("--plan-only plans for --size or --bpw; add one");
        }
        Ok(size.or_else(|| self.recipe.clone().map(Sized::Listed)))
    }

    /// Whether types are chosen by what tensors cost.
    pub fn chooses(&self) -> bool {
        self.size.is_some() || self.bpw.is_some()
    }

    /// The files that are read.
    pub fn inputs(&self, inputs: &mut Inputs) {
        self.recipe.iter().for_each(|path| inputs.add(path, "the recipe"));
    }

    /// The recipe; `None` if it was only to be printed. `plan` says what one would make.
    pub fn recipe(
        &self,
        wanted: &Sized,
        path: &Path,
        calibrated: Option<&Calibrated>,
        importance: Option<&BTreeMap<String, Vec<f32>>>,
        plan: &PlanOf<'_>,
    ) -> Result<Option<Recipe>> {
        let limit = match (wanted, calibrated) {
            (Sized::Listed(file), _) => {
                let lines = text::read(file, text::LIST, &Shown::new(Unit::Bytes))?;
                return Ok(Some(allocate::parse(file, &lines)?));
            }
            (Sized::Bytes(bytes), _) => Limit::File(*bytes),
            (Sized::Bits(bits), _) => Limit::Bits(*bits),
        };
        let Some(Calibrated { model, text, spill, feedback, .. }) = calibrated else {
            bail!("types are chosen by a calibration text")
        };
        let progress = Shown::new(Unit::Tokens);
        let (importance, spill) = (importance.cloned(), spill.clone());
        let settings = Settings { importance, feedback: *feedback, spill, state: Some(state_of(path)) };
        // A plan of any mix tells what is neither matrix nor chosen.
        let first = limit.matrices(&plan(Recipe::pure(strata::GgmlType::Q8_0)?)?, |name| {
            strata::arch::weight(name).is_some_and(|named| named.spec.is_matrix())
        });
        let tensors = allocate::estimate(model, text, first, &settings, &progress)?;
        let allocation = limit.allocate(&tensors, plan)?;
        let judged = allocate::judge(model, text, &allocation, &settings, &progress)?;
        let said = facts(&allocation, &plan(allocation.recipe.clone())?, judged.as_ref());
        if self.plan_only {
            output::print_lines(&allocate::listing(&allocation, &said))?;
            return Ok(None);
        }
        said.iter().for_each(|line| output::say(line));
        Ok(Some(match judged.and_then(|judged| Some((judged.kld, judged.mix?))) {
            Some((kld, (mix, _, of_mix))) if of_mix < kld => {
                output::warn(&format!("{} is better on the held-out part, and is taken", mix.name));
                Recipe::new(mix)
            }
            _ => allocation.recipe,
        }))
    }
}

/// What a file may have.
#[derive(Clone, Copy)]
enum Limit {
    File(u64),
    Bits(f64),
}

impl Limit {
    /// The bytes that are left for matrices, of which a plan has some.
    fn matrices(self, plan: &TargetPlan, is_matrix: impl Fn(&str) -> bool) -> u64 {
        let matrices: u64 =
            plan.tensors.iter().filter(|tensor| is_matrix(&tensor.name)).map(|tensor| tensor.bytes_to).sum();
        let (used, limit) = self.used(plan);
        (limit + matrices).saturating_sub(used)
    }

    /// What a plan has of what is limited, and the limit; in bytes.
    fn used(self, plan: &TargetPlan) -> (u64, u64) {
        match self {
            Limit::File(bytes) => (plan.files.iter().map(|(_, bytes)| bytes).sum(), bytes),
            Limit::Bits(bits) => {
                let weights: u64 = plan.tensors.iter().map(|tensor| tensor.dims.iter().product::<u64>()).sum();
                (plan.tensors.iter().map(|tensor| tensor.bytes_to).sum(), (weights as f64 * bits / 8.0) as u64)
            }
        }
    }

    /// The best allocation that a plan shows to keep the limit: metadata has the recipe, and so differs with it.
    fn allocate(self, tensors: &[Sensitivity], plan: &PlanOf<'_>) -> Result<Allocation> {
        let names: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let least = allocate::least_bytes(tensors);
        let too_small = |plan: &TargetPlan| {
            let (used, limit) = self.used(plan);
            match self {
                Limit::File(_) => {
                    format!("{limit} bytes are too few: with the smallest types it is {used}; give a larger --size")
                }
                Limit::Bits(bits) => format!(
                    "{bits} bits per weight are too few; give {:.3} or more",
                    bits * used as f64 / limit.max(1) as f64
                ),
            }
        };
        let smallest = allocate::allocate(tensors, least).map(|all| plan(all.recipe)).transpose()?;
        let Some(smallest) = smallest else { bail!("no tensor has a type to choose") };
        let mut budget = self.matrices(&smallest, |name| names.contains(name));
        loop {
            let Some(allocation) = allocate::allocate(tensors, budget) else { bail!("{}", too_small(&smallest)) };
            let (used, limit) = self.used(&plan(allocation.recipe.clone())?);
            if used <= limit {
                return Ok(allocation);
            }
            budget = budget.saturating_sub(used - limit);
        }
    }
}

/// What there is to say about an allocation.
fn facts(allocation: &Allocation, plan: &TargetPlan, judged: Option<&Judgement>) -> Vec<String> {
    let (file, data) = (
        plan.files.iter().map(|(_, bytes)| bytes).sum(),
        plan.tensors.iter().map(|tensor| tensor.bytes_to).sum::<u64>(),
    );
    let weights: u64 = plan.tensors.iter().map(|tensor| tensor.dims.iter().product::<u64>()).sum();
    let bits = data as f64 * 8.0 / weights.max(1) as f64;
    let mut lines = vec![
        format!("{}, {bits:.4} bits per weight", output::bytes(file)),
        format!("expected mean KL divergence {:.5} nats", allocation.kld),
    ];
    if let Some(Judgement { kld, mix }) = judged {
        let beside = mix.map_or_else(String::new, |(mix, bytes, kld)| {
            format!(
                "; {} with {} of matrices instead of {}: {kld:.5}",
                mix.name,
                output::bytes(bytes),
                output::bytes(allocation.bytes)
            )
        });
        lines.push(format!("by rounding, on the held-out part of the calibration {kld:.5}{beside}"));
    }
    lines
}

/// The folder for the state of an interrupted estimate, whose file is named by all that decides it: that of the output.
fn state_of(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
}
