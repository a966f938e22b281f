"""The kernels of a CUDA device against one call per length on the CPU, and the probe of models that need each."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GptOssConfig, LlamaConfig, MistralConfig

from sft_cli.batching.packed_row import pack_row
from sft_cli.model.attention.flex import flex_kernel, has_flex_kernel, packed_flex_attention
from sft_cli.model.attention.kernels import AttentionSpec, attention_by_length
from sft_cli.model.attention.probe import probe_packing
from sft_cli.model.attention.varlen import has_varlen_kernel, packed_varlen_attention, sum_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # torch looks at the gradient of what it compiles, and hides the warning unless warnings are errors.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
SIZES = {"vocab_size": 256, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "pad_token_id": 0}  # fmt: skip
ROWS = {
    "apart": ([1, 37, 5, 128], None),
    "shared": ([40, 1, 37, 5, 128, 9], [-1, 0, 0, 2, 0, -1]),
}


def states(tokens, dtype, heads=(8, 2, 2), width=64):
    """Return the same numbers on the device in ``dtype`` and on the CPU in float32."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, count, tokens, width, generator=generator).to(dtype) for count in heads]
    return [part.cuda().requires_grad_() for part in parts], [part.float().requires_grad_() for part in parts]


def agree(out, expected, ours, theirs):
    """Compare outputs and the gradients of their squares; those of windows of one token are zero."""
    out.float().pow(2).sum().backward()
    expected.pow(2).sum().backward()
    torch.testing.assert_close(out.float().cpu(), expected, rtol=0.02, atol=0.02)
    for own, other in zip(ours, theirs, strict=True):
        scale = other.grad.abs().max().item()
        torch.testing.assert_close(own.grad.float().cpu(), other.grad, rtol=0.05, atol=max(0.02 * scale, 1e-3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 1, 7, 64])
@pytest.mark.parametrize(("lengths", "parents"), ROWS.values(), ids=ROWS)
def test_the_kernel_for_many_lengths(dtype, window, lengths, parents):
    """Grouped heads, windows across the boundary of a prefix, lengths from one token; forward and gradients."""
    row, rule = pack_row(lengths, parents), AttentionSpec(0.1, window)
    ours, theirs = states(sum(lengths), dtype)
    assert has_varlen_kernel(ours[0], ours[2])

    agree(
        packed_varlen_attention(*ours, row.to(torch.device("cuda")), rule),
        attention_by_length(*theirs, row, rule),
        ours,
        theirs,
    )


@pytest.fixture
def no_compiled_kernels():
    """Remove the kernels of other tests, because torch limits their number."""
    torch._dynamo.reset()
    flex_kernel.cache_clear()


BF16, FP16 = torch.bfloat16, torch.float16
COMPILED = {
    "sinks-shared": (BF16, None, True, (8, 2, 2), 64, ROWS["shared"]),
    "softcap-apart-six-heads": (BF16, 5.0, False, (6, 2, 2), 64, ROWS["apart"]),
    "both-apart": (BF16, 5.0, True, (8, 2, 2), 64, ROWS["apart"]),
    "fp16-sinks-apart-six-heads": (FP16, None, True, (6, 2, 2), 64, ROWS["apart"]),
    "fp16-softcap-shared": (FP16, 5.0, False, (8, 2, 2), 64, ROWS["shared"]),
    "fp16-both-shared-six-heads": (FP16, 5.0, True, (6, 2, 2), 64, ROWS["shared"]),
    "20-tokens-of-gpt-oss": (BF16, None, True, (16, 2, 2), 64, ([20], None)),
    "100-tokens-of-gpt-oss": (BF16, None, True, (16, 2, 2), 64, ([60, 40], None)),
    "70-tokens-of-gemma2": (BF16, 50.0, False, (8, 4, 4), 256, ([50, 20], None)),
    "300-tokens-of-gemma2": (BF16, 50.0, False, (8, 4, 4), 256, ([170, 130], None)),
}


