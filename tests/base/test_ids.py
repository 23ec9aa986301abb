from __future__ import annotations

import hashlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.base.ids import digest, new_instance_id, sanitized_name


def test_instance_ids_are_unique_hexadecimal_digits_that_begin_with_their_millisecond():
    before = time.time_ns() // 1_000_000
    ids = [new_instance_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert all(before <= int(one[:12], 16) <= after for one in ids)
    born = [one[:12] for one in ids]
    assert born == sorted(born)


@given(st.lists(st.binary()))
def test_a_digest_is_that_of_all_parts_together(parts: list[bytes]):
    assert digest(*parts) == hashlib.blake2b(b"".join(parts), digest_size=20).hexdigest()


@given(st.text(max_size=64))
def test_a_sanitized_name_is_what_the_wire_allows(name: str):
    cleaned = sanitized_name(name)
    assert re.fullmatch("[A-Za-z0-9_-]{1,64}", cleaned)
    assert sanitized_name(cleaned) == cleaned


@pytest.mark.parametrize(
    ("name", "cleaned"), [("get weather", "getweather"), ("größe", "gre"), ("", "unnamed_tool"), ("!?", "unnamed_tool")]
)
def test_forbidden_characters_are_deleted(name: str, cleaned: str):
    assert sanitized_name(name) == cleaned


def test_a_name_of_more_than_64_characters_is_refused():
    assert sanitized_name("a" * 64) == "a" * 64
    with pytest.raises(ValueError, match="has 65 characters; at most 64 are allowed: shorten it"):
        sanitized_name("a" * 65)
