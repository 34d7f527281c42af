"""Plots as SVG text: scales, axes, points, lines and bars. Colours and fonts are classes of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 320  # of a plot with axes
LEFT, RIGHT, TOP, BOTTOM = 66, 16, 14, 44
COLOURS = 10  # classes c0 to c9 of the style sheet


def element(name: str, content: str = "", **attributes: str | float) -> str:
    """One element; `_` in a name stands for `-`, a trailing one is dropped, and texts are escaped."""
    spelled = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{spelled}>{content}</{name}>" if content else f"<{name}{spelled}/>"


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def titled(text: str) -> str:
    """What a pointer over the element shows."""
    return element("title", escape(text)) if text else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Values from `low` to `high` on pixels from `start` to `end`; `whole` where there is nothing between integers."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    @classmethod
    def over(
        cls, values: Iterable[float], start: float, end: float, *, log: bool = False, whole: bool = False
    ) -> Scale:  # fmt: skip
        """A scale that holds all values with room: below and above them where it is logarithmic, else from 0 on."""
        found = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(found), max(found)) if found else (1.0, 1.0)
        if log:
            return cls(low=low / 1.3, high=high * 1.3, start=start, end=end, log=True, whole=whole)
        return cls(low=0.0, high=high * 1.06 or 1.0, start=start, end=end, whole=whole)

    def __call__(self, value: float) -> float:
        """The pixel of a value; one outside lies on the edge."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Up to nine round values. On a logarithmic scale powers of ten, on a short one with 3 or 2 and 5 between them,
        and equal steps where it is shorter still."""
        if not self.log:
            return self._steps(8)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for within, enough in (((1,), 4), ((1, 3), 4), ((1, 2, 5), 3)):
            every = [m * 10.0**decade for decade in decades for m in within]
            found = [value for value in every if self.low <= value <= self.high]
            if len(found) >= enough:
                return found[:: math.ceil(len(found) / 9)]
        return self._steps(5)  # on a logarithmic scale the last of more would touch

    def _steps(self, most: int) -> list[float]:
        """Multiples of a round step, of which at most so many fit on the scale."""
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span / most))
        step *= next(m for m in (1, 2, 5, 10) if span / (m * step) <= most)
        step = max(step, 1.0) if self.whole else step
        return [
            n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Two scales with their names."""

    x: Scale
    y: Scale
    x_name: str
    y_name: str

    @classmethod
    def over(
        cls,
        points: Sequence[tuple[float, float]],
        names: tuple[str, str],
        *,
        log: tuple[bool, bool] = (False, False),
        whole: tuple[bool, bool] = (False, False),
    ) -> Axes:
        """Axes of a plot that holds all points."""
        across, up = ([point[axis] for point in points] for axis in (0, 1))
        return cls(
            x=Scale.over(across, LEFT, WIDTH - RIGHT, log=log[0], whole=whole[0]),
            y=Scale.over(up, HEIGHT - BOTTOM, TOP, log=log[1], whole=whole[1]),
            x_name=names[0],
            y_name=names[1],
        )

    def draw(self) -> str:
        """Grid, ticks and names."""
        parts = []
        for value in self.x.ticks():
            at = self.x(value)
            parts.append(element("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
            parts.append(text(short(value), at, HEIGHT - BOTTOM + 16, "tick middle"))
        for value in self.y.ticks():
            at = self.y(value)
            parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
            parts.append(text(short(value), LEFT - 6, at + 4, "tick end"))
        parts.append(text(self.x_name, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "name middle"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        turned = f"rotate(-90 14 {middle:g})"
        parts.append(text(self.y_name, 14, middle, "name middle", transform=turned))
        return "".join(parts)

    def line(self, points: Iterable[tuple[float, float]], style: str) -> str:
        """A line through points."""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return element("polyline", points=places, class_=f"line {style}")

    def ratio(self, factor: float, style: str) -> str:
        """The line of y = factor * x, as far as it is inside."""
        low = max(self.x.low, self.y.low / factor)
        high = max(low, min(self.x.high, self.y.high / factor))
        return self.line([(x, x * factor) for x in (low, high)], style)

    def dot(self, x: float, y: float, style: str, title: str, *, radius: float = 4) -> str:
        """A point that says what it is."""
        return element(
            "circle", titled(title), cx=self.x(x), cy=self.y(y), r=radius, class_=f"dot {style}"
        )


def text(content: str, x: float, y: float, style: str, **attributes: str | float) -> str:
    """Text whose start, middle or end is at a place, as the style says."""
    return element("text", escape(content), x=x, y=y, class_=style, **attributes)


def figure(body: str, *, label: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """The whole picture; `label` is what a screen reader says."""
    box, most = f"0 0 {width:g} {height:g}", f"max-width: {1.3 * width:g}px"
    return element(
        "svg", body, viewBox=box, role="img", aria_label=label, class_="plot", style=most
    )


def short(value: float) -> str:
    """A tick's number: 1500 as 1.5k, 0.002 as 0.002."""
    for factor, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"
