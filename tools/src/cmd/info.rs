//! `strata info`: the processor, its instruction sets, and the supported types.

use super::model::CpuArgs;
use crate::{machine, output};
use anyhow::Result;
use serde_json::json;
use strata::GgmlType;
use strata::Isa;
use strata::recipe::Mix;

/// Show this machine's instruction sets and the tensor types that can be run
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    cpu: CpuArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Prints the machine and the supported types.
    pub fn run(self) -> Result<()> {
        let cpu = self.cpu.cpu()?;
        let available: Vec<_> = Isa::available().map(Isa::name).collect();
        let types: Vec<_> = GgmlType::with_format().map(|format| format.ty.name()).collect();
        let mixes: Vec<_> = Mix::ALL.iter().map(|mix| mix.name).collect();
        if self.json {
            return output::print_json(&json!({
                "cpu": machine::cpu_name(), "isa": cpu.isa().name(), "available": available, "threads": cpu.threads(),
                "types": types, "mixes": mixes,
            }));
        }
        output::print_lines(&format!(
            "processor        {}\ninstruction set  {} (of {}; STRATA_ISA chooses)\nthreads          {}\ntensor types     {}\nmixes            {}\n",
            machine::cpu_name(),
            cpu.isa().name(),
            available.join(", "),
            cpu.threads(),
            types.join(" "),
            mixes.join(" ")
        ))
    }
}
