"""The readings of a request under hardened matching.

A backend may understand a path, host or header otherwise than Envoy did. A *reading* is one way to understand it; it
is given as a tuple of spellings that mean the same in it (with and without the trailing slash, with and without
the port): a value matches a reading when it matches one of its spellings. A DENY rule matches when it is true in some
reading, an ALLOW rule only when it is true in every reading. The first reading is always what Istio compares, so
hardened matching never allows what Istio denies.

The readings of a path are everything that is reached from it by what servers are known to do: percent-decoding (again
and again, overlong UTF-8 and `%uXXXX` included), backslashes as slashes, path parameters removed, slashes merged, dot
segments removed, a leading double slash taken for an authority, invisible characters and trailing dots and spaces
dropped, compatibility characters folded. Their number is bounded; a path with more of them is refused. Case is not
folded: `/ADMIN` is another path than `/admin`, here as in Istio.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from app.policy.paths import cut, merge_slashes, remove_dot_segments

Reading = tuple[str, ...]
Readings = tuple[Reading, ...]

# A path of ordinary segments that do not end in a dot: it can be read in one way only.
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*+,=:@.-]*+(?<![./]))+|/").fullmatch
_PLAIN_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*").fullmatch
_HOST = re.compile(r"(?P<name>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])\.?(?::[0-9]{1,5})?").fullmatch
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_ENCODED_RUN = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_RUN_OF_BYTES = re.compile(r"(?:%[0-9A-Fa-f]{2}|[\x80-\xff])+")
_UNICODE_ESCAPE = re.compile(r"%[uU]([0-9A-Fa-f]{4})")
_PARAMETERS = re.compile(r";[^/]*")
_MAX_CHARS_PER_READING = 512  # on average over the readings allowed: bounds the work for long paths
_MAX_HOST_CHARS = 262  # a DNS name with a dot and a port


def is_plain_path(path: str) -> bool:
    """Whether a request path has one reading: itself."""
    return _PLAIN_PATH(path) is not None


def path_readings(path: str, most: int) -> Readings | None:
    """The readings of a request path, query and fragment included; None when there are more than `most`."""
    first = cut(path)
    if is_plain_path(first) and "#" not in path:
        return ((first,),)
    found = _closure([first, path.partition("?")[0]], most)
    if found is None:
        return None
    readings: list[Reading] = [(first,)]
    for reading in found:
        bare = reading.rstrip("/")
        if bare != reading and bare:
            readings.append((reading, bare))
        elif reading != first:
            readings.append((reading,))
    return tuple(readings) if len(readings) <= most else None


def _closure(seeds: list[str], most: int) -> list[str] | None:
    """Everything the transformations reach from the seeds, seeds first."""
    found = list(dict.fromkeys(seeds))
    seen = set(found)
    budget = most * _MAX_CHARS_PER_READING - sum(map(len, found))
    if budget < 0:
        return None
    for reading in found:  # grows while it is walked
        for transform in _TRANSFORMS:
            reached = transform(reading)
            if reached not in seen:
                seen.add(reached)
                found.append(reached)
                budget -= len(reached)
                if len(found) > most or budget < 0:
                    return None
    return found


def _decode(path: str) -> str:
    return _ENCODED_RUN.sub(_decode_run, path) if "%" in path and _ENCODED.search(path) else path


def _decode_run(found: re.Match[str]) -> str:
    return _decode_raw(bytes.fromhex(found[0].replace("%", "")))


def _decode_raw(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _decode_loosely(raw)


def _decode_loosely(raw: bytes) -> str:
    """Bytes that are not UTF-8 as a careless decoder reads them: overlong forms give their character."""
    output = []
    at = 0
    while at < len(raw):
        lead = raw[at]
        length = 2 if 0xC0 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if 0xF0 <= lead < 0xF8 else 1
        tail = raw[at + 1 : at + length]
        if length > 1 and len(tail) == length - 1 and all(0x80 <= byte < 0xC0 for byte in tail):
            code = lead & (0xFF >> (length + 1))
            for byte in tail:
                code = code << 6 | byte & 0x3F
            output.append(chr(code) if code < 0x110000 else "\ufffd")
            at += length
        else:
            output.append(chr(lead))  # as Latin-1
            at += 1
    return "".join(output)


def _decode_bytes(path: str) -> str:
    """What has been decoded to single bytes already, and what has not, as the bytes of one text (`%25c0%af`)."""
    return path if path.isascii() or "%" not in path else _RUN_OF_BYTES.sub(_decode_mixed, path)


def _decode_mixed(found: re.Match[str]) -> str:
    return _decode_raw(_ENCODED.sub(lambda byte: chr(int(byte[1], 16)), found[0]).encode("latin-1"))


def _unescape_unicode(path: str) -> str:
    """`%u002e` as IIS and older script runtimes read it."""
    return _UNICODE_ESCAPE.sub(_unicode_character, path) if "%" in path else path


def _unicode_character(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)


def _backslashes(path: str) -> str:
    return path.replace("\\", "/")


def _without_parameters(path: str) -> str:
    return _PARAMETERS.sub("", path) if ";" in path else path


def _without_authority(path: str) -> str:
    """`//host/path` as a network-path reference (RFC 3986 §4.2)."""
    if not path.startswith("//"):
        return path
    at = path.find("/", 2)
    return path[at:] if at >= 0 else "/"


def _visible(path: str) -> str:
    if path.isascii() and path.isprintable():
        return path
    return "".join(char for char in path if unicodedata.category(char) not in ("Cc", "Cf"))


def _folded(path: str) -> str:
    return path if path.isascii() else unicodedata.normalize("NFKC", path)


def _trimmed(path: str) -> str:
    """Segments without trailing dots and spaces, as some file systems take them."""
    if "./" not in path and " " not in path and "\u00a0" not in path and not path.endswith("."):
        return path
    return "/".join(map(_trimmed_segment, path.split("/")))


def _trimmed_segment(segment: str) -> str:
    without_spaces = segment.rstrip(" \u00a0")
    return segment.rstrip(". \u00a0") if without_spaces.strip(".") else without_spaces  # `.. ` is `..`


def _before_nul(path: str) -> str:
    return path.partition("\0")[0]


_TRANSFORMS: tuple[Callable[[str], str], ...] = (
    _decode,
    _decode_bytes,
    _unescape_unicode,
    cut,
    _backslashes,
    _without_parameters,
    merge_slashes,
    remove_dot_segments,
    _without_authority,
    _before_nul,
    _visible,
    _folded,
    _trimmed,
)


def host_readings(host: str) -> Readings | None:
    """The readings of a Host or :authority, lower case; None when it is not one host.

    Port and trailing dot change nothing about which host is meant; user information, lists and the like are refused.
    """
    return _host_readings(host) if len(host) <= _MAX_HOST_CHARS else None


@lru_cache(maxsize=8_192)
def _host_readings(host: str) -> Readings | None:
    lowered = host.lower()
    if _PLAIN_HOST(lowered) or not host:
        return ((lowered,),)
    found = _HOST(host)
    if found is None:
        return None
    name = found["name"].lower()
    after = lowered[len(name) :]
    port = after.lstrip(".")
    spellings = dict.fromkeys((lowered, name, name + port))
    return ((lowered,), tuple(spellings)) if len(spellings) > 1 else ((lowered,),)


# Headers whose single value commonly has commas in it: the parts are read beside the whole, not instead of it.
_WITH_COMMAS = frozenset(
    {
        "cookie",
        "date",
        "expires",
        "if-modified-since",
        "if-unmodified-since",
        "last-modified",
        "sec-ch-ua",
        "user-agent",
    }
)


def header_readings(name: str, values: tuple[str, ...], variants: tuple[str, ...], most: int) -> Readings | None:
    """The readings of a header with these values.

    Values may have come joined by commas, so each part may be the one that the backend takes (CVE-2026-26308); the
    backend may join those that came apart. `variants` are values of headers that some servers take for the same one
    (`x_role` for `x-role`). None when there are more than `most`, or when a value has control characters.
    """
    every = values + variants
    if len(every) == 1 and "," not in every[0] and every[0].isprintable():
        return (values,) if values else (values, variants)
    if not all(value.isprintable() or not _has_control(value) for value in every):
        return None
    parts = [part.strip() for value in every if "," in value for part in value.split(",", most)]
    joined = (",".join(values),) if len(values) > 1 else ()
    spellings = tuple(dict.fromkeys((*every, *joined, *parts)))
    if len(spellings) > most:
        return None
    if name in _WITH_COMMAS:
        return (values, joined, spellings) if joined else (values, spellings)
    return (values, *((spelling,) for spelling in spellings))


def _has_control(value: str) -> bool:
    return any(char < " " or char == "\x7f" for char in value)
