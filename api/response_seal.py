"""Opaque texts that clients carry for Smelt: compacted conversations, and reasoning of answers that are not stored.

A blob is base64url(signature + deflated JSON). The signature (HMAC-SHA256) comes first to be checked: nothing is
inflated or read that this server did not write, so a foreign or broken blob is the client's mistake and never ours.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import zlib
from pathlib import Path
from typing import Any

SIGNATURE = hashlib.sha256().digest_size


class Seal:
    """One key; kept in a file, so that a conversation compacted before a restart is understood after it."""

    def __init__(self, key: bytes | None = None):
        self.given = key

    @property
    def key(self) -> bytes:
        if self.given is None:
            self.given = key_in(key_file())
        return self.given

    def sign(self, kind: str, data: bytes) -> bytes:
        return hmac.new(self.key, kind.encode() + b"\0" + data, hashlib.sha256).digest()

    def close(self, kind: str, value: Any) -> str:
        data = zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 6)
        return base64.urlsafe_b64encode(self.sign(kind, data) + data).decode()

    def open(self, kind: str, blob: str) -> Any:
        """What was closed; ValueError for a blob that this key did not sign, or not as this kind."""
        raw = base64.urlsafe_b64decode(blob.encode("ascii"))
        signature, data = raw[:SIGNATURE], raw[SIGNATURE:]
        if not hmac.compare_digest(signature, self.sign(kind, data)):
            raise ValueError("the signature is not of this server")
        return json.loads(zlib.decompress(data))


def key_file() -> Path:
    home = os.environ.get("SMELT_HOME")
    return (Path(home) if home else Path.home() / ".smelt") / "seal.key"


def key_in(path: Path) -> bytes:
    """The key of a file, which is made where it is missing; where no file can be, a key for this process only."""
    made = secrets.token_bytes(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(made)
        try:
            os.link(beside, path)  # fails where another process was first: then its key counts
        except FileExistsError:
            made = path.read_bytes()
        finally:
            beside.unlink()
    except OSError:
        return made
    return made if len(made) >= 16 else secrets.token_bytes(32)
