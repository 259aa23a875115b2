"""K1: a secret of the configuration appears in nothing that geckosched writes."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geckosched.core import CollectionScheduler, ConfigError, SchedulerConfig, Secrets

# -- What is found -----------------------------------------------------------------------------------------------------

WRITINGS: dict[str, Callable[[str], str]] = {
    "verbatim": str,
    "quoted": quote,
    "wholly quoted": lambda text: quote(text, safe=""),
    "in a query": quote_plus,
    "in a query, lower case": lambda text: urlencode({"key": text}).lower(),
    "quoted twice": lambda text: quote(quote(text, safe=""), safe=""),
    "JSON": json.dumps,
    "JSON with its letters": lambda text: json.dumps(text, ensure_ascii=False),
    "repr": repr,
    "ascii": ascii,
    "bytes": lambda text: repr(text.encode()),
    "JSON in repr": lambda text: repr(json.dumps({"key": text})),
    "JSON in JSON in JSON": lambda text: json.dumps(json.dumps(json.dumps(text))),
    "a URL in JSON": lambda text: json.dumps({"url": f"https://x.org/?key={quote(text, safe='')}"}),
    "HTML": html.escape,
    "on a terminal that knows ASCII only": lambda text: text.encode("ascii", "backslashreplace").decode(),
    "on one line": lambda text: " ".join(text.split()),
    "a host": str.lower,
}

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=6).filter(lambda text: len(text.strip()) >= 6)


@settings(deadline=None, max_examples=300)
@given(texts, st.sampled_from(sorted(WRITINGS)), st.text("abc =\"'&?", max_size=5))
def test_a_secret_is_found_however_it_is_written(secret: str, writing: str, around: str) -> None:
    """Percent-encoded, JSON-escaped, as Python and HTML write it, and one in the other: only `***` is left."""
    secret = secret.strip()
    hidden = Secrets([secret]).hide(f"{around}{WRITINGS[writing](secret)}{around}")
    assert "***" in hidden
    for write in WRITINGS.values():
        assert write(secret).strip("\"'") not in hidden.replace(around, "") or write(secret).strip("\"'") in "***"


@settings(deadline=None, max_examples=300)
@given(texts, st.text(max_size=7), st.text(max_size=7), st.sampled_from(["utf-8", "latin-1"]))
def test_a_secret_is_found_in_basic_auth(secret: str, before: str, behind: str, encoding: str) -> None:
    """Whoever the user is and whatever follows, the whole token goes."""
    secret = secret.strip()
    token = base64.b64encode(f"{before}:{secret}{behind}".encode(encoding, "replace")).decode()
    if secret.encode(encoding, "replace").decode(encoding) == secret:
        assert Secrets([secret]).hide(f"Authorization: Basic {token}").rstrip("=") == "Authorization: Basic ***"


def test_without_secrets_a_text_is_left_alone() -> None:
    """What costs nothing is not even copied."""
    text = "x" * 1000
    assert Secrets().hide(text) is text
    assert not Secrets()
    assert Secrets(["hunter2"])


def test_longer_secrets_go_first_and_added_ones_are_hidden_too() -> None:
    """Of two secrets of which one begins the other nothing is left over; what was hidden stays hidden."""
    secrets = Secrets(["hunter2"])
    secrets.add(["hunter2-and-more"])
    secrets.add(["swordfish"])
    assert secrets.hide("hunter2-and-more hunter2 swordfish") == "*** *** ***"


def test_each_line_of_a_secret_is_one() -> None:
    """A private key is also hidden where only one of its lines is quoted."""
    secrets = Secrets(["-----BEGIN KEY-----\nMIIEvQIBADAN\nab\n"])
    assert secrets.hide("bad line MIIEvQIBADAN of ab") == "bad line *** of ab"


@pytest.mark.parametrize(("value", "count"), [("", 0), ("short", 5), ("  abcd\n ", 4)])
def test_what_is_too_short_is_refused_without_showing_it(value: str, count: int) -> None:
    """Five characters would be found everywhere, blanks don't count."""
    with pytest.raises(ConfigError, match=f"^secrets: found one of {count} characters, allowed are 6 and more$"):
        SchedulerConfig(secrets=("long enough", value))


def test_settings_do_not_show_their_secrets_and_schedulers_share_none() -> None:
    """Neither `repr` nor another scheduler of the process knows of them."""
    config = SchedulerConfig(secrets=("hunter2",))
    assert "hunter2" not in repr(config)
    assert CollectionScheduler(config).secrets.hide("hunter2") == "***"
    assert CollectionScheduler().secrets.hide("hunter2") == "hunter2"
