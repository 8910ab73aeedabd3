"""The launchers of clusters, on a real one: Ray's own of this machine, and submitit's executor of processes.

A cluster takes longer to start than everything that is asked of it, so one test asks for all.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from unittest.mock import patch

import pytest
from pretended_runs import PLAIN, SAM
from rich.console import Console

from thunderstone.comparison import results
from thunderstone.comparison.compare import compare
from thunderstone.comparison.launchers import Job, launcher
from thunderstone.comparison.request import Request
from thunderstone.errors import RequestError
from thunderstone.tracking.provenance import is_alive
from thunderstone.tracking.run_record import read_record

SCRIPT = """
import json, os, sys
seed = int(sys.argv[sys.argv.index("--seed") + 1])
print("seed", seed, "threads", os.environ["OMP_NUM_THREADS"])
if "--with" in sys.argv:
    raise ValueError("no luck with a method")
content = json.dumps({"metrics": {"val_acc": float(seed)}, "fit_seconds": 1.0, "passes": 10})
with open(os.path.join(os.environ["THUNDERSTONE_RUN"], "outcome.json"), "w") as file:
    file.write(content)
"""
PATIENCE = 60.0


class Cluster:
    """Starts small programs with a launcher, each in a folder of its own."""

    def __init__(self, launcher, root):
        self.launcher, self.root, self.count = launcher, root, 0

    def start(self, source, folder=None, **variables):
        self.count += 1
        folder = folder or self.root / f"job{self.count}"
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-S", "-c", source]
        return folder, self.launcher.start(Job(command, {**os.environ, **variables}, self.root, folder))


def waited(question):
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return answer


def text(path):
    return path.read_text() if path.exists() else ""


def check_single_runs(cluster):
    """How programs end, and why: by themselves, by a signal, as Ctrl-C does, and with what watches over them."""
    source = "import os, sys; print(os.environ['WORD']); print('bad', file=sys.stderr); sum(range(10**6)); sys.exit(3)"
    folder, running = cluster.start(source, WORD="good")
    _, killed = cluster.start("import os; os.kill(os.getpid(), 9)")
    end = waited(running.poll)
    assert end.exit_code == 3
    assert running.poll() == end, "however often one asks"
    assert (text(folder / "stdout.txt"), text(folder / "stderr.txt")) == ("good\n", "bad\n")
    assert end.processor_seconds > 0
    assert end.wall_seconds < 20, "without the time in the queue"
    assert waited(lambda: running.process)["pid"] > 0
    assert waited(killed.poll).exit_code == -9

    source = "import time\ntry:\n print('up', flush=True); time.sleep(99)\nexcept KeyboardInterrupt:\n print('clean')"
    folder, running = cluster.start(source)
    watched, lost = cluster.start("import os, time; print(os.getppid(), flush=True); time.sleep(99)")
    waited(lambda: text(folder / "stdout.txt"))
    process = waited(lambda: running.process)
    assert is_alive(process)
    running.interrupt()
    running.stop()
    assert text(folder / "stdout.txt") == "up\nclean\n", "although workers of clusters do not listen to Ctrl-C"
    assert not is_alive(process)

    worker = int(waited(lambda: text(watched / "stdout.txt")))
    process = waited(lambda: lost.process)
    os.kill(worker, signal.SIGKILL)
    end = waited(lost.poll)
    assert end.exit_code is None
    waited(lambda: not is_alive(process))
    return end.reason


def check_comparison(cluster, monkeypatch):
    """A whole one, with a run that fails."""
    script = cluster.root / "train.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr("thunderstone.comparison.schedule._thunderstone", lambda: [sys.executable, "-S", str(script)])
    request = Request((PLAIN, SAM), range(1, 2), "val_acc", "max", None, (str(script),), cluster.root / "out")
    stream = io.StringIO()
    with patch("thunderstone.comparison.compare.draw"):
        assert compare(request, cluster.launcher, 4, Console(file=stream, width=100)) == 1
    found = {result.key: result for result in results.read(request.output / "runs.jsonl")}
    assert {key: result.metrics.get("val_acc") for key, result in found.items()} == {
        ("plain", 1): 1.0,
        ("sam:rho=0.1", 1): None,
    }
    failed = found["sam:rho=0.1", 1]
    assert (failed.status, failed.exit_code, failed.reason) == ("failed", 1, "ValueError: no luck with a method")
    assert "sam:rho=0.1, seed 1 failed (exit code 1)" in stream.getvalue()
    for result in found.values():
        folder = request.output / result.folder
        assert text(folder / "stdout.txt") == f"seed {result.seed} threads 1\n"
        record = read_record(folder / "run.json")
        assert (record["status"], record["process"]["pid"] > 0) == (result.status, True)
        assert record["processor_seconds"] > 0


@pytest.mark.slow
def test_ray(tmp_path, monkeypatch, capfd):
    cluster = Cluster(launcher("ray:address=local"), tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    assert (cluster.launcher.jobs(9), cluster.launcher.share(9)) == (9, 1)
    greedy = launcher("ray:address=local,gpus=99")
    try:
        assert "WorkerCrashedError: The worker died unexpectedly" in check_single_runs(cluster)

        with pytest.raises(RequestError, match="gpus=99 is more than the cluster of this machine has, which is"):
            Cluster(greedy, tmp_path).start("")
        assert signal.getsignal(signal.SIGTERM) == handler, "the comparison's own, with which it keeps its results"

        # A task that no machine has room for waits, and leaves the queue when it is told to.
        import ray

        room = int(ray.cluster_resources()["CPU"])
        crowd = [cluster.start("import time; time.sleep(99)") for _ in range(room + 1)]
        waited(lambda: sum(running.process is not None for _, running in crowd) == room)
        for _, running in crowd:
            running.interrupt()
        for _, running in crowd:
            running.stop()
        never = [running.poll().reason for _, running in crowd if running.process is None]
        assert len(never) == 1
        assert "TaskCancelledError" in never[0]

        check_comparison(cluster, monkeypatch)  # closes the launcher, as every comparison does
        assert not ray.is_initialized()
    finally:
        cluster.launcher.close()
    assert capfd.readouterr() == ("", ""), "Ray says nothing on the terminal"
    assert not any(name in os.environ for name in ("RAY_DEDUP_LOGS_SKIP_REGEX", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"))


@pytest.mark.slow
def test_submitit(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("thunderstone.comparison.launchers.submitit._POLL_SECONDS", 0.1)
    monkeypatch.setattr("thunderstone.comparison.launchers.submitit._DELAY_SECONDS", 0.1)
    cluster = Cluster(launcher("submitit:cluster=local,timeout_min=5"), tmp_path)
    _, early = cluster.start("import time; time.sleep(99)")
    early.interrupt()  # before it has begun
    assert "its job ended without a result, in the state" in check_single_runs(cluster)
    early.stop()
    assert waited(early.poll).exit_code == -signal.SIGINT
    check_comparison(cluster, monkeypatch)
    assert capfd.readouterr() == ("", "")


# As much of SLURM as submitit uses: a queue that is always empty, of one machine.
SLURM = {
    "sbatch": """id=$$
