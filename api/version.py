"""The version of this installation, without importing what reads package metadata (about 40 ms) at start-up."""

VERSION = "0.1.0"
