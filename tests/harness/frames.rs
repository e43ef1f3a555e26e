//! HTTP/2 by hand, frame by frame: what a client says that no library would.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The setting of how much may be sent on a stream before it is asked for.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a request, by HPACK without a table or Huffman codes.
pub fn head(method: &str, path: &str, others: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pseudo = [
        (":method", method),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", path),
    ];
    for (name, value) in pseudo.iter().chain(others) {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).expect("less than 127 bytes"));
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// What became of a client that says the same again and again.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// How much was taken of what it said.
    pub n_sent: usize,
    /// The server ended the connection.
    pub is_over: bool,
    /// The error with which it did.
    pub goaway: Option<u32>,
}

/// What a client says first, with these settings.
pub fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in settings {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    [preface, &frame(SETTINGS, 0, 0, &payload)].concat()
}

/// Says something first, and then what `next` gives until that ends, nobody takes it any more, or none of it was taken for
/// `patience`. What the server says is read, or left where it is.
pub async fn attack(
    address: SocketAddr,
    first: Vec<u8>,
    mut next: impl Iterator<Item = Vec<u8>>,
    is_read: bool,
    patience: Duration,
) -> Attack {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (mut reader, mut writer) = stream.into_split();
    let reading = tokio::spawn(async move {
        if !is_read {
            return std::future::pending().await;
        }
        let mut goaway = None;
        while let Some((kind, payload)) = read(&mut reader).await {
            if kind == GOAWAY {
                let code = payload[4..8].try_into().expect("four bytes");
                goaway = Some(u32::from_be_bytes(code));
            }
        }
        (true, goaway)
    });
    let mut n_sent = 0;
    let mut saying = Some(first);
    while let Some(bytes) = saying {
        match timeout(patience, writer.write_all(&bytes)).await {
            Ok(Ok(())) => n_sent += bytes.len(),
            Ok(Err(_)) | Err(_) => break,
        }
        saying = next.next();
    }
    let (is_over, goaway) = timeout(patience, reading)
        .await
        .map_or((false, None), |ended| ended.expect("no panic"));
    Attack {
        n_sent,
        is_over,
        goaway,
    }
}

/// The kind and the payload of the next frame; none once the connection has ended.
async fn read(reader: &mut OwnedReadHalf) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, ..] = head;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).expect("fits");
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await.ok()?;
    Some((kind, payload))
}
