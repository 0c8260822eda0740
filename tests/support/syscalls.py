"""Reads an strace of a server: which bytes were written, flushed and sent, in the order in which it happened.

A flush covers what was written before it began, from the moment that it returns. What is sent counts from the moment
that the call begins.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cryptography import x509

STRACE = (
    "strace",
    "-f",
    "-y",
    "-xx",
    "-s",
    "1000000",
    "-e",
    "trace=pwrite64,fdatasync,fsync,sendmsg,sendto,write,writev",
)
_LINE = re.compile(r"^(?P<thread>\d+) +(?P<rest>.*)$")
_BEGIN = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*)$")
_RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>.*= (?P<result>-?\d+)")
_FILE = re.compile(r"^\d+<(?P<path>[^>]*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\n(.*?)-----END CERTIFICATE-----\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A system call on a file or socket. `begins` and `ends` are lines of the trace; it failed when not `ok`."""

    name: str
    path: str
    data: bytes
    begins: int
    ends: int
    ok: bool


def read_trace(lines: Iterator[str]) -> list[Call]:
    """Every call, in the order in which they began."""
    calls: list[Call] = []
    open_calls: dict[str, tuple[str, str, bytes, int]] = {}
    for number, line in enumerate(lines):
        matched = _LINE.match(line)
        if matched is None:
            continue
        thread, rest = matched["thread"], matched["rest"]
        if resumed := _RESUMED.match(rest):
            begun = open_calls.pop(thread, None)
            if begun is not None:
                calls.append(Call(*begun, ends=number, ok=int(resumed["result"]) >= 0))
        elif begin := _BEGIN.match(rest):
            arguments = begin["arguments"]
            file = _FILE.match(arguments)
            data = b"".join(bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(arguments))
            begun = (begin["name"], _path(file["path"] if file else ""), data, number)
            if arguments.endswith("<unfinished ...>"):
                open_calls[thread] = begun
            else:
                result = arguments.rpartition("= ")[2]
                calls.append(Call(*begun, ends=number, ok=not result.startswith(("-", "?"))))
    return sorted(calls, key=lambda call: call.begins)


def _path(text: str) -> str:
    """With -xx the names of files are printed in hexadecimal, too."""
    return bytes.fromhex(text.replace("\\x", "")).decode(errors="replace") if text.startswith("\\x") else text


@dataclass
class Findings:
    """What a trace shows about the certificates that were sent."""

    sent: list[str] = field(default_factory=list)  # SHA-256 of the certificates
    too_early: list[str] = field(default_factory=list)  # sent before a flush that covers their record had returned


def certificates_sent(calls: Sequence[Call], *, record_path: str, authorities: Sequence[str]) -> Findings:
    """Compare what went into sockets with what was flushed into files whose path contains `record_path`."""
    findings = Findings()
    written = [call for call in calls if call.name == "pwrite64" and record_path in call.path and call.ok]
    flushes = [call for call in calls if call.name in ("fdatasync", "fsync") and record_path in call.path and call.ok]
    streams: dict[str, bytes] = {}
    for call in calls:
        if not call.path.startswith(("socket:", "TCP")):
            continue
        stream = streams.get(call.path, b"") + call.data
        for matched in _PEM.finditer(stream):
            der = base64.b64decode(matched[1])
            if f"{x509.load_der_x509_certificate(der).serial_number:x}" in authorities:
                continue
            digest = hashlib.sha256(der).hexdigest()
            findings.sent.append(digest)
            if not _is_flushed(digest, call.begins, written, flushes):
                findings.too_early.append(digest)
        streams[call.path] = _PEM.sub(b"", stream)
    return findings


def _is_flushed(digest: str, moment: int, written: Sequence[Call], flushes: Sequence[Call]) -> bool:
    """Whether the record with this digest was written, and a flush that began afterwards returned before `moment`."""
    # In halves, because SQLite may break a record between two pages.
    halves = (digest[:32].encode(), digest[32:].encode())
    records = [call.ends for call in written if any(half in call.data for half in halves)]
    return any(ends < flush.begins and flush.ends < moment for ends in records for flush in flushes)