export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
setsid bash "$1" < /dev/null > /dev/null 2>&1 &
echo $! > "$PIDS/$id"
echo "Submitted batch job $id"
""",
    "srun": """shift 5  # --unbuffered --output FILE --error FILE
exec "$@"
""",
    "sacct": """echo "JobID|State|NodeList"
while [ $# -gt 0 ]; do
    if [ "$1" = -j ]; then
        if kill -0 "$(cat "$PIDS/$2")" 2> /dev/null; then state=RUNNING; else state=OUT_OF_MEMORY; fi
        echo "$2|$state|here"
    fi
    shift
done
""",
    "scancel": """kill -TERM -- "-$(cat "$PIDS/$1")"
""",
}


@pytest.mark.slow
def test_submitit_on_slurm(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("thunderstone.comparison.launchers.submitit._POLL_SECONDS", 0.1)
    monkeypatch.setattr("thunderstone.comparison.launchers.submitit._DELAY_SECONDS", 0.1)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text_of_it in SLURM.items():
        (commands / name).write_text(f"#!/bin/bash\n{text_of_it}")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PIDS", str(commands))
    options = "partition=gpu,timeout_min=120,gpus=2,cpus=3,additional={exclude: node7}"
    cluster = Cluster(launcher(f"submitit:{options}"), tmp_path)
    assert (cluster.launcher.jobs(9), cluster.launcher.share(9)) == (9, 3)

    ends, running = cluster.start(
        "import os, sys; print(os.environ['SLURM_JOB_ID'], os.environ.get('SLURM_NTASKS')); sys.exit(3)"
    )
    source = "import time\ntry:\n print('up', flush=True); time.sleep(99)\nexcept KeyboardInterrupt:\n print('clean')"
    cancelled, far = cluster.start(source)
    assert waited(running.poll).exit_code == 3
    number = int(text(ends / "stdout.txt").split()[0])
    assert text(ends / "stdout.txt") == f"{number} 1\n"
    [asked] = (ends / "submitit").glob("*submission.sh")
    flags = {line.removeprefix("#SBATCH --") for line in asked.read_text().splitlines() if line.startswith("#SBATCH")}
    wanted = {
        "partition=gpu",
        "time=120",
        "gpus-per-node=2",
        "cpus-per-task=3",
        "exclude=node7",
        "job-name=thunderstone",
    }
    assert flags >= wanted

    # On another machine, which no signal of this one reaches: SLURM is asked.
    waited(lambda: text(cancelled / "stdout.txt"))
    process = waited(lambda: far.process)
    with patch("thunderstone.comparison.launchers.submitit.socket.gethostname", lambda: "elsewhere"):
        far.interrupt()
        far.stop()
    assert "its job was ended from outside (SIGTERM)" in waited(far.poll).reason
    assert text(cancelled / "stdout.txt") == "up\nclean\n"
    assert not is_alive(process)
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_a_machine_does_not_share_is_named(tmp_path, monkeypatch):
    from thunderstone.comparison.launchers import supervised

    monkeypatch.setattr(supervised, "_PATIENCE", 0)
    with pytest.raises(FileNotFoundError, match=r"not there on .*HINT: --output a folder that every machine"):
        supervised.supervise(Job(["python"], {}, tmp_path, tmp_path / "elsewhere"))


def test_what_watches_over_a_run_does_without_torch():
    source = "import sys, thunderstone.comparison.launchers.supervised; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0
