//! Anthropic's API: messages, and their tokens.

mod input;
pub mod messages;
mod stream;
