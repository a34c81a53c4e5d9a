//! Blocks of fields, whole or in parts.
//!
//! Nearly every block is one frame, and decoded as a whole. One that goes on in CONTINUATION frames is decoded as it
//! comes, its frames too: its lines stand in the section, and of its own bytes nothing is kept but the beginning of a
//! line. So a client's block that is malformed ends with the connection where it is found, not where it is whole.
//! Behind any other fault what comes is kept as it is, within the bounds of a block, and decoded when that is whole.

use super::super::code::{Code, Fatal};
use super::super::frame::{self, END_HEADERS, END_STREAM, Head, Kind};
use super::super::hpack::BadBlock;
use super::super::hpack::decode::{Fault, Progress};
use super::receive::Received;
use super::{Core, Role, Section};
use crate::limits::H2_CONTINUATIONS_MAX;
use crate::sys::buf::Buf;
use crate::time::Now;

/// A block that is not whole yet.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    progress: Progress,
    /// What has come and was not decoded: the beginning of a line, or all that is behind a fault.
    rest: Buf,
    /// Bytes of it that have come, or that the head of a frame has told of.
    bytes: usize,
    continuations: u32,
    /// Bytes that are still to come of a frame that it does not end with.
    left: usize,
    end_stream: bool,
    depends_on: Option<u32>,
}

impl Block {
    /// Bounds of what may still be added to it (F42), by the frame's head alone: its payload is not waited for.
    pub(super) fn check(&self, head: Head, header_bytes_max: usize) -> Result<(), Fatal> {
        if self.continuations >= H2_CONTINUATIONS_MAX {
            return Err(Fatal::flood("too many CONTINUATION frames"));
        }
        if self.bytes + head.length > header_bytes_max + BLOCK_EXTRA_BYTES {
            return Err(Fatal::flood("block of fields too large"));
        }
        Ok(())
    }
}

/// A block may have this much over the bound of a decoded section.
const BLOCK_EXTRA_BYTES: usize = 1024;

/// Whether it is a frame that goes on with a block and does not end it: that one is taken piece by piece.
pub(super) fn is_middle(head: Head) -> bool {
    head.kind == Kind::Continuation && !head.has(END_HEADERS)
}

impl Core {
    pub(super) fn headers(&mut self, head: Head, payload: &[u8], now: Now) -> Received {
        let frame::Headers { fragment, depends_on } = frame::headers(head, payload)?;
        let end_stream = head.has(END_STREAM);
        self.section.lines.clear();
        self.section.buf = Buf::small();
        if head.has(END_HEADERS) {
            let fault = self.decode_end(&mut Progress::default(), fragment)?;
            return self.block(head.stream, end_stream, depends_on, fault, now);
        }
        let mut block = Block {
            stream: head.stream,
            progress: Progress::default(),
            rest: Buf::empty(),
            bytes: fragment.len(),
            continuations: 0,
            left: 0,
            end_stream,
            depends_on,
        };
        self.decode_part(&mut block, fragment)?;
        self.block = Some(Box::new(block));
        Ok(None)
    }

    /// A frame has begun that a block goes on with and does not end with.
    pub(super) fn begin_block_pieces(&mut self, head: Head) {
        debug_assert!(is_middle(head) && self.block.is_some());
        if let Some(block) = &mut self.block {
            block.continuations += 1;
            block.bytes += head.length;
            block.left = head.length;
        }
    }

    /// Takes what has come of such a frame. Returns whether that is all of it.
    pub(super) fn block_piece(&mut self, input: &mut Buf) -> Result<bool, Fatal> {
        let Some(mut block) = self.block.take() else { return Ok(true) };
        let count = block.left.min(input.len());
        if count > 0 {
            block.left -= count;
            self.decode_part(&mut block, &input.as_slice()[..count])?;
            input.consume(count);
        }
        let is_all = block.left == 0;
        self.block = Some(block);
        Ok(is_all)
    }

    /// The frame that a block ends with.
    pub(super) fn continuation(&mut self, payload: &[u8], now: Now) -> Received {
        let Some(mut block) = self.block.take() else { return Err(Fatal::protocol("CONTINUATION of nothing")) };
        let fault = if block.rest.is_empty() {
            self.decode_end(&mut block.progress, payload)?
        } else {
            block.rest.extend(payload);
            self.decode_end(&mut block.progress, block.rest.as_slice())?
        };
        self.block(block.stream, block.end_stream, block.depends_on, fault, now)
    }

    fn decode_end(&mut self, progress: &mut Progress, rest: &[u8]) -> Result<Option<Fault>, Fatal> {
        let Section { buf, lines } = &mut self.section;
        let decoded = self.decoder.decode_end(progress, rest, buf, &self.limits, &mut |line| {
            lines.push(line);
            Ok(())
        });
        decoded.map_err(BadBlock::fatal)
    }

