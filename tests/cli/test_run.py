"""`thunderstone run` on scripts that use Lightning and know nothing of it."""

from __future__ import annotations

import json
import sys

import pytest

from thunderstone.cli import factory
from thunderstone.cli.main import main
from thunderstone.discovery import refresh

TRAIN = """
import os, sys
import lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel

QUIET = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
QUIET |= dict(accelerator="cpu", max_steps=2, limit_val_batches=1)

def trainer(**options):
    return pl.Trainer(**QUIET, **options)
"""


@pytest.fixture
def script(marked_shell):
    """A function that writes a script which starts with the imports and `trainer` above."""

    def write(source, name="train.py"):
        return marked_shell.write(name, TRAIN + source)

    return write


def marks(shell, name="marks"):
    path = shell.folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_trainer_of_the_script_gets_methods_of_its_own(marked_shell, script):
    script(
        "first, second = trainer(), trainer()\n"
        "first.fit(BoringModel())\n"
        "second.fit(BoringModel())\n"
        "found = [[c for c in t.callbacks if type(c).__name__ == 'Mark'] for t in (first, second)]\n"
        "assert [len(f) for f in found] == [1, 1] and found[0][0] is not found[1][0]\n"
        "print(sys.argv)\n"
        "sys.exit(5)\n"
    )
    options = ["--with", "mark:amount=2,shape=square,betas=(0.5,0.6),layers=[a,b],path=here", "--with=stateful"]
    ours = marked_shell.warm_thunderstone("run", *options, "train.py", "--epochs", "10", "--with", "nothing")
    assert ours.returncode == 5, ours.stderr
    assert ours.stdout.splitlines()[-1] == "['train.py', '--epochs', '10', '--with', 'nothing']"
    expected = {
        "amount": 2.0,
        "shape": "square",
        "steps": None,
        "betas": [0.5, 0.6],
        "tuple": True,
        "layers": ["a", "b"],
    }
    for mark in marks(marked_shell, "here"):
        assert {key: mark[key] for key in expected} == expected
    assert len(marks(marked_shell, "here")) == 2
    assert len(marks(marked_shell)) == 2, "the second --with has its own arguments"
    assert "thunderstone run:" not in ours.stderr


def test_without_with_the_run_is_the_same_to_the_last_bit(marked_shell, script):
    script(
        "import hashlib, random, numpy, torch\n"
        "pl.seed_everything(7, verbose=False)\n"
        "model = BoringModel()\n"
        "t = trainer()\n"
        "t.fit(model)\n"
        "weights = hashlib.sha256(b''.join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()\n"
        "print(weights, torch.rand(1).item(), random.random(), numpy.random.rand())\n"
        "print([type(c).__name__ for c in t.callbacks], sorted(m for m in sys.modules if m.startswith('marking')))\n"
        "print(sorted(k for k in os.environ if 'THUNDERSTONE' in k))\n"
    )
    plain = marked_shell.warm_python("train.py")
    ours = marked_shell.warm_thunderstone("run", "train.py")
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.count("\n") == 3
    assert (ours.stdout, ours.returncode) == (plain.stdout, 0)


def test_a_lightning_cli_script_takes_its_own_arguments(marked_shell, script):
    script(
        "from lightning.pytorch.cli import LightningCLI\n"
        "if __name__ == '__main__':\n"
        "    LightningCLI(BoringModel, save_config_callback=None, trainer_defaults=QUIET)\n",
        name="package/main.py",
    )
    marked_shell.write("package/__init__.py", "")
    arguments = ["fit", "--trainer.max_steps=1", "--trainer.callbacks+=marking.Stateful", "--trainer.callbacks.steps=9"]
    ours = marked_shell.warm_thunderstone("run", "--with", "mark:steps=3", "-m", "package.main", *arguments)
    assert ours.returncode == 0, ours.stderr
    assert sorted(mark["steps"] for mark in marks(marked_shell)) == [3, 9]


DISTRIBUTED = """
if __name__ == "__main__":
    t = trainer(devices=2, strategy="ddp")
    t.fit(BoringModel())
    with open(f"rank-{t.global_rank}", "w") as said:
        print(sys.argv[1:], __spec__ and __spec__.name, file=said)
"""


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("as_module", [False, True], ids=["script", "module"])
def test_workers_that_lightning_starts_have_the_methods_too(marked_shell, script, as_module):
    script(DISTRIBUTED, name="work/train.py")
    marked_shell.write("work/__init__.py", "")
    program = ["-m", "work.train"] if as_module else ["work/train.py"]
    ours = marked_shell.warm_thunderstone("run", "--with", "mark:steps=3", *program, "--epochs", "1")
    assert ours.returncode == 0, ours.stderr
    found = marks(marked_shell)
    assert sorted(mark["rank"] for mark in found) == [0, 1]
    assert len({mark["pid"] for mark in found}) == 2
    assert {mark["steps"] for mark in found} == {3}
    spec = "work.train" if as_module else "None"
    for rank in (0, 1):
        assert (marked_shell.folder / f"rank-{rank}").read_text() == f"['--epochs', '1'] {spec}\n"


