"""Request paths as Istio sees them: what is cut before matching, and the four normalisation modes.

In production Envoy has normalised before it asks; the modes are here for decision cases, which give the path as the
client sent it. Never `urlsplit`: a path that starts with two slashes is not an authority.
"""

from __future__ import annotations

import re

from app.policy.mesh import PathNormalization

_UNRESERVED = re.compile(r"%(2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])")
_ENCODED_SLASH = re.compile(r"%2[fF]|%5[cC]")
_ESCAPED = re.compile(r'["<>^`{|}]')
_SLASHES = re.compile(r"/{2,}")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def cut(path: str) -> str:
    """The path without query and fragment: what `paths` is compared with."""
    for mark in ("?", "#"):
        if mark in path:
            path = path.partition(mark)[0]
    return path


def normalize(path: str, mode: PathNormalization) -> str | None:
    """A request target as Envoy hands it to filters in this mode, query included; None when Envoy answers 400.

    Order: decode slashes (one mode only), RFC 3986 (backslashes, unreserved characters decoded, those that no path has
    encoded, dot segments), merge slashes. The fragment goes in every mode.
    """
    path = path.partition("#")[0]
    if mode is PathNormalization.NONE:
        return path
    path, mark, query = path.partition("?")
    if "%00" in path or not path.startswith("/"):
        return None
    if mode is PathNormalization.DECODE_AND_MERGE_SLASHES:
        path = _ENCODED_SLASH.sub(lambda found: "/" if found[0][1] == "2" else "\\", path)
    path = remove_dot_segments(_ESCAPED.sub(_encoded, _UNRESERVED.sub(_decoded, path.replace("\\", "/"))))
    if mode is not PathNormalization.BASE and "//" in path:
        # Envoy puts the first and the last slash around what it has merged, also where there is nothing between them.
        path = merge_slashes(path) if path.strip("/") else "//"
    return path + mark + query


def _decoded(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def _encoded(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"


def merge_slashes(path: str) -> str:
    """The path with runs of slashes as one."""
    return _SLASHES.sub("/", path) if "//" in path else path


def remove_dot_segments(path: str) -> str:
    """RFC 3986 §5.2.4 for an absolute path; empty segments count as segments."""
    if "/." not in path:
        return path
    output: list[str] = []
    segments = path.split("/")[1:]
    last = len(segments) - 1
    for index, segment in enumerate(segments):
        if segment == "..":
            if output:
                output.pop()
        elif segment != ".":
            output.append(segment)
        if index == last and segment in (".", ".."):
            output.append("")
    return "/" + "/".join(output)
