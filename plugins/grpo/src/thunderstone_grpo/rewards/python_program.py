"""The program in which code that a model wrote is run. Executed by its own interpreter; it imports nothing of ours.

Standard input is JSON: code, tests, a token, limits. The token is printed at the end, so that code that ends the
program on its own has not passed.
"""

import ctypes
import json
import os
import resource
import sys


def without_network() -> bool:
    """Enter user and network namespaces of our own; False where the system does not allow it."""
    new_user, new_network = 0x10000000, 0x40000000
    try:
        return bool(ctypes.CDLL(None, use_errno=True).unshare(new_user | new_network) == 0)
    except (AttributeError, OSError):  # not Linux
        return False


def ends_with_its_parent() -> None:
    """Whoever waits for this program may be killed itself; nobody would end it then."""
    if sys.platform == "linux":
        set_parent_death_signal, kill = 1, 9
        ctypes.CDLL(None).prctl(set_parent_death_signal, kill)


def limit(what: int, value: int) -> None:
    """Lower a limit for good."""
    _, hard = resource.getrlimit(what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def main() -> int:
    """Limits first, then the code, then the tests."""
    request = json.loads(sys.stdin.read())
    separated = without_network()
    if request["network"] == "refuse" and not separated:
        return 3
    # Entering a namespace would take it back.
    ends_with_its_parent()
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, request["cpu_seconds"])
    limit(resource.RLIMIT_FSIZE, request["file_bytes"])
    limit(resource.RLIMIT_NOFILE, request["open_files"])
    if sys.platform != "darwin":
        limit(resource.RLIMIT_AS, request["memory_bytes"])
        # One process, which is this one. Root is not held by it.
        limit(resource.RLIMIT_NPROC, 0)
    namespace = {"__name__": "__main__"}
    exec(compile(request["code"], "<completion>", "exec"), namespace)
    exec(compile(request["tests"], "<tests>", "exec"), namespace)
    os.write(1, ("\n" + request["token"] + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
