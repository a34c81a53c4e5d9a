//! Times, sizes, rates, shares: always with their unit (C11, U41).

use std::ops::Deref;
use std::time;

use serde_json::Value as Json;

use super::{Fault, ScalarType, decode_scalar};
use crate::schema::codes;
use crate::schema::decode::{Cx, Decode};
use crate::schema::doc::TypeDoc;
use crate::schema::node::Node;

/// Longest duration.
pub const DURATION_MAX: time::Duration = time::Duration::from_secs(366 * 24 * 3600);

/// A time span: `250ms`, `30s`, `1h30m`. At least `MIN_MS` milliseconds, at most [`DURATION_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration<const MIN_MS: u64 = 1>(time::Duration);

impl<const MIN_MS: u64> Duration<MIN_MS> {
    /// The standard library's form.
    pub fn get(self) -> time::Duration {
        self.0
    }
}

impl<const MIN_MS: u64> Deref for Duration<MIN_MS> {
    type Target = time::Duration;
    fn deref(&self) -> &time::Duration {
        &self.0
    }
}

impl<const MIN_MS: u64> ScalarType for Duration<MIN_MS> {
    const WANTED: &'static str = "a duration";

    fn parse(text: &str) -> Result<Self, Fault> {
        let value = parse_duration(text)?;
        let min = time::Duration::from_millis(MIN_MS);
        if value < min || value > DURATION_MAX {
            let (min, max) = (show_duration(min), show_duration(DURATION_MAX));
            let message = format!("`{text}` is out of range: allowed is {min} to {max}");
            return Err(Fault::message(message).code(codes::OUT_OF_RANGE));
        }
        Ok(Duration(value))
    }

    fn show(&self) -> String {
        show_duration(self.0)
    }

    fn document() -> TypeDoc {
        let range =
            format!("{} to {}", show_duration(time::Duration::from_millis(MIN_MS)), show_duration(DURATION_MAX));
        TypeDoc::text("duration", &range, Some(r"^([0-9]+(us|ms|s|m|h|d))+$"))
    }
}

impl<const MIN_MS: u64> Decode for Duration<MIN_MS> {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        decode_scalar(node, cx)
    }

    fn dump(&self) -> Json {
        Json::from(self.show())
    }

    fn describe() -> TypeDoc {
        Self::document()
    }
}

/// Units from the largest, with their nanoseconds.
const TIME_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

fn parse_duration(text: &str) -> Result<time::Duration, Fault> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let hint = format!("write `{text}s` for seconds (units: us, ms, s, m, h, d)");
        return Err(Fault::message(format!("`{text}` has no unit")).code(codes::MISSING_UNIT).and_hint(hint));
    }
    let parts = split_units(text).ok_or_else(|| duration_fault(text))?;
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    for (number, unit) in parts {
        let Some(&(_, size)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(duration_fault(text));
        };
        if size >= last {
            return Err(Fault::hint("write the larger unit first and each unit once, as in 1h30m"));
        }
        last = size;
        let part = number.checked_mul(size).and_then(|part| total.checked_add(part));
        total = part.ok_or_else(|| Fault::message(format!("`{text}` is too long")).code(codes::OUT_OF_RANGE))?;
    }
    Ok(time::Duration::from_nanos(total))
}

fn duration_fault(text: &str) -> Fault {
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if let Some(parts) = split_units(&compact) {
        let fixed: Option<String> = parts
            .iter()
            .map(|(number, unit)| long_unit(unit, LONG_TIME_UNITS).map(|unit| format!("{number}{unit}")))
            .collect();
        if let Some(fixed) = fixed {
            return Fault::hint(format!("did you mean `{fixed}`?"));
        }
    }
    Fault::hint("write it as 250ms, 30s, 5m or 1h30m")
}

const LONG_TIME_UNITS: &[(&str, &[&str])] = &[
    ("us", &["us", "µs", "usec", "micros", "microseconds"]),
    ("ms", &["ms", "msec", "msecs", "milli", "millis", "millisecond", "milliseconds"]),
    ("s", &["s", "sec", "secs", "second", "seconds", "S"]),
    ("m", &["m", "min", "mins", "minute", "minutes", "M"]),
    ("h", &["h", "hr", "hrs", "hour", "hours", "H"]),
    ("d", &["d", "day", "days", "D"]),
];

