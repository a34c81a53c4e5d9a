//! HTTP/2 without I/O: what a peer may send to the codec, and blocks of fields.

use ringway::http::fields::Fields;
use ringway::http::name::Name;
use ringway::limits::{H2_FRAME_BYTES_MAX, H2_OUT_BYTES_MAX, H2_STREAMS_MAX, H2_TABLE_BYTES_MAX};
use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::core::{Core, Event, Role};
use ringway::proto::h2::frame;
use ringway::proto::h2::hpack::BadBlock;
use ringway::proto::h2::hpack::decode::{Decoder, Kind, Line, Progress};
use ringway::proto::h2::hpack::encode::Encoder;
use ringway::sys::buf::Buf;
use ringway::time::Now;

/// Memory besides buffers that one connection may hold: two tables of 4 KiB with their entries, and streams.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// The first byte says which role is asked, whether the preface is sent for the peer, and what becomes of streams; the
/// rest comes from the peer. However it is torn, the same happens, and what is held and sent in answer is bounded.
pub fn h2_frames(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let role = if how & 1 == 0 { Role::Server } else { Role::Client };
    let preface = if role == Role::Server && how & 2 == 0 { &frame::PREFACE[..] } else { b"" };
    let bytes = [preface, bytes].concat();
    let whole = peer(role, how, &bytes, usize::MAX);
    let torn = peer(role, how, &bytes, 1 + usize::from(how >> 3));
    assert_eq!(whole, torn, "torn, it means something else");
}

/// What came out of a connection on which the peer sends `bytes`, `step` at a time.
fn peer(role: Role, how: u8, bytes: &[u8], step: usize) -> Vec<String> {
    let now = Now::from_ms(1_000);
    let mut core = match role {
        Role::Server => Core::server(HeadLimits::default(), how & 4 != 0, now),
        Role::Client => Core::client(HeadLimits::default(), now),
    };
    sent(&mut core);
    if role == Role::Client {
        for _ in 0..3 {
            let head = |encoder: &mut Encoder, out: &mut Buf| {
                encoder.begin(out);
                encoder.method(out, b"GET");
                encoder.scheme(out, b"http");
                encoder.path(out, b"/");
            };
            core.open(how & 4 == 0, head);
        }
        sent(&mut core);
    }
    let (mut input, mut log) = (Buf::small(), Vec::new());
    let mut body_bytes = 0_usize;
    let mut answered = 0;
    for piece in bytes.chunks(step.min(8 * 1024)) {
        let mut more = Buf::large();
        more.extend(input.as_slice());
        more.extend(piece);
        input = more;
        loop {
            match core.receive(&mut input, now) {
                Ok(Some(event)) => {
                    body_bytes += react(&mut core, event, how, &mut log);
                    answered += sent(&mut core);
                }
                Ok(None) => break,
                Err(fatal) => {
                    log.push(format!("{fatal:?}"));
                    core.give_up(fatal);
                    sent(&mut core);
                    log.push(format!("{body_bytes} bytes of bodies"));
                    return log;
                }
            }
        }
        answered += sent(&mut core);
        assert!(core.held_bytes() <= HELD_BYTES_MAX, "{} bytes are held", core.held_bytes());
        assert!(core.streams() <= H2_STREAMS_MAX + 4, "{} streams", core.streams());
        assert!(input.len() <= H2_FRAME_BYTES_MAX + 9, "{} bytes are left lying", input.len());
    }
    assert!(answered <= 16 * bytes.len() + 4096, "{answered} bytes in answer to {}", bytes.len());
    log.push(format!("{body_bytes} bytes of bodies"));
    log
}

/// What a driver does with an event; how its body comes in pieces is not part of what is compared.
fn react(core: &mut Core, event: Event, how: u8, log: &mut Vec<String>) -> usize {
    match event {
        Event::Data { key, data, end } => {
            let length = data.len();
            core.taken(key, length);
            if end {
                log.push(format!("end of {}", key.id));
                core.release(key);
            }
            return length;
        }
        Event::Head { key, end, fault } => {
            let lines = core.section().lines.len();
            log.push(format!("head of {}: {end} {fault:?} {lines}", key.id));
            core.head_done(key);
            if (end && how & 4 == 0) || fault.is_some() {
                core.release(key);
            }
        }
        Event::Trailers { key, fault } => {
            log.push(format!("trailers of {}: {fault:?}", key.id));
            core.release(key);
        }
        Event::Reset { key, code, by_peer } => {
            log.push(format!("reset of {}: {code:?} {by_peer}", key.id));
            core.release(key);
        }
        other => log.push(format!("{other:?}")),
    }
    0
}

