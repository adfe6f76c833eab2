"""Sets of columns against sets of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from axialcli.engine.stream.intervals import cut, union

PARTS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)).map(lambda part: (part[0], sum(part))))


@given(PARTS, st.lists(st.integers(-3, 55)))
def test_a_cut_keeps_all_columns_and_ends_at_the_places(
    parts: list[tuple[int, int]], places: list[int]
) -> None:
    whole = union(parts)

    pieces = cut(whole, places)

    assert [x for a, b in pieces for x in range(a, b)] == [x for a, b in whole for x in range(a, b)]
    assert all(a < b for a, b in pieces)
    assert not any(a < place < b for a, b in pieces for place in places)
    assert union(pieces) == whole
