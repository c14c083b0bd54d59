//! The closed sets that label a lost request: class, confidence and phase. Their numbers are indexes into the counters
//! of [`crate::wire::Counters`] and part of the ABI between kernel and user space.

/// Why an attempt was lost. First cause wins; each attempt has one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Class {
    /// SYN answered by RST: nobody listens.
    Refused = 0,
    /// SYN dropped by a full accept queue.
    Overflow = 1,
    /// Completed by the kernel, never accepted by the application.
    Unaccepted = 2,
    /// Accepted, but the request's bytes were never read.
    Unread = 3,
    /// Request read, connection closed without a byte of answer.
    Unanswered = 4,
    /// Answer cut.
    Truncated = 5,
    /// Request sent on a connection that the server had closed with everything before it answered.
    StaleReuse = 6,
    /// The client gave up on a request that the pod never answered.
    Abandoned = 7,
    /// The address is gone: no answer at all.
    Blackholed = 8,
    /// The address already belongs to another pod.
    Misrouted = 9,
}

impl Class {
    /// Every class, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Refused,
        Self::Overflow,
        Self::Unaccepted,
        Self::Unread,
        Self::Unanswered,
        Self::Truncated,
        Self::StaleReuse,
        Self::Abandoned,
        Self::Blackholed,
        Self::Misrouted,
    ];

    /// The class with this number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        if (number as usize) < Self::ALL.len() { Some(Self::ALL[number as usize]) } else { None }
    }

    /// The class with this number; one that no class has is the last one's.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Refused,
            1 => Self::Overflow,
            2 => Self::Unaccepted,
            3 => Self::Unread,
            4 => Self::Unanswered,
            5 => Self::Truncated,
            6 => Self::StaleReuse,
            7 => Self::Abandoned,
            8 => Self::Blackholed,
            _ => Self::Misrouted,
        }
    }

    /// The name in metrics, JSON and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Overflow => "overflow",
            Self::Unaccepted => "unaccepted",
            Self::Unread => "unread",
            Self::Unanswered => "unanswered",
            Self::Truncated => "truncated",
            Self::StaleReuse => "stale_reuse",
            Self::Abandoned => "abandoned",
            Self::Blackholed => "blackholed",
            Self::Misrouted => "misrouted",
        }
    }

    /// The confidence that the class has for plain unpipelined HTTP/1 on a kernel with every hook: which series exists
    /// from a workload's birth.
    pub const fn usual_confidence(self) -> Confidence {
        match self {
            Self::Refused
            | Self::Unaccepted
            | Self::Unread
            | Self::Unanswered
            | Self::Truncated
            | Self::StaleReuse
            | Self::Abandoned => Confidence::Observed,
            Self::Overflow | Self::Blackholed | Self::Misrouted => Confidence::Inferred,
        }
    }
}

/// Whether the kernel showed the attempt's fate. Fixed per rule, not per taste.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Confidence {
    /// The kernel showed it.
    Observed = 0,
    /// It follows from what the kernel showed, with a known blind spot.
    Inferred = 1,
}

impl Confidence {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Observed, Self::Inferred];

    /// The confidence with this number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Observed),
            1 => Some(Self::Inferred),
            _ => None,
        }
    }

    /// The name in metrics, JSON and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Inferred => "inferred",
        }
    }
}

/// The state of the container that a connection belongs to, at a given moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Phase {
    /// Neither deleted nor stopped.
    Running = 0,
    /// User space saw the pod's deletion; no stop signal yet.
    Deleting = 1,
    /// From the stop signal, the init's exit or a kill on.
    Stopping = 2,
}

impl Phase {
    /// All three, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Running, Self::Deleting, Self::Stopping];

    /// The phase with this number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Running),
            1 => Some(Self::Deleting),
            2 => Some(Self::Stopping),
            _ => None,
        }
    }

    /// The name in JSON and documents (metrics put the last two together as `terminating`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Deleting => "deleting",
            Self::Stopping => "stopping",
        }
    }
}
