"""How policies compare the peer's SPIFFE ID: principals, namespaces, service accounts, trust domains.

A principal is the full `spiffe://` text, empty when the peer is not authenticated; then nothing matches, and what
is negated holds. Envoy and ztunnel differ: Envoy searches the text, ztunnel reads its three parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.policy.matchers import Matches, StringForms, string_matcher
from app.policy.mesh import MeshConfig

SCHEME = "spiffe://"
_DEFAULT_TRUST_DOMAIN = "cluster.local"


def expand_principals(values: Iterable[str], mesh: MeshConfig) -> list[str]:
    """Values with the mesh's other trust domains added where a value names one of them.

    Only values of the full form `td/ns/x/sa/y` take part: aliases do not help wildcards.
    """
    domains = (mesh.trust_domain, *mesh.trust_domain_aliases)
    expanded: list[str] = []
    for value in values:
        parts = value.split("/")
        domain = parts[0]
        if len(parts) != 5 or domain == "*":
            expanded.append(value)
            continue
        named = domain == _DEFAULT_TRUST_DOMAIN or any(
            _names(domain, known) or (domain.endswith("*") and known.startswith(domain[:-1])) for known in domains
        )
        if not named:
            expanded.append(value)
            continue
        rest = value[len(domain) :]
        expanded.extend(value if _names(domain, known) else known + rest for known in domains)
    return list(dict.fromkeys(expanded))


def _names(value: str, domain: str) -> bool:
    """Whether the trust domain part of a value, maybe with a leading star, stands for this domain."""
    return domain.endswith(value[1:]) if value.startswith("*") else domain == value


def principal_matcher(values: Iterable[str]) -> Matches:
    """Whether the principal is one of the values, which are written without `spiffe://`."""
    forms = StringForms(values)
    if forms.presence:
        return bool
    exact = frozenset(SCHEME + value for value in forms.exact)
    if forms.only_exact:
        return exact.__contains__
    prefixes = tuple(SCHEME + value for value in forms.prefixes)
    suffixes = forms.suffixes

    def matches(principal: str) -> bool:
        if principal in exact or (prefixes and principal.startswith(prefixes)):
            return True
        return bool(suffixes) and principal.startswith(SCHEME) and principal[len(SCHEME) :].endswith(suffixes)

    return matches


def namespace_matcher(values: Sequence[str]) -> Matches:
    """Whether `/ns/<value>/` stands in the principal; every star in a value means any text."""
    plain = tuple(f"/ns/{value}/" for value in values if "*" not in value)
    globs = tuple(tuple(f"/ns/{value}/".split("*")) for value in values if "*" in value)
    if not globs and len(plain) == 1:
        needle = plain[0]
        return lambda principal: needle in principal
    return lambda principal: (
        any(needle in principal for needle in plain) or any(_in_order(pieces, principal) for pieces in globs)
    )


def _in_order(pieces: tuple[str, ...], text: str) -> bool:
    """Whether the pieces stand in the text one after another. Taking each at its first place is enough."""
    at = 0
    for piece in pieces:
        found = text.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def service_account_matcher(values: Iterable[str], default_namespace: str) -> Matches:
    """Whether the principal is one of the accounts, each `namespace/account` or `account` of the policy's namespace.

    Other attributes may stand before, between and after the two (`/k/v/ns/x/k/v/sa/y/k/v`); the trust domain is
    not compared.
    """
    accounts = tuple(_account(value, default_namespace) for value in values)

    def matches(principal: str) -> bool:
        return principal.startswith(SCHEME) and any(_has_account(principal, ns, sa) for ns, sa in accounts)

    return matches


def _account(value: str, default_namespace: str) -> tuple[str, str]:
    namespace, slash, account = value.partition("/")
    return (namespace, account) if slash else (default_namespace, value)


def _has_account(principal: str, namespace: str, account: str) -> bool:
    marker = f"/ns/{namespace}/"
    at = principal.find(marker, len(SCHEME) + 1)  # something stands before: the trust domain
    while at >= 0:
        rest = principal[at + len(marker) :]
        if _ends_or_continues(rest, f"sa/{account}"):
            return True
        inner = rest.find(f"/sa/{account}", 1)
        while inner >= 0:
            if _ends_or_continues(rest[inner + 1 :], f"sa/{account}"):
                return True
            inner = rest.find(f"/sa/{account}", inner + 1)
        at = principal.find(marker, at + 1)
    return False


def _ends_or_continues(text: str, wanted: str) -> bool:
    """Whether `text` is `wanted`, or `wanted` followed by a slash and more."""
    if not text.startswith(wanted):
        return False
    more = text[len(wanted) :]
    return not more or (more[0] == "/" and len(more) > 1)


def expand_trust_domains(values: Iterable[str], mesh: MeshConfig) -> list[str]:
    """Values with all trust domains of the mesh where a value is one of them."""
    domains = (mesh.trust_domain, *mesh.trust_domain_aliases)
    expanded: list[str] = []
    for value in values:
        expanded.extend(domains if value in domains else (value,))
    return list(dict.fromkeys(expanded))


def trust_domain_matcher(values: Sequence[str]) -> Matches:
    """Whether the trust domain of the principal is one of the values; a star stays inside that part."""
    any_domain = "*" in values
    matches = string_matcher([value for value in values if value != "*"])

    def domain_matches(principal: str) -> bool:
        if not principal.startswith(SCHEME):
            return False
        if any_domain:
            return True
        domain, slash, _ = principal[len(SCHEME) :].partition("/")
        return bool(slash) and matches(domain)

    return domain_matches


def ztunnel_parts(principal: str) -> tuple[str, str] | None:
    """Namespace and service account as ztunnel reads them: exactly `spiffe://td/ns/x/sa/y`, else no identity."""
    parts = principal.split("/")
    if len(parts) != 7 or parts[:2] != ["spiffe:", ""] or parts[3] != "ns" or parts[5] != "sa":
        return None
    return parts[4], parts[6]


def ztunnel_matcher(field: str, values: Sequence[str], default_namespace: str) -> Matches:
    """The comparison of `principals`, `namespaces` or `serviceAccounts` at ztunnel."""
    if field == "serviceAccounts":
        accounts = frozenset(_account(value, default_namespace) for value in values)
        return lambda principal: ztunnel_parts(principal) in accounts
    if field == "namespaces":
        matches = string_matcher(values)

        def namespace_matches(principal: str) -> bool:
            parts = ztunnel_parts(principal)
            return parts is not None and matches(parts[0])

        return namespace_matches
    principals = principal_matcher(values)
    return lambda principal: ztunnel_parts(principal) is not None and principals(principal)
