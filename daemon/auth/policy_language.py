"""OCI's policy sentences and matching rules, read strictly. Pure.

::

    Allow <subject> to <verb> <resource-type> in <location> [where <conditions>]

    subject     any-user | group NAME[, NAME...] | dynamic-group NAME[, ...] | group id OCID[, ...] | service NAME
    verb        inspect | read | use | manage; or {PERMISSION, PERMISSION...} instead of verb and type
    location    tenancy | compartment NAME[:NAME...] | compartment id OCID
    conditions  condition | any {condition, ...} | all {condition, ...}
    condition   variable = 'text' | variable != 'text' | variable = /pat*ern/

Keywords, names and values match in any case. An error says what was expected at which word.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from daemon.auth.permissions import FAMILIES, PERMISSIONS, TYPES, Verb
from daemon.auth.policy import Combined, Condition, Location, Name, Statement, Subject

__all__ = ["RULE_VARIABLES", "VARIABLES", "PolicySyntaxError", "parse_rule", "parse_statement"]

STATEMENT_CHARS_MAX = 4096
"""Longest statement or rule."""
DEPTH_MAX = 8
"""Deepest nesting of any {} and all {}."""

VARIABLES = (
    "target.function.id", "target.function.name", "target.app.id", "target.app.name",
    "target.compartment.id", "target.compartment.name",
    "request.permission", "request.user.id", "request.user.name",
    "request.principal.type", "request.principal.id", "request.principal.compartment.id",
)  # fmt: skip
"""What conditions of statements may ask for."""
RULE_VARIABLES = ("resource.type", "resource.id", "resource.name", "resource.compartment.id", "resource.app.id")
"""What matching rules of dynamic groups may ask for."""

_token = re.compile(
    r"""\s*(?:
      (?P<text>'[^'\x00-\x1f]*')
    | (?P<pattern>/[^/\x00-\x1f]*/)
    | (?P<sign>!=|[{}=,:])
    | (?P<word>[^\s'/{}=!,:]+)
    | (?P<end>$)
    )""",
    re.VERBOSE,
).match


class PolicySyntaxError(ValueError):
    """A sentence that cannot be read. ``column`` is where the offending word begins, from 1."""

    def __init__(self, text: str, column: int, word: str, why: str) -> None:
        self.text, self.column, self.word, self.why = text, column, word, why
        found = f"{word!r}" if word else "the end"
        super().__init__(f"column {column}, at {found}: {why}")

    def pointed(self) -> str:
        """The sentence with a mark under the word."""
        line = self.text.replace("\n", " ").replace("\t", " ")
        return f"{line}\n{' ' * (self.column - 1)}{'^' * max(1, len(self.word))}\n{self.why}"


@dataclass(frozen=True, slots=True)
class _Word:
    kind: str
    text: str
    """As written."""
    at: int

    @property
    def low(self) -> str:
        return self.text.casefold()


class _Reader:
    """The words of one sentence, one after the other."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > STATEMENT_CHARS_MAX:
            raise PolicySyntaxError(
                text[:80], 1, text[:20], f"longer than {STATEMENT_CHARS_MAX} characters: make it several statements"
            )
        self._words = self._split()
        self._next = 0

    def _split(self) -> list[_Word]:
        words, pos = [], 0
        while True:
            match = _token(self.text, pos)
            if match is None:
                start = pos + len(self.text[pos:]) - len(self.text[pos:].lstrip())
                why = "this quote is not closed" if self.text[start] in "'/" else "this character has no meaning here"
                raise PolicySyntaxError(self.text, start + 1, self.text[start], why)
            kind = str(match.lastgroup)
            words.append(_Word(kind, match[kind], match.start(kind)))
            if kind == "end":
                return words
            pos = match.end()

    @property
    def word(self) -> _Word:
        return self._words[self._next]

    def take(self) -> _Word:
        word = self.word
        if word.kind != "end":
            self._next += 1
        return word

    def fail(self, why: str, word: _Word | None = None) -> PolicySyntaxError:
        word = word or self.word
        return PolicySyntaxError(self.text, word.at + 1, word.text, why)

    def keyword(self, *allowed: str) -> str:
        word = self.word
        if word.kind != "word" or word.low not in allowed:
            raise self.fail(f"expected {_one_of(allowed)}{_guess(word.low, allowed)}")
        return self.take().low

    def sign(self, sign: str, why: str) -> None:
        if self.word.kind != "sign" or self.word.text != sign:
            raise self.fail(why)
        self.take()

    def at_sign(self, sign: str) -> bool:
        return self.word.kind == "sign" and self.word.text == sign

    def at_word(self, text: str) -> bool:
        return self.word.kind == "word" and self.word.low == text

    def name(self, what: str) -> str:
        word = self.word
        if word.kind == "text" and word.text != "''":
            return self.take().text[1:-1]
        if word.kind == "word":
            return self.take().text
        raise self.fail(f"expected {what}")

    def end(self, why: str) -> None:
        if self.word.kind != "end":
            raise self.fail(why)


def parse_statement(text: str) -> Statement:
    """One sentence, taken apart.

    Raises:
      PolicySyntaxError: it is not one; says which word is wrong and what is expected there.
    """
    read = _Reader(text)
    read.keyword("allow")
    subject = _subject(read)
    read.keyword("to")
    verb, resource, permissions = _what(read)
    read.keyword("in")
    location = _location(read)
    where = None
    if read.at_word("where"):
        read.take()
        where = _conditions(read, VARIABLES, 0)
        read.end("expected the end: join several conditions by any {...} or all {...}")
    read.end("expected 'where' or the end")
    return Statement(
        text=" ".join(text.split()),
        subject=subject,
        verb=verb,
        resource=resource,
        permissions=permissions,
        location=location,
        where=where,
    )


def parse_rule(text: str) -> Condition | Combined:
    """The matching rule of a dynamic group: ``ALL {resource.type = 'fnfunc', resource.compartment.id = '...'}``.

    Raises:
      PolicySyntaxError: as for a statement.
    """
    read = _Reader(text)
    rule = _conditions(read, RULE_VARIABLES, 0)
    read.end("expected the end: join several conditions by any {...} or all {...}")
    return rule


def _subject(read: _Reader) -> Subject:
    kind = read.keyword("any-user", "group", "dynamic-group", "service")
    if kind == "any-user":
        return Subject(kind)
    names = [_subject_name(read, kind)]
    while read.at_sign(","):
        read.take()
        names.append(_subject_name(read, kind))
    return Subject(kind, tuple(names))


def _subject_name(read: _Reader, kind: str) -> Name:
    if read.at_word("id") and kind != "service":
        read.take()
        return Name(read.name(f"the OCID of a {kind}"), is_id=True)
    if read.at_word("to"):
        raise read.fail(f"expected the name of a {kind}; quote it if it is called 'to'")
    return Name(read.name(f"the name of a {kind}"))


def _what(read: _Reader) -> tuple[Verb | None, str, frozenset[str]]:
    if read.at_sign("{"):
        return None, "", frozenset(_listed(read, _permission))
    verb = Verb[read.keyword("inspect", "read", "use", "manage").upper()]
    word, known = read.word, (*TYPES, *FAMILIES)
    if word.kind != "word" or word.low not in known:
        raise read.fail(f"expected a resource type: {', '.join(known)}{_guess(word.low, known)}")
    return verb, read.take().low, frozenset()


def _permission(read: _Reader) -> str:
    word = read.word
    if word.kind != "word" or word.text.upper() not in PERMISSIONS:
        raise read.fail(f"expected a permission such as FN_INVOCATION{_guess(word.text.upper(), (*PERMISSIONS,))}")
    return read.take().text.upper()


def _location(read: _Reader) -> Location:
    if read.keyword("tenancy", "compartment") == "tenancy":
        return Location(tenancy=True)
    if read.at_word("id"):
        read.take()
        return Location(tenancy=False, id=read.name("the OCID of a compartment"))
    path = [read.name("the name of a compartment")]
    while read.at_sign(":"):
        read.take()
        path.append(read.name("the name of a compartment"))
    return Location(tenancy=False, path=tuple(path))


def _conditions(read: _Reader, variables: tuple[str, ...], depth: int) -> Condition | Combined:
    if not (read.at_word("any") or read.at_word("all")):
        return _condition(read, variables)
    if depth == DEPTH_MAX:
        raise read.fail(f"nested more than {DEPTH_MAX} deep")
    every = read.take().low == "all"
    if not read.at_sign("{"):
        raise read.fail("expected '{' and conditions with commas between")
    return Combined(every, tuple(_listed(read, lambda r: _conditions(r, variables, depth + 1))))


def _condition(read: _Reader, variables: tuple[str, ...]) -> Condition:
    word = read.word
    if word.kind != "word" or word.low not in variables:
        raise read.fail(f"expected one of {', '.join(variables)}{_guess(word.low, variables)}")
    variable = read.take().low
    if not (read.at_sign("=") or read.at_sign("!=")):
        raise read.fail("expected = or !=")
    equal = read.take().text == "="
    value = read.word
    if value.kind not in ("text", "pattern"):
        raise read.fail("expected a text in single quotes, or a pattern between slashes: 'name', /name*/")
    return Condition(variable, equal, read.take().text[1:-1], pattern=value.kind == "pattern")


def _listed(read: _Reader, one: Callable[[_Reader], object]) -> list:  # type: ignore[type-arg]  # of what `one` gives
    read.sign("{", "expected '{'")
    found = [one(read)]
    while read.at_sign(","):
        read.take()
        found.append(one(read))
    read.sign("}", "expected ',' or '}'")
    return found


def _one_of(words: tuple[str, ...]) -> str:
    quoted = [repr(word) for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _guess(word: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(word[:64], known, n=1)
    return f"; did you mean {close[0]!r}?" if close and close[0] != word else ""
