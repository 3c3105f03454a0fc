"""The front door: the command line and the quickstart. Nothing imports it.

Start reading in ``main.py``; each verb is a file in ``verbs/``.
"""

__version__ = "0.1.0"
