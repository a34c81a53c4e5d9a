//! The record layer after the handshake, in place in pooled buffers: pure, no byte of a record is copied to seal or
//! to open it.
//!
//! rustls makes the keys and hands them over ([`rustls::kernel`]); its own record layer allocates and copies each
//! record once in each direction.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

use crate::sys::buf::Buf;

/// Most plaintext of one record (RFC 8446 section 5.1).
pub const FRAGMENT_BYTES_MAX: usize = 16 * 1024;
/// Type, version and length.
pub const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// What a record of TLS 1.2 may be longer than its plaintext; less in 1.3 (RFC 5246 section 6.2.3).
const EXPANSION_BYTES_MAX: usize = 2048;
const EXPLICIT_NONCE_BYTES: usize = 8;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    /// An alert.
    Alert = 21,
    /// Messages of the handshake protocol.
    Handshake = 22,
    /// Application data.
    Data = 23,
}

impl Content {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::Data),
            _ => None,
        }
    }
}

/// Why a connection ends: the alert that says it to the peer (RFC 8446 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// No more comes.
    CloseNotify = 0,
    /// A message that has no place here.
    UnexpectedMessage = 10,
    /// A record that was not sealed by the peer, or not in this place.
    BadRecordMac = 20,
    /// A record longer than allowed.
    RecordOverflow = 22,
    /// A message that cannot be read.
    DecodeError = 50,
    /// A fault of our own.
    InternalError = 80,
}

/// How records of a connection are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// TLS 1.3: the type is sealed with the data.
    Tls13,
    /// TLS 1.2 with AES-GCM: a part of the nonce stands in the record (RFC 5288).
    Tls12Explicit,
    /// TLS 1.2 with ChaCha20-Poly1305 (RFC 7905).
    Tls12,
}

impl Form {
    /// Bytes before the sealed part.
    const fn before(self) -> usize {
        match self {
            Self::Tls12Explicit => HEADER_BYTES + EXPLICIT_NONCE_BYTES,
            _ => HEADER_BYTES,
        }
    }

    /// Bytes behind the data.
    const fn behind(self) -> usize {
        match self {
            Self::Tls13 => 1 + TAG_BYTES,
            _ => TAG_BYTES,
        }
    }
}

/// The keys of one direction.
struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    form: Form,
    sequence: u64,
}

impl Keys {
    fn new(secrets: &ConnectionTrafficSecrets, sequence: u64, tls13: bool) -> Option<Self> {
        let (algorithm, key, iv, explicit) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, true),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv, true),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv, false),
            _ => return None,
        };
        let form = match (tls13, explicit) {
            (true, _) => Form::Tls13,
            (false, true) => Form::Tls12Explicit,
            (false, false) => Form::Tls12,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?);
        Some(Self { key, iv: iv.as_ref().try_into().ok()?, form, sequence })
    }

    /// The initial vector with the number of the record (RFC 8446 section 5.3). rustls numbers the explicit nonces of
    /// TLS 1.2 in the same way, and the numbers go on from its last record.
    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// What is authenticated beside the data; `sealed_bytes` is the length in the header.
    fn aad(&self, content: u8, data_bytes: usize, sealed_bytes: usize) -> ([u8; 13], usize) {
        let mut aad = [0; 13];
        if self.form == Form::Tls13 {
            aad[..HEADER_BYTES].copy_from_slice(&header(Content::Data as u8, sealed_bytes));
            return (aad, HEADER_BYTES);
        }
        aad[..8].copy_from_slice(&self.sequence.to_be_bytes());
        aad[8..].copy_from_slice(&header(content, data_bytes));
        (aad, 13)
    }
}

fn header(content: u8, bytes: usize) -> [u8; HEADER_BYTES] {
    let [high, low] = (bytes as u16).to_be_bytes();
    [content, 3, 3, high, low]
}

/// Length of the record at the beginning of `bytes`, its header included; None while too little of it is there.
///
/// # Errors
/// What is no record.
pub fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, Alert> {
    match *bytes {
        [content, ..] if !(20..=24).contains(&content) => Err(Alert::UnexpectedMessage),
        [_, major, ..] if major != 3 => Err(Alert::DecodeError),
        [_, _, _, high, low, ..] => match usize::from(u16::from_be_bytes([high, low])) {
            long if long > FRAGMENT_BYTES_MAX + EXPANSION_BYTES_MAX => Err(Alert::RecordOverflow),
            length => Ok(Some(HEADER_BYTES + length)),
        },
        _ => Ok(None),
    }
}

/// Seals records.
pub struct Sealer(Keys);

impl Sealer {
    /// Takes over the keys of the sending direction; None for a cipher that is unknown here.
    pub fn new(secrets: &ConnectionTrafficSecrets, sequence: u64, tls13: bool) -> Option<Self> {
        Keys::new(secrets, sequence, tls13).map(Self)
    }

    /// Whether the peers speak TLS 1.3.
    pub fn is_tls13(&self) -> bool {
        self.0.form == Form::Tls13
    }

    /// Records sealed under the present key.
    pub fn sealed(&self) -> u64 {
        self.0.sequence
    }

    /// Bytes before the data in the first record.
    pub fn before(&self) -> usize {
        self.0.form.before()
    }

