//! A client of HTTP/2: as many requests under way on one connection as it is given streams, each an attempt of its own, none ever repeated.
//!
//! It always looks: a request of which nothing has left when its kept connection turns out to be over is no attempt yet, and goes out on a
//! new one. A connection that goes away or lets a request time out gets no more requests, and those under way on it are waited for.

use std::future::pending;
use std::time::Duration;

use tokio::task::JoinSet;

use super::attempt::{Attempt, ClientKind, ErrorKind, Stage};
use super::client::{Client, STOP_LATENCY_NS, fail};
use super::clock::now_ns;
use super::connection::Failure;
use super::run::LoadError;
use super::session::{Session, Stream, request};
use super::tally::Tally;

/// Runs until the end of the run; the last attempts are finished, within their timeouts. A thread of its own drives all streams of a client.
pub(super) fn run(client: Client<'_>) -> Result<Tally, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = request(client.config).map_err(|error| LoadError::Local(error.to_string()))?;
    runtime.block_on(Http2 { client, request, kept: None, under_way: JoinSet::new() }.run())
}

struct Http2<'a> {
    client: Client<'a>,
    request: http::Request<()>,
    kept: Option<Session>,
    under_way: JoinSet<Attempt>,
}

impl Http2<'_> {
    async fn run(mut self) -> Result<Tally, LoadError> {
        while let Some(due_ns) = self.next_turn().await? {
            self.turn(due_ns).await?;
        }
        while let Some(ended) = self.under_way.join_next().await {
            self.record(&ended.or(Err(LoadError::Panic))?)?;
        }
        self.client.log.flush()?;
        Ok(self.client.tally)
    }

    fn record(&mut self, attempt: &Attempt) -> Result<(), LoadError> {
        let is_on = |session: &Session| session.local == attempt.local;
        if attempt.error == Some(ErrorKind::Timeout) && self.kept.as_ref().is_some_and(is_on) {
            self.kept = None;
        }
        self.client.record(attempt)
    }

    /// Waits for the next turn and for a free stream, and records what ends meanwhile.
    async fn next_turn(&mut self) -> Result<Option<Option<u64>>, LoadError> {
        let streams = match self.client.kind {
            ClientKind::Keepalive => usize::try_from(self.client.config.streams).unwrap_or(usize::MAX),
            ClientKind::New => 1,
        };
        loop {
            while let Some(ended) = self.under_way.try_join_next() {
                self.record(&ended.or(Err(LoadError::Panic))?)?;
            }
            let (now_ns, end_ns) = (now_ns(), self.client.shared.end_ns());
            let due_ns = self.client.due_ns();
            let has_room = self.under_way.len() < streams;
            if now_ns >= end_ns || due_ns >= end_ns || (has_room && now_ns >= due_ns) {
                return Ok(self.client.take_turn());
            }
            let wait_ns = if has_room { (due_ns - now_ns).min(STOP_LATENCY_NS) } else { STOP_LATENCY_NS };
            tokio::select! {
                ended = next(&mut self.under_way) => self.record(&ended?)?,
                () = tokio::time::sleep(Duration::from_nanos(wait_ns)) => {}
            }
        }
    }

    /// One attempt: sent, it goes on by itself.
    async fn turn(&mut self, due_ns: Option<u64>) -> Result<(), LoadError> {
        let (config, is_grpc) = (self.client.config, self.client.config.grpc.is_some());
        let mut attempt = self.client.begin(due_ns);
        loop {
            let (mut session, is_new) = match self.kept.take() {
                Some(session) => (session, false),
                None => match Session::open(config, self.client.shared.ports()).await? {
                    Ok(session) => {
                        self.client.tally.connections += 1;
                        (session, true)
                    }
                    Err((local, failure)) => {
                        attempt.local = local;
                        fail(&mut attempt, failure);
                        return self.record(&attempt);
                    }
                },
            };
            attempt.local = session.local;
            attempt.nth = session.requests.saturating_add(1);
            attempt.t_ns = now_ns();
            if !is_new {
                attempt.start_ns = attempt.t_ns;
            }
            match session.send(self.request.clone(), is_grpc).await {
                Ok(stream) => {
                    self.under_way.spawn(finish(attempt, stream, is_grpc, config.timeout));
                    if self.client.kind == ClientKind::Keepalive {
                        self.kept = Some(session);
                    }
                    return Ok(());
                }
                Err(failure) if is_new => {
                    fail(&mut attempt, failure);
                    return self.record(&attempt);
                }
                Err(_) => self.client.tally.found_closed += 1,
            }
        }
    }
}

/// The next attempt that ends, if any is under way.
async fn next(under_way: &mut JoinSet<Attempt>) -> Result<Attempt, LoadError> {
    match under_way.join_next().await {
        Some(ended) => ended.or(Err(LoadError::Panic)),
        None => pending().await,
    }
}

/// Waits for the answer, within the timeout.
async fn finish(mut attempt: Attempt, stream: Stream, is_grpc: bool, timeout: Duration) -> Attempt {
    let mut received = 0;
    let answer = tokio::time::timeout(timeout, stream.answer(is_grpc, &mut received)).await;
    match answer {
        Ok(Ok(answer)) => {
            attempt.end_ns = now_ns();
            attempt.status = Some(answer.status);
            attempt.received = answer.received;
        }
        Ok(Err(failure)) => fail(&mut attempt, failure),
        Err(_) => {
            let stage = if received == 0 { Stage::FirstByte } else { Stage::Body };
            let error = ErrorKind::Timeout;
            fail(&mut attempt, Failure { error, stage, errno: None, sent: 0, received });
        }
    }
    attempt
}
