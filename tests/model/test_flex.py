"""Flex attention: block sizes that fit a card, few compilations, and errors."""

import inspect
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._inductor.exc import InductorError
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import AuxRequest

from sft_cli.batching.packed_row import pack_row
from sft_cli.errors import SftError
from sft_cli.model.attention import attention_function, flex, probe
from sft_cli.model.attention.kernels import AttentionSpec, attention_by_length
from tests.model.helpers import tiny

CPU = torch.device("cpu")
FORCED = {"FORCE_USE_FLEX_ATTENTION": True}
BLOCKS = {f"bwd_BLOCK_{side}": 32 for side in ("M1", "N1", "M2", "N2")}
CARDS = {"4090": 101_376, "A100": 166_912, "H200": 232_448}


def stages(number):
    return {"fwd_num_stages": number, "bwd_num_stages": number}


@pytest.mark.parametrize(
    ("card", "widths", "options"),
    [
        ("4090", (64, 64), FORCED),
        ("4090", (128, 128), {**FORCED, **stages(2)}),
        ("4090", (96, 96), {**FORCED, **stages(2)}),
        ("4090", (192, 128), {**FORCED, **stages(1)}),
        ("4090", (192, 192), {**FORCED, **stages(1), **BLOCKS}),
        ("4090", (256, 256), {**FORCED, **stages(1), **BLOCKS}),
        ("A100", (256, 256), FORCED),
        ("H200", (256, 256), FORCED),
    ],
)
def test_kernel_options_by_card(card, widths, options):
    """The decoding kernel for short rows is never used; small cards get fewer stages, then smaller blocks."""
    assert flex.kernel_options(*widths, CARDS[card]) == options


@pytest.mark.parametrize(
    ("tokens", "capability", "fits"), [(20, (8, 0), True), (1, (8, 0), False), (20, (7, 5), False)]
)
def test_has_flex_kernel(tokens, capability, fits, monkeypatch):
    """A row of one token needs no kernel, and would be compiled separately."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(flex, "find_spec", lambda _: object())
    with FakeTensorMode():
        query = torch.empty(1, 2, tokens, 64, dtype=torch.bfloat16, device="cuda")
        assert flex.has_flex_kernel(query, AttentionSpec(softcap=5.0)) is fits


@pytest.fixture
def counter(monkeypatch):
    """Count compilations with a backend that runs eagerly, so that they are fast."""
    torch._dynamo.reset()
    flex.flex_kernel.cache_clear()
    found = CompileCounter()
    monkeypatch.setattr(flex.torch, "compile", partial(torch.compile, backend=found))
    yield found
    torch._dynamo.reset()
    flex.flex_kernel.cache_clear()


def compiled(lengths, parents=None, *, grad=False, window=None, softcap=5.0):
    """Return the attention of a row by the compiled function and by one call per length."""
    row, spec = pack_row(lengths, parents), AttentionSpec(0.3, window, softcap)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, sum(lengths), 16, generator=generator) for heads in (4, 2, 2))
    with torch.set_grad_enabled(grad):
        out, _ = flex.flex_kernel(grad, window, softcap)(
            query,
            key,
            value,
            score_mod=flex._softcap_score_mod(softcap),
            block_mask=flex.block_mask(row, window, CPU),
            scale=0.3,
            enable_gqa=True,
            return_aux=AuxRequest(lse=True),
        )
    torch.testing.assert_close(out.transpose(1, 2), attention_by_length(query, key, value, row, spec))


RUN = [
    *[([7, 11, 4, 3, 7], [-1, -1, -1, 2, 2], False), ([8], None, False)],  # the probe, and the trial of the last block
    *[([70, 90], None, True), ([40, 100, 30, 60], None, True), ([300], None, True)],  # steps
    *[([40, 200, 150], [-1, 0, 0], True), ([50, 20], None, True), ([131, 6, 2] * 5, None, True)],
    *[([70, 90], None, False), ([260], None, False), ([60], None, False), ([30, 60], None, False)],  # evaluation
]


def test_a_run_compiles_few_kernels(counter):
    """Rows of one, few and many examples, with and without a shared prefix, short and long."""
    for lengths, parents, grad in RUN:
        for window in (None, 16):
            compiled(lengths, parents, grad=grad, window=window)

    assert counter.frame_count <= 8  # two windows, with gradient and without, one block and several


def test_each_kind_of_layer_has_its_own_limit():
    """torch counts compilations by code object."""
    kinds = [(grad, window, softcap) for grad in (True, False) for window in (None, 8) for softcap in (None, 5.0)]
    code = {id(inspect.unwrap(flex.flex_kernel(*kind)).__code__) for kind in kinds}  # equal ones are not the same

    assert len(code) == len(kinds)
    assert flex.flex_kernel(*kinds[0]) is flex.flex_kernel(*kinds[0])


def test_exceeding_the_recompile_limit_is_an_error(counter, monkeypatch):
    """Otherwise torch would compute all scores of the row, without a message."""
    monkeypatch.setattr(flex, "MAX_VARIANTS", 1)
    with torch._dynamo.config.patch(recompile_limit=1):  # monkeypatch would leave it deleted
        compiled([70, 90])
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            compiled([7, 9])


def test_failed_compilation_is_an_sft_error(monkeypatch):
    def refuse(*_, **__):
        raise InductorError(RuntimeError("OutOfResources: shared memory, Required: 114688"), None)

    monkeypatch.setattr("torch.nn.attention.flex_attention.flex_attention", refuse)
    state = torch.zeros(1, 2, 4, 16)
    with pytest.raises(SftError) as caught:
        flex.packed_flex_attention(state, state, state, pack_row([4]), AttentionSpec())

    assert str(caught.value) == (
        "speed.packing: torch cannot compile the attention of packed rows for this card:"
        " RuntimeError: OutOfResources: shared memory, Required: 114688\n"
        "  fix: speed.packing=false"
    )


class FailsBackward(torch.autograd.Function):
    """A kernel whose backward pass does not fit into shared memory."""

    @staticmethod
    def forward(ctx, states):
        return states.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise InductorError(RuntimeError("OutOfResources: shared memory, Required: 114688"), None)


@pytest.mark.parametrize("fails", [True, False])
def test_the_probe_runs_the_backward_pass_on_a_row_of_the_run(fails, monkeypatch):
    """Only compiled kernels run there: other attention has been verified before."""
    lengths = []

    def kernel(query, key, value, row, spec):
        lengths.append(query.shape[2])
        out = attention_by_length(query, key, value, row, spec)
        return FailsBackward.apply(out) if fails and out.requires_grad else out

    monkeypatch.setattr(attention_function, "has_flex_kernel", lambda *_: True)
    monkeypatch.setattr(attention_function, "packed_flex_attention", kernel)
    result = probe.probe_packing(tiny("gemma2-window-softcap"), row_tokens=600)

    assert lengths[-1] == 600
    assert lengths.count(600) == (1 if fails else 2)  # a layer with the window, and one without
    if fails:
        assert not result.packed_ok
        assert result.reason == (
            "torch cannot compile the attention of packed rows for this card:"
            " RuntimeError: OutOfResources: shared memory, Required: 114688"
        )
    else:
        assert result.packed_ok
