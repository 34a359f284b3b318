//! Each block format as a panel: its bytes, transposed so that a lane is a row, taken apart with shifts and masks. The pictures of the
//! blocks are in the files of `strata-quant`; the order of k is theirs.

use super::panel::{Expand, Panel, Vector, WeightRows, zero};
use crate::isa::format::BlockFormat;
use strata_quant::GgmlType;
use strata_quant::formats::iq4_nl::LEVELS;

/// The formats that kernels are compiled for; and `expanded!`, the list of `$of::<FORMAT>()` for those that have panels.
macro_rules! formats {
    ($($Format:ident = $ty:ident;)*) => {
        $(
            #[doc = stringify!($ty)]
            pub struct $Format;
            impl BlockFormat for $Format {
                const TYPE: GgmlType = GgmlType::$ty;
            }
        )*

        macro_rules! expanded {
            ($of:ident) => { &[$($of::<$Format>()),*] };
        }
        pub(crate) use expanded;
    };
}

formats! {
    Q4_0 = Q4_0;
    Q4_1 = Q4_1;
    Q5_0 = Q5_0;
    Q5_1 = Q5_1;
    Q8_0 = Q8_0;
    Iq4Nl = IQ4_NL;
    Q2K = Q2_K;
    Q3K = Q3_K;
    Q4K = Q4_K;
    Q5K = Q5_K;
    Q6K = Q6_K;
    Iq4Xs = IQ4_XS;
}

/// Nibbles.
const LOW: u32 = 0x0f0f_0f0f;
/// Pairs of bits.
const TWO: u32 = 0x0303_0303;
/// Bits.
const ONE: u32 = 0x0101_0101;

/// `v >> n & mask`
#[inline(always)]
fn bits<T: Vector<L>, const L: usize>(t: T, v: T::I, n: u32, mask: u32) -> T::I {
    let v = if n == 0 { v } else { t.shr(v, n) };
    t.and(v, t.splat(mask))
}

/// `v - zero`, byte by byte.
#[inline(always)]
fn less<T: Vector<L>, const L: usize>(t: T, v: T::I, zero: u8) -> T::I {
    t.sub_bytes(v, t.splat(u32::from_ne_bytes([zero; 4])))
}

/// Byte `i` of every lane, with its sign.
#[inline(always)]
fn signed_byte<T: Vector<L>, const L: usize>(t: T, v: T::I, i: usize) -> T::I {
    t.sar(t.shl(v, 24 - 8 * i as u32), 24)
}

/// A format of blocks of 32 with nibbles at byte `$at`, and maybe fifth bits at byte `$high`: `$codes` makes codes of four of them of
/// every row; `$zero` is the zero point of those without signs.
macro_rules! blocks_of_32 {
    ($($name:ident: zero $zero:literal, peak $peak:literal, nibbles at $at:literal,
       $(fifth bits at $high:literal,)? |$t:ident, $v:ident| $codes:expr;)*) => {$(
        impl Expand for $name {
            const PEAK: i32 = $peak;
            const ZERO: i32 = $zero;
            #[inline(always)]
            fn expand<T: Vector<L>, const L: usize, const S: usize>(
                $t: T,
                rows: &WeightRows<'_, L>,
                panel: &mut Panel<L, S>,
                s: usize,
            ) {
                for b in 0..rows.len() / Self::BYTES {
                    let block = b * Self::BYTES;
                    let nibbles = rows.transpose($t, block + $at);
                    $(let high = rows.transpose($t, block + $high)[0];)?
                    for four in 0..8 {
                        let $v = bits($t, nibbles[four % 4], four as u32 / 4 * 4, LOW);
                        $(let $v = fifth::<T, L, $high>($t, high, four, $v);)?
                        panel.put($t, b * 8 + four, s, $codes);
                    }
                }
                panel.put_all::<T, Self>($t, rows, s);
            }
        }
    )*};
}

