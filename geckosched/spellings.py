"""In what ways a secret may be written, as one pattern that finds them all.

A secret that goes through a URL, JSON, Python's `repr`, an HTML page or Basic auth comes out written otherwise, and
often one in the other: a URL in a JSON text in the `repr` of an answer. So each of its characters is looked for in
every writing (`spelled`), and base64 by what it makes of a secret whatever stands before and behind (`base64_cores`).

`Spellings` is what `core.Secrets` searches with. It knows nothing of geckosched.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Collection, Iterator
from contextlib import suppress

__all__ = ["Spellings", "base64_cores", "spelled"]

_TOKEN = "[A-Za-z0-9+/_-]"  # of base64, in both of its alphabets


class Spellings:
    """Finds some texts however they are written: longer ones first, without regard to case."""

    def __init__(self, texts: Collection[str]) -> None:
        in_order = sorted(texts, key=lambda text: (-len(text), text))
        encoded = list(dict.fromkeys(core for text in in_order for core in base64_cores(text)))
        patterns = [spelled(text) for text in in_order]
        # Of base64 the whole token, which begins with the user's name and ends with bits of the secret.
        patterns += [f"(?<!{_TOKEN}){_TOKEN}*{spelled(core)}{_TOKEN}*" for core in encoded]
        self._pattern = re.compile("|".join(patterns), re.IGNORECASE)
        self._anchors = tuple(dict.fromkeys(_anchor(text) for text in (*in_order, *encoded)))

    def replace(self, text: str, by: str) -> str:
        """Return a text with `by` in place of what is found."""
        lower = text.lower()  # most texts hold nothing, and that is told quickly
        return self._pattern.sub(by, text) if any(anchor in lower for anchor in self._anchors) else text


def _anchor(text: str) -> str:
    """Return the longest piece of a text that is the same however it is written."""
    return max(re.findall("[a-z0-9]+", text.lower()), key=len, default="")


def spelled(text: str) -> str:
    """Return a pattern that finds a text however its characters are written."""
    return "".join(map(_ways_of_run, re.findall(r"\s+|\\+|.", text)))


def _ways_of_run(run: str) -> str:
    """Return a pattern for a character, or a run of blanks (which may come out as one) or of backslashes."""
    if run.isspace():
        return rf"(?:\s|\+|%(?:25)*20|\\{{1,8}}[nrtf]|{'|'.join(map(_ways, sorted(set(run))))})+"
    if run[0] == "\\":
        return rf"(?:\\|%(?:25)*5c){{{len(run)},{8 * len(run)}}}"  # each writing in another doubles them
    return run if run.isascii() and run.isalnum() else f"(?:{_ways(run)})"


def _ways(char: str) -> str:
    """Return the ways to write a character."""
    code, in_bytes, units = ord(char), char.encode("utf-8", "surrogatepass"), char.encode("utf-16-be", "surrogatepass")
    ways = (
        rf"\\{{0,8}}{re.escape(char)}",
        "".join(rf"%(?:25)*{byte:02x}" for byte in in_bytes),  # URLs
        "".join(rf"\\{{1,8}}u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)),  # JSON
        rf"\\{{1,8}}(?:x{code:02x}|U{code:08x}{'|b' if char == chr(8) else ''})",  # Python, and JSON's backspace
        "".join(rf"\\{{1,8}}x{byte:02x}" for byte in in_bytes),  # Python's bytes
        rf"&(?:amp;)*(?:#0*{code}|#x0*{code:x}|{html.escape(char)[1:-1] or '#'});",
    )
    return "|".join(ways)


def base64_cores(text: str) -> Iterator[str]:
    """Yield what base64 makes of a text, in both of its alphabets, wherever in the encoded it begins; characters that
    depend on its neighbours are left out."""
    for encoding in ("utf-8", "latin-1"):  # Basic auth of one library or another
        with suppress(UnicodeEncodeError):
            data = text.encode(encoding)
            for ahead, spoilt in enumerate((0, 2, 3)):
                for encode in (base64.b64encode, base64.urlsafe_b64encode):
                    yield encode(bytes(ahead) + data).decode()[spoilt : (ahead + len(data)) * 8 // 6]
