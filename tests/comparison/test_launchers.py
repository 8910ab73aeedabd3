"""Real processes of this machine, small ones."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from thunderstone.comparison.launchers import Job, LocalLauncher, launcher
from thunderstone.comparison.launchers.devices import visible_devices
from thunderstone.comparison.launchers.ray import RayLauncher
from thunderstone.comparison.launchers.submitit import SubmititLauncher
from thunderstone.comparison.launchers.supervised import environment_here
from thunderstone.errors import RequestError
from thunderstone.tracking.provenance import is_alive


def start(folder, source, **variables):
    command = [sys.executable, "-S", "-c", source]
    return LocalLauncher().start(Job(command, {**os.environ, **variables}, folder, folder))


def ended(running, patience=30.0):
    deadline = time.monotonic() + patience
    while (end := running.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return end


def said(path, patience=30.0):
    deadline = time.monotonic() + patience
    while not path.exists() or not path.read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text().strip()


def test_a_process_leaves_its_output_its_exit_code_and_its_time(tmp_path):
    source = "import os, sys; print(os.environ['WORD']); print('bad', file=sys.stderr); sum(range(10**6)); sys.exit(3)"
    running = start(tmp_path, source, WORD="good")
    end = ended(running)
    assert end.exit_code == 3
    assert running.poll() == end, "however often one asks"
    assert ((tmp_path / "stdout.txt").read_text(), (tmp_path / "stderr.txt").read_text()) == ("good\n", "bad\n")
    assert end.processor_seconds > 0
    assert 0 < end.wall_seconds < 30


def test_a_process_that_a_signal_ends_has_its_number(tmp_path):
    assert ended(start(tmp_path, "import os; os.kill(os.getpid(), 9)")).exit_code == -9


@pytest.fixture
def _listening():
    """Ctrl-C is not ignored, as it is by what a shell starts in the background, and by what that starts in turn."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.usefixtures("_listening")
def test_an_interrupted_process_can_clean_up(tmp_path):
    source = "import time\ntry:\n print('up', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n print('clean')"
    running = start(tmp_path, source)
    said(tmp_path / "stdout.txt")
    assert is_alive(running.process)
    running.interrupt()
    running.stop()
    assert (tmp_path / "stdout.txt").read_text() == "up\nclean\n"
    assert not is_alive(running.process)


def test_a_process_that_does_not_listen_is_killed_with_what_it_has_started(tmp_path, monkeypatch):
    monkeypatch.setattr("thunderstone.comparison.launchers.local.GRACE_SECONDS", 0.1)
    source = (
        "import os, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = os.fork()\nprint(child, flush=True) if child else None\ntime.sleep(60)"
    )
    running = start(tmp_path, source)
    child = int(said(tmp_path / "stdout.txt"))
    running.interrupt()
    running.stop()
    assert running.poll().exit_code == -9
    deadline = time.monotonic() + 30
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- devices -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def devices(monkeypatch):
    """A function that pretends this machine to have GPUs."""

    def pretend(count, listed=None):
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if listed is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)

    return pretend


@pytest.mark.parametrize(
    ("count", "listed", "expected"),
    [
        (2, None, ["0", "1"]),
        (2, "4, 7", ["4", "7"]),
        (1, "GPU-8932f937", ["GPU-8932f937"]),
        (1, "3,-1,2", ["3"]),
        (0, "", []),
        (0, None, []),
    ],
)
def test_devices_are_those_that_this_process_may_use(devices, count, listed, expected):
    devices(count, listed)
    assert visible_devices() == expected


@pytest.mark.usefixtures("_listening")
def test_runs_that_go_on_side_by_side_have_a_device_each(devices, tmp_path):
    devices(2, "4,7")
    launcher = LocalLauncher()
    assert launcher.jobs(runs=8) == 2
    launcher.share(3)
    source = "import os, sys, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(60)"
    folders = [tmp_path / name for name in "abcd"]
    running = []
    for folder in folders[:3]:
        folder.mkdir()
        command = [sys.executable, "-S", "-c", source]
        running.append(launcher.start(Job(command, {**os.environ}, tmp_path, folder)))
    try:
        assert [said(folder / "stdout.txt") for folder in folders[:3]] == ["4", "7", "4"]
        for run in (running[0], running[2]):
            run.interrupt()
            run.stop()
        folders[3].mkdir()
        running.append(launcher.start(Job(command, {**os.environ}, tmp_path, folders[3])))
        assert said(folders[3] / "stdout.txt") == "4", "the one that is free again"
    finally:
        for run in running:
            os.killpg(run.process["pid"], signal.SIGKILL) if run.poll() is None else None
            ended(run)


