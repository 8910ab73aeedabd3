"""The commands that documents show: run where what they name is there, and otherwise held against their own parsers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import re
import runpy
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[3]
# Programs whose commands are not run here, and whose options are theirs to know.
OTHERS = frozenset({"cd", "git", "mkdir", "pre-commit", "source", "twine", "uv", "wandb"})


def follow(text: str, *, only_check: bool) -> None:
    """Run a command where that is possible, or check that its program would understand it.

    Raises:
        AssertionError: It fails, or its program has no such command, option, file or target.
    """
    words = shlex.split(text, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)  # a variable for this command alone
    program, arguments = Path(words[0]).name, words[1:]
    if program == "thunderstone":
        _thunderstone(arguments, only_check)
    elif program in {"python", "python3"} and arguments[:1] == ["-m"]:
        _module(arguments[1:], only_check)
    elif program in {"python", "python3"}:
        _script(arguments, only_check)
    elif program == "make":
        _make(arguments)
    elif program == "pip":
        _pip(arguments)
    elif words[0] == ".ci/run":
        assert (ROOT / ".ci" / "run").is_file()
    else:
        assert program in OTHERS, f"{text!r}: what is {program!r}? Documents show commands that are checked"


def in_a_copy(action: Callable[[], int | None], what: str) -> None:
    """Do `action` in a copy of this process, as a program of its own would; it has to end with code 0."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = action() or 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0, f"{what}: exit code {code}; what it printed is above"


def _fresh() -> None:
    """Forget what the page itself has imported from its folder and set-up."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.startswith((os.getcwd() + os.sep, str(Path(__file__).parent / "setups"))):
            del sys.modules[name]


def _thunderstone(arguments: Sequence[str], only_check: bool) -> None:
    from thunderstone.cli.main import main

    given = list(arguments)
    _understood(given)
    if only_check or not _is_there(given):
        return

    def typed() -> int:
        _fresh()
        sys.argv = ["thunderstone", *given]
        return main(given)

    in_a_copy(typed, shlex.join(["thunderstone", *given]))


def _understood(given: list[str]) -> None:
    """The command's own parser takes it, and every method that is named takes the arguments it is given."""
    import typer
    from typer.main import get_command

    from thunderstone.cli.app import app
    from thunderstone.cli.with_option import build_together, parse_option

    group = get_command(app)
    if given[0].startswith("-"):
        return
    command = group.commands.get(given[0])  # type: ignore[attr-defined]
    assert command is not None, f"thunderstone has no command {given[0]!r}"
    if "…" in given:  # the rest is left out: what is shown has to be there
        known = {name for parameter in command.params for name in parameter.opts}
        unknown = {word.partition("=")[0] for word in given if word.startswith("-")} - known
        assert not unknown, f"thunderstone {given[0]} has no {sorted(unknown)}"
        return
    try:
        context = command.make_context(given[0], given[1:], obj=[])
    except typer.Exit:  # --help
        return
    except Exception as error:
        raise AssertionError(f"thunderstone {shlex.join(given)}: {error}") from error
    settings = list(context.params.get("with_") or [])
    together = [settings] if settings else []
    for setting in context.params.get("setting") or []:
        together += [setting.split("+")] if setting != "plain" else []
    for options in together:
        build_together([parse_option(option) for option in options])


def _is_there(given: Sequence[str]) -> bool:
    """Whether what a command works on exists: without a file or folder among its words it needs none."""
    if given[0] in {"list", "info", "doctor"} or given[0].startswith("-"):
        return True
    if given[0] in {"run", "compare"}:
        return any(word.endswith(".py") and Path(word).is_file() for word in given)
    if given[0] in {"report", "rerun"}:
        return Path(given[1]).exists()
    # What trains for minutes (demo, check) or leaves packages behind (new) has tests of its own.
    return False


def _module(arguments: Sequence[str], only_check: bool) -> None:
    assert importlib.util.find_spec(arguments[0]) is not None, f"there is no module {arguments[0]!r}"
    if arguments[0] == "pytest" and not only_check:
        named = [word for word in arguments[1:] if not word.startswith("-")]
        for word in named:
            path = word.partition("::")[0]
            assert Path(path).exists() or (ROOT / path).exists() or "::" in word, f"{word}: there is no {path}"


def _script(arguments: Sequence[str], only_check: bool) -> None:
    script, rest = arguments[0], list(arguments[1:])
    if Path(script).is_file() and not only_check:

        def typed() -> int:
            _fresh()
            sys.argv = [script, *rest]
            runpy.run_path(script, run_name="__main__")
            return 0

        in_a_copy(typed, shlex.join(["python", script, *rest]))
        return
    found = next((path for path in (Path(script), ROOT / script) if path.is_file()), None)
    assert found is not None, f"python {script}: there is no such script in the page's folder or in the repository"
    options = {word.partition("=")[0] for word in rest if word.startswith("--")}
    if options:
        in_a_copy(lambda: _has_options(found, options), f"{script} with {sorted(options)}")


def _has_options(script: Path, options: set[str]) -> int:
    sys.argv = [str(script), "--help"]
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit:
        pass
    missing = options - set(re.findall(r"--[\w-]+", shown.getvalue()))
    print(f"{script} has no {sorted(missing)}" if missing else "", file=sys.stderr)
    return int(bool(missing))


def _make(arguments: Sequence[str]) -> None:
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert targets is not None
    for word in arguments:
        assert "=" in word or word in targets[1].split(), f"the Makefile has no target {word!r}"


def _pip(arguments: Sequence[str]) -> None:
    """Of this workspace's packages, those that are named and their extras have to exist.

    ``pip install -e .`` is done: the package in the page's folder becomes one that its commands find.
    """
    assert arguments[0] in {"install", "uninstall"}, f"pip {shlex.join(arguments)}: it has no such command"
    if {"-e", "--editable"} & set(arguments):
        _install(Path(arguments[-1]))
        return
    for word in arguments[1:]:
        named = re.match(r"(thunderstone[\w-]*)(?:\[([\w,-]+)\])?", word)
        if named is None or not _is_ours(named[1]):
            continue
        extras = set(importlib.metadata.metadata(named[1]).get_all("Provides-Extra") or [])
        missing = set((named[2] or "").split(",")) - extras - {""}
        assert not missing, f"pip {shlex.join(arguments)}: {named[1]} has no extra {sorted(missing)}"


def _install(folder: Path) -> None:
    """What an editable installation leaves behind: the sources on the path, the entry points where they are found."""
    from thunderstone.discovery.plugin_registry import refresh

    settings = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    sources = folder.resolve() / "src"
    information = sources / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir()
    described = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (information / "METADATA").write_text(described, encoding="utf-8")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.path.insert(0, str(sources))
    importlib.invalidate_caches()
    refresh()


def _is_ours(name: str) -> bool:
    try:
        importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
