"""The answer to CreateCertificate, and the checks that it must pass before it leaves.

ztunnel checks little of what it gets: a chain that does not verify is stored and only fails later, at somebody
else's handshake. So we read the answer as ztunnel would, and validate the path as its peers would, and rather
fail the call.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.ca.authority import Authority
from app.ca.bundle import TrustBundle
from app.ca.issuance import IssuedSvid
from app.ca.pem import decode_blocks
from app.errors import AppError, ErrorCode

_BOTH_DIRECTIONS = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})


def _unusable(diagnosis: str) -> AppError:
    return AppError(ErrorCode.INTERNAL, "the certificate failed its last check", diagnosis=diagnosis)


def cert_chain(issued: IssuedSvid, authority: Authority, bundle: TrustBundle) -> list[str]:
    """`[leaf, each intermediate alone, all roots in the last]`, PEM, each element ending in a newline.

    Each intermediate stands alone because ztunnel drops what follows the first certificate of an element.
    """
    return [issued.pem, *authority.intermediate_pems, bundle.pem]


def check_as_ztunnel(chain: list[str], requested_identity: str) -> None:
    """Read the answer as a ztunnel in shared mode would, and a little more strictly.

    ztunnel takes the first certificate of every element but the last, and every certificate of the last as a
    trust anchor; it refuses a list without a last element besides the leaf, and a leaf whose first URI name is not
    byte for byte what it asked for. What it would silently drop is refused here.

    Raises:
        AppError: `INTERNAL`, the diagnosis naming what a ztunnel would trip over.
    """
    if len(chain) < 2:
        raise _unusable("ztunnel: no root certificate present")
    if any(not element.endswith("\n") for element in chain):
        raise _unusable("an element does not end in a newline")
    leaf, *others = chain
    try:
        certificates = [_read_element(leaf), *(_read_known_element(element) for element in others)]
    except (AppError, ValueError, x509.InvalidVersion) as error:
        raise _unusable(f"ztunnel: an element is not PEM certificates ({error})") from None
    if any(len(element) != 1 for element in certificates[:-1]):
        raise _unusable("ztunnel: an element before the last has more than one certificate, all but the first are lost")
    if _first_uri(certificates[0][0]) != requested_identity:
        raise _unusable("ztunnel: the leaf's first URI name is not the requested identity")


def _read_element(element: str) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(der) for der in decode_blocks(element, "CERTIFICATE", what="an element")]


# Intermediates and roots are the same text in every answer until an authority changes.
_read_known_element = lru_cache(maxsize=64)(_read_element)


def _first_uri(leaf: x509.Certificate) -> str | None:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), None)


def _require_both_directions(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage
) -> None:
    if not _BOTH_DIRECTIONS.issubset(usage):
        raise ValueError("the certificate is not for server and client authentication")


def _require_signing(_policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an authority of the path may not sign certificates")


def _any_authority() -> verification.ExtensionPolicy:
    """What an authority must have for the verifiers of the mesh, and no more.

    Many roots and intermediates that companies made long ago lack key identifiers or an authority key identifier.
    rustls, BoringSSL and OpenSSL take them all the same, so a check that did not would refuse what works.
    """
    return (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, verification.Criticality.CRITICAL, None)
        .may_be_present(x509.KeyUsage, verification.Criticality.AGNOSTIC, _require_signing)
    )


def _policy(anchors: list[x509.Certificate], *, max_depth: int) -> verification.PolicyBuilder:
    """What a path up to one of the anchors must look like, all but the time at which it must hold."""
    leaf_policy = verification.ExtensionPolicy.webpki_defaults_ee().require_present(
        x509.ExtendedKeyUsage, verification.Criticality.NON_CRITICAL, _require_both_directions
    )
    return (
        verification.PolicyBuilder()
        .store(verification.Store(anchors))
        .max_chain_depth(max_depth)
        .extension_policies(ca_policy=_any_authority(), ee_policy=leaf_policy)
    )


class PathChecker:
    """Validates the paths of what one authority issues, for both TLS directions, against one bundle.

    Path validation for a server and for a client differs in one rule, the extended key usage, so one pass that
    demands both usages stands for both. The first certificate is validated up to the bundle's roots; after that the
    authority's own path is known to hold as long as no element has expired (`Authority.not_after`, heeded here), so
    the later ones are validated up to the authority and their cost is one signature instead of two. Not for
    use from several threads at once.
    """

    def __init__(self, authority: Authority, bundle: TrustBundle) -> None:
        self._authority = authority
        self._to_roots = _policy(list(bundle.roots), max_depth=len(authority.intermediates))
        self._to_authority = _policy([authority.certificate], max_depth=0)
        self._path_is_known = False

    def check(self, issued: IssuedSvid, *, now: datetime) -> None:
        """Validate the path of one certificate.

        Raises:
            AppError: `INTERNAL`, with a diagnosis, when a peer would refuse it now or before it ends.
        """
        if not self._authority.not_before <= now < self._authority.not_after:
            raise _unusable("an element of the issuing chain is not valid now")
        if issued.not_after > self._authority.not_after:
            raise _unusable("the certificate outlives an element of its chain")
        try:
            if self._path_is_known:
                self._to_authority.time(now).build_client_verifier().verify(issued.certificate, [])
            else:
                intermediates = list(self._authority.intermediates)
                self._to_roots.time(now).build_client_verifier().verify(issued.certificate, intermediates)
                self._path_is_known = True
        except verification.VerificationError as error:
            raise _unusable(f"path validation: {error}") from None
