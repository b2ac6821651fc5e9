"""Results, one line each, that survive a kill."""

from __future__ import annotations

import pytest

from benchmarks import result_lines


def test_records_are_read_in_the_order_in_which_they_were_appended(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    records = [{"step": "é", "n": 1}, {"step": "b", "text": "two\nlines"}, {"step": "é", "n": 2}]
    for record, path in zip(records, (first, first, second), strict=True):
        result_lines.append(path, record)
    assert result_lines.read([first, second, tmp_path / "missing.jsonl"]) == records


@pytest.mark.parametrize("n_bytes", [1, 5, 12])
def test_a_line_that_was_cut_off_is_lost_alone(tmp_path, n_bytes):
    path = tmp_path / "a.jsonl"
    for n in range(3):
        result_lines.append(path, {"step": n})
    path.write_bytes(path.read_bytes()[:-n_bytes])
    n_read = 3 if n_bytes == 1 else 2  # only the end of the line is missing
    assert result_lines.read([path]) == [{"step": n} for n in range(n_read)]
    result_lines.append(path, {"step": "next"})
    assert result_lines.read([path]) == [*({"step": n} for n in range(n_read)), {"step": "next"}]
