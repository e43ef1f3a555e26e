//! CloudEvents attribute values in HTTP headers: percent-encoding by the HTTP binding 1.0.2.

/// Encodes a value: space, `"`, `%` and everything outside of visible ASCII, as UTF-8 bytes.
#[must_use]
pub fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' => escape(byte, &mut encoded),
            0x21..=0x7E => encoded.push(char::from(byte)),
            _ => escape(byte, &mut encoded),
        }
    }
    encoded
}

fn escape(byte: u8, encoded: &mut String) {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    encoded.push('%');
    encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
    encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Decodes a header: one layer of quotes, then one round of percent-decoding.
///
/// `None` if the bytes are not UTF-8.
#[must_use]
pub fn decode(header: &str) -> Option<String> {
    let quoted = header.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    let unquoted = match quoted {
        Some(quoted) => unescape(quoted),
        None => header.to_owned(),
    };
    let bytes = unquoted.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escaped(&bytes[at..]) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// The byte of the escape that begins here.
fn escaped(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else {
        return None;
    };
    let digit = |it: u8| char::from(it).to_digit(16);
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

fn unescape(quoted: &str) -> String {
    let mut text = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            other => text.push(other),
        }
    }
    text
}
