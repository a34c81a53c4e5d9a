//! The response fields of a limit (R90 to R92, C13).

use std::fmt;

use super::rate::{TICKS_PER_NS, Ticks, Verdict, ms_of_ticks};
use crate::http::fields::Fields;

/// A rate as clients read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Most requests at once: the burst of a bucket, the limit of a window.
    pub limit: u32,
    /// Requests …
    pub requests: u32,
    /// … in so many nanoseconds.
    pub per_ns: u64,
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = std::time::Duration::from_nanos(self.per_ns);
        write!(f, "{} per {per:?}", self.requests)?;
        if self.limit != self.requests { write!(f, " (burst {})", self.limit) } else { Ok(()) }
    }
}

/// The wall clock second, rounded up, of a point on the monotonic clock.
pub fn unix_seconds(at: Ticks, offset_ms: u64) -> u64 {
    ms_of_ticks(at).saturating_add(offset_ms).div_ceil(1_000)
}

/// Writes `X-RateLimit-Limit`, `-Remaining`, `-Reset` (Unix seconds at which the quota is whole again) and
/// `-Limit-Type`. Of several limits the one with the fewest requests left speaks; a refusal always does.
pub fn write(fields: &mut Fields, verdict: &Verdict, quota: &Quota, full_at: u64, label: &str) {
    const NAMES: [&[u8]; 4] =
        [b"X-RateLimit-Limit", b"X-RateLimit-Remaining", b"X-RateLimit-Reset", b"X-RateLimit-Limit-Type"];
    if let Some(other) = fields.find(NAMES[1]) {
        if verdict.admitted && number(other) <= u64::from(verdict.remaining) {
            return;
        }
        for name in NAMES {
            fields.remove(name);
        }
    }
    let values = [u64::from(quota.limit), u64::from(verdict.remaining), full_at];
    for (name, value) in NAMES.into_iter().zip(values) {
        put(fields, name, value);
    }
    // The schema admits only visible characters in a label.
    let _ = fields.append(NAMES[3], label.as_bytes());
}

/// Writes `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10): one item per limit.
pub fn write_draft(fields: &mut Fields, verdict: &Verdict, quota: &Quota, now: Ticks) {
    let mut value = Short::default();
    let per_s = quota.per_ns.div_ceil(1_000_000_000);
    value.text(b"\"").decimal(u64::from(quota.requests)).text(b"-per-").decimal(per_s).text(b"s\"");
    let name = value;
    value.text(b";q=").decimal(u64::from(quota.limit)).text(b";w=").decimal(per_s);
    let _ = fields.append(b"RateLimit-Policy", value.bytes());
    let wait = if verdict.admitted { verdict.full_at.saturating_sub(now) } else { verdict.retry };
    let mut value = name;
    value.text(b";r=").decimal(u64::from(verdict.remaining)).text(b";t=").decimal(seconds(wait));
    let _ = fields.append(b"RateLimit", value.bytes());
}

/// Writes `Retry-After`: whole seconds, rounded up, at least 1 (C13). The longest one stays.
pub fn write_retry_after(fields: &mut Fields, verdict: &Verdict) {
    let _ = fields.remove(b"Retry-After");
    put(fields, b"Retry-After", seconds(verdict.retry).max(1));
}

fn seconds(span: Ticks) -> u64 {
    span.div_ceil(1_000_000_000 * TICKS_PER_NS)
}

fn number(digits: &[u8]) -> u64 {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

fn put(fields: &mut Fields, name: &[u8], value: u64) {
    let mut text = Short::default();
    // Digits are a legal value.
    let _ = fields.append(name, text.decimal(value).bytes());
}

/// A short value on the stack; what does not fit is cut.
#[derive(Clone, Copy)]
struct Short {
    bytes: [u8; 96],
    len: usize,
}

impl Default for Short {
    fn default() -> Self {
        Self { bytes: [0; 96], len: 0 }
    }
}

impl Short {
    fn text(&mut self, text: &[u8]) -> &mut Self {
        let len = text.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&text[..len]);
        self.len += len;
        self
    }

    fn decimal(&mut self, mut value: u64) -> &mut Self {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                return self.text(&digits[at..]);
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rate_limit::rate::ticks_of_ms;

    const QUOTA: Quota = Quota { limit: 100, requests: 60, per_ns: 60_000_000_000 };

    fn verdict(admitted: bool, remaining: u32) -> Verdict {
        Verdict { admitted, remaining, retry: ticks_of_ms(1_001), full_at: ticks_of_ms(2_500) }
    }

    fn lines(fields: &Fields) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
    }

    #[test]
    fn the_tightest_limit_speaks() {
        let mut fields = Fields::default();
        write(&mut fields, &verdict(true, 10), &QUOTA, 7, "ip");
        write(&mut fields, &verdict(true, 20), &QUOTA, 8, "route");
        assert_eq!(fields.find(b"x-ratelimit-limit-type"), Some(&b"ip"[..]));
        write(&mut fields, &verdict(false, 30), &QUOTA, u64::MAX, "user");
        let want = ["Limit: 100", "Remaining: 30", "Reset: 18446744073709551615", "Limit-Type: user"];
        assert_eq!(lines(&fields), want.map(|line| format!("X-RateLimit-{line}")));
    }

    #[test]
    fn seconds_are_rounded_up() {
        let mut fields = Fields::default();
        write_retry_after(&mut fields, &verdict(false, 0));
        write_draft(&mut fields, &verdict(false, 0), &QUOTA, 0);
        let want =
            ["Retry-After: 2", "RateLimit-Policy: \"60-per-60s\";q=100;w=60", "RateLimit: \"60-per-60s\";r=0;t=2"];
        assert_eq!(lines(&fields), want);
        assert_eq!(unix_seconds(ticks_of_ms(2_500), 1_000), 4);
        assert_eq!(QUOTA.to_string(), "60 per 60s (burst 100)");
    }
}