blocks_of_32! {
    Q4_0: zero 8, peak 8, nibbles at 2, |t, v| signs::<T, Self, L>(t, v);
    Q4_1: zero 0, peak 15, nibbles at 4, |t, v| v;
    Q5_0: zero 16, peak 16, nibbles at 6, fifth bits at 2, |t, v| signs::<T, Self, L>(t, v);
    Q5_1: zero 0, peak 31, nibbles at 8, fifth bits at 4, |t, v| v;
    Iq4Nl: zero 128, peak 127, nibbles at 2, |t, v| t.look_up(levels::<T, Self, L>(), v);
}

/// Codes with or without signs, as [`zero`] says.
#[inline(always)]
fn signs<T: Vector<L>, F: Expand, const L: usize>(t: T, v: T::I) -> T::I {
    if const { zero::<T, F, L>() > 0 } { v } else { less(t, v, F::ZERO as u8) }
}

/// The levels of IQ4_NL with or without signs, as [`zero`] says: adding 128 flips the top bit.
#[inline(always)]
fn levels<T: Vector<L>, F: Expand, const L: usize>() -> &'static [i8; 16] {
    const UNSIGNED: [i8; 16] = {
        let mut levels = LEVELS;
        let mut i = 0;
        while i < 16 {
            levels[i] ^= -128;
            i += 1;
        }
        levels
    };
    if const { zero::<T, F, L>() > 0 } { &UNSIGNED } else { &LEVELS }
}

/// Four nibbles with their fifth bits: the `four`th four of 32. `AT` only tells the formats apart that have such bits.
#[inline(always)]
fn fifth<T: Vector<L>, const L: usize, const AT: usize>(t: T, high: T::I, four: usize, v: T::I) -> T::I {
    let high = bits(t, high, 4 * four as u32, 15);
    // Bit j of four goes to bit 8 j: shifts by 0, 7, 14 and 21 at once.
    let spread = t.and(t.mul_ints(high, t.splat(0x0020_4081)), t.splat(ONE));
    t.or(v, t.shl(spread, 4))
}

impl Expand for Q8_0 {
    const PEAK: i32 = 128;
    #[inline(always)]
    fn expand<T: Vector<L>, const L: usize, const S: usize>(
        t: T,
        rows: &WeightRows<'_, L>,
        panel: &mut Panel<L, S>,
        s: usize,
    ) {
        for b in 0..rows.len() / Self::BYTES {
            for half in 0..2 {
                let four = rows.transpose(t, b * Self::BYTES + 2 + half * 16);
                for i in 0..4 {
                    panel.put(t, b * 8 + half * 4 + i, s, four[i]);
                }
            }
        }
        panel.put_all::<T, Self>(t, rows, s);
    }
}

/// The header of Q4_K and Q5_K: `d`, `dmin`, and scales and offsets of six bits; see `pack_six_bits` in `strata-quant`.
#[inline(always)]
fn six_bits<T: Vector<L>, F: Expand, const L: usize, const S: usize>(
    t: T,
    rows: &WeightRows<'_, L>,
    panel: &mut Panel<L, S>,
    s: usize,
) {
    let [d, a, b, c] = rows.transpose(t, 0);
    panel.put_d(t, 0, s, d);
    panel.put_m(t, 0, s, t.shr(d, 16));
    let high = |v: T::I| t.shl(bits(t, v, 6, TWO), 4);
    let scales = [bits(t, a, 0, 0x3f3f_3f3f), t.or(bits(t, c, 0, LOW), high(a))];
    let mins = [bits(t, b, 0, 0x3f3f_3f3f), t.or(bits(t, c, 4, LOW), high(b))];
    for group in 0..8 {
        panel.put_scale::<T, F>(t, group, s, bits(t, scales[group / 4], group as u32 % 4 * 8, 0xff));
    }
    for pair in 0..4 {
        panel.put_centers::<T, F>(t, pair, s, scales[pair / 2], pair as u32 % 2 * 2);
        panel.put_mins(t, pair, s, mins[pair / 2], pair as u32 % 2 * 2);
    }
}

