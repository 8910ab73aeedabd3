"""Running a script or module in this process the way `python` itself would.

`runpy` is close but not the same: it leaves a relative ``__file__`` in ``__main__`` (so a script that changes its
directory loses itself) and takes ``__main__`` away again before exit handlers run. So only its rules are used here.
"""

from __future__ import annotations

import builtins
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any

from thunderstone.errors import RequestError, suggestion

INTERRUPTED = 130


@dataclass(frozen=True)
class Program:
    """What is to be run, and what Python tells it about itself.

    Attributes:
        code: The compiled program.
        argv0: ``sys.argv[0]``.
        path0: ``sys.path[0]``.
        file: ``__file__``.
        loader: ``__loader__``.
        spec: ``__spec__``; None for a plain file, which is how Lightning tells which command to start workers with.
    """

    code: CodeType
    argv0: str
    path0: str
    file: str
    loader: Any
    spec: ModuleSpec | None = None


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        exit_code: 0 when it ran to its end, 1 after an exception, 130 after a KeyboardInterrupt.
        error: The exception, already shown.
    """

    exit_code: int
    error: BaseException | None = None


def check_script(path: str) -> None:
    """Raise RequestError unless there is a script (or a directory or archive with a ``__main__.py``) at a path."""
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        there = [name for name in os.listdir(folder) if name.endswith(".py")] if os.path.isdir(folder) else []
        near = suggestion(os.path.basename(path), there)
        advice = f" {near}" if near.startswith("Did you mean") else ""
        raise RequestError(f"There is no script {path!r} in {os.getcwd()}.{advice} HINT: give its path, or -m MODULE")
    if os.path.isdir(path) and _main_inside(path) is None:
        raise RequestError(f"The directory {path!r} has no __main__.py. HINT: give the path of a script, or -m MODULE")


def run_script(path: str, arguments: list[str]) -> Outcome:
    """Run ``python PATH ARGUMENTS``: a file, or a directory or archive with a ``__main__.py``.

    Tracebacks are printed as Python prints them, without the frames of this module.

    Raises:
        RequestError: There is no such script.
        SystemExit: The program raised it; the interpreter makes the same exit code of it as ever.
    """
    check_script(path)
    container = os.path.join(os.getcwd(), path)
    spec = _main_inside(container)
    sys.argv[:] = [path, *arguments]
    return _guarded(lambda: _file(path) if spec is None else _module(spec, path, container))


def run_module(name: str, arguments: list[str]) -> Outcome:
    """Run ``python -m NAME ARGUMENTS``. Returns and raises what `run_script` does."""
    _put_first_on_path(os.getcwd())
    sys.argv[:] = ["-m", *arguments]

    def program() -> Program:
        spec = _find(name)
        if spec.submodule_search_locations is not None:
            spec = _find(f"{name}.__main__", package=name)
        return _module(spec, spec.origin or "", os.getcwd())

    return _guarded(program)


def put_program_on_path(script: str | None) -> None:
    """Let modules beside a program be found before it runs, as it will find them itself.

    Args:
        script: Its path; None for a module, which is looked for from the working directory.
    """
    if script is None:
        _put_first_on_path(os.getcwd())
    elif _main_inside(script) is not None:
        _put_first_on_path(os.path.join(os.getcwd(), script))
    else:
        _put_first_on_path(os.path.dirname(os.path.realpath(script)))


def _main_inside(path: str) -> ModuleSpec | None:
    """The ``__main__`` module in a directory or archive; None for a plain source file."""
    return PathFinder.find_spec("__main__", [path])


def _file(path: str) -> Program:
    file = os.path.join(os.getcwd(), path)
    with open(file, "rb") as source:
        code = compile(source.read(), file, "exec", dont_inherit=True)
    return Program(code, path, os.path.dirname(os.path.realpath(path)), file, SourceFileLoader("__main__", file))


def _find(name: str, package: str = "") -> ModuleSpec:
    if name.endswith(".py") and os.path.exists(name):  # looking for it would import, and so run, what is before the dot
        raise RequestError(f"{name!r} is a script, not a module. HINT: leave out -m, or write -m {name[:-3]}")
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        spec = None
    if spec is None:
        if package:
            raise RequestError(f"{package!r} is a package without a __main__ module. HINT: name one of its modules")
        raise RequestError(f"There is no module {name!r} on sys.path, which begins with {os.getcwd()}")
    return spec


def _module(spec: ModuleSpec, argv0: str, path0: str) -> Program:
    code = getattr(spec.loader, "get_code", lambda name: None)(spec.name)
    if code is None:
        raise RequestError(f"The module {spec.name!r} has no Python code to run. HINT: name a .py module")
    return Program(code, argv0, path0, spec.origin or "", spec.loader, spec)


def _put_first_on_path(path0: str) -> None:
    # Python puts the program's directory in front unless it was told to be safe; the directory of the `thunderstone`
    # script stands there now, and a program must not see that one.
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = path0


def _as_main(program: Program) -> ModuleType:
    module = ModuleType("__main__")
    attributes = {
        "__file__": program.file,
        "__loader__": program.loader,
        "__spec__": program.spec,
        "__package__": program.spec.parent if program.spec else None,
        "__cached__": program.spec.cached if program.spec else None,
        "__builtins__": builtins,
    }
    if sys.version_info < (3, 14):
        attributes["__annotations__"] = {}
    vars(module).update(attributes)
    return module


def _guarded(find: Callable[[], Program]) -> Outcome:
    """Find the program, run it, and treat what it raises as the interpreter would."""
    try:
        program = find()
    except RequestError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, _without_ours(error.__traceback__))
    sys.argv[0] = program.argv0
    _put_first_on_path(program.path0)
    # It stays there: exit handlers and threads that outlive the program's last line still look things up in it.
    sys.modules["__main__"] = main = _as_main(program)
    try:
        exec(program.code, vars(main))
    except SystemExit:
        raise
    except BaseException as error:
        return _report(error, _from_program(error.__traceback__, program.code))
    return Outcome(0)


def _report(error: BaseException, trace: TracebackType | None) -> Outcome:
    """Show an exception as the interpreter does, through `sys.excepthook`."""
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    return Outcome(INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1, error)


def _from_program(trace: TracebackType | None, code: CodeType) -> TracebackType | None:
    """The traceback from the program's own first frame on."""
    own = trace
    while own is not None and own.tb_frame.f_code is not code:
        own = own.tb_next
    return own or trace


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    """The traceback of a program that could not be loaded, which is empty when it does not even compile."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(("thunderstone.", "importlib")):
        trace = trace.tb_next
    return trace
