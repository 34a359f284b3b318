//! The reference and the candidates that the arguments name, within the memory that they may have.

use super::super::model::{cache_type, open};
use super::Args;
use crate::output;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::arch::Hyperparameters;
use strata::eval::compare::{Candidate, Settings, Text, Transform, attribution, need};
use strata::gguf::Gguf;
use strata::imatrix::Imatrix;
use strata::model::{CacheTypes, MemoryNeed, Model};
use strata::recipe::{Mix, Recipe};

impl Args {
    /// Opens all models within the memory that they may have. If the hidden states do not fit beside them, they are kept on disk.
    pub(super) fn open(&self, reference: Gguf, text: &Text) -> Result<(Arc<Model>, Vec<Candidate>, Settings)> {
        let of = Hyperparameters::read(&reference)?;
        let importance = self.imatrix.as_ref().map(Imatrix::open).transpose()?;
        let (mut files, mut specs, mut seen) = (vec![reference], Vec::new(), HashSet::new());
        for name in &self.candidates {
            if !seen.insert(name) {
                bail!("the candidate {name} is given twice; leave one out");
            }
            let (source, cache) = own_cache(name)?;
            let path = Path::new(source);
            let transform = if path.exists() {
                files.push(open(path)?);
                None
            } else {
                Some(self.transform(source, &files[0], &of, importance.as_ref())?)
            };
            let file = path.file_name().map_or_else(|| source.into(), |file| file.to_string_lossy());
            let name = if transform.is_some() { name.clone() } else { file.into_owned() + &name[source.len()..] };
            specs.push((name, transform, cache));
        }
        let mut settings = self.settings();
        let spilled = Settings { spill: Some(self.spill_folder()), ..settings.clone() };
        let (mut own, untouched) = (files[1..].iter(), Transform::default());
        let mut sources: Vec<(&Gguf, &Transform)> = Vec::new();
        for (_, transform, _) in &specs {
            sources.push(match transform {
                Some(transform) => (&files[0], transform),
                None => (own.next().unwrap_or(&files[0]), &untouched),
            });
        }
        let needs = [&settings, &spilled].map(|settings| self.need(&of, text, settings, &files[0], &sources));
        let [in_memory, on_disk] = needs;
        let needs = [in_memory?, on_disk?];
        let (models, place) = self.ram.load_for_one_pass(files, || self.cpu.cpu(), &needs)?;
        if place == 1 {
            settings = spilled;
            let (bytes, folder) =
                (output::bytes(needs[0].scratch.saturating_sub(needs[1].scratch)), self.spill_folder());
            output::say(&format!("hidden states in files in {}, not in memory: {bytes} less", output::path(&folder)));
        }
        let mut models = models.into_iter().map(Arc::new);
        let Some(reference) = models.next() else { bail!("there is no reference") };
        let candidate = |(name, transform, cache): (String, Option<Transform>, Option<CacheTypes>)| {
            let model = if transform.is_some() { None } else { models.next() };
            Candidate { name, model, transform: transform.unwrap_or_default(), cache }
        };
        let candidates = specs.into_iter().map(candidate).collect();
        Ok((reference, candidates, settings))
    }

    /// The memory beside the weights: of the comparison, and after it of the question which tensor costs what.
    fn need(
        &self,
        of: &Hyperparameters,
        text: &Text,
        settings: &Settings,
        reference: &Gguf,
        candidates: &[(&Gguf, &Transform)],
    ) -> Result<MemoryNeed> {
        let compare = need(of, text, settings, candidates.len())?;
        let Some(options) = self.tensors.options(settings) else { return Ok(compare) };
        let tensors = attribution::need(of, text, &options, reference, candidates)?;
        Ok(MemoryNeed { kv: compare.kv.max(tensors.kv), scratch: compare.scratch.max(tensors.scratch) })
    }

    /// The folder for hidden states: that of the state.
    fn spill_folder(&self) -> PathBuf {
        match &self.state {
            Some(path) if path.is_dir() => path.clone(),
            Some(path) => {
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
            }
            None => std::env::temp_dir(),
        }
    }

    /// What becomes of the reference's matrices for a candidate type: `q4_k_m` or `q4_k_m+imatrix`.
    fn transform(
        &self,
        name: &str,
        gguf: &Gguf,
        of: &Hyperparameters,
        importance: Option<&Imatrix>,
    ) -> Result<Transform> {
        let (ty, with) = name.strip_suffix("+imatrix").map_or((name, false), |ty| (ty, true));
        let recipe = Recipe::new(Mix::from_name(ty)?);
        let importance: Option<BTreeMap<String, Vec<f32>>> = match (with, importance) {
            (false, _) => None,
            (true, Some(matrix)) => {
                let weights = |name: &String| Some((name.clone(), matrix.weights(name)?));
                Some(matrix.entries.keys().filter_map(weights).collect())
            }
            (true, None) => bail!("{name} needs an importance matrix; give it by --imatrix"),
        };
        Ok(Transform::quantized(gguf, of, &recipe, importance, false)?)
    }
}

/// A candidate without `+kv=TYPE` or `+kv=TYPE/TYPE` at its end, and these types of keys and values.
fn own_cache(name: &str) -> Result<(&str, Option<CacheTypes>)> {
    let Some((source, types)) = name.rsplit_once("+kv=").filter(|_| !Path::new(name).exists()) else {
        return Ok((name, None));
    };
    let (k, v) = types.split_once('/').unwrap_or((types, types));
    let ty = |ty| cache_type(ty).with_context(|| format!("{ty} of the candidate {name} is no type of a KV cache"));
    Ok((source, Some(CacheTypes { k: ty(k)?, v: ty(v)? })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata::GgmlType;

    #[test]
    fn a_candidate_may_have_a_cache_of_its_own() {
        assert_eq!(own_cache("q4_k_m").unwrap(), ("q4_k_m", None));
        let both = CacheTypes::both(GgmlType::Q8_0);
        assert_eq!(own_cache("q4_k_m+imatrix+kv=q8_0").unwrap(), ("q4_k_m+imatrix", Some(both)));
        let types = CacheTypes { k: GgmlType::F16, v: GgmlType::Q8_0 };
        assert_eq!(own_cache("dir/a.gguf+kv=f16/q8_0").unwrap(), ("dir/a.gguf", Some(types)));
        assert!(own_cache("bf16+kv=q4_k").unwrap_err().to_string().contains("q4_k of the candidate"));
    }
}
