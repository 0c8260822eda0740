"""A parent in somebody's files: an issuing certificate, what is above it, and the roots to trust.

The sets of files that istiod and cert-manager use are told apart, and sense is made of what is in them: which
certificate leads to which is found by looking, not by their order; duplicates fall together; roots are taken out of
the chain. What a verifier would refuse is an error that names the file and the certificate; what merely has a price
is a warning that names it. Private keys are not looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.authority_lint import check_chain, examine_chain
from app.ca.pem import decode_blocks
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain

MAX_FILE_BYTES = 262_144
MAX_CERTIFICATES = 64
MAX_DEPTH = 8
_SOON = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """The names that one kind of set gives its files."""

    certificate: str
    key: str
    chain: str  # empty: the chain stands in the certificate's file
    roots: str


ISTIO_FILES = FileSet(certificate="ca-cert.pem", key="ca-key.pem", chain="cert-chain.pem", roots="root-cert.pem")
CERT_MANAGER_FILES = FileSet(certificate="tls.crt", key="tls.key", chain="", roots="ca.crt")
FILE_SETS = (ISTIO_FILES, CERT_MANAGER_FILES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """An issuing authority in files, checked.

    `chain` is what is between it and its root, nearest first, without the root; it is empty when the certificate is
    a root that issues itself, as istiod's own is. `root` is one of `roots`.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    root: x509.Certificate
    roots: tuple[x509.Certificate, ...]
    warnings: tuple[str, ...] = ()

    @property
    def certificate_pem(self) -> str:
        """The issuing certificate."""
        return to_pem((self.certificate,))

    @property
    def chain_pem(self) -> str:
        """What is between it and its root."""
        return to_pem(self.chain)

    @property
    def roots_pem(self) -> str:
        """Every root to trust."""
        return to_pem(self.roots)


