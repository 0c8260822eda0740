"""Strict PEM: exactly what stands between two lines, in one pass.

General PEM readers search for the next `-----BEGIN ` again and again, which is quadratic on hostile text. Here
every piece of the text is looked at once (RFC 7468 §3, without its leniency: no text around the blocks).
"""

from __future__ import annotations

import binascii

from app.errors import AppError, ErrorCode

_WHITESPACE = " \t\r\n"
_DROP_WHITESPACE = {ord(space): None for space in _WHITESPACE}
CSR_LABELS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")


def _malformed(what: str, reason: str) -> AppError:
    return AppError(ErrorCode.MALFORMED, f"{what} is not acceptable: {reason}")


def decode_one_block(text: str, labels: tuple[str, ...], *, what: str) -> bytes:
    """The DER inside the only PEM block of `text`; white space may surround it, nothing else.

    Raises:
        AppError: `MALFORMED` when the text is anything but one block with one of the `labels`; `what` opens the
            sentence.
    """
    text = text.strip(_WHITESPACE)
    if not text:
        raise _malformed(what, "it is empty")
    for label in labels:
        begin, end = f"-----BEGIN {label}-----", f"-----END {label}-----"
        if text.startswith(begin) and text.endswith(end) and len(text) > len(begin) + len(end):
            return _decode_body(text[len(begin) : -len(end)], what)
    raise _malformed(what, f"exactly one PEM block with the label {labels[0]!r} is wanted")


def decode_blocks(text: str, label: str, *, what: str) -> list[bytes]:
    """The DER of every PEM block of `text`, all of which must have the same label.

    Raises:
        AppError: `MALFORMED` when there is none, or anything but such blocks and white space between them.
    """
    end = f"-----END {label}-----"
    *blocks, rest = text.split(end)
    if not blocks or rest.strip(_WHITESPACE):
        raise _malformed(what, f"only PEM blocks with the label {label!r} may be in it")
    return [decode_one_block(block + end, (label,), what=what) for block in blocks]


def _decode_body(body: str, what: str) -> bytes:
    if body[0] not in "\r\n" or body[-1] not in "\r\n":
        raise _malformed(what, "the PEM label lines must stand alone")
    # A second block would bring dashes, a PEM header (RFC 1421) a colon: neither is in the base64 alphabet.
    packed = body.translate(_DROP_WHITESPACE)
    try:
        return binascii.a2b_base64(packed.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _malformed(what, "what stands between the PEM labels is not base64") from None
