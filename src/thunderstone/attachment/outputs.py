"""Taking the output of a module's forward, or of any submodule, without a change to the module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from thunderstone.arguments import captured
from thunderstone.errors import ArgumentError, StepError, suggestion


class Call(NamedTuple):
    """One call of the captured module."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Any


class OutputCapture:
    """The calls of one module during the current training step.

    Args:
        method: Who captures, for messages.
        output: None for the LightningModule's own ``forward``, or the name of a submodule as in `named_modules`
            (``"net.head"``). After a colon, the entry of a mapping or an attribute (``"net:logits"``), or a position
            in a tuple (``"head:0"``); with nothing before the colon, of the own forward (``":logits"``).
        call: Which call counts when the module is called several times in a step: 0 is the first, -1 the last. None
            takes the last and says so once.

    Attributes:
        redirected: One call of the target in each step is the training step itself, and not counted.

    Raises:
        ArgumentError: `output` or `call` is of another type.
    """

    def __init__(self, method: str, output: str | None, call: int | None = None) -> None:
        captured(method, output, call)
        self.method = method
        self.output = output
        self.call = call
        self.name, _, self.entry = (output or "").partition(":")
        self._calls: list[Call] = []
        self._enabled = False
        self._said = False
        self._target: nn.Module | None = None
        self._handle: RemovableHandle | None = None
        self.redirected = False

    @property
    def described(self) -> str:
        """What is captured, in words."""
        return f"submodule {self.name!r}" if self.name else "the module's own forward"

    @property
    def target(self) -> nn.Module:
        """The module whose output is captured."""
        if self._target is None:
            raise StepError(f"{self.method}: {self.described} is only known during a fit")
        return self._target

    def install(self, module: LightningModule) -> None:
        """Find the target and hook it.

        Raises:
            ArgumentError: There is no submodule of this name.
        """
        modules = dict(module.named_modules())
        if self.name not in modules:
            raise ArgumentError(
                self.method,
                "output",
                self.output,
                f"{type(module).__name__} has no submodule of that name",
                suggestion(self.name, [name for name in modules if name]),
            )
        self._target = modules[self.name]
        self._handle = self._target.register_forward_hook(self._keep, with_kwargs=True)
        # Under a wrapper such as DDP, Lightning passes the training step itself off as a forward of the module.
        self.redirected = self._target is module and module.trainer.strategy.model is not module

    def remove(self) -> None:
        """Take the hook off and drop what was kept."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self.drop()

    def begin(self) -> None:
        """A training step begins: what the module calls from here on is kept."""
        self._calls, self._enabled = [], True

    def end(self) -> None:
        """The training step's own code is done; calls from here on are not the module's."""
        self._enabled = False
        if self.redirected:
            # The step is the call that ended last.
            del self._calls[-1:]

    def drop(self) -> None:
        """Forget the step's calls, and with them the graph they hold."""
        self._calls, self._enabled = [], False

    def _keep(self, _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        if self._enabled:
            self._calls.append(Call(arguments, keywords, output))

    def chosen(self) -> Call | None:
        """The call that counts, or None when it was not made in this step."""
        index = -1 if self.call is None else self.call
        if not -len(self._calls) <= index < len(self._calls):
            return None
        if self.call is None and len(self._calls) > 1 and not self._said:
            self._said = True
            rank_zero_info(
                f"{self.method}: {self.described} is called {len(self._calls)} times in a training step; the last "
                "call is used. Choose another with call=0, call=1, …"
            )
        return self._calls[index]

    @property
    def times(self) -> int:
        """How often the module was called in this step."""
        return len(self._calls)

    def tensor(self, output: Any) -> Tensor:
        """The tensor in an output of the target: the output itself, or the named entry of it.

        Raises:
            StepError: It is no tensor.
        """
        chosen = _entry(output, self.entry) if self.entry else output
        if isinstance(chosen, Tensor):
            return chosen
        names = _entries(output)
        example = f"{self.name}:{names[0]}" if names else "submodule:entry"
        raise StepError(
            f"{self.method}: {f'entry {self.entry!r} of ' if self.entry else ''}the output of {self.described} is "
            f"{type(chosen).__name__}, not a tensor. The output has "
            + (f"the entries {', '.join(names)}. " if names else "no entries. ")
            + f"HINT: name one after a colon, e.g. output={example!r}"
        )


def _entry(output: Any, entry: str) -> Any:
    if isinstance(output, Mapping):
        return output.get(entry)
    if isinstance(output, (list, tuple)) and entry.lstrip("-").isdigit():
        position = int(entry)
        return output[position] if -len(output) <= position < len(output) else None
    return getattr(output, entry, None)


def _entries(output: Any) -> list[str]:
    if isinstance(output, Mapping):
        return [str(key) for key, value in output.items() if isinstance(value, Tensor)]
    if isinstance(output, (list, tuple)):
        return [str(number) for number, value in enumerate(output) if isinstance(value, Tensor)]
    return (
        [name for name, value in vars(output).items() if isinstance(value, Tensor)]
        if hasattr(output, "__dict__")
        else []
    )
