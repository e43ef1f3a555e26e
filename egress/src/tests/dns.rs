//! The resolver against a name server that says what it is told.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::CNAME},
};
use hookfleet_contract::target::{Rules, Target};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    time::Instant,
};

use super::cases::acme;
use crate::{
    address::Policy,
    resolve::{Error, Resolver},
};

/// Answers A and AAAA with the addresses of its table; remembers what it was asked.
struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
}

#[tokio::test]
async fn a_name_is_asked_for_once_and_as_it_is() {
    let server = NameServer::start([("h.example.com.", 0, "93.184.215.14, 2606:2800::1")]).await;
    let resolver = server.resolver();
    let expected: Vec<SocketAddr> = ["93.184.215.14:8443", "[2606:2800::1]:8443"]
        .iter()
        .map(|it| it.parse().unwrap())
        .collect();
    for _ in 0..3 {
        let resolved = resolver
            .resolve(&acme(), &target("h.example.com"))
            .await
            .unwrap();
        assert_eq!(resolved, expected);
    }
    let mut asked = server.asked();
    asked.sort();
    // A time to live of zero counts as five seconds.
    let name = || "h.example.com.".to_owned();
    assert_eq!(asked, [(name(), RecordType::A), (name(), RecordType::AAAA)]);
}

#[tokio::test]
async fn names_of_nobody_are_not_asked_for_again_at_once() {
    let server = NameServer::start([]).await;
    let resolver = server.resolver();
    for _ in 0..3 {
        let resolved = resolver
            .resolve(&acme(), &target("nobody.example.com"))
            .await;
        assert!(matches!(resolved, Err(Error::Lookup(_))), "{resolved:?}");
    }
    assert!(
        server
            .asked()
            .iter()
            .all(|(name, _)| name == "nobody.example.com.")
    );
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn answers_are_counted_and_judged_wherever_they_come_from() {
    let many: Vec<String> = (1..=17).map(|it| format!("93.184.215.{it}")).collect();
    let server = NameServer::start([
        ("many.example.com.", 60, many.join(",").as_str()),
        ("mixed.example.com.", 60, "93.184.215.14, ::1"),
        ("alias.example.com.", 60, "CNAME localhost., 127.0.0.1"),
        ("metadata.example.com.", 60, "169.254.169.254"),
    ])
    .await;
    let resolver = server.resolver();
    let resolved = resolver.resolve(&acme(), &target("many.example.com")).await;
    assert!(matches!(resolved, Err(Error::Count(17))), "{resolved:?}");
    for name in ["mixed", "alias", "metadata"] {
        let resolved = resolver
            .resolve(&acme(), &target(&format!("{name}.example.com")))
            .await;
        assert!(
            matches!(resolved, Err(Error::Refused(_))),
            "{name}: {resolved:?}"
        );
    }
}

/// R39: the largest answer there can be, names that point at each other, and a name that points at this
/// machine. None takes longer than names may.
#[tokio::test]
async fn absurd_answers_are_refused_in_time() {
    let many: Vec<String> = (0..2000_u16)
        .map(|it| format!("93.184.{}.{}", it / 256, it % 256))
        .collect();
    let chain: Vec<(String, String)> = (0..40)
        .map(|it| {
            let next = format!("CNAME c{}.example.com.", it + 1);
            (format!("c{it}.example.com."), next)
        })
        .collect();
    let many = many.join(",");
    let mut table = vec![
        ("many.example.com.", 60, many.as_str()),
        ("here.example.com.", 60, "CNAME localhost."),
        ("a.example.com.", 60, "CNAME b.example.com."),
        ("b.example.com.", 60, "CNAME a.example.com."),
        ("self.example.com.", 60, "CNAME self.example.com."),
        ("c40.example.com.", 60, "93.184.215.14"),
    ];
    table.extend(
        chain
            .iter()
            .map(|(it, next)| (it.as_str(), 60, next.as_str())),
    );
    let server = NameServer::start_deaf(table, 0).await;
    let resolver = server.resolver();
    for name in ["many", "here", "a", "self", "c0"] {
        let started = Instant::now();
        let target = target(&format!("{name}.example.com"));
        let resolved = resolver.resolve(&acme(), &target).await;
        let is_refused = match name {
            "many" => matches!(resolved, Err(Error::Count(17))),
            "here" => matches!(resolved, Err(Error::Refused(_))),
            _ => matches!(resolved, Err(Error::Lookup(_))),
        };
        assert!(is_refused, "{name}: {resolved:?}");
        assert!(started.elapsed() < Duration::from_millis(2500), "{name}");
    }
}

#[tokio::test]
async fn a_lost_question_is_asked_again_within_the_time() {
    let server = NameServer::start_deaf([("h.example.com.", 60, "93.184.215.14")], 2).await;
    let started = Instant::now();
    let resolved = server
        .resolver()
        .resolve(&acme(), &target("h.example.com"))
        .await;
    assert_eq!(resolved.unwrap().len(), 1);
    assert!(started.elapsed() < Duration::from_millis(2500));
}

#[tokio::test]
async fn a_silent_name_server_costs_two_seconds() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = NameServer {
        address: socket.local_addr().unwrap(),
        asked: Arc::default(),
    };
    let started = Instant::now();
    let resolved = server
        .resolver()
        .resolve(&acme(), &target("h.example.com"))
        .await;
    assert!(resolved.is_err(), "{resolved:?}");
    assert!(
        started.elapsed() < Duration::from_millis(2500),
        "{:?}",
        started.elapsed()
    );
}

