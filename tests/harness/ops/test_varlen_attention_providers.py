"""The libraries' attentions: what they are called with, what they refuse, and their gradients' way.

No GPU runs here. PyTorch's own operators are called on tensors without memory, which checks their
arguments and shapes; flash-attn and Transformer Engine are stood in for by the definition.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.commands import InputError
from harness.ops.table import TABLE, resolve
from harness.ops.varlen_attention import varlen_attention as define

META = torch.device("meta")
LIBRARIES = {
    "flash_attn": "harness.ops.varlen_attention_flash_attn",
    "te": "harness.ops.varlen_attention_te",
}


def make_heads(device: torch.device = META, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    return [
        torch.randn(20, 2, 16, dtype=dtype, device=device, requires_grad=True) for _ in range(3)
    ]


def make_ends(device: torch.device = META) -> Tensor:
    return torch.tensor([0, 7, 20, 20], dtype=torch.int32).to(device)


def test_torchs_own_operators_take_and_give_these_shapes() -> None:
    heads = make_heads()
    context = resolve("varlen_attention", "flash")(*heads, make_ends(), 13, 0.1, True)
    assert context.shape == (20, 2, 16) and context.dtype == torch.bfloat16
    gradients = torch.autograd.grad(context, heads, torch.empty_like(context))
    assert all(gradient.shape == (20, 2, 16) for gradient in gradients)


def test_forward_and_backward_share_dropout_lengths_and_random_state() -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if "flash_attention" in str(func):
                calls.append((func._schema.name, args))
                if "forward" in str(func):
                    calls.append(("results", result))
            return result

    heads, ends = make_heads(), make_ends()
    for training, dropout in ((True, 0.1), (False, 0.0)):
        calls.clear()
        with Watch():
            context = resolve("varlen_attention", "flash")(*heads, ends, 13, 0.1, training)
            torch.autograd.grad(context, heads, torch.empty_like(context))
        (_, forward), (_, results), (_, backward) = calls
        assert forward[5:] == (13, 13, dropout, False, False)
        assert forward[3] is ends and forward[4] is ends
        assert backward[8:12] == (13, 13, dropout, False)
        assert backward[12].dtype == results[2].dtype == torch.uint64  # seed and offset


def test_another_signature_of_torchs_operators_is_refused() -> None:
    module = importlib.import_module("harness.ops.varlen_attention_flash")
    schema = torch._C.parse_schema("f(Tensor query, Tensor key, Tensor value) -> (Tensor output)")
    with pytest.raises(InputError, match=r"another signature of f than provider 'flash'"):
        module.check_signature(schema, module.FORWARD_ARGUMENTS, module.FORWARD_RESULTS)
    more = torch._C.parse_schema("f(Tensor a, *, int b=1) -> (Tensor c)")
    module.check_signature(more, "a", "c")
    demanding = torch._C.parse_schema("f(Tensor a, *, int b) -> (Tensor c)")
    with pytest.raises(InputError, match="signature"):
        module.check_signature(demanding, "a", "c")


def test_a_torch_built_without_the_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("harness.ops.varlen_attention_flash")
    built = False
    monkeypatch.setattr("torch.backends.cuda.is_flash_attention_available", lambda: built)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(InputError, match="built without the kernels of provider 'flash'"):
        module.check_build()
    built = True
    module.check_build()


def stand_in(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, dropout: float
) -> Tensor:
    return define(query, key, value, ends, longest, dropout, True)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Modules with the libraries' names whose functions compute the definition, and their calls."""
    calls: dict[str, Any] = {}
    flash: Any = types.ModuleType("flash_attn")

    def qkvpacked(qkv: Tensor, ends: Tensor, longest: int, *, dropout_p: float) -> Tensor:
        calls["packed"] = dropout_p
        return stand_in(*qkv.unbind(1), ends, longest, dropout_p)

    def separate(
        q: Tensor, k: Tensor, v: Tensor, ends: Tensor, k_ends: Tensor, longest: int, k_longest: int,
        *, dropout_p: float,
    ) -> Tensor:  # fmt: skip
        assert ends is k_ends and longest == k_longest
        calls["separate"] = dropout_p
        return stand_in(q, k, v, ends, longest, dropout_p)

    flash.flash_attn_varlen_qkvpacked_func, flash.flash_attn_varlen_func = qkvpacked, separate

    class DotProductAttention(torch.nn.Module):
        def __init__(self, **arguments: Any) -> None:
            super().__init__()
            calls.setdefault("modules", []).append(arguments)
            self.dropout = arguments["attention_dropout"]
            if "unfused" not in calls:
                self.unfused_attention = torch.nn.Identity()

        def forward(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Tensor:
            if calls.get("fused") is False:
                result: Tensor = self.unfused_attention(q, k, v, attn_mask_type="padding")
                return result
            ends = arguments["cu_seqlens_q"]
            assert arguments["cu_seqlens_kv"] is ends
            assert arguments["max_seqlen_q"] == arguments["max_seqlen_kv"]
            return stand_in(q, k, v, ends, arguments["max_seqlen_q"], self.dropout).flatten(1)

    engine, pytorch = types.ModuleType("transformer_engine"), types.ModuleType("pytorch")
    pytorch.DotProductAttention = DotProductAttention  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    monkeypatch.setitem(sys.modules, "transformer_engine", engine)
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", pytorch)
    for name in LIBRARIES.values():
        monkeypatch.delitem(sys.modules, name, raising=False)
    arguments = importlib.import_module("harness.ops.attention_arguments")
    monkeypatch.setattr(arguments, "DEVICES", ("cpu",))
    monkeypatch.setattr(arguments, "FORMATS", (torch.float64,))
    yield calls
    for name in LIBRARIES.values():
        sys.modules.pop(name, None)


@pytest.mark.parametrize("provider", LIBRARIES)
@pytest.mark.parametrize("packed", [False, True])
def test_libraries_are_called_for_the_definition(
    libraries: dict[str, Any], provider: str, packed: bool
) -> None:
    torch.manual_seed(1)
    cpu = torch.device("cpu")
    store = torch.randn(20, 3 * 32, dtype=torch.float64, requires_grad=True)
    parts = (store * 1.0).unflatten(1, (3, -1)).unbind(1)  # as the fused projections give them
    if not packed:
        parts = tuple(part.contiguous() for part in parts)
    heads = [part.unflatten(1, (2, 16)) for part in parts]
    ends = make_ends(cpu)
    context = resolve("varlen_attention", provider)(*heads, ends, 13, 0.3, False)
    expected = define(*heads, ends, 13, 0.3, False)
    assert context.shape == (20, 2, 16) and torch.allclose(context, expected)
    direction = torch.randn(20, 2, 16, dtype=torch.float64)
    ours = torch.autograd.grad(context, store, direction, retain_graph=True)[0]
    assert torch.allclose(ours, torch.autograd.grad(expected, store, direction)[0])
    resolve("varlen_attention", provider)(*heads, ends, 13, 0.3, True)
    if provider == "flash_attn":
        assert libraries == {"packed" if packed else "separate": 0.3}
    else:
        made = libraries["modules"]
        assert [arguments["attention_dropout"] for arguments in made] == [0.0, 0.3]
        assert all(m["qkv_format"] == "thd" and m["attn_mask_type"] == "padding" for m in made)
        assert all((m["num_attention_heads"], m["kv_channels"]) == (2, 16) for m in made)


def test_transformer_engine_never_falls_back_to_padded_sequences(libraries: dict[str, Any]) -> None:
    heads = [torch.randn(20, 2, 16, dtype=torch.float64) for _ in range(3)]
    operation = resolve("varlen_attention", "te")
    operation(*heads, make_ends(torch.device("cpu")), 13, 0.1, True)
    libraries["fused"] = False  # as on an A100 without flash-attn
    with pytest.raises(InputError, match="no fused kernels for provider 'te' on this GPU: name"):
        operation(*heads, make_ends(torch.device("cpu")), 13, 0.1, True)
    libraries["unfused"] = "under another name"
    with pytest.raises(InputError, match=r"written for Transformer Engine 2\.4 to 2\.18"):
        operation(*heads, make_ends(torch.device("cpu")), 13, 0.2, True)


@pytest.mark.parametrize("provider", ["flash", "flash_attn", "te"])
def test_other_tensors_stop_the_run(provider: str, request: pytest.FixtureRequest) -> None:
    if provider != "flash":
        request.getfixturevalue("libraries")
        arguments = importlib.import_module("harness.ops.attention_arguments")
        arguments.DEVICES = ("cuda", "meta")  # type: ignore[attr-defined]
        arguments.FORMATS = (torch.float16, torch.bfloat16)  # type: ignore[attr-defined]
    operation = resolve("varlen_attention", provider)
    with pytest.raises(InputError, match=f"'{provider}' needs tensors on a GPU, not on cpu"):
        operation(*make_heads(torch.device("cpu")), make_ends(), 13, 0.1, True)
    with pytest.raises(InputError, match="computes in fp16 and bf16, not"):
        operation(*make_heads(dtype=torch.float32), make_ends(), 13, 0.1, True)
    with pytest.raises(InputError, match="cu_seqlens in int32"):
        operation(*make_heads(), make_ends().long(), 13, 0.1, True)


@pytest.mark.parametrize(
    ("operation", "provider", "library"),
    [
        ("varlen_attention", "flash_attn", "flash_attn"),
        ("varlen_attention", "te", "transformer_engine"),
        ("linear", "te", "transformer_engine"),
        ("query_key_value", "te", "transformer_engine"),
    ],
)
def test_a_missing_library_stops_the_run(operation: str, provider: str, library: str) -> None:
    if importlib.util.find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    assert provider in TABLE[operation]
    with pytest.raises(InputError, match=f"'{provider}' needs the library {library}"):
        resolve(operation, provider)