@pytest.mark.parametrize("program", [["work/train.py"], ["work"], ["-m", "work"]], ids=["script", "folder", "module"])
def test_options_may_name_what_stands_beside_the_program(run, marked_shell, capsys, monkeypatch, program):
    where = "" if "-m" in program else "work/"
    marked_shell.write(f"{where}neighbour.py", "from marking import Mark\nclass Neighbour(Mark): name = 'neighbour'\n")
    hook = "from thunderstone import MethodSpec, hookimpl\n@hookimpl\ndef thunderstone_methods():\n"
    spec = "    return [MethodSpec('neighbour', 'neighbour:Neighbour', 'marking', 'Stands there.')]\n"
    marked_shell.install("lane", {"lane_plugin": hook + spec}, "[thunderstone]\nlane = lane_plugin\n")
    refresh()
    for name in ("work/__main__.py", "work/train.py"):
        marked_shell.write(name, "from thunderstone.cli import factory\nprint(*factory.callbacks())\n")
    marked_shell.write("work/__init__.py", "")
    assert run("--with", "neighbour:amount=2", *program) == 0
    assert "Neighbour(" in capsys.readouterr().out
    for name in ("neighbour", "lane_plugin"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("given", "option"), [("Stateful(amount=1.0)", "stateful"), ("Mark(steps=1)", "mark:steps=2")])
def test_a_method_the_script_passes_itself_is_not_attached_twice(marked_shell, script, given, option):
    script(f"from marking import *\ntrainer(callbacks=[{given}]).fit(BoringModel())\n")
    ours = marked_shell.warm_thunderstone("run", "--with", option, "train.py")
    assert ours.returncode == 1
    assert "more than one stateful callback" in ours.stderr
    name = option.partition(":")[0]
    assert ours.stderr.endswith(
        f"thunderstone run: --with adds {name} to the callbacks the script passes itself: leave out one of the two.\n"
    )


NO_TRAINER = (
    "thunderstone run: no Trainer of `lightning.pytorch` was built in this process, so nothing was attached: {}.\n"
)


@pytest.fixture
def run(marking, marked_shell, monkeypatch):
    """`thunderstone run` in this process, which has Lightning loaded already; gives the exit code."""
    monkeypatch.setattr(sys, "argv", ["thunderstone"])
    # The program's directory takes the place of the command's, which comes first.
    monkeypatch.setattr(sys, "path", ["bin", *sys.path])
    monkeypatch.setattr(factory, "trainers_built", 0)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
    return lambda *arguments: main(["run", *arguments])


def test_a_run_without_a_trainer_says_so_at_the_end(run, marked_shell, capsys):
    marked_shell.write("train.py", "print('done')\n")
    assert run("--with", "mark", "train.py") == 0
    assert tuple(capsys.readouterr()) == ("done\n", NO_TRAINER.format("mark"))


def test_a_run_that_exits_without_a_trainer_says_so_too(run, marked_shell, capsys):
    marked_shell.write("train.py", "import sys\nsys.exit('no data')\n")
    with pytest.raises(SystemExit, match="no data"):
        run("--with", "mark", "--with", "stateful", "train.py")
    assert capsys.readouterr().err == NO_TRAINER.format("mark, stateful")


def test_a_run_with_a_trainer_says_nothing(run, marked_shell, capsys):
    marked_shell.write("train.py", "from thunderstone.cli import factory\nprint(*factory.callbacks())\n")
    assert run("--with", "mark:amount=2", "train.py") == 0
    out, err = capsys.readouterr()
    assert out.startswith("Mark(path=PosixPath('marks'), amount=2.0")
    assert err == ""


def test_a_script_on_the_other_lightning_package_is_told_the_way_out(run, marked_shell, capsys):
    marked_shell.write("pytorch_lightning.py", "")
    marked_shell.write("train.py", "import pytorch_lightning as pl\n")
    assert run("--with", "mark", "train.py") == 0
    said = capsys.readouterr().err
    assert "imports `pytorch_lightning`" in said
    assert said.endswith("HINT: write `import lightning.pytorch as pl` in the script\n")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("marc", "There is no method named 'marc'. Did you mean 'mark'?"),
        ("mark:amuont=1", "Mark: amuont='1' is not allowed: there is no argument of this name. HINT: Did you mean"),
        ("mark:steps=many", "Mark: steps='many' is not allowed: it must be none, or it must be a whole number"),
        ("mark:amount=-1", "Mark: amount=-1.0 is not allowed: it must be 0 or more"),
        ("mark:amount=2", "Mark("),
    ],
)
def test_what_cannot_be_attached_is_refused_before_the_script_runs(run, marked_shell, capsys, option, message):
    marked_shell.write("train.py", "open('started', 'w').close()")
    assert run("--with", "mark", "--with", option, "train.py") == 2
    assert capsys.readouterr().err.startswith(f"thunderstone: {message}")
    assert not (marked_shell.folder / "started").exists()


def test_a_missing_script_is_noticed_before_methods_are_imported(marked_shell):
    ours = marked_shell.thunderstone("run", "--with", "marc", "train.py")
    assert ours.returncode == 2
    assert "There is no script 'train.py'" in ours.stderr


def test_an_exception_of_the_script_says_nothing_of_methods(run, marked_shell, capsys):
    marked_shell.write("train.py", "raise ValueError('no data')")
    assert run("--with", "mark", "train.py") == 1
    plain = marked_shell.python("train.py")
    assert capsys.readouterr().err == plain.stderr
