"""Problems of RandomCalculation, each made from its index."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from torch.utils.data import Dataset

from thunderstone import ArgumentError
from thunderstone.arguments import one_of, whole
from thunderstone_grpo.random_calculation.expressions import FORMS, OPERATIONS, Expression, drawn_expression

# Of 20 expressions one is in the test split and one in the validation split.
_SHARES = {"test": range(1), "validation": range(1, 2), "train": range(2, 20)}
_TRIES = 10_000


class RandomCalculation(Dataset[dict[str, str]]):
    """Arithmetic drawn at random, so that no model can have seen the answers (Wu et al. 2025, "Reasoning or
    Memorization?").

    An expression begins with an operand; each of its steps joins it with another one by an operation. Operands are
    integers, fractions of integers, squares and cubes. ``dataset[i]`` is made of the seed and i alone: nothing is
    stored, a length of a billion costs nothing, and workers need no state.

    No leakage: which split an expression belongs to follows from the expression (with the sides of sums and products in
    one order), so that no seed and no index puts a test problem into the training split.

    *What the paper leaves open*, and what it is here: integers are 0 to `largest`, those of fractions and powers too;
    denominators are 1 to `largest` and fractions are not reduced; a division by zero is drawn anew; the next operand
    stands on either side with equal probability; every operation and every kind of operand is equally likely; the level
    is the number of operations. A problem may be drawn twice under different indices, as in sampling with replacement.

    Items are ``{"prompt": "(3 + 4) × 5 =", "answer": "35", "solution": "3 + 4 = 7; 7 × 5 = 35"}``; answers are exact,
    fractions as ``-3/4``.

    Args:
        length: Number of problems.
        levels: Of which the level of a problem is drawn; each at least 1.
        split: ``"train"``, ``"validation"`` or ``"test"``: 90, 5 and 5 percent of the expressions.
        seed: Of the draws.
        largest: Largest integer, at least 1.
        operands: Of ``"integer"``, ``"fraction"``, ``"square"``, ``"cube"``.
        operations: Of ``+ - × ÷``.

    Raises:
        ArgumentError: An argument is out of range, or (when a problem is asked for) there are so few expressions that
            none is in the split.

    Example:
        >>> problem = RandomCalculation(10, levels=(1,), operands=("integer",), operations="+")[3]
        >>> sorted(problem)
        ['answer', 'prompt', 'solution']
    """

    def __init__(
        self,
        length: int,
        levels: Sequence[int] = (1, 2),
        split: str = "train",
        seed: int = 0,
        largest: int = 100,
        operands: Sequence[str] = FORMS,
        operations: str = OPERATIONS,
    ) -> None:
        who = type(self).__name__
        self.length = whole(who, "length", length, "as many as you like: none is stored")
        self.levels = tuple(whole(who, "levels", level, "1 is one operation") for level in levels)
        self.split = one_of(who, "split", split, _SHARES)
        self.seed = whole(who, "seed", seed, "use 0", minimum=0)
        self.largest = whole(who, "largest", largest, "the paper uses 100")
        self.operands = tuple(one_of(who, "operands", form, FORMS) for form in operands)
        for name, given in (("levels", self.levels), ("operands", self.operands), ("operations", operations)):
            if not given:
                raise ArgumentError(who, name, given, "there is nothing to draw from", "leave it out for the default")
        self.operations = "".join(one_of(who, "operations", sign, OPERATIONS) for sign in operations)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, str]:
        expression = self.expression(index)
        return {
            "prompt": f"{expression.text} =",
            "answer": str(expression.value),
            "solution": "; ".join(expression.steps),
        }

    def expression(self, index: int) -> Expression:
        """The expression of an index; negative ones count from the end.

        Raises:
            IndexError: It is out of range.
            ArgumentError: None of many draws was in the split.
        """
        place = index + self.length if index < 0 else index
        if not 0 <= place < self.length:
            raise IndexError(f"RandomCalculation has {self.length} problems; there is none of index {index}")
        draws = random.Random(_digest(f"{self.seed} {self.split} {place}"))
        for _ in range(_TRIES):
            level = draws.choice(self.levels)
            found = drawn_expression(draws, level, self.largest, self.operands, self.operations)
            if _digest(found.key) % 20 in _SHARES[self.split]:
                return found
        reason = f"none of {_TRIES} expressions was in this split: there are too few of them"
        hint = "raise largest, or add operands, operations or levels"
        raise ArgumentError(type(self).__name__, "split", self.split, reason, hint)


def _digest(text: str) -> int:
    # Python's own hash differs between processes.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
