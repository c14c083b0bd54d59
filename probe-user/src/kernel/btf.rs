//! Reads what the kernel programs need to know from the running kernel's BTF (/sys/kernel/btf/vmlinux): offsets of
//! structure members, values of enums, arguments of tracepoints.
//!
//! A reader of its own because no maintained crate both gives this and fits the licence list. It reads only names that
//! are asked for, checks every bound, and answers `None` for what is not there.

use std::collections::HashMap;
use thiserror::Error;

/// BTF that cannot be used; the agent then runs without kernel programs.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source} (a kernel built with CONFIG_DEBUG_INFO_BTF=y has it)")]
    Read {
        /// Its path.
        path: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// It is not BTF, or ends early.
    #[error("{0} is not valid BTF")]
    Format(&'static str),
}

/// Where the kernel shows its BTF.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// Magic of the header (include/uapi/linux/btf.h).
const MAGIC: u16 = 0xeb9f;
/// Deepest nesting of anonymous members and longest chain of modifiers that is followed.
const DEPTH: usize = 16;

mod kind {
    pub(super) const STRUCT: u8 = 4;
    pub(super) const UNION: u8 = 5;
    pub(super) const ENUM: u8 = 6;
    pub(super) const TYPEDEF: u8 = 8;
    pub(super) const VOLATILE: u8 = 9;
    pub(super) const CONST: u8 = 10;
    pub(super) const RESTRICT: u8 = 11;
    pub(super) const FUNC: u8 = 12;
    pub(super) const FUNC_PROTO: u8 = 13;
    pub(super) const TYPE_TAG: u8 = 18;
}

/// The types of the running kernel.
pub(super) struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Position of each type, by id; id 0 is void.
    types: Vec<usize>,
    by_name: HashMap<(u8, String), Vec<u32>>,
}

#[derive(Clone, Copy)]
struct Type {
    at: usize,
    kind: u8,
    members: usize,
    bitfields: bool,
    /// Size in bytes, or the type that it refers to.
    size_or_type: u32,
}

impl Btf {
    /// Reads the running kernel's.
    pub(super) fn of_running_kernel() -> Result<Self, BtfError> {
        let data = std::fs::read(VMLINUX).map_err(|source| BtfError::Read { path: VMLINUX, source })?;
        Self::parse(data).ok_or(BtfError::Format(VMLINUX))
    }

    /// Indexes BTF bytes in this machine's byte order; `None` if they are none.
    #[must_use]
    pub(super) fn parse(data: Vec<u8>) -> Option<Self> {
        let magic = u16::from_ne_bytes(data.get(..2)?.try_into().ok()?);
        let header = word(&data, 4)? as usize;
        let start = header.checked_add(word(&data, 8)? as usize)?;
        let end = start.checked_add(word(&data, 12)? as usize)?;
        let strings = header.checked_add(word(&data, 16)? as usize)?;
        if magic != MAGIC || end > data.len() || strings > data.len() {
            return None;
        }
        let mut btf = Self { data, strings, types: vec![0], by_name: HashMap::new() };
        let mut at = start;
        while at < end {
            let info = word(&btf.data, at + 4)?;
            let (kind, members) = (kind_of(info), (info & 0xffff) as usize);
            let id = u32::try_from(btf.types.len()).ok()?;
            btf.types.push(at);
            let wanted = matches!(kind, kind::STRUCT | kind::ENUM | kind::TYPEDEF | kind::FUNC);
            if wanted
                && let Some(name) = btf.string(word(&btf.data, at)?)
                && is_asked_for(kind, name)
            {
                let name = name.to_owned();
                btf.by_name.entry((kind, name)).or_default().push(id);
            }
            at += 12 + trailing_bytes(kind, members);
        }
        Some(btf)
    }

    fn string(&self, offset: u32) -> Option<&str> {
        let bytes = self.data.get(self.strings.checked_add(offset as usize)?..)?;
        let end = bytes.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()
    }

    fn get(&self, id: u32) -> Option<Type> {
        let at = *self.types.get(id as usize).filter(|_| id != 0)?;
        let info = word(&self.data, at + 4)?;
        Some(Type {
            at: at + 12,
            kind: kind_of(info),
            members: (info & 0xffff) as usize,
            bitfields: info >> 31 != 0,
            size_or_type: word(&self.data, at + 8)?,
        })
    }

