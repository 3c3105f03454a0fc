"""Pretraining and fine-tuning: objectives, the loop, the engines, checkpoints, evaluation, export.

Start reading in ``loop.py``.
"""
