"""Whatever a package does wrong, it breaks no other, shows in `list` and `doctor` with the way out, and says why."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from importlib.metadata import entry_points

import pytest

import thunderstone

HEAD = "from thunderstone import MethodSpec, hookimpl\n"


# Elsewhere what crashes a process crashes this one.
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


@dataclass(frozen=True)
class Broken:
    """What a package does, what is to be said of it, and its way out."""

    source: str
    reason: str
    hint: str = ""
    metadata: str = ""


BROKEN = {
    "raises": Broken("raise ImportError('libgone.so is missing')", "ImportError: libgone.so is missing"),
    "exits": Broken("import sys; sys.exit(3)", "SystemExit: 3"),
    "ends": Broken("import os; os._exit(3)", "its import ended the process with exit code 3"),
    "crashes": Broken("import ctypes; ctypes.string_at(0)", "its import ended the process with SIGSEGV"),
    "blocks": Broken(  # in compiled code, and keeps the interpreter's lock
        "import ctypes; ctypes.PyDLL(None).sleep(60)",
        "its import took longer than 1.2 s",
        "set THUNDERSTONE_DISABLE=blocks to leave it out, or THUNDERSTONE_IMPORT_TIMEOUT=7.2 to wait longer",
    ),
    "hooks": Broken(
        HEAD + "@hookimpl\ndef thunderstone_methods():\n    raise RuntimeError('no luck')\n", "RuntimeError: no luck"
    ),
    "declares": Broken(
        HEAD + "@hookimpl\ndef thunderstone_methods():\n    return [MethodSpec('Not A Name', 'a:B', 'f', 's')]\n",
        "MethodSpec: name='Not A Name' is not allowed: it must look like 'sam' (lower case letters, digits, "
        "underscores)",
        "correct the plug-in's declaration, or set THUNDERSTONE_DISABLE=declares",
    ),
    "needs": Broken(
        "import not_there_at_all",
        "ModuleNotFoundError: No module named 'not_there_at_all'",
        "pip install 'zz-needs[more]', or set THUNDERSTONE_DISABLE=needs",
        metadata="Provides-Extra: more\nRequires-Dist: not-there-at-all>=2; extra == 'more'\n",
    ),
    "newer": Broken(
        "THUNDERSTONE_API = '1.7'\nfrom thunderstone import a_name_of_the_future\n",
        f"it needs a newer thunderstone: it was written for contract 1.7, and thunderstone {thunderstone.__version__} "
        f"has contract {thunderstone.API_VERSION}",
        "pip install --upgrade thunderstone, or set THUNDERSTONE_DISABLE=newer",
    ),
    "damaged": Broken("", "its entry point is damaged = 'not a module!'"),
}
RIVAL = HEAD + (
    "@hookimpl\n"
    "def thunderstone_methods():\n"
    "    return [MethodSpec('stateful', 'zz_rival:Stateful', 'rivals', 'Claims a name.'),\n"
    "            MethodSpec('fatal', 'zz_rival_fatal:Fatal', 'rivals', 'Ends the process.')]\n"
)
SCRIPT = """
import os

