"""Read policy documents: one, a page of them, one document's history, and the revisions of the set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from app.authority.pages import make_page_token, page_size_within, read_page_token
from app.authority.policies.document_keys import check_filters, document_key
from app.authority.records import DocumentVersion, Page, Revision, StoredDocument
from app.authority.store import Store
from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits

T = TypeVar("T")
MAX_REVISION = 2**63 - 1  # what a database can look for


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAsked:
    """Which page of a list; `key` is the secret under which page tokens are made."""

    size: int
    token: str
    key: bytes


async def get_policy(store: Store, key: tuple[str, str, str], *, revision: int | None) -> StoredDocument:
    """One document, now or at a revision.

    Raises:
        AppError: `NOT_FOUND`.
    """
    wanted = document_key(*key)
    if revision is not None:
        await get_revision(store, revision)
    found = await store.read(lambda transaction: transaction.policies.find_document(wanted, revision=revision))
    if found is None:
        raise AppError(ErrorCode.NOT_FOUND, "there is no such document")
    return found


async def list_policies(
    store: Store, limits: PolicyLimits, asked: PageAsked, *, kind: str, namespace: str
) -> Page[StoredDocument]:
    """A page of documents in the order of their keys; it may end early when the documents are large.

    Raises:
        AppError: `INVALID` for a bad filter, page size or page token.
    """
    check_filters(kind, namespace)
    question = f"policies:{kind}:{namespace}"
    size = page_size_within(asked.size, limits.max_page_items)
    after = read_page_token(asked.key, question, asked.token)
    found = await store.read(
        lambda transaction: transaction.policies.documents_after(
            after, kind=kind, namespace=namespace, limit=size + 1, max_bytes=limits.max_page_bytes
        )
    )
    if len(found) == size + 1:
        found, more = found[:size], True
    else:  # fewer than asked for: either the end, or the size in bytes cut the page short
        more = bool(found) and await _exists_after(store, found[-1].key, kind, namespace)
    return Page(tuple(found), make_page_token(asked.key, question, found[-1].key) if more else "")


async def _exists_after(store: Store, after: str, kind: str, namespace: str) -> bool:
    return bool(
        await store.read(
            lambda transaction: transaction.policies.documents_after(
                after, kind=kind, namespace=namespace, limit=1, max_bytes=0
            )
        )
    )


async def list_revisions(store: Store, limits: PolicyLimits, asked: PageAsked) -> Page[Revision]:
    """A page of revisions, newest first.

    Raises:
        AppError: `INVALID` for a bad page size or page token.
    """
    size = page_size_within(asked.size, limits.max_page_items)
    after = read_page_token(asked.key, "revisions", asked.token)
    before = int(after) if after else None
    found = await store.read(lambda transaction: transaction.policies.revisions_before(before, size + 1))
    return _page(asked.key, "revisions", found, size, lambda revision: str(revision.number))


async def get_revision(store: Store, number: int) -> Revision:
    """One revision.

    Raises:
        AppError: `NOT_FOUND`.
    """
    found = None
    if 0 <= number <= MAX_REVISION:
        found = await store.read(lambda transaction: transaction.policies.find_revision(number))
    if found is None:
        raise AppError(ErrorCode.NOT_FOUND, f"there is no revision {number}")
    return found


async def list_revision_changes(
    store: Store, limits: PolicyLimits, asked: PageAsked, number: int
) -> Page[DocumentVersion]:
    """A page of what one revision changed, in the order of the keys.

    Raises:
        AppError: `NOT_FOUND`; `INVALID` for a bad page size or page token.
    """
    size = page_size_within(asked.size, limits.max_page_items)
    question = f"changes:{number}"
    after = read_page_token(asked.key, question, asked.token)
    await get_revision(store, number)
    found = await store.read(lambda transaction: transaction.policies.changes_of(number, after=after, limit=size + 1))
    return _page(asked.key, question, found, size, lambda version: version.key)


async def document_history(
    store: Store, limits: PolicyLimits, asked: PageAsked, key: tuple[str, str, str]
) -> Page[DocumentVersion]:
    """A page of the versions of one document, newest first.

    Raises:
        AppError: `NOT_FOUND`; `INVALID` for a bad page size or page token.
    """
    wanted = document_key(*key)
    size = page_size_within(asked.size, limits.max_page_items)
    question = f"history:{wanted}"
    after = read_page_token(asked.key, question, asked.token)
    before = int(after) if after else None
    found = await store.read(
        lambda transaction: transaction.policies.versions_of(wanted, before=before, limit=size + 1)
    )
    if not found and before is None:
        raise AppError(ErrorCode.NOT_FOUND, "there never was such a document")
    return _page(asked.key, question, found, size, lambda version: str(version.revision))


def _page(key: bytes, question: str, found: Sequence[T], size: int, position: Callable[[T], str]) -> Page[T]:
    """A page of `size` out of one item more than that."""
    if len(found) <= size:
        return Page(tuple(found))
    shown = tuple(found[:size])
    return Page(shown, make_page_token(key, question, position(shown[-1])))
