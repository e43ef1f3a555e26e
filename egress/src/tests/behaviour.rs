//! What an attempt comes to, whatever the receiver does. Numbers are those of the behaviour table,
//! reference/trust §1.14.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hookfleet_contract::{
    response::TransportError,
    target::{Rules, Target},
};
use http::{HeaderMap, Method};
use tokio::{
    io::AsyncWriteExt as _,
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    cases::table::cases,
    receiver::{Receiver, read_request},
};
use crate::{Config, Egress, Exchange, Request, address::Policy};

pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_request_is_written_as_the_contract_says() {
    let (sender, mut heads) = mpsc::unbounded_channel();
    let receiver = Receiver::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            let head = read_request(&mut stream).await.unwrap();
            stream.write_all(OK).await.unwrap();
            sender.send(head).unwrap();
        }
    })
    .await;
    let exchange = post(&egress(), &receiver, "/cb/x?y=%20z").await;
    assert!(exchange.result.unwrap().is_success());
    assert_eq!(exchange.address, Some(receiver.address));
    let head = heads.recv().await.unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("POST /cb/x?y=%20z HTTP/1.1"));
    let host = format!("host: {}", receiver.address);
    assert!(head.lines().any(|line| line == host), "{head}");
    assert!(head.contains("content-length: 5\r\n"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
}

#[tokio::test]
async fn a_question_is_asked_with_its_method_and_its_answer_is_kept() {
    let (sender, mut heads) = mpsc::unbounded_channel();
    let receiver = Receiver::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            let head = read_request(&mut stream).await.unwrap();
            let answer =
                b"HTTP/1.1 200 OK\r\nwebhook-allowed-origin: *\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            sender.send(head).unwrap();
        }
    })
    .await;
    for method in [Method::OPTIONS, Method::GET, Method::POST] {
        let question = Request {
            body: Bytes::new(),
            ..request(&receiver, "/cb", Duration::from_secs(5))
        };
        let response = egress().ask(method.clone(), question).await.result.unwrap();
        assert_eq!(response.headers["webhook-allowed-origin"], "*");
        assert_eq!(response.body, "ok");
        let head = heads.recv().await.unwrap();
        assert!(
            head.starts_with(&format!("{method} /cb HTTP/1.1\r\n")),
            "{head}"
        );
        let has_length = head.contains("content-length: 0\r\n");
        assert_eq!(has_length, method == Method::POST, "{head}");
    }
    let delivered = post(&egress(), &receiver, "/cb").await.result.unwrap();
    assert!(delivered.headers.is_empty() && delivered.body.is_empty());
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_not_kept() {
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok";
    let receiver = Receiver::answering(cut, true).await;
    let question = request(&receiver, "/", Duration::from_secs(5));
    let response = egress().ask(Method::GET, question).await.result.unwrap();
    assert_eq!((response.status, response.body), (200, Bytes::new()));
}

#[tokio::test]
async fn connections_are_kept_alive_and_a_closed_one_is_replaced() {
    let receiver = Receiver::answering(OK, false).await;
    let egress = egress();
    for _ in 0..3 {
        assert!(post(&egress, &receiver, "/").await.result.is_ok());
    }
    assert_eq!(receiver.n_connections(), 1);

    // R18: the receiver closes after each answer; nothing is lost and nothing fails.
    let closing = Receiver::answering(OK, true).await;
    for _ in 0..5 {
        assert!(post(&egress, &closing, "/").await.result.is_ok());
    }
    assert_eq!(closing.n_connections(), 5);
}

#[tokio::test]
async fn tenants_do_not_share_connections() {
    let receiver = Receiver::answering(OK, false).await;
    let egress = egress();
    for tenant in ["acme", "globex"] {
        let mut request = request(&receiver, "/", Duration::from_secs(5));
        request.tenant = tenant.parse().unwrap();
        assert!(egress.post(request).await.result.is_ok());
    }
    assert_eq!(receiver.n_connections(), 2);
}

