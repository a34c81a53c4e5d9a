//! Dates as logs write them, made once a second and patched for the milliseconds.

/// Length of `2026-08-17T12:34:56.789Z`.
pub const RFC3339_BYTES: usize = 24;
/// Length of `17/Aug/2026:12:34:56 +0000`.
pub const CLF_BYTES: usize = 26;

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
/// The last second of year 9999: later ones are written as this one, so that the width never changes.
const SECOND_MAX: u64 = 253_402_300_799;

/// The text of a wall-clock time in UTC. [`Stamp::set`] costs nothing within a millisecond and three digits within a
/// second.
#[derive(Clone, Debug)]
pub struct Stamp {
    unix_ms: u64,
    rfc3339: [u8; RFC3339_BYTES],
    clf: [u8; CLF_BYTES],
}

impl Default for Stamp {
    fn default() -> Self {
        Self { unix_ms: 0, rfc3339: *b"1970-01-01T00:00:00.000Z", clf: *b"01/Jan/1970:00:00:00 +0000" }
    }
}

impl Stamp {
    /// The stamp of a time in milliseconds since the Unix epoch.
    pub fn of(unix_ms: u64) -> Self {
        let mut stamp = Self::default();
        stamp.set(unix_ms);
        stamp
    }

    /// Moves to a time in milliseconds since the Unix epoch.
    #[inline]
    pub fn set(&mut self, unix_ms: u64) {
        if unix_ms == self.unix_ms {
            return;
        }
        if unix_ms / 1_000 != self.unix_ms / 1_000 {
            self.set_second((unix_ms / 1_000).min(SECOND_MAX));
        }
        self.unix_ms = unix_ms;
        let ms = (unix_ms % 1_000) as u32;
        self.rfc3339[20] = b'0' + (ms / 100) as u8;
        two_digits(&mut self.rfc3339[21..23], ms % 100);
    }

    /// RFC 3339 with milliseconds: `2026-08-17T12:34:56.789Z`.
    #[inline]
    pub fn rfc3339(&self) -> &[u8; RFC3339_BYTES] {
        &self.rfc3339
    }

    /// The same as text.
    pub fn rfc3339_text(&self) -> &str {
        std::str::from_utf8(&self.rfc3339).unwrap_or_default()
    }

    /// As the common log format has it: `17/Aug/2026:12:34:56 +0000`.
    #[inline]
    pub fn clf(&self) -> &[u8; CLF_BYTES] {
        &self.clf
    }

    fn set_second(&mut self, second: u64) {
        let (year, month, day) = date_of((second / 86_400) as u32);
        let of_day = (second % 86_400) as u32;
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        let rfc = &mut self.rfc3339;
        two_digits(&mut rfc[0..2], year / 100);
        two_digits(&mut rfc[2..4], year % 100);
        let clf = &mut self.clf;
        two_digits(&mut clf[7..9], year / 100);
        two_digits(&mut clf[9..11], year % 100);
        clf[3..6].copy_from_slice(MONTHS[(month as usize + 11) % 12]);
        let places = [(5, None, month), (8, Some(0), day), (11, Some(12), hour), (14, Some(15), minute)];
        for (in_rfc, in_clf, value) in places.into_iter().chain([(17, Some(18), second)]) {
            two_digits(&mut rfc[in_rfc..in_rfc + 2], value);
            if let Some(at) = in_clf {
                two_digits(&mut clf[at..at + 2], value);
            }
        }
    }
}

fn two_digits(out: &mut [u8], value: u32) {
    out[0] = b'0' + (value / 10 % 10) as u8;
    out[1] = b'0' + (value % 10) as u8;
}

/// Year, month and day of a count of days since 1970-01-01, in the proleptic Gregorian calendar. Years are counted from
/// March so that the leap day is the last of its year, and eras of 400 years repeat exactly.
fn date_of(days: u32) -> (u32, u32, u32) {
    let days = days + 719_468; // 0000-03-01 to 1970-01-01
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u32::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_right() {
        let known = [
            (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00 +0000"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z", "28/Feb/2000:23:59:59 +0000"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z", "29/Feb/2000:00:00:00 +0000"),
            (1_786_970_096_789, "2026-08-17T12:34:56.789Z", "17/Aug/2026:12:34:56 +0000"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z", "01/Mar/2100:00:00:00 +0000"),
        ];
        let mut moved = Stamp::default();
        for (unix_ms, rfc3339, clf) in known {
            moved.set(unix_ms);
            assert_eq!(moved.rfc3339_text(), rfc3339);
            assert_eq!(moved.clf(), clf.as_bytes());
            assert_eq!(Stamp::of(unix_ms).rfc3339(), moved.rfc3339());
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut expected = (1970, 1, 1);
        for days in 0..60_000 {
            assert_eq!(date_of(days), expected);
            let (year, month, day) = expected;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = [31, 28 + u32::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
            expected = match (day < length, month < 12) {
                (true, _) => (year, month, day + 1),
                (false, true) => (year, month + 1, 1),
                (false, false) => (year + 1, 1, 1),
            };
        }
    }

    #[test]
    fn far_times_keep_the_width() {
        assert_eq!(&Stamp::of(u64::MAX).rfc3339()[..20], b"9999-12-31T23:59:59.");
    }
}
