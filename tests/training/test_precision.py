"""The precision that `trainer.precision=auto` stands for, with given processors and measurements."""

from collections.abc import Callable, Mapping

import pytest
import torch

from opsin.training.precision import ISA_VARIABLE, LEAST_GAIN, bfloat16_instructions, resolve_precision

OLD: Mapping[str, object] = {"avx2": True, "avx512_bf16": False, "amx_bf16": False}
AVX512 = {**OLD, "avx512_bf16": True}
AMX = {**AVX512, "amx_bf16": True}
ARM = {"neon": True, "bf16": True, "cpu_name": "Neoverse V1"}


def gain(value: float) -> Callable[[], float]:
    return lambda: value


def never() -> float:
    raise AssertionError("nothing is measured")


@pytest.mark.parametrize(
    ("processor", "measure", "precision", "reason"),
    [
        (OLD, never, "32", "no instructions"),
        (AVX512, gain(2.1), "bf16", "with AVX512_BF16, this network is 2.10 times as fast"),
        (AVX512, gain(LEAST_GAIN), "bf16", "1.10 times"),
        (AVX512, gain(1.09), "32", "1.09 times as fast in bfloat16, less than the required 1.1 times"),
        (AVX512, gain(0.6), "32", "0.60 times"),
        (AVX512, None, "bf16", "has AVX512_BF16; not measured"),
        (AMX, gain(3.0), "bf16", "AMX_BF16, AVX512_BF16"),
        (AMX, None, "bf16", "AMX_BF16"),
        (ARM, None, "32", "NEON BF16 (asimdbf16); not measured"),
        (ARM, gain(1.5), "bf16", "asimdbf16"),
        ({}, never, "32", "no instructions"),
    ],
)
def test_auto_precision_on_a_cpu_is_bfloat16_if_it_is_faster(
    processor: Mapping[str, object], measure: Callable[[], float] | None, precision: str, reason: str
) -> None:
    found = resolve_precision("auto", "cpu", measure=measure, capabilities=processor)
    assert found.precision == precision
    assert reason in found.reason
    assert found.speedup == (measure() if measure not in (None, never) else None)


@pytest.mark.parametrize("precision", ["32", 32, "bf16", "16", "bf16-true", "64"])
def test_a_precision_set_by_the_user_is_kept(precision: object) -> None:
    for processor in (OLD, AMX):
        found = resolve_precision(precision, "cpu", measure=never, capabilities=processor)  # type: ignore[arg-type]
        assert (found.precision, found.speedup) == (str(precision), None)


def test_accelerators_need_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, precision in (((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert resolve_precision("auto", "gpu", measure=never).precision == precision
    assert resolve_precision("auto", "mps", measure=never, capabilities=ARM).precision == "32"


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        (None, ("AMX_BF16", "AVX512_BF16")),
        ("ALL", ("AMX_BF16", "AVX512_BF16")),
        ("avx10_1_512_amx", ("AMX_BF16", "AVX512_BF16")),
        ("AVX512_CORE_BF16", ("AVX512_BF16",)),
        ("AVX512_CORE", ()),
        ("AVX2", ()),
    ],
)
def test_a_limit_on_cpu_instructions_is_applied(
    limit: str | None, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMX)
    if limit is None:
        monkeypatch.delenv(ISA_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(ISA_VARIABLE, limit)
    assert bfloat16_instructions() == names
