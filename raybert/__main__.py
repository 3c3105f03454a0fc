"""``python -m raybert``, the same as ``raybert``."""

from raybert.main import command

command()
