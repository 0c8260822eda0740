"""The keys of the authorities, and the one place where they sign.

A plain object without a thread, a task or a socket: the signer process serves it, tests use it directly. Before each
signature it decides for itself, from the bytes alone, whether that key may sign them (`app.ca.signing_rules`); nothing
that another process checked counts here. Certificates of child authorities are only signed for keys that are in the
same ring, so nobody who can merely ask for signatures can become an authority.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from app.authority.authorities.authority_ports import NewKey, StoredAuthority
from app.ca.authority_lint import public_key_der
from app.ca.key_policy import key_hash
from app.ca.signing import AuthorityPrivateKey, authority_public_key, is_signed_by
from app.ca.signing_rules import (
    IssuerRules,
    as_certificate,
    authority_findings,
    list_findings,
    request_findings,
    subject_key,
    workload_findings,
)
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.keys.private_file import Reader, open_private, read_private
from app.keys.private_key import (
    MAX_KEY_FILE_BYTES,
    MemoryKey,
    SigningKey,
    decode_key,
    decode_pem_key,
    encode_key,
    generate_key,
)
from app.keys.sealing import Sealer

FILE_REF = "file:"
TOKEN_REF = "pkcs11:"  # noqa: S105 - a scheme, not a password
AUTHORITY_PREFIX = "authority:"
# Bytes that are no certificate, so that the signature is worth nothing to anybody.
_PROBE = b"gatehouse key probe"


class KeyToken(Protocol):
    """A device that keeps keys and signs with them."""

    def generate(self, label: str) -> SigningKey:
        """Make a P-256 key pair that never leaves the device."""
        ...

    def open(self, label: str) -> SigningKey:
        """The key of that label.

        Raises:
            AppError: `FAILED_PRECONDITION` when there is none or more than one; `UNAVAILABLE` when the device is away.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Held:
    """A key in the ring; `rules` once it has a certificate."""

    key: SigningKey
    rules: IssuerRules | None = None
    max_lifetime: timedelta = timedelta(0)


