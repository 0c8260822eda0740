"""Sets of atoms in the words of the policies: the values that are in it, or those that are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.policy.atom_patterns import IDENTITY, TOKEN, Part
from app.policy.atoms import NO_ADDRESS, Atoms
from app.policy.request import Unavailable


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


class AtomWords:
    """Puts sets of atoms of one part into words."""

    def __init__(self, atoms: Atoms) -> None:
        self._atoms = atoms
        # An identity that is unavailable is no caller like another: it is not among those that `any but` means.
        self._apart = sum(1 << at for at, atom in enumerate(atoms.atoms) if isinstance(atom.value, Unavailable))
        # Each label with its atoms, as bits, the larger first.
        self._covers = sorted(_covers(atoms), key=lambda cover: (-cover[1].bit_count(), cover[0]))
        plain = {atom.readings[0][0]: at for at, atom in enumerate(atoms.atoms) if atom.is_plain}
        # Spellings with several readings, each with the plain atom that reads like it as it is written.
        self._spellings = [
            (at, plain.get(atom.readings[0][0])) for at, atom in enumerate(atoms.atoms) if not atom.is_plain
        ]

    def describe(self, block: int) -> AtomSet:
        """A set of atoms (as bits) in words; always exact; an unavailable identity is meant only where it is named."""
        universe = self._atoms.every & ~self._implied(block) & ~(self._apart & ~block)
        block &= universe
        inside, left = self._cover(block, universe)
        outside, left_out = self._cover(universe & ~block, universe)
        if not left and (left_out or len(inside) <= len(outside)):
            return AtomSet(tuple(sorted(inside)))
        if not left_out:
            return AtomSet((), tuple(sorted(outside)))
        of = self._with_singles(inside, left, block, universe)
        but = self._with_singles(outside, left_out, universe & ~block, universe)
        return AtomSet((), but) if (len(but), sum(map(len, but))) < (len(of), sum(map(len, of))) else AtomSet(of)

    def _implied(self, block: int) -> int:
        """Spellings that are in the set, or not, as the plain atoms like them are: not worth a word."""
        return sum(1 << at for at, like in self._spellings if like is not None and block >> at & 1 == block >> like & 1)

    def _cover(self, block: int, universe: int) -> tuple[list[str], int]:
        """Labels that lie in the block and cover it, and what they leave over."""
        labels, left, outside = [], block, universe & ~block
        for label, members in self._covers:
            if not left:
                break
            if members & left and not members & outside:
                labels.append(label)
                left &= ~members
        return labels, left

    def _with_singles(self, labels: list[str], left: int, block: int, universe: int) -> tuple[str, ...]:
        """The labels, and words for what they leave over of the block; a label that these words include is left out."""
        words, said = [], 0
        while left:
            word, covered = self._single((left & -left).bit_length() - 1, block, universe)
            words.append(word)
            said |= covered
            left &= ~covered
        wanted = set(labels)
        needed = [label for label, members in self._covers if label in wanted and members & block & ~said]
        return (*sorted(needed), *words)

    def _single(self, at: int, block: int, universe: int) -> tuple[str, int]:
        """One atom by the patterns that match it and those that could but do not, and the atoms that this covers.

        What else lies in the block need not be told apart from it.
        """
        atoms = self._atoms
        bits = atoms.atoms[at].readings[0][0]
        numbers = range(len(atoms.patterns))
        matched = [number for number in numbers if bits >> number & 1]
        if not matched:
            return "any other", 1 << at
        masks = [atoms.matching(number) for number in matched]
        common = atoms.every
        for mask in masks:
            common &= mask
        # Of the patterns that match, those that say the most; of the others, those that tell it from its neighbours.
        narrow = [
            atoms.patterns[number].label
            for number, mask in zip(matched, masks, strict=True)
            if not any(other & ~mask == 0 and other != mask for other in masks)
        ]
        others = self._told_apart(bits, common, block)
        covered = common & block
        for number in others:
            covered &= ~atoms.matching(number)
        unlike = [atoms.patterns[number].label for number in others]
        unlike += [
            str(atoms.atoms[spelled].value)
            for spelled, like in self._spellings
            if like is not None and covered >> like & 1 and (universe & ~block) >> spelled & 1
        ]
        words = " and ".join(dict.fromkeys(narrow))
        return (f"{words} (not {', '.join(unlike)})" if unlike else words), covered

    def _told_apart(self, bits: int, common: int, block: int) -> list[int]:
        """Patterns, none of these bits, that take out of the common atoms what is not in the block."""
        masks = [
            (number, self._atoms.matching(number) & common)
            for number in range(len(self._atoms.patterns))
            if not bits >> number & 1
        ]
        masks.sort(key=lambda one: (bool(one[1] & block), -one[1].bit_count(), one[0]))
        chosen, left = [], common & ~block
        for number, mask in masks:
            if mask & left:
                chosen.append(number)
                left &= ~mask
        return sorted(chosen)


def _covers(atoms: Atoms) -> Iterator[tuple[str, int]]:
    """Each pattern with its atoms, the absence of a value, and what a policy writes out with several readings."""
    for number, pattern in enumerate(atoms.patterns):
        yield pattern.label, atoms.matching(number)
    for at, atom in enumerate(atoms.atoms):
        if _is_absent(atoms.part, atom.value):
            yield _absent(atoms.part), 1 << at
        elif not atom.is_plain:
            yield str(atom.value), 1 << at


def _is_absent(part: Part, value: Any) -> bool:
    if part.kind == "header":
        return value is None
    if isinstance(value, Unavailable):
        return False  # not the absence of an identity; a pattern of its own has the word for it
    return value is None or value in ("", NO_ADDRESS) or value == []


def _absent(part: Part) -> str:
    if part == IDENTITY:
        return "unauthenticated"
    if part == TOKEN:
        return "no token"
    return "none of these" if part.kind in ("claim", "metadata") else "none"
