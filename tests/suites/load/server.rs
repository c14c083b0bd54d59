//! Small servers in threads, each connection handled by the test's own code, so that its bad habit is plain to see.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex};

use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A listening server; its threads end with the test's process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Server {
    /// The client's address of every connection, in order of acceptance.
    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().expect("no panic").clone()
    }
}

/// Serves each connection with `handler`, which is also told the connection's number.
pub(crate) fn serve(handler: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Server {
    serve_on("127.0.0.1:0", handler)
}

pub(crate) fn serve_on(address: &str, handler: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind(address).expect("a free port");
    let address = listener.local_addr().expect("an address");
    let peers = Arc::new(Mutex::new(Vec::new()));
    let (handler, seen) = (Arc::new(handler), Arc::clone(&peers));
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let stream = stream.expect("accepted");
            seen.lock().expect("no panic").push(stream.peer_addr().expect("a peer"));
            let handler = Arc::clone(&handler);
            std::thread::spawn(move || handler(stream, number));
        }
    });
    Server { address, peers }
}

/// Reads one whole request: head and body. `None` at the end of the connection, or when the client has reset it.
pub(crate) fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.map_or(0, |length| length.parse().expect("a length")) {
                return Some(text.into_owned());
            }
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => request.extend_from_slice(&piece[..count]),
        }
    }
}

/// Answers every request until the client leaves.
pub(crate) fn answer_all(mut stream: TcpStream, response: &[u8]) {
    while read_request(&mut stream).is_some() && stream.write_all(response).is_ok() {}
}

/// Writes the last response of a connection and closes it: data and FIN leave in one segment, so the client has the one only with the other.
pub(crate) fn answer_and_close(stream: TcpStream, response: &[u8]) {
    let flags = MsgFlags::from_bits_retain(libc::MSG_MORE) | MsgFlags::MSG_NOSIGNAL;
    let sent = send(stream.as_raw_fd(), response, flags);
    assert_eq!(sent, Ok(response.len()));
    drop(stream);
}

/// Closes with RST.
pub(crate) fn reset(stream: TcpStream) {
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).expect("a valid option");
    drop(stream);
}