    /// Makes records of the window, in place where the buffer has head and tail room: as many as it takes. All but the
    /// last fragment are moved to the front by what stands between two.
    ///
    /// # Errors
    /// A failure of the cipher itself.
    pub fn seal(&mut self, buf: Buf, content: Content) -> Result<Buf, Alert> {
        let (before, behind) = (self.0.form.before(), self.0.form.behind());
        let fragments = buf.len().div_ceil(FRAGMENT_BYTES_MAX).max(1);
        let (data_bytes, moved) = (buf.len(), (fragments - 1) * (before + behind));
        let mut buf = with_front(buf, before + moved);
        // The last fragment stays; room behind it.
        buf.extend(&[0; HEADER_BYTES + EXPLICIT_NONCE_BYTES + 1 + TAG_BYTES][..behind]);
        let whole = buf.as_mut_slice();
        let mut at = 0;
        for fragment in 0..fragments {
            let from = before + moved + fragment * FRAGMENT_BYTES_MAX;
            let length = (data_bytes - fragment * FRAGMENT_BYTES_MAX).min(FRAGMENT_BYTES_MAX);
            if from != at + before {
                whole.copy_within(from..from + length, at + before);
            }
            let record = before + length + behind;
            self.seal_one(&mut whole[at..at + record], content)?;
            at += record;
        }
        debug_assert_eq!(at, whole.len());
        Ok(buf)
    }

    /// Seals one record whose data stand at their place.
    fn seal_one(&mut self, record: &mut [u8], content: Content) -> Result<(), Alert> {
        let Keys { form, .. } = self.0;
        let nonce = self.0.nonce();
        let sealed_bytes = record.len() - HEADER_BYTES;
        let data_bytes = record.len() - form.before() - form.behind();
        let (aad, aad_bytes) = self.0.aad(content as u8, data_bytes, sealed_bytes);
        let outer = if form == Form::Tls13 { Content::Data } else { content };
        record[..HEADER_BYTES].copy_from_slice(&header(outer as u8, sealed_bytes));
        match form {
            Form::Tls13 => record[HEADER_BYTES + data_bytes] = content as u8,
            Form::Tls12Explicit => record[HEADER_BYTES..form.before()].copy_from_slice(&nonce[4..]),
            Form::Tls12 => {}
        }
        let (in_out, tag_room) = record[form.before()..].split_at_mut(data_bytes + form.behind() - TAG_BYTES);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.key.seal_in_place_separate_tag(nonce, Aad::from(&aad[..aad_bytes]), in_out);
        tag_room.copy_from_slice(tag.map_err(|_| Alert::InternalError)?.as_ref());
        self.0.sequence += 1;
        Ok(())
    }
}

/// The same window with so many bytes before it, in place where there is head room.
fn with_front(mut buf: Buf, bytes: usize) -> Buf {
    const ZEROS: [u8; 1024] = [0; 1024];
    if bytes <= ZEROS.len() && buf.prepend(&ZEROS[..bytes]) {
        return buf;
    }
    let mut moved = Buf::with_room(bytes + buf.len() + TAG_BYTES + 1);
    for _ in 0..bytes.div_ceil(ZEROS.len()) {
        moved.extend(&ZEROS[..(bytes - moved.len()).min(ZEROS.len())]);
    }
    moved.extend(buf.as_slice());
    moved
}

/// An opened record: its data are `bytes[start..start + length]` of what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What it carries.
    pub content: Content,
    /// Where its data begin.
    pub start: usize,
    /// Their length.
    pub length: usize,
}

/// Opens records.
pub struct Opener(Keys);

impl Opener {
    /// As [`Sealer::new`], for the receiving direction.
    pub fn new(secrets: &ConnectionTrafficSecrets, sequence: u64, tls13: bool) -> Option<Self> {
        Keys::new(secrets, sequence, tls13).map(Self)
    }

    /// Opens a whole record in place.
    ///
    /// # Errors
    /// The alert to send: the connection is over.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, Alert> {
        let Keys { form, .. } = self.0;
        let outer = record.first().copied().and_then(Content::of).ok_or(Alert::UnexpectedMessage)?;
        if form == Form::Tls13 && outer != Content::Data {
            return Err(Alert::UnexpectedMessage);
        }
        let start = form.before();
        let inner = record.len().checked_sub(start + TAG_BYTES).ok_or(Alert::BadRecordMac)?;
        let most = FRAGMENT_BYTES_MAX + usize::from(form == Form::Tls13);
        if inner > most {
            return Err(Alert::RecordOverflow);
        }
        let mut nonce = self.0.nonce();
        if form == Form::Tls12Explicit {
            nonce[4..].copy_from_slice(&record[HEADER_BYTES..start]);
            nonce[..4].copy_from_slice(&self.0.iv[..4]);
        }
        let (mut aad, aad_bytes) = self.0.aad(outer as u8, inner, record.len() - HEADER_BYTES);
        if form == Form::Tls13 {
            // The header as it came: a version that nobody reads is authenticated too.
            aad[..HEADER_BYTES].copy_from_slice(&record[..HEADER_BYTES]);
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.0.key.open_in_place(nonce, Aad::from(&aad[..aad_bytes]), &mut record[start..]);
        let data = opened.map_err(|_| Alert::BadRecordMac)?;
        self.0.sequence += 1;
        if form != Form::Tls13 {
            return Ok(Opened { content: outer, start, length: inner });
        }
        // Behind the data: their type, then padding of zeros (RFC 8446 section 5.4).
        let at = data.iter().rposition(|byte| *byte != 0).ok_or(Alert::UnexpectedMessage)?;
        let content = Content::of(data[at]).ok_or(Alert::UnexpectedMessage)?;
        Ok(Opened { content, start, length: at })
    }
}
