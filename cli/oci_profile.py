"""Keys and profiles of Oracle's clients: ``~/.oci/config`` and the key files that it names.

The clients want the file readable by its owner only, and a last line ``OCI_API_KEY`` in a key file (they warn else).
Nothing that is there is overwritten: a profile of that name is an error, unless its key is being replaced.
"""

from __future__ import annotations

import configparser
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cli.errors import CliError

REGION = "local-1"
"""The clients demand a region; with an endpoint any text will do."""
LABEL = "OCI_API_KEY"
KEY_BITS = 2048
CONFIG_BYTES_MAX = 1024 * 1024

_PROFILE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def new_key() -> tuple[str, str]:
    """A new RSA key: the private half (PKCS#8 PEM, labelled) and the public half (PEM)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"{private}{LABEL}\n", public.decode()


@dataclass(frozen=True, slots=True)
class Profile:
    """One section of a configuration file, and the key file beside it."""

    config: Path
    name: str

    @property
    def key_file(self) -> Path:
        """Where a key of this profile is put."""
        return self.config.parent / f"stoker_{self.name}.pem"

    @property
    def token_file(self) -> Path:
        """Where a session token of this profile is put."""
        return self.config.parent / f"stoker_{self.name}.token"


def find(config: str | None, name: str | None, *, user: str) -> Profile:
    """The profile to write: as asked, else DEFAULT if there is none yet, else the user's name.

    Raises:
      CliError: the file cannot be read, or has that profile already.
    """
    path = Path(config or os.environ.get("OCI_CLI_CONFIG_FILE") or "~/.oci/config").expanduser()
    known = _sections(path)
    chosen = name or ("DEFAULT" if "DEFAULT" not in known else user)
    if not _PROFILE.fullmatch(chosen):
        raise CliError(f"profile {chosen!r}: 1 to 64 of A-Z a-z 0-9 . _ - are allowed")
    profile = Profile(path, chosen)
    if chosen in known:
        raise CliError(
            f"{path} has a profile {chosen} already",
            hint="choose another with --profile, or replace its key: stoker iam key rotate",
        )
    if profile.key_file.exists():
        raise CliError(f"{profile.key_file} is there already", hint="choose another --profile, or move that file away")
    return profile


def read(config: str | None, name: str) -> tuple[Profile, dict[str, str]]:
    """An existing profile and its settings.

    Raises:
      CliError: it is not there.
    """
    path = Path(config or os.environ.get("OCI_CLI_CONFIG_FILE") or "~/.oci/config").expanduser()
    sections = _sections(path)
    if name not in sections:
        raise CliError(f"{path} has no profile {name}", hint="name another with --profile")
    return Profile(path, name), sections[name]


def _sections(path: Path) -> dict[str, dict[str, str]]:
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX).decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise CliError(f"cannot read {path}: {exc}") from exc
    # As the clients read it, but DEFAULT is a section like the others here.
    parser = configparser.RawConfigParser(default_section="\x00")
    try:
        parser.read_string(text)
    except configparser.Error as exc:
        raise CliError(f"cannot read {path}: {exc.message}") from exc
    return {name: dict(parser[name]) for name in parser.sections()}


def write_private(path: Path, text: str, *, replace: bool = False) -> None:
    """Write a file that only its owner can read; at no moment is it there half or readable.

    Raises:
      CliError: it cannot be written, or is there and is not to be replaced.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            if replace:
                partial.replace(path)
            else:
                os.link(partial, path)  # unlike rename it does not replace
        finally:
            partial.unlink(missing_ok=True)
    except OSError as exc:
        raise CliError(f"cannot write {path}: {exc.strerror}") from exc


def add(profile: Profile, settings: dict[str, str]) -> None:
    """Add the profile to its file. Raises CliError."""
    old = profile.config.read_text() if profile.config.exists() else ""
    if old and not old.endswith("\n\n"):
        old = old.rstrip("\n") + "\n\n"
    lines = [f"[{profile.name}]", *(f"{name}={value}" for name, value in settings.items())]
    write_private(profile.config, old + "\n".join(lines) + "\n", replace=True)


def change(profile: Profile, settings: dict[str, str]) -> None:
    """Replace values of the profile, each line where it stands; all else stays as it is. Raises CliError."""
    lines, inside = [], False
    for line in profile.config.read_text().splitlines():
        text = line.strip()
        if text.startswith("["):
            inside = text == f"[{profile.name}]"
        name = text.partition("=")[0].strip()
        lines.append(f"{name}={settings[name]}" if inside and "=" in text and name in settings else line)
    write_private(profile.config, "\n".join(lines) + "\n", replace=True)
