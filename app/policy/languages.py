"""Which texts tell patterns apart: a shortest text for every combination of patterns that can hold together.

A pattern is a sequence of tokens; patterns share their beginnings, as in a trie. Walking all of them at once over every
text of a domain finds each combination, so that a finite list of texts stands for all of them. Characters that no
pattern names behave alike, so one of them is enough.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.errors import AppError, ErrorCode


@dataclass(frozen=True, slots=True)
class Chars:
    """A set of characters: those that are named, or all but those."""

    named: frozenset[str]
    excluded: bool = False

    def __contains__(self, char: object) -> bool:
        return (char in self.named) is not self.excluded


class Token(NamedTuple):
    """One character of a set, or any number of them."""

    chars: Chars
    repeated: bool


Tokens = tuple[Token | str, ...]

ANY = Chars(frozenset(), excluded=True)
NO_SLASH = Chars(frozenset("/"), excluded=True)
REST = Token(ANY, repeated=True)
SEGMENT = (Token(NO_SLASH, repeated=False), Token(NO_SLASH, repeated=True))
PRESENT = (Token(ANY, repeated=False), REST)

# The stand-ins for characters that no pattern names, the most readable first.
_OTHERS = "x" + string.ascii_lowercase + string.digits + string.ascii_uppercase + "-_~!$&'()+,;=@%^|`#*. "
_TURNS = ("/", ".", ":")  # where domains change their mind
_DOMAIN = -1


def chars(text: str) -> Chars:
    """Exactly these characters."""
    return Chars(frozenset(text))


def string_form(value: str, *, present: Sequence[Token | str] = PRESENT, rest: Token = REST) -> Tokens:
    """The texts that one value of the string forms stands for."""
    if value == "*":
        return tuple(present)
    if value.startswith("*"):
        return (rest, value[1:])
    if value.endswith("*"):
        return (value[:-1], rest)
    return (value,)


class _Node:
    __slots__ = ("accepts", "domain", "literal", "loop", "ones", "stars")

    def __init__(self, *, domain: bool, loop: Chars | None = None) -> None:
        self.literal: dict[str, _Node] = {}
        self.ones: dict[Chars, _Node] = {}
        self.stars: dict[Chars, _Node] = {}
        self.loop = loop
        self.accepts: set[int] = set()
        self.domain = domain


class Languages:
    """Patterns by number over a domain of texts."""

    def __init__(self, domain: Iterable[Tokens], *, joined: tuple[str, Chars, str] | None = None) -> None:
        """The texts of the domain are those of the token sequences.

        With `joined` (a separator, characters, those that never end a piece) also pieces of such characters with the
        separator between them; where it is a slash, also before the first.
        """
        self._patterns = _Node(domain=False)
        self._texts = _Node(domain=True)
        for tokens in domain:
            self._put(self._texts, tokens, _DOMAIN)
        if joined is not None:
            self._put_pieces(*joined)

    def _put_pieces(self, separator: str, inner: Chars, not_last: str) -> None:
        first, piece, open_piece = _Node(domain=True), _Node(domain=True), _Node(domain=True)
        piece.accepts.add(_DOMAIN)
        last = Chars(inner.named - set(not_last))
        for node in (first, piece, open_piece):
            node.ones[last] = piece
            for char in not_last:
                node.literal[char] = open_piece
        piece.literal[separator] = first
        if separator == "/":
            self._texts.ones[chars("/")] = first
        else:
            self._texts.ones[last] = piece

    def add(self, number: int, alternatives: Iterable[Tokens]) -> None:
        """A pattern, which holds for a text when one of the alternatives does."""
        for tokens in alternatives:
            self._put(self._patterns, tokens, number)

    def _put(self, node: _Node, tokens: Tokens, number: int) -> None:
        domain = node.domain
        for token in tokens:
            if isinstance(token, str):
                for char in token:
                    node = node.literal.setdefault(char, _Node(domain=domain))
            elif token.repeated:
                node = node.stars.setdefault(token.chars, _Node(domain=domain, loop=token.chars))
            else:
                node = node.ones.setdefault(token.chars, _Node(domain=domain))
        node.accepts.add(number)

    def representatives(self, most: int) -> dict[frozenset[int], str]:
        """A shortest text of the domain for each set of patterns that hold together.

        Raises:
            AppError: `TOO_LARGE` when the patterns tangle so that more than `most` states would be walked.
        """
        start = _closed((self._patterns, self._texts))
        seen = {start}
        found: dict[frozenset[int], str] = {}
        queue = [(start, "")]
        for state, text in queue:  # grows while it is walked
            accepts = frozenset(number for node in state for number in node.accepts)
            if _DOMAIN in accepts:
                found.setdefault(accepts - {_DOMAIN}, text)
            for char in _characters(state):
                reached = _step(state, char)
                if reached not in seen and any(node.domain for node in reached):
                    seen.add(reached)
                    queue.append((reached, text + char))
            if len(seen) > most:
                raise AppError(
                    ErrorCode.TOO_LARGE,
                    f"telling the values of a field apart takes more than {most} states (policy.max_atom_states); "
                    "narrow the question, such as by --to, --method or --path",
                )
        return found


def _closed(nodes: Iterable[_Node]) -> frozenset[_Node]:
    closed: set[_Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in closed:
            closed.add(node)
            waiting.extend(node.stars.values())
    return frozenset(closed)


def _step(state: frozenset[_Node], char: str) -> frozenset[_Node]:
    reached: list[_Node] = []
    for node in state:
        if char in node.literal:
            reached.append(node.literal[char])
        if node.loop is not None and char in node.loop:
            reached.append(node)
        if node.ones:
            reached.extend(after for chars_, after in node.ones.items() if char in chars_)
    return _closed(reached)


def _characters(state: frozenset[_Node]) -> list[str]:
    """The characters that may lead to different states: those that are named, and one for all others."""
    named = {char for node in state for char in node.literal}.union(_TURNS)
    other = next((char for char in _OTHERS if char not in named and _in_domain(state, char)), None)
    return sorted(named) if other is None else [other, *sorted(named)]


def _in_domain(state: frozenset[_Node], char: str) -> bool:
    return any(
        (node.loop is not None and char in node.loop) or any(char in chars_ for chars_ in node.ones)
        for node in state
        if node.domain
    )