import lightning.pytorch as pl
import torch

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 1)), batch_size=2)
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
pl.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(Model(), data)
print("trained", os.environ["THUNDERSTONE_FATAL"])
"""


def way_out(name: str) -> str:
    return BROKEN[name].hint or f"fix or uninstall zz-{name}, or set THUNDERSTONE_DISABLE={name}"


@pytest.fixture
def crowd(marked_shell):
    """A shell with every broken package, one that claims a name of `marking`, and `marking` itself."""
    for name, broken in BROKEN.items():
        module = f"zz_{name}"
        value = "not a module!" if name == "damaged" else module
        marked_shell.install(f"zz-{name}", {module: broken.source}, f"[thunderstone]\n{name} = {value}\n")
        path = marked_shell.site / f"{module}-1.0.dist-info" / "METADATA"
        path.write_text(path.read_text() + broken.metadata)
    marked_shell.install(
        "zz-rival",
        {"zz_rival": RIVAL, "zz_rival_fatal": "import os; os._exit(5)"},
        "[thunderstone]\nrival = zz_rival\n",
    )
    ours = {point.name for point in entry_points(group="thunderstone")}
    marked_shell.variables = {
        "THUNDERSTONE_DISABLE": ",".join(ours),
        "THUNDERSTONE_IMPORT_TIMEOUT": "1.2",
        "COLUMNS": "140",
    }
    return marked_shell


def test_list_shows_each_with_the_way_out_and_the_others_as_ever(crowd):
    ours = crowd.thunderstone("list", **crowd.variables)
    assert (ours.returncode, ours.stderr) == (0, "")
    for name, broken in BROKEN.items():
        (line,) = (line for line in ours.stdout.splitlines() if f"plug-in '{name}' (zz-{name} 1.0)" in line)
        assert line.startswith(f"failed  plug-in '{name}' (zz-{name} 1.0): {broken.reason}. HINT: "), line
        if name != "damaged":
            assert line.endswith(way_out(name))
    assert re.search(r"conflict  The method name 'stateful' is claimed by marking 1.0 .* and zz-rival 1.0", ours.stdout)
    assert "Marks a fit." in ours.stdout


def test_list_as_json_has_them_too(crowd):
    document = json.loads(crowd.thunderstone("list", "--json", **crowd.variables).stdout)
    plugins = {plugin["name"]: plugin for plugin in document["plugins"]}
    for name, broken in BROKEN.items():
        assert (plugins[name]["state"], plugins[name]["reason"]) == ("failed", broken.reason)
        if name != "damaged":
            assert plugins[name]["hint"] == way_out(name)
    assert (plugins["marking"]["state"], plugins["marking"]["hint"]) == ("ok", None)
    assert [method["name"] for method in document["methods"]] == ["fatal", "mark"]
    assert [conflict["name"] for conflict in document["conflicts"]] == ["stateful"]


def test_doctor_shows_them_with_tracebacks_and_outlives_what_they_point_to(crowd):
    ours = crowd.thunderstone("doctor", "--verbose", **crowd.variables)
    assert ours.returncode == 1, ours.stderr
    for name, broken in BROKEN.items():
        assert f"  broken plug-in '{name}' (zz-{name} 1.0): {broken.reason}. HINT: " in ours.stdout
    for where in ("zz_crashes.py", "zz_blocks.py", "zz_raises.py", "a_name_of_the_future"):
        assert where in ours.stdout, f"a stack leads to {where}"
    assert "  ok     plug-in 'marking' (marking 1.0): 2 methods, 1 strategies" in ours.stdout
    assert "  broken name 'stateful': The method name 'stateful' is claimed by" in ours.stdout
    assert "  broken method fatal: its import ended the process with exit code 5" in ours.stdout
    assert "  ok     2 of 3: can be imported" in ours.stdout


def test_a_run_with_another_method_works(crowd):
    crowd.write("train.py", SCRIPT)
    ours = crowd.thunderstone("run", "--with", "mark", "train.py", **crowd.variables)
    assert ours.returncode == 0, ours.stderr
    assert len((crowd.folder / "marks").read_text().splitlines()) == 1
    trained, _, found = ours.stdout.partition(" ")
    assert trained == "trained"
    # What the workers of a run, which are not tried first, are to leave alone.
    assert sorted(name for name, *_ in json.loads(found)) == ["blocks", "crashes", "ends"]


def test_a_run_with_what_is_broken_says_why(crowd):
    crowd.write("train.py", SCRIPT)
    asking = (
        "from thunderstone.cli.main import main\n"
        f"for name in {[*BROKEN, 'stateful']!r}:\n"
        "    print(name, main(['run', '--with', name, 'train.py']))\n"
    )
    ours = crowd.python("-c", asking, **crowd.variables)
    assert ours.stdout.splitlines() == [f"{name} 2" for name in [*BROKEN, "stateful"]]
    *said, conflict = ours.stderr.splitlines()
    for line, (name, broken) in zip(said, BROKEN.items(), strict=True):
        reason = f"thunderstone: plug-in '{name}' (zz-{name} 1.0) could not be loaded: {broken.reason}. HINT: "
        assert line.startswith(reason)
        assert name == "damaged" or way_out(name) in line
    assert "is claimed by marking 1.0" in conflict


def test_a_distribution_that_cannot_be_read_is_one_more_failed_plugin(marked_shell):
    marked_shell.install("zz-torn", {}, "[thunderstone]\nthis line names nothing\n", version="0.1")
    ours = {point.name for point in entry_points(group="thunderstone")}
    listed = marked_shell.thunderstone("list", THUNDERSTONE_DISABLE=",".join(ours), COLUMNS="140")
    assert listed.returncode == 0, listed.stderr
    assert "Marks a fit." in listed.stdout
    assert "failed  plug-in 'zz-torn' (zz-torn 0.1): its entry_points.txt cannot be read: " in listed.stdout
    assert "HINT: reinstall or uninstall zz-torn, or set THUNDERSTONE_DISABLE=zz-torn" in listed.stdout
    other = marked_shell.thunderstone(
        "list", THUNDERSTONE_DISABLE=",".join([*ours, "zz-torn"]), THUNDERSTONE_STRICT="1"
    )
    assert other.returncode == 0, other.stderr
    assert "disabled  plug-in 'zz-torn' (zz-torn 0.1)" in other.stdout
