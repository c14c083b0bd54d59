//! TLS of probes. Any certificate will do, as for the kubelet: it is asked whether the server answers, not who it is.
//!
//! Signatures of the handshake are not looked at either. They would prove that the server has the key of a certificate that
//! nobody believes anyway, and the check would turn certificates away that the kubelet takes (X.509 v1, P-521).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::outcome::Phase;
use crate::quote::read_error;
use crate::trace::Trace;

/// As ALPN has it.
pub(crate) const H2: &[u8] = b"h2";

/// A connection with TLS.
pub(crate) type Tls = TlsStream<Watched>;

static HTTPS: LazyLock<TlsConnector> = LazyLock::new(|| connector(&[H2, b"http/1.1"]));
static GRPC: LazyLock<TlsConnector> = LazyLock::new(|| connector(&[H2]));

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// HTTP/2 or HTTP/1.1, the server's choice.
    Https,
    /// HTTP/2 alone.
    Grpc,
}

/// The handshake. The error is the kubelet's text.
pub(crate) async fn handshake(
    stream: TcpStream,
    host: &str,
    inside: Inside,
    trace: &mut Trace,
) -> Result<Tls, String> {
    trace.enter(Phase::Tls);
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_error| format!("tls: {host} is no name of a server"))?;
    let connector = match inside {
        Inside::Https => &HTTPS,
        Inside::Grpc => &GRPC,
    };
    let watched = Watched { stream, first: Vec::with_capacity(FIRST) };
    let done = connector.connect(name, watched).into_fallible().await;
    trace.leave();
    done.map_err(|(error, watched)| failed(&error, &watched))
}

fn failed(error: &io::Error, watched: &Watched) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => format!("remote error: tls: {}", alert_text(*alert)),
        Some(rustls::Error::InvalidMessage(_)) if watched.first.starts_with(b"HTTP/") => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        Some(rustls::Error::InvalidMessage(_)) if !looks_like_tls(&watched.first) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Some(error) => format!("tls: {error}"),
        None => read_error(error, watched.stream.local_addr().ok().zip(watched.stream.peer_addr().ok())),
    }
}

/// A record of a handshake or an alert, of any version 3.x.
fn looks_like_tls(first: &[u8]) -> bool {
    matches!(first, [0x15 | 0x16, 3, ..])
}

fn connector(protocols: &[&[u8]]) -> TlsConnector {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // Every probe begins anew.
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

/// Takes every certificate.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        // What the kubelet's TLS offers, in its order.
        vec![
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::RSA_PKCS1_SHA1,
            SignatureScheme::ECDSA_SHA1_Legacy,
        ]
    }
}

/// As much as it takes to tell HTTP from TLS.
const FIRST: usize = 5;

/// Remembers the first bytes that came, to say what it was if it was not TLS.
#[derive(Debug)]
pub(crate) struct Watched {
    stream: TcpStream,
    first: Vec<u8>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let missing = FIRST.saturating_sub(self.first.len());
        if missing > 0 {
            let new = &buffer.filled()[before..];
            self.first.extend_from_slice(&new[..new.len().min(missing)]);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn alert_text(alert: AlertDescription) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is told by its number, as the kubelet does")]
    let text = match alert {
        AlertDescription::CloseNotify => "close notify",
        AlertDescription::UnexpectedMessage => "unexpected message",
        AlertDescription::BadRecordMac => "bad record MAC",
        AlertDescription::RecordOverflow => "record overflow",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::IllegalParameter => "illegal parameter",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::DecodeError => "error decoding message",
        AlertDescription::DecryptError => "error decrypting message",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::InsufficientSecurity => "insufficient security level",
        AlertDescription::InternalError => "internal error",
        AlertDescription::UserCanceled => "user canceled",
        AlertDescription::NoRenegotiation => "no renegotiation",
        AlertDescription::UnrecognisedName => "unrecognized name",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::NoApplicationProtocol => "no application protocol",
        other => return format!("alert({})", u8::from(other)),
    };
    text.to_owned()
}

/// The text of an error of an established connection; that of TLS itself as it stands.
pub(crate) fn stream_error(error: &io::Error, ends: Option<(SocketAddr, SocketAddr)>) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => format!("remote error: tls: {}", alert_text(*alert)),
        Some(error) => format!("tls: {error}"),
        None => read_error(error, ends),
    }
}
