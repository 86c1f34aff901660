"""Files that other processes may read while they are written."""

import os
from pathlib import Path


def write_whole(file: Path, content: bytes | str) -> None:
    """All of it or nothing. Raises OSError where it cannot be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(file)
