"""`thunderstone run --seed` and `thunderstone compare` on scripts that know nothing of them."""

from __future__ import annotations

import json

import pytest

from thunderstone.cli.main import main

SCRIPT = """
import hashlib, os, sys
import torch
import lightning.pytorch as pl
from lightning.pytorch import seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel

class Model(BoringModel):
    def validation_step(self, batch, batch_idx):
        self.log("norm", sum(p.norm() for p in self.parameters()))

if __name__ == "__main__":
    print(">", torch.initial_seed(), torch.rand(1).item())
    print(">", seed_everything(42, verbose=False), torch.initial_seed(), torch.rand(1).item())
    model = Model()
    few = dict(max_epochs=1, limit_train_batches=3, limit_val_batches=1)
    t = pl.Trainer(accelerator="cpu", enable_progress_bar=False, **few)
    t.fit(model)
    print(">", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
    print(">", t.default_root_dir)
    if "--fail" in sys.argv and "THUNDERSTONE_WITH" in os.environ:
        raise ValueError("no luck with a method")
"""


def said(text):
    """What the script itself has printed, among Lightning's own lines."""
    return [line[2:] for line in text.splitlines() if line.startswith("> ")]


@pytest.mark.slow
def test_a_comparison_of_real_runs(marked_shell):
    marked_shell.write("train.py", SCRIPT)
    alone = marked_shell.warm_thunderstone("run", "--seed", "0", "train.py")
    assert alone.returncode == 0, alone.stderr
    begins, answered, weights, root = said(alone.stdout)
    assert begins.split()[0] == "0"
    assert answered.split() == ["0", *begins.split()], "seed_everything(42) gives the seed that was asked for"
    assert "the script asks for seed_everything(42) and gets 0, as --seed says" in alone.stderr
    assert root == str(marked_shell.folder)

    options = ["--setting", "plain", "--setting", "mark:path=here", "--seeds", "1", "--metric", "norm", "--jobs", "2"]
    ours = marked_shell.thunderstone("compare", *options, "train.py", "--fail")
    assert ours.returncode == 1, ours.stderr
    output = marked_shell.folder / "runs/compare-train"
    results = [json.loads(line) for line in (output / "runs.jsonl").read_text().splitlines()]
    status = {result["setting"]: result["status"] for result in results}
    assert status == {"plain": "finished", "mark:path=here": "failed"}
    assert "mark:path=here, seed 0 failed (exit code 1)" in ours.stdout
    assert "ValueError: no luck with a method" in ours.stdout
    assert len((marked_shell.folder / "here").read_text().splitlines()) == 1, "attached, to the one run"
    for result in results:
        assert result["metrics"].keys() == {"norm"}
        assert (result["passes"], result["steps"], result["seeds_overridden"]) == (3, 3, [42])
        folder = output / result["folder"]
        printed = said((folder / "stdout.txt").read_text())
        assert printed[:3] == [begins, answered, weights], "the same bits as the run alone; this method changes none"
        assert printed[3] == str(folder), "loggers and checkpoints go to the run's own folder"
        assert list(folder.glob("lightning_logs/version_0/checkpoints/*.ckpt"))
    again = marked_shell.thunderstone("rerun", output / "runs/plain/seed0")
    assert again.returncode == 0, again.stdout
    assert "1 of 1 metrics are identical." in again.stdout


WORKER = """
import os, sys
from lightning.pytorch import Trainer, seed_everything
seed_everything(42, verbose=False)
Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
import torch
print(torch.initial_seed(), os.environ["PL_GLOBAL_SEED"])
"""


def test_a_worker_that_was_not_started_by_us_has_the_seed_by_the_time_it_trains(shell):
    shell.write("train.py", WORKER)
    ours = shell.warm_python("train.py", THUNDERSTONE_SEED="7", THUNDERSTONE_RUN=str(shell.folder))
    assert (ours.returncode, ours.stdout) == (0, "7 7\n"), ours.stderr


@pytest.mark.parametrize("seed", ["-1", "4294967296", "many"])
def test_a_seed_that_is_none_is_refused(seed, capsys):
    assert main(["run", "--seed", seed, "train.py"]) == 2
    assert "Invalid value for '--seed'" in capsys.readouterr().err


PLAIN = ["compare", "--metric", "val_acc", "--setting", "plain"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--setting", "plain", "train.py"], "Missing option '--metric'"),
        ([*PLAIN, "--seeds", "0", "train.py"], "Invalid value for '--seeds'"),
        ([*PLAIN, "--mode", "best", "train.py"], "compare: --mode 'best' is neither max nor min"),
        ([*PLAIN, "--setting", "sam"], "compare: there is no script"),
        ([*PLAIN, "--setting", "sam", "trian.py"], "There is no script 'trian.py'"),
        ([*PLAIN, "train.py"], "compare: it needs two settings or more"),
        ([*PLAIN, "--setting", "marc", "train.py"], "There is no method named 'marc'"),
        ([*PLAIN, "--setting", "sam", "--launcher", "slurm", "train.py"], "there is no launcher 'slurm'"),
        ([*PLAIN, "--setting", "sam", "--launcher", "ray:gpu=1", "train.py"], "ray has no option 'gpu'"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(arguments, message, capsys, tmp_path):
    (tmp_path / "train.py").write_text("open('started', 'w').close()")
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.py"]


@pytest.mark.parametrize("variable", ["THUNDERSTONE_WITH", "THUNDERSTONE_RUN"])
def test_variables_that_would_reach_every_run_are_refused(variable, capsys, monkeypatch, tmp_path):
    (tmp_path / "train.py").write_text("")
    monkeypatch.setenv(variable, "[]")
    assert main([*PLAIN, "--setting", "sam", "train.py"]) == 2
    assert f"compare: {variable} is set, and would reach every run. HINT: unset {variable}" in capsys.readouterr().err


def test_what_follows_a_module_belongs_to_it(monkeypatch):
    asked = []
    monkeypatch.setattr("thunderstone.cli.compare_command.execute", lambda *given: asked.append(given) or 0)
    assert main([*PLAIN, "--setting=sam", "-m", "package.train", "--metric", "loss", "-m", "x"]) == 0
    [(settings, _, metric, *_, module, arguments)] = asked
    assert (settings, metric, module) == (["plain", "sam"], "val_acc", "package.train")
    assert arguments == ["--metric", "loss", "-m", "x"]
