//! What a model makes of a text.
//!
//! * [`perplexity`]: how well it predicts the text;
//! * [`calibrate`]: which columns of its weights the text needs most.

pub mod calibrate;
pub mod compare;
pub mod perplexity;
