"""From raw text to packed shards whose order is exact, and to labelled splits. No torch anywhere in it.

Start reading in ``build.py``: the road from sources to shards. Training reads through ``shards.py``, ``order.py``, ``masks.py`` and
``labelled.py`` and needs nothing else from here.
"""
