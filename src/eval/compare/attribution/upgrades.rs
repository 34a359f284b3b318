//! "If you had 1 % more bytes, spend them here": tensors in the next larger type of their family.

use super::result::Upgrade;
use strata_quant::GgmlType;

/// The share of a candidate's bytes that upgrades may take.
const SHARE: u64 = 100;

/// The next larger type of the same family for rows of `cols` values; `None` for those that hardly lose anything.
pub fn next_larger(ty: GgmlType, cols: usize) -> Option<GgmlType> {
    use GgmlType::*;
    let next = match ty {
        Q2_K => Q3_K,
        Q3_K => Q4_K,
        Q4_K | IQ4_XS => Q5_K,
        Q5_K => Q6_K,
        Q4_0 => Q5_0,
        Q4_1 => Q5_1,
        IQ4_NL if cols.is_multiple_of(Q5_K.block_len()) => Q5_K,
        IQ4_NL => Q5_0,
        Q5_0 | Q5_1 | Q6_K => Q8_0,
        Q8_0 => BF16,
        _ => return None,
    };
    Some(next)
}

/// Those of `all` that save most per byte and fit into one percent of `bytes`, the best first.
pub fn choose(mut all: Vec<Upgrade>, bytes: u64) -> Vec<Upgrade> {
    let per_byte = |upgrade: &Upgrade| upgrade.saves_kld / upgrade.extra_bytes as f64;
    all.retain(|upgrade| upgrade.saves_kld > 0.0 && upgrade.extra_bytes > 0);
    all.sort_by(|a, b| per_byte(b).total_cmp(&per_byte(a)));
    let mut left = bytes / SHARE;
    all.retain(|upgrade| {
        let fits = upgrade.extra_bytes <= left;
        left -= if fits { upgrade.extra_bytes } else { 0 };
        fits
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_type_is_larger_and_divides_the_rows() {
        for format in GgmlType::with_format() {
            for cols in [576, 1536] {
                let (ty, Some(bytes)) = (format.ty, format.ty.row_bytes(cols)) else { continue };
                if let Some(next) = next_larger(ty, cols) {
                    assert!(next.row_bytes(cols).unwrap() > bytes, "{ty} {next}");
                }
            }
        }
    }

    #[test]
    fn the_best_come_first_and_all_fit() {
        let upgrade =
            |extra_bytes, saves_kld| Upgrade { name: String::new(), from: "Q4_0", to: "Q5_0", extra_bytes, saves_kld };
        let all = vec![upgrade(50, 1.0), upgrade(200, 100.0), upgrade(60, 2.0), upgrade(10, 0.1), upgrade(5, -1.0)];
        let chosen: Vec<u64> = choose(all, 10_000).iter().map(|upgrade| upgrade.extra_bytes).collect();
        assert_eq!(chosen, [60, 10]);
    }
}