    /// Decodes what has come as far as its lines are whole, and keeps the rest.
    fn decode_part(&mut self, block: &mut Block, part: &[u8]) -> Result<(), Fatal> {
        if block.progress.fault().is_some() {
            block.rest.extend(part);
            return Ok(());
        }
        let is_torn = !block.rest.is_empty();
        if is_torn {
            block.rest.extend(part);
        }
        let bytes = if is_torn { block.rest.as_slice() } else { part };
        let Section { buf, lines } = &mut self.section;
        let decoded = self.decoder.decode_part(&mut block.progress, bytes, buf, &self.limits, &mut |line| {
            lines.push(line);
            Ok(())
        });
        let count = decoded.map_err(BadBlock::fatal)?;
        if is_torn {
            block.rest.consume(count);
        } else {
            block.rest.clear();
            block.rest.extend(&part[count..]);
        }
        match block.progress.fault() {
            // No intermediary forwards such a message (RFC 9113 section 8.1.1), so that it is the client's own.
            Some(Fault::Malformed(why)) if self.role == Role::Server => Err(Fatal::breach(Code::Protocol, why)),
            _ => Ok(()),
        }
    }

    /// Gives back what the last section was written to.
    pub fn give_section_back(&mut self) {
        if self.block.is_none() {
            self.section.buf = Buf::empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{client, feed, frames, get, output, raw, server};
    use super::super::{Event, Kind};
    use super::*;
    use crate::http::fields::Fields;
    use crate::limits::{FIELD_BYTES_MAX, FIELDS_MAX, HEADER_BYTES_MAX};
    use crate::proto::h2::hpack::integer;

    const NOW: Now = Now::from_ms(0);
    /// `GET http://a/` and a field that enters the table.
    const HEAD: &[u8] = b"\x82\x86\x84\x01\x01a\x40\x01n\x01v";
    /// A reference to the newest entry.
    const NEWEST: &[u8] = b"\xbe";
    /// A name that is empty.
    const MALFORMED: &[u8] = b"\0\0\0";

    /// A field with a value of so many bytes.
    fn literal(bytes: usize) -> Vec<u8> {
        let mut out = Buf::copy_of(b"\0\x01a");
        integer::write(&mut out, 0, 7, bytes);
        out.extend(&vec![b'x'; bytes]);
        out.as_slice().to_vec()
    }

    /// A block in a HEADERS frame and as many CONTINUATION frames as there are further parts.
    fn block(stream: u32, parts: &[&[u8]]) -> Vec<u8> {
        let flag = |at: usize| if at + 1 == parts.len() { END_HEADERS } else { 0 };
        let frame = |(at, part): (usize, &&[u8])| match at {
            0 => raw(Kind::Headers, END_STREAM | flag(0), stream, part),
            _ => raw(Kind::Continuation, flag(at), stream, part),
        };
        parts.iter().enumerate().flat_map(frame).collect()
    }

    type Lines = Vec<(String, String)>;

    fn lines(core: &mut Core) -> Lines {
        let mut fields = Fields::default();
        fields.set_buffer(std::mem::take(&mut core.section.buf));
        let text = |text| String::from_utf8_lossy(fields.text(text)).into_owned();
        core.section.lines.iter().map(|line| (text(line.name), text(line.value))).collect()
    }

    /// As [`feed`], so many bytes at a time; tells the lines of the last block.
    fn fed(core: &mut Core, bytes: &[u8], step: usize) -> Result<(Vec<String>, Lines), Fatal> {
        let (mut input, mut events, mut found) = (Buf::small(), Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            input.extend(piece);
            while let Some(event) = core.receive(&mut input, NOW)? {
                events.push(format!("{event:?}"));
                if matches!(event, Event::Head { .. } | Event::Trailers { .. }) {
                    found = lines(core);
                }
            }
        }
        Ok((events, found))
    }

    /// RFC 9113 section 4.3: a block means the same however it is torn, into frames and on its way. What it has left in
    /// the table, the next one finds.
    #[test]
    fn a_block_may_be_torn_at_each_byte() {
        // Table sizes, references, literals of each kind, plain and with Huffman codes, long lengths.
        let long = literal(200);
        let whole = [
            b"\x20\x3f\xe1\x1f\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
            &b"\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf\x10\x01s\x01t\xbe"[..],
            &long,
            b"\x40\x01n\x01v",
        ]
        .concat();
        let expected = fed(&mut server(), &block(1, &[&whole]), usize::MAX).expect("legal");
        assert_eq!(expected.1.len(), 9);
        let next = block(3, &[&[b"\x82\x86\x84\x01\x01a", NEWEST].concat()]);
        for at in 0..=whole.len() {
            let (one, two) = whole.split_at(at);
            for (parts, step) in [
                (&[one, two][..], usize::MAX),
                (&[one, two], 1),
                (&[one, &two[..two.len() / 2], &two[two.len() / 2..]], 7),
                (&[b"", one, b"", two, b""], 3),
            ] {
                let mut core = server();
                let got = fed(&mut core, &block(1, parts), step);
                assert_eq!(got.as_ref(), Ok(&expected), "torn at {at}, in steps of {step}");
                assert!(!core.is_in_block());
                let (_, lines) = fed(&mut core, &next, step).expect("legal");
                assert_eq!(lines.last(), Some(&("n".to_owned(), "v".to_owned())), "torn at {at}");
            }
        }
        let singly: Vec<&[u8]> = HEAD.chunks(2).collect();
        let got = fed(&mut server(), &block(1, &singly), 1).expect("legal");
        assert_eq!(got.1, fed(&mut server(), &block(1, &[HEAD]), 1).expect("legal").1);
    }

    /// Of what is decoded nothing is kept, and of a line that is torn its beginning alone.
    #[test]
    fn what_is_decoded_is_not_kept() {
        let mut core = server();
        let field = literal(1_000);
        feed(&mut core, &raw(Kind::Headers, 0, 1, HEAD)).expect("legal");
        let kept = |core: &Core| core.block.as_ref().map(|block| (block.rest.len(), block.bytes));
        assert_eq!(kept(&core), Some((0, HEAD.len())));
        feed(&mut core, &raw(Kind::Continuation, 0, 1, &field)).expect("legal");
        assert_eq!(kept(&core), Some((0, HEAD.len() + field.len())));
        feed(&mut core, &raw(Kind::Continuation, 0, 1, &field[..500])).expect("legal");
        assert_eq!(kept(&core), Some((500, HEAD.len() + field.len() + 500)));
        // An idle connection's buffers are given back; those of a block are none.
        core.give_section_back();
        let events = feed(&mut core, &raw(Kind::Continuation, END_HEADERS, 1, &field[500..])).expect("legal");
        assert!(matches!(events[..], [Event::Head { fault: None, .. }]), "{events:?}");
        let expected = fed(&mut server(), &block(1, &[&[HEAD, &field, &field].concat()]), usize::MAX).expect("legal").1;
        assert_eq!(lines(&mut core), expected);
    }

    /// What cannot be decoded ends the connection where it is found, not where its block ends.
    #[test]
    fn what_cannot_be_decoded_ends_a_torn_block() {
        for (bad, what) in [
            (&b"\x80"[..], "index 0"),
            (b"\xff\x7f", "an index beyond the table"),
            (b"\xff\xff\xff\xff\xff\xff", "an integer without an end"),
            (b"\0\x7f\xff\xff\xff\xff\x7f", "a length without an end"),
            (b"\x20", "a size update behind a field"),
            (b"\0\x01a\x82\x1f\xff", "wrong padding"),
        ] {
            for step in [1, usize::MAX] {
                let mut core = server();
                let bytes = [raw(Kind::Headers, 0, 1, HEAD), raw(Kind::Continuation, 0, 1, bad)].concat();
                let end = fed(&mut core, &bytes, step).expect_err(what);
                assert_eq!(end.code, Code::Compression, "{what}: {end:?}");
            }
        }
        // What it ends in the midst of is found at its end.
        let cut = block(1, &[HEAD, b"\0\x01", b"a"]);
        assert_eq!(fed(&mut server(), &cut, 1).expect_err("cut short").code, Code::Compression);
    }

    /// F42: a client's malformed block that goes on ends the connection at once. In its last frame, the stream does.
    #[test]
    fn a_malformed_line_ends_what_it_stands_in() {
        let upper = b"\0\x01A\x01v";
        for bad in [MALFORMED, upper] {
            for step in [1, 5, usize::MAX] {
                for first in [true, false] {
                    let mut core = server();
                    let (head, more) = if first { ([HEAD, bad].concat(), HEAD) } else { (HEAD.to_vec(), bad) };
                    let opened = fed(&mut core, &raw(Kind::Headers, 0, 1, &head), step);
                    let end = opened.and_then(|_| fed(&mut core, &raw(Kind::Continuation, 0, 1, more), step));
                    let end = end.expect_err("malformed");
                    assert!(end.code == Code::Protocol && end.is_at_once(), "{end:?}");
                }
                let mut core = server();
                let (events, _) = fed(&mut core, &block(1, &[HEAD, &bad[..2], &bad[2..]]), step).expect("the stream's");
                assert!(events.len() == 1 && events[0].contains("Malformed"), "{events:?}");
                // It has not lost its place in the table.
                let next = block(3, &[b"\x82\x86\x84\x01\x01a", NEWEST]);
                assert!(fed(&mut core, &next, step).expect("legal").0[0].contains("fault: None"));
            }
        }
        // The first line is enough: what the frame goes on with is not waited for.
        let mut core = server();
        let frame = raw(Kind::Continuation, 0, 1, &[0; 16_000]);
        feed(&mut core, &raw(Kind::Headers, 0, 1, HEAD)).expect("legal");
        assert_eq!(feed(&mut core, &frame[..12]).expect_err("malformed").code, Code::Protocol);
    }

    /// An endpoint's other streams are others' requests, and go on.
    #[test]
    fn an_endpoints_malformed_block_ends_its_stream() {
        let mut core = client();
        let key = core.open(true, |encoder, out| encoder.method(out, b"GET")).expect("room");
        output(&mut core);
        let parts = [&b"\x88\0\x01A\x01v"[..], b"\x40\x01n\x01v", b""];
        let (events, _) = fed(&mut core, &block(key.id, &parts), 1).expect("the stream's");
        assert!(events.len() == 1 && events[0].contains("Malformed"), "{events:?}");
        let other = core.open(true, |encoder, out| encoder.method(out, b"GET")).expect("room");
        let (_, lines) = fed(&mut core, &block(other.id, &[b"\x88", NEWEST]), 1).expect("legal");
        assert_eq!(lines.last(), Some(&("n".to_owned(), "v".to_owned())));
    }

    /// F42, F44: what is over a bound is told when the block is whole, what comes behind it still enters the table, and
    /// a block that is too large for any bound does not become whole.
    #[test]
    fn bounds_hold_for_blocks_in_parts() {
        let many = b"\0\x01a\x01b".repeat(FIELDS_MAX + 5);
        let long = literal(FIELD_BYTES_MAX);
        for (what, over) in [("over fields_max", &many), ("over field_bytes_max", &long)] {
            let (one, two) = over.split_at(over.len() / 2);
            let mut core = server();
            let (events, _) = fed(&mut core, &block(1, &[HEAD, one, two, b"\x40\x01m\x01w"]), 1_000).expect("answered");
            assert!(events.len() == 1 && events[0].contains(what), "{events:?}");
            let (_, lines) = fed(&mut core, &block(3, &[b"\x82\x86\x84\x01\x01a", NEWEST]), 1).expect("legal");
            assert_eq!(lines.last(), Some(&("m".to_owned(), "w".to_owned())));
        }
        // References behind the fault are counted when the block is whole: 34 lines of 4,033 bytes are over 128 KiB.
        let mut large = literal(4_028);
        large[0] = 0x40;
        for (references, is_bomb) in [(31, false), (4_000, true)] {
            let bomb = [&large[..], &vec![0xbe; references]].concat();
            let result = fed(&mut server(), &block(1, &[HEAD, &bomb, b""]), 1_000);
            match is_bomb {
                true => assert_eq!(result.expect_err("a bomb").why, "bomb of fields"),
                false => assert!(result.expect("answered").0[0].contains("over header_bytes_max")),
            }
        }
        // By the head of the frame alone.
        let part = literal(16_000);
        let mut core = server();
        let two = [raw(Kind::Headers, 0, 1, &part), raw(Kind::Continuation, 0, 1, &part)].concat();
        assert!(fed(&mut core, &two, 1_000).expect("within the bound").0.is_empty());
        let left = HEADER_BYTES_MAX + BLOCK_EXTRA_BYTES - 2 * part.len();
        let over = raw(Kind::Continuation, 0, 1, &vec![0; left + 1]);
        let end = feed(&mut core, &over[..9]).expect_err("too large");
        assert!(end.code == Code::Calm && end.why == "block of fields too large", "{end:?}");
    }

    /// A stream that is not taken is decoded all the same.
    #[test]
    fn a_refused_streams_parts_enter_the_table() {
        let mut core = server();
        for n in 0..100 {
            feed(&mut core, &get(2 * n + 1)).expect("legal");
        }
        output(&mut core);
        let (events, _) = fed(&mut core, &block(201, &[HEAD, b"\x40\x01m", b"\x01w"]), 1).expect("refused");
        assert!(events.is_empty());
        assert_eq!(frames(&output(&mut core)), [(Kind::Reset, 0, 201, vec![0, 0, 0, 7])]);
        let first = super::super::Key { slot: 0, id: 1 };
        assert!(core.head(first, true, |encoder, out| encoder.status(out, 200)));
        core.release(first);
        let (_, lines) = fed(&mut core, &block(203, &[b"\x82\x86\x84\x01\x01a", NEWEST]), 1).expect("legal");
        assert_eq!(lines.last(), Some(&("m".to_owned(), "w".to_owned())));
        core.refuse_further();
        assert!(fed(&mut core, &block(205, &[HEAD, b"\x40\x01o", b"\x01x"]), 1).expect("ignored").0.is_empty());
    }
}
