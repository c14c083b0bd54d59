//! What the object itself tells of each program, by what it calls, held against what is said of it elsewhere.
//!
//! The stack: a program and all that it calls must fit 512 bytes together (check_max_stack_depth, kernel/bpf/verifier.c). Kernels from 6.13 on
//! give some programs stacks of their own, so that this one loads there what others refuse.
//!
//! The members that it reads: the table of programs must name these and no others, so that a kernel without one of them is told by name.

use super::OBJECT;
use super::hooks::{PROGRAMS, Program};
use super::relocate::{self, ADD, INSTRUCTION};
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};
use probe_ebpf::fields::PATHS;
use std::collections::{BTreeMap, BTreeSet};

/// MAX_BPF_STACK (include/linux/filter.h).
const MAX_STACK: i64 = 512;
/// What the verifier rounds each frame up to, at its coarsest.
const ROUNDING: i64 = 32;
const FRAME_POINTER: u8 = 10;
/// BPF_JMP | BPF_CALL, of a function of the object (BPF_PSEUDO_CALL).
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
/// BPF_ALU64 | BPF_MOV | BPF_X.
const MOVE: u8 = 0xbf;

/// Section and offset of a function.
type Place = (usize, u64);

struct Function {
    name: String,
    /// Bytes of its frame.
    frame: i64,
    calls: Vec<Place>,
    /// Numbers of the members that it reads.
    members: BTreeSet<usize>,
}

fn offset(address: u64) -> usize {
    usize::try_from(address).expect("in memory")
}

/// All functions, by their place.
fn functions(elf: &ElfFile<'_, FileHeader64<Endianness>>) -> BTreeMap<Place, Function> {
    let mut all = BTreeMap::new();
    for symbol in elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let section = symbol.section_index().expect("a section");
        let code = elf.section_by_index(section).expect("a section");
        let called: BTreeMap<u64, Place> = code
            .relocations()
            .filter_map(|(at, relocation)| {
                let RelocationTarget::Symbol(target) = relocation.target() else { return None };
                let target = elf.symbol_by_index(target).ok()?;
                Some((at, (target.section_index()?.0, target.address())))
            })
            .collect();
        let bytes = code.data().expect("code");
        let range = offset(symbol.address())..offset(symbol.address() + symbol.size());
        let mut function = Function {
            name: symbol.name().unwrap_or_default().to_owned(),
            frame: 0,
            calls: Vec::new(),
            members: BTreeSet::new(),
        };
        let mut copies: BTreeMap<u8, i64> = BTreeMap::new();
        for (number, instruction) in bytes[range].chunks_exact(INSTRUCTION).enumerate() {
            let at = symbol.address() + (number * INSTRUCTION) as u64;
            let (code, target, source) = (instruction[0], instruction[1] & 15, instruction[1] >> 4);
            let (offset, value) = (i64::from(relocate::offset(instruction)), relocate::number(instruction));
            function.members.extend(relocate::member(instruction).map(|field| field as usize));
            // BPF_LDX reads by its source, BPF_ST and BPF_STX write by their target.
            let is_here = match code & 7 {
                1 => source == FRAME_POINTER,
                2 | 3 => target == FRAME_POINTER,
                _ => false,
            };
            if is_here {
                function.frame = function.frame.max(-offset);
            }
            match code {
                MOVE if source == FRAME_POINTER => drop(copies.insert(target, 0)),
                ADD if copies.contains_key(&target) => {
                    let place = copies.entry(target).and_modify(|place| *place += i64::from(value));
                    function.frame = function.frame.max(-*place.or_default());
                }
                CALL if source == PSEUDO_CALL => {
                    // Without an addend the relocation names the function, else its section and where in it.
                    let next =
                        |base: u64| base.wrapping_add_signed((i64::from(value) + 1) * INSTRUCTION as i64);
                    function.calls.push(match called.get(&at) {
                        Some((section, 0)) => (*section, next(0)),
                        Some(place) => *place,
                        None => (section.0, next(at)),
                    });
                }
                _ if code & 7 == 7 => drop(copies.remove(&target)),
                _ => {}
            }
        }
        all.insert((section.0, symbol.address()), function);
    }
    all
}

/// The deepest way from a function on, and what it takes.
fn depth(all: &BTreeMap<Place, Function>, from: Place) -> (i64, String) {
    let function = all.get(&from).unwrap_or_else(|| panic!("no function at {from:?}"));
    let frame = (function.frame.max(1) + ROUNDING - 1) / ROUNDING * ROUNDING;
    let below = function.calls.iter().map(|place| depth(all, *place)).max().unwrap_or_default();
    (frame + below.0, format!("{} {} {}", function.name, function.frame, below.1))
}

/// The members that a function and all that it calls read.
fn members(all: &BTreeMap<Place, Function>, from: Place) -> BTreeSet<usize> {
    let function = all.get(&from).unwrap_or_else(|| panic!("no function at {from:?}"));
    let below = function.calls.iter().flat_map(|place| members(all, *place));
    function.members.iter().copied().chain(below).collect()
}

/// Each program with its function.
fn programs() -> (BTreeMap<Place, Function>, Vec<(&'static Program, Place)>) {
    let elf = ElfFile::<FileHeader64<Endianness>>::parse(OBJECT).expect("an ELF object");
    let all = functions(&elf);
    let place_of = |program: &'static Program| {
        let section = format!("tp_btf/{}", program.hook);
        let is_it = |(place, function): &(&Place, &Function)| {
            let found = elf.section_by_index(object::SectionIndex(place.0)).expect("a section");
            function.name == program.name && found.name() == Ok(&section)
        };
        let (place, _) =
            all.iter().find(is_it).unwrap_or_else(|| panic!("{} is not in the object", program.name));
        (program, *place)
    };
    let places = PROGRAMS.iter().map(place_of).collect();
    (all, places)
}

#[test]
fn every_program_fits_the_stack_of_any_kernel() {
    let (all, programs) = programs();
    for (program, place) in programs {
        let (taken, way) = depth(&all, place);
        assert!(taken <= MAX_STACK, "{} takes {taken} bytes: {way}", program.name);
    }
}

#[test]
fn the_table_of_programs_names_the_members_that_each_reads() {
    let (all, programs) = programs();
    let names = |numbers: &BTreeSet<usize>| -> Vec<String> {
        numbers.iter().map(|number| format!("{:?}", PATHS[*number].0)).collect()
    };
    let mut wrong = Vec::new();
    for (program, place) in programs {
        let read = members(&all, place);
        let named: BTreeSet<usize> = program.fields.iter().map(|field| *field as usize).collect();
        if read != named {
            let (missing, extra) = (names(&(&read - &named)), names(&(&named - &read)));
            wrong.push(format!("{}: not named {missing:?}, not read {extra:?}", program.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
