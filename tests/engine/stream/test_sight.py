"""How far nodes see against the rules of their operators, followed position by position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.schedule import make_schedule
from axialcli.engine.stream.sight import Activity, column_sights, read_from, row_sights
from axialcli.engine.stream.trace import trace
from axialcli.geometry import Size
from axialcli.nn.axial_segmenter import AxialSegmenter, AxialSegmenterConfig
from tests.engine.stream.networks import Mixture, Shuffles, UNet, randomised

SMALL = AxialSegmenterConfig(width=(4, 4, 8), depth=2, heads=2, span=5, classes=2)
WINDOWS = AxialSegmenterConfig(width=(4, 4, 8), depth=2, heads=2, span=3, window=3, classes=2)
NETWORKS = [UNet(depth=2), Mixture(stride=2), Mixture(stride=3, dilation=2), Shuffles()]
NETWORKS += [AxialSegmenter(SMALL), AxialSegmenter(WINDOWS)]


def pixels_of(graph: Graph, index: int, axis: int, at: int) -> tuple[int, int]:
    """The pixels that one position of a node depends on, operator by operator."""
    needed = {index: (at, at + 1)}
    for number in range(index, 0, -1):
        operator = graph.nodes[number].operator
        if number not in needed or operator is None:
            continue
        for source, reaches in zip(graph.nodes[number].inputs, operator.reaches, strict=True):
            low, high = reaches[axis].needs(*needed[number])
            old = needed.get(source, (low, high))
            needed[source] = min(low, old[0]), max(high, old[1])
    return needed[0]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_rows_see_all_that_their_operators_do_and_little_more(network: nn.Module) -> None:
    graph = trace(network.eval(), 3, Size(4096, 256))
    for index, sight in enumerate(row_sights(graph)):
        start = int(2016 * graph.nodes[index].rate)
        for at in range(start, start + int(2 * graph.period * graph.nodes[index].rate) + 1):
            low, high = pixels_of(graph, index, 0, at)
            above, below = sight.pixels(at, at + 1)
            assert above <= low
            assert high <= below
            assert low - above + below - high <= 3 * graph.period


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_columns_feel_what_depends_on_them(network: nn.Module) -> None:
    graph = trace(network.eval(), 3, Size(256, 4096))
    first = 2016 // graph.period * graph.period
    last = first + 2 * graph.period
    for index, sight in enumerate(column_sights(graph)):
        rate = graph.nodes[index].column_rate
        around = range(int((first - 1200) * rate), int((last + 1200) * rate))
        felt = []
        for x in around:
            low, high = pixels_of(graph, index, 1, x)
            if low < last and first < high:
                felt.append(x)
        assert sight.feel(first, last) == (felt[0], felt[-1] + 1)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_run_reads_from_the_row_that_its_timetable_says(network: nn.Module, steps: int) -> None:
    graph = trace(network.eval(), 3, Size(2048, 96))
    schedule = make_schedule(graph, steps * graph.stride)
    (output,) = graph.outputs
    read_NS = read_from(graph, schedule)
    for step in range(schedule.steps):
        start, stop = schedule.rows(output, step)
        if start < stop:
            assert schedule.first_rows(start) == {0: read_NS[output, step]}


def test_rows_that_are_not_known_are_not_blank() -> None:
    activity = Activity(8, 40, 16)
    activity.add(32, np.ones((16, 40), np.bool_))
    with pytest.raises(AssertionError, match="not fed"):
        activity.within(15, 40)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    rows_px=st.sampled_from([8, 12, 16, 48]),
    cell_px=st.sampled_from([8, 24]),
    width=st.integers(1, 90),
)
def test_activity_is_that_of_the_rows_that_are_asked_for(
    data: st.DataObject, rows_px: int, cell_px: int, width: int
) -> None:
    height = 6 * rows_px + 5
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    blank_HW = generator.random((height, width)) > 0.002
    first = data.draw(st.integers(0, 2)) * rows_px
    activity = Activity(cell_px, width, rows_px)
    for y in range(first, height, rows_px):
        activity.add(y, blank_HW[y : min(y + rows_px, height)])
    start = data.draw(st.integers(first, height - 1))
    activity.forget(data.draw(st.integers(first, start)))
    stop = data.draw(st.integers(start + 1, height + 9))

    found = {x for x0, x1 in activity.within(start, stop) for x in range(x0, x1)}

    def cells(rows_HW: np.ndarray) -> set[int]:
        active = np.flatnonzero(~rows_HW.all(0)) // cell_px * cell_px
        return {int(x) + more for x in active for more in range(cell_px)}

    group = np.gcd(rows_px, 16)
    assert cells(blank_HW[start:stop]) <= found
    assert found <= cells(blank_HW[start // group * group : -(-stop // group) * group])


def test_a_network_sees_as_far_as_its_receptive_field() -> None:
    graph = trace(randomised(AxialSegmenter(SMALL), 0), 3, Size(512, 512))
    field = graph.receptive_field_px()
    assert field is not None
    above, below = row_sights(graph)[graph.outputs[0]].pixels(256, 257)
    assert 0 <= max(256 - above, below - 257) - field <= graph.period
