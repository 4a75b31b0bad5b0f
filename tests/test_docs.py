"""The docs are true: generated pages are up to date, links lead somewhere, dependencies are justified."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import daemon.http
from daemon import VERSION
from daemon.http.openapi import build
from daemon.http.views import Route

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_generated_reference_pages_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_docs.py", "--check"], capture_output=True, text=True, cwd=ROOT
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_every_dependency_is_justified() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "docs" / "explanation" / "dependencies.md").read_text()
    names = [
        re.split(r"[<>=\[]", line)[0] for line in project["dependencies"] + project["optional-dependencies"]["dev"]
    ]
    assert [name for name in names if f"`{name}`" not in text and not name.startswith("types-")] == []
    assert project["version"] == VERSION


def test_every_file_the_docs_name_exists() -> None:
    named = set()
    for page in PAGES:
        named |= set(
            re.findall(
                r"`((?:scripts|systemd|tests|examples|daemon|runtime|fdk|cli|bench)/[\w./-]+)`", page.read_text()
            )
        )
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def tables() -> list[Route]:
    """Every row of every table of the package but the console's, which is for browsers."""
    found: list[Route] = []
    for module in pkgutil.iter_modules(daemon.http.__path__):
        found += getattr(importlib.import_module(f"daemon.http.{module.name}"), "ROUTES", [])
    return found


def test_every_route_is_in_an_openapi_description() -> None:
    def shape(method: str, path: str) -> tuple[str, str]:
        return method.upper(), re.sub(r"{[^}]*}", "{}", path)

    said = {
        shape(method, path) for name in build.NAMES for path, there in build.document(name)["paths"].items()
        for method in there
    }  # fmt: skip
    there = {shape(route.method, build.openapi_path(route.path)) for route in tables()}
    assert len(there) > 100
    calls = {
        ("POST", "/invoke/{}"),
        *(("POST", f"/{v}/functions/{{}}/actions/invoke") for v in ("20181201", "20260325")),
    }
    assert said == there | calls
