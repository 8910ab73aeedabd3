"""RandomCalculation: arithmetic that no model has seen, with as many problems as are wanted."""

from thunderstone_grpo.random_calculation.character_tokenizer import CharacterTokenizer
from thunderstone_grpo.random_calculation.dataset import RandomCalculation
from thunderstone_grpo.random_calculation.graded_answer import GradedAnswer, graded_reward

__all__ = ["CharacterTokenizer", "GradedAnswer", "RandomCalculation", "graded_reward"]