impl Expand for Q4K {
    const PEAK: i32 = 15;
    #[inline(always)]
    fn expand<T: Vector<L>, const L: usize, const S: usize>(
        t: T,
        rows: &WeightRows<'_, L>,
        panel: &mut Panel<L, S>,
        s: usize,
    ) {
        six_bits::<T, Q4K, L, S>(t, rows, panel, s);
        for pair in 0..4 {
            for half in 0..2 {
                let four = rows.transpose(t, 16 + pair * 32 + half * 16);
                for i in 0..4 {
                    let step = pair * 16 + half * 4 + i;
                    panel.put(t, step, s, bits(t, four[i], 0, LOW));
                    panel.put(t, step + 8, s, bits(t, four[i], 4, LOW));
                }
            }
        }
    }
}

impl Expand for Q5K {
    const PEAK: i32 = 31;
    const CENTER: i32 = 16;
    #[inline(always)]
    fn expand<T: Vector<L>, const L: usize, const S: usize>(
        t: T,
        rows: &WeightRows<'_, L>,
        panel: &mut Panel<L, S>,
        s: usize,
    ) {
        six_bits::<T, Q5K, L, S>(t, rows, panel, s);
        for half in 0..2 {
            let high = rows.transpose(t, 16 + half * 16);
            for pair in 0..4 {
                let four = rows.transpose(t, 48 + pair * 32 + half * 16);
                for i in 0..4 {
                    let step = pair * 16 + half * 4 + i;
                    for group in 0..2 {
                        let fifth = t.shl(bits(t, high[i], (pair * 2 + group) as u32, ONE), 4);
                        let code = t.or(bits(t, four[i], group as u32 * 4, LOW), fifth);
                        panel.put_centered::<T, Q5K>(t, step + group * 8, s, code);
                    }
                }
            }
        }
    }
}

impl Expand for Q6K {
    const GROUP: usize = 16;
    const PEAK: i32 = 32;
    #[inline(always)]
    fn expand<T: Vector<L>, const L: usize, const S: usize>(
        t: T,
        rows: &WeightRows<'_, L>,
        panel: &mut Panel<L, S>,
        s: usize,
    ) {
        for half in 0..2 {
            for part in 0..2 {
                // Pairs of bits of the values part * 16.. of each 32.
                let high = rows.transpose(t, 128 + half * 32 + part * 16);
                for quarter in 0..2 {
                    let four = rows.transpose(t, half * 64 + quarter * 32 + part * 16);
                    for i in 0..4 {
                        for nibble in 0..2 {
                            let of_32 = nibble * 2 + quarter;
                            let two = t.shl(bits(t, high[i], of_32 as u32 * 2, TWO), 4);
                            let code = t.or(bits(t, four[i], nibble as u32 * 4, LOW), two);
                            panel.put(t, half * 32 + of_32 * 8 + part * 4 + i, s, less(t, code, 32));
                        }
                    }
                }
            }
        }
        let scales = rows.transpose(t, 192);
        for group in 0..16 {
            panel.put_scale::<T, Q6K>(t, group, s, signed_byte(t, scales[group / 4], group % 4));
        }
        panel.put_d(t, 0, s, t.shr(rows.transpose(t, 194)[3], 16));
    }
}

/// The pairs of bits of Q2_K and Q3_K at byte `at`: `code(half, of 32, four, pair)` makes codes of them.
#[inline(always)]
fn two_bits<T: Vector<L>, const L: usize, const S: usize>(
    t: T,
    rows: &WeightRows<'_, L>,
    at: usize,
    panel: &mut Panel<L, S>,
    s: usize,
    code: impl Fn(usize, usize, T::I) -> T::I,
) {
    for half in 0..2 {
        for part in 0..2 {
            let four = rows.transpose(t, at + half * 32 + part * 16);
            for i in 0..4 {
                for of_32 in 0..4 {
                    let (l, two) = (part * 4 + i, bits(t, four[i], of_32 as u32 * 2, TWO));
                    panel.put(t, half * 32 + of_32 * 8 + l, s, code(half * 4 + of_32, l, two));
                }
            }
        }
    }
}

