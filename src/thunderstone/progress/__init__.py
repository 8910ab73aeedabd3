"""What a fit shows beside the Trainer's progress bar: where it is, and what long work is going on."""

from thunderstone.progress.display import Display
from thunderstone.progress.phase import Phase

__all__ = ["Display", "Phase"]
