//! Error codes (RFC 9113 section 7) and what ends a connection.

macro_rules! codes {
    ($( $(#[$doc:meta])+ $variant:ident = $value:literal, $word:literal; )+) => {
        /// An error code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Code { $( $(#[$doc])+ $variant = $value, )+ }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Code] = &[ $( Code::$variant, )+ ];

            /// The stable word, for logs and metrics.
            pub const fn word(self) -> &'static str {
                match self { $( Code::$variant => $word, )+ }
            }

            /// The code of a number; one that is not known counts as an internal error (RFC 9113 section 7).
            pub fn of(number: u32) -> Code {
                match number { $( $value => Code::$variant, )+ _ => Code::Internal }
            }
        }
    };
}

codes! {
    /// NO_ERROR
    NoError = 0, "no_error";
    /// PROTOCOL_ERROR
    Protocol = 1, "protocol_error";
    /// INTERNAL_ERROR
    Internal = 2, "internal_error";
    /// FLOW_CONTROL_ERROR
    FlowControl = 3, "flow_control_error";
    /// SETTINGS_TIMEOUT
    SettingsTimeout = 4, "settings_timeout";
    /// STREAM_CLOSED
    StreamClosed = 5, "stream_closed";
    /// FRAME_SIZE_ERROR
    FrameSize = 6, "frame_size_error";
    /// REFUSED_STREAM
    Refused = 7, "refused_stream";
    /// CANCEL
    Cancel = 8, "cancel";
    /// COMPRESSION_ERROR
    Compression = 9, "compression_error";
    /// CONNECT_ERROR
    Connect = 10, "connect_error";
    /// ENHANCE_YOUR_CALM
    Calm = 11, "enhance_your_calm";
    /// INADEQUATE_SECURITY
    Security = 12, "inadequate_security";
    /// HTTP_1_1_REQUIRED
    Http11 = 13, "http_1_1_required";
}

/// The connection cannot go on: GOAWAY with this code, and this text as its debug data, then the close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// What the peer is told.
    pub code: Code,
    /// Why, in a few words.
    pub why: &'static str,
    /// It is told so once, and not listened to any more.
    at_once: bool,
}

impl Fatal {
    /// An end with this code.
    pub const fn new(code: Code, why: &'static str) -> Self {
        Self { code, why, at_once: false }
    }

    /// The label of the metric.
    pub fn label(&self) -> &'static str {
        match (self.code, self.why) {
            (_, "header timeout") => "header_timeout",
            (Code::Calm, "too many resets") => "resets",
            (Code::Calm, "too many stream errors") => "stream_errors",
            (Code::Calm, "too many CONTINUATION frames" | "block of fields too large") => "continuation",
            (Code::Calm, "bomb of fields") => "bomb",
            (Code::Calm, "too many control frames") => "control",
            (Code::Calm, "too many empty DATA frames" | "too many tiny DATA frames") => "data",
            (Code::Protocol | Code::FlowControl | Code::FrameSize | Code::Compression | Code::StreamClosed, _) => {
                self.code.word()
            }
            _ => "other",
        }
    }

    /// Whether the peer has overdone it, or does what nobody does by accident: it is told so once, and not listened to
    /// any more.
    pub fn is_at_once(&self) -> bool {
        self.at_once
    }

    /// The usual one: PROTOCOL_ERROR.
    pub const fn protocol(why: &'static str) -> Self {
        Self::new(Code::Protocol, why)
    }

    /// A flood (F41 to F45): ENHANCE_YOUR_CALM.
    pub const fn flood(why: &'static str) -> Self {
        Self { code: Code::Calm, why, at_once: true }
    }

    /// A frame that no state of its stream and no timing makes right (F43). RFC 9113 lets its stream's error be the
    /// connection's (section 5.4.1).
    pub const fn breach(code: Code, why: &'static str) -> Self {
        Self { code, why, at_once: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_agree() {
        for (number, &code) in Code::ALL.iter().enumerate() {
            assert_eq!((Code::of(number as u32), code as u32), (code, number as u32));
        }
        assert_eq!(Code::of(4_711), Code::Internal);
    }
}
