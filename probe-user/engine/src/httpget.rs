//! The HTTP probe: requests, redirects, and what the last answer means.

use std::future::poll_fn;

use http::{Method, Request, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::connect::dial;
use crate::header::{Headers, host_of};
use crate::http1::{Exchange, Framing, Head};
use crate::http2::Client;
use crate::outcome::{Phase, Verdict};
use crate::quote::quoted;
use crate::tls::{H2, Inside, Tls, handshake, stream_error};
use crate::trace::Trace;
use crate::url::Url;
use crate::{End, HttpGet, Scheme};

/// Most of a body that is read and shown.
const BODY_BYTES: usize = 10 << 10;

/// Requests that one probe makes at most: the first and nine redirects.
const MAX_REQUESTS: usize = 10;

/// What is read of the body of a redirect before it is followed, if it says that it is no longer or nothing about its length.
const REDIRECT_BODY_BYTES: u16 = 2 << 10;

/// Runs the probe.
pub(crate) async fn probe(get: &HttpGet, user_agent: &str, trace: &mut Trace) -> End {
    match last_answer(get, user_agent, trace).await {
        Ok(answer) => judge(answer, trace).await,
        Err(text) => (Verdict::Failure, text),
    }
}

/// The text of a run that the timeout has ended.
pub(crate) fn timed_out(get: &HttpGet, trace: &Trace) -> End {
    if trace.halfway {
        let text = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
        return (Verdict::Unknown, text.to_owned());
    }
    let tls = get.scheme == Scheme::Https || trace.url.starts_with("https:");
    let suffix = match trace.phase() {
        Some(Phase::Resolve | Phase::Connect | Phase::Tls) if tls => "",
        _ => " (Client.Timeout exceeded while awaiting headers)",
    };
    (Verdict::Failure, failed(&trace.url, &format!("context deadline exceeded{suffix}")))
}

fn failed(url: &str, why: &str) -> String {
    format!("Get {}: {why}", quoted(url.as_bytes()))
}

/// What is asked for first.
pub(crate) fn url_of(get: &HttpGet) -> Url {
    let scheme = match get.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    Url::of_probe(scheme, &get.host, get.port, &get.path)
}

/// Follows redirects as far as the probe does.
async fn last_answer(get: &HttpGet, user_agent: &str, trace: &mut Trace) -> Result<Answer, String> {
    let first = url_of(get);
    let mut headers = Headers::of_probe(&get.headers, user_agent);
    let of_user = headers.first("Host").to_owned();
    let explicit_referer = headers.first("Referer").to_owned();
    let (mut url, mut host, mut requests) = (first.clone(), of_user, 1);
    loop {
        trace.url = url.without_user().to_string();
        let shown = trace.url.clone();
        let answer = ask(&url, &host, &headers, get.h2c, trace).await.map_err(|why| failed(&shown, &why))?;
        let Some(location) = answer.redirect() else { return Ok(answer) };
        let reference = Url::parse(&location).map_err(|why| {
            failed(&shown, &format!("failed to parse Location header {}: {why}", quoted(location.as_bytes())))
        })?;
        let next = Url::resolve(&url, &reference);
        if next.hostname() != first.hostname() && !get.follow_other_hosts {
            return Ok(answer);
        }
        // What is left of the body counts to the next request.
        trace.halfway = false;
        trace.url = next.without_user().to_string();
        answer.skip_body().await;
        if requests == MAX_REQUESTS {
            return Err(failed(&location, "stopped after 10 redirects"));
        }
        requests += 1;
        // The user's host is kept for relative redirects only.
        if !reference.scheme.is_empty() {
            host.clear();
        }
        if url.scheme != "https" || next.scheme != "http" {
            let referer = if explicit_referer.is_empty() { shown } else { explicit_referer.clone() };
            headers.set("Referer", referer);
        }
        trace.redirects.push(trace.url.clone());
        url = next;
    }
}

/// One request on a connection of its own.
async fn ask(
    url: &Url,
    host: &str,
    headers: &Headers,
    h2c: bool,
    trace: &mut Trace,
) -> Result<Answer, String> {
    headers.check()?;
    if url.scheme != "http" && url.scheme != "https" {
        return Err(format!("unsupported protocol scheme {}", quoted(url.scheme.as_bytes())));
    }
    if url.host.is_empty() || !url.opaque.is_empty() {
        return Err("http: no Host in request URL".to_owned());
    }
    let host = host_of(if host.is_empty() { &url.host } else { host });
    let stream = dial(url.hostname(), url.port(), trace).await?;
    let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
    if url.scheme == "http" && h2c {
        let (head, body) = http2(stream, url, &host, headers, trace).await?;
        return Ok(Answer { head, body: Body::H2c(body) });
    }
    if url.scheme == "http" {
        let exchange = Exchange::new(stream, ends);
        let (head, exchange) = http1(exchange, headers.http1(url, &host), trace).await?;
        return Ok(Answer { head, body: Body::Plain(exchange) });
    }
    let tls = handshake(stream, url.hostname(), Inside::Https, trace).await?;
    if tls.get_ref().1.alpn_protocol() == Some(H2) {
        let (head, body) = http2(tls, url, &host, headers, trace).await?;
        return Ok(Answer { head, body: Body::Http2(body) });
    }
    let exchange = Exchange::new(tls, ends);
    let (head, exchange) = http1(exchange, headers.http1(url, &host), trace).await?;
    Ok(Answer { head, body: Body::Tls(Box::new(exchange)) })
}

async fn http1<S>(
    mut exchange: Exchange<S>,
    request: Vec<u8>,
    trace: &mut Trace,
) -> Result<(Head, Exchange<S>), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    trace.protocol = Some("HTTP/1.1");
    trace.enter(Phase::FirstByte);
    exchange.send(&request).await;
    match exchange.head(trace).await {
        Ok(head) => {
            trace.status = Some(head.status);
            trace.halfway = true;
            Ok((head, exchange))
        }
        Err(broken) => Err(broken.of_head(exchange.begun)),
    }
}

