//! `strata template`: the text that a chat template makes of a conversation.

use super::chat_template::ChatTemplateArgs;
use super::model::open;
use crate::conversation::Conversation;
use crate::output;
use anyhow::Result;
use std::path::PathBuf;
use strata::engine::template::ChatInput;

/// Print the text that a chat template makes of a conversation
#[derive(clap::Args)]
pub struct Args {
    /// The model whose template and special tokens are taken: a GGUF file, or the folder of a Hugging Face checkpoint
    #[arg(short = 'm', long = "model", value_name = "FILE")]
    model: PathBuf,
    /// Messages as JSON: a list, or an object with "messages" and perhaps "tools" and "documents"; - is standard input
    #[arg(long, value_name = "FILE.json")]
    messages: PathBuf,
    /// Tools as JSON: a list, or an object with "tools"
    #[arg(long, value_name = "FILE.json")]
    tools: Option<PathBuf>,
    /// End the text with the last message, not with what begins an answer
    #[arg(long)]
    no_generation_prompt: bool,
    #[command(flatten)]
    template: ChatTemplateArgs,
}

impl Args {
    /// Prints the rendered text and nothing else.
    pub fn run(self) -> Result<()> {
        let mut conversation = Conversation::read(&self.messages)?;
        if let Some(file) = &self.tools {
            conversation.read_tools(file)?;
        }
        let template = self.template.template(&open(&self.model)?, conversation.tools.is_some())?;
        let text = template.render(&ChatInput {
            tools: conversation.tools.as_deref(),
            documents: conversation.documents.as_deref(),
            add_generation_prompt: !self.no_generation_prompt,
            variables: self.template.variables(),
            now: self.template.now(),
            ..ChatInput::of(&conversation.messages)
        })?;
        output::print(&text)
    }
}
