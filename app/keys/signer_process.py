"""The signer: the process that alone has the keys of the authorities and the passphrase.

`python -m app.keys.signer_process FD` is started by the authority process with one end of a socket pair. The first
message says how to start; from then on questions are answered one after the other until the other end is closed.
Nothing is listened on, nothing is connected to, and no framework, database or network library is imported.
"""

from __future__ import annotations

import gc
import importlib
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_der_public_key

from app.ca.authority_issuance import prepare_request, prepare_root
from app.ca.signing import authority_public_key
from app.confinement.process_hygiene import forbid_core_dumps
from app.confinement.sandbox import become, close_inherited, enter
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.keys.key_ring import KeyRing, KeyToken
from app.keys.passphrase import (
    MAX_PASSPHRASE_BYTES,
    Passphrase,
    create_passphrase_file,
    parse_passphrase,
    read_passphrase_file,
)
from app.keys.private_file import Reader, read_secret_file
from app.keys.sealing import ScryptCost, Sealer
from app.keys.signer_desk import SignerDesk
from app.keys.signer_settings import SignerSettings, TokenSettings
from app.keys.signer_wire import FrameReader, Kind, Message, encode, encode_error

_READ_BYTES = 262_144
_MAX_DESCRIPTORS = 4
EXIT_LOST = 1
_REHEARSAL_SERIAL = 1 << 130  # as long as a real one


class _Line:
    """The signer's end of the socket pair."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = FrameReader()
        self._complete: list[Message] = []
        self.descriptors: list[int] = []

    def receive(self) -> Message | None:
        """The next message, or None when the other end is closed."""
        while not self._complete:
            data, descriptors, _, _ = socket.recv_fds(self._connection, _READ_BYTES, _MAX_DESCRIPTORS)
            self.descriptors += descriptors
            if not data:
                return None
            self._complete = list(self._frames.feed(data))[::-1]
        return self._complete.pop()

    def send(self, message: Message) -> None:
        self._connection.sendall(encode(message))


def main(descriptor: int) -> int:
    """Serve until the authority process is gone; returns the exit code."""
    forbid_core_dumps()
    os.umask(0o077)
    close_inherited(descriptor)
    with socket.socket(fileno=descriptor) as connection:
        line = _Line(connection)
        try:
            first = line.receive()
            if first is None or first.kind != Kind.START:
                return EXIT_LOST
            try:
                desk = SignerDesk(_start(SignerSettings.from_bytes(first.fields[0]), line.descriptors))
            except AppError as error:
                line.send(Message(Kind.FAILED, first.number, [encode_error(error)]))
                return 0
            line.send(Message(Kind.DONE, first.number, [str(os.getuid()).encode()]))
            gc.freeze()
            _serve(line, desk)
        except (OSError, AppError) as error:  # the other end is gone in the middle of something, or speaks nonsense
            sys.stderr.write(f"signer: {error!r}\n")
            return EXIT_LOST
    return 0


def _serve(line: _Line, desk: SignerDesk) -> None:
    while (message := line.receive()) is not None:
        line.send(desk.answer(message, line.descriptors))


def _start(settings: SignerSettings, descriptors: list[int]) -> KeyRing:
    """Read what only the first user may read, then give up everything else."""
    for name in set(os.environ) - set(settings.environment):
        del os.environ[name]
    reader = Reader.this_process()
    passphrase = _passphrase(settings, descriptors)
    pin = _read_pin(settings.token, descriptors)
    rehearse()
    become(settings.user, setting="keys.signer_user")
    token = _open_token(settings.token, pin)
    enter(allow_sockets=settings.token is not None and settings.token.allow_sockets)
    return KeyRing(
        Sealer(passphrase, cost=ScryptCost(log2_n=settings.scrypt_log2_n)),
        trust_domain=TrustDomain.parse(settings.trust_domain),
        now=lambda: datetime.now(UTC),
        reader=reader,
        token=token,
        generate_in_token=settings.token is not None and settings.token.generate,
    )


def rehearse() -> None:
    """Do once, with keys that are thrown away, what a signer does.

    Libraries load parts of themselves on first use, and after this the user that the signer becomes may not even be
    able to read the folder that they are in.
    """
    trust_domain, now = TrustDomain("rehearsal"), datetime.now(UTC)
    cheap = Sealer(Passphrase(b"a rehearsal has no secrets"), cost=ScryptCost(log2_n=1))
    ring = KeyRing(cheap, trust_domain=trust_domain, now=lambda: now)
    key = authority_public_key(load_der_public_key(ring.generate_key("root").public_key_der))
    root = prepare_root(trust_domain, key, now=now, serial=_REHEARSAL_SERIAL)
    ring.sign_authority("root", root.tbs)
    request = prepare_request(trust_domain, key, serial=_REHEARSAL_SERIAL)
    ring.sign_csr("root", request.info)
    ring.sign_workloads("root", [root.tbs])
    ring.unseal("secret", ring.seal("secret", b""))


def _passphrase(settings: SignerSettings, descriptors: list[int]) -> Passphrase:
    if settings.passphrase_file:
        file = Path(settings.passphrase_file)
        if settings.create_passphrase and not file.exists():
            return create_passphrase_file(file)
        return read_passphrase_file(file)
    return parse_passphrase(_take_secret(descriptors, "passphrase"), source="keys.passphrase")


def _take_secret(descriptors: list[int], what: str) -> bytes:
    """What is in the next descriptor, from its beginning: the same open file serves each new start."""
    if not descriptors:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"the signer was given no {what}")
    descriptor = descriptors.pop(0)
    try:
        return os.pread(descriptor, MAX_PASSPHRASE_BYTES + 3, 0)
    finally:
        os.close(descriptor)


def _read_pin(settings: TokenSettings | None, descriptors: list[int]) -> str:
    if settings is None:
        return ""
    if settings.pin_file:
        pin = read_secret_file(Path(settings.pin_file), what="the PIN file", max_bytes=MAX_PASSPHRASE_BYTES)
    else:
        pin = _take_secret(descriptors, "PIN")
    # An extra, and so only where a token is configured; all of it now, while it can be read.
    importlib.import_module("app.keys.pkcs11_token")
    return pin.rstrip(b"\r\n").decode()


def _open_token(settings: TokenSettings | None, pin: str) -> KeyToken | None:
    """The PKCS#11 token; its module is a stranger's code and never runs as root."""
    if settings is None:
        return None
    from app.keys.pkcs11_token import Pkcs11Token

    return Pkcs11Token(settings.module, settings.token_label, pin)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
