//! What is known of a candidate tensor by tensor.

use serde::Serialize;

/// The costs of a candidate's layers and tensors, weights only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attribution {
    /// The mean Kullback-Leibler divergence of the candidate with activations in F32, in nats per scored token.
    pub measured_kld: f64,
    /// The sum of the shares of all tensors: the divergence, to third order in the errors.
    pub sum_kld: f64,
    /// The sum of what all tensors cost by themselves: more than the divergence if errors make up for each other.
    pub alone_kld: f64,
    /// The relative standard error of a tensor's costs by the random probes alone; a little less where layers help each other. The sum of
    /// shares has none.
    pub sampling_error: f64,
    /// The layers, in their order.
    pub layers: Vec<LayerError>,
    /// The tensors, the most costly first.
    pub tensors: Vec<TensorCost>,
    /// Where 1 % more bytes would save most, the best first.
    pub upgrades: Vec<Upgrade>,
}

/// The error of the residual stream after a layer: the mean over tokens of `|h~ - h|^2 / |h|^2`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerError {
    /// The layer, from 0.
    pub layer: usize,
    /// Of the candidate's layer alone, fed with the reference's stream.
    pub local: f64,
    /// Of the candidate's stream.
    pub accumulated: f64,
}

/// What a tensor costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorCost {
    /// Its name.
    pub name: String,
    /// Its layer, if it is in one.
    pub layer: Option<usize>,
    /// What it is for: `attn_q`.
    pub role: &'static str,
    /// Its type in the candidate.
    #[serde(rename = "type")]
    pub ty: &'static str,
    /// Its bytes in the candidate.
    pub bytes: u64,
    /// `|W~ - W|^2 / |W|^2`
    pub weight_error: f64,
    /// `|(W~ - W) x|^2 / |V x|^2` over what it reads halfway from the reference to the candidate, where it is `V`.
    pub output_error: f64,
    /// Its share of the divergence, in nats per scored token: in proportion to what it costs by itself.
    pub kld: f64,
    /// What it costs by itself.
    pub alone_kld: f64,
    /// The divergence with this tensor alone as in the candidate, if it was measured.
    pub verified: Option<f64>,
}

/// A tensor in its next larger type.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Upgrade {
    /// Its name.
    pub name: String,
    /// Its type in the candidate.
    pub from: &'static str,
    /// The larger type.
    pub to: &'static str,
    /// The bytes that this takes more.
    pub extra_bytes: u64,
    /// What this saves of its share, in nats per scored token.
    pub saves_kld: f64,
}
