"""A reward function in a process of its own, which is killed when it takes too long."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from thunderstone import ArgumentError, UnsupportedSettingError
from thunderstone_grpo.rewards.call import Answer, call

_START_LIMIT = 120.0


class KillableFunction:
    """Calls a function in a process that outlives the calls, and is replaced after it had to be killed.

    Not by signals: they work in the main thread alone, and not while a library holds on to the interpreter. The process
    is started anew (not forked), since threads and devices do not survive a fork; so the function has to be found by
    its name in a module, and a script that trains needs ``if __name__ == "__main__":``.

    Args:
        who: Who asks, for messages.
        function: At the top level of a module, or an object that can be pickled.
        timeout: Seconds a call may take, without the start of the process.

    Raises:
        ArgumentError: The function cannot be sent to another process.
    """

    def __init__(self, who: str, function: Callable[..., Any], timeout: float) -> None:
        self.who, self.timeout = who, timeout
        try:
            self._function = pickle.dumps(function)
        except Exception as error:
            reason = f"with timeout={timeout:g} it runs in another process, and it cannot be sent there: {error}"
            hint = "define it at the top level of a module (no lambda, no inner function), or leave timeout out"
            raise ArgumentError(who, "reward", function, reason, hint) from error
        self._process: BaseProcess | None = None
        self._connection: Connection[Any, Any] | None = None
        self._deadline = 0.0

    def send(self, arguments: Mapping[str, Any], count: int) -> Answer | None:
        """Begin a call. An Answer here is a failure to begin; otherwise `receive` has it."""
        try:
            content = pickle.dumps((dict(arguments), count))
        except Exception as error:
            return Answer(failure=("exception", f"its arguments cannot be sent to another process: {error}"[:500]))
        connection = self._started()
        try:
            connection.send_bytes(content)
        except OSError as error:
            return self._ended(error)
        self._deadline = time.monotonic() + self.timeout
        return None

    def receive(self) -> Answer:
        """What the call came to; after the time limit, or where the process ended, a failure."""
        connection = self._connection
        if connection is None:
            return Answer(failure=("crash", "its process is gone"))
        try:
            if connection.poll(max(0.0, self._deadline - time.monotonic())):
                answer: Answer = pickle.loads(connection.recv_bytes())
                return answer
        except (EOFError, OSError) as error:
            return self._ended(error)
        self.close()
        return Answer(failure=("timeout", f"it took longer than {self.timeout:g} s and was killed"))

    def close(self) -> None:
        """Kill the process. The next call starts another one."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.join()
            process.close()

    def _ended(self, error: Exception) -> Answer:
        if self._process is not None:
            self._process.join(1.0)
        code = None if self._process is None else self._process.exitcode
        self.close()
        return Answer(failure=("crash", f"its process ended with exit code {code} ({type(error).__name__})"))

    def _started(self) -> Connection[Any, Any]:
        if self._connection is not None and self._process is not None and self._process.is_alive():
            return self._connection
        self.close()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._function), daemon=True)
        self._connection = ours
        self._process.start()
        theirs.close()
        reason = "it gave no sign of life"
        try:
            if ours.poll(_START_LIMIT):
                message: str = pickle.loads(ours.recv_bytes())
                if not message:
                    return ours
                reason = message
        except (EOFError, OSError):
            reason = "it ended at once"
        self.close()
        raise UnsupportedSettingError(
            self.who,
            f"timeout={self.timeout:g}",
            f"the process for the reward function could not be started: {reason}",
            'guard the script that trains with if __name__ == "__main__":, define the function at the top level of a '
            "module that can be imported, or leave timeout out",
        )


def _serve(connection: Connection[Any, Any], content: bytes) -> None:
    """The other process: one call after the other, until nobody is there any more."""
    try:
        function = pickle.loads(content)
    except Exception as error:
        connection.send_bytes(pickle.dumps(f"{type(error).__name__}: {error}"))
        return
    connection.send_bytes(pickle.dumps(""))
    while True:
        try:
            arguments, count = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            answer = call(function, arguments, count)
        except KeyboardInterrupt:  # Ctrl-C reaches the whole process group; whoever trains deals with it
            return
        try:
            sent = pickle.dumps(answer)
        except Exception as error:
            answer.extra.clear()
            answer.failure = "exception", f"what it gave log_extra cannot be sent: {error}"[:500]
            sent = pickle.dumps(answer)
        connection.send_bytes(sent)
