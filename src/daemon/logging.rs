//! Log lines on stderr: time, level, text.

use std::fmt;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use log::LevelFilter;

/// Starts logging. Without a level, `RUST_LOG` decides (env_logger's syntax), and without that
/// it is info. A second call changes nothing.
pub fn start(level: Option<LevelFilter>) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level.unwrap_or(LevelFilter::Info));
    if level.is_none() {
        builder.parse_default_env();
    }
    builder.format(|out, record| {
        writeln!(out, "{} {:<5} {}", Stamp(SystemTime::now()), record.level(), record.args())
    });
    // Somebody logs already (a test's harness): leave it to them.
    let _ = builder.try_init();
}

/// A time as RFC 3339 in UTC with milliseconds.
struct Stamp(SystemTime);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A clock before 1970 is set wrong; the log goes on.
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (year, month, day) = civil(seconds / 86400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let millis = since.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Year, month and day of a day counted from 1970-01-01: years begin in March, so that the leap
/// day is the last one, and 400 years are one period (H. Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_what_date_says() {
        // date -u -d @SECONDS +%FT%TZ
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (68_169_599_999, "1972-02-28T23:59:59.999Z"),
            (68_169_600_000, "1972-02-29T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_500, "2024-12-31T23:59:59.500Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (millis, text) in table {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(Stamp(time).to_string(), text);
        }
        assert_eq!(
            Stamp(UNIX_EPOCH - Duration::from_secs(1)).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = civil(0);
        for day in 1..200_000 {
            let now = civil(day);
            let next_day = (now.0, now.1, now.2) == (last.0, last.1, last.2 + 1);
            let next_month = now.2 == 1 && now.1 == last.1 % 12 + 1 && last.2 >= 28;
            assert!(next_day || next_month, "{last:?} then {now:?}");
            last = now;
        }
        assert_eq!(last, (2517, 7, 31));
    }
}
