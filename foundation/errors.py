"""Errors for the person at the terminal: where, what was found, what was expected, what to do.

Each takes one message and nothing else, so that it survives pickling on its way out of a Ray worker. ``exit_code`` is what the
command line returns: 1 failed, 2 bad usage or input, 3 a quality gate failed.
"""


def first_line(error: object) -> str:
    """The first line of another library's message that says something, at most 200 characters; without one, the error's kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


class RaybertError(Exception):
    """Anything raybert refuses or fails at, with a message meant to be read."""

    exit_code = 1


class RunError(RaybertError):
    """A run started and could not finish."""


class InputError(RaybertError):
    """What the user gave cannot be used: nothing was started, nothing was written."""

    exit_code = 2


class ConfigError(InputError):
    """A recipe, an override or an option is wrong; the message names file and key."""


class DataError(InputError):
    """A data file is missing, damaged, empty or lacks what the recipe asks of it."""


class EncoderError(InputError):
    """An encoder reference names nothing that can be loaded."""


class BundleError(InputError):
    """A bundle is missing files, has altered ones, or is of a form this version cannot read."""


class RegistryError(InputError):
    """A model name, version or alias that the registry does not hold, or a lost race for the champion."""


class ClusterError(InputError):
    """No cluster at the address, a wrong token, or more resources asked for than the cluster has."""


class ServiceError(RaybertError):
    """A served endpoint could not be reached or answered with an error."""


class GateError(RaybertError):
    """A quality gate failed: the run is kept, the promotion is not."""

    exit_code = 3
