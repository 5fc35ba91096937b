//! A DNS server on loopback that answers questions for TXT records as a test says, over UDP and TCP.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How a name is answered. Names that nothing is said of do not exist.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These records, each of its strings.
    Texts(Vec<Vec<String>>),
    /// The same, but it does not fit into a datagram.
    OverTcp(Vec<Vec<String>>),
    /// It is another name; what stands there has to be asked for.
    Alias(String),
    /// The server cannot answer: its response code.
    Failed(u8),
    /// Nonsense.
    Garbage,
    /// Nothing comes.
    Silence,
}

#[derive(Default)]
struct State {
    replies: Mutex<HashMap<String, Reply>>,
    questions: AtomicUsize,
    ends: AtomicBool,
}

/// The server; it ends when it is dropped.
pub struct Dns {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

impl Dns {
    /// A server that knows no name.
    pub fn start() -> Self {
        let (tcp, udp) = std::iter::repeat_with(|| {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = tcp.local_addr().unwrap();
            Some((tcp, UdpSocket::bind(address).ok()?))
        })
        .take(100)
        .find_map(|both| both)
        .expect("a free port");
        let address = tcp.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (over_udp, over_tcp) = (Arc::clone(&state), Arc::clone(&state));
        let threads = vec![
            std::thread::spawn(move || datagrams(&udp, &over_udp)),
            std::thread::spawn(move || connections(&tcp, &over_tcp)),
        ];
        Self { address, state, threads }
    }

    /// Says how a name is answered from now on.
    pub fn set(&self, name: &str, reply: Reply) {
        self.state.replies.lock().unwrap().insert(name.to_owned(), reply);
    }

    /// Says that a name has one record of one string.
    pub fn set_text(&self, name: &str, text: &str) {
        self.set(name, Reply::Texts(vec![vec![text.to_owned()]]));
    }

    /// Questions that came over UDP so far.
    pub fn questions(&self) -> usize {
        self.state.questions.load(Ordering::SeqCst)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.state.ends.store(true, Ordering::SeqCst);
        // Wakes both.
        let _ = std::net::TcpStream::connect(self.address);
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            let _ = socket.send_to(&[], self.address);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn datagrams(socket: &UdpSocket, state: &State) {
    let mut octets = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut octets) {
        if state.ends.load(Ordering::SeqCst) {
            return;
        }
        state.questions.fetch_add(1, Ordering::SeqCst);
        if let Some(answer) = answer(&octets[..length], state, true) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn connections(listener: &TcpListener, state: &State) {
    while let Ok((mut stream, _)) = listener.accept() {
        if state.ends.load(Ordering::SeqCst) {
            return;
        }
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            continue;
        }
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut question).is_err() {
            continue;
        }
        if let Some(answer) = answer(&question, state, false) {
            let _ = stream.write_all(&(answer.len() as u16).to_be_bytes());
            let _ = stream.write_all(&answer);
        }
    }
}

/// The name in a question, and where the question ends.
fn asked(question: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*question.get(at)?);
        if length == 0 {
            return Some((labels.join("."), at + 5));
        }
        labels.push(String::from_utf8_lossy(question.get(at + 1..=at + length)?).to_lowercase());
        at += length + 1;
    }
}

fn answer(question: &[u8], state: &State, is_datagram: bool) -> Option<Vec<u8>> {
    let (name, end) = asked(question)?;
    let reply = state.replies.lock().unwrap().get(&name).cloned();
    let (code, is_cut_off, records) = match reply {
        None => (3, false, Vec::new()),
        Some(Reply::Silence) => return None,
        Some(Reply::Garbage) => {
            // The right number, then what contradicts itself.
            let mut answer = question.get(..end)?.to_vec();
            answer[2] |= 0x80;
            answer[7] = 1;
            answer.extend_from_slice(&[0xc0, 0xff, 1, 2, 3]);
            return Some(answer);
        }
        Some(Reply::Failed(code)) => (code, false, Vec::new()),
        Some(Reply::OverTcp(_)) if is_datagram => (0, true, Vec::new()),
        Some(Reply::Alias(to)) => {
            let labels = to.split('.').flat_map(|label| {
                std::iter::once(label.len() as u8).chain(label.bytes()).collect::<Vec<_>>()
            });
            (0, false, vec![(5_u16, labels.chain([0]).collect::<Vec<u8>>())])
        }
        Some(Reply::Texts(texts) | Reply::OverTcp(texts)) => {
            let record = |strings: &Vec<String>| {
                let octets = |text: &String| [&[text.len() as u8], text.as_bytes()].concat();
                (16, strings.iter().flat_map(octets).collect())
            };
            (0, false, texts.iter().map(record).collect())
        }
    };
    let mut answer = question.get(..end)?.to_vec();
    answer[2] = 0x81 | if is_cut_off { 2 } else { 0 };
    answer[3] = 0x80 | code;
    answer[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    for (kind, data) in records {
        answer.extend_from_slice(&[0xc0, 12]);
        answer.extend_from_slice(&kind.to_be_bytes());
        answer.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        answer.extend_from_slice(&(data.len() as u16).to_be_bytes());
        answer.extend_from_slice(&data);
    }
    Some(answer)
}
