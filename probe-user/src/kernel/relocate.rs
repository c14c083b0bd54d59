//! Writes the running kernel's offsets of members into the instructions of the kernel programs, before they are loaded. That is what a
//! loader does with CO-RE relocations, which Rust's compiler does not emit; the programs are compiled with placeholders in their place (see
//! `fields` of probe-ebpf). As numbers in the instructions the offsets cost nothing when a program runs.
//!
//! An object in memory that is not aligned as its headers want it is an error, not undefined; the allocator aligns a copy of this size.
//!
//! Instructions are as in Documentation/bpf/standardization/instruction-set.rst (RFC 9669). Nothing but offsets is changed.

use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{Endianness, Object as _, ObjectSection as _, SectionKind};
use probe_ebpf::fields::{ABSENT, Field, Offsets};

/// Bytes of an instruction.
pub(super) const INSTRUCTION: usize = 8;
/// BPF_LDX | BPF_MEM, without the size: a load from a register and an offset.
const LOAD: u8 = 0x61;
/// Bits of a load's code that are its size.
const SIZE: u8 = 0x18;
/// BPF_LD | BPF_IMM | BPF_DW: the one instruction of two parts.
const LOAD_NUMBER: u8 = 0x18;
/// BPF_ALU64 | BPF_ADD | BPF_K: a register plus a number.
pub(super) const ADD: u8 = 0x07;

/// The object for a kernel whose members lie at these offsets.
///
/// What reads a member that the kernel lacks stays as it is: its program is not loaded (see `hooks`).
///
/// # Errors
///
/// The object cannot be read, or an offset does not fit into its instruction.
pub(super) fn with_offsets(object: &[u8], offsets: &Offsets) -> Result<Vec<u8>, String> {
    let mut relocated = object.to_vec();
    for at in placed(object)? {
        let instruction = &mut relocated[at..at + INSTRUCTION];
        let Some(field) = member(instruction) else { continue };
        let offset = offsets.of(field);
        if offset != ABSENT {
            write(instruction, offset).ok_or_else(|| {
                format!("the offset of {field:?}, {offset}, does not fit into an instruction")
            })?;
        }
    }
    Ok(relocated)
}

/// The member whose placeholder the instruction has.
pub(super) fn member(instruction: &[u8]) -> Option<Field> {
    match instruction[0] {
        code if code & !SIZE == LOAD => Field::of_placeholder(offset(instruction).into()),
        ADD => Field::of_placeholder(number(instruction)),
        _ => None,
    }
}

/// The offset of an instruction.
pub(super) fn offset(instruction: &[u8]) -> i16 {
    i16::from_le_bytes([instruction[2], instruction[3]])
}

/// The number of an instruction (`imm`).
pub(super) fn number(instruction: &[u8]) -> i32 {
    i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]])
}

/// `None` if it does not fit.
fn write(instruction: &mut [u8], offset: u32) -> Option<()> {
    if instruction[0] == ADD {
        instruction[4..].copy_from_slice(&i32::try_from(offset).ok()?.to_le_bytes());
    } else {
        instruction[2..4].copy_from_slice(&i16::try_from(offset).ok()?.to_le_bytes());
    }
    Some(())
}

/// Where in the file the instructions begin.
fn placed(object: &[u8]) -> Result<Vec<usize>, String> {
    let broken = |error: object::Error| format!("the object of the kernel programs is broken: {error}");
    let elf = ElfFile::<FileHeader64<Endianness>>::parse(object).map_err(broken)?;
    let mut all = Vec::new();
    for section in elf.sections().filter(|section| section.kind() == SectionKind::Text) {
        let code = section.data().map_err(broken)?;
        let (start, _) = section.file_range().unwrap_or_default();
        let start = usize::try_from(start).map_err(|error| error.to_string())?;
        let mut at = 0;
        while let Some(instruction) = code.get(at..at + INSTRUCTION) {
            all.push(start + at);
            at += if instruction[0] == LOAD_NUMBER { 2 * INSTRUCTION } else { INSTRUCTION };
        }
    }
    Ok(all)
}

#[cfg(all(test, not(no_bpf_object)))]
mod tests {
    use super::super::OBJECT;
    use super::*;
    use probe_ebpf::fields::{FIELDS, PATHS};
    use std::collections::BTreeSet;

    fn instructions(object: &[u8]) -> Vec<[u8; INSTRUCTION]> {
        let all = placed(object).expect("an object").into_iter();
        all.map(|at| object[at..at + INSTRUCTION].try_into().expect("eight bytes")).collect()
    }

    #[test]
    fn every_member_is_read_somewhere() {
        let read: BTreeSet<usize> = instructions(OBJECT)
            .into_iter()
            .filter_map(|one| member(&one))
            .map(|field| field as usize)
            .collect();
        let unread: Vec<_> = PATHS.iter().filter(|(field, ..)| !read.contains(&(*field as usize))).collect();
        assert!(unread.is_empty(), "{unread:?}");
    }

    #[test]
    fn a_placeholder_is_nowhere_but_in_loads_and_additions() {
        for one in instructions(OBJECT).into_iter().filter(|one| member(one).is_none()) {
            assert_eq!(Field::of_placeholder(i32::from(offset(&one))), None, "offset in {one:02x?}");
            assert_eq!(Field::of_placeholder(number(&one)), None, "number in {one:02x?}");
        }
    }

    #[test]
    fn nothing_but_placeholders_changes() {
        let offsets = Offsets(std::array::from_fn(|number| u32::try_from(number * 8).expect("small")));
        let relocated = with_offsets(OBJECT, &offsets).expect("fits");
        assert_eq!(relocated.len(), OBJECT.len());
        for (before, after) in instructions(OBJECT).into_iter().zip(instructions(&relocated)) {
            let Some(field) = member(&before) else {
                assert_eq!(before, after);
                continue;
            };
            let expected = i32::try_from(offsets.of(field)).expect("small");
            let found = if before[0] == ADD { number(&after) } else { i32::from(offset(&after)) };
            assert_eq!((before[0], found), (after[0], expected), "{field:?}");
            assert_eq!(member(&after), None);
        }
    }

    #[test]
    fn what_the_kernel_lacks_stays_a_placeholder() {
        let relocated = with_offsets(OBJECT, &Offsets([ABSENT; FIELDS])).expect("nothing to fit");
        assert!(relocated == OBJECT);
    }

    #[test]
    fn an_offset_beyond_what_a_load_takes_is_an_error() {
        let error = with_offsets(OBJECT, &Offsets([1 << 15; FIELDS])).expect_err("16 bits with a sign");
        assert!(error.contains("32768"), "{error}");
    }

    #[test]
    fn rubbish_in_place_of_an_object_is_an_error() {
        assert!(with_offsets(b"no object", &Offsets([0; FIELDS])).is_err());
    }
}