async fn http2<S>(
    stream: S,
    url: &Url,
    host: &str,
    headers: &Headers,
    trace: &mut Trace,
) -> Result<(Head, Box<Streamed<S>>), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    trace.protocol = Some("HTTP/2.0");
    trace.enter(Phase::FirstByte);
    let uri = Uri::builder().scheme(url.scheme.as_str()).authority(host).path_and_query(url.request_target());
    let uri = uri.build().map_err(|error| error.to_string())?;
    let mut request = Request::builder().method(Method::GET).version(Version::HTTP_2).uri(uri);
    for (name, value) in headers.http2(url) {
        request = request.header(name, value);
    }
    let request = request.body(()).map_err(|error| error.to_string())?;
    let exchange = async {
        let mut client = Client::start(stream).await?;
        client.call(request, None).await.map(|answer| (client, answer))
    };
    let (client, answer) = exchange.await.map_err(|error| http2_error(&error))?;
    trace.first_byte();
    let status = answer.status().as_u16();
    trace.status = Some(status);
    trace.halfway = true;
    let text = |name: &str| {
        answer.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let length = text("content-length").and_then(|length| length.parse().ok());
    let framing = length.map_or(Framing::UntilClose, Framing::Length);
    let head = Head { status, location: text("location"), framing };
    Ok((head, Box::new(Streamed { client, stream: answer.into_body() })))
}

fn http2_error(error: &h2::Error) -> String {
    if let Some(io) = error.get_io() {
        return stream_error(io, None);
    }
    match error.reason().filter(|_| error.is_reset() && error.is_remote()) {
        // There is one stream, the first.
        Some(reason) => format!("stream error: stream ID 1; {reason:?}; received from peer"),
        None => format!("http2: {error}"),
    }
}

/// An answer whose body is still to come.
struct Answer {
    head: Head,
    body: Body,
}

enum Body {
    Plain(Exchange<TcpStream>),
    Tls(Box<Exchange<Tls>>),
    Http2(Box<Streamed<Tls>>),
    H2c(Box<Streamed<TcpStream>>),
}

/// The body of an answer by HTTP/2, and what it comes by.
struct Streamed<S: AsyncRead + AsyncWrite + Unpin> {
    client: Client<S>,
    stream: h2::RecvStream,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Streamed<S> {
    async fn read(&mut self, most: usize) -> Result<Vec<u8>, String> {
        let Self { client, stream } = self;
        let mut body = Vec::new();
        while body.len() < most {
            let data = client
                .drive(poll_fn(|cx| stream.poll_data(cx)))
                .await
                .map_err(|error| http2_error(&error))?;
            let Some(data) = data else { break };
            let data = data.map_err(|error| http2_error(&error))?;
            body.extend_from_slice(&data[..data.len().min(most - body.len())]);
            // Fails only once the stream is over, which the next read tells.
            drop(stream.flow_control().release_capacity(data.len()));
        }
        Ok(body)
    }

    async fn close(self) {
        drop(self.stream);
        self.client.close().await;
    }
}

impl Answer {
    /// Where it leads, if it leads anywhere.
    fn redirect(&self) -> Option<String> {
        match self.head.status {
            301 | 302 | 303 | 307 | 308 => self.head.location.clone().filter(|location| !location.is_empty()),
            _ => None,
        }
    }

    /// At most so much of the body.
    async fn read(&mut self, most: usize) -> Result<Vec<u8>, String> {
        let framing = self.head.framing;
        match &mut self.body {
            Body::Plain(exchange) => exchange.body(framing, most).await.map_err(|broken| broken.of_body()),
            Body::Tls(exchange) => exchange.body(framing, most).await.map_err(|broken| broken.of_body()),
            Body::Http2(streamed) => streamed.read(most).await,
            Body::H2c(streamed) => streamed.read(most).await,
        }
    }

    /// Reads what little body a redirect has, and lets the connection go.
    async fn skip_body(mut self) {
        let short = match self.head.framing {
            Framing::Length(length) => length <= u64::from(REDIRECT_BODY_BYTES),
            Framing::Chunked | Framing::UntilClose => true,
        };
        if short {
            // A redirect counts by its head.
            drop(self.read(usize::from(REDIRECT_BODY_BYTES)).await);
        }
        self.close().await;
    }

    async fn close(self) {
        match self.body {
            // The drop closes it as well, and as the kubelet does.
            Body::Plain(_) => {}
            Body::Tls(exchange) => exchange.close().await,
            Body::Http2(streamed) => streamed.close().await,
            Body::H2c(streamed) => streamed.close().await,
        }
    }
}

/// What the last answer means.
async fn judge(mut answer: Answer, trace: &mut Trace) -> End {
    let read = answer.read(BODY_BYTES).await;
    trace.leave();
    let status = answer.head.status;
    answer.close().await;
    let body = match read {
        Ok(body) => String::from_utf8_lossy(&body).into_owned(),
        Err(text) => return (Verdict::Unknown, text),
    };
    match status {
        200..300 => (Verdict::Success, body),
        300..400 => (Verdict::Warning, format!("Probe terminated redirects, Response body: {body}")),
        _ => (Verdict::Failure, format!("HTTP probe failed with statuscode: {status}")),
    }
}
