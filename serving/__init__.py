"""From a verified bundle to answers: the classifier, the batcher, the HTTP edge, the Ray Serve application, the client, batch inference.

Start reading in ``classifier.py``; then ``batching.py`` (what runs together), ``host.py`` (one replica's inside), ``app.py`` (assembly).
``client.py`` is for programs that only ask: it needs httpx and pydantic, nothing else.
"""
