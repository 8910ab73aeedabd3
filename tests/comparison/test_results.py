"""`runs.jsonl`: what is written is read again, whatever a crash has left of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderstone.comparison.results import Result, append, read
from thunderstone.errors import RequestError

FIRST = Result("plain", 0, "finished", "runs/plain/seed0", 0, metrics={"val_acc": 0.5}, passes=3)
SECOND = Result("sam:rho=0.1", 0, "failed", "runs/sam/seed0", 1, reason="ValueError: Ω\n", versions={"torch": "2"})


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "runs.jsonl"
    for result in (FIRST, SECOND):
        append(path, result)
    first, second = read(path)
    assert (first.key, first.metrics, first.passes, first.finished) == (("plain", 0), {"val_acc": 0.5}, 3, True)
    assert (second.reason, second.versions, second.finished) == ("ValueError: Ω\n", {"torch": "2"}, False)


def test_a_later_line_counts(tmp_path):
    path = tmp_path / "runs.jsonl"
    for result in (SECOND, FIRST, Result(SECOND.setting, 0, "finished", "runs/sam/seed0_2", 0)):
        append(path, result)
    assert [(result.key, result.folder) for result in read(path)] == [
        (SECOND.key, "runs/sam/seed0_2"),
        (FIRST.key, FIRST.folder),
    ]


@given(st.integers(0, 10_000))
def test_a_crash_in_the_middle_of_a_line_loses_that_line_alone(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("log") / "runs.jsonl"
    append(path, FIRST)
    whole = path.stat().st_size
    append(path, SECOND)
    content = path.read_bytes()
    # Everything but the line's own end: without it the line is whole all the same.
    path.write_bytes(content[: whole + cut % (len(content) - whole - 1)])
    assert [result.key for result in read(path)] == [FIRST.key]
    append(path, SECOND)
    assert [result.key for result in read(path)] == [FIRST.key, SECOND.key]


def test_values_that_json_does_not_know_survive(tmp_path):
    path = tmp_path / "runs.jsonl"
    append(path, Result("plain", 0, "finished", "x", 0, metrics={"a": math.nan, "b": math.inf, "c": -math.inf}))
    [result] = read(path)
    assert math.isnan(result.metrics["a"])
    assert (result.metrics["b"], result.metrics["c"]) == (math.inf, -math.inf)


def test_no_file_is_no_runs(tmp_path):
    assert read(tmp_path / "runs.jsonl") == []


@pytest.mark.parametrize(
    "line",
    [
        '{"schema": 2, "setting": "plain", "seed": 0}',
        "[]",
        '{"schema": 1}',
        '{"schema": 1, "setting": "plain", "seed": 0}',
    ],
)
def test_another_versions_file_is_refused(tmp_path, line):
    (tmp_path / "runs.jsonl").write_text(line + "\n")
    with pytest.raises(RequestError, match=r"another version of Thunderstone .*HINT"):
        read(tmp_path / "runs.jsonl")
