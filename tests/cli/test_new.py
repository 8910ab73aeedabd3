"""`thunderstone new`: names that will do and names that will not, and a folder that is whole or not there."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

from thunderstone import ExactResume
from thunderstone.cli.main import main
from thunderstone.errors import RequestError
from thunderstone.specs import MethodSpec
from thunderstone.template import rendering
from thunderstone.template.facts import Facts, facts_for
from thunderstone.template.naming import LONGEST, RESERVED, PackageNames, names_for
from thunderstone.template.rendering import rendered, write_package

RUFF = Path(sys.executable).with_name("ruff")
FACTS = Facts("Ada", "ada@example.org", 2025, "0.1", "1.0", ">=3.10")


def texts_of(name, facts=FACTS):
    return rendered(PackageNames(name), facts)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", ["weight-noise", "weight_noise", "thunderstone-weight-noise", "thunderstone_weight_noise"]
)
def test_one_name_gives_all_of_them(given):
    names = names_for(given)
    assert (names.distribution, names.module) == ("thunderstone-weight-noise", "thunderstone_weight_noise")
    assert (names.method, names.class_name) == ("weight_noise", "WeightNoise")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "must be lower case letters"),
        ("thunderstone-", "must be lower case letters"),
        ("WeightNoise", "HINT: thunderstone new weight-noise"),
        ("weight noise", "HINT: thunderstone new weight-noise"),
        ("weight--noise", "HINT: thunderstone new weight-noise"),
        ("-noise", "HINT: thunderstone new noise"),
        ("../noise", "HINT: thunderstone new noise"),
        ("2nd", "begin with a letter"),
        (
            "SAM",
            "HINT: choose another name; 'sam' will not do either: there is a method of this name, of thunderstone-sh",
        ),
        ("Json", "HINT: choose another name; 'json' will not do either: a module json.py would hide"),
        ("Class", "HINT: choose another name; 'class' will not do either: 'class' is a keyword"),
        ("X" * (LONGEST + 1), "HINT: write it as one writes weight-noise"),
        ("geräusch", "must be lower case letters"),
        ("x" * (LONGEST + 1), f"at most {LONGEST}"),
        ("class", "a keyword of Python"),
        ("thunderstone-class", "a keyword of Python"),
        ("value-error", "built in"),
        ("json", "would hide Python's own 'json'"),
        ("torch", "the distribution torch .* is installed"),
        ("sklearn", "the module 'sklearn' of the installed distribution scikit-learn"),
        ("sharpness", "the distribution thunderstone-sharpness .* is installed"),
        ("thunderstone-sharpness", "the distribution thunderstone-sharpness .* is installed"),
        ("thunderstone", "the distribution thunderstone .* is installed"),
        ("sam", "there is a method of this name, of thunderstone-sharpness"),
        ("resume", "there is a method of this name, of thunderstone "),
        ("method", "the package has something else of the name 'method'"),
    ],
)
def test_a_name_that_will_not_do_is_refused_with_the_reason(given, words):
    with pytest.raises(RequestError, match=words) as refusal:
        names_for(given)
    assert str(refusal.value).startswith(f"new: {given!r} ")
    assert "HINT: " in str(refusal.value)


def test_what_the_template_needs_for_itself_is_reserved():
    """A class of the user's name stands among what the modules import and define."""
    taken = set()
    for place, text in texts_of("zz").items():
        if place.endswith(".py"):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    taken |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ClassDef):
                    taken.add(node.name)
            taken.add(Path(place).stem)
    taken -= {"Zz", "zz"}  # the user's own
    names = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in taken}
    clashing = {name for name in names if PackageNames(name).class_name in taken}
    modules = {"conformance", "plugin"}
    assert clashing | modules <= RESERVED


