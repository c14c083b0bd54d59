//! Netlink sockets of nf_tables in the agent's own network namespace, which is the node's: one that hears of each
//! transaction, and one to ask for what is there.

use super::message::{Malformed, Message, messages};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use thiserror::Error;

/// NFNLGRP_NFTABLES as a bit: group 7.
const GROUP: u32 = 1 << 6;
/// Longest datagram: the kernel fills a page with notifications, and 32 KiB with an answer.
const DATAGRAM: usize = 64 << 10;
/// Tries to read a set that changes all the time.
const TRIES: usize = 5;
/// Longest wait for a datagram; an answer comes at once.
const PATIENCE_SECONDS: i64 = 1;

/// Why nothing more is heard.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    /// The kernel had more to say than the buffer takes.
    #[error("notifications were lost")]
    Overrun,
    /// Not allowed.
    #[error("CAP_NET_ADMIN is needed")]
    NotAllowed,
    /// Any other error.
    #[error(transparent)]
    Io(io::Error),
    /// An answer did not come, or the set never was the same for long enough to be read.
    #[error("the service proxy's set cannot be read")]
    Unread,
}

impl From<Errno> for SocketError {
    fn from(error: Errno) -> Self {
        if error == Errno::ENOBUFS {
            Self::Overrun
        } else if error == Errno::EPERM {
            Self::NotAllowed
        } else {
            Self::Io(error.into())
        }
    }
}

impl From<Malformed> for SocketError {
    /// What cannot be read is lost.
    fn from(_: Malformed) -> Self {
        Self::Overrun
    }
}

/// A socket.
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// One that hears of each transaction from now on; the kernel keeps up to `bytes` for it.
    pub(crate) fn listening(bytes: usize) -> Result<Self, SocketError> {
        let socket = Self::open(GROUP)?;
        // The kernel doubles it, for what it needs itself.
        setsockopt(&socket.fd, sockopt::RcvBufForce, &(bytes / 2))?;
        Ok(socket)
    }

    fn open(groups: u32) -> Result<Self, SocketError> {
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { fd, buffer: vec![0; DATAGRAM] })
    }

    /// The one datagram that answers a request; `None` if none came in a second.
    pub(crate) fn exchange(request: &[u8]) -> Result<Option<Vec<u8>>, SocketError> {
        let mut socket = Self::open(0)?;
        send(socket.fd.as_raw_fd(), request, MsgFlags::empty())?;
        Ok(socket.receive_bytes(MsgFlags::empty())?.map(<[u8]>::to_vec))
    }

    /// The messages of the next datagram; `None` if none came in a second.
    pub(crate) fn receive(&mut self) -> Result<Option<Vec<Message>>, SocketError> {
        self.receive_with(MsgFlags::empty())
    }

    /// The same without waiting.
    pub(crate) fn receive_now(&mut self) -> Result<Option<Vec<Message>>, SocketError> {
        self.receive_with(MsgFlags::MSG_DONTWAIT)
    }

    fn receive_with(&mut self, flags: MsgFlags) -> Result<Option<Vec<Message>>, SocketError> {
        Ok(self.receive_bytes(flags)?.map(messages).transpose()?)
    }

    fn receive_bytes(&mut self, flags: MsgFlags) -> Result<Option<&[u8]>, SocketError> {
        // MSG_TRUNC: the datagram's own length, whatever the buffer took.
        match recv(self.fd.as_raw_fd(), &mut self.buffer, flags | MsgFlags::MSG_TRUNC) {
            Ok(length) => self.buffer.get(..length).ok_or(SocketError::Overrun).map(Some),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The answer to a request; `None` without the set or table that it asks for.
pub(crate) fn ask(request: &[u8]) -> Result<Option<Vec<Message>>, SocketError> {
    for _ in 0..TRIES {
        let mut socket = Socket::open(0)?;
        send(socket.fd.as_raw_fd(), request, MsgFlags::empty())?;
        match answer(&mut socket)? {
            Answer::Whole(found) => return Ok(Some(found)),
            Answer::None => return Ok(None),
            Answer::Interrupted => {}
        }
    }
    Err(SocketError::Unread)
}

enum Answer {
    Whole(Vec<Message>),
    Interrupted,
    None,
}

fn answer(socket: &mut Socket) -> Result<Answer, SocketError> {
    let mut found = Vec::new();
    loop {
        for message in socket.receive()?.ok_or(SocketError::Unread)? {
            match message {
                Message::Done { interrupted: true } => return Ok(Answer::Interrupted),
                Message::Done { interrupted: false } => return Ok(Answer::Whole(found)),
                Message::Refused(number) if number == Errno::ENOENT as i32 => return Ok(Answer::None),
                Message::Refused(number) => return Err(Errno::from_raw(number).into()),
                Message::SetMade(_)
                | Message::SetRemoved(_)
                | Message::Came(_)
                | Message::Went(_)
                | Message::MapMade(..)
                | Message::MapRemoved(..)
                | Message::Mapped(..)
                | Message::Committed
                | Message::Other => found.push(message),
            }
        }
    }
}
