"""What holds for every test of the workspace: the host's, and those of each package under callbacks/ and plugins/."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch is first imported, and inherited by every process a test starts: several workers share the cores, and a
# reduction over one thread adds in one order.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["MPLBACKEND"] = "agg"

# What a developer's shell or a cluster may have set, and what would decide a test's outcome.
_FOREIGN_PREFIXES = ("THUNDERSTONE_", "SLURM_", "TORCHELASTIC_", "PL_")
_FOREIGN = frozenset(
    ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WANDB_API_KEY", "WANDB_RUN_ID")
)
_LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")

SEED = 20250101


def pytest_configure(config: pytest.Config) -> None:
    for variable in list(os.environ):
        if variable.startswith(_FOREIGN_PREFIXES) or variable in _FOREIGN:
            del os.environ[variable]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, without importing torch for a selection that does not."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu") is not None]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _hypothesis_profiles() -> None:
    from hypothesis import settings
    from hypothesis.database import DirectoryBasedExampleDatabase

    # No deadline: the first example pays for imports and compilation. In CI the same examples in every run.
    examples = DirectoryBasedExampleDatabase(Path(__file__).parent / ".hypothesis" / "examples")
    settings.register_profile("local", deadline=None, database=examples)
    settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
    settings.load_profile("ci" if os.environ.get("CI") else "local")


_hypothesis_profiles()


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse connections that leave this machine; a test that needs one would fail elsewhere."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(_LOOPBACK):
            raise RuntimeError(f"a test tried to connect to {address!r}; tests use nothing outside of this machine")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        check(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        check(address)
        return connect_ex(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        yield


@pytest.fixture(autouse=True)
def _own_directory_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test starts in an empty directory and gives the environment back as it was.

    Trainers write logs and checkpoints to where they are started, and `seed_everything` and process launchers leave
    variables behind.
    """
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    os.environ["WANDB_DIR"] = str(tmp_path)
    yield
    # Only the difference: a background thread never sees an empty environment.
    for variable in os.environ.keys() - before.keys():
        del os.environ[variable]
    for variable, value in before.items():
        if os.environ.get(variable) != value:
            os.environ[variable] = value


@pytest.fixture(autouse=True)
def _same_randomness() -> None:
    """Every test starts from the same random state and, where torch is loaded, on one thread."""
    random.seed(SEED)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(SEED)
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.manual_seed(SEED)
        torch.set_num_threads(1)
        # Otherwise some of torch's warnings come once a process, and fail whichever test happens to be the first.
        torch.set_warn_always(True)
