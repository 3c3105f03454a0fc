"""Attention within short documents on CPUs, spelt out, with a backward pass of its own.

PyTorch's fused kernel for CPUs takes up to twice as long for documents of some dozen tokens, and it has no dropout; composed of torch's
operations under autograd, as much is spent on copies as on products. Here queries, keys and values of all runs are gathered once each into
rows of one head and one document, every product writes where the next one reads, and noise is drawn once a layer.

Shapes: N tokens, K of them asked for, H heads, W width of a head; B rows of a run, T tokens and Q asked ones in each; P places of all runs'
rows and heads, one behind the other; S scores of all runs, likewise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from encoder.dropout import noise
from encoder.layout import Fold, Layout, Run, visible

MOST_ATTENDED = 100
"""Tokens that a token sees in the mean, up to which this is quicker than the fused kernel; at 256 it takes twice as long."""


def is_quicker(layout: Layout) -> bool:
    """Whether documents are so short that spelling attention out is worth it where there is no dropout."""
    places = [run.rows * run.longest for run in layout.runs]
    return sum(size * run.longest for size, run in zip(places, layout.runs, strict=True)) <= MOST_ATTENDED * sum(places)


def attend_short(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    *,
    window: int | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
) -> torch.Tensor:
    """Attention in each document: (N, H, W) each, or (K, H, W) queries, to what queries are; arguments as ``attention.attend`` has them."""
    heads, width = query.shape[1:]
    is_asked = len(query) != len(key)
    planned = partial(_planned, layout, heads, window, key.dtype, is_asked=is_asked)
    plan = layout.once(("short", heads, is_asked, window, key.dtype), planned)
    scale = width**-0.5 if scaling is None else scaling
    output: torch.Tensor = _Attention.apply(query, key, value, plan, dropout, scale)  # type: ignore[no-untyped-call]
    return output


class _Side(NamedTuple):
    """How tokens of each head go to places and back."""

    sources_P: torch.Tensor
    """Which of the (N·H, W) stands at each place."""
    places_NH: torch.Tensor
    """Where each of them goes."""
    empty: torch.Tensor | None
    """Places that hold no token."""


class _Sizes(NamedTuple):
    """Of one run, for all heads: H·B products of (Q, T)."""

    products: int
    asked: int
    longest: int
    mask: torch.Tensor | None
    """(B, 1 or Q, T), added to scores."""


@dataclass(frozen=True)
class _Plan:
    queries: _Side
    keys: _Side
    sizes: tuple[_Sizes, ...]

    @property
    def scores(self) -> int:
        return sum(run.products * run.asked * run.longest for run in self.sizes)

    def each(self, queries: torch.Tensor, keys: torch.Tensor, scores: torch.Tensor) -> Iterator[tuple[Any, ...]]:
        """Views of each run: the size, (H·B, Q, W), (H·B, T, W), (H·B, Q, T)."""
        at_query = at_key = at_score = 0
        for size in self.sizes:
            products, asked, longest, _ = size
            queries_end, keys_end = at_query + products * asked, at_key + products * longest
            scores_end = at_score + products * asked * longest
            yield (
                size,
                queries[at_query:queries_end].view(products, asked, queries.shape[-1]),
                keys[at_key:keys_end].view(products, longest, keys.shape[-1]),
                scores[at_score:scores_end].view(products, asked, longest),
            )
            at_query, at_key, at_score = queries_end, keys_end, scores_end


def _planned(layout: Layout, heads: int, window: int | None, dtype: torch.dtype, *, is_asked: bool) -> _Plan:
    sizes, asked = [], [_queried(run, is_asked=is_asked) for run in layout.runs]
    for run, (_, rows, count, fold) in zip(layout.runs, asked, strict=True):
        mask = None
        if count and (seen := visible(run, fold, window, torch.device("cpu"))) is not None:
            mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf")).squeeze(1)
        sizes.append(_Sizes(heads * rows, count, run.longest, mask))
    keys = _side([_queried(run, is_asked=False) for run in layout.runs], heads)
    return _Plan(_side(asked, heads) if is_asked else keys, keys, tuple(sizes))


def _queried(run: Run, *, is_asked: bool) -> tuple[int, int, int, Fold | None]:
    """Tokens of a run, or those of them that are asked for: how many, in how many rows, places in a row, and their fold."""
    if not is_asked:
        return run.tokens, run.rows, run.longest, run.fold
    fold = run.asked_fold
    return (0, run.rows, 0, None) if fold is None else (run.asked, *fold.document_BT.shape, fold)


def _side(runs: list[tuple[int, int, int, Fold | None]], heads: int) -> _Side:
    """Of runs with so many tokens, rows, places in each row, and their folds; heads are outermost in a run."""
    numbers = torch.arange(heads)
    sources, places, empty = [], [], []
    token = place = 0
    for tokens, rows, longest, fold in runs:
        size = rows * longest
        source, where = (torch.arange(size),) * 2 if fold is None else (fold.sources_BT, fold.places_N)
        sources.append(((token + source) * heads + numbers.unsqueeze(1)).flatten())
        places.append((place + numbers * size + where.unsqueeze(1)).flatten())
        if fold is not None:
            is_empty = torch.ones(size, dtype=torch.bool).index_fill_(0, where, False)
            empty.append((place + numbers.unsqueeze(1) * size + is_empty.nonzero().flatten()).flatten())
        token, place = token + tokens, place + heads * size
    return _Side(torch.cat(sources), torch.cat(places), torch.cat(empty) if empty else None)


class _Attention(torch.autograd.Function):
    """(N, H, W) each, or (K, H, W) queries."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: _Plan, dropout: float, scale: float
    ) -> torch.Tensor:
        # As it is called, under an autocast or not, inputs have the type that is to be computed in.
        with torch.autocast("cpu", enabled=False):
            queries = _placed(query, plan.queries).mul_(scale)
            keys, values = _placed(key, plan.keys), _placed(value, plan.keys)
            weights = keys.new_empty(plan.scores)
            for size, query_BQW, key_BTW, weight_BQT in plan.each(queries, keys, weights):
                scores = torch.bmm(query_BQW, key_BTW.transpose(1, 2))
                if size.mask is not None:
                    scores.view(-1, *size.mask.shape[:1], *scores.shape[1:]).add_(size.mask)
                torch.softmax(scores, -1, out=weight_BQT)
            factors = noise(plan.scores, dropout, keys.dtype) if dropout else None
            dropped = weights if factors is None else weights * factors
            outputs = torch.empty_like(queries)
            for _, output_BQW, value_BTW, weight_BQT in plan.each(outputs, values, dropped):
                torch.bmm(weight_BQT, value_BTW, out=output_BQW)
            ctx.plan, ctx.scale = plan, scale
            ctx.save_for_backward(queries, keys, values, weights, *(() if factors is None else (factors, dropped)))
            return _back(outputs, plan.queries, query.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan: _Plan = ctx.plan
        queries, keys, values, weights, *noises = ctx.saved_tensors
        factors, dropped = noises or (None, weights)
        with torch.autocast("cpu", enabled=False):
            outputs = _placed(gradients[0], plan.queries)
            if plan.queries.empty is not None:
                outputs.index_fill_(0, plan.queries.empty, 0.0)  # what stands there is another token's
            by_query, by_key, by_value = (torch.empty_like(state) for state in (queries, keys, values))
            by_weight = torch.empty_like(weights)
            for (_, output_BQW, value_BTW, weight_BQT), (_, _, by_value_BTW, by_weight_BQT) in zip(
                plan.each(outputs, values, dropped), plan.each(outputs, by_value, by_weight), strict=True
            ):
                torch.bmm(weight_BQT.transpose(1, 2), output_BQW, out=by_value_BTW)
                torch.bmm(output_BQW, value_BTW.transpose(1, 2), out=by_weight_BQT)
            if factors is not None:
                by_weight.mul_(factors)
            for (_, query_BQW, key_BTW, weight_BQT), (_, by_query_BQW, by_key_BTW, by_weight_BQT) in zip(
                plan.each(queries, keys, weights), plan.each(by_query, by_key, by_weight), strict=True
            ):
                by_score = torch._softmax_backward_data(by_weight_BQT, weight_BQT, -1, weights.dtype)
                torch.bmm(by_score, key_BTW, out=by_query_BQW)
                torch.bmm(by_score.transpose(1, 2), query_BQW, out=by_key_BTW)
            by_query.mul_(ctx.scale)
            sides = ((by_query, plan.queries), (by_key, plan.keys), (by_value, plan.keys))
            return (*(_back(state, side, gradients[0].shape[1]) for state, side in sides), None, None, None)


def _placed(state: torch.Tensor, side: _Side) -> torch.Tensor:
    """(N, H, W) to places (P, W)."""
    return state.reshape(-1, state.shape[-1]).index_select(0, side.sources_P)


def _back(state: torch.Tensor, side: _Side, heads: int) -> torch.Tensor:
    """Places (P, W) to (N, H, W)."""
    return state.index_select(0, side.places_NH).view(-1, heads, state.shape[-1])