def to_pem(certificates: Sequence[x509.Certificate]) -> str:
    """Certificates as PEM, one after the other."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


def recognise(sizes: Mapping[str, int], *, where: str) -> FileSet:
    """Which set of files this is; an empty file counts as one that is not there (istiod's own secret has such).

    Raises:
        AppError: `INVALID`, naming the file that is missing or too large.
    """
    present = {name for name, size in sizes.items() if size > 0}
    found = [files for files in FILE_SETS if present & {files.certificate, files.key}]
    if len(found) > 1:
        raise _invalid(f"{where} holds two sets, {ISTIO_FILES.certificate} and {CERT_MANAGER_FILES.certificate}")
    if not found:
        raise _invalid(
            f"{where} holds neither {ISTIO_FILES.certificate} and {ISTIO_FILES.key} "
            f"nor {CERT_MANAGER_FILES.certificate} and {CERT_MANAGER_FILES.key}"
        )
    files = found[0]
    for name in (files.certificate, files.key):
        if name not in present:
            raise _invalid(f"{where}/{name} is missing or empty")
    for name in (files.certificate, files.key, files.chain, files.roots):
        if sizes.get(name, 0) > MAX_FILE_BYTES:
            raise _invalid(f"{where}/{name} is larger than {MAX_FILE_BYTES} bytes")
    return files


def parse_parent(
    contents: Mapping[str, bytes], files: FileSet, *, trust_domain: TrustDomain, now: datetime, where: str = "the set"
) -> Parent:
    """Make sense of a set; `contents` has its certificates by file name, without the key.

    Raises:
        AppError: `MALFORMED` or `INVALID`, naming the file and what is wrong with it.
    """
    own = _certificates(contents, files.certificate, where)
    if not own:
        raise _invalid(f"{where}/{files.certificate} is missing or empty")
    certificate, *above = own
    chain_file = _certificates(contents, files.chain, where)
    trusted, warnings = _roots(_certificates(contents, files.roots, where), files.roots, now)
    has_roots_file = bool(contents.get(files.roots, b"").strip())
    if has_roots_file and not trusted:
        raise _invalid(f"{where}/{files.roots} holds no root that is valid: {'; '.join(warnings)}")
    pool = _distinct([*above, *chain_file, *trusted])
    path = find_path(certificate, pool, trusted)
    if path is None:
        raise _invalid(_missing_link(certificate, pool, files, contents, where))
    *between, root = path
    if has_roots_file and root not in trusted:
        raise _invalid(f"{name_of(certificate)} leads to {name_of(root)}, which is not in {where}/{files.roots}")
    check_parent_chain(path, trust_domain, now)
    unused = [one for one in pool if one not in path and one not in trusted]
    warnings += [f"{name_of(one)} is not part of the chain and was left out" for one in unused]
    return Parent(
        certificate=certificate,
        chain=tuple(between[1:]),
        root=root,
        roots=tuple(trusted or [root]),
        warnings=(*warnings, *costs_of(path, now)),
    )


def costs_of(chain: Sequence[x509.Certificate], now: datetime) -> list[str]:
    """What an issuing authority that we did not make cannot do, or what it costs, each as a sentence.

    `chain` starts with the issuing certificate and ends with its root.
    """
    certificate, costs = chain[0], list(examine_chain(chain).warnings)
    if len(chain) == 1:
        costs.append(
            f"{name_of(certificate)} is a root that issues by itself: its key is online, and whoever steals it is "
            "the mesh; an issuing certificate below it is safer"
        )
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        costs.append(
            f"{name_of(certificate)} has an RSA key of {key.key_size} bits: each certificate costs 20 to 200 times the "
            "processor time of one signed on P-256"
        )
    ends = min(one.not_valid_after_utc for one in chain)
    if ends - now < _SOON:
        costs.append(f"its chain expires on {ends:%Y-%m-%d}, and no certificate outlives it")
    return costs


def name_of(certificate: x509.Certificate) -> str:
    """A certificate as people recognise it: its subject and the beginning of its fingerprint."""
    subject = certificate.subject.rfc4514_string() or "a certificate without a subject"
    return f"{subject[:200]} (sha256 {certificate.fingerprint(hashes.SHA256()).hex()[:16]})"


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether it is issued by itself."""
    return certificate.subject == certificate.issuer and is_issued_by(certificate, certificate)


def _certificates(contents: Mapping[str, bytes], name: str, where: str) -> list[x509.Certificate]:
    data = contents.get(name, b"")
    if not data.strip():
        return []
    if len(data) > MAX_FILE_BYTES:
        raise _invalid(f"{where}/{name} is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("ascii")
        blocks = decode_blocks(text, "CERTIFICATE", what=f"{where}/{name}")
        if len(blocks) > MAX_CERTIFICATES:
            raise _invalid(f"{where}/{name} holds more than {MAX_CERTIFICATES} certificates")
        return _distinct([x509.load_der_x509_certificate(block) for block in blocks])
    except (ValueError, x509.InvalidVersion):
        raise AppError(ErrorCode.MALFORMED, f"{where}/{name} holds what is not a certificate in PEM") from None


def _distinct(certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    return list(dict.fromkeys(certificates))


def _roots(
    certificates: Sequence[x509.Certificate], file: str, now: datetime
) -> tuple[list[x509.Certificate], list[str]]:
    """The usable roots of the roots' file, and what is to be said about the others."""
    good, warnings = [], []
    for certificate in certificates:
        odd = ""
        if not is_self_signed(certificate):
            odd = "is not a root (it is issued by another)"
        elif not _may_sign(certificate):
            odd = "is not a certificate authority"
        elif certificate.not_valid_after_utc <= now:
            odd = f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        if odd:
            warnings.append(f"{file}: {name_of(certificate)} {odd} and was left out")
        else:
            good.append(certificate)
    return good, warnings


def find_path(
    certificate: x509.Certificate, pool: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate]
) -> list[x509.Certificate] | None:
    """The certificate and those above it, the root last, or None; trusted roots first, then those that live longest.

    Each certificate is tried at most once, so a set cannot make us search for long.
    """
    candidates = sorted(pool, key=lambda one: (one not in trusted, -one.not_valid_after_utc.timestamp()))
    dead_ends: set[x509.Certificate] = set()

    def climb(path: list[x509.Certificate]) -> list[x509.Certificate] | None:
        here = path[-1]
        if is_self_signed(here):
            return path
        if len(path) >= MAX_DEPTH:
            return None
        for above in candidates:
            if above in path or above in dead_ends or not is_issued_by(here, above):
                continue
            found = climb([*path, above])
            if found is not None:
                return found
            dead_ends.add(above)
        return None

    return climb([certificate])


def _missing_link(
    certificate: x509.Certificate,
    pool: Sequence[x509.Certificate],
    files: FileSet,
    contents: Mapping[str, bytes],
    where: str,
) -> str:
    here = certificate
    for _ in range(MAX_DEPTH):
        above = next((one for one in pool if one != here and is_issued_by(here, one)), None)
        if above is None:
            break
        here = above
    issuer = here.issuer.rfc4514_string()[:200]
    absent = [name for name in (files.chain, files.roots) if name and not contents.get(name, b"").strip()]
    hint = f"; {' and '.join(f'{where}/{name}' for name in absent)} is missing or empty" if absent else ""
    return f"the chain of {name_of(certificate)} does not reach a root: nothing in the set is {issuer!r}{hint}"


def check_parent_chain(chain: Sequence[x509.Certificate], trust_domain: TrustDomain, now: datetime) -> None:
    """Check a chain that others made, the issuing certificate first, the root last.

    Raises:
        AppError: `INVALID`, naming what a verifier would refuse, or that it is of another trust domain.
    """
    check_chain(chain, trust_domain)
    for one in chain:
        if not one.not_valid_before_utc <= now < one.not_valid_after_utc:
            raise _invalid(
                f"{name_of(one)} is valid only from {one.not_valid_before_utc:%Y-%m-%d} to "
                f"{one.not_valid_after_utc:%Y-%m-%d}"
            )


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether a certificate names an issuer and is signed with its key."""
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _invalid(reason: str) -> AppError:
    return AppError(ErrorCode.INVALID, f"the parent cannot be used: {reason}")
