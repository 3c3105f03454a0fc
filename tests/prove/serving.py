"""What a service answers against plain transformers: ``make prove-serving`` (a minute or two; a finished quickstart has to be there).

200 test texts are asked over HTTP, one by one and in batches of all sizes at the same time, and compared with ``transformers.pipeline`` on
the exported folder, which a Python without raybert's packages loads. Another model: ``--model REF --data FILE``.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.ports import free_port
from corpus.config import LabelledDataConfig
from corpus.labelled import load_labelled
from foundation.home import home
from serving.client import Client
from tests.prove.verdict import Finding, judge
from tests.support.plain_transformers import run_without_us

LIMIT = 1e-4
CODE = """
import json
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
model = AutoModelForSequenceClassification.from_pretrained("exported")
pipe = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained("exported"), top_k=None, truncation=True)
with open("texts.json", encoding="utf-8") as file:
    print(json.dumps([{found["label"]: found["score"] for found in pipe([text])[0]} for text in json.load(file)]))
"""


def raybert(*arguments: str | Path) -> str:
    """Run a verb; its output."""
    done = subprocess.run([sys.executable, "-m", "raybert", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def served(client: Client, texts: list[str]) -> list[dict[str, float]]:
    """The same from the service."""
    return [{label.label: label.score for label in result.labels} for result in client.classify(texts).results]


def largest_difference(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> float:
    """Over all texts and labels."""
    assert all(a.keys() == b.keys() for a, b in zip(found, wanted, strict=True))
    return max(abs(a[label] - b[label]) for a, b in zip(found, wanted, strict=True) for label in b)


def main() -> int:
    """Serve, ask, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="movie-reviews@champion")
    parser.add_argument("--data", default=str(home().runs / "quickstart" / "data"), help="labelled rows; their test split is asked")
    parser.add_argument("--texts", type=int, default=200)
    given = parser.parse_args()
    data = load_labelled(LabelledDataConfig(train=given.data))
    rows = data.test.texts or data.validation.texts
    texts = random.Random(0).sample(rows, min(given.texts, len(rows)))
    port, name = free_port(), "prove-serving"
    with tempfile.TemporaryDirectory(prefix="raybert-prove-serving-") as scratch:
        raybert("models", "export", given.model, Path(scratch) / "exported")
        (Path(scratch) / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        wanted: list[dict[str, float]] = json.loads(run_without_us(CODE, Path(scratch)))
        raybert("serve", "up", f"model={given.model}", f"name={name}", f"port={port}")
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                alone = [served(client, [text])[0] for text in texts]
                draw, batches, start = random.Random(1), [], 0
                while start < len(texts):
                    batches.append(texts[start : start + draw.randint(1, 32)])
                    start += len(batches[-1])
                with ThreadPoolExecutor(8) as pool:
                    together = [one for answers in pool.map(lambda batch: served(client, batch), batches) for one in answers]
        finally:
            raybert("serve", "down", name)
    return judge(
        [
            Finding(f"{len(texts)} texts", "probability, alone", largest_difference(alone, wanted), LIMIT),
            Finding(f"{len(texts)} texts", f"probability, in {len(batches)} batches at once", largest_difference(together, wanted), LIMIT),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
