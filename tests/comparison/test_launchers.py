"""Real processes of this machine, small ones."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from thunderstone.comparison.launchers import Job, LocalLauncher, launcher
from thunderstone.errors import RequestError
from thunderstone.tracking.provenance import is_alive


def start(folder, source, **variables):
    command = [sys.executable, "-S", "-c", source]
    return LocalLauncher().start(Job(command, {**os.environ, **variables}, folder, folder))


def ended(running, patience=30.0):
    deadline = time.monotonic() + patience
    while (end := running.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return end


def said(path, patience=30.0):
    deadline = time.monotonic() + patience
    while not path.exists() or not path.read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text().strip()


def test_a_process_leaves_its_output_its_exit_code_and_its_time(tmp_path):
    source = "import os, sys; print(os.environ['WORD']); print('bad', file=sys.stderr); sum(range(10**6)); sys.exit(3)"
    running = start(tmp_path, source, WORD="good")
    end = ended(running)
    assert end.exit_code == 3
    assert running.poll() == end, "however often one asks"
    assert ((tmp_path / "stdout.txt").read_text(), (tmp_path / "stderr.txt").read_text()) == ("good\n", "bad\n")
    assert end.processor_seconds > 0
    assert 0 < end.wall_seconds < 30


def test_a_process_that_a_signal_ends_has_its_number(tmp_path):
    assert ended(start(tmp_path, "import os; os.kill(os.getpid(), 9)")).exit_code == -9


@pytest.fixture
def _listening():
    """Ctrl-C is not ignored, as it is by what a shell starts in the background, and by what that starts in turn."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.usefixtures("_listening")
def test_an_interrupted_process_can_clean_up(tmp_path):
    source = "import time\ntry:\n print('up', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n print('clean')"
    running = start(tmp_path, source)
    said(tmp_path / "stdout.txt")
    assert is_alive(running.process)
    running.interrupt()
    running.stop()
    assert (tmp_path / "stdout.txt").read_text() == "up\nclean\n"
    assert not is_alive(running.process)


def test_a_process_that_does_not_listen_is_killed_with_what_it_has_started(tmp_path, monkeypatch):
    monkeypatch.setattr("thunderstone.comparison.launchers._GRACE_SECONDS", 0.1)
    source = (
        "import os, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = os.fork()\nprint(child, flush=True) if child else None\ntime.sleep(60)"
    )
    running = start(tmp_path, source)
    child = int(said(tmp_path / "stdout.txt"))
    running.interrupt()
    running.stop()
    assert running.poll().exit_code == -9
    deadline = time.monotonic() + 30
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_launcher_that_is_not_there_is_refused():
    assert isinstance(launcher("local"), LocalLauncher)
    with pytest.raises(RequestError, match=r"there is no launcher 'locl'. Did you mean 'local'\?"):
        launcher("locl")
