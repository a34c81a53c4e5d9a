//! The access log's writer, which follows the configuration.

use std::time::Duration;

use super::super::source::Ready;
use crate::config::model::{self, AccessLogFormat, LogTarget};
use crate::telemetry::access_log::{AccessLog, AccessLogWriter, Format, Target};

/// The access log's writer; a reload that changes where or how is logged gets another one.
#[derive(Default)]
pub struct AccessLogs {
    present: Option<(model::AccessLog, AccessLogWriter)>,
}

/// What the access log is to become.
pub enum LogChange {
    /// What it is.
    Stay,
    /// Nothing is logged.
    Off,
    /// Another writer.
    To(Box<(model::AccessLog, AccessLogWriter)>),
}

impl AccessLogs {
    /// What is to become of the log, and the logs of all workers if they are different from the present ones, which
    /// stay as they are.
    ///
    /// # Errors
    /// Why the log cannot be written.
    pub fn prepare(&self, ready: &Ready, workers: usize) -> Result<(LogChange, Option<Vec<AccessLog>>), String> {
        let wanted = &ready.loaded.config.logging.access_log;
        if self.present.as_ref().is_some_and(|(present, _)| same_log(present, wanted)) {
            return Ok((LogChange::Stay, None));
        }
        let format = match wanted.format {
            AccessLogFormat::Off => {
                let was_on = self.present.is_some();
                let logs = was_on.then(|| (0..workers).map(|_| AccessLog::off()).collect());
                return Ok((LogChange::Off, logs));
            }
            AccessLogFormat::Json => Format::Json,
            AccessLogFormat::Common => Format::Common,
            AccessLogFormat::Combined => Format::Combined,
        };
        let target = match &wanted.path {
            LogTarget::Stdout => Target::Stdout,
            LogTarget::Stderr => Target::Stderr,
            LogTarget::File(path) => Target::File(path.into()),
        };
        let writer = AccessLogWriter::start(target, format, workers)
            .map_err(|error| format!("cannot write the access log: {error}"))?;
        let logs = (0..workers).map(|worker| writer.worker(worker as u32)).collect();
        Ok((LogChange::To(Box::new((wanted.clone(), writer))), Some(logs)))
    }

    /// Makes the change, once the workers have their logs. The writer before ends with the last log that uses it.
    pub fn change(&mut self, change: LogChange) {
        match change {
            LogChange::Stay => {}
            LogChange::Off => self.present = None,
            LogChange::To(next) => self.present = Some(*next),
        }
    }

    /// The log of one worker that is started again.
    pub fn worker(&self, worker: u32) -> Option<AccessLog> {
        self.present.as_ref().map(|(_, writer)| writer.worker(worker))
    }

    /// Opens the log file anew.
    pub fn reopen(&self) {
        if let Some((_, writer)) = &self.present {
            writer.reopen();
        }
    }

    /// Writes what is left, for at most `timeout`.
    pub fn finish(&mut self, timeout: Duration) {
        if let Some((_, writer)) = self.present.take() {
            writer.stop(timeout);
        }
    }
}

fn same_log(one: &model::AccessLog, other: &model::AccessLog) -> bool {
    one.format == other.format && one.path == other.path
}
