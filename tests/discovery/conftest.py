"""Plug-in packages for one test, found through the real entry-point machinery."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from thunderstone.discovery import refresh

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(distribution, entry_point, source)` puts a package on a `sys.path` that has no other distribution.

    `metadata` is added to its METADATA.

    The plug-in module is named like the distribution, with underscores. Returns the module's path.
    """
    site = tmp_path / "site"
    site.mkdir()
    installed: list[str] = []
    # What a plug-in of a test imports is loaded already; everything else that is installed is out of sight.
    standard_library = [entry for entry in sys.path if "site-packages" not in entry and "thunderstone" not in entry]
    monkeypatch.setattr(sys, "path", [str(site), *standard_library])

    def put(
        distribution: str, entry_point: str, source: str, version: str = "1.0", value: str = "", metadata: str = ""
    ) -> Path:
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        information = site / f"{module}-{version}.dist-info"
        information.mkdir()
        described = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{metadata}"
        (information / "METADATA").write_text(described)
        (information / "entry_points.txt").write_text(f"[thunderstone]\n{entry_point} = {value or module}\n")
        installed.append(module)
        importlib.invalidate_caches()
        refresh()
        return site / f"{module}.py"

    refresh()
    yield put
    for module in installed:
        sys.modules.pop(module, None)
    refresh()
