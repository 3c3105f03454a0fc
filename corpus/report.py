"""What a build did, for people: counters of every stage with examples of what was dropped, as text and as one self-contained HTML page.

Pure functions of the manifest.
"""

from __future__ import annotations

from html import escape

from corpus.manifest import BuildManifest, StageCount
from foundation.page import page as framed


def text(manifest: BuildManifest, *, with_examples: bool = False) -> str:
    """Counters as a table, packed and labelled rows below it."""
    lines = [f"{'stage':<22}{'rows in':>12}{'rows out':>12}  notes"]
    for stage in manifest.stages:
        lines.append(f"{stage.stage:<22}{stage.rows_in:>12,}{stage.rows_out:>12,}  {'; '.join(_notes(stage))}".rstrip())
        if with_examples:
            lines += [f"    {reason}: {example}" for reason, examples in stage.examples.items() for example in examples]
    if manifest.tokenised:
        lines.append(f"{'tokenised source':<22}{'words':>12}{'tokens':>12}{'a word':>8}{'unknown':>11}")
        for name, found in manifest.tokenised.items():
            shares = f"{found.fertility:>8.2f}{100 * found.unknown_share:>9.3f} %"
            lines.append(f"  {name:<20}{found.words:>12,}{found.tokens:>12,}{shares}")
    for split, packed in manifest.packed.items():
        lines.append(f"packed {split}: {packed.rows:,} rows, {packed.tokens:,} tokens, {100 * packed.fill:.1f} % filled")
        lines += [f"  up to {bucket.longest} tokens: {bucket.rows:,} rows" for bucket in packed.buckets]
    if manifest.labelled:
        counts = ", ".join(f"{split} {rows:,}" for split, rows in manifest.labelled.items())
        lines.append(f"labelled: {counts}; {_labels(manifest, 8)}")
    lines += [f"{finding.kind}: {finding.message}" for finding in manifest.findings]
    return "\n".join(lines)


def page(manifest: BuildManifest, title: str) -> str:
    """The same as an HTML page that needs nothing beside itself."""
    most = max((stage.rows_in for stage in manifest.stages), default=1) or 1
    rows = "".join(_stage_row(stage, most) for stage in manifest.stages)
    examples = "".join(_examples(stage) for stage in manifest.stages if stage.examples)
    packed = "".join(
        f"<tr><td>{escape(split)}</td><td class=n>{found.rows:,}</td><td class=n>{found.documents:,}</td>"
        f"<td class=n>{found.tokens:,}</td><td class=n>{100 * found.fill:.2f} %</td><td class=n>{len(found.shards)}</td></tr>"
        for split, found in manifest.packed.items()
    )
    sources = "".join(
        f"<tr><td>{escape(name)}</td><td class=n>{source.rows:,}</td><td>{escape(', '.join(list(source.files)[:5]))}"
        f"{'' if len(source.files) <= 5 else f' and {len(source.files) - 5} more'}</td></tr>"
        for name, source in manifest.sources.items()
    )
    tokenised = "".join(
        f"<tr><td>{escape(name)}</td><td class=n>{found.words:,}</td><td class=n>{found.tokens:,}</td>"
        f"<td class=n>{found.fertility:.2f}</td><td class=n>{100 * found.unknown_share:.3f} %</td></tr>"
        for name, found in manifest.tokenised.items()
    )
    tokens = (
        f"<h2>Tokens</h2><table><tr><th>source<th class=n>words<th class=n>tokens<th class=n>tokens a word<th class=n>unknown</tr>"
        f"{tokenised}</table><p>A word is a run of letters, digits and marks, or one character of a script without spaces.</p>"
    )
    labelled = "".join(f"<li>{escape(split)}: {rows:,}</li>" for split, rows in manifest.labelled.items())
    findings = "".join(f"<li>{escape(finding.kind)}: {escape(finding.message)}</li>" for finding in manifest.findings)
    classes = f"<h2>Labelled rows</h2><p>{escape(_labels(manifest))}</p><ul>{labelled}</ul>{f'<ul>{findings}</ul>' if findings else ''}"
    body = (
        f"<p>Built {escape(manifest.created)}, content {manifest.fingerprint[:12]}, rows of "
        f"{manifest.sequence_length} tokens, vocabulary of {manifest.tokenizer.vocabulary:,}.</p>"
        f"<h2>Sources</h2><table><tr><th>source<th class=n>rows<th>files</tr>{sources}</table>"
        f"<h2>Stages</h2><table><tr><th>stage<th class=n>rows in<th class=n>rows out<th>kept<th>notes</tr>{rows}</table>"
        f"<h2>Packed rows</h2><table><tr><th>split<th class=n>rows<th class=n>documents<th class=n>tokens<th class=n>filled"
        f"<th class=n>shards</tr>{packed}</table>"
        f"{tokens if manifest.tokenised else ''}"
        f"{classes if manifest.labelled else ''}"
        f"{f'<h2>Examples of what was dropped</h2>{examples}' if examples else ''}"
    )
    return framed(title, body)


def _labels(manifest: BuildManifest, shown: int | None = None) -> str:
    """What a labelled row holds, and the first classes."""
    if manifest.label_kind == "number":
        what = "numbers"
    else:
        what = f"{len(manifest.labels)} classes{', several a row' if manifest.label_kind == 'list' else ''}"
        what += f": {', '.join(manifest.labels[:shown])}"
    return what + ("; pairs of texts" if manifest.has_pairs else "")


def _notes(stage: StageCount) -> list[str]:
    notes = [f"{reason}: {count:,}" for reason, count in stage.dropped.items()]
    return notes + ([f"changed: {stage.changed:,}"] if stage.changed else []) + [f"{what}: {n:,}" for what, n in stage.counts.items()]


def _stage_row(stage: StageCount, most: int) -> str:
    width = 100 * stage.rows_out / most
    return (
        f"<tr><td>{escape(stage.stage)}</td><td class=n>{stage.rows_in:,}</td><td class=n>{stage.rows_out:,}</td>"
        f'<td><div class=bar><div style="width:{width:.1f}%"></div></div></td><td>{escape("; ".join(_notes(stage)))}</td></tr>'
    )


def _examples(stage: StageCount) -> str:
    return "".join(
        f"<details open><summary>{escape(stage.stage)}: {escape(reason)}</summary>"
        + "".join(f"<blockquote>{escape(example)}</blockquote>" for example in examples)
        + "</details>"
        for reason, examples in stage.examples.items()
    )