    /// The type below typedefs and modifiers.
    fn strip(&self, mut id: u32) -> Option<(u32, Type)> {
        for _ in 0..DEPTH {
            let found = self.get(id)?;
            match found.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = found.size_or_type;
                }
                _ => return Some((id, found)),
            }
        }
        None
    }

    fn ids(&self, kind: u8, name: &str) -> &[u32] {
        self.by_name.get(&(kind, name.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// Offset in bits and type of a member, anonymous members looked through.
    fn member(&self, id: u32, name: &str, depth: usize) -> Option<(u32, u32)> {
        if depth > DEPTH {
            return None;
        }
        let (_, of) = self.strip(id)?;
        if of.kind != kind::STRUCT && of.kind != kind::UNION {
            return None;
        }
        for index in 0..of.members {
            let at = of.at + index * 12;
            let member = self.string(word(&self.data, at)?)?;
            let (ty, offset) = (word(&self.data, at + 4)?, word(&self.data, at + 8)?);
            let bits = if of.bitfields { offset & 0xff_ffff } else { offset };
            if member == name {
                return Some((bits, ty));
            }
            if member.is_empty()
                && let Some((inner, ty)) = self.member(ty, name, depth + 1)
            {
                return Some((bits + inner, ty));
            }
        }
        None
    }

    /// Offset in bytes of `path` ("a.b.c") in `structure`; `None` if the kernel has no such member or it is a bit field.
    #[must_use]
    pub(super) fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        self.ids(kind::STRUCT, structure).iter().find_map(|&id| {
            let (mut ty, mut bits) = (id, 0u32);
            for segment in path.split('.') {
                let (offset, next) = self.member(ty, segment, 0)?;
                bits = bits.checked_add(offset)?;
                ty = next;
            }
            bits.is_multiple_of(8).then_some(bits / 8)
        })
    }

    /// Size of a structure in bytes.
    #[must_use]
    pub(super) fn size(&self, structure: &str) -> Option<u32> {
        self.get(*self.ids(kind::STRUCT, structure).first()?).map(|found| found.size_or_type)
    }

    /// Value of an enumerator of a named enum.
    #[must_use]
    pub(super) fn enumerator(&self, name: &str, enumerator: &str) -> Option<u32> {
        self.ids(kind::ENUM, name).iter().find_map(|&id| {
            let found = self.get(id)?;
            (0..found.members).find_map(|index| {
                let at = found.at + index * 8;
                (self.string(word(&self.data, at)?)? == enumerator)
                    .then(|| word(&self.data, at + 4))
                    .flatten()
            })
        })
    }

    /// How many arguments a tracepoint has; `None` if the kernel has no such tracepoint.
    #[must_use]
    pub(super) fn tracepoint_arguments(&self, tracepoint: &str) -> Option<usize> {
        let id = *self.ids(kind::TYPEDEF, &format!("btf_trace_{tracepoint}")).first()?;
        let (_, pointer) = self.strip(id)?;
        let (_, prototype) = self.strip(pointer.size_or_type)?;
        // The first parameter is the tracepoint's private data.
        (prototype.kind == kind::FUNC_PROTO).then(|| prototype.members.saturating_sub(1))
    }
}

/// Only names that this agent asks for are indexed: the kernel has over a hundred thousand types.
fn is_asked_for(kind: u8, name: &str) -> bool {
    match kind {
        kind::STRUCT => {
            name == "upid" || probe_ebpf::fields::PATHS.iter().any(|(_, structure, _)| *structure == name)
        }
        kind::ENUM => name == "skb_drop_reason" || name == "cgroup_subsys_id",
        kind::TYPEDEF => name.starts_with("btf_trace_"),
        _ => false,
    }
}

fn kind_of(info: u32) -> u8 {
    (info >> 24) as u8 & 31
}

/// Bytes that follow the common part of a type.
fn trailing_bytes(kind: u8, members: usize) -> usize {
    match kind {
        1 | 14 | 17 => 4,
        3 => 12,
        kind::STRUCT | kind::UNION | 15 | 19 => 12 * members,
        kind::ENUM | kind::FUNC_PROTO => 8 * members,
        _ => 0,
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_or_foreign_bytes_are_no_btf() {
        for bytes in [vec![], vec![0; 24], MAGIC.to_ne_bytes().to_vec(), {
            let mut header = vec![0u8; 24];
            header[..2].copy_from_slice(&MAGIC.to_ne_bytes());
            header[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
            header
        }] {
            assert!(Btf::parse(bytes).is_none());
        }
    }

    /// One struct `upid { int nr; struct { char a; int hidden; }; }` by hand.
    #[test]
    fn members_are_found_through_anonymous_ones() {
        let strings = b"\0upid\0nr\0hidden\0a\0";
        let (upid, nr, hidden, a) = (1u32, 6u32, 9u32, 16u32);
        let mut types: Vec<u32> = vec![];
        types.extend([0, 1 << 24, 4, 32]); // 1: int
        types.extend([0, 4 << 24 | 2, 8, a, 1, 0, hidden, 1, 32]); // 2: anonymous struct
        types.extend([upid, 4 << 24 | 2, 12, nr, 1, 0, 0, 2, 32]); // 3: upid
        let bytes: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut data = vec![0u8; 24];
        data[..2].copy_from_slice(&MAGIC.to_ne_bytes());
        for (at, value) in [(4, 24), (8, 0), (12, bytes.len()), (16, bytes.len()), (20, strings.len())] {
            let value = u32::try_from(value).expect("small");
            data[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        data.extend(bytes);
        data.extend(strings);
        let btf = Btf::parse(data).expect("valid");
        assert_eq!(btf.offset("upid", "nr"), Some(0));
        assert_eq!(btf.offset("upid", "hidden"), Some(8));
        assert_eq!(btf.offset("upid", "absent"), None);
        assert_eq!(btf.offset("absent", "nr"), None);
        assert_eq!(btf.size("upid"), Some(12));
    }
}
