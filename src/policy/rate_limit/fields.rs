//! The response fields of a limit (R90 to R92, C13).

use std::fmt;

use super::rate::{TICKS_PER_NS, Ticks, Verdict, ms_of_ticks};
use crate::http::decimal::Decimal;
use crate::http::fields::{Fields, Line};

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

const LIMIT: &str = "X-RateLimit-Limit";
const REMAINING: &str = "X-RateLimit-Remaining: ";
const RESET: &str = "X-RateLimit-Reset: ";
const TYPE: &str = "X-RateLimit-Limit-Type";

/// The lines of a limit that say the same in each response.
#[derive(Clone, Debug)]
pub struct Lines {
    limit: Line,
    label: Line,
}

impl Lines {
    /// The lines of a limit that counts under `label`; None where that is no field value, which the schema refuses.
    pub fn of(quota: &Quota, label: &str) -> Option<Self> {
        let limit = Decimal::of(u64::from(quota.limit));
        let line = |name: &str, value| Line::new(name.as_bytes(), value).ok();
        Some(Self { limit: line(LIMIT, limit.as_bytes())?, label: line(TYPE, label.as_bytes())? })
    }
}

/// Writes `X-RateLimit-Limit`, `-Remaining`, `-Reset` (Unix seconds at which the quota is whole again) and
/// `-Limit-Type`. Of several limits the one with the fewest requests left speaks; a refusal always does.
#[inline]
pub fn write(fields: &mut Fields, verdict: &Verdict, lines: &Lines, full_at: u64) {
    if let Some(other) = fields.find(name(REMAINING)) {
        if verdict.admitted && number(other) <= u64::from(verdict.remaining) {
            return;
        }
        for name in [LIMIT.as_bytes(), name(REMAINING), name(RESET), TYPE.as_bytes()] {
            fields.remove(name);
        }
    }
    fields.append_line(&lines.limit);
    fields.append_number(REMAINING, u64::from(verdict.remaining));
    fields.append_number(RESET, full_at);
    fields.append_line(&lines.label);
}

/// The name of a line that is written as `name: `.
const fn name(head: &'static str) -> &'static [u8] {
    head.as_bytes().split_at(head.len() - 2).0
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
    // Digits are a legal value.
    let _ = fields.set(b"Retry-After", Decimal::of(seconds(verdict.retry).max(1)).as_bytes());
}

fn seconds(span: Ticks) -> u64 {
    span.div_ceil(1_000_000_000 * TICKS_PER_NS)
}

fn number(digits: &[u8]) -> u64 {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
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

    fn decimal(&mut self, value: u64) -> &mut Self {
        self.text(Decimal::of(value).as_bytes())
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
        let saying = |label| Lines::of(&QUOTA, label).expect("legal");
        write(&mut fields, &verdict(true, 10), &saying("ip"), 7);
        write(&mut fields, &verdict(true, 20), &saying("route"), 8);
        assert_eq!(fields.find(b"x-ratelimit-limit-type"), Some(&b"ip"[..]));
        write(&mut fields, &verdict(false, 30), &saying("user"), u64::MAX);
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