@pytest.mark.parametrize(("dtype", "softcap", "sinks", "heads", "width", "laid"), COMPILED.values(), ids=COMPILED)
def test_the_compiled_kernel(dtype, softcap, sinks, heads, width, laid, no_compiled_kernels):
    """Soft-caps and sinks, whose gradient goes through the logarithm of the sum; short rows with many heads."""
    row = pack_row(*laid)
    ours, theirs = states(sum(row.lengths), dtype, heads, width)
    sink = [torch.linspace(-1, 1, heads[0]).to(device).requires_grad_() for device in ("cuda", "cpu")]
    rules = [AttentionSpec(0.1, 16, softcap, sinks=own if sinks else None) for own in sink]
    assert has_flex_kernel(ours[0], rules[0])
    out = packed_flex_attention(*ours, row.to(torch.device("cuda")), rules[0])
    expected = attention_by_length(*theirs, row, rules[1])

    if sinks:
        agree(out, expected, [*ours, sink[0]], [*theirs, sink[1]])
    else:
        agree(out, expected, ours, theirs)


def test_a_run_does_not_leave_the_compiled_kernel(no_compiled_kernels):
    """In the order of a run: probe, steps with one example and several, evaluation. Beyond torch's limit it fails."""
    for lengths, grad in [((7, 11), False), ((200, 90), True), ((300,), True), ((50, 20), True), ((40, 300, 9), True),
                          ((200, 90), False), ((60,), False), ((30, 60), False)]:  # fmt: skip
        row = pack_row(lengths)
        for window in (None, 16):
            ours, theirs = states(sum(lengths), BF16)
            with torch.set_grad_enabled(grad):
                out = packed_flex_attention(*ours, row.to(torch.device("cuda")), AttentionSpec(0.1, window, 5.0))
                expected = attention_by_length(*theirs, row, AttentionSpec(0.1, window, 5.0))
            torch.testing.assert_close(out.float().cpu(), expected, rtol=0.02, atol=0.02)


def test_the_gradient_of_a_beginning_keeps_its_digits():
    """A thousand documents attend to it; a sum in bfloat16 would stop at 256."""
    ones = torch.ones(1000, 1, 8, dtype=torch.bfloat16, device="cuda")

    assert sum_rows(ones, torch.zeros(1000, dtype=torch.int64, device="cuda"), 1).tolist() == [[[1000.0] * 8]]


@pytest.mark.parametrize(("lengths", "parents"), ROWS.values(), ids=ROWS)
def test_one_call_per_length_in_float32(lengths, parents):
    row = pack_row(lengths, parents)
    ours, theirs = states(sum(lengths), torch.float32)

    agree(
        attention_by_length(*ours, row, AttentionSpec(window=16)),
        attention_by_length(*theirs, row, AttentionSpec(window=16)),
        ours,
        theirs,
    )


@pytest.mark.parametrize(("lengths", "parents"), ROWS.values(), ids=ROWS)
def test_nothing_waits_for_the_device(lengths, parents):
    """Forward and backward of both kernels, the mask of a new row included."""
    ours, _ = states(sum(lengths), torch.bfloat16)
    row = pack_row(lengths, parents).to(torch.device("cuda"))
    packed_flex_attention(*ours, row, AttentionSpec(softcap=5.0)).sum().backward()  # compiles
    new = pack_row(lengths, parents).to(torch.device("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        packed_varlen_attention(*ours, new, AttentionSpec()).sum().backward()
        packed_flex_attention(*ours, new, AttentionSpec(softcap=5.0)).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(LlamaConfig(**SIZES), id="llama"),
        pytest.param(MistralConfig(**SIZES, sliding_window=4), id="mistral-window"),
        pytest.param(Gemma2Config(**SIZES, sliding_window=4), id="gemma2-window-softcap"),
        pytest.param(
            GptOssConfig(
                **{**SIZES, "num_attention_heads": 16}, sliding_window=4, num_local_experts=4, num_experts_per_tok=2
            ),
            id="gpt-oss-sinks",
        ),
    ],
)
def test_the_probe_packs_and_shares(config, dtype):
    torch.manual_seed(0)
    result = probe_packing(AutoModelForCausalLM.from_config(config).to("cuda", dtype))
    assert (result.packed_ok, result.shared_ok) == (True, True), result.reason
