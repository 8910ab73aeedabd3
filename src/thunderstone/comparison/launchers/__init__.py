"""Where the runs of a comparison are started.

`job.py` is the interface, `local.py` this machine, and `ray.py` and `submitit.py` are others, where `supervised.py` is
what watches over a run. `option.py` reads ``--launcher``.
"""

from thunderstone.comparison.launchers.job import STDERR, STDOUT, Ended, Job, Launcher, Running
from thunderstone.comparison.launchers.local import LocalLauncher
from thunderstone.comparison.launchers.option import launcher

__all__ = ["STDERR", "STDOUT", "Ended", "Job", "Launcher", "LocalLauncher", "Running", "launcher"]
