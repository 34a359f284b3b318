//! Sizes in bytes as people write them: the one parser behind every option that takes one.

use crate::error::quoted;
use std::fmt;
use std::str::FromStr;

/// A number of bytes, at least 1 and less than 10^18.
///
/// `64G`, `64GB` and `64gb` are 64 * 10^9 bytes, `64GiB` is 64 * 2^30; so with K, M and T. `1.5G` has a fraction, `4096` is plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

/// The memory that a model may take, everything included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Ram {
    /// What is free, less a reserve for other programs.
    #[default]
    Free,
    /// A fixed number of bytes.
    Bytes(u64),
    /// A share of the machine's memory, above 0 and at most 1.
    Share(f64),
}

/// The error of a text that is not a [`Size`] or a [`Ram`]; its message lists the valid forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSize {
    text: String,
    allows_share: bool,
}

/// Sizes are below this; it keeps sums of a few of them from overflowing.
const LIMIT: u128 = 1_000_000_000_000_000_000;

/// Units, the longest name of each first letter first.
const UNITS: [(&str, u64); 13] = [
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("TIB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("B", 1),
];

impl Size {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    fn parse(text: &str) -> Option<Size> {
        let upper = text.to_ascii_uppercase();
        let unit = UNITS.iter().find_map(|(name, bytes)| Some((upper.strip_suffix(name)?, *bytes)));
        let (number, unit) = unit.unwrap_or((&upper, 1));
        // In whole numbers, so that 64.1G is exactly that.
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if number.is_empty() || number.ends_with('.') || !digits(whole) || !digits(fraction) || fraction.len() > 12 {
            return None;
        }
        let scale = 10u128.pow(fraction.len() as u32);
        let decimal = format!("{whole}{fraction}").parse::<u128>().ok()?;
        let bytes = decimal.checked_mul(unit.into())? / scale;
        (1..LIMIT).contains(&bytes).then_some(Size(bytes as u64))
    }
}

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Size, InvalidSize> {
        Size::parse(text).ok_or_else(|| InvalidSize { text: text.to_owned(), allows_share: false })
    }
}

impl FromStr for Ram {
    type Err = InvalidSize;

    /// A [`Size`], or a share of all memory: `80%`.
    fn from_str(text: &str) -> Result<Ram, InvalidSize> {
        let invalid = || InvalidSize { text: text.to_owned(), allows_share: true };
        let Some(percent) = text.strip_suffix('%') else {
            return Size::parse(text).map(|size| Ram::Bytes(size.bytes())).ok_or_else(invalid);
        };
        let plain = percent.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let share = percent.parse().ok().filter(|_| plain).map(|percent: f64| percent / 100.0);
        share.filter(|share| *share > 0.0 && *share <= 1.0).map(Ram::Share).ok_or_else(invalid)
    }
}

impl fmt::Display for InvalidSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = if self.allows_share { ", 80% (of all memory)" } else { "" };
        write!(
            f,
            "{} is not a valid size; write it as 64G or 64GB (10^9 bytes), 64GiB (2^30 bytes), the same with K, M or T, plain bytes{share}",
            quoted(&self.text)
        )
    }
}

impl std::error::Error for InvalidSize {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_nonsense_is_refused() {
        for (text, bytes) in [
            ("7", 7),
            ("123456", 123_456),
            ("123456B", 123_456),
            ("8k", 8_000),
            ("8KiB", 8 << 10),
            ("500M", 500_000_000),
            ("2MB", 2_000_000),
            ("3mib", 3 << 20),
            ("64G", 64_000_000_000),
            ("64GB", 64_000_000_000),
            ("64gb", 64_000_000_000),
            ("64GiB", 64 << 30),
            ("64.1G", 64_100_000_000),
            ("1.5g", 1_500_000_000),
            ("1.5GiB", 3 << 29),
            ("0.5K", 500),
            (".5K", 500),
            ("2T", 2_000_000_000_000),
            ("1TiB", 1 << 40),
            ("999999999999999999", 999_999_999_999_999_999),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
            assert_eq!(text.parse(), Ok(Ram::Bytes(bytes)), "{text}");
        }
        let long = format!("1.{}G", "0".repeat(100));
        for text in [
            "",
            "G",
            "B",
            "KiB",
            "0",
            "0G",
            "0.1",
            "-1",
            "-1G",
            "+1G",
            "1e3G",
            "nan",
            "inf",
            "infG",
            "64 G",
            " 64G",
            "G64",
            "64X",
            "64GG",
            "64Gi",
            "64iB",
            "1P",
            "1.2.3G",
            ".",
            "5.",
            "5.G",
            "1_000",
            "0x10",
            "1,5G",
            "٣",
            "٣G",
            "64Ğ",
            "1Gé",
            "1000000T",
            "1000000000000000000",
            "99999999999999999999G",
            "5%%",
            "80%G",
            &long,
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
            assert!(text.parse::<Ram>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_memory_has_shares() {
        for (text, share) in [("80%", 0.8), ("100%", 1.0), ("0.5%", 0.005)] {
            assert_eq!(text.parse(), Ok(Ram::Share(share)), "{text}");
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains("not a valid size") && !error.contains("80% (of"), "{error}");
        }
        for text in ["%", "0%", "101%", "-5%", "+5%", "nan%", "inf%", "1e1%", "5 %", "٣%"] {
            let error = text.parse::<Ram>().unwrap_err().to_string();
            assert!(error.contains("not a valid size") && error.contains("80% (of"), "{error}");
        }
    }
}