const LONG_SIZE_UNITS: &[(&str, &[&str])] = &[
    ("B", &["B", "b", "byte", "bytes"]),
    ("KiB", &["KiB", "k", "K", "kb", "KB", "kB", "kib", "Ki"]),
    ("MiB", &["MiB", "m", "M", "mb", "MB", "mB", "mib", "Mi"]),
    ("GiB", &["GiB", "g", "G", "gb", "GB", "gB", "gib", "Gi"]),
];

fn long_unit(unit: &str, table: &[(&'static str, &[&str])]) -> Option<&'static str> {
    let found = table.iter().find(|(_, names)| names.contains(&unit))?;
    Some(found.0)
}

/// `1h30m` as numbers with units; none when it is not that.
fn split_units(text: &str) -> Option<Vec<(u64, &str)>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        parts.push((number, &tail[..end]));
        rest = &tail[end..];
    }
    (!parts.is_empty()).then_some(parts)
}

fn show_duration(value: time::Duration) -> String {
    let mut rest = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (unit, size) in TIME_UNITS {
        if rest >= *size {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// A number of bytes: `512B`, `64KiB`, `10MiB`, `1GiB`. At most 2^40.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// This many bytes; at most 1024GiB.
    pub fn of(bytes: u64) -> Self {
        Self(bytes.min(BYTE_SIZE_MAX))
    }

    /// The number of bytes.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// Largest [`ByteSize`].
const BYTE_SIZE_MAX: u64 = 1 << 40;

const SIZE_UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl ScalarType for ByteSize {
    const WANTED: &'static str = "a size in bytes";

    fn parse(text: &str) -> Result<Self, Fault> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let bytes = text.parse().ok().filter(|bytes| *bytes <= BYTE_SIZE_MAX).map(ByteSize);
            let shown = bytes.map_or_else(|| format!("{text}B"), |size| size.show());
            let hint = format!("write `{shown}` (units: B, KiB, MiB, GiB)");
            return Err(Fault::message(format!("`{text}` has no unit")).code(codes::MISSING_UNIT).and_hint(hint));
        }
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let parts = split_units(&compact).unwrap_or_default();
        let [(number, unit)] = parts.as_slice() else {
            return Err(Fault::hint("write it as 512B, 64KiB or 10MiB"));
        };
        let Some((_, size)) = SIZE_UNITS.iter().find(|(name, _)| name == unit).filter(|_| compact == text) else {
            return Err(match long_unit(unit, LONG_SIZE_UNITS) {
                Some(unit) => Fault::hint(format!("did you mean `{number}{unit}`?")),
                None => Fault::hint("write it as 512B, 64KiB or 10MiB"),
            });
        };
        match number.checked_mul(*size) {
            Some(bytes) if bytes <= BYTE_SIZE_MAX => Ok(ByteSize(bytes)),
            _ => Err(Fault::message(format!("`{text}` is too large: at most 1024GiB")).code(codes::OUT_OF_RANGE)),
        }
    }

    fn show(&self) -> String {
        let fits = SIZE_UNITS.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        let (unit, size) = fits.copied().unwrap_or(("B", 1));
        format!("{}{unit}", self.0 / size)
    }

    fn document() -> TypeDoc {
        TypeDoc::text("size", "0B to 1024GiB", Some(r"^[0-9]+(B|KiB|MiB|GiB)$"))
    }
}

/// A share of the whole: `25%`, `0.5%`. From 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// From 0 to 100.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl ScalarType for Percent {
    const WANTED: &'static str = "a percentage";

    fn parse(text: &str) -> Result<Self, Fault> {
        let Some(number) = text.strip_suffix('%') else {
            let is_number = text.parse::<f64>().is_ok_and(f64::is_finite);
            let fault = Fault::hint(if is_number { format!("write `{text}%`") } else { "write it as 25%".to_owned() });
            return Err(if is_number { fault.code(codes::MISSING_UNIT) } else { fault });
        };
        match number.parse::<f64>() {
            Ok(value) if (0.0..=100.0).contains(&value) => Ok(Percent(value)),
            Ok(_) => Err(Fault::message(format!("`{text}` is not between 0% and 100%")).code(codes::OUT_OF_RANGE)),
            Err(_) => Err(Fault::hint("write it as 25%")),
        }
    }

    fn show(&self) -> String {
        format!("{}%", self.0)
    }

    fn document() -> TypeDoc {
        TypeDoc::text("percentage", "0% to 100%", Some(r"^[0-9]+(\.[0-9]+)?%$"))
    }
}

/// So many in such a time: `100/s`, `60/m`, `5000/h`, `10/250ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; from 1 to 2^32 - 1.
    pub count: u32,
    /// In which time.
    pub per: time::Duration,
}