/// R1, R26, R28, R29, R31, R32 and the `redir.` rows: headers that ask for something get nothing.
#[tokio::test]
async fn redirects_and_other_wishes_are_not_followed() {
    for status in [300, 301, 302, 303, 307, 308, 401] {
        let answer = format!(
            "HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:1/\r\nrefresh: 0; url=http://127.0.0.1:1/\r\n\
             alt-svc: h2=\"127.0.0.1:443\"\r\nset-cookie: a=b\r\nretry-after: 7\r\nwebhook-delivery: disable\r\n\
             www-authenticate: NTLM\r\ncontent-length: 4\r\n\r\nbody"
        );
        let receiver = Receiver::answering(answer, false).await;
        let response = post(&egress(), &receiver, "/").await.result.unwrap();
        assert_eq!(response.status, status);
        assert_eq!(response.location.as_deref(), Some("http://127.0.0.1:1/"));
        assert_eq!(response.retry_after.as_deref(), Some("7"));
        assert_eq!(response.body, "body");
        assert_eq!(receiver.n_connections(), 1);
    }
}

#[tokio::test]
async fn no_row_of_the_table_is_followed() {
    let rows = cases("redir.");
    assert_eq!(rows.len(), 7);
    for (case, cell, expected) in rows {
        assert_eq!(expected, "deny", "{case}");
        let mut words = cell.split(' ').skip(1);
        let (status, elsewhere) = (words.next().unwrap(), words.next().unwrap());
        let (status, header) = match status.split_once('+') {
            Some((status, header)) => (status, header),
            None => (status, "location"),
        };
        let value = if header == "Refresh" {
            format!("0; url={elsewhere}")
        } else {
            elsewhere.to_owned()
        };
        let answer =
            format!("HTTP/1.1 {status} X\r\n{header}: {value}\r\ncontent-length: 0\r\n\r\n");
        let receiver = Receiver::answering(answer, false).await;
        let response = post(&egress(), &receiver, "/").await.result.unwrap();
        assert_eq!(response.status.to_string(), status, "{case}");
        assert_eq!(receiver.n_connections(), 1, "{case}");
    }
}

