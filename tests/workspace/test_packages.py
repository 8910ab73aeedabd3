"""What every distribution of the workspace owes: one version, open requirements, a licence, and light discovery."""

from __future__ import annotations

import ast
import re
from importlib.metadata import EntryPoint, entry_points

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def _requirements(package):
    project = package.settings["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [
        Requirement(line) for line in [*project.get("dependencies", []), *(line for extra in extras for line in extra)]
    ]


def _constraints(root):
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_one_version_for_all(packages):
    versions = {package.name: package.settings["project"]["version"] for package in packages}
    assert len(set(versions.values())) == 1, versions


def test_the_sources_and_documents_state_that_version(packages, root):
    host = packages[0]
    version = host.settings["project"]["version"]
    for package in packages:
        tree = ast.parse((package.source / "__init__.py").read_text(encoding="utf-8"))
        stated = [
            node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and any(isinstance(target, ast.Name) and target.id == "__version__" for target in node.targets)
        ]
        assert stated in ([], [version]), f"{package.name} says __version__ = {stated}"
    assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(version)}\b", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_families_require_the_host_of_their_own_version(family):
    version = family.settings["project"]["version"]
    host = [requirement for requirement in _requirements(family) if requirement.name == "thunderstone"]
    assert [str(requirement.specifier) for requirement in host] == [f"=={version}"]


def test_no_requirement_holds_back_another_package(package):
    """Whoever installs a release decides about torch; only constraints.txt pins, and only for this repository."""
    closed = [
        str(requirement)
        for requirement in _requirements(package)
        if not requirement.name.startswith("thunderstone")
        and any(specifier.operator in {"==", "===", "<", "<=", "~="} for specifier in requirement.specifier)
    ]
    assert not closed


def test_the_supported_range_begins_where_it_is_said_to(packages):
    floors = {r.name: str(r.specifier) for r in map(Requirement, packages[0].settings["project"]["dependencies"])}
    assert floors["torch"] == ">=2.5"
    assert floors["lightning"] == ">=2.5"


def test_constraints_pin_exactly_and_cover_what_is_asked_for(packages, root):
    pinned = {}
    for constraint in _constraints(root):
        assert [specifier.operator for specifier in constraint.specifier] == ["=="], f"not a pin: {constraint}"
        pinned.setdefault(canonicalize_name(constraint.name), []).append(constraint)
    groups = packages[0].settings["dependency-groups"].values()
    tools = [Requirement(line) for group in groups for line in group if isinstance(line, str)]
    wanted = [*tools, *(requirement for package in packages for requirement in _requirements(package))]
    loose = {
        requirement.name
        for requirement in wanted
        if not requirement.name.startswith("thunderstone") and canonicalize_name(requirement.name) not in pinned
    }
    assert not loose, f"asked for by a pyproject.toml, but at no tested version in constraints.txt: {sorted(loose)}"


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.13"])
def test_one_pin_a_package_on_every_python(root, version):
    environment = {"python_version": version, "python_full_version": f"{version}.0"}
    names = [
        canonicalize_name(constraint.name)
        for constraint in _constraints(root)
        if constraint.marker is None or constraint.marker.evaluate(environment)
    ]
    assert len(names) == len(set(names))
    assert {"torch", "lightning", "numpy"} <= set(names)


def test_every_package_is_complete(package):
    for part in (
        "README.md",
        "LICENSE",
        "tests",
        f"src/{package.module}/__init__.py",
        f"src/{package.module}/py.typed",
    ):
        assert (package.directory / part).exists(), f"{package.name} lacks {part}"
    assert package.settings["project"]["entry-points"]["thunderstone"], f"{package.name} declares no plug-in"
    assert package.settings["project"]["requires-python"] == ">=3.10"


def test_every_family_is_named_and_licensed_like_the_host(family, root):
    assert family.name == f"thunderstone-{family.directory.name}"
    assert (family.directory / "LICENSE").read_bytes() == (root / "LICENSE").read_bytes()


def test_every_family_is_tested(family):
    assert list((family.directory / "tests").rglob("test_*.py")), f"{family.name} has no test"


def test_the_environment_holds_every_package(package):
    installed = {entry.name: entry.value for entry in entry_points(group="thunderstone")}
    declared = package.settings["project"]["entry-points"]["thunderstone"]
    assert declared.items() <= installed.items(), "HINT: make install"


def test_every_plugin_module_is_light(package, run_python):
    """The module an entry point names is imported by every `thunderstone list`, so torch has no place in it."""
    for name, value in package.settings["project"]["entry-points"]["thunderstone"].items():
        module = EntryPoint(name, value, "thunderstone").module
        loaded = run_python(
            f"import sys, {module}; print(*{{'torch', 'lightning', 'matplotlib', 'wandb'}} & sys.modules.keys())"
        )
        assert loaded.split() == [], f"{module} imports {loaded}"
