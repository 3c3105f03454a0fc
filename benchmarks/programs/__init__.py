"""What each side of a benchmark runs, one program a side, in its own process and environment. Each prints one JSON object, last.

Start reading in ``pack_ours.py`` and ``pack_datasets.py``: the same task, done by each.
"""