/// R2, R3, R4, R22, R23: floods end at the meter.
#[tokio::test]
async fn floods_are_cut_off() {
    let header = "a".repeat(1000);
    let floods: [(&str, String); 3] = [
        ("HTTP/1.1 200 OK\r\n", format!("x: {header}\r\n")),
        ("HTTP/1.1 200 OK\r\n", "x: y\r\n".to_owned()),
        ("", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".to_owned()),
    ];
    for (start, flood) in floods {
        let receiver = Receiver::start(move |mut stream, _| {
            let (start, flood) = (start, flood.repeat(50));
            async move {
                read_request(&mut stream).await.unwrap();
                let mut going = stream.write_all(start.as_bytes()).await;
                while going.is_ok() {
                    going = stream.write_all(flood.as_bytes()).await;
                }
            }
        })
        .await;
        let exchange = post(&egress(), &receiver, "/").await;
        assert_eq!(
            error(&exchange),
            TransportError::ResponseTooLarge,
            "{start}"
        );
        assert!(exchange.duration < Duration::from_secs(4));
    }
}

/// R2, R3, R4: the limits are where they are said to be.
#[tokio::test]
async fn as_much_as_is_allowed_is_read_and_no_more() {
    let early = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n";
    let allowed = [
        early.repeat(8) + head + "\r\n",
        format!("{head}{}\r\n", "x: y\r\n".repeat(63)),
        format!("{head}x: {}\r\n\r\n", "y".repeat(15 << 10)),
    ];
    let too_much = [
        early.repeat(9) + head + "\r\n",
        format!("{head}{}\r\n", "x: y\r\n".repeat(150)),
        format!("{head}x: {}\r\n\r\n", "y".repeat(17 << 10)),
    ];
    for answer in allowed {
        let receiver = Receiver::answering(answer, false).await;
        let egress = egress();
        // What one request has used up is not missing from the next: these read more than 128 KiB.
        for _ in 0..12 {
            let exchange = post(&egress, &receiver, "/").await;
            assert!(exchange.result.is_ok(), "{exchange:?}");
        }
        assert_eq!(receiver.n_connections(), 1);
    }
    for answer in too_much {
        let receiver = Receiver::start(move |mut stream, _| {
            let answer = answer.clone();
            async move {
                read_request(&mut stream).await.unwrap();
                stream.write_all(OK).await.unwrap();
                read_request(&mut stream).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                assert!(read_request(&mut stream).await.is_none());
            }
        })
        .await;
        let egress = egress();
        assert!(post(&egress, &receiver, "/").await.result.is_ok());
        let exchange = post(&egress, &receiver, "/").await;
        assert_eq!(error(&exchange), TransportError::ResponseTooLarge);
        assert_eq!(receiver.n_connections(), 1);
    }
}

/// R21, R22, R23: a body that is none does not change the answer and ends the connection.
#[tokio::test]
async fn a_body_that_cannot_be_read_leaves_the_status() {
    for body in [
        "FFFFFFFFFFFFFFFF\r\n\r\n".to_owned(),
        format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(1 << 20)),
        format!("0\r\n{}\r\n", "x: y\r\n".repeat(100_000)),
    ] {
        let answer = format!("HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let receiver = Receiver::answering(answer, false).await;
        let egress = egress();
        for n_connections in 1..=2 {
            let response = post(&egress, &receiver, "/").await.result.unwrap();
            assert_eq!(response.status, 500);
            assert_eq!(receiver.n_connections(), n_connections);
        }
    }
}

/// R16, R17.
#[tokio::test]
async fn a_reset_matters_only_before_the_headers() {
    for (answer, is_success) in [
        ("", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", true),
    ] {
        let receiver = Receiver::start(move |mut stream, _| async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.set_zero_linger().unwrap();
        })
        .await;
        let exchange = post(&egress(), &receiver, "/").await;
        if is_success {
            assert!(exchange.result.unwrap().is_success());
        } else {
            assert_eq!(error(&exchange), TransportError::Reset);
        }
    }
}

/// R40: the same request, in a process that is told to use a proxy.
#[test]
fn proxies_of_the_environment_are_not_used() {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let module = module_path!().split_once("::").unwrap().1;
    command.args([
        "--exact",
        &format!("{module}::a_request_is_written_as_the_contract_says"),
    ]);
    for name in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "all_proxy",
        "ALL_PROXY",
    ] {
        command.env(name, "http://127.0.0.1:9");
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

/// R5, R6, R8, R19, R35, R36: a success is one at its headers, whatever follows.
#[tokio::test]
async fn a_success_stays_one_whatever_its_body_does() {
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc";
    let interim =
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(8) + "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let no_content = "HTTP/1.1 204 No Content\r\n\r\nleftover".to_owned();
    let two = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".repeat(2);
    for answer in [short.to_owned(), interim, no_content, two] {
        let receiver = Receiver::answering(answer.clone(), true).await;
        let egress = egress();
        assert!(
            post(&egress, &receiver, "/")
                .await
                .result
                .unwrap()
                .is_success(),
            "{answer}"
        );
        // Whatever was left over, the next request is not confused by it.
        assert!(
            post(&egress, &receiver, "/")
                .await
                .result
                .unwrap()
                .is_success(),
            "{answer}"
        );
    }
    let endless = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        let mut going = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while going.is_ok() {
            going = stream.write_all(&[b'x'; 4096]).await;
        }
    })
    .await;
    assert!(
        post(&egress(), &endless, "/")
            .await
            .result
            .unwrap()
            .is_success()
    );
    let dripping = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        let mut going = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n")
            .await;
        while going.is_ok() {
            sleep(Duration::from_millis(200)).await;
            going = stream.write_all(b"x").await;
        }
    })
    .await;
    let exchange = post(&egress(), &dripping, "/").await;
    assert!(exchange.result.unwrap().is_success());
    assert!(exchange.duration < Duration::from_secs(4));
}

/// R7: nothing is inflated.
#[tokio::test]
async fn a_compressed_body_is_kept_as_it_is() {
    let answer =
        b"HTTP/1.1 500 X\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00";
    let receiver = Receiver::answering(answer.as_slice(), false).await;
    let response = post(&egress(), &receiver, "/").await.result.unwrap();
    assert_eq!(response.body, b"\x1f\x8b\x08\x00".as_slice());
}

