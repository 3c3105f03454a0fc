"""What training and serving both need of a model: loading, tokenising, padding, attention masks, scores. torch and transformers, no ray.

Start reading in ``classifier.py``.
"""
