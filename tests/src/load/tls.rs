//! TLS on a client's connection. Any certificate will do: it is the server's end that is looked at, not who it is.
//!
//! No I/O here: bytes of the wire in and out, plain bytes out and in. Nothing is resumed, so that every connection begins in the same way.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

/// What came is not TLS, or not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad;

/// What plain bytes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plain {
    Some(usize),
    /// More of the wire is needed.
    None,
    /// The server has closed the connection, in its own words or not.
    End,
}

/// What all connections of a run share.
pub(super) fn client_config() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Tls(ClientConnection);

impl Tls {
    /// Nothing is sent yet.
    pub(super) fn new(config: Arc<ClientConfig>, server: SocketAddr) -> Result<Self, rustls::Error> {
        let mut connection = ClientConnection::new(config, ServerName::from(server.ip()))?;
        // Requests are bounded by the run's configuration.
        connection.set_buffer_limit(None);
        Ok(Self(connection))
    }

    /// Takes plain bytes for the server.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.0.writer().write_all(bytes).expect("a buffer without limit takes everything");
    }

    /// Says that nothing more will come.
    pub(super) fn close(&mut self) {
        self.0.send_close_notify();
    }

    /// What is to be sent now; empty if it is the server's turn.
    pub(super) fn take_wire(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut wire).expect("memory takes everything");
        }
        wire
    }

    /// Plain bytes are held back until the server has answered.
    pub(super) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Takes what came; nothing is the end of the connection.
    pub(super) fn give_wire(&mut self, mut wire: &[u8]) -> Result<(), Bad> {
        loop {
            // Reading from memory does not fail; with more plain bytes than rustls wants to hold it would.
            self.0.read_tls(&mut wire).or(Err(Bad))?;
            self.0.process_new_packets().or(Err(Bad))?;
            if wire.is_empty() {
                return Ok(());
            }
        }
    }

    /// Gives plain bytes of the server.
    pub(super) fn read(&mut self, room: &mut [u8]) -> Plain {
        match self.0.reader().read(room) {
            Ok(0) => Plain::End,
            Ok(count) => Plain::Some(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Plain::None,
            Err(_) => Plain::End,
        }
    }
}

/// Believes every server, as long as it has the key of its certificate.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
