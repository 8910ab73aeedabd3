"""The Makefile and the CI script: what is offered, and when an installation is repeated."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def _make(directory, *arguments):
    # Not as a sub-make of the one that may have started this test.
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    return subprocess.run(
        ["make", *arguments], cwd=directory, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def checkout(tmp_path, root):
    """The parts of the repository that decide about an installation, with an environment that looks finished."""
    tree = tmp_path / "checkout"
    for part in ("Makefile", "constraints.txt", "pyproject.toml", "callbacks/sharpness/pyproject.toml"):
        (tree / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / part, tree / part)
    python = tree / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    return tree


def _install_commands(checkout):
    done = _make(checkout, "--dry-run", "install")
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.replace("\\\n", " ").splitlines() if "pip" in line and "--editable" in line]


def _pretend_to_have_installed(checkout):
    stamps = re.findall(r"^mv \S+ (\.venv/installed-\S+)$", _make(checkout, "--dry-run", "install").stdout, re.M)
    assert len(stamps) == 1
    (checkout / stamps[0]).touch()


def test_help_lists_every_target(root):
    shown = _make(root).stdout
    targets = re.search(r"^\.PHONY: (.*)$", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets is not None
    for target in targets.group(1).split():
        assert re.search(rf"^  {re.escape(target)}  +\S", shown, re.MULTILINE), (
            f"make help does not say what {target} does"
        )


def test_nothing_is_installed_again_when_nothing_changed(checkout):
    assert len(_install_commands(checkout)) == 1
    _pretend_to_have_installed(checkout)
    assert _install_commands(checkout) == []


@pytest.mark.parametrize(
    "changed", ["constraints.txt", "pyproject.toml", "callbacks/sharpness/pyproject.toml", "Makefile"]
)
def test_a_changed_declaration_is_installed(checkout, changed):
    _pretend_to_have_installed(checkout)
    with (checkout / changed).open("a") as file:
        file.write("# changed\n")
    assert len(_install_commands(checkout)) == 1


def test_a_new_package_is_found_without_being_listed(checkout):
    _pretend_to_have_installed(checkout)
    new = checkout / "plugins" / "grpo"
    new.mkdir(parents=True)
    (new / "pyproject.toml").write_text('[project]\nname = "thunderstone-grpo"\n')
    (command,) = _install_commands(checkout)
    assert "--editable ./callbacks/sharpness --editable ./plugins/grpo" in command


def test_a_package_that_left_the_tree_is_uninstalled(checkout):
    log = checkout / "log"
    (checkout / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    new = checkout / "plugins" / "grpo"
    new.mkdir(parents=True)
    (new / "pyproject.toml").write_text('[project]\nname = "thunderstone-grpo"\n')
    assert _make(checkout, "install").returncode == 0
    assert "uninstall" not in log.read_text()
    shutil.rmtree(new)
    assert _make(checkout, "install").returncode == 0
    (uninstalled,) = [line for line in log.read_text().splitlines() if " uninstall " in line]
    assert uninstalled.split()[-1:] == ["thunderstone-grpo"]
    assert _install_commands(checkout) == []


def test_an_interpreter_that_is_too_old_is_refused_by_name(checkout):
    (checkout / ".venv" / "bin" / "python").unlink()
    old = checkout / "python-of-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = _make(checkout, "install", f"PYTHON={old}")
    assert done.returncode != 0
    assert "needs Python >= 3.10" in done.stderr
    assert str(old) in done.stderr


def test_ci_runs_every_check_and_ends_with_the_suite(root):
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    order = re.findall(r"^(?:check|exec make) ([\w-]+)$", text, re.MULTILINE)
    assert order[0] == "install"
    assert order[-1] == "test"
    # The documentation's checks are part of the suite.
    assert {"lint", "types", "test-oldest"} <= set(order)


def test_ci_stops_at_the_first_failure_with_its_code(root, tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(root / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "Makefile").write_text(
        "install lint test-oldest test:\n\t@echo ran $@\ntypes:\n\t@exit 3\n", encoding="utf-8"
    )
    done = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "ran lint" in done.stdout
    assert "ran test-oldest" not in done.stdout
    assert "make types failed" in done.stderr
