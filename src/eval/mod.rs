//! What a model makes of a text.
//!
//! * [`perplexity`]: how well it predicts the text;
//! * [`tasks`]: which answers it chooses; [`base_file`]: llama.cpp's file of the distributions of a base model;
//! * [`passes`]: its chunks through one model, for the three before;
//! * [`calibrate`]: which columns of its weights the text needs most.

pub mod base_file;
pub mod calibrate;
pub mod compare;
pub mod passes;
pub mod perplexity;
pub mod tasks;
