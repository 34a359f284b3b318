//! How models are loaded to answer requests, as options: those that `serve` and `batch` share.

use super::chat_template::ChatTemplateArgs;
use super::habits::QuietArgs;
use super::lora::LoraArgs;
use super::model::{CacheArgs, CpuArgs, RamArgs};
use super::prefix_cache::PrefixCacheArgs;
use crate::serve::settings::LoadSettings;
use anyhow::Result;

/// How models are loaded.
#[derive(clap::Args)]
pub struct ServingArgs {
    #[command(flatten)]
    pub template: ChatTemplateArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    prefix_cache: PrefixCacheArgs,
    #[command(flatten)]
    ram: RamArgs,
    #[command(flatten)]
    lora: LoraArgs,
    #[command(flatten)]
    quiet: QuietArgs,
}

impl ServingArgs {
    /// All of it that decides an answer.
    pub fn decides(&self) -> Result<String> {
        let types = self.cache.types();
        let adapters: String = self.lora.open()?.iter().map(|one| format!(" {}", one.identity())).collect();
        Ok(format!("{} {} {}{adapters}", types.k, types.v, self.template.decides()?))
    }

    /// The settings of models with so many `slots` of `context` tokens, and `batch` tokens of prompts in a pass. What is wrong for every
    /// model is said here, before anybody waits for one.
    pub fn settings(&self, slots: usize, context: Option<usize>, batch: usize) -> Result<LoadSettings> {
        drop(self.cpu.cpu()?);
        drop(self.template.given()?);
        Ok(LoadSettings {
            budget: self.ram.budget()?,
            read: self.ram.options(),
            cpu: self.cpu.clone(),
            slots,
            context,
            types: self.cache.types(),
            idle: None,
            template: self.template.clone(),
            adapters: self.lora.open()?,
            batch: self.cpu.habits.batch(batch),
            prefix_cache: self.prefix_cache.clone(),
        })
    }
}
