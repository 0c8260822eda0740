"""Sets of atoms in words: whatever the set, the words mean exactly it, and say nothing twice."""

from __future__ import annotations

import re

import pytest

from app.policy.atom_patterns import IDENTITY, METHOD, PATH, Part
from app.policy.atoms import Atoms
from app.policy.describe_atoms import AtomSet, AtomWords
from app.policy.policy_view import PolicyView
from app.policy.request_space import RequestSpace
from tests.support.policies import LIMITS, SIDECAR, document, policy, source, to

_RULES = (
    source(namespaces=["shop"]),
    source(principals=["cluster.local/ns/shop/sa/web", "cluster.local/ns/bank/sa/web", "*/sa/web"]),
    to(methods=["GET", "PUT"], paths=["/orders", "/orders/*", "/orders/internal/*", "*/refund"]),
)


def _atoms(part: Part) -> Atoms:
    value = policy(*_RULES)
    view = PolicyView.empty(LIMITS).changed({document(value).key: value}, {}, LIMITS)
    space = RequestSpace([view], SIDECAR, "http")
    return next(atoms for atoms in space.parts if atoms.part == part)


def _meant(words: AtomSet, atoms: Atoms) -> int:
    """The atoms that the words mean, read as a person would."""
    labels = {pattern.label: atoms.matching(number) for number, pattern in enumerate(atoms.patterns)}
    unmatched = atoms.every
    for members in labels.values():
        unmatched &= ~members
    named = {**labels, "unauthenticated": sum(1 << at for at, one in enumerate(atoms.atoms) if not one.value)}
    named |= {str(one.value): 1 << at for at, one in enumerate(atoms.atoms) if not one.is_plain}
    named |= {"any other": unmatched & ~named["unauthenticated"]}

    def mask(text: str) -> int:
        found = re.fullmatch(r"(.*?)(?: \(not (.*)\))?", text)
        assert found is not None
        meant = atoms.every
        for label in found[1].split(" and "):
            meant &= named[label]
        for label in found[2].split(", ") if found[2] else ():
            meant &= ~named[label]
        return meant

    either = 0
    for text in words.of or words.but:
        either |= mask(text)
    return either if words.of else atoms.every & ~either


@pytest.mark.parametrize("part", [IDENTITY, METHOD, PATH])
def test_the_words_of_every_set_mean_it(part: Part) -> None:
    """All sets of the atoms of a part, of which there are some hundreds."""
    atoms = _atoms(part)
    words = AtomWords(atoms)
    assert 2 < len(atoms.atoms) < 12

    for block in range(1, atoms.every + 1):
        described = words.describe(block)
        worth_a_word = ~words._implied(block)
        assert _meant(described, atoms) & worth_a_word == block & worth_a_word, described.text


def test_what_is_included_is_not_said_again() -> None:
    """`namespace shop` but for one of its accounts, and not that account's neighbours by name as well."""
    atoms = _atoms(IDENTITY)
    shop = next(number for number, pattern in enumerate(atoms.patterns) if pattern.label == "namespace shop")
    every, web = (
        atoms.matching(shop),
        next(at for at, one in enumerate(atoms.atoms) if str(one.value).endswith("shop/sa/web")),
    )

    described = AtomWords(atoms).describe(every & ~(1 << web))
    assert 1 == len(described.of)
    assert described.text.startswith("namespace shop (not ")
