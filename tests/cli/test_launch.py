"""A program under `thunderstone run` cannot tell that it does not run under `python`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile

import pytest

SELF_PORTRAIT = """
import json, sys
import __main__
spec = __spec__ and [__spec__.name, __spec__.origin]
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "file": __file__, "name": __name__, "spec": spec, "package": __package__,
    "loader": type(__loader__).__name__, "loader_name": getattr(__loader__, "name", None), "doc": __doc__,
    "cached": globals().get("__cached__"), "globals": sorted(globals()), "same": __main__.__dict__ is globals(),
    "annotations": globals().get("__annotations__"), "code": sys._getframe().f_code.co_filename,
    "flags": list(sys.flags), "filters": [str(each) for each in __import__("warnings").filters],
    "builtins": type(__builtins__).__name__, "excepthook": sys.excepthook is sys.__excepthook__,
    "environment": sorted(k for k in __import__("os").environ if "THUNDER" in k or "LIGHTNING" in k),
    "signals": [str(__import__("signal").getsignal(n)) for n in (2, 13, 15)],
    "heavy": sorted({"torch", "lightning", "numpy"} & set(sys.modules)),
}))
"""


def both(shell, *arguments, **variables):
    """What a program says of itself under `python` and under `thunderstone run`."""
    plain = shell.python(*arguments, **variables)
    ours = shell.thunderstone("run", *arguments, **variables)
    assert plain.returncode == 0, plain.stderr
    assert ours.returncode == 0, ours.stderr
    return json.loads(plain.stdout), json.loads(ours.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ["work/train.py"],
        ["work/../work/train.py", "--with", "x", "-m", "y", "--", "--help", ""],
        ["link.py", "--epochs", "10"],
        ["-m", "work.train", "--epochs", "10", "--with=sam"],
        ["-m", "work", "--help"],
        ["work", "1"],
        ["packed.zip", "-x"],
    ],
    ids=["script", "arguments", "symlink", "module", "package", "directory", "archive"],
)
def test_a_program_sees_what_python_shows_it(shell, arguments):
    shell.write("work/train.py", SELF_PORTRAIT)
    shell.write("work/__init__.py", "")
    shell.write("work/__main__.py", SELF_PORTRAIT)
    (shell.folder / "link.py").symlink_to("work/train.py")
    with zipfile.ZipFile(shell.folder / "packed.zip", "w") as archive:
        archive.writestr("__main__.py", SELF_PORTRAIT)
    plain, ours = both(shell, *arguments)
    assert ours == plain


def test_an_absolute_path_and_a_safe_path_are_respected(shell):
    script = shell.write("train.py", SELF_PORTRAIT)
    plain, ours = both(shell, script)
    assert ours == plain
    plain, ours = both(shell, script, PYTHONSAFEPATH="1")
    assert ours == plain


def test_a_short_option_for_the_module_may_be_attached_to_it(shell):
    shell.write("work/__init__.py", "")
    shell.write("work/train.py", SELF_PORTRAIT)
    plain, ours = both(shell, "-mwork.train", "-x")
    assert ours == plain


@pytest.mark.parametrize(
    ("source", "code", "stderr"),
    [
        ("", 0, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(0)", 0, ""),
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('out of data')", 1, "out of data\n"),
        ("raise SystemExit(True)", 1, ""),
        ("import os; os._exit(9)", 9, ""),
        ("import sys; print('x', file=sys.stderr)", 0, "x\n"),
        ("import atexit; atexit.register(print, 'bye'); import sys; sys.exit(4)", 4, ""),
        ("import warnings; warnings.warn('old', DeprecationWarning)", 0, None),
        ("def f():\n    1 / 0\nf()", 1, None),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError('a') from error", 1, None),
        ("import json\njson.loads('{')", 1, None),
        ("x = = 1", 1, None),
        ("exec('x = = 1')", 1, None),
        ("import sys\nsys.excepthook = lambda *e: print('hook', e[0].__name__)\nraise ValueError", 1, ""),
        ("import threading\nthreading.Thread(target=lambda: print('t', __name__)).start()", 0, ""),
        ("import threading\nthreading.Thread(target=lambda: 1 / 0, name='t').start()", 0, None),
        ("raise ExceptionGroup('g', [ValueError(1)])" if sys.version_info >= (3, 11) else "1/0", 1, None),
        ("from thunderstone.errors import RequestError\nraise RequestError('mine')", 1, None),
    ],
)
def test_output_exit_code_and_traceback_are_pythons(shell, source, code, stderr):
    shell.write("train.py", source)
    plain = shell.python("train.py")
    ours = shell.thunderstone("run", "train.py")
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert ours.returncode == code
    if stderr is not None:
        assert ours.stderr == stderr
    else:
        assert ours.stderr, "this case is about what is printed"


def test_a_module_that_fails_shows_its_own_frames_only(shell):
    shell.write("work/__init__.py", "")
    shell.write("work/train.py", "def f():\n    1 / 0\nf()")
    shell.write("bad/__init__.py", "def g():\n    1 / 0\ng()")
    for module in ("work.train", "bad.train"):
        ours = shell.thunderstone("run", "-m", module)
        assert ours.returncode == 1
        assert ours.stderr.endswith("ZeroDivisionError: division by zero\n")
        assert "site-packages" not in ours.stderr
        assert "thunderstone" not in ours.stderr.replace(str(shell.folder), "")
        assert "runpy" not in ours.stderr


def test_ctrl_c_is_shown_and_exits_with_130(shell):
    script = shell.write("train.py", "import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "thunderstone.cli", "run", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.startswith(f'Traceback (most recent call last):\n  File "{script}", line 3')
    assert stderr.rstrip().endswith("KeyboardInterrupt")


def test_processes_a_script_spawns_find_its_functions(shell):
    shell.write(
        "train.py",
        """
        import multiprocessing

        def square(value):
            return value * value

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(square, [3]))
        """,
    )
    ours = shell.thunderstone("run", "train.py")
    assert (ours.returncode, ours.stdout) == (0, "[9]\n"), ours.stderr


def test_the_main_module_stays_until_the_exit_handlers_have_run(shell):
    shell.write(
        "train.py",
        """
        import atexit, os, pickle, sys

        class Model:
            pass

        atexit.register(lambda: print(type(pickle.loads(pickle.dumps(Model()))).__module__, os.path.isfile(__file__)))
        os.chdir("/")
        """,
    )
    ours = shell.thunderstone("run", "train.py")
    assert (ours.returncode, ours.stdout) == (0, "__main__ True\n"), ours.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run: there is no script. HINT: thunderstone run"),
        (["trian.py"], "There is no script 'trian.py' in"),
        (["trian.py"], "Did you mean 'train.py'?"),
        (["nowhere/train.py"], "There is no script 'nowhere/train.py'"),
        (["empty"], "The directory 'empty' has no __main__.py"),
        (["-m", "nowhere"], "There is no module 'nowhere'"),
        (["-m", "nowhere.at.all"], "There is no module 'nowhere.at.all'"),
        (["-m", "package.nothing"], "There is no module 'package.nothing'"),
        (["-m", "train.py"], "'train.py' is a script, not a module. HINT: leave out -m, or write -m train"),
        (["-m", "package"], "'package' is a package without a __main__ module"),
        (["-m", "_json"], "has no Python code to run"),
        (["--wiht", "sam", "train.py"], "No such option"),
        (["-m"], "requires an argument"),
    ],
)
def test_a_program_that_does_not_exist_is_a_wrong_request(shell, arguments, message):
    shell.write("train.py", "print('started')")
    shell.write("package/__init__.py", "")
    (shell.folder / "empty").mkdir()
    ours = shell.thunderstone("run", *arguments)
    assert ours.returncode == 2
    assert message in ours.stderr
    assert ours.stdout == ""
    assert "Traceback" not in ours.stderr
