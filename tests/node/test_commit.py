"""A takeover with a large table. The figures are `bench_commit`'s; here nothing may be missing."""

from __future__ import annotations

import pytest

from tests.node.bench_commit import rounds

# Microseconds: three times what a commit costs for each entry on a slow and busy machine.
_DEAR = 35


@pytest.mark.parametrize("number", [10_000, 100_000])
def test_every_connection_of_a_large_table_is_taken_over(number: int) -> None:
    (takeover,) = rounds(number, 1)
    assert not takeover.missing, takeover
    assert not takeover.late, takeover
    assert takeover.commit_ms < 100 + number * _DEAR / 1000, takeover
