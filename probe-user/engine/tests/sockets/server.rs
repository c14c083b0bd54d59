//! A server on loopback that treats each connection by one function and ends with its test.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

/// Nothing here waits longer for a client.
const PATIENCE: Duration = Duration::from_secs(20);

/// The server.
pub(crate) struct Server {
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Each connection has a thread; its stream is closed when the function is done.
    pub(crate) fn new(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let (connections, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ended, serve) = (Arc::clone(&connections), Arc::clone(&over), Arc::new(serve));
        let accepting = move || {
            let mut threads = Vec::new();
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let stream = stream.expect("a connection");
                stream.set_read_timeout(Some(PATIENCE)).expect("an option");
                stream.set_write_timeout(Some(PATIENCE)).expect("an option");
                counted.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                threads.push(spawn(move || serve(stream)));
            }
            for thread in threads {
                thread.join().expect("the server's function");
            }
        };
        Self { port, connections, over, thread: Some(spawn(accepting)) }
    }

    /// Reads a request, sends this, and waits for the client to leave.
    pub(crate) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::new(move |mut stream| {
            head(&mut stream);
            send(&mut stream, &answer);
            finish(&mut stream);
        })
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        let ended = self.thread.take().expect("joined once").join();
        if !std::thread::panicking() {
            ended.expect("no thread of the server panicked");
        }
    }
}

/// The head of a request, or what came of it.
pub(crate) fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => head.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Sends; false if the client has gone.
pub(crate) fn send(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_ok()
}

/// Ends our side, and waits for the client to end its own.
pub(crate) fn finish(stream: &mut TcpStream) {
    drop(stream.shutdown(Shutdown::Write));
    gone(stream);
}

/// Waits for the client to leave.
pub(crate) fn gone(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {}
}

/// Closes with a reset: what was sent to us and not read makes it one.
pub(crate) fn reset(stream: TcpStream) {
    stream.peek(&mut [0]).expect("a request");
    drop(stream);
}