/// R9, R10: time is bounded outside of the IO.
#[tokio::test]
async fn slow_receivers_run_out_of_time() {
    let hanging = Receiver::start(|stream, _| async move {
        let _held_open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let dripping = Receiver::start(|mut stream, _| async move {
        read_request(&mut stream).await.unwrap();
        let mut going = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await;
        while going.is_ok() {
            sleep(Duration::from_millis(20)).await;
            going = stream.write_all(b"x").await;
        }
    })
    .await;
    for receiver in [&hanging, &dripping] {
        let mut request = request(receiver, "/", Duration::from_millis(300));
        request.body = Bytes::from(vec![b'x'; 4 << 20]);
        if std::ptr::eq(receiver, &raw const dripping) {
            request.body = Bytes::from_static(b"small");
        }
        let started = Instant::now();
        let exchange = egress().post(request).await;
        assert_eq!(error(&exchange), TransportError::Timeout);
        assert!(started.elapsed() < Duration::from_secs(3));
    }
}

/// R17, R20, R21, R24, R25, R30: what is not an answer is a failure with a name.
#[tokio::test]
async fn other_answers_are_classified() {
    use TransportError::{Protocol, Reset};
    let cases = [
        ("", Reset),
        ("HTTP/1.1 20", Reset),
        ("garbage\r\n\r\n", Protocol),
        ("hello", Protocol),
        ("HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n", Protocol),
        ("HTTP/1.1 099 X\r\ncontent-length: 0\r\n\r\n", Protocol),
        ("HTTP/1.1 2OO X\r\ncontent-length: 0\r\n\r\n", Protocol),
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            Protocol,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
            Protocol,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Protocol,
        ),
    ];
    for (answer, expected) in cases {
        let receiver = Receiver::answering(answer, true).await;
        let exchange = post(&egress(), &receiver, "/").await;
        assert_eq!(error(&exchange), expected, "{answer:?}: {exchange:?}");
    }
    let nobody = free_address().await;
    let refused = egress()
        .post(request_to(&format!("http://{nobody}/")))
        .await;
    assert_eq!(error(&refused), TransportError::Connect);
    assert_eq!(refused.address, Some(nobody), "it was called all the same");
    assert_eq!(
        refused.destination, None,
        "it is not of the public internet"
    );
}

#[tokio::test]
async fn addresses_are_judged_at_every_attempt() {
    let receiver = Receiver::answering(OK, false).await;
    let strict = Egress::new(Config::default()).unwrap();
    let exchange = post(&strict, &receiver, "/").await;
    assert_eq!(error(&exchange), TransportError::TargetUnreachable);
    assert_eq!(receiver.n_connections(), 0);
}

#[tokio::test]
async fn how_long_it_takes_does_not_tell_a_refused_address_from_a_missing_name() {
    let strict = Egress::new(Config::default()).unwrap();
    for url in ["http://127.0.0.1:8080/", "https://10.0.0.1/"] {
        let exchange = strict.post(request_to(url)).await;
        assert_eq!(error(&exchange), TransportError::TargetUnreachable);
        let millis = exchange.duration.as_millis();
        assert!(millis >= 100, "{url}: {millis} ms");
    }
}

async fn free_address() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

pub(super) fn egress() -> Egress {
    Egress::new(Config {
        policy: loopback(),
        ..Config::default()
    })
    .unwrap()
}

pub(super) fn loopback() -> Policy {
    Policy {
        allow_loopback: true,
        ..Policy::default()
    }
}

pub(super) async fn post(egress: &Egress, receiver: &Receiver, path: &str) -> Exchange {
    egress
        .post(request(receiver, path, Duration::from_secs(5)))
        .await
}

pub(super) fn request(receiver: &Receiver, path: &str, timeout: Duration) -> Request {
    let request = request_to(&format!("http://{}{path}", receiver.address));
    Request { timeout, ..request }
}

pub(super) fn request_to(url: &str) -> Request {
    let rules = Rules {
        allow_loopback: true,
        ..Rules::default()
    };
    Request {
        tenant: "acme".parse().unwrap(),
        target: Arc::new(Target::parse(url, &rules).unwrap()),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"small"),
        timeout: Duration::from_secs(5),
    }
}

pub(super) fn error(exchange: &Exchange) -> TransportError {
    match &exchange.result {
        Ok(response) => panic!("not a failure: {response:?}"),
        Err(failure) => failure.error,
    }
}
