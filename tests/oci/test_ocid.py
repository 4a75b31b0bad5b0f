"""OCIDs are our ids in other clothes: there and back, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import ocid
from daemon.model import Ids

IDS = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26)


@given(IDS, st.sampled_from(["fnapp", "fnfunc", "user"]), st.booleans())
def test_an_id_comes_back(id_: str, kind: str, regional: bool) -> None:
    made = ocid.make(kind, id_, regional=regional)
    assert ocid.parse(made) == ocid.parse(made, kind) == id_ == ocid.id_of(made, kind) == ocid.id_of(id_, kind)
    assert ocid.kind_of(made) == kind


@given(IDS, IDS)
def test_different_things_have_different_ocids(a: str, b: str) -> None:
    assert (ocid.function_ocid(a) == ocid.function_ocid(b)) == (a == b)
    assert ocid.function_ocid(a) != ocid.application_ocid(a)


@given(
    st.text(max_size=80) | st.from_regex(r"ocid1\.fn(app|func)\.oc1\.(stoker|iad)?\.[0-9a-z]{20,30}", fullmatch=True)
)
def test_nothing_else_is_taken_for_one(text: str) -> None:
    try:
        id_ = ocid.parse(text)
    except ValueError:
        assert ocid.id_of(text, "fnfunc") in ("", text)
        return
    kind = ocid.kind_of(text)
    assert text in (ocid.make(kind, id_), ocid.make(kind, id_, regional=False))


def test_a_function_is_not_an_application() -> None:
    made = ocid.function_ocid(Ids().new())
    assert ocid.id_of(made, ocid.APPLICATION) == ""
    with pytest.raises(ValueError):
        ocid.parse(made, ocid.APPLICATION)


def test_an_id_must_be_ours_to_become_one() -> None:
    with pytest.raises(ValueError):
        ocid.function_ocid("not-an-id")


def test_clients_take_them() -> None:
    # oci.config: user and tenancy need four '.' or ':' separated parts at least.
    assert len(ocid.function_ocid(Ids().new()).split(".")) == len(ocid.TENANCY_OCID.split(".")) == 5
    assert ocid.kind_of(ocid.TENANCY_OCID) == "tenancy"
