"""The input buffer against a list of all samples that ever came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omni.streaming.audio.wire import FORMATS
from omni.streaming.realtime.input_buffer import InputBuffer
from omni.streaming.realtime.items import WIDTHS

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 5000)),
        st.tuples(st.just("drop"), st.integers(0, 400)),
        st.tuples(st.just("clear"), st.just(0)),
        st.tuples(st.just("since"), st.integers(0, 400)),
    ),
    max_size=30,
)


@given(st.sampled_from(list(FORMATS)), STEPS)
def test_times_are_those_of_all_that_came(format: str, steps: list[tuple[str, int]]) -> None:
    buffer, width, rate = InputBuffer(format), WIDTHS[format], FORMATS[format].rate
    came, dropped = list[int](), 0
    for i, (step, value) in enumerate(steps):
        at = value * rate // 1000
        match step:
            case "append":
                buffer.append(bytes([i]) * width * value)
                came += [i] * value
            case "drop":
                buffer.drop_before(value)
                dropped = max(dropped, min(at, len(came)))
            case "clear":
                buffer.clear()
                dropped = len(came)
            case "since":
                assert list(buffer.since(value)[::width]) == came[max(at, dropped) :]
                end = (value + 50) * rate // 1000
                assert list(buffer.since(value, value + 50)[::width]) == came[max(at, dropped) : max(end, dropped)]
        assert len(buffer) == (len(came) - dropped) * width
        assert buffer.end_ms == len(came) * 1000 // rate
        assert abs(buffer.seconds - (len(came) - dropped) / rate) < 1e-9


def test_another_format_goes_on_at_the_same_time() -> None:
    buffer = InputBuffer("audio/pcm")
    buffer.append(bytes(48 * 1500))
    buffer.reset("audio/pcmu")
    assert (buffer.end_ms, len(buffer)) == (1500, 0)
    buffer.append(bytes(8 * 100))
    assert len(buffer.since(1550)) == 400
    buffer.reset("audio/pcm")
    assert buffer.end_ms == 1600