/// Takes what is to be sent; gives how much it was. It is whole frames, behind a client's preface.
fn sent(core: &mut Core) -> usize {
    let mut bytes = Vec::new();
    assert!(core.output_bytes() <= 2 * H2_OUT_BYTES_MAX, "{} bytes wait to be sent", core.output_bytes());
    while let Some(buf) = core.take_output() {
        bytes.extend_from_slice(buf.as_slice());
    }
    let mut rest = bytes.strip_prefix(&frame::PREFACE[..]).unwrap_or(&bytes);
    while !rest.is_empty() {
        let head = frame::Head::parse(rest).expect("a whole frame head");
        rest = rest.get(9 + head.length..).expect("a whole frame");
    }
    bytes.len()
}

/// Blocks, each behind a byte with its length in units of four: decoded one after the other, whole and in parts, then
/// written by an encoder and read again.
pub fn hpack(data: &[u8]) {
    let (mut decoder, mut encoder, mut reader) = (Decoder::default(), Encoder::default(), Decoder::default());
    let mut torn = Decoder::default();
    let mut rest = data;
    while let Some((&length, behind)) = rest.split_first() {
        let (block, next) = behind.split_at((4 * usize::from(length)).min(behind.len()));
        rest = next;
        let whole = decoded(&mut decoder, block);
        assert_eq!(decoded_in_parts(&mut torn, block, 1 + data.len() % 7), whole, "in parts, it means something else");
        assert!(whole.is_err() || torn.table_size() == decoder.table_size());
        let Ok(lines) = whole else { return };
        assert!(decoder.table_size() <= H2_TABLE_BYTES_MAX && decoder.held_bytes() <= HELD_BYTES_MAX);
        // What is no field has no place there, and secrets come back all the same.
        let lines: Vec<_> =
            lines.into_iter().filter(|(name, _)| !name.is_empty() && name[0] != b':').take(20).collect();
        let mut out = Buf::large();
        encoder.begin(&mut out);
        for (name, value) in &lines {
            encoder.field(&mut out, name, value, Name::of(name));
        }
        let again = decoded(&mut reader, out.as_slice()).expect("what the encoder writes is legal");
        assert_eq!(again, lines);
        assert_eq!(reader.table_size() <= H2_TABLE_BYTES_MAX, encoder.held_bytes() <= HELD_BYTES_MAX);
    }
}

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

/// The lines of a block up to its first fault.
fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Lines, ()> {
    lines_of(|out, limits, each| decoder.decode(block, out, limits, each).map(drop))
}

/// The same of a block that comes in parts.
fn decoded_in_parts(decoder: &mut Decoder, block: &[u8], step: usize) -> Result<Lines, ()> {
    lines_of(|out, limits, each| {
        let (mut progress, mut kept) = (Progress::default(), Vec::new());
        for part in block.chunks(step) {
            kept.extend_from_slice(part);
            if progress.fault().is_none() {
                let taken = decoder.decode_part(&mut progress, &kept, out, limits, each)?;
                kept.drain(..taken);
            }
        }
        decoder.decode_end(&mut progress, &kept, out, limits, each).map(drop)
    })
}

/// Who is told of a line.
type Each<'e> = &'e mut dyn FnMut(Line) -> Result<(), &'static str>;

fn lines_of(decode: impl FnOnce(&mut Buf, &HeadLimits, Each<'_>) -> Result<(), BadBlock>) -> Result<Lines, ()> {
    let (mut out, mut found) = (Buf::large(), Vec::new());
    let each = &mut |line: Line| {
        if !matches!(line.kind, Kind::Malformed(_)) {
            found.push(line);
        }
        Ok(())
    };
    let limits = HeadLimits::default();
    decode(&mut out, &limits, each).map_err(|_| ())?;
    assert!(out.len() <= limits.header_bytes_max);
    let mut fields = Fields::default();
    fields.set_buffer(out);
    let text = |text| fields.text(text).to_vec();
    Ok(found.into_iter().map(|line| (text(line.name), text(line.value))).collect())
}
