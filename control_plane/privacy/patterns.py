"""Which regular expressions a project may bring: those that a text cannot make run for ever.

Time is bounded where a pattern is used, too; what is refused here is what would run into that bound for ordinary texts.
"""

import regex

REFUSED = "is refused, for a text could make it run for very long: "
# From so many on, a repetition counts as one without an end.
REPEATS_MAX = 20
# What a group may begin with: nothing that asks what another one matched.
GROUPS = ("(?:", "(?i:", "(?P<", "(?<", "(?=", "(?!")
LOOKBEHIND = ("(?<=", "(?<!")


def check_pattern(name: str, pattern: str) -> None:
    """Raises ValueError that names the pattern."""
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"pattern '{name}' is no regular expression: {error}") from error
    # Before it is used at all: one that calls itself takes all the memory for the empty string.
    if fault := Shape(pattern).fault():
        raise ValueError(f"pattern '{name}' {REFUSED}{fault}")
    if compiled.search("") is not None:
        raise ValueError(f"pattern '{name}' must not match the empty string")


class Shape:
    """How a pattern that compiles is built, as far as its running time depends on it."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def fault(self) -> str | None:
        """Why it is refused; None where it is not."""
        repeated: list[bool] = [False]
        while self._at < len(self._pattern):
            letter = self._pattern[self._at]
            if letter == "\\":
                if self._pattern[self._at + 1 : self._at + 2] in set("123456789gk"):
                    return "it refers back to a group"
                self._at += 2
                repeated[-1] |= self._repeats()
            elif letter == "[":
                self._class()
                repeated[-1] |= self._repeats()
            elif letter == "(":
                if not self._opens():
                    return "it has a group of an unusual kind"
                repeated.append(False)
            elif letter == ")":
                self._at += 1
                inner = repeated.pop()
                again = self._repeats()
                if inner and again:
                    return "it repeats a group that repeats"
                repeated[-1] |= inner or again
            else:
                self._at += 1
                repeated[-1] |= self._repeats()
        return None

    def _opens(self) -> bool:
        rest = self._pattern[self._at :]
        if rest.startswith("(?") and not rest.startswith((*GROUPS, *LOOKBEHIND)):
            return False
        if rest.startswith(("(?P<", "(?<")) and not rest.startswith(LOOKBEHIND):
            self._at += rest.index(">") + 1
        elif rest.startswith("(?"):
            self._at += rest.index(":") + 1 if rest[2] in ":i" else 4 if rest.startswith(LOOKBEHIND) else 3
        else:
            self._at += 1
        return True

    def _class(self) -> None:
        """Past a class; a bracket that comes first is a member."""
        self._at += 2 if self._pattern.startswith("[^", self._at) else 1
        first = True
        while first or self._pattern[self._at] != "]":
            first = False
            self._at += 2 if self._pattern[self._at] == "\\" else 1
        self._at += 1

    def _repeats(self) -> bool:
        """Past a quantifier, if there is one; whether it has no fixed end."""
        found = regex.match(r"(?:[*+]|\{\d*,\d*\}|\{\d+\}|\?)[?+]?", self._pattern, pos=self._at)
        if found is None:
            return False
        self._at = found.end()
        most = regex.match(r"\{\d*,(\d*)\}", found.group())
        return found.group()[0] in "*+" or (most is not None and int(most[1] or REPEATS_MAX) >= REPEATS_MAX)
