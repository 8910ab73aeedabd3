"""Reads a report as a browser would, as far as a test wants to know: tables, curves, references, text."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "hr", "link", "line", "circle", "polyline"}


@dataclass
class Cell:
    text: str = ""
    title: str = ""
    sort: str | None = None


@dataclass
class Series:
    curve: str
    run: int
    title: str = ""
    paths: list[list[tuple[float, float]]] = field(default_factory=list)
    dots: list[tuple[float, float]] = field(default_factory=list)


class Page(HTMLParser):
    """The parts of a page.

    Attributes:
        tables: Every table, as rows of cells.
        series: Every curve of every run.
        ticks: Every chart's y ticks: pairs of a place and its number.
        references: The value of every `src`, `href`, `data`, `action` and `srcset`.
        scripts: The text of every script.
        text: All text but that of scripts and styles.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tables: list[list[list[Cell]]] = []
        self.series: list[Series] = []
        self.ticks: list[list[tuple[float, float]]] = []
        self.references: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self._place: float | None = None
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute of <{tag}> is there twice"
        assert not any(name.startswith("on") for name in given), f"<{tag}> has a handler of its own"
        if tag not in VOID:
            self.open.append(tag)
        self.references += [given[name] for name in ("src", "href", "data", "action", "srcset") if name in given]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(Cell(title=given.get("title", ""), sort=given.get("data-sort")))
        elif tag == "svg":
            self.ticks.append([])
        elif tag == "g" and "data-curve" in given:
            self.series.append(Series(given["data-curve"], int(given["data-run"])))
        elif tag == "polyline":
            pairs = [pair.split(",") for pair in given["points"].split()]
            self.series[-1].paths.append([(float(x), float(y)) for x, y in pairs])
        elif tag == "circle":
            self.series[-1].dots.append((float(given["cx"]), float(given["cy"])))
        elif tag == "line":
            self._place = float(given["y1"])

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open:
            return
        if self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open[-1] != "style":
            self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1].text += data
        if self.open[-1] == "title" and "g" in self.open:
            self.series[-1].title += data
        if self.open[-1] == "text" and self._place is not None:
            self.ticks[-1].append((self._place, float(data)))
            self._place = None

    def table(self, *heads: str) -> list[list[Cell]]:
        """The rows below the heads of the only table that begins with them."""
        [found] = [table for table in self.tables if [cell.text for cell in table[0][: len(heads)]] == list(heads)]
        return found[1:]

    def curve(self, name: str, run: int = 0) -> Series:
        """The only curve of this name and run."""
        [found] = [series for series in self.series if (series.curve, series.run) == (name, run)]
        return found
