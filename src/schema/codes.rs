//! The stable codes of diagnostics: `E…` refuses the file, `W…` lets it pass.

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $id:literal;)+) => {
        $($(#[doc = $meaning])+ pub const $name: &str = $id;)+

        /// Every code with its meaning, in the order of the reference page.
        pub const ALL: &[(&str, &[&str])] = &[$(($id, &[$($meaning),+])),+];
    };
}

codes! {
    /// The file cannot be read, is not UTF-8, or is larger than 16 MiB.
    UNREADABLE = "E0001";
    /// The file is not YAML (or JSON).
    SYNTAX = "E0002";
    /// A key stands twice in one mapping.
    DUPLICATE_KEY = "E0003";
    /// The document is nested too deeply, or too large once aliases are expanded.
    TOO_LARGE = "E0004";
    /// `${NAME}` names a variable that is not set and gives no default.
    UNSET_VARIABLE = "E0005";
    /// `${…}` is not of the form `${NAME}` or `${NAME:-default}`.
    BAD_SUBSTITUTION = "E0006";
    /// A value has the wrong kind: text where a list belongs, and the like.
    WRONG_TYPE = "E0101";
    /// A key that the schema does not know.
    UNKNOWN_KEY = "E0102";
    /// A key that must be given is missing.
    MISSING_KEY = "E0103";
    /// A value that cannot be read as what it should be.
    BAD_VALUE = "E0104";
    /// A number, time or size outside its range.
    OUT_OF_RANGE = "E0105";
    /// A word that is not among the allowed ones.
    UNKNOWN_WORD = "E0106";
    /// A time or size without its unit (C11).
    MISSING_UNIT = "E0107";
    /// A regular expression that does not compile.
    BAD_REGEX = "E0108";
    /// A secret's file cannot be read.
    BAD_SECRET = "E0109";
    /// A name that no policy has.
    UNKNOWN_POLICY = "E0110";
    /// A policy or section that this build does not contain.
    NOT_BUILT = "E0111";
    /// Keys that exclude each other stand together, or none of several alternatives stands.
    ALTERNATIVES = "E0112";
    /// A service is named that the file does not define.
    UNKNOWN_SERVICE = "E0201";
    /// A name is used twice.
    DUPLICATE_NAME = "E0202";
    /// A route has no answer (service, services, redirect, respond), or more than one.
    ROUTE_ANSWER = "E0203";
    /// A route has no path, or more than one form of it.
    ROUTE_PATH = "E0204";
    /// All weights are zero.
    ZERO_WEIGHTS = "E0205";
    /// Two listeners have the same address.
    DUPLICATE_ADDRESS = "E0206";
    /// A bound contradicts another one.
    CONTRADICTION = "E0207";
    /// A certificate, key, OCSP response or revocation list that cannot be used; the message names the file.
    BAD_CERTIFICATE = "E0208";
    /// A part of the `api_gateway` template that this build does not contain; the rest works.
    TEMPLATE_NOT_BUILT = "W0111";
    /// The admin listener can be reached from other machines.
    ADMIN_EXPOSED = "W0201";
    /// A service has no endpoints, so its routes answer 503.
    NO_ENDPOINTS = "W0202";
    /// Everyone is trusted to name the client's address.
    TRUSTS_EVERYONE = "W0203";
    /// A bucket is smaller than what its rate gives in one scheduling tick (C10).
    SMALL_BUCKET = "W0204";
    /// A secret stands in the file in plain text.
    PLAIN_SECRET = "W0205";
    /// A part of the file has no effect.
    NO_EFFECT = "W0206";
    /// An endpoint has an address that nobody can be reached at.
    BAD_ENDPOINT = "W0207";
    /// A method that no standard knows, and that is near to one.
    UNUSUAL_METHOD = "W0208";
    /// A route that no request reaches, since an earlier one takes the same requests.
    UNREACHABLE = "W0209";
    /// The name of an endpoint has no address at present.
    UNRESOLVED = "W0210";
    /// A certificate expires in less than 21 days, or has expired.
    CERTIFICATE_EXPIRES = "W0211";
    /// The certificates of endpoints are not verified.
    UNVERIFIED = "W0220";
}
