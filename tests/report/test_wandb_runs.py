"""Offline runs of W&B: written by the real package, read without it."""

from __future__ import annotations

import os
import struct
import sys
import time
import zlib

import pytest
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st

from thunderstone.report.page import page
from thunderstone.report.reading import read
from thunderstone.report.wandb_log import LogError, payloads
from thunderstone.report.wandb_runs import read_wandb_run, wandb_logs
from thunderstone.tracking.run_record import write_json


@pytest.fixture
def wandb_run(tmp_path, monkeypatch):
    """An offline run with two curves, a table, an image, and the settings of a method; the path of its log."""
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    import numpy as np
    import wandb

    run = wandb.init(
        project="digits", name="first", dir=tmp_path, mode="offline", tags=["sam"], config={"sam": {"rho": 0.05}}
    )
    for step, loss in enumerate([1.0, 0.5, 0.25]):
        run.log({"trainer/global_step": 10 * step, "loss": loss, "epoch": step})
    layers = wandb.Table(columns=["layer", "density"], data=[["a", 0.25], ["b", 1]])
    image = wandb.Image(np.zeros((4, 4, 3), dtype=np.uint8))
    run.log({"trainer/global_step": 20, "layers": layers, "figure": image, "diverged": float("nan")})
    run.finish()
    [log] = wandb_logs(tmp_path / "wandb")
    deadline = time.monotonic() + 60
    while read_wandb_run(log).status != "finished" and time.monotonic() < deadline:
        time.sleep(0.05)  # W&B's own process may still be writing
    return log


def test_an_offline_run_is_shown_with_everything_in_it(wandb_run):
    run = read_wandb_run(wandb_run)
    assert (run.status, run.notes) == ("finished", [])
    assert run.name.startswith("first (")
    assert run.curves["loss"] == [(0.0, 1.0), (10.0, 0.5), (20.0, 0.25)]
    assert run.metrics["loss"] == 0.25
    assert run.methods == {"sam": {"rho": 0.05}}
    assert (run.facts["project"], run.facts["tags"]) == ("digits", "sam")
    [table] = run.tables
    assert (table.title, list(table.columns), table.rows) == (
        "layers, step 20",
        ["layer", "density"],
        [["a", 0.25], ["b", 1]],
    )
    [picture] = run.pictures
    assert (picture.title, picture.content[:4]) == ("figure, step 20", b"\x89PNG")
    # The folder of W&B, the run's own folder, and the log itself are one and the same report.
    pages = [Page(page(read(path))) for path in (wandb_run.parents[1], wandb_run.parent, wandb_run)]
    for found in pages:
        assert {series.curve for series in found.series} == {"loss", "epoch", "diverged"}
        assert len(found.table("layer", "density")) == 2

    # Of several fits in one run the last one says how it ended.
    for name, status in (("run.json", "finished"), ("run_2.json", "interrupted")):
        write_json(wandb_run.parent / "files" / name, {"schema": 1, "status": status, "steps": len(name)})
    fitted_twice = read_wandb_run(wandb_run)
    assert (fitted_twice.status, fitted_twice.facts["steps"]) == ("interrupted", len("run_2.json"))
    assert len(read(wandb_run.parents[1]).runs) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", None)
        [without] = read(wandb_run.parents[1]).runs
    assert (without.status, without.facts["steps"]) == ("interrupted", len("run_2.json"))
    assert "pip install wandb" in without.notes[0]
    for name in ("run.json", "run_2.json"):
        (wandb_run.parent / "files" / name).unlink()

    # A run that is killed leaves a log without an end.
    content = wandb_run.read_bytes()
    cut = wandb_run.parent / "run-cut.wandb"
    cut.write_bytes(content[: len(content) // 2])
    half = read_wandb_run(cut)
    assert half.status == "unfinished"
    assert half.notes == ["The log has no end: the run goes on, or was killed."]


def test_what_a_logger_with_a_prefix_wrote_is_listed_once(tmp_path):
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    row = {"trainer/global_step": 7, "trial-loss": 0.5, "trial-epoch": 1, "own": 3}
    items = [messages.HistoryItem(key=key, value_json=str(value)) for key, value in row.items()]
    log = tmp_path / "run-x.wandb"
    log.write_bytes(log_of([messages.Record(history=messages.HistoryRecord(item=items)).SerializeToString()]))
    (tmp_path / "files").mkdir()
    metrics = {"loss": 0.25, "own": 2.0, "val_loss": 1.0}
    write_json(tmp_path / "files/run.json", {"schema": 1, "status": "finished", "metrics": metrics})
    assert read_wandb_run(log).metrics == {"trial-loss": 0.5, "trial-epoch": 1.0, "own": 3.0, "val_loss": 1.0}


def test_a_file_that_is_no_log_is_said_to_be_none(tmp_path):
    (tmp_path / "run-x.wandb").write_bytes(b"<html>")
    run = read_wandb_run(tmp_path / "run-x.wandb")
    assert (run.status, run.reason) == ("unreadable", "run-x.wandb: it does not begin as the log of a W&B run does")


# -- the format of the log, written here a second time -----------------------------------------------------------------

BLOCK = 32 * 1024


def chunk(kind, payload):
    return struct.pack("<IHB", zlib.crc32(bytes([kind]) + payload), len(payload), kind) + payload


def log_of(records):
    content = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
    for record in records:
        left, first = record, True
        while left or first:
            room = BLOCK - len(content) % BLOCK
            if room < 7:
                content += bytes(room)
                continue
            part, left = left[: room - 7], left[room - 7 :]
            kind = (1 if first else 4) if not left else (2 if first else 3)
            content += chunk(kind, part)
            first = False
    return content


sizes = st.lists(st.integers(0, 3 * BLOCK), max_size=5)


@given(sizes)
def test_records_of_any_size_come_back(lengths):
    records = [bytes([65 + number]) * length for number, length in enumerate(lengths)]
    assert list(payloads(log_of(records))) == records


@given(sizes, st.floats(0, 1))
def test_a_log_that_was_cut_anywhere_gives_the_records_before_the_cut(lengths, share):
    records = [os.urandom(length) for length in lengths]
    whole = log_of(records)
    cut = max(7, int(len(whole) * share))
    found = list(payloads(whole[:cut]))
    assert found == records[: len(found)]
    ends = [len(log_of(records[: number + 1])) for number in range(len(records))]
    assert len(found) == sum(end <= cut for end in ends)


def test_what_comes_after_damage_is_not_believed():
    records = [b"one", b"two", b"three"]
    content = bytearray(log_of(records))
    content[len(log_of(records[:1])) + 8] ^= 1
    assert list(payloads(bytes(content))) == [b"one"]


def test_another_file_is_refused():
    with pytest.raises(LogError, match="does not begin as the log"):
        list(payloads(b"PK\x03\x04"))
