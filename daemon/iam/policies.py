"""Policies and compartments."""

from __future__ import annotations

from daemon.auth.policy import Directory, Statement
from daemon.auth.policy_language import PolicySyntaxError, parse_statement
from daemon.errors import BadRequest
from daemon.iam.base import Base, check_name, check_room, description_of
from daemon.model import Compartment
from daemon.store import iam_records
from daemon.store.iam_records import PolicyRow

STATEMENTS_MAX = 50
"""Most statements of one policy, as in OCI."""
DEPTH_MAX = 6
"""Deepest compartment beneath the root, as in OCI."""


class Policies(Base):
    """The service's part for policies and compartments."""

    # -- policies

    async def add_policy(
        self, name: str, statements: list[str], *, compartment: str = "", description: str = ""
    ) -> PolicyRow:
        """Store a policy.

        Raises:
          BadRequest, NotFound, Conflict: a bad name or statement, with the word that is wrong; no such compartment;
            the name is taken.
        """
        check_name("name", name)
        check_room(len(self.all.policies), "policies")
        place = self.compartment(compartment)
        row = PolicyRow(
            id=self.new_ocid("policy"),
            name=name,
            compartment_id=place.id,
            statements=self._checked(statements, place),
            description=description_of(description),
            created_at=self._now_ms(),
        )
        await self.change(lambda conn: iam_records.insert_policy(conn, row))
        return row

    async def update_policy(self, name: str, statements: list[str]) -> PolicyRow:
        """Replace a policy's statements; raises as for a new one."""
        row = self.policy(name)
        checked = self._checked(statements, self._catalog.compartments[row.compartment_id])
        await self.change(lambda conn: iam_records.update_policy(conn, row.id, checked))
        return self.policy(row.id)

    async def remove_policy(self, name: str) -> None:
        """Delete a policy. Raises NotFound."""
        policy_id = self.policy(name).id
        await self.change(lambda conn: iam_records.delete(conn, "policies", id=policy_id))

    def _checked(self, statements: list[str], place: Compartment) -> tuple[str, ...]:
        if not 1 <= len(statements) <= STATEMENTS_MAX:
            raise BadRequest(f"statements: 1 to {STATEMENTS_MAX} are allowed, not {len(statements)}")
        checked = []
        for number, text in enumerate(statements, 1):
            try:
                statement = parse_statement(text)
            except PolicySyntaxError as exc:
                raise BadRequest(f"statement {number}: {exc}", detail=exc.pointed()) from None
            self._check_names(number, statement, place)
            checked.append(statement.text)
        return tuple(checked)

    def _check_names(self, number: int, statement: Statement, place: Compartment) -> None:
        """Names that mean nothing are most likely misspelt; OCI refuses them too."""
        subject = statement.subject
        if subject.kind in ("group", "dynamic-group"):
            dynamic = subject.kind == "dynamic-group"
            kind = [group for group in self.all.groups if bool(group.rule) == dynamic]
            for name in subject.names:
                if not any(
                    name.text == g.id if name.is_id else name.text.casefold() == g.name.casefold() for g in kind
                ):
                    raise BadRequest(f"statement {number}: there is no {subject.kind} {name}")
        directory = Directory({}, {}, self._catalog.compartments)
        if not directory.find_compartment(place.id, statement.location):
            where = "the tenancy" if not place.parent_id else f"compartment {place.name}, where the policy is"
            raise BadRequest(f"statement {number}: there is no {statement.location} in {where}")

    # -- compartments

    async def add_compartment(self, name: str, *, parent: str = "", description: str = "") -> Compartment:
        """Store a compartment.

        Raises:
          BadRequest, NotFound, Conflict: a bad name, too deep; no such parent; the parent has one of that name.
        """
        check_name("name", name)
        check_room(len(self.all.compartments), "compartments")
        if name.casefold() == "root":
            raise BadRequest("name: 'root' is the tenancy")
        above = self.compartment(parent)
        if len(self._catalog.ancestry(above.id)) > DEPTH_MAX:
            raise BadRequest(f"compartments are at most {DEPTH_MAX} deep")
        compartment = Compartment(
            id=self.new_ocid("compartment"),
            name=name,
            parent_id=above.id,
            description=description_of(description),
            created_at=self._now_ms(),
        )
        await self.change(lambda conn: iam_records.insert_compartment(conn, compartment))
        return compartment

    async def remove_compartment(self, name: str) -> None:
        """Delete an empty compartment.

        Raises:
          BadRequest, NotFound, Conflict: it is the root; no such one; apps, policies or compartments are in it.
        """
        compartment = self.compartment(name)
        if not compartment.parent_id:
            raise BadRequest("the root compartment is the tenancy: it cannot be deleted")
        await self.change(lambda conn: iam_records.delete(conn, "compartments", id=compartment.id))
