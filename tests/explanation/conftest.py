"""Pictures and the command line, as its own tests use them."""

from tests.cli.conftest import invoke, picture, refused, run, wrong_files  # noqa: F401
