"""The command line: parses, calls, prints. The only place for typer, rich and exit codes."""
