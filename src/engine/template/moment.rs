//! The date that a template may show. It is given, never asked of the clock: the same conversation makes the same tokens.

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::Offset;

/// 26 July 2024, noon: the date that Llama 3.1's template assumes where it is told none.
pub const DEFAULT_NOW: i64 = 1_721_995_200;

/// Seconds since 1970 as `strftime` of Python shows them, in UTC.
///
/// # Errors
/// If the format is none.
pub(super) fn strftime(seconds: i64, format: &str) -> Result<String, String> {
    if format.len() > 1000 {
        return Err("the format of a date has more than 1000 bytes".to_owned());
    }
    let time = Timestamp::from_second(seconds).map_err(|error| error.to_string())?;
    strtime::format(format, Offset::UTC.to_datetime(time)).map_err(|error| error.to_string())
}
