"""What every other package stands on: configuration, errors, runs, paths, bundles, the registry. No torch, no ray.

Start reading in ``bundle.py``: the contract between training and serving.
"""
