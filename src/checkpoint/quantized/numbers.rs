//! The small number types of quantized checkpoints: floats of 8 bits, and what scales are stored as.

use crate::checkpoint::weights::Dtype;
use safetensors::Dtype as Stored;

/// The value of each code of a float of 8 bits: sign, `8 - 1 - mantissa` bits of exponent with this bias, mantissa.
/// "FP8 Formats for Deep Learning" (Micikevicius and others, 2022), table 1. E5M2 has infinities and NaN where the exponent is all ones,
/// as IEEE 754; E4M3 only NaN, where the mantissa is all ones, too.
fn float8(mantissa_bits: u32, bias: i32, infinities: bool) -> Box<[f32; 256]> {
    let mut values = Box::new([0.0; 256]);
    for (code, value) in (0u32..).zip(values.iter_mut()) {
        let (magnitude, mantissa) = (code & 0x7f, code & ((1 << mantissa_bits) - 1));
        let exponent = (magnitude >> mantissa_bits) as i32;
        let top = 0x7f >> mantissa_bits;
        let fraction = mantissa as f32 / (1 << mantissa_bits) as f32;
        let size = match () {
            _ if infinities && exponent == top && mantissa == 0 => f32::INFINITY,
            _ if infinities && exponent == top || !infinities && magnitude == 0x7f => f32::NAN,
            _ if exponent == 0 => fraction * power_of_two(1 - bias),
            _ => (1.0 + fraction) * power_of_two(exponent - bias),
        };
        *value = if code > 0x7f { -size } else { size };
    }
    values
}

/// 2 to the power of `exponent`, from -126 to 127.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// A float of 8 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Float8 {
    /// Four bits of exponent, three of mantissa, as E4M3FN.
    E4M3,
    /// Five bits of exponent, two of mantissa.
    E5M2,
}

impl Float8 {
    /// The float that a tensor has.
    pub fn of(dtype: Dtype) -> Option<Float8> {
        match dtype {
            Dtype::Other(Stored::F8_E4M3) => Some(Float8::E4M3),
            Dtype::Other(Stored::F8_E5M2) => Some(Float8::E5M2),
            _ => None,
        }
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Float8::E4M3 => "FP8 E4M3",
            Float8::E5M2 => "FP8 E5M2",
        }
    }

    /// The value of each code.
    pub fn values(self) -> Box<[f32; 256]> {
        match self {
            Float8::E4M3 => float8(3, 7, false),
            Float8::E5M2 => float8(2, 15, true),
        }
    }
}

/// The number types that scales have.
pub const SCALES: &[Dtype] = &[Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::Other(Stored::F8_E8M0)];

/// Reads numbers of one of the types of [`SCALES`].
#[derive(Clone, Copy)]
pub struct Floats(Dtype);

impl Floats {
    /// A reader of numbers of this type, if it is of those.
    pub fn of(dtype: Dtype) -> Option<Floats> {
        SCALES.contains(&dtype).then_some(Floats(dtype))
    }

    /// The numbers in `bytes`, exactly. E8M0 is a power of two without a sign, 255 NaN: OCP Microscaling Formats, section 5.4.1.
    pub fn values(self, bytes: &[u8]) -> Vec<f32> {
        let plain = |ty: strata_quant::GgmlType| {
            let mut values = vec![0.0; bytes.len() / ty.block_bytes()];
            let format = ty.format().expect("plain floats can be decoded");
            (format.decode)(bytes, &mut values);
            values
        };
        match self.0.ggml() {
            Some(ty) => plain(ty),
            None => bytes.iter().map(|&code| exponent8(code)).collect(),
        }
    }
}

/// The value of a code of E8M0.
fn exponent8(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22), // 2^-127, which is subnormal
        255 => f32::NAN,
        _ => power_of_two(i32::from(code) - 127),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_8_bits_have_the_values_of_their_definition() {
        let (e4m3, e5m2) = (Float8::E4M3.values(), Float8::E5M2.values());
        for (code, value) in
            [(0x00, 0.0), (0x01, 0.001953125), (0x08, 0.015625), (0x38, 1.0), (0x7e, 448.0), (0xfe, -448.0)]
        {
            assert_eq!(e4m3[code], value, "{code:x}");
        }
        for (code, value) in
            [(0x01, 2f32.powi(-16)), (0x04, 2f32.powi(-14)), (0x3c, 1.0), (0x7b, 57344.0), (0xfc, f32::NEG_INFINITY)]
        {
            assert_eq!(e5m2[code], value, "{code:x}");
        }
        assert!(e4m3[0x80].to_bits() == (-0f32).to_bits() && e5m2[0x80].to_bits() == (-0f32).to_bits());
        let nan = |values: &[f32]| (0..256).filter(|&code| values[code].is_nan()).collect::<Vec<_>>();
        assert_eq!(nan(&*e4m3), [0x7f, 0xff]);
        assert_eq!(nan(&*e5m2), [0x7d, 0x7e, 0x7f, 0xfd, 0xfe, 0xff]);
    }

    #[test]
    fn scales_are_powers_of_two_or_plain_floats() {
        let powers = Floats::of(Dtype::Other(Stored::F8_E8M0)).unwrap().values(&[0, 1, 127, 254, 255]);
        assert_eq!(powers[..4], [f32::MIN_POSITIVE / 2.0, f32::MIN_POSITIVE, 1.0, 2f32.powi(127)]);
        assert!(powers[4].is_nan());
        assert_eq!(Floats::of(Dtype::Bf16).unwrap().values(&[0x80, 0x3f, 0x00, 0xc0]), [1.0, -2.0]);
        assert!(Floats::of(Dtype::Other(Stored::I32)).is_none());
    }
}
