"""Where work runs: Ray sessions, local clusters, jobs, checks before spending time. Ray, no torch.

Start reading in ``topology.py`` (arithmetic of what fits), then ``session.py`` (how a verb gets its Ray).
"""
