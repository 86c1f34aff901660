"""One task a file: `make(world) -> Sample`."""
