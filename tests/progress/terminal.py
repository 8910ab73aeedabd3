"""A terminal to write to: a pseudo-terminal for the standard output, and a screen on which what is written is drawn."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import threading
from types import TracebackType

import pytest

_ESCAPE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")
# Written by `Terminal.lines`, to know when all that was written before has arrived; draws nothing.
_MARK = "\x1b[99n"


class Screen:
    """The characters on an endless roll of paper, as far as cursor movements leave them there.

    Args:
        columns: Its width; what is longer goes on in the next line.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.cells: list[list[str]] = [[]]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        """Draw what a program writes; escape sequences are whole."""
        place = 0
        while place < len(text):
            escape = _ESCAPE.match(text, place)
            if escape is not None:
                self._move(escape[1], escape[2])
                place = escape.end()
            else:
                self._put(text[place])
                place += 1

    def lines(self) -> list[str]:
        """What is to be read, without empty lines at the end."""
        lines = ["".join(cells).rstrip() for cells in self.cells]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
        elif character >= " ":
            if self.column == self.columns:
                self.row, self.column = self.row + 1, 0
            line = self._line()
            line += [" "] * (self.column + 1 - len(line))
            line[self.column] = character
            self.column += 1
        self._line()

    def _line(self) -> list[str]:
        while len(self.cells) <= self.row:
            self.cells.append([])
        return self.cells[self.row]

    def _move(self, parameters: str, command: str) -> None:
        number = int(parameters) if parameters.isdigit() else 0
        if command == "A":
            self.row = max(0, self.row - (number or 1))
        elif command == "K":
            del self._line()[0 if number == 2 else self.column :]


class Terminal:
    """Stands in for the standard output of this process while it is entered.

    Args:
        columns: Its width.
        monkeypatch: Puts everything back at the end of the test.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> None:
        self._monkeypatch, self._columns = monkeypatch, columns
        self._text = ""

    def __enter__(self) -> Terminal:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, self._columns, 0, 0))
        self._file = open(theirs, "w", encoding="utf-8")
        self._monkeypatch.setattr(sys, "stdout", self._file)
        # Rich asks the environment first, and then the terminal that pytest was started from.
        for name, value in (("TERM", "xterm"), ("COLUMNS", str(self._columns)), ("LINES", "30")):
            self._monkeypatch.setenv(name, value)
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            self._monkeypatch.delenv(name, raising=False)
        self._arrived, self._stop = threading.Condition(), threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.lines()
        self._stop.set()
        self._reader.join()
        self._monkeypatch.undo()
        self._file.close()
        os.close(self._ours)

    @property
    def text(self) -> str:
        """All that was written."""
        return self._text.replace(_MARK, "")

    def lines(self) -> list[str]:
        """What is on the screen at this moment."""
        seen = self._text.count(_MARK)
        self._file.write(_MARK)
        self._file.flush()
        with self._arrived:
            assert self._arrived.wait_for(lambda: self._text.count(_MARK) > seen, timeout=20)
        screen = Screen(self._columns)
        screen.feed(self._text)
        return screen.lines()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        while not self._stop.is_set():
            if select.select([self._ours], [], [], 0.05)[0]:
                written = decoder.decode(os.read(self._ours, 65536))
                with self._arrived:
                    self._text += written
                    self._arrived.notify_all()
