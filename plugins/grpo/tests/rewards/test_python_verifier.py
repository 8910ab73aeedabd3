"""Code that a model wrote, in a process of its own."""

from __future__ import annotations

import os

import pytest

from thunderstone import ArgumentError, UnsupportedSettingError
from thunderstone_grpo.rewards import PythonVerifier
from thunderstone_grpo.rewards.python_verifier import code_of

TESTS = "assert double(3) == 6"
RIGHT = "def double(x):\n    return 2 * x"


def test_right_code_passes_and_wrong_code_does_not():
    completions = [
        f"Here it is:\n```python\n{RIGHT}\n```",
        [{"role": "assistant", "content": RIGHT}],
        RIGHT.replace("2", "3"),
        "def double(x:",
        "raise SystemExit(0)",
        "import os\nos._exit(0)",
        "def double(x):\n    print(x)\n    return 2 * x",
    ]
    rewards = PythonVerifier(workers=2)(completions, tests=[TESTS] * 7, prompts=[""] * 7)
    assert rewards == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "x = bytearray(10**9)",
        "open('file', 'wb').write(bytes(10**7))",
        "while True: print('x' * 10**6)",
        "files = [open('f%d' % i, 'w') for i in range(100)]",
    ],
)
def test_what_takes_too_much_is_ended(code):
    assert not PythonVerifier(timeout=2.0, memory=256).passes(code, "")


def test_it_sees_no_environment_and_writes_nowhere_else(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    verifier = PythonVerifier()
    assert verifier.passes("import os", "assert 'SECRET' not in os.environ and os.listdir('.') == []")


def test_without_a_network_where_the_system_allows_it():
    code = "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)"
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        verifier = PythonVerifier(network="refuse")
        try:
            assert not verifier.passes(code.replace("PORT", port), "")
        except UnsupportedSettingError as error:
            assert "give up its network" in str(error)  # noqa: PT017  # the other allowed outcome
        else:
            assert verifier.passes("", "")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root is not held by this limit")
def test_no_further_processes():
    assert not PythonVerifier().passes("import os\nos.fork()", "")


def test_the_last_fenced_block_is_the_code():
    assert code_of("```python\na\n```\nthen\n```py\nb\n```") == "b\n"
    assert code_of("plain") == "plain"


@pytest.mark.parametrize(
    "arguments", [{"timeout": 0}, {"memory": 1}, {"file_size": 0}, {"network": "no"}, {"workers": 0}]
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        PythonVerifier(**arguments)