class KeyRing:
    """Implements what `KeyKeeper` promises, synchronously."""

    def __init__(
        self,
        sealer: Sealer,
        *,
        trust_domain: TrustDomain,
        now: Callable[[], datetime],
        reader: Reader | None = None,
        token: KeyToken | None = None,
        generate_in_token: bool = False,
    ) -> None:
        """Start empty.

        Args:
            sealer: opens and seals keys at rest.
            trust_domain: the only one for which anything is signed.
            now: the time; no workload certificate is signed that begins in the future.
            reader: whose key files are believed; this process' user when not given.
            token: a device with keys, where there is one.
            generate_in_token: whether new keys are made in the device instead of being sealed.
        """
        self._sealer = sealer
        self._trust_domain = trust_domain
        self._now = now
        self._reader = reader or Reader.this_process()
        self._token = token
        self._generate_in_token = generate_in_token
        self._held: dict[str, _Held] = {}
        self._authority_keys: frozenset[bytes] = frozenset()

    def __repr__(self) -> str:
        return "KeyRing(***)"

    def __reduce__(self) -> str:
        raise TypeError("a key ring does not travel")

    def generate_key(self, authority_id: str) -> NewKey:
        """Make a P-256 key and keep it open.

        Raises:
            AppError: `CONFLICT` when the authority has a key already; `UNAVAILABLE` when the token is away.
        """
        if authority_id in self._held:
            raise AppError(ErrorCode.CONFLICT, f"the authority {authority_id} has a key already")
        key: SigningKey
        if self._generate_in_token and self._token is not None:
            key = self._token.generate(authority_id)
            made = NewKey(public_key_der=key.public_key_der, sealed=b"", key_ref=f"{TOKEN_REF}{authority_id}")
        else:
            secret = generate_key()
            key = MemoryKey(secret)
            sealed = self._sealer.seal(f"{AUTHORITY_PREFIX}{authority_id}", encode_key(secret))
            made = NewKey(public_key_der=key.public_key_der, sealed=sealed)
        self._hold(authority_id, _Held(key))
        return made

    def open_authority(
        self, authority: StoredAuthority, *, max_lifetime: timedelta, key_file: int | None = None
    ) -> None:
        """Make a stored key usable, after it proved to belong to the certificate (which may still be missing).

        Args:
            authority: what is stored of it.
            max_lifetime: of its workload certificates, from their first to their last second, both included.
            key_file: a descriptor of the file that `file:` names, where somebody else opened it.

        Raises:
            AppError: `FAILED_PRECONDITION` when the key does not open, is not there, or is another certificate's;
                `UNAVAILABLE` when the token is away.
        """
        key = self._load(authority, key_file)
        rules = None
        if authority.certificate_pem:
            rules = self._rules(authority, key, max_lifetime)
        _prove(authority.id, key)
        self._hold(authority.id, _Held(key, rules, max_lifetime))

    def close_authority(self, authority_id: str) -> None:
        """Forget a key; it need not be there."""
        if self._held.pop(authority_id, None) is not None:
            self._learn_keys()

    def probe(self, authority_id: str) -> None:
        """Sign and verify something that is no certificate.

        Raises:
            AppError: `FAILED_PRECONDITION` when the authority is not open or the key signs wrongly; `UNAVAILABLE`
                when the token is away.
        """
        _prove(authority_id, self._get(authority_id).key)

    def sign_workloads(self, authority_id: str, batch: Sequence[bytes]) -> list[bytes | AppError]:
        """A signature over each to-be-signed workload certificate, or why there is none."""
        signed: list[bytes | AppError] = []
        now = self._now()
        for tbs in batch:
            try:
                signed.append(self._sign_workload(authority_id, tbs, now))
            except AppError as error:
                signed.append(error)
        return signed

    def _sign_workload(self, authority_id: str, tbs: bytes, now: datetime) -> bytes:
        held = self._get(authority_id)
        rules = _with_certificate(authority_id, held)
        _refuse(workload_findings(tbs, rules, authority_keys=self._authority_keys, now=now))
        return held.key.sign(tbs)

    def sign_authority(self, authority_id: str, tbs: bytes) -> bytes:
        """A signature over the authority's own root certificate or that of a child whose key is in this ring.

        Raises:
            AppError: `INTERNAL` when the bytes are anything else; `FAILED_PRECONDITION` when the authority or the
                child is not open here; `UNAVAILABLE` when the token is away.
        """
        held = self._get(authority_id)
        own_key = held.key.public_key_der
        _refuse(authority_findings(tbs, held.rules, trust_domain=self._trust_domain, own_key=own_key))
        child = subject_key(tbs)
        if all(other.key.public_key_der != child for other in self._held.values()):
            raise AppError(
                ErrorCode.FAILED_PRECONDITION, "the key of the authority to be signed is not open here; open it first"
            )
        signature = held.key.sign(tbs)
        if child == own_key and held.rules is None:
            # What the key certified itself to be is from now on what it issues as.
            own = as_certificate(tbs, signature)
            self._hold(authority_id, _Held(held.key, self._rules_of((own,), held.max_lifetime), held.max_lifetime))
        return signature

    def sign_csr(self, authority_id: str, request_info: bytes) -> bytes:
        """A signature over a CertificationRequestInfo (RFC 2986) for the authority's own key.

        Raises:
            AppError: as `sign_authority`.
        """
        held = self._get(authority_id)
        _refuse(request_findings(request_info, own_key=held.key.public_key_der))
        return held.key.sign(request_info)

    def sign_crl(self, authority_id: str, tbs: bytes) -> bytes:
        """A signature over a to-be-signed certificate list.

        Raises:
            AppError: as `sign_authority`.
        """
        held = self._get(authority_id)
        rules = _with_certificate(authority_id, held)
        if not rules.may_sign_lists:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                f"the certificate of the authority {authority_id} has no cRLSign, so it signs no revocation list",
            )
        _refuse(list_findings(tbs, rules))
        return held.key.sign(tbs)

    def seal(self, name: str, secret: bytes) -> bytes:
        """Seal a small secret of another kind for rest.

        Raises:
            AppError: `INTERNAL` when the name is one of an authority's key; `TOO_LARGE`.
        """
        _check_service_name(name)
        return self._sealer.seal(name, secret)

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Open what `seal` made; keys of authorities are not given out.

        Raises:
            AppError: `INTERNAL` when the name is one of an authority's key; `FAILED_PRECONDITION` when it does not
                open.
        """
        _check_service_name(name)
        return self._sealer.unseal(name, sealed)

    def _hold(self, authority_id: str, held: _Held) -> None:
        self._held[authority_id] = held
        self._learn_keys()

    def _learn_keys(self) -> None:
        """Which keys no workload may present: those in the ring, and those of the chains above them."""
        keys = {key_hash(held.key.public_key_der) for held in self._held.values()}
        for held in self._held.values():
            if held.rules is not None:
                keys |= held.rules.key_hashes
        self._authority_keys = frozenset(keys)

    def _get(self, authority_id: str) -> _Held:
        held = self._held.get(authority_id)
        if held is None:
            raise AppError(ErrorCode.FAILED_PRECONDITION, f"the key of the authority {authority_id} is not open")
        return held

    def _load(self, authority: StoredAuthority, key_file: int | None) -> SigningKey:
        ref = authority.key_ref
        if ref.startswith(FILE_REF):
            return MemoryKey(self._read_key_file(Path(ref.removeprefix(FILE_REF)), key_file))
        if ref.startswith(TOKEN_REF):
            if self._token is None:
                raise AppError(
                    ErrorCode.FAILED_PRECONDITION,
                    f"the key of the authority {authority.id} is in a PKCS#11 token, and keys.pkcs11.module is not set",
                )
            return self._token.open(ref.removeprefix(TOKEN_REF))
        if ref or not authority.sealed_key:
            raise AppError(ErrorCode.FAILED_PRECONDITION, f"the key of the authority {authority.id} is not here")
        return MemoryKey(decode_key(self._sealer.unseal(f"{AUTHORITY_PREFIX}{authority.id}", authority.sealed_key)))

    def _read_key_file(self, path: Path, key_file: int | None) -> AuthorityPrivateKey:
        descriptor = open_private(path, what="the key file") if key_file is None else key_file
        try:
            content = read_private(
                descriptor, path, what="the key file", max_bytes=MAX_KEY_FILE_BYTES, reader=self._reader
            )
        finally:
            if key_file is None:
                os.close(descriptor)
        return decode_pem_key(content, source=f"the key file {path}")

    def _rules(self, authority: StoredAuthority, key: SigningKey, max_lifetime: timedelta) -> IssuerRules:
        try:
            pems = f"{authority.certificate_pem}\n{authority.chain_pem}".encode("ascii")
            chain = tuple(x509.load_pem_x509_certificates(pems))
            own_key = public_key_der(chain[0])
        except (ValueError, x509.InvalidVersion):
            raise AppError(
                ErrorCode.FAILED_PRECONDITION, f"the certificate of the authority {authority.id} is damaged"
            ) from None
        if own_key != key.public_key_der:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                f"the key of the authority {authority.id} does not belong to its certificate",
            )
        return self._rules_of(chain, max_lifetime)

    def _rules_of(self, chain: tuple[x509.Certificate, ...], max_lifetime: timedelta) -> IssuerRules:
        keys = frozenset(key_hash(public_key_der(element)) for element in chain)
        return IssuerRules.of(chain, self._trust_domain, max_lifetime=max_lifetime, keys=keys)


def _with_certificate(authority_id: str, held: _Held) -> IssuerRules:
    if held.rules is None:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"the authority {authority_id} has no certificate yet")
    return held.rules


def _refuse(findings: list[str]) -> None:
    if findings:
        raise AppError(ErrorCode.INTERNAL, "the signer refused what it was to sign", diagnosis="; ".join(findings))


def _prove(authority_id: str, key: SigningKey) -> None:
    public_key = authority_public_key(load_der_public_key(key.public_key_der))
    if not is_signed_by(public_key, key.sign(_PROBE), _PROBE):
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"the key of the authority {authority_id} does not sign as its public half says",
        )


def _check_service_name(name: str) -> None:
    if name.startswith(AUTHORITY_PREFIX):
        raise AppError(ErrorCode.INTERNAL, "keys of authorities are not sealed or given out by name")
