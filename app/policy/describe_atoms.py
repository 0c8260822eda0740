"""Sets of atoms in the words of the policies: the values that are in it, or those that are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.policy.atom_patterns import IDENTITY, TOKEN, Part
from app.policy.atoms import NO_ADDRESS, Atoms


@dataclass(frozen=True, slots=True)
class AtomSet:
    """Values as policies write them: any of `of`, or anything but `but` where `of` is empty."""

    of: tuple[str, ...]
    but: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The members as JSON."""
        return {"of": list(self.of)} if self.of else {"anyBut": list(self.but)}

    @property
    def text(self) -> str:
        """In one line."""
        if self.of:
            return ", ".join(self.of)
        return f"any but {', '.join(self.but)}" if self.but else "any"


def describe(atoms: Atoms, block: int) -> AtomSet:
    """A set of atoms (as bits) in words; always exact."""
    universe = atoms.every & ~_implied(atoms, block)
    block &= universe
    covers = _covers(atoms, universe)
    inside, left = _cover(covers, block)
    outside, left_out = _cover(covers, universe & ~block)
    if not left and (left_out or len(inside) <= len(outside)):
        return AtomSet(tuple(inside))
    if not left_out:
        return AtomSet((), tuple(outside))
    singles = [_single(atoms, at, universe) for at in range(len(atoms.atoms)) if left >> at & 1]
    others = [_single(atoms, at, universe) for at in range(len(atoms.atoms)) if left_out >> at & 1]
    if len(outside) + len(others) < len(inside) + len(singles):
        return AtomSet((), (*outside, *others))
    return AtomSet((*inside, *singles))


def _implied(atoms: Atoms, block: int) -> int:
    """Spellings with several readings that are in the set, or not, as plain ones like them are: not worth a word."""
    plain = {atom.readings[0][0]: at for at, atom in enumerate(atoms.atoms) if atom.is_plain}
    implied = 0
    for at, atom in enumerate(atoms.atoms):
        like = None if atom.is_plain else plain.get(atom.readings[0][0])
        if like is not None and block >> at & 1 == block >> like & 1:
            implied |= 1 << at
    return implied


def _covers(atoms: Atoms, universe: int) -> list[tuple[str, int]]:
    """Each pattern with its atoms, and the absence of a value, the larger first."""
    covers = [(pattern.label, atoms.matching(number)) for number, pattern in enumerate(atoms.patterns)]
    for at, atom in enumerate(atoms.atoms):
        if _is_absent(atoms.part, atom.value):
            covers.append((_absent(atoms.part), 1 << at))
        elif not atom.is_plain:
            covers.append((str(atom.value), 1 << at))
    known = [(label, members & universe) for label, members in covers]
    return sorted(known, key=lambda cover: (-cover[1].bit_count(), cover[0]))


def _cover(covers: list[tuple[str, int]], block: int) -> tuple[list[str], int]:
    """Labels that lie in the block and cover it, and what they leave over."""
    labels, left = [], block
    for label, members in covers:
        if members & left and not members & ~block:
            labels.append(label)
            left &= ~members
    return labels, left


def _single(atoms: Atoms, at: int, universe: int) -> str:
    """One atom by the patterns that match it, and those that could but do not."""
    bits = atoms.atoms[at].readings[0][0]
    matched = [number for number in range(len(atoms.patterns)) if bits >> number & 1]
    masks = {number: atoms.matching(number) for number in range(len(atoms.patterns))}
    common = atoms.every
    for number in matched:
        common &= masks[number]
    # Of the patterns that match, those that say the most; of the others, those that tell this atom from its neighbours.
    narrow = [
        number
        for number in matched
        if not any(masks[other] & ~masks[number] == 0 and masks[other] != masks[number] for other in matched)
    ]
    words = " and ".join(dict.fromkeys(atoms.patterns[number].label for number in narrow))
    unlike = [
        atoms.patterns[number].label
        for number in range(len(atoms.patterns))
        if number not in matched and masks[number] & common
    ]
    if not matched:
        return "any other"
    unlike += [
        str(atom.value)
        for number, atom in enumerate(atoms.atoms)
        if not atom.is_plain and atoms.atoms[at].is_plain and atom.readings[0][0] == bits and universe >> number & 1
    ]
    return f"{words} (not {', '.join(unlike)})" if unlike else words


def _is_absent(part: Part, value: Any) -> bool:
    if part.kind == "header":
        return value is None
    return value is None or value in ("", NO_ADDRESS) or value == []


def _absent(part: Part) -> str:
    if part == IDENTITY:
        return "unauthenticated"
    if part == TOKEN:
        return "no token"
    return "none of these" if part.kind in ("claim", "metadata") else "none"
