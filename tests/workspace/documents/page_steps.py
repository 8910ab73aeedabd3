"""What one document's process does: its Python, its commands, its configuration files, in its own folder."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import command_lines

# Lightning reads the Trainer's defaults from here: what a page does not say is kept small.
QUIET = {
    "PL_TRAINER_ACCELERATOR": "cpu",
    "PL_TRAINER_ENABLE_PROGRESS_BAR": "False",
    "PL_TRAINER_ENABLE_MODEL_SUMMARY": "False",
}
SMALL = {"PL_TRAINER_MAX_EPOCHS": "1", "PL_TRAINER_LIMIT_TRAIN_BATCHES": "2"}
TRAIN = "from lightning.pytorch import Trainer\nfrom {setup} import module\n\nTrainer().fit(module)\n"
# LightningCLI passes every argument of the Trainer, so that the environment's defaults do not reach it.
MAIN = """from lightning.pytorch.cli import LightningCLI
from {setup} import Net

small = dict(accelerator="cpu", max_epochs=1, limit_train_batches=2, logger=False, enable_checkpointing=False)
quiet = dict(enable_progress_bar=False, enable_model_summary=False)
LightningCLI(Net, trainer_defaults={**small, **quiet}, save_config_callback=None)
"""


def take(request: dict[str, Any]) -> int:
    """Take the steps of a document; 0 when all went well. What went wrong is on standard error, with its line."""
    document, setup = request["document"], request["setup"]
    os.chdir(request["folder"])
    os.environ.update(QUIET)
    sys.path.insert(0, os.getcwd())
    names: dict[str, Any] = {"__name__": "__main__"}
    given: set[str] = set()
    if setup is not None:
        os.environ.update(SMALL)
        try:
            given = prepare(setup, names)
        except BaseException:
            print(f"{document}: its set-up {setup} failed:", file=sys.stderr)
            traceback.print_exc()
            return 1
    for step in request["steps"]:
        try:
            _take(step, document, setup, names)
        except BaseException:
            print(f"{document}, line {step['line']}:", file=sys.stderr)
            traceback.print_exc()
            return 1
    if setup is not None:
        try:
            finish(names, given, sys.modules[setup].module)
        except BaseException:
            print(f"{document}: its `trainer` does not train the module of its set-up:", file=sys.stderr)
            traceback.print_exc()
            return 1
    return 0


def prepare(setup: str, names: dict[str, Any]) -> set[str]:
    """Put the set-up's names into `names` and its files into the folder."""
    module = import_module(setup)
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    names.update(public)
    for name, text in {"train.py": TRAIN, "main.py": MAIN, **getattr(module, "FILES", {})}.items():
        Path(name).write_text(text.replace("{setup}", setup), encoding="utf-8")
    if hasattr(module, "prepare"):
        module.prepare()
    return set(public)


def finish(names: dict[str, Any], given: set[str], module: Any) -> None:
    """Train with the last `trainer` a page has made and not used, so that what it attaches is attached for once."""
    trainer = names.get("trainer")
    if trainer is not None and "trainer" not in given and trainer.state.fn is None:
        trainer.fit(module)


def _take(step: dict[str, Any], document: str, setup: str | None, names: dict[str, Any]) -> None:
    kind, text = step["kind"], step["text"]
    if kind == "file":
        path = Path(step["name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    elif kind == "python":
        # Blank lines in front, so that a traceback names the line of the document.
        exec(compile("\n" * (step["line"] - 1) + text, document, "exec"), names)
    elif kind == "command":
        command_lines.follow(text, only_check=step["check"])
    elif kind == "yaml":
        configure(text, setup, only_check=step["check"])
    else:
        raise AssertionError(kind)


def configure(text: str, setup: str | None, *, only_check: bool) -> None:
    """Train with a configuration file of LightningCLI; any other YAML only has to parse."""
    import yaml

    content = yaml.safe_load(text)
    if only_check or not isinstance(content, dict) or "trainer" not in content:
        return
    if setup is None:
        raise AssertionError("a configuration of a Trainer needs a set-up to train: <!-- setup: NAME --> in the page")
    path = Path("block.yaml")
    path.write_text(text, encoding="utf-8")

    def fit() -> int:
        sys.argv = ["main.py", "fit", f"--config={path}"]
        runpy.run_path("main.py", run_name="__main__")
        return 0

    command_lines.in_a_copy(fit, "main.py fit --config block.yaml")
