"""The tests of the command run it as those of the command line do."""

from tests.cli.conftest import axial

__all__ = ["axial"]
