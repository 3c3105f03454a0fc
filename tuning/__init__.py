"""Hyperparameter search: a study is a YAML file, its winner is a recipe that `raybert finetune` takes.

Start reading in ``study.py``.
"""
