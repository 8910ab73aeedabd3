"""What would end or block a process is done in another one first."""

import ctypes
import json
import os
import signal
import sys
import time

import pytest

from thunderstone.discovery import plugin_registry, registry
from thunderstone.discovery.fatal import FATAL
from thunderstone.discovery.trial import Death, in_a_child

GOOD = (
    "from thunderstone import MethodSpec, hookimpl\n"
    "@hookimpl\n"
    "def thunderstone_methods():\n"
    "    return [MethodSpec('good', 'a:A', 'family', 'Summary.')]\n"
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


def crash():
    return ctypes.string_at(0)


def block():
    return ctypes.PyDLL(None).sleep(60)  # keeps the interpreter's lock


@pytest.fixture
def children(monkeypatch):
    """The processes that are forked; other tests may have left some of their own."""
    fork, numbers = os.fork, []

    def noted():
        number = fork()
        numbers.append(number)
        return number

    monkeypatch.setattr(os, "fork", noted)
    return numbers


def assert_waited_for(children):
    assert children
    for child in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)


def test_tasks_are_done_in_order_and_none_costs_another(children, capfd):
    def chatty():
        print("seen by nobody", flush=True)
        os.write(2, b"nor this")
        return [1, "zwei\n", None]

    begun = time.monotonic()
    outcomes = in_a_child(
        [chatty, crash, lambda: 2, lambda: os._exit(3), block, lambda: time.sleep(60), lambda: 1 / 0, os.getpid], 0.5
    )
    assert time.monotonic() - begun < 30
    assert outcomes[0] == [1, "zwei\n", None]
    assert outcomes[2] == 2
    assert outcomes[7] != os.getpid()
    deaths = [outcomes[number] for number in (1, 3, 4, 5, 6)]
    assert [death.how for death in deaths] == [
        "ended the process with SIGSEGV",
        "ended the process with exit code 3",
        "took longer than 0.5 s",
        "took longer than 0.5 s",
        "ended the process with exit code 1",
    ]
    assert [death.slow for death in deaths] == [False, False, True, True, False]
    assert "in crash" in deaths[0].where
    assert "in block" in deaths[2].where
    assert capfd.readouterr() == ("", "")
    assert_waited_for(children)


def test_without_a_limit_it_waits():
    assert in_a_child([lambda: time.sleep(0.2) or "done"], None) == ["done"]
    assert in_a_child([], None) == []


def test_an_interrupt_while_it_waits_leaves_no_child(children, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("select.select", interrupt)
    with pytest.raises(KeyboardInterrupt):
        in_a_child([lambda: time.sleep(60)], 60)
    assert_waited_for(children)


def test_the_stack_is_known_where_the_handler_for_crashes_was_taken_away():
    before = signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # as Lightning does when a fit ends
    try:
        (death,) = in_a_child([crash], 5)
    finally:
        signal.signal(signal.SIGSEGV, before or signal.SIG_DFL)
    assert "in crash" in death.where


def test_an_unknown_signal_is_told_by_its_number():
    number = signal.SIGRTMIN + 3
    assert in_a_child([lambda: os.kill(os.getpid(), number)], 5) == [Death(f"ended the process with signal {number}")]


@pytest.fixture
def _tried_first(monkeypatch):
    # pytest's own threads wait for messages; none holds a lock.
    monkeypatch.setattr("thunderstone.discovery.trial.can_try", lambda: True)
    with plugin_registry.plugins_tried_first():
        yield


@pytest.mark.usefixtures("_tried_first")
def test_a_plugin_that_would_end_the_process_is_a_failed_one(install):
    install("fam-a", "a", GOOD)
    install("fam-b", "b", "import os; os._exit(3)")
    good, bad = registry().plugins
    assert good.state == "ok"
    assert (bad.state, bad.reason) == ("failed", "its import ended the process with exit code 3")
    assert bad.hint == "fix or uninstall fam-b, or set THUNDERSTONE_DISABLE=b"
    assert "fam_b" not in sys.modules
    assert json.loads(os.environ[FATAL]) == [["b", "fam-b", bad.reason, bad.hint]]


@pytest.mark.usefixtures("_tried_first")
def test_nothing_is_said_where_nothing_is_wrong(install):
    install("fam-a", "a", GOOD)
    assert registry().plugins[0].state == "ok"
    assert FATAL not in os.environ


def test_a_process_that_was_started_by_another_knows_what_that_one_found(install, monkeypatch):
    install("fam-a", "a", GOOD)
    install("fam-b", "b", "import os; os._exit(3)")
    monkeypatch.setenv(FATAL, json.dumps([["b", "fam-b", "it ended one", "leave it out"], ["c", "gone", "", ""]]))
    good, bad = registry().plugins
    assert good.state == "ok"
    assert (bad.state, bad.reason) == ("failed", "it ended one")
    assert bad.hint == "leave it out, or set THUNDERSTONE_DISABLE=b"


@pytest.mark.parametrize("text", ["", "{", "[1]", '[["a"]]', "null"])
def test_a_variable_that_says_nothing_is_no_reason_to_fail(install, monkeypatch, text):
    install("fam-a", "a", GOOD)
    monkeypatch.setenv(FATAL, text)
    assert registry().plugins[0].state == "ok"
