"""Layout: over how many GPUs a model is laid, and along which of its axes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from oplib.errors import InvalidInputError

_WORDS = {
    "tp": "tensor parallel",
    "pp": "pipeline",
    "ep": "expert parallel",
    "dp": "attention data parallel",
}
_PART = re.compile(r"(tp|pp|ep|dp)\s*[=:]?\s*(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Layout:
    """One instance of a model over `num_gpus = tp * dp * pp` GPUs.

    `pp` stages hold neighbouring layers each. Within a stage, `dp` groups of `tp` ranks run everything but the routed
    experts: a group has a batch of its own (b sequences, so b * dp in all) and splits its work over its `tp` ranks. The
    routed experts belong to all `tp * dp` ranks together: dealt whole to `ep` of them, and each expert's features to
    the `moe_tp = tp * dp / ep` ranks that share it.

    Raises InvalidInputError where a size is below 1 or `ep` does not divide `tp * dp`.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            size = getattr(self, name)
            if type(size) is not int or size < 1:
                raise InvalidInputError(
                    f"{name} ({words} size) is {size!r}.", "It is a whole number of at least 1."
                )
        if self.group % self.ep:
            raise InvalidInputError(
                f"ep {self.ep} does not divide the {self.group} ranks of a stage (tp {self.tp} * dp {self.dp}).",
                f"Allowed: {_listed(divisors(self.group))}.",
            )

    @property
    def group(self) -> int:
        """Ranks of one pipeline stage."""
        return self.tp * self.dp

    @property
    def moe_tp(self) -> int:
        """Ranks that share each routed expert."""
        return self.group // self.ep

    @property
    def num_gpus(self) -> int:
        """GPUs of one instance."""
        return self.group * self.pp

    def to_json(self) -> dict[str, int]:
        """The `layout` object of a price."""
        return {"tp": self.tp, "pp": self.pp, "ep": self.ep, "dp": self.dp}

    def __str__(self) -> str:
        return " ".join(f"{name}{size}" for name, size in self.to_json().items())

    @classmethod
    def parse(cls, text: str) -> Layout:
        """The layout that a text names: `tp8`, `tp4 dp2 ep8`, `tp=4,pp=2`. What is not named is 1."""
        found: dict[str, int] = {}
        rest = _PART.sub(" ", text.strip().lower())
        for name, size in _PART.findall(text.lower()):
            if name in found:
                raise InvalidInputError(f"The layout {text!r} gives {name} twice.")
            found[name] = int(size)
        if not found or rest.strip(" ,;/.x*-_\t"):
            raise InvalidInputError(
                f"Cannot read the layout {text!r}.", "Write tp8, or tp4 dp2 ep8, or tp=4,pp=2."
            )
        return cls(**found)


def divisors(number: int) -> list[int]:
    """Every whole number that divides `number`."""
    return [n for n in range(1, number + 1) if number % n == 0]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
