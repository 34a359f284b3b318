//! Products of values in memory, on one thread: for work that other threads share out otherwise. All sums have a fixed order.

use strata_kernels::{Cpu, Isa, Matrix};
use strata_quant::float::sum16;
use strata_quant::{Activations, GgmlType};

/// A processor of one thread, with buffers.
pub struct Product {
    cpu: Cpu,
    w: Vec<u8>,
    x: Activations,
}

impl Product {
    /// A processor with that instruction set.
    pub fn new(isa: Isa) -> Product {
        Product { cpu: Cpu::new(isa, 1), w: Vec::new(), x: Activations::default() }
    }

    /// `y = x w^T`: `w (n, k)`, `x (m, k)`, `y (m, n)`.
    pub fn of(&mut self, w: &[f32], x: &[f32], k: usize, y: &mut Vec<f32>) {
        let (n, m) = (w.len() / k, x.len() / k);
        self.w.clear();
        self.w.extend(w.iter().flat_map(|w| w.to_le_bytes()));
        self.x.reset(m, k).copy_from_slice(x);
        y.resize(m * n, 0.0);
        let w = Matrix::new(GgmlType::F32, n, k, &self.w).expect("whole rows of F32");
        self.cpu.matmul(w, &mut self.x, y);
    }
}

/// `a . b` in 16 lanes.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let (a, b) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.0.iter().zip(b.0) {
        (0..16).for_each(|i| lanes[i] += a[i] * b[i]);
    }
    a.1.iter().zip(b.1).enumerate().for_each(|(i, (a, b))| lanes[i] += a * b);
    sum16(lanes)
}

/// The sum of values in 16 lanes.
pub fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let x = x.as_chunks::<16>();
    x.0.iter().for_each(|x| (0..16).for_each(|i| lanes[i] += x[i]));
    x.1.iter().enumerate().for_each(|(i, x)| lanes[i] += x);
    sum16(lanes)
}
