"""Item identity and the shape contract of a task's result."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from evals.task import TaskResult, item_ids


def test_item_id_is_the_hash_of_canonical_json() -> None:
    # {"a":1,"b":"é"}: keys sorted, no spaces, text not escaped - written out by hand.
    expected = hashlib.sha256('{"a":1,"b":"é"}'.encode()).hexdigest()
    assert item_ids([{"b": "é", "a": 1}]) == [expected]


def test_equal_items_get_distinct_ids_that_keep_the_hash() -> None:
    first, other, second = item_ids([{"a": 1}, {"a": 2}, {"a": 1}])
    assert second == first + "-2"
    assert other not in (first, second)


def test_result_refuses_fields_of_other_lengths() -> None:
    with pytest.raises(ValueError, match=r"stats\[acc\]"):
        TaskResult(ids=("x",), stats={"acc": np.ones((2, 2))}, samples=[{}])


def test_result_refuses_repeated_ids() -> None:
    with pytest.raises(ValueError, match="share an id"):
        TaskResult(ids=("x", "x"), stats={}, samples=[{}, {}])
