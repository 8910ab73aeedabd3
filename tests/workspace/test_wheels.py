"""What ends up in a wheel, looked at in one that was really built."""

from __future__ import annotations

import zipfile
from email.parser import HeaderParser

import pytest


@pytest.fixture
def wheel(package, wheels):
    (path,) = wheels.glob(f"{package.module}-*.whl")
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


def test_the_hosts_wheel_holds_what_its_pages_are_made_from(packages, wheels):
    host = packages[0]
    with zipfile.ZipFile(next(wheels.glob("thunderstone-*.whl"))) as archive:
        names = set(archive.namelist())
    templates = {
        str(path.relative_to(host.source.parent))
        for path in host.source.rglob("*")
        if path.suffix in {".jinja", ".html"}
    }
    assert {"thunderstone/template/files/pyproject.toml.jinja", "thunderstone/report/template.html"} <= templates
    assert templates <= names
