"""`thunderstone run`: attach methods to the Trainers of a script that knows nothing of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from thunderstone.cli import factory
from thunderstone.cli.launch import Outcome, check_script, put_program_on_path, run_module, run_script
from thunderstone.cli.seeding import seed_program
from thunderstone.errors import CompositionError, RequestError


@dataclass(frozen=True)
class RunRequest:
    """What `thunderstone run` was asked for.

    Attributes:
        options: The text of every ``--with``.
        module: The module of ``-m``, if given.
        arguments: The script and its arguments, or the module's arguments.
        seed: The number of ``--seed``, if given.
    """

    options: Sequence[str]
    module: str | None
    arguments: Sequence[str]
    seed: int | None = None

    def execute(self) -> int:
        """Check the options, run the program in this process, and return its exit code.

        Without ``--with`` and ``--seed`` this imports nothing and sets nothing: the program runs as under `python`.

        Raises:
            ThunderstoneError: Something that was asked for cannot be done; the program has not been started.
            SystemExit: The program raised it.
        """
        if self.module is None:
            if not self.arguments:
                raise RequestError(
                    "run: there is no script. HINT: thunderstone run [--with …] SCRIPT ARGS, or -m MODULE"
                )
            check_script(self.arguments[0])
        if self.options:
            # Options may name what stands beside the program, e.g. grpo:reward=rewards:reward.
            put_program_on_path(self.arguments[0] if self.module is None else None)
        names = _announce(self.options) if self.options else ""
        if self.seed is not None:
            seed_program(self.seed)
        if not self.options:
            return self._launch().exit_code
        try:
            outcome = self._launch()
        except SystemExit:  # how `sys.exit(main())` and `--help` end
            _say_if_nothing_was_attached(names)
            raise
        if outcome.error is None:
            _say_if_nothing_was_attached(names)
        elif _is_about_a_twin(outcome.error):
            _say(f"--with adds {names} to the callbacks the script passes itself: leave out one of the two.")
        return outcome.exit_code

    def _launch(self) -> Outcome:
        if self.module is not None:
            return run_module(self.module, list(self.arguments))
        return run_script(self.arguments[0], list(self.arguments[1:]))


def _announce(options: Sequence[str]) -> str:
    """Put the methods into the environment, where this process and the workers it starts find them; their names."""
    from thunderstone.cli.with_option import build_together, parse_option, to_environment

    requested = [parse_option(option) for option in options]
    build_together(requested)  # a refused value is known now, not after the script has read its data
    os.environ[factory.VARIABLE] = to_environment(requested)
    return ", ".join(attached.name for attached in requested)


def _say_if_nothing_was_attached(names: str) -> None:
    if factory.trainers_built:
        return
    message = f"no Trainer of `lightning.pytorch` was built in this process, so nothing was attached: {names}."
    if "pytorch_lightning" in sys.modules:
        message += (
            " The script imports `pytorch_lightning`; methods are callbacks of `lightning.pytorch`, and the two are "
            "separate copies that do not mix. HINT: write `import lightning.pytorch as pl` in the script"
        )
    _say(message)


def _is_about_a_twin(error: BaseException) -> bool:
    """Whether a Trainer refused two callbacks that cannot be attached together (Lightning does so when both have
    state and one state key, the attachment when both own one resource)."""
    return isinstance(error, CompositionError) or (
        isinstance(error, RuntimeError) and "more than one stateful callback" in str(error)
    )


def _say(message: str) -> None:
    print(f"thunderstone run: {message}", file=sys.stderr)


VALUED_OPTIONS = ("--with", "-w", "--seed")


def end_of_options(arguments: Sequence[str], valued: Sequence[str] = VALUED_OPTIONS) -> list[str]:
    """The arguments of `run` with a ``--`` after ``-m MODULE``: what follows belongs to the module, dashes or not.

    Args:
        arguments: What stands after the command.
        valued: The command's options that take a value.
    """
    attached = tuple(f"{name}=" if name.startswith("--") else name for name in valued)
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument in valued:
            position += 2
        elif argument.startswith(attached) or argument in ("--help", "-h"):
            position += 1
        elif argument.startswith("-m"):
            position += 2 if argument == "-m" else 1
            if position > len(arguments):
                break
            return [*arguments[:position], "--", *arguments[position:]]
        else:
            break
    return list(arguments)
