"""What holds for every test of the workspace: the host's, and those of each package under callbacks/ and plugins/."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import random
import re
import socket
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from warm_interpreter import WarmInterpreter

# Before torch is first imported, and inherited by every process a test starts: several workers share the cores, and a
# reduction over one thread adds in one order.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
# A list of all installed packages, and of what the machine is doing: half a second a run, and looked at by no test.
os.environ["WANDB_X_SAVE_REQUIREMENTS"] = "false"
os.environ["WANDB_X_DISABLE_STATS"] = "true"
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
    """Begin with the longest, and skip what needs a GPU where there is none.

    No worker is to be left alone with them at the end. torch is not imported for a selection that does not.
    """
    items.sort(key=lambda item: item.path.name != "test_third_party.py")
    on_gpu = [item for item in items if item.get_closest_marker("gpu") is not None]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _entry_points_read_once() -> None:
    """Keep the entry points of what is installed beside pytest, which stays as it is while tests run.

    Every Trainer asks all distributions for callbacks; in this environment that takes a tenth of a short fit.
    """
    read = importlib.metadata.Distribution.entry_points.fget
    beside = {Path(sysconfig.get_path(where)) for where in ("purelib", "platlib")}
    kept: dict[Path, Any] = {}

    def entry_points(distribution: Any) -> Any:
        path = distribution._path
        if path in kept:
            return kept[path]
        found = read(distribution)
        if isinstance(path, Path) and path.parent in beside:
            kept[path] = found
        return found

    importlib.metadata.PathDistribution.entry_points = property(entry_points)


_entry_points_read_once()


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look through half a million objects each time."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session", autouse=True)
def _a_directory_for_what_outlives_a_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fixtures of a module or of the whole run train does not write into the repository either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fixtures"))
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder of this run of the suite that all of its workers have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base


@pytest.fixture(scope="session")
def warm_interpreter() -> Iterator[WarmInterpreter]:
    """Runs programs that train in processes of their own, without importing torch and Lightning each time."""
    interpreter = WarmInterpreter()
    yield interpreter
    interpreter.close()


@pytest.fixture(scope="session")
def replicas(shared_folder: Path, warm_interpreter: WarmInterpreter) -> Callable[[Path], list[Any]]:
    """Runs a script that trains in two processes, and gives what each of them saved.

    The script gets a folder as its only argument; rank 0 and rank 1 leave ``rank0.pt`` and ``rank1.pt`` there. It runs
    once, also where several workers share the tests that look at it.
    """
    from filelock import FileLock

    def run(script: Path) -> list[Any]:
        import torch

        folder = shared_folder / f"replicas_{re.sub(r'[^0-9A-Za-z]+', '_', str(script))}"
        failed = folder / "failed.txt"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                ranks = warm_interpreter.run_ranks([script, folder], folder, os.environ, 2)
                if any(rank.returncode for rank in ranks):
                    said = (
                        f"rank {number} ended with {rank.returncode}:\n{rank.stderr[-3000:]}"
                        for number, rank in enumerate(ranks)
                    )
                    failed.write_text("\n".join(said), encoding="utf-8")
        assert not failed.exists(), failed.read_text(encoding="utf-8")
        return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]

    return run


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
