"""``raybert query``: ask a served classifier."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from foundation.errors import DataError
from raybert.options import AsJson, DryRun, show, show_plan

app = typer.Typer(rich_markup_mode=None)
COMMANDS = {"query": app}


@app.command()
def query(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; '-' reads one a line from stdin.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read texts from a file, one a line.", show_default=False)] = None,
    url: Annotated[str, typer.Option("--url", help="The service. Default: the one that `serve up` started.", show_default=False)] = "",
    model: Annotated[str, typer.Option("--model", help="Ask for this model; refused when another is served.", show_default=False)] = "",
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Labels per text.", show_default=False)] = None,
    retries: Annotated[int, typer.Option("--retries", min=0, help="Further tries when the service is full.")] = 0,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one request.")] = 60.0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Classify texts with a running service.

    Example: raybert query "This is a good product" "This is a bad product"
    """
    from serving.client import DEFAULT_URL, Client
    from serving.state import recorded

    asked = _texts(texts or [], file)
    services = recorded()
    target = url or (services[0].url if services else DEFAULT_URL)
    at_once = min((state.max_texts_per_request for state in services if state.url == target), default=256)
    if dry_run:
        show_plan({"url": target, "model": model or None, "texts": len(asked), "texts_per_request": at_once}, as_json=as_json)
        return
    answers: list[dict[str, Any]] = []
    served = ""
    with Client(target, timeout_s=timeout_s, retries=retries) as client:
        for start in range(0, len(asked), at_once):
            part = asked[start : start + at_once]
            answer = client.classify(part, model=model or None, top_k=top_k)
            served = f"{answer.model}/{answer.version}"
            answers += [{"text": text, **result.model_dump()} for text, result in zip(part, answer.results, strict=True)]
    show({"url": target, "served": served, "results": answers}, _table(answers, served), as_json=as_json)


def _texts(arguments: list[str], file: Path | None) -> list[str]:
    if file is not None and arguments:
        raise DataError("texts were given both as arguments and with --file; give one of them")
    if file is not None:
        try:
            found = file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise DataError(f"{file}: no such file") from None
        except IsADirectoryError:
            raise DataError(f"{file}: is a folder; give a text file") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    elif arguments == ["-"]:
        try:
            found = sys.stdin.buffer.read().decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"stdin: byte {error.start} is not UTF-8") from None
    else:
        found = arguments
    kept = [text for text in found if text.strip()]
    if not kept:
        raise DataError("no text to classify; give texts as arguments, with --file, or '-' for stdin")
    return kept


def _table(answers: list[dict[str, Any]], served: str) -> str:
    lines = []
    for answer in answers:
        text = answer["text"] if len(answer["text"]) <= 60 else answer["text"][:59] + "…"
        scores = "  ".join(f"{item['label']} {item['score']:.4f}" for item in answer["labels"])
        lines.append(f"{text:<60}  {scores}{'  (cut to the model’s length)' if answer['truncated'] else ''}")
    return "\n".join([*lines, f"answered by {served}"])