impl Rate {
    /// How many in one second.
    pub fn per_second(self) -> f64 {
        f64::from(self.count) / self.per.as_secs_f64()
    }
}

impl ScalarType for Rate {
    const WANTED: &'static str = "a rate";

    fn parse(text: &str) -> Result<Self, Fault> {
        let form = "write it as 100/s, 60/m or 5000/h";
        let Some((count, per)) = text.split_once('/') else {
            let bare = text.parse::<u32>().is_ok();
            let fault =
                Fault::hint(if bare { format!("write `{text}/s`, `{text}/m` or `{text}/h`") } else { form.into() });
            return Err(if bare { fault.code(codes::MISSING_UNIT) } else { fault });
        };
        let count = count.trim().parse::<u32>().ok().filter(|count| *count > 0).ok_or_else(|| Fault::hint(form))?;
        let per = per.trim();
        let with_number =
            if per.starts_with(|c: char| c.is_ascii_digit()) { per.to_owned() } else { format!("1{per}") };
        match parse_duration(&with_number) {
            Ok(per) if !per.is_zero() && per <= DURATION_MAX => Ok(Rate { count, per }),
            _ => Err(Fault::hint(form)),
        }
    }

    fn show(&self) -> String {
        let per = show_duration(self.per);
        let unit = per.strip_prefix('1').filter(|unit| !unit.contains(|c: char| c.is_ascii_digit()));
        format!("{}/{}", self.count, unit.unwrap_or(&per))
    }

    fn document() -> TypeDoc {
        TypeDoc::text("rate", "such as 100/s, 60/m, 5000/h", Some(r"^[0-9]+ */ *([0-9]*(us|ms|s|m|h|d))+$"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_of<T: ScalarType>(text: &str) -> String {
        T::parse(text).err().and_then(|fault| fault.hint).unwrap_or_default()
    }

    #[test]
    fn durations_need_units_and_suggest_them() {
        let ms = |text: &str| Duration::<0>::parse(text).map(|d| d.as_millis()).unwrap_or(u128::MAX);
        assert_eq!([ms("250ms"), ms("30s"), ms("1h30m"), ms("0s")], [250, 30_000, 5_400_000, 0]);
        for bad in ["", "s", "-1s", "1.5s", "30m1h", "1s1s", "99999999999999999999s", "1 s", "400d"] {
            assert!(Duration::<0>::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Duration::<1>::parse("0s").map_err(|fault| fault.code), Err(codes::OUT_OF_RANGE));
        assert_eq!(Duration::<1>::parse("30").map_err(|fault| fault.code), Err(codes::MISSING_UNIT));
        assert_eq!(hint_of::<Duration>("10 secs"), "did you mean `10s`?");
        assert!(hint_of::<Duration>("30").contains("`30s`"));
    }

    #[test]
    fn sizes_need_binary_units() {
        assert_eq!(ByteSize::parse("10MiB").map(ByteSize::get), Ok(10 << 20));
        assert_eq!(hint_of::<ByteSize>("10MB"), "did you mean `10MiB`?");
        assert_eq!(hint_of::<ByteSize>("8k"), "did you mean `8KiB`?");
        assert_eq!(hint_of::<ByteSize>("8 KiB"), "did you mean `8KiB`?");
        assert!(ByteSize::parse("1025GiB").is_err());
    }

    #[test]
    fn shown_forms_read_back() {
        for text in ["1h30m", "250ms", "0s", "1d", "5us"] {
            assert_eq!(Duration::<0>::parse(text).map(|d| d.show()), Ok(text.to_owned()));
        }
        for text in ["0B", "512B", "1KiB", "10MiB", "1GiB", "1025B"] {
            assert_eq!(ByteSize::parse(text).map(|s| s.show()), Ok(text.to_owned()));
        }
        for text in ["100/s", "60/m", "10/250ms", "1/1h30m"] {
            assert_eq!(Rate::parse(text).map(|r| r.show()), Ok(text.to_owned()));
        }
        assert_eq!(Rate::parse("60/m").map(Rate::per_second), Ok(1.0));
    }
}