@pytest.mark.parametrize(("count", "jobs"), [(2, 1), (1, 2), (0, 2)])
def test_a_run_that_is_alone_or_has_nothing_to_choose_from_sees_what_the_comparison_sees(
    devices, tmp_path, count, jobs
):
    devices(count)
    launcher = LocalLauncher()
    launcher.share(jobs)
    source = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    run = launcher.start(Job([sys.executable, "-S", "-c", source], {**os.environ}, tmp_path, tmp_path))
    assert ended(run).exit_code == 0
    assert (tmp_path / "stdout.txt").read_text() == "None\n"


def test_of_its_machine_a_run_knows_what_the_scheduler_says(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("HOME", "/there")
    monkeypatch.delenv("TMPDIR", raising=False)
    asked = {"HOME": "/home", "CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_NTASKS": "4", "TMPDIR": "/mine", "WORD": "x"}
    given = environment_here(asked)
    of_slurm = {name for name in given if name.startswith("SLURM")}
    assert of_slurm == {"SLURM_JOB_ID"}
    assert {name: given[name] for name in given.keys() - of_slurm} == {
        "HOME": "/home",
        "CUDA_VISIBLE_DEVICES": "1",
        "WORD": "x",
    }


# -- the option --------------------------------------------------------------------------------------------------------


def test_the_option_names_a_launcher_and_its_arguments():
    assert isinstance(launcher("local"), LocalLauncher)
    assert isinstance(launcher("ray"), RayLauncher)
    ray = launcher("ray:address=10.0.0.1:6379, cpus=4,gpus=0.5")
    assert vars(ray).items() >= {"_address": "10.0.0.1:6379", "_cpus": 4.0, "_gpus": 0.5}.items()
    assert ray.share(jobs=7) == 4
    slurm = launcher("submitit:cluster=local,partition=gpu,timeout_min=120,gpus=1,additional={exclude: node7}")
    assert isinstance(slurm, SubmititLauncher)
    assert (slurm._parameters["slurm_partition"], slurm._parameters["timeout_min"]) == ("gpu", 120)
    assert slurm._parameters["slurm_additional_parameters"] == {"exclude": "node7"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("locl", r"there is no launcher 'locl'. Did you mean 'local'\?"),
        ("local:jobs=2", "local has no option 'jobs'. It has none."),
        ("ray:gpu=1", r"ray has no option 'gpu'. Did you mean 'gpus'\?"),
        ("ray:gpus", "'gpus' is not written as key=value. HINT: --launcher ray alone takes every default"),
        ("ray:gpus=one", "gpus=one is not allowed: it must be .* HINT: gpus is of type"),
        ("submitit:cluster=loca", r"one of slurm, local \(did you mean 'local'\?\)\. HINT: cluster is of type"),
        ("ray:cpus=1.5", "ray:cpus=1.5 is not allowed: Ray sets aside a whole number"),
        ("ray:gpus=1,gpus=2", "gpus is given twice"),
        ("submitit:cluster=local,additional={a", "'}' is missing"),
        ("submitit:cluster=local,timeout_min=0", "timeout_min=0 is not allowed: it must be 1 or more"),
        ("submitit", "there is no SLURM on this machine .* HINT: start it where jobs are submitted"),
    ],
)
def test_an_option_that_cannot_be_is_refused(text, message, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RequestError, match=message):
        launcher(text)


@pytest.mark.parametrize("name", ["ray", "submitit"])
def test_a_package_that_is_missing_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RequestError, match=rf"needs '{name}', .* HINT: pip install 'thunderstone\[{name}\]'"):
        launcher(f"{name}:cpus=1")
