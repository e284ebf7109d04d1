"""`python -m captum_extract_aggregate`."""

from captum_extract_aggregate.cli import app

app(prog_name="captum-extract-aggregate")
