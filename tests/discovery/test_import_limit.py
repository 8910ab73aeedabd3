"""An import that does not come back is interrupted or at least named, and nothing of that stays behind.

In processes of their own: pytest's time limit uses the very signal.
"""

import os
import subprocess
import sys
import textwrap

import pytest

from thunderstone.discovery import settings

HEAD = """
import signal, sys, threading, time
from thunderstone.discovery.import_limit import ImportTimeout, within_limit

def hang(seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return "done"

def limited(do):
    begun = time.monotonic()
    try:
        return within_limit(do, "slow", "plug-in 'slow' (slow-package 1.0)")
    except ImportTimeout:
        return f"interrupted after {time.monotonic() - begun:.0f} s"
"""
NAMED = (
    "thunderstone: plug-in 'slow' (slow-package 1.0) is still being imported after 0.3 s. HINT: set "
    "THUNDERSTONE_DISABLE=slow to leave it out, or THUNDERSTONE_IMPORT_TIMEOUT=1.8 to wait longer\n"
)


@pytest.fixture
def run():
    def start(source, seconds="0.3"):
        done = subprocess.run(
            [sys.executable, "-c", HEAD + textwrap.dedent(source)],
            env={**os.environ, "THUNDERSTONE_IMPORT_TIMEOUT": seconds},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return start


def test_what_hangs_is_interrupted_and_neither_handler_nor_timer_nor_thread_stays(run):
    output, errors = run("""
        def stubborn():
            for _ in range(2):
                try:
                    hang()
                except BaseException as error:
                    print("swallowed", type(error).__name__)
            hang()
        def polite():
            try:
                hang()
            except Exception:
                print("never")
        print(limited(hang), limited(polite), limited(lambda: "quick"), sep="\\n")
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        print(limited(hang), signal.getsignal(signal.SIGALRM).name)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        print(limited(stubborn))
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        deadline = time.monotonic() + 5
        while threading.active_count() > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() == 1
    """)
    assert output.splitlines() == [
        "interrupted after 0 s",
        "interrupted after 0 s",
        "quick",
        "interrupted after 0 s SIG_IGN",
        "swallowed ImportTimeout",
        "swallowed ImportTimeout",
        "interrupted after 2 s",
    ]
    assert errors == NAMED, "only the one that did not let itself be interrupted at once"


def test_where_it_cannot_be_interrupted_it_is_named_and_waited_for(run):
    output, errors = run("""
        import ctypes, types
        seen = []
        def note(*_):
            seen.append(1)
        signal.signal(signal.SIGALRM, note)
        print(limited(lambda: hang(0.6)), signal.getsignal(signal.SIGALRM) is note)  # the user's handler
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 50)
        print(limited(lambda: hang(0.6)), 40 < signal.getitimer(signal.ITIMER_REAL)[0] < 50)  # the user's timer
        signal.setitimer(signal.ITIMER_REAL, 0)
        thread = threading.Thread(target=lambda: print(limited(lambda: hang(0.6))))
        thread.start()
        thread.join()
        torch = types.ModuleType("torch")
        torch.hang = hang
        def importing():
            exec(compile("result = hang(0.9)", "torch/__init__.py", "exec"), vars(torch))
            return torch.result
        print(limited(importing))
        print(seen)
    """)
    assert output.splitlines() == ["done True", "done True", "done", "done", "[]"]
    assert errors == 4 * NAMED


def test_a_plugin_that_hangs_in_a_program_is_a_failed_one(run, tmp_path):
    (tmp_path / "zz_hangs.py").write_text("import time\nwhile True:\n    time.sleep(0.01)\n")
    information = tmp_path / "zz_hangs-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-hangs\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[thunderstone]\nhangs = zz_hangs\n")
    output, errors = run(
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        from thunderstone.discovery import registry
        (record,) = [each for each in registry().plugins if each.name == "hangs"]
        print(record.state, record.explained, sep="\\n")
        print("line 3, in <module>" in record.traceback, "zz_hangs" in sys.modules)
        """,
        seconds="1",
    )
    assert output.splitlines() == [
        "failed",
        "its import took longer than 1 s. HINT: set THUNDERSTONE_DISABLE=hangs to leave it out, or "
        "THUNDERSTONE_IMPORT_TIMEOUT=6 to wait longer",
        "True False",
    ]
    assert errors == ""


def test_without_a_limit_nothing_is_watched(run):
    output, errors = run("print(limited(lambda: hang(0.5)), threading.active_count())", seconds="0")
    assert (output, errors) == ("done 1\n", "")


@pytest.mark.parametrize(("text", "seconds"), [("", 10.0), (" 2.5 ", 2.5), ("0", None), ("1e3", 1000.0)])
def test_the_limit_is_a_number_of_seconds(monkeypatch, text, seconds):
    monkeypatch.setenv("THUNDERSTONE_IMPORT_TIMEOUT", text)
    assert settings.import_timeout() == seconds
    assert settings.import_timeout_fault() is None


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "1e30"])
def test_what_is_no_number_of_seconds_is_said_and_changes_nothing(monkeypatch, text):
    monkeypatch.setenv("THUNDERSTONE_IMPORT_TIMEOUT", text)
    assert settings.import_timeout() == 10.0
    assert settings.import_timeout_fault() == "it is no number of seconds, so 10 is used"
