"""What a logger does to the names of metrics."""

from __future__ import annotations

from lightning.pytorch.loggers import Logger


def prefixed(logger: Logger, key: str) -> str:
    """The name under which `logger` writes the metric `key`.

    Loggers take a `prefix` and keep it to themselves; whoever speaks of a metric to what is behind a logger needs it.
    """
    prefix = getattr(logger, "_prefix", "")
    return f"{prefix}{getattr(logger, 'LOGGER_JOIN_CHAR', '-')}{key}" if prefix else key
