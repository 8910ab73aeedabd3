"""Packages of strangers: the one under examples/ and one that `thunderstone new` makes.

They are used as their users would use them: from wheels, in an environment that has nothing else of this repository.
What the wheels stand on (torch, Lightning) it sees in the environment the tests run in.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

TRAINING = """
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Regression(LightningModule):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))

    def training_step(self, batch):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def train_dataloader(self):
        x = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""
IN_CODE = """
import thunderstone
from training import Regression, Trainer
from thunderstone_flint import GradientNoise, JsonLines
from thunderstone_pruning import GradualPruning
from thunderstone_sharpness import SAM

pruning = GradualPruning(density=0.5, stop=3, interval=1, score="lamp")
methods = [SAM(rho=0.1), GradientNoise(eta=0.1), pruning, JsonLines("records.jsonl")]
module = Regression()
quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
Trainer(callbacks=methods, max_epochs=1, log_every_n_steps=2, logger=False, **quiet).fit(module)
print(sum(int((p == 0).sum()) for name, p in module.named_parameters() if name.endswith("weight")))
"""
WITH_CLI = """
from lightning.pytorch.cli import LightningCLI
from training import Regression

LightningCLI(Regression, seed_everything_default=0)
"""


@pytest.fixture(scope="session")
def environment(once, wheels):
    """A virtual environment with the wheels: the path of its interpreter."""

    def make(folder):
        venv.create(folder, symlinks=True)
        (site,) = folder.glob("lib/python*/site-packages")
        # A path added by a .pth file is searched for modules; the .pth files in it, those of editable installations
        # among them, are not obeyed.
        (site / "outside.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "bin" / "python"]
        install = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", *wheels.glob("*.whl")]
        subprocess.run([*pip, *install], check=True, timeout=200)

    return once("environment", make) / "bin" / "python"


@pytest.fixture
def run(environment, tmp_path):
    """Runs a program of the environment, by its name, in the test's folder: what it prints."""

    def call(program, *arguments, **variables):
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
        folder = Path(variables.pop("FOLDER", tmp_path))
        done = subprocess.run(
            [environment.with_name(program), *map(str, arguments)],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.fixture
def scripts(tmp_path):
    for name, source in (("training", TRAINING), ("in_code", IN_CODE), ("main", WITH_CLI)):
        (tmp_path / f"{name}.py").write_text(source)


def _noise(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["value"] for line in lines if line["key"] == "gradient_noise/standard_deviation"]


def test_nothing_of_the_repository_is_seen(run, environment, packages, third_party, root):
    modules = [package.module for package in (*packages, third_party)]
    code = f"import importlib, json; print(json.dumps([importlib.import_module(n).__file__ for n in {modules!r}]))"
    files = [Path(file) for file in json.loads(run("python", "-c", code))]
    prefix = environment.parents[1]
    assert all(file.is_relative_to(prefix) for file in files), files
    assert str(root / "src") not in run("python", "-c", "import sys; print(sys.path)")


def test_its_methods_and_strategies_are_listed(run, packages):
    listed = json.loads(run("thunderstone", "list", "--json"))
    names = {method["name"]: method["distribution"] for method in listed["methods"]}
    assert {names["gradient_noise"], names["json_lines"]} == {"thunderstone-flint"}
    assert names["sam"] == "thunderstone-sharpness"
    scores = [s["distribution"] for s in listed["strategies"] if (s["kind"], s["name"]) == ("pruning.score", "lamp")]
    assert scores == ["thunderstone-flint"]
    assert {package.name for package in packages} <= set(names.values())


@pytest.mark.slow
@pytest.mark.usefixtures("scripts")
def test_it_works_in_code_beside_first_party_methods(run, tmp_path):
    """Its method with SAM, its strategy in GradualPruning, its observer on both."""
    assert run("python", "in_code.py").split()[-1] == "16"  # half of 32 weights
    keys = {json.loads(line)["key"] for line in (tmp_path / "records.jsonl").read_text().splitlines()}
    assert {"sam/gradient_norm", "gradient_noise/standard_deviation"} <= keys
    assert _noise(tmp_path / "records.jsonl") == pytest.approx([(0.1 / (1 + t) ** 0.55) ** 0.5 for t in (1, 3, 5)])


@pytest.mark.slow
@pytest.mark.usefixtures("scripts")
def test_it_works_on_the_command_line_and_with_lightning_cli(run, tmp_path):
    """Its observer by `thunderstone run`, its method by the arguments of a script that uses LightningCLI."""
    trainer = ["--trainer.max_epochs=1", "--trainer.log_every_n_steps=3", "--trainer.enable_progress_bar=false"]
    method = ["--trainer.callbacks+=thunderstone_flint.GradientNoise", "--trainer.callbacks.eta=0.3"]
    run("thunderstone", "run", "--with", "json_lines:path=lines.jsonl", "main.py", "fit", *trainer, *method)
    assert _noise(tmp_path / "lines.jsonl") == pytest.approx([(0.3 / (1 + t) ** 0.55) ** 0.5 for t in (2, 5)])


@pytest.mark.slow
def test_it_passes_its_own_tests(run, third_party, tmp_path):
    # Without its sources, so that what is tested is what is installed.
    shutil.copytree(third_party.directory / "tests", tmp_path / "tests")
    shutil.copy(third_party.directory / "pyproject.toml", tmp_path)
    # The observer has no state that a kill could lose, and most families would only repeat how two methods compose.
    chosen = "not (json_lines and (resumes or compiled or ddp))"
    others = {"THUNDERSTONE_DISABLE": "estimators,grpo,hyperfitting,sharpness"}
    summary = run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, **others).splitlines()[-1]
    assert " passed" in summary


@pytest.mark.slow
@pytest.mark.timeout(600)  # without what `make types` leaves behind, mypy alone takes minutes
def test_a_package_from_the_template_passes_its_own_checks(run, environment, root, tmp_path):
    """As it comes out of `thunderstone new`: installed, then its lint, its types and its tests, by its own settings."""
    run("thunderstone", "new", "lookahead")
    package = tmp_path / "thunderstone-lookahead"
    tools = Path(sys.executable).parent
    # What mypy knows of torch and Lightning from `make types` it need not find out again.
    types = ["mypy", "--cache-dir", str(root / ".mypy_cache")]
    for command in (["ruff", "check", "--no-cache", "."], ["ruff", "format", "--no-cache", "--check", "."], types):
        done = subprocess.run(
            [tools / command[0], *command[1:]], cwd=package, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stdout + done.stderr
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", environment]
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    # Beside the environment and not in it: other tests use that at the same time.
    subprocess.run([*pip, "install", *offline, "--target", tmp_path / "site", package], check=True, timeout=200)
    shutil.rmtree(package / "src")
    others = "estimators,grpo,hyperfitting,pruning,sharpness"  # with them it takes three times as long
    settings = {"FOLDER": str(package), "PYTHONPATH": str(tmp_path / "site"), "THUNDERSTONE_DISABLE": others}
    listed = json.loads(run("thunderstone", "list", "--json", **settings))
    assert "lookahead" in {method["name"] for method in listed["methods"]}
    summary = run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", **settings).splitlines()[-1]
    assert " passed" in summary
