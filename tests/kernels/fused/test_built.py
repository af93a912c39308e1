"""The kernels built for GPUs that are not here: nothing spilled, memory within bounds, wide loads."""

from __future__ import annotations

import pytest

from tests.kernels import aot

CONTRACTS = (
    *("rms_norm", "add_rms_norm", "layer_norm", "silu_mul", "gelu_tanh"),
    *("up_snake_down", "rotate", "rotate_write", "linear_int8", "linear_int4"),
)


@pytest.mark.parametrize("capability", aot.CAPABILITIES)
def test_fits(built: aot.Built, capability: int) -> None:
    for case, by in built.items():
        for facts in by[f"sm_{capability}"]:
            if case != "harness: spill":
                assert facts.stack == 0, f"{case}: {facts}"
                assert facts.shared <= aot.SHARED_LIMIT[capability], f"{case}: {facts}"


@pytest.mark.parametrize("name", CONTRACTS)
def test_one_launch(built: aot.Built, name: str) -> None:
    cases = [case for case in built if case.split(":")[0] == name]
    assert cases
    for case in cases:
        assert all(len(launches) == 1 for launches in built[case].values()), case


@pytest.mark.parametrize("name", CONTRACTS[:5])
def test_reads_and_writes_16_bytes_a_thread(built: aot.Built, name: str) -> None:
    for case, by in built.items():
        if case.split(":")[0] == name:
            for (facts,) in by.values():
                assert set(facts.vectors) == {"ld.128", "st.128"}, f"{case}: {facts}"


def test_a_matrix_is_read_ahead(built: aot.Built) -> None:
    """By copies to shared memory that no thread waits for."""
    for case, by in built.items():
        if case.split(":")[0] in ("linear_int8", "linear_int4"):
            for (facts,) in by.values():
                assert facts.opcodes["LDGSTS"] > 0, f"{case}: {facts}"