// === impl NameServer ===

impl NameServer {
    async fn start<const N: usize>(table: [(&str, u32, &str); N]) -> Self {
        Self::start_deaf(table, 0).await
    }

    /// Does not hear the first questions.
    async fn start_deaf(
        table: impl IntoIterator<Item = (&str, u32, &str)>,
        mut n_unheard: usize,
    ) -> Self {
        let (udp, tcp) = listen().await;
        let address = udp.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let remembered = Arc::clone(&asked);
        let table: HashMap<String, Vec<Record>> = table
            .into_iter()
            .map(|(name, ttl, answers)| (name.to_owned(), records(name, ttl, answers)))
            .collect();
        let answer = Arc::new(move |packet: &[u8]| {
            let request = Message::from_vec(packet).unwrap();
            let query = &request.queries[0];
            let name = query.name().to_string();
            remembered
                .lock()
                .unwrap()
                .push((name.clone(), query.query_type()));
            let mut answer = Message::response(request.metadata.id, request.metadata.op_code);
            answer.add_query(query.clone());
            match table.get(&name) {
                None => answer.metadata.response_code = ResponseCode::NXDomain,
                Some(records) => {
                    let kinds = [query.query_type(), RecordType::CNAME];
                    let of_kind = records
                        .iter()
                        .filter(|it| kinds.contains(&it.record_type()));
                    answer.add_answers(of_kind.cloned());
                }
            }
            answer
        });
        let answer_whole = Arc::clone(&answer);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let answer = Arc::clone(&answer_whole);
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut packet = vec![0; length.into()];
                        stream.read_exact(&mut packet).await.unwrap();
                        let answer = answer(&packet).to_vec().unwrap();
                        let length = answer.len().try_into().unwrap();
                        stream.write_u16(length).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        tokio::spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((n, asker)) = udp.recv_from(&mut packet).await {
                if n_unheard > 0 {
                    n_unheard -= 1;
                    continue;
                }
                let mut answer = answer(&packet[..n]);
                if answer.to_vec().unwrap().len() > 1232 {
                    answer = answer.truncate();
                }
                let answer = answer.to_vec().unwrap();
                udp.send_to(&answer, asker).await.unwrap();
            }
        });
        Self { address, asked }
    }

    fn resolver(&self) -> Resolver {
        Resolver::new(Policy::default(), &[self.address]).unwrap()
    }

    fn asked(&self) -> Vec<(String, RecordType)> {
        self.asked.lock().unwrap().clone()
    }
}

/// Both kinds of sockets on one free port.
async fn listen() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

fn records(name: &str, ttl: u32, answers: &str) -> Vec<Record> {
    let mut owner: Name = name.parse().unwrap();
    let mut records = Vec::new();
    for answer in answers.split(',').map(str::trim) {
        if let Some(alias) = answer.strip_prefix("CNAME ") {
            let alias: Name = alias.parse().unwrap();
            records.push(Record::from_rdata(
                owner,
                ttl,
                RData::CNAME(CNAME(alias.clone())),
            ));
            owner = alias;
        } else {
            let address: IpAddr = answer.parse().unwrap();
            records.push(Record::from_rdata(owner.clone(), ttl, address.into()));
        }
    }
    records
}

fn target(name: &str) -> Target {
    Target::parse(&format!("https://{name}:8443/"), &Rules::default()).unwrap()
}
