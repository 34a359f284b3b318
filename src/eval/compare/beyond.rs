//! How many tokens of a sample lie beyond a percentile of the text that it was drawn from.
//!
//! The number is Poisson distributed where it is small and tokens are independent. Tokens of a chunk are not: what is rare comes in groups, and
//! the variance is larger than the mean. Then it is negative binomial (Greenwood and Yule 1920), which has any mean and any larger variance.

/// The mean above which the distribution is taken as normal.
const NORMAL: f64 = 100.0;

/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_964;

/// The least and the most tokens that 95 % of samples have, if they have `mean` of them with this `variance`; no most where it is unknown.
/// `t` is the quantile of Student's t for the estimate of the variance, by which it is enlarged.
pub fn interval(mean: f64, variance: f64, t: f64) -> (usize, Option<usize>) {
    if !t.is_finite() || !variance.is_finite() {
        return (0, None);
    }
    let variance = variance * (t / Z).powi(2);
    if mean > NORMAL {
        let wide = Z * variance.sqrt();
        return ((mean - wide).max(0.0).floor() as usize, Some((mean + wide).ceil() as usize));
    }
    let (mut p, ratio) = first(mean, variance);
    let (mut below, mut k, mut least) = (0.0, 0, None);
    while below + p < 0.975 && p > 0.0 {
        below += p;
        k += 1;
        if below > 0.025 {
            least.get_or_insert(k - 1);
        }
        p *= ratio(k);
    }
    (least.unwrap_or(k), Some(k))
}

/// The probability of none, and the ratio of the probability of `k` to that of `k - 1`.
fn first(mean: f64, variance: f64) -> (f64, impl Fn(usize) -> f64) {
    // Of the negative binomial distribution with variance mean + mean^2 / r; Poisson's is that of an infinite r.
    let excess = ((variance - mean) / (mean * mean)).max(0.0); // 1 / r
    let none = if excess > 1e-9 { libm::exp(-libm::log1p(mean * excess) / excess) } else { libm::exp(-mean) };
    (none, move |k: usize| (1.0 + (k - 1) as f64 * excess) / k as f64 * mean / (1.0 + mean * excess))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles as scipy has them: `poisson.ppf`, `nbinom.ppf`.
    #[test]
    fn quantiles_are_those_of_the_distributions() {
        assert_eq!(interval(1.26, 1.26, Z), (0, Some(4)));
        assert_eq!(interval(5.1, 0.0, Z), (1, Some(10)));
        assert_eq!(interval(50.0, 50.0, Z), (37, Some(64)));
        // r = 2, p = 2 / 7.
        assert_eq!(interval(5.0, 17.5, Z), (0, Some(16)));
        // r = 10, p = 1 / 3.
        assert_eq!(interval(20.0, 60.0, Z), (7, Some(37)));
        assert_eq!(interval(1000.0, 400.0, Z), (960, Some(1040)));
        assert_eq!(interval(5.0, f64::INFINITY, Z), (0, None));
        assert_eq!(interval(5.0, 1.0, f64::INFINITY), (0, None));
    }

    #[test]
    fn probabilities_sum_to_one_with_the_right_mean() {
        for (mean, variance) in [(3.0, 3.0), (3.0, 3.000001), (3.0, 9.0), (90.0, 400.0)] {
            let (mut p, ratio) = first(mean, variance);
            let (mut sum, mut moment) = (0.0, 0.0);
            for k in 1..4000 {
                sum += p;
                moment += p * (k - 1) as f64;
                p *= ratio(k);
            }
            assert!((sum - 1.0f64).abs() < 1e-9 && (moment - mean).abs() < 1e-6, "{mean} {variance}: {sum} {moment}");
        }
    }
}
