"""Module names as quantised checkpoints write them: globs, regexes, prefixes and suffixes.

A traced module is compared under every spelling that the same weight can have in a checkpoint: inside a
multimodal model, in an older layout, or with one entry per expert.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_OUTER_PREFIXES = ("model.language_model.", "language_model.model.", "model.text_model.")
_EXPERT_PARTS = (("0.gate_proj", "0.up_proj", "0.down_proj"), ("0.w1", "0.w2", "0.w3"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NameMatcher:
    """A list of module names as one checkpoint format writes them.

    `exact` names match themselves and what lies below; a `pattern` matches from the start of a name;
    `suffixes` are transformers' rule that an entry also excludes every name that ends with it.
    """

    exact: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()
    suffixes: tuple[str, ...] = ()

    def matches(self, path: str) -> bool:
        """Whether the weight at this traced path is named, in any spelling."""
        if any(self._named(name) for name in _spellings(path)):
            return True
        if not is_experts(path):
            return False
        return any(
            all(any(self._named(f"{name}.{part}") for name in _spellings(path)) for part in parts)
            for parts in _EXPERT_PARTS
        )

    def _named(self, name: str) -> bool:
        if self.exact and any(ancestor in self.exact for ancestor in _ancestors(name)):
            return True
        if self.suffixes and name.endswith(self.suffixes):
            return True
        return any(pattern.match(name) for pattern in self.patterns)


def transformers_matcher(entries: Iterable[str]) -> NameMatcher:
    """transformers' `should_convert_module`: a regex up to a module boundary, or a suffix."""
    entries = tuple(entries)
    boundary = r"(?:(?<=\.)|(?=\.|$))"
    patterns = tuple(_compile(f"(?:{e}){boundary}", re.escape(e) + boundary) for e in entries)
    return NameMatcher(patterns=patterns, suffixes=entries)


def glob_matcher(entries: Iterable[str]) -> NameMatcher:
    """Shell globs over the whole name; a name below a listed one is listed too."""
    plain = [e for e in entries if not re.search(r"[*?\[]", e)]
    globs = [e for e in entries if re.search(r"[*?\[]", e)]
    patterns = tuple(
        re.compile(expr)
        for e in globs
        for expr in (fnmatch.translate(e), fnmatch.translate(f"{e}.*"))
    )
    return NameMatcher(exact=frozenset(plain), patterns=patterns)


def compressed_matcher(entries: Iterable[str], notes: list[str]) -> NameMatcher:
    """compressed-tensors: exact names, or regexes written `re:...` that match from the start."""
    plain = [e for e in entries if not e.startswith("re:")]
    regexes = regex_matcher([e[3:] for e in entries if e.startswith("re:")], notes)
    return merge_matchers(NameMatcher(exact=frozenset(plain)), regexes)


def regex_matcher(entries: Iterable[str], notes: list[str]) -> NameMatcher:
    patterns = []
    for entry in entries:
        try:
            patterns.append(re.compile(entry))
        except re.error as error:
            notes.append(
                f"the module pattern {entry!r} is no regular expression ({error}); skipped"
            )
    return NameMatcher(patterns=tuple(patterns))


def merge_matchers(left: NameMatcher, right: NameMatcher) -> NameMatcher:
    return NameMatcher(
        exact=left.exact | right.exact,
        patterns=left.patterns + right.patterns,
        suffixes=left.suffixes + right.suffixes,
    )


def _compile(pattern: str, otherwise: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error:
        return re.compile(otherwise)


def is_experts(path: str) -> bool:
    return path.rpartition(".")[2] == "experts"


def _spellings(path: str) -> Iterator[str]:
    """The traced path, then how the same weight is named inside an outer model or an older checkpoint."""
    yield path
    rest = path.removeprefix("model.")
    if rest == path:
        yield f"language_model.{path}"
    for prefix in _OUTER_PREFIXES:
        if rest != path:
            yield prefix + rest
    if ".mlp." in path:
        yield path.replace(".mlp.", ".block_sparse_moe.")


def _ancestors(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]
