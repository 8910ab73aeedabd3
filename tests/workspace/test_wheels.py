"""What ends up in a wheel, looked at in one that was really built."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import HeaderParser

import pytest


@pytest.fixture
def wheel(package, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(package.directory)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_a_wheel_holds_the_package_and_nothing_else(package, wheel):
    module = package.module
    version = package.settings["project"]["version"]
    metadata = f"{module}-{version}.dist-info"
    names = set(wheel.namelist())

    assert {name.partition("/")[0] for name in names} == {module, metadata}
    sources = {str(path.relative_to(package.source.parent)) for path in package.modules()}
    assert sources <= names, f"not in the wheel: {sorted(sources - names)}"
    assert f"{module}/py.typed" in names
    assert f"{metadata}/licenses/LICENSE" in names

    headers = HeaderParser().parsestr(wheel.read(f"{metadata}/METADATA").decode())
    assert (headers["Name"], headers["Version"]) == (package.name, version)
    assert headers["License-Expression"] == "Apache-2.0"
    assert "[thunderstone]" in wheel.read(f"{metadata}/entry_points.txt").decode()
