"""The server that runs documents, one for all tests of a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
# pytest imports test modules one by one (importlib mode), so what they share must be importable by itself.
sys.path.insert(0, str(HERE))

TIMEOUT = 120


@pytest.fixture(scope="session")
def page_server() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(HERE / "page_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"},
    ) as server:
        yield server
        assert server.stdin is not None
        server.stdin.close()
        server.wait(timeout=30)


@pytest.fixture
def run_page(page_server: subprocess.Popen[str], tmp_path: Path) -> Callable[[str, str], tuple[int, str]]:
    """Do what a document's blocks say, in a folder of its own; its exit code and all it printed."""
    from blocks import setup_of, steps

    def run(name: str, text: str, timeout: float = TIMEOUT) -> tuple[int, str]:
        request: dict[str, Any] = {
            "document": name,
            "folder": str(tmp_path / "page"),
            "setup": setup_of(text),
            "steps": steps(text),
            "timeout": timeout,
        }
        assert page_server.stdin is not None
        assert page_server.stdout is not None
        page_server.stdin.write(json.dumps(request) + "\n")
        page_server.stdin.flush()
        line = page_server.stdout.readline()
        assert line, f"the page server ended with {page_server.poll()}"
        answer = json.loads(line)
        return answer["code"], answer["errors"]

    return run
