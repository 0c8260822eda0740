"""The ledger: checkpoints, entries, proofs, the whole log in pieces, and what was never finished.

Nothing here must be believed: checkpoints are signed, proofs are verified offline with the log's public key
(`gatehouse audit verify`).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse, Response

from app.authority.ledger.ledger_ports import EntryQuery, StoredCheckpoint
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from app.rest.parameters import PageSize, PageToken, number
from app.rest.schemas import CheckpointShape, LedgerEntryPage, LedgerKeyShape, OpenIntentPage
from app.rest.services import Services

router = APIRouter(prefix="/v1/ledger", tags=["ledger"])

_LOG_TYPE = "application/x-ndjson"
_MAX = 10**18
Serial = Annotated[str, Query(max_length=64, description="Of a certificate, hexadecimal.")]
Uid = Annotated[str, Query(max_length=32, description="Of an entry, 32 hexadecimal digits.")]
Index = Annotated[int | None, Query(ge=0, lt=_MAX, description="Of an entry.")]
Size = Annotated[int | None, Query(ge=0, lt=_MAX, description="Of the tree; the newest checkpoint's when not given.")]


@router.get("/key", response_model=LedgerKeyShape)
async def get_ledger_key(services: Services) -> dict[str, str]:
    """The public key of the log, as signed notes write verifier keys."""
    key = services.ledger.key
    return {"origin": key.origin, "public_key": str(key)}


@router.get("/checkpoint", response_model=CheckpointShape)
async def get_checkpoint(services: Services, size: Size = None) -> dict[str, Any]:
    """The newest checkpoint, or the kept one of a size."""
    found: StoredCheckpoint = await services.ledger.checkpoint(size)
    return {"size": found.size, "root": found.root.hex(), "time": found.time, "note": found.note}


@router.get("/entries", response_model=LedgerEntryPage)
async def list_ledger_entries(
    services: Services,
    *,
    first: Annotated[int | None, Query(ge=0, lt=_MAX, description="The index to begin with.")] = None,
    subject: Annotated[str, Query(max_length=4_096, description="What the entries are about, exactly.")] = "",
    kind: Annotated[EntryKind | None, Query(description="The kind of the entries.")] = None,
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> Any:
    """Entries in the order in which they were stored."""
    asked = await services.administration.pages.asked(page_size, page_token)
    query = EntryQuery(from_index=first, subject=subject, kind="" if kind is None else kind.value)
    return await services.ledger.entries(asked, query)


@router.get("/unfinished", response_model=OpenIntentPage)
async def list_unfinished(services: Services, page_size: PageSize = 100, page_token: PageToken = "") -> Any:
    """Intents without a certificate on record: being issued right now, or possibly signed and never answered."""
    return await services.ledger.unfinished(await services.administration.pages.asked(page_size, page_token))


@router.get("/proof", response_class=PlainTextResponse)
async def get_proof(services: Services, serial: Serial = "", uid: Uid = "", index: Index = None) -> Response:
    """One file that shows a certificate (by serial) or an entry (by uid or index) to be in the log."""
    if sum((bool(serial), bool(uid), index is not None)) != 1:
        raise AppError(ErrorCode.INVALID, "Name exactly one of serial, uid and index.")
    proof = await services.ledger.prove(
        serial=_hexadecimal(serial.replace(":", ""), "serial").lstrip("0") if serial else None,
        uid=bytes.fromhex(_hexadecimal(uid, "uid")) if uid else None,
        index=index,
    )
    return PlainTextResponse(proof.to_text())


@router.get("/consistency/{old_size}/{new_size}", response_class=PlainTextResponse)
async def get_consistency(services: Services, old_size: str, new_size: str) -> Response:
    """That the log of one size extends the log of another; verify it with both checkpoints."""
    proof = await services.ledger.prove_consistency(number(old_size, "size"), number(new_size, "size"))
    return PlainTextResponse(proof.to_text())


@router.get(
    "/export",
    response_class=Response,
    responses={200: {"content": {_LOG_TYPE: {"schema": {"type": "string"}}}}},
)
async def export_ledger(
    services: Services,
    first: Annotated[int, Query(ge=0, lt=_MAX, description="The index to begin with.")] = 0,
    size: Size = None,
) -> Response:
    """A piece of the log file; go on with the header `gatehouse-next` as `first` and `gatehouse-size` as `size`."""
    piece, following, goal = await services.ledger.export_page(first=first, size=size)
    headers = {"gatehouse-next": str(following), "gatehouse-size": str(goal)}
    return Response(piece, media_type=_LOG_TYPE, headers=headers)


def _hexadecimal(text: str, name: str) -> str:
    lowered = text.lower()
    if (name == "uid" and len(lowered) != 32) or not all(character in "0123456789abcdef" for character in lowered):
        raise AppError(ErrorCode.INVALID, f"The {name} is not hexadecimal.")
    return lowered
