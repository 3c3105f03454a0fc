"""Attention, spelt out for CPUs or by the fused kernel, is attention of each document alone: results, gradients and dropout."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from encoder import attention
from encoder.config import AttentionKind
from encoder.dropout import noise
from encoder.first_token import ALIKE, attend_from_first, is_possible
from encoder.layout import Layout, layout
from encoder.short_attention import attend_short, is_quicker

HEADS, WIDTH = 3, 4
HIDDEN = HEADS * WIDTH
lengths_of = st.lists(st.integers(1, 9), min_size=1, max_size=8).map(sorted)


def states(queries: int, tokens: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(queries + tokens)
    return [
        torch.randn(size, HEADS, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True) for size in (queries, tokens, tokens)
    ]


def plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sizes: list[int], asked: np.ndarray, window: int | None
) -> torch.Tensor:
    """Document by document, by the formula."""
    found = torch.zeros_like(query)
    for start, end in pairwise(np.cumsum([0, *sizes])):
        own = np.flatnonzero((asked >= start) & (asked < end))
        scores = torch.einsum("qhw,thw->hqt", query[own], key[start:end]) * WIDTH**-0.5
        if window is not None:
            far = torch.from_numpy(abs(asked[own][:, None] - np.arange(start, end)) >= window)
            scores = scores.masked_fill(far, float("-inf"))
        found[own] = torch.einsum("hqt,thw->qhw", scores.softmax(dim=-1), value[start:end])
    return found


def gradients_of(output: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.arange(output.numel(), dtype=output.dtype).view(output.shape) / output.numel()
    return list(torch.autograd.grad((output * weights).sum(), inputs))


def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, whole: Layout, *, window: int | None) -> torch.Tensor:
    """As where documents are long, and on GPUs: by SDPA."""
    rows = (state.transpose(0, 1).unsqueeze(0) for state in (query, key, value))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attention, "is_quicker", lambda _: False)
        return attention.attend(nn.Identity(), *rows, None, layout=whole, sliding_window=window)[0].squeeze(0)


@pytest.mark.parametrize("way", [attend_short, fused])
@given(
    sizes=lengths_of,
    kind=st.sampled_from(["runs", "block"]),
    window=st.none() | st.integers(1, 10),
    chosen=st.none() | st.integers(0, 1000),
)
def test_either_way_is_attention_in_each_document_and_so_are_its_gradients(
    way: Callable[..., torch.Tensor], sizes: list[int], kind: AttentionKind, window: int | None, chosen: int | None
) -> None:
    tokens, whole = sum(sizes), layout(sizes, kind)
    asked = np.arange(tokens)
    if chosen is not None and tokens > 1:
        random = np.random.default_rng(chosen)
        asked = np.sort(random.permutation(tokens)[: random.integers(1, tokens)])
        whole = whole.asking(asked)
    inputs = states(len(asked), tokens)
    found, expected = way(*inputs, whole, window=window), plain(*inputs, sizes, asked, window)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(gradients_of(found, inputs), gradients_of(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropout_zeroes_weights_and_its_gradient_follows() -> None:
    sizes = [7]
    inputs = states(7, 7)
    torch.manual_seed(11)
    found = attend_short(*inputs, layout(sizes, "runs"), dropout=0.4)
    torch.manual_seed(11)
    factors = noise(HEADS * 7 * 7, 0.4, torch.float64).view(HEADS, 7, 7)
    assert 0 < float((factors == 0).double().mean()) < 1
    query, key, value = inputs
    weights = (torch.einsum("qhw,thw->hqt", query, key) * WIDTH**-0.5).softmax(dim=-1) * factors
    expected = torch.einsum("hqt,thw->qhw", weights, value)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(gradients_of(found, inputs), gradients_of(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_layout_works_out_once_what_all_layers_need() -> None:
    whole, asked = layout([2, 3, 3], "runs"), iter("abc")
    assert [whole.once(("name", 1), lambda: next(asked)) for _ in range(2)] == ["a", "a"]
    assert whole.once(("name", 2), lambda: next(asked)) == "b"
    assert whole.asking(np.array([0])).once(("name", 1), lambda: next(asked)) == "c"  # another layout


def test_short_documents_are_spelt_out_and_long_ones_left_to_the_fused_kernel() -> None:
    assert is_quicker(layout([20] * 30, "runs"))
    assert is_quicker(layout([*range(5, 129)], "runs"))
    assert not is_quicker(layout([256] * 4, "runs"))


def first_tokens(sizes: list[int]) -> tuple[Layout, np.ndarray]:
    firsts = np.cumsum([0, *sizes[:-1]])
    return layout(sizes, "runs").asking(firsts), firsts


@given(sizes=lengths_of)
def test_a_first_token_sees_the_same_without_keys_and_values_of_the_others(sizes: list[int]) -> None:
    whole, firsts = first_tokens(sizes)
    torch.manual_seed(2)
    key, value = (nn.Linear(HIDDEN, HIDDEN, dtype=torch.float64) for _ in range(2))
    hidden = torch.randn(sum(sizes), HIDDEN, dtype=torch.float64, requires_grad=True)
    query = torch.randn(len(sizes), HIDDEN, dtype=torch.float64, requires_grad=True)
    found = attend_from_first(query, hidden, key, value, whole, heads=HEADS, dropout=0.0, scaling=WIDTH**-0.5)
    heads = [state.view(-1, HEADS, WIDTH) for state in (query, key(hidden), value(hidden))]
    expected = plain(*heads, sizes, firsts, None).flatten(1)
    torch.testing.assert_close(found, expected)
    inputs = [query, hidden, key.weight, key.bias, value.weight, value.bias]
    for ours, theirs in zip(gradients_of(found, inputs), gradients_of(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_keys_and_values_are_computed_where_it_would_not_be_the_same_or_not_pay() -> None:
    linear = nn.Linear(HIDDEN, HIDDEN)
    whole, _firsts = first_tokens([3, 4, 5])
    assert is_possible(whole, linear, linear)
    assert not is_possible(layout([3, 4, 5], "runs"), linear, linear)  # all tokens
    assert not is_possible(layout([3, 4, 5], "runs").asking(np.array([0, 1, 3])), linear, linear)  # two of one document
    ragged, _ = first_tokens([1] * 20 + [100])
    assert not is_possible(ragged, linear, linear)
    sharded = nn.Linear(HIDDEN, HIDDEN)
    setattr(sharded, ALIKE, True)
    assert not is_possible(whole, linear, sharded)
    assert not is_possible(whole, linear, nn.Linear(HIDDEN, HIDDEN, bias=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_in_the_type_that_it_is_given(dtype: torch.dtype) -> None:
    inputs = [state.detach().to(dtype).requires_grad_() for state in states(8, 8)]
    found = attend_short(*inputs, layout([2, 3, 3], "runs"))
    assert found.dtype == dtype
    expected = plain(*(state.detach().double() for state in inputs), [2, 3, 3], np.arange(8), None)
    torch.testing.assert_close(found.double(), expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-5, rtol=1e-2)
    assert all(gradient.dtype == dtype for gradient in gradients_of(found, inputs))
