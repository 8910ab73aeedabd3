"""The policy: which module maps ids to logits, and how it is called."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from thunderstone import ArgumentError, UnsupportedSettingError


class Policy:
    """A module that maps ids (B, T) to logits (B, T, V), a tensor or an object with ``.logits``.

    Texts are padded on the right, where a causal model cannot see it: so a forward that takes ids alone is as good as
    one that takes ``attention_mask`` and ``position_ids``, which are passed where they are taken.

    Args:
        who: Who asks, for messages.
        module: The module.
    """

    def __init__(self, who: str, module: nn.Module) -> None:
        self.who, self.module = who, module
        self._names = frozenset(inspect.signature(module.forward).parameters)

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What log-probabilities and advantages are kept in: float64 for such a policy, float32 for any other."""
        return torch.float64 if next(self.module.parameters()).dtype == torch.float64 else torch.float32

    @property
    def positions(self) -> int | None:
        """How many positions it declares to have, as Hugging Face configurations do; None where it declares none."""
        declared = getattr(getattr(self.module, "config", None), "max_position_embeddings", None)
        return declared if isinstance(declared, int) and declared > 0 else None

    def logits(self, ids: Tensor, lengths: Tensor, first: int) -> Tensor:
        """The logits (B, T - first, V) at positions `first` and later.

        Args:
            ids: (B, T) int64, padded on the right.
            lengths: (B,) int64, of the whole texts.
            first: Of the positions whose logits are wanted.

        Raises:
            UnsupportedSettingError: It returned something else.
        """
        places = torch.arange(ids.shape[1], device=ids.device)
        arguments: dict[str, Any] = {}
        if "attention_mask" in self._names:
            arguments["attention_mask"] = (places < lengths.unsqueeze(1)).long()
        if "position_ids" in self._names:
            arguments["position_ids"] = places.expand_as(ids).contiguous()
        # Of what Hugging Face models take: without these they keep and compute what no one reads.
        if "use_cache" in self._names:
            arguments["use_cache"] = False
        keep = ids.shape[1] - first
        if "logits_to_keep" in self._names:
            arguments["logits_to_keep"] = keep
        output: Any = self.module(ids, **arguments)
        if isinstance(output, Mapping) and "logits" in output:
            output = output["logits"]
        elif not isinstance(output, Tensor):
            output = getattr(output, "logits", output)
        shape = tuple(output.shape[:2]) if isinstance(output, Tensor) and output.dim() == 3 else ()
        if shape in ((len(ids), keep), tuple(ids.shape)):
            logits: Tensor = output[:, output.shape[1] - keep :]
            return logits
        found = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise UnsupportedSettingError(
            self.who,
            f"a forward of {type(self.module).__name__} that returns {found} for ids of shape {tuple(ids.shape)}",
            "completions are drawn from and scored by the logits of every next token",
            "let it return logits of shape (B, T, vocabulary), or an object with .logits; or name the submodule that "
            "does with model='...'",
        )

    def check_causal(self, ids: Tensor) -> None:
        """Refuse a policy whose logits depend on later tokens: completions are drawn before those exist, and scored
        beside them.

        Args:
            ids: (T,) int64, a text without padding.

        Raises:
            UnsupportedSettingError: The logits before the last token change when it is taken away, by more than
                rounding.
        """
        count = len(ids)
        if count < 2:
            return

        def seen(length: int) -> Tensor:
            lengths = torch.tensor([length], device=ids.device)
            return self.logits(ids[:length].unsqueeze(0), lengths, 0)[0, : count - 1].double()

        with torch.no_grad(), evaluation_mode(self.module):
            whole, again, without = seen(count), seen(count), seen(count - 1)
        dtype = next(self.module.parameters()).dtype
        rounding = torch.finfo(dtype if dtype.is_floating_point else torch.bfloat16).eps ** 0.5
        # One that draws random numbers in evaluation too says nothing here.
        if whole.equal(again) and (whole - without).abs().max() > 4 * rounding * (whole.max() - whole.min()):
            raise UnsupportedSettingError(
                self.who,
                f"a {type(self.module).__name__} whose logits depend on later tokens",
                "a completion would be scored by what was not there yet when its tokens were drawn",
                "mask attention to later positions; in a Hugging Face configuration, is_decoder=True",
            )


def find_policy(who: str, module: LightningModule, name: str | None) -> Policy:
    """The submodule of a name; without one the only Hugging Face causal language model in the module (inside of a peft
    wrapper, whose adapters are in its layers), or the module's own forward.

    Raises:
        ArgumentError: There is no such submodule.
        UnsupportedSettingError: There are several models to choose from, or nothing that maps ids to logits.
    """
    if name is not None:
        try:
            return Policy(who, module.get_submodule(name))
        except AttributeError as error:
            names = [child for child, _ in module.named_children()]
            hint = f"name a submodule ({', '.join(names) or 'it has none'}), or leave it out"
            raise ArgumentError(who, "model", name, "there is no such submodule", hint) from error
    models = _language_models(module)
    if len(models) > 1:
        raise UnsupportedSettingError(
            who,
            f"a module with several language models ({', '.join(models)})",
            "it cannot be known which of them is trained",
            f"name it, e.g. model={next(iter(models))!r}",
        )
    if models:
        return Policy(who, next(iter(models.values())))
    if not is_overridden("forward", module):
        raise UnsupportedSettingError(
            who,
            f"a {type(module).__name__} without forward",
            "nothing is known that maps ids to logits",
            "give it a forward(input_ids) that returns logits, or name a submodule that does with model='...'",
        )
    return Policy(who, module)


def _language_models(module: nn.Module) -> dict[str, nn.Module]:
    # Who holds such a model has imported transformers.
    if sys.modules.get("transformers") is None:
        return {}
    from transformers import GenerationMixin

    found: dict[str, nn.Module] = {}
    generates: Any = GenerationMixin
    for name, child in module.named_modules():
        if isinstance(child, generates) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = child
    return found


@contextmanager
def evaluation_mode(module: nn.Module, evaluating: bool = True) -> Iterator[None]:
    """Dropout and the like are off inside; every submodule has its own mode back afterwards."""
    modes = [(child, child.training) for child in module.modules() if child.training]
    try:
        if evaluating:
            for child, _ in modes:
                child.training = False
        yield
    finally:
        for child, mode in modes:
            child.training = mode
