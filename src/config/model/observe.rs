//! `logging` and `metrics`.

use crate::schema::types::{Fault, PathPattern, ScalarType};
use crate::schema::{Spanned, TypeDoc};
use crate::{config_enum, config_scalar, config_struct};

config_struct! {
    /// What is written about the process and its requests.
    pub struct Logging {
        /// The least important messages that are written.
        level: LogLevel = "info",
        /// How messages about the process are written.
        format: LogFormat = "text",
        /// One line for each request. A bare word means `{format: …}`.
        access_log: AccessLog = "{}",
    }
}

config_enum! {
    /// How important a message is.
    pub enum LogLevel {
        /// Something does not work.
        Error = "error",
        /// Something should be looked at.
        Warn = "warn" | "warning",
        /// What an operator wants to know: start, reload, stop.
        Info = "info",
        /// Closed connections, timeouts.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

config_enum! {
    /// How messages about the process are written.
    pub enum LogFormat {
        /// Lines for people.
        Text = "text",
        /// One JSON object for each line.
        Json = "json",
    }
}

config_struct! {
    /// One line for each request.
    #[shorthand(format)]
    pub struct AccessLog {
        /// Its form.
        format: AccessLogFormat = "off",
        /// Where it goes: `stdout`, `stderr` or a file.
        path: LogTarget = "stdout",
    }
}

config_enum! {
    /// The form of the access log.
    pub enum AccessLogFormat {
        /// None is written.
        Off = "off" | "none",
        /// One JSON object for each line.
        Json = "json",
        /// The Common Log Format.
        Common = "common",
        /// The same with referrer and user agent.
        Combined = "combined",
    }
}

/// Where a log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The file at this path.
    File(String),
}

impl ScalarType for LogTarget {
    const WANTED: &'static str = "a place for a log";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "stdout" | "-" => Ok(LogTarget::Stdout),
            "stderr" => Ok(LogTarget::Stderr),
            path if path.contains('/') && !path.contains('\0') => Ok(LogTarget::File(path.to_owned())),
            word => Err(match crate::schema::suggest::nearest(word, ["stdout", "stderr"]) {
                Some(near) => Fault::hint(format!("did you mean `{near}`?")),
                None => Fault::hint(format!("write `stdout`, `stderr` or a path such as ./{word}")),
            }),
        }
    }

    fn show(&self) -> String {
        match self {
            LogTarget::Stdout => "stdout".to_owned(),
            LogTarget::Stderr => "stderr".to_owned(),
            LogTarget::File(path) => path.clone(),
        }
    }

    fn document() -> TypeDoc {
        TypeDoc::text("log target", "stdout, stderr, or a path with a slash", None)
    }
}

config_scalar!(LogTarget);

config_struct! {
    /// What is counted.
    pub struct Metrics {
        /// Whether the admin listener shows metrics.
        enabled: bool = "true",
        /// Under which path (R260).
        endpoint: Spanned<PathPattern> = "/metrics",
        /// Whether metrics also appear under the names of older gateways (C36).
        compat_names: bool = "false",
    }
}
