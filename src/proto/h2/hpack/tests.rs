use super::decode::{Decoder, Fault, Kind, Line, Pseudo};
use super::encode::Encoder;
use super::*;
use crate::http::name::Name;
use crate::proto::h1::parse::HeadLimits;
use crate::sys::buf::Buf;

type Lines = Vec<(String, String)>;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8], limits: &HeadLimits) -> Result<(Lines, Option<Fault>), BadBlock> {
    let mut out = Buf::small();
    let mut lines: Vec<Line> = Vec::new();
    let fault = decoder.decode(block, &mut out, limits, &mut |line| {
        lines.push(line);
        Ok(())
    })?;
    let mut fields = crate::http::fields::Fields::default();
    fields.set_buffer(out);
    let text = |text| String::from_utf8_lossy(fields.text(text)).into_owned();
    Ok((lines.iter().map(|line| (text(line.name), text(line.value))).collect(), fault))
}

fn pairs(lines: &[(&str, &str)]) -> Lines {
    lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn decoded(decoder: &mut Decoder, block: &str) -> Lines {
    let (lines, fault) = decode(decoder, &hex(block), &HeadLimits::default()).expect("legal");
    assert_eq!(fault, None);
    lines
}

/// RFC 7541 appendix C.2: one representation of each kind.
#[test]
fn single_representations() {
    let mut decoder = Decoder::default();
    let block = "400a637573746f6d2d6b65790d637573746f6d2d686561646572";
    assert_eq!(decoded(&mut decoder, block), pairs(&[("custom-key", "custom-header")]));
    assert_eq!(decoder.table_size(), 55);
    let mut decoder = Decoder::default();
    assert_eq!(decoded(&mut decoder, "040c2f73616d706c652f70617468"), pairs(&[(":path", "/sample/path")]));
    assert_eq!(decoded(&mut decoder, "100870617373776f726406736563726574"), pairs(&[("password", "secret")]));
    assert_eq!(decoder.table_size(), 0);
    assert_eq!(decoded(&mut decoder, "82"), pairs(&[(":method", "GET")]));
}

/// RFC 7541 appendices C.3 and C.4: three requests on one connection, plain and with Huffman codes.
#[test]
fn requests_of_the_rfc() {
    let base = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    for blocks in [
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
    ] {
        let mut decoder = Decoder::default();
        assert_eq!(decoded(&mut decoder, blocks[0]), pairs(&base));
        let second = [&base[..], &[("cache-control", "no-cache")]].concat();
        assert_eq!(decoded(&mut decoder, blocks[1]), pairs(&second));
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        assert_eq!(decoded(&mut decoder, blocks[2]), pairs(&third));
        assert_eq!(decoder.table_size(), 164);
    }
}

/// RFC 7541 appendix C.6 has a table of 256 bytes, set here by a size update at the front.
#[test]
fn evictions_of_the_rfc() {
    let mut decoder = Decoder::default();
    let first = "3fe101 488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff
        6e919d29ad171863c78f0b97c8e9ae82ae43d3";
    assert_eq!(decoded(&mut decoder, first)[0], (":status".to_owned(), "302".to_owned()));
    assert_eq!(decoder.table_size(), 222);
    let second = pairs(&[
        (":status", "307"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ]);
    assert_eq!(decoded(&mut decoder, "4883640effc1c0bf"), second);
    assert_eq!(decoder.table_size(), 222);
    let third = "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960
        d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007";
    assert_eq!(decoded(&mut decoder, third)[5].0, "set-cookie");
    assert_eq!(decoder.table_size(), 215);
}

#[test]
fn broken_blocks_lose_the_connection() {
    for (block, what) in [
        ("80", "index 0"),
        ("be", "index beyond the table"),
        ("c0", "index beyond the table"),
        ("ff80808001", "a huge index"),
        ("ffffffffffffffff", "an integer without an end"),
        ("7f", "an integer cut short"),
        ("00", "a name cut short"),
        ("000161", "a value cut short"),
        ("00016105", "a value cut short"),
        ("000161821fff", "a code with wrong padding"),
        ("00016184ffffffff", "EOS"),
        ("3fe21f", "a table of 4,097 bytes"),
        ("202020", "three size updates"),
        ("8220", "a size update behind a field"),
        ("7f0001 61", "a name index beyond the table"),
    ] {
        let result = decode(&mut Decoder::default(), &hex(block), &HeadLimits::default());
        assert!(result.is_err(), "{what}: {result:?}");
    }
    assert!(decode(&mut Decoder::default(), &hex("3fe11f203fe11f"), &HeadLimits::default()).is_err());
    assert!(decode(&mut Decoder::default(), &hex("203fe11f82"), &HeadLimits::default()).is_ok());
}

#[test]
fn malformed_lines_are_told_and_do_not_harm_the_table() {
    let literal = |name: &str, value: &[u8]| {
        [&[0x40, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value].concat()
    };
    for (name, value) in [
        ("", &b"v"[..]),
        ("A", b"v"),
        ("a b", b"v"),
        (":other", b"v"),
        ("a:", b"v"),
        ("a", b"v\n"),
        ("a", b"\0"),
        ("a", b" v"),
        ("a", b"v\t"),
        ("a\0", b"v"),
        ("a", b"\x7f"),
    ] {
        let mut decoder = Decoder::default();
        let block = [literal("ok", b"1"), literal(name, value), literal("after", b"2")].concat();
        let (lines, fault) = decode(&mut decoder, &block, &HeadLimits::default()).expect("decodes");
        assert!(matches!(fault, Some(Fault::Malformed(_))), "{name:?} {value:?}");
        assert_eq!(lines, pairs(&[("ok", "1")]));
        // All three entered: the last one is the newest, and the bad one is bad again.
        assert_eq!(decode(&mut decoder, &[0xbe], &HeadLimits::default()), Ok((pairs(&[("after", "2")]), None)));
        let again = decode(&mut decoder, &[0xbf], &HeadLimits::default()).expect("decodes");
        assert!(matches!(again, (_, Some(Fault::Malformed(_)))));
    }
    // A legal name whose entry had a bad value is legal with another.
    let mut decoder = Decoder::default();
    decode(&mut decoder, &literal("name", b"\0"), &HeadLimits::default()).expect("decodes");
    let named = [0x7e, 1, b'v'];
    assert_eq!(decode(&mut decoder, &named, &HeadLimits::default()), Ok((pairs(&[("name", "v")]), None)));
}

/// F44: references are counted after decoding, and what is over the bound is neither copied nor kept.
#[test]
fn bombs_are_counted_after_decoding() {
    let mut decoder = Decoder::default();
    let value = "v".repeat(3_900);
    let mut block = Buf::small();
    block.extend(&[0x40, 1, b'a']);
    integer::write(&mut block, 0, 7, value.len());
    block.extend(value.as_bytes());
    let plain = decode(&mut decoder, block.as_slice(), &HeadLimits::default()).expect("decodes");
    assert_eq!(plain, (pairs(&[("a", &value)]), None));
    let mut out = Buf::small();
    let mut told = 0;
    let mut bomb = |decoder: &mut Decoder, references: usize| {
        told = 0;
        out.clear();
        decoder.decode(&vec![0xbe; references], &mut out, &HeadLimits::default(), &mut |_| {
            told += 1;
            Ok(())
        })
    };
    // Lines of 3,905 bytes: eight fit 32 KiB, and 33 fit 128 KiB.
    let fault = bomb(&mut decoder, 33);
    assert_eq!(fault, Ok(Some(Fault::TooLarge("over header_bytes_max"))));
    assert_eq!(bomb(&mut decoder, 34), Err(BadBlock::BOMB));
    assert_eq!(bomb(&mut decoder, 4_000), Err(BadBlock::BOMB));
    assert!(told == 8 && out.len() <= HeadLimits::default().header_bytes_max, "{told} lines, {} bytes", out.len());
    let crumbs = [&[0x60, 3][..], b"a=b"].concat();
    let bomb = [crumbs, vec![0xbe; 4_000]].concat();
    let fault = decode(&mut decoder, &bomb, &HeadLimits::default()).expect("decodes").1;
    assert_eq!(fault, Some(Fault::TooLarge("over fields_max")));
}

#[test]
fn what_repeats_is_one_byte_and_what_does_not_stays_out() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let mut sizes = Vec::new();
    for turn in 0..6 {
        let id = format!("0123456789abcdef{turn}");
        let lines = [
            ("server", "nginx", Name::Server),
            ("content-type", "text/html", Name::ContentType),
            ("x-custom", "the same", Name::Other),
            ("x-request-id", &id, Name::XRequestId),
            ("set-cookie", "a=b", Name::SetCookie),
            ("x-turn", &turn.to_string(), Name::Other),
        ];
        let mut out = Buf::small();
        encoder.begin(&mut out);
        encoder.status(&mut out, 200);
        lines.iter().for_each(|(name, value, id)| encoder.field(&mut out, name.as_bytes(), value.as_bytes(), *id));
        sizes.push(out.len());
        let expected: Vec<_> =
            [(":status", "200")].into_iter().chain(lines.iter().map(|(name, value, _)| (*name, *value))).collect();
        let (got, fault) = decode(&mut decoder, out.as_slice(), &HeadLimits::default()).expect("legal");
        assert_eq!((got, fault), (pairs(&expected), None));
    }
    // Status, server, type and custom: a byte each. The id and the turn name their names by index.
    assert_eq!(sizes[3], 4 + (2 + 1 + 17) + (2 + 1 + 3) + (2 + 1 + 1), "{sizes:?}");
    assert!(sizes[2..].iter().all(|size| *size == sizes[3]), "{sizes:?}");
}

#[test]
fn the_peers_table_size_is_obeyed() {
    for (sizes, expected) in [(&[0_usize][..], "20"), (&[100, 4_096], "3f453fe11f"), (&[10_000], ""), (&[0, 0], "20")] {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for _ in 0..3 {
            let mut out = Buf::small();
            encoder.begin(&mut out);
            encoder.field(&mut out, b"server", b"x", Name::Server);
            decode(&mut decoder, out.as_slice(), &HeadLimits::default()).expect("legal");
        }
        sizes.iter().for_each(|size| encoder.set_table_size(*size));
        let mut out = Buf::small();
        encoder.begin(&mut out);
        assert_eq!(out.as_slice(), hex(expected), "{sizes:?}");
        encoder.field(&mut out, b"server", b"x", Name::Server);
        let (lines, fault) = decode(&mut decoder, out.as_slice(), &HeadLimits::default()).expect("legal");
        assert_eq!((lines, fault), (pairs(&[("server", "x")]), None));
    }
}

#[test]
fn kinds_of_lines() {
    let mut decoder = Decoder::default();
    let mut kinds = Vec::new();
    let block = hex("828486418cf1e3c2e5f23a6ba0ab90f4ff5804616263640f0d023130");
    decoder
        .decode(&block, &mut Buf::small(), &HeadLimits::default(), &mut |line| {
            kinds.push(line.kind);
            Ok(())
        })
        .expect("legal");
    let pseudo = Kind::Pseudo;
    let expected = [
        pseudo(Pseudo::Method),
        pseudo(Pseudo::Path),
        pseudo(Pseudo::Scheme),
        pseudo(Pseudo::Authority),
        Kind::Field(Name::Other),
        Kind::Field(Name::ContentLength),
    ];
    assert_eq!(kinds, expected);
}