# -- what is written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["q", "weight_noise", "w" * LONGEST, "_".join(["ab"] * 9)])
def test_it_is_clean_by_its_own_settings_whatever_its_name(name, tmp_path):
    write_package(texts_of(name), tmp_path / "package")
    for arguments in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run(
            [RUFF, *arguments, "--no-cache", "."], cwd=tmp_path / "package", capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout


def test_every_file_of_the_template_goes_somewhere():
    files = Path(rendering.__file__).with_name("files")
    assert {path.name for path in files.iterdir()} == set(rendering._FILES)


@pytest.mark.parametrize(
    ("author", "email"),
    [('A. "B" \\ C', None), ("Jürgen Ωmega", "j@example.org"), ("tab\tand\x7f", None), ("x]}", "x@example.org")],
)
def test_any_author_is_written_as_is(author, email):
    texts = texts_of("zz", Facts(author, email, 2025, "0.1", "1.0", ">=3.10"))
    (written,) = tomllib.loads(texts["pyproject.toml"])["project"]["authors"]
    assert written == {"name": author, **({"email": email} if email else {})}
    assert f"Copyright (c) 2025 {author}\n" in texts["LICENSE"]


def test_the_kit_is_run_on_all_that_the_package_declares(monkeypatch):
    package = ModuleType("thunderstone_zz")
    for name in ("zz", "added_later"):
        setattr(package, name, type(name, (ExactResume,), {"name": name}))
    declared = [MethodSpec(name, f"thunderstone_zz:{name}", "zz", "Resumes.") for name in ("zz", "added_later")]
    plugin = SimpleNamespace(thunderstone_methods=lambda: declared)
    monkeypatch.setitem(sys.modules, "thunderstone_zz", package)
    monkeypatch.setitem(sys.modules, "thunderstone_zz.plugin", plugin)
    written: dict[str, Any] = {}
    exec(texts_of("zz")["tests/test_conformance.py"], written)
    (mark,) = written["test_conformance"].pytestmark
    assert {case.values[0].name for case in mark.args[1]} == {"zz", "added_later"}


def test_the_workflow_keeps_its_own_braces():
    workflow = texts_of("zz")[".github/workflows/tests.yml"]
    assert "python-version: ${{ matrix.python }}\n" in workflow
    yaml = pytest.importorskip("yaml")
    steps = yaml.safe_load(workflow)["jobs"]["tests"]["steps"]
    assert [step["run"] for step in steps if "run" in step][-1] == "python -m pytest"


def git(folder, *arguments):
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def test_the_author_is_gits(tmp_path):
    git(tmp_path, "init")
    git(tmp_path, "config", "user.name", "  Ada   Lovelace ")
    git(tmp_path, "config", "user.email", "ada@example.org")
    facts = facts_for("thunderstone-zz")
    assert (facts.author, facts.email) == ("Ada Lovelace", "ada@example.org")
    git(tmp_path, "config", "user.email", "not an address")
    assert facts_for("thunderstone-zz").email is None


def test_without_git_there_is_an_author_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = facts_for("thunderstone-zz")
    assert (facts.author, facts.email) == ("The authors of thunderstone-zz", None)


def test_versions_are_the_hosts():
    import thunderstone

    facts = facts_for("thunderstone-zz")
    assert thunderstone.__version__.startswith(f"{facts.host}.")
    assert (facts.api, facts.python) == (thunderstone.API_VERSION, ">=3.10")


# -- all or nothing ----------------------------------------------------------------------------------------------------


def test_a_package_appears_under_its_name(capsys, tmp_path):
    assert main(["new", "weight-noise"]) == 0
    output = capsys.readouterr().out
    assert "  cd thunderstone-weight-noise\n" in output
    assert {path.name for path in tmp_path.iterdir()} == {"thunderstone-weight-noise"}
    package = tmp_path / "thunderstone-weight-noise"
    assert {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()} == {
        *("pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/tests.yml"),
        *(
            f"src/thunderstone_weight_noise/{name}"
            for name in ("__init__.py", "plugin.py", "weight_noise.py", "conformance.py", "py.typed")
        ),
        *("tests/test_weight_noise.py", "tests/test_conformance.py"),
    }
    (tmp_path / "other").mkdir()
    assert package.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("kind", ["folder", "full folder", "file", "link to nowhere"])
def test_what_exists_is_left_alone(kind, capsys, tmp_path):
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("mine")
    elif kind == "link to nowhere":
        place.symlink_to("gone")
    else:
        place.mkdir()
        if kind == "full folder":
            (place / "pyproject.toml").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["new", "zz", "--output", str(place)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"thunderstone: new: '{place}' exists")
    assert "HINT: --output FOLDER" in message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("output", "words"), [("nowhere/x", "there is no folder 'nowhere'"), (".", "exists"), ("..", "exists")]
)
def test_a_place_that_will_not_do_is_refused(output, words, capsys, tmp_path):
    assert main(["new", "zz", "--output", output]) == 2
    message = capsys.readouterr().err
    assert message.startswith("thunderstone: new: ")
    assert words in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(capsys, tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["new", "zz"]) == 2
    assert "'thunderstone-zz' cannot be written (No space left on device)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_refused(capsys, tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert main(["new", "zz"]) == 2
    finally:
        tmp_path.chmod(0o700)
    assert "Permission denied" in capsys.readouterr().err


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    write_text = Path.write_text

    def interrupted(path, *arguments, **keywords):
        if path.name == "plugin.py":
            raise KeyboardInterrupt
        return write_text(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_package(texts_of("zz"), tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a process is ended there without a signal")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_process_that_is_ended_leaves_nothing_half_done(name, tmp_path):
    program = f"""
import signal
from pathlib import Path
from thunderstone.template.rendering import write_package

class Texts(dict):
    def items(self):
        for place, text in super().items():
            yield place, text
            signal.raise_signal(signal.{name})

write_package(Texts({{"a": "", "b/c": ""}}), Path("package"))
print("not ended")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.Signals[name], ""), done.stderr
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        *("package", "package/a", "package/b", "package/b/c")
    ]


def test_a_folder_that_appears_meanwhile_is_left_alone(tmp_path, monkeypatch):
    rename = Path.rename

    def late(path, target):
        target.mkdir()
        (target / "mine").write_text("")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(OSError, match="not empty"):
        write_package(texts_of("zz"), tmp_path / "package")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["package", "package/mine"]
