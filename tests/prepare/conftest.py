"""The config fixture of the data tests, for the tests of preparation."""

from tests.data.conftest import config

__all__ = ["config"]
