"""Reports of an evaluation: Markdown, CSV, charts, and a page of maps."""
