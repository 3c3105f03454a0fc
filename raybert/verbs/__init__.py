"""One file a verb or group of verbs; each fills ``COMMANDS`` (name on the command line to typer app)."""
