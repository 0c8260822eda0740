"""What an answer does besides allowing or denying: what is sent to the client, and what is changed upstream."""

from __future__ import annotations

from dataclasses import dataclass

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Changes to the request and the response; a codec writes them in the words of its dialect.

    Header names are lower case. `headers` are set on the request to the upstream when it may pass, replacing what the
    client sent under that name, and are sent to the client when it may not. `metadata` is the canonical JSON of an
    object that joins the dynamic metadata, so that the value stays hashable.
    """

    status: int = 0  # of a denial; 0: what its reason says
    body: str = ""  # of a denial; empty: what its reason says
    headers: Pairs = ()
    headers_to_remove: tuple[str, ...] = ()  # from the request to the upstream
    response_headers: Pairs = ()  # to the client, when the request passed
    query_to_set: Pairs = ()
    query_to_remove: tuple[str, ...] = ()
    metadata: str = ""


NO_EFFECTS = Effects()
