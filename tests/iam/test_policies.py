"""Sentences are read, or refused at the right word; decisions equal a naive evaluator's; every refusal says why."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.auth import permissions as perm
from daemon.auth.permissions import FAMILIES, PERMISSIONS, TYPES, Permission, Principal, Verb
from daemon.auth.policy import Combined, Condition, Directory, Grants, Policy, Statement, Target, holds
from daemon.auth.policy_language import VARIABLES, PolicySyntaxError, parse_rule, parse_statement
from daemon.model import Compartment

ROOT, WEB, STAGING, SHOP = "ocid1.tenancy.oc1..r", "ocid1.compartment.oc1..w", "c-staging", "c-shop"
COMPARTMENTS = {
    ROOT: Compartment(id=ROOT, name="root"),
    WEB: Compartment(id=WEB, name="web", parent_id=ROOT),
    STAGING: Compartment(id=STAGING, name="staging", parent_id=WEB),
    SHOP: Compartment(id=SHOP, name="shop", parent_id=ROOT),
}
GROUPS = {"devs": "g-devs", "callers": "g-callers"}
DIRECTORY = Directory(GROUPS, {"workers": "d-workers"}, COMPARTMENTS)
ABOVE = {ROOT: (ROOT,), WEB: (WEB, ROOT), STAGING: (STAGING, WEB, ROOT), SHOP: (SHOP, ROOT)}


def grants(*statements: str, at: str = ROOT) -> Grants:
    policy = Policy(id="p", name="p", compartment_id=at, statements=tuple(map(parse_statement, statements)))
    return Grants([policy], DIRECTORY)


def member(*groups: str) -> Principal:
    return Principal(kind="user", id="u", name="ada", groups=frozenset(groups))


DEV = member("g-devs")


def target(compartment: str = WEB, **variables: str) -> Target:
    return Target(ABOVE[compartment], {name.replace("_", "."): value for name, value in variables.items()})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("^", "expected 'allow'"),
        ("^Deny group A to use fn-app in tenancy", "expected 'allow'"),
        ("Allow ^user ada to use fn-app in tenancy", "expected 'any-user', 'group', 'dynamic-group' or 'service'"),
        ("Allow ^grop A to use fn-app in tenancy", "did you mean 'group'?"),
        ("Allow group ^to use fn-app in tenancy", "expected the name of a group"),
        ("Allow group A, ^to use fn-app in tenancy", "expected the name of a group"),
        ("Allow group A ^B to use fn-app in tenancy", "expected 'to'"),
        ("Allow group A to ^us fn-app in tenancy", "did you mean 'use'?"),
        ("Allow group Devs to use ^fn-invocaton in tenancy", "did you mean 'fn-invocation'?"),
        ("Allow group A to {^FN_APP_REED} in tenancy", "did you mean 'FN_APP_READ'?"),
        ("Allow group A to {FN_APP_READ ^FN_APP_LIST} in tenancy", "expected ',' or '}'"),
        ("Allow group A to use fn-app ^at tenancy", "expected 'in'"),
        ("Allow group A to use fn-app in ^region", "expected 'tenancy' or 'compartment'"),
        ("Allow group A to use fn-app in compartment^", "expected the name of a compartment"),
        ("Allow group A to use fn-app in tenancy ^when x", "expected 'where' or the end"),
        ("Allow group A to use fn-app in tenancy where ^target.app.nam = 'x'", "did you mean 'target.app.name'?"),
        ("Allow group A to use fn-app in tenancy where target.app.name ^'x'", "expected = or !="),
        ("Allow group A to use fn-app in tenancy where target.app.name = ^x", "a text in single quotes"),
        ("Allow group A to use fn-app in tenancy where target.app.name = ^'x", "this quote is not closed"),
        ("Allow group A to use fn-app in tenancy where all ^target.app.name = 'x'", "expected '{'"),
        ("Allow group A to use fn-app in tenancy where any {^}", "expected one of"),
        ("Allow group A to use fn-app in tenancy where target.app.name = 'x' ^and", "join several conditions"),
        ("Allow group A to use fn-app in tenancy^!", "no meaning here"),
    ],
)
def test_errors_point_at_the_word(text: str, part: str) -> None:
    at = text.index("^")
    with pytest.raises(PolicySyntaxError) as caught:
        parse_statement(text.replace("^", ""))
    assert (caught.value.column, part in str(caught.value)) == (at + 1, True), str(caught.value)
    assert caught.value.pointed().splitlines()[1].index("^") == at


def test_too_long_and_too_deep() -> None:
    with pytest.raises(PolicySyntaxError, match="longer than 4096"):
        parse_statement("Allow group A to use fn-app in tenancy" + " " * 5000)
    deep = "any {" * 9 + "resource.type = 'x'" + "}" * 9
    with pytest.raises(PolicySyntaxError, match="nested more than 8 deep"):
        parse_rule(deep)


@given(st.text(max_size=200))
def test_any_text_is_a_statement_or_an_error(text: str) -> None:
    for read in (parse_statement, parse_rule):
        columns = [1]
        try:
            read(text)
        except PolicySyntaxError as exc:
            columns.append(exc.column)
        assert 1 <= columns[-1] <= len(text) + 1


VOCABULARY = (
    "Allow group any-user to use manage fn-app in tenancy compartment where any all { } , = != 'x' /x*/ id"
    " target.app.name A : FN_APP_READ"
)
WORDS = st.sampled_from(VOCABULARY.split(" "))


@given(st.lists(WORDS, max_size=25).map(" ".join))
def test_any_words_are_a_statement_or_an_error(text: str) -> None:
    try:
        statement = parse_statement(text)
    except PolicySyntaxError:
        return
    assert parse_statement(statement.text) == statement


class TestDecisions:
    def test_nothing_is_allowed_by_default(self) -> None:
        assert not Grants([], DIRECTORY).allow(DEV, perm.APP_LIST, target())
        assert Grants([], DIRECTORY).explain(DEV, perm.APP_LIST, target()).why == "there are no statements"

    def test_verbs_include_smaller_ones(self) -> None:
        for given_verb in Verb:
            allowed = grants(f"allow group devs to {given_verb} fn-function in tenancy")
            for asked in (perm.FUNCTION_LIST, perm.FUNCTION_READ, perm.FUNCTION_UPDATE):
                assert allowed.allow(DEV, asked, target()) == (given_verb >= asked.verb)

    def test_use_of_the_family_calls_but_does_not_change(self) -> None:
        allowed = grants("Allow group Devs to use functions-family in tenancy")
        assert allowed.allow(DEV, perm.INVOKE, target())
        assert allowed.allow(DEV, perm.APP_READ, target())
        assert not allowed.allow(DEV, perm.FUNCTION_UPDATE, target())
        assert not allowed.allow(DEV, perm.NODE_READ, target())

    @pytest.mark.parametrize(
        ("where", "at", "reaches"),
        [
            ("tenancy", ROOT, {ROOT, WEB, STAGING, SHOP}),
            ("compartment web", ROOT, {WEB, STAGING}),
            ("compartment WEB:Staging", ROOT, {STAGING}),
            ("compartment staging", ROOT, set()),
            (f"compartment id {WEB}", ROOT, {WEB, STAGING}),
            ("compartment staging", WEB, {STAGING}),
            ("compartment web", WEB, {WEB, STAGING}),
            ("compartment web:staging", WEB, {STAGING}),
            ("tenancy", WEB, set()),
            (f"compartment id {SHOP}", WEB, set()),
            (f"compartment id {ROOT}", WEB, set()),
        ],
    )
    def test_how_far_a_statement_reaches(self, where: str, at: str, reaches: set[str]) -> None:
        allowed = grants(f"Allow group devs to read fn-app in {where}", at=at)
        assert {c for c in COMPARTMENTS if allowed.allow(DEV, perm.APP_READ, target(c))} == reaches
        assert allowed.allow_somewhere(DEV, perm.APP_READ) == bool(reaches)

    def test_subjects(self) -> None:
        anyone = member()
        assert grants("Allow any-user to use fn-invocation in tenancy").allow(anyone, perm.INVOKE, target())
        both = grants("Allow group Devs, 'callers' to use fn-invocation in tenancy")
        assert both.allow(member("g-callers"), perm.INVOKE, target())
        assert not both.allow(anyone, perm.INVOKE, target())
        by_id = grants("Allow group id g-callers to use fn-invocation in tenancy")
        assert by_id.allow(member("g-callers"), perm.INVOKE, target())
        # A group's name is no dynamic group's, and no id is a name.
        assert not grants("Allow dynamic-group Devs to use fn-invocation in tenancy").allow(DEV, perm.INVOKE, target())
        assert not grants("Allow group g-devs to use fn-invocation in tenancy").allow(DEV, perm.INVOKE, target())
        assert not grants("Allow service faas to read repos in tenancy").allow(DEV, perm.REPO_READ, target())

    def test_listed_permissions(self) -> None:
        allowed = grants("Allow group devs to {fn_app_read, FN_INVOCATION} in tenancy")
        assert allowed.allow(DEV, perm.INVOKE, target())
        assert not allowed.allow(DEV, perm.APP_LIST, target())

    def test_conditions(self) -> None:
        rule = "Allow group devs to use fn-invocation in tenancy where "
        one = grants(rule + "target.function.id = 'OCID1.fnfunc.x'")
        assert one.allow(DEV, perm.INVOKE, target(target_function_id="ocid1.fnfunc.X"))
        assert not one.allow(DEV, perm.INVOKE, target(target_function_id="ocid1.fnfunc.y"))
        assert not one.allow(DEV, perm.INVOKE, target())
        assert not grants(rule + "target.function.id != 'x'").allow(DEV, perm.INVOKE, target())
        either = grants(
            rule + "any {target.app.name = /shop*/, all {target.app.name = 'web', request.permission != 'X'}}"
        )
        assert either.allow(DEV, perm.INVOKE, target(target_app_name="shopping"))
        assert not either.allow(DEV, perm.INVOKE, target(target_app_name="web"))
        assert either.allow(DEV, perm.INVOKE, target(target_app_name="web", request_permission="FN_INVOCATION"))

    @pytest.mark.parametrize(
        ("statement", "who", "why"),
        [
            ("Allow group callers to use fn-invocation in tenancy", DEV, "ada is not in group callers"),
            ("Allow group nobody to use fn-invocation in tenancy", DEV, "there is no group nobody"),
            ("Allow group devs to read fn-app in tenancy", DEV, "it is about fn-app, not fn-invocation"),
            (
                "Allow group devs to read fn-invocation in tenancy", DEV,
                "read does not include FN_INVOCATION, which needs use",
            ),
            (
                "Allow group devs to {FN_APP_READ} in tenancy", DEV,
                "FN_INVOCATION is not among the permissions it lists",
            ),
            ("Allow group devs to use fn-invocation in compartment shop", DEV, "the target is not in compartment shop"),
            ("Allow group devs to use fn-invocation in compartment gone", DEV, "there is no compartment gone here"),
            (
                "Allow group devs to use fn-invocation in tenancy where target.app.name = 'b'", DEV,
                "target.app.name is 'a', and the condition is target.app.name = 'b'",
            ),
        ],
    )  # fmt: skip
    def test_every_refusal_says_why(self, statement: str, who: Principal, why: str) -> None:
        decision = grants(statement).explain(who, perm.INVOKE, target(target_app_name="a"))
        assert (decision.allowed, [other[2] for other in decision.others]) == (False, [why])

    def test_what_allowed_it(self) -> None:
        first, second = (
            "Allow group callers to use fn-invocation in tenancy",
            "Allow any-user to use fn-invocation in tenancy",
        )
        decision = grants(first, second).explain(DEV, perm.INVOKE, target())
        assert (decision.allowed, decision.policy, decision.statement) == (True, "p", second)


# -- against a naive evaluator

NAMES = st.sampled_from(["devs", "callers", "workers", "nobody"])
PLACES = st.sampled_from(
    ["tenancy", "compartment web", "compartment web:staging", "compartment shop", "compartment gone"]
)
VALUES = st.sampled_from(["a", "b", "ab", "aab", ""])
CONDITION = st.builds(
    lambda variable, sign, value, pattern: f"{variable} {sign} " + (f"/{value}*/" if pattern else f"'{value}'"),
    st.sampled_from(["target.app.name", "target.function.name", "request.permission"]), st.sampled_from(["=", "!="]),
    VALUES, st.booleans(),
)  # fmt: skip
CONDITIONS = st.recursive(
    CONDITION,
    lambda inner: st.builds(
        lambda word, parts: f"{word} {{{', '.join(parts)}}}",
        st.sampled_from(["any", "all"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)
STATEMENTS = st.builds(
    lambda kind, name, what, place, where: f"Allow {kind} {name if kind != 'any-user' else ''} to {what} in {place}"
    + (f" where {where}" if where else ""),
    st.sampled_from(["group", "dynamic-group", "any-user"]), NAMES,
    st.builds("{} {}".format, st.sampled_from([str(v) for v in Verb]), st.sampled_from([*TYPES[:5], *FAMILIES])),
    PLACES, st.none() | CONDITIONS,
)  # fmt: skip


def naive_holds(text: str, variables: Mapping[str, str]) -> bool:
    """By plain text: the grammar is simple enough here, as the conditions have no braces or commas in values."""
    text = text.strip()
    if text.startswith(("any {", "all {")):
        parts, depth, start = [], 0, 5
        for i, sign in enumerate(text):
            depth += (sign == "{") - (sign == "}")
            if (sign == "," and depth == 1) or (sign == "}" and depth == 0):
                parts.append(text[start:i])
                start = i + 1
        results = [naive_holds(part, variables) for part in parts]
        return all(results) if text.startswith("all") else any(results)
    variable, sign, value = text.split(" ", 2)
    if variable not in variables:
        return False
    equal = (
        fnmatch.fnmatchcase(variables[variable].lower(), value[1:-1].lower())
        if value.startswith("/")
        else variables[variable].lower() == value[1:-1].lower()
    )
    return equal == (sign == "=")


def naive(
    statement: str, groups: set[str], permission: Permission, compartment: str, variables: Mapping[str, str]
) -> bool:
    head, _, where = statement.partition(" where ")
    who, _, rest = head.removeprefix("Allow ").partition(" to ")
    what, _, place = rest.partition(" in ")
    kind, _, name = who.strip().partition(" ")
    known = {"group": {"devs": "g-devs", "callers": "g-callers"}, "dynamic-group": {"workers": "d-workers"}}
    if kind != "any-user" and known[kind].get(name) not in groups:
        return False
    verb, kind_of = what.split()
    if permission.resource != kind_of and permission.resource not in FAMILIES.get(kind_of, ()):
        return False
    if ["inspect", "read", "use", "manage"].index(verb) < ["inspect", "read", "use", "manage"].index(
        str(permission.verb)
    ):
        return False
    inside = {
        "tenancy": {ROOT, WEB, STAGING, SHOP}, "compartment web": {WEB, STAGING}, "compartment web:staging": {STAGING},
        "compartment shop": {SHOP}, "compartment gone": set(),
    }[place]  # fmt: skip
    return compartment in inside and (not where or naive_holds(where, variables))


@settings(max_examples=400)
@given(
    st.lists(STATEMENTS, max_size=4),
    st.sets(st.sampled_from(["g-devs", "g-callers", "d-workers"])),
    st.sampled_from(list(PERMISSIONS.values())),
    st.sampled_from(list(COMPARTMENTS)),
    st.dictionaries(st.sampled_from(["target.app.name", "target.function.name", "request.permission"]), VALUES),
)
def test_decisions_equal_those_of_a_naive_evaluator(
    statements: list[str], groups: set[str], permission: Permission, compartment: str, variables: dict[str, str]
) -> None:
    expected = any(naive(s, groups, permission, compartment, variables) for s in statements)
    found = grants(*statements)
    who, what = member(*groups), Target(ABOVE[compartment], variables)
    assert found.allow(who, permission, what) == expected
    decision = found.explain(who, permission, what)
    assert decision.allowed == expected
    assert all(why for _, _, why in decision.others)


@given(st.text("ab*", max_size=12), st.text("ab", max_size=12))
def test_patterns(pattern: str, value: str) -> None:
    condition = Condition("v", True, pattern, pattern=True)
    assert holds(condition, {"v": value}) == fnmatch.fnmatchcase(value, pattern)


def test_a_pattern_takes_no_time() -> None:
    condition: Any = Combined(False, (Condition("v", True, "*a" * 2000 + "b", pattern=True),))
    assert not holds(condition, {"v": "a" * 20_000})


def test_every_route_and_variable_is_in_the_reference() -> None:
    from tests.iam.signing import ROOT as PROJECT

    page = (PROJECT / "docs" / "reference" / "policies.md").read_text()
    assert [name for name in (*VARIABLES, *PERMISSIONS, *TYPES, *FAMILIES) if f"`{name}`" not in page] == []
    statement: Statement = parse_statement("Allow group A to use fn-app in tenancy")
    assert statement.verb is Verb.USE
