//! A name server that says what a test wants.

use std::{
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::net::UdpSocket;

use super::process::{Process, hookfleet};

/// For it every name is one address, while it is well.
pub struct NameServer {
    port: u16,
    pub is_well: Arc<AtomicBool>,
    asked: Arc<Mutex<usize>>,
}

// === impl NameServer ===

impl NameServer {
    pub async fn start(address: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            port: socket.local_addr().unwrap().port(),
            is_well: Arc::new(true.into()),
            asked: Arc::default(),
        };
        let (is_well, asked) = (Arc::clone(&server.is_well), Arc::clone(&server.asked));
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((n, from)) = socket.recv_from(&mut question).await {
                *asked.lock().unwrap() += 1;
                let is_well = is_well.load(Ordering::SeqCst);
                let answer = answer(&question[..n], is_well.then_some(address));
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        server
    }

    /// `hookfleet standalone` on a data directory, which asks it for names and calls them by plain http.
    pub fn standalone(&self, data_dir: &Path) -> Process {
        let mut command = hookfleet();
        command.env("HOOKFLEET_ALLOW_HTTP_TARGETS", "true");
        let servers = format!("[\"127.0.0.1:{}\"]", self.port);
        command.env("HOOKFLEET_NAME_SERVERS", servers);
        command.arg("standalone").arg("--data-dir").arg(data_dir);
        Process::start(command, "127.0.0.1:0")
    }

    /// How often it was asked.
    pub fn n_asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

/// SERVFAIL, or the address for questions about A and nothing for others.
fn answer(question: &[u8], address: Option<Ipv4Addr>) -> Vec<u8> {
    const HEADER: usize = 12;
    let name = question[HEADER..].iter().position(|it| *it == 0).unwrap() + 1;
    let end = HEADER + name + 4;
    let is_about_v4 = question[HEADER + name..end] == [0, 1, 0, 1];
    let told = address.filter(|_| is_about_v4);
    let mut answer = question[..end].to_vec();
    // A response; the code is the last of these bits.
    (answer[2], answer[3]) = (0x81, if address.is_some() { 0x80 } else { 0x82 });
    answer[4..HEADER].copy_from_slice(&[0, 1, 0, u8::from(told.is_some()), 0, 0, 0, 0]);
    if let Some(address) = told {
        // The name of the question, A, IN, 5 seconds.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