impl Expand for Q2K {
    const GROUP: usize = 16;
    const PEAK: i32 = 3;
    #[inline(always)]
    fn expand<T: Vector<L>, const L: usize, const S: usize>(
        t: T,
        rows: &WeightRows<'_, L>,
        panel: &mut Panel<L, S>,
        s: usize,
    ) {
        two_bits(t, rows, 16, panel, s, |_, _, two| two);
        let both = rows.transpose(t, 0);
        for group in 0..16 {
            panel.put_scale::<T, Q2K>(t, group, s, bits(t, both[group / 4], group as u32 % 4 * 8, 15));
        }
        for pair in 0..8 {
            panel.put_mins(t, pair, s, bits(t, both[pair / 2], 4, LOW), pair as u32 % 2 * 2);
        }
        let d = rows.transpose(t, 68)[3];
        panel.put_d(t, 0, s, d);
        panel.put_m(t, 0, s, t.shr(d, 16));
    }
}

impl Expand for Q3K {
    const GROUP: usize = 16;
    const PEAK: i32 = 4;
    #[inline(always)]
    fn expand<T: Vector<L>, const L: usize, const S: usize>(
        t: T,
        rows: &WeightRows<'_, L>,
        panel: &mut Panel<L, S>,
        s: usize,
    ) {
        let high = [rows.transpose(t, 0), rows.transpose(t, 16)];
        two_bits(t, rows, 32, panel, s, |of_32, l, two| {
            let third = t.shl(bits(t, high[l / 4][l % 4], of_32 as u32, ONE), 2);
            less(t, t.or(two, third), 4)
        });
        // Bytes 94..110: two of the codes, three dwords of scales, the scale of the block.
        let w = rows.transpose(t, 94);
        let dword = |i: usize| t.or(t.shr(w[i], 16), t.shl(w[i + 1], 16));
        let (low, high) = ([dword(0), dword(1)], dword(2));
        for four in 0..4 {
            let nibbles = bits(t, low[four % 2], four as u32 / 2 * 4, LOW);
            let scales = t.or(nibbles, t.shl(bits(t, high, four as u32 * 2, TWO), 4));
            for i in 0..4 {
                panel.put_scale::<T, Q3K>(t, four * 4 + i, s, signed_byte(t, less(t, scales, 32), i));
            }
        }
        panel.put_d(t, 0, s, t.shr(w[3], 16));
    }
}

impl Expand for Iq4Xs {
    const PEAK: i32 = 127;
    #[inline(always)]
    fn expand<T: Vector<L>, const L: usize, const S: usize>(
        t: T,
        rows: &WeightRows<'_, L>,
        panel: &mut Panel<L, S>,
        s: usize,
    ) {
        let [d, low, _, _] = rows.transpose(t, 0);
        panel.put_d(t, 0, s, d);
        for group in 0..8 {
            let two = t.shl(bits(t, d, 16 + 2 * group as u32, 3), 4);
            let scale = t.or(bits(t, low, 4 * group as u32, 15), two);
            panel.put_scale::<T, Iq4Xs>(t, group, s, t.sub(scale, t.splat(32)));
            let four = rows.transpose(t, 8 + group * 16);
            for i in 0..4 {
                panel.put(t, group * 8 + i, s, t.look_up(&LEVELS, bits(t, four[i], 0, LOW)));
                panel.put(t, group * 8 + 4 + i, s, t.look_up(&LEVELS, bits(t, four[i], 4, LOW)));
            }
        }
    }
}
