"""Stacks as volumes: every plane is where the file says, in every order of axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from axialcli.errors import ImageError, UsageError
from axialcli.geometry import Box
from axialcli.image import open_slide
from tests.fixtures.slides import halved
from tests.fixtures.volumes import (
    PIXEL_UM,
    PLANE_UM,
    arranged,
    stack_of,
    write_imagej_stack,
    write_ome_stack,
)

Write = Callable[[Path, NDArray[Any]], Path]


def ome(axes: str, **options: Any) -> Write:
    return lambda path, stack: write_ome_stack(path, stack, axes, **options)


def imagej(axes: str, *, one_directory: bool = True) -> Write:
    return lambda path, stack: write_imagej_stack(path, stack, axes, one_directory=one_directory)


LAYOUTS: dict[str, tuple[Write, int]] = {
    "OME ZYX": (ome("ZYX"), 1),
    "OME ZYX in tiles": (ome("ZYX", tile=(32, 16), compression="zlib"), 1),
    "OME ZYX in compressed strips": (ome("ZYX", rowsperstrip=8, compression="lzw", predictor=True), 1),
    "OME ZCYX": (ome("ZCYX"), 2),
    "OME CZYX": (ome("CZYX"), 2),
    "OME CZYX in tiles": (ome("CZYX", tile=(32, 16), compression="zlib"), 2),
    "OME ZYXS": (ome("ZYXS"), 3),
    "ImageJ ZYX": (imagej("ZYX"), 1),
    "ImageJ ZYX, a directory each": (imagej("ZYX", one_directory=False), 1),
    "ImageJ ZCYX": (imagej("ZCYX"), 2),
    "ImageJ ZCYX, a directory each": (imagej("ZCYX", one_directory=False), 2),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", LAYOUTS)
def test_all_planes_are_read_in_their_order_with_their_distances(
    name: str, dtype: Any, tmp_path: Path
) -> None:
    write, channels = LAYOUTS[name]
    stack_DHWC = stack_of(5, 40, 50, channels, dtype)

    with open_slide(write(tmp_path / "s.tif", stack_DHWC)) as slide:
        stack = slide.stack()
        read_DHWC = np.stack([stack.read(z, Box(0, 0, 40, 50)) for z in range(5)])
        part_DHWC = np.stack([stack.read(z, Box(7, 11, 31, 44)) for z in reversed(range(5))])

    assert stack.size == (5, 40, 50)
    assert (stack.channels, stack.dtype) == (channels, np.dtype(dtype))
    np.testing.assert_array_equal(read_DHWC, stack_DHWC)
    np.testing.assert_array_equal(part_DHWC, stack_DHWC[::-1, 7:31, 11:44])
    assert stack.mpp == pytest.approx((PIXEL_UM, PIXEL_UM))
    assert stack.spacing_um == pytest.approx(PLANE_UM)


def test_channels_are_chosen_in_every_plane(tmp_path: Path) -> None:
    stack_DHWC = stack_of(4, 20, 30, 3)
    path = write_ome_stack(tmp_path / "s.tif", stack_DHWC, "CZYX")

    with open_slide(path, channels=(2, 0)) as slide:
        stack = slide.stack()
        read_DHWC = np.stack([stack.read(z, Box(0, 0, 20, 30)) for z in range(4)])

    np.testing.assert_array_equal(read_DHWC, stack_DHWC[..., [2, 0]])


def test_pages_of_a_plain_tiff_are_planes_at_an_unknown_distance(tmp_path: Path) -> None:
    stack_DHWC = stack_of(3, 20, 30)
    tifffile.imwrite(tmp_path / "s.tif", stack_DHWC[..., 0], photometric="minisblack", metadata=None)

    with open_slide(tmp_path / "s.tif") as slide:
        stack = slide.stack()
        np.testing.assert_array_equal(stack.read(2, Box(0, 0, 20, 30)), stack_DHWC[2])
    assert (stack.size, stack.spacing_um) == ((3, 20, 30), None)


def test_of_several_points_in_time_the_first_is_read(tmp_path: Path) -> None:
    movie = np.stack([stack_of(3, 20, 30)[..., 0], stack_of(4, 20, 30)[:3, ..., 0]])
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, movie, ome=True, metadata={"axes": "TZYX"}, photometric="minisblack")

    with open_slide(path) as slide:
        stack = slide.stack()
        read_DHW = np.stack([stack.read(z, Box(0, 0, 20, 30))[..., 0] for z in range(3)])

    assert slide.warnings[0] == "2 points in time: the first is read"
    np.testing.assert_array_equal(read_DHW, movie[0])


@pytest.mark.parametrize(
    ("unit", "value", "um"), [("nm", 300.0, 0.3), ("mm", 0.002, 2.0), ("µm", 0.0, None), ("pixel", 1.0, None)]
)
def test_the_distance_of_planes_knows_its_unit(
    unit: str, value: float, um: float | None, tmp_path: Path
) -> None:
    metadata = {"axes": "ZYX", "PhysicalSizeZ": value, "PhysicalSizeZUnit": unit}
    tifffile.imwrite(tmp_path / "s.tif", stack_of(3, 20, 30)[..., 0], ome=True, metadata=metadata)

    with open_slide(tmp_path / "s.tif") as slide:
        assert slide.spacing_um == (um if um is None else pytest.approx(um))


def test_a_level_of_a_stack_is_a_volume_of_the_same_depth(tmp_path: Path) -> None:
    stack_DHWC = stack_of(3, 40, 60)
    half_DHWC = np.stack([halved(plane) for plane in stack_DHWC])
    with tifffile.TiffWriter(tmp_path / "s.ome.tif", ome=True) as file:
        options = {"photometric": "minisblack", "tile": (16, 16)}
        metadata = {"axes": "ZYX", "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}
        file.write(arranged(stack_DHWC, "ZYX"), subifds=1, metadata=metadata, **options)
        file.write(arranged(half_DHWC, "ZYX"), subfiletype=1, **options)

    with open_slide(tmp_path / "s.ome.tif") as slide:
        stack = slide.stack(1)
        np.testing.assert_array_equal(stack.read(2, Box(0, 0, 20, 30)), half_DHWC[2])
        with pytest.raises(UsageError, match="level 2 does not exist; the slide has levels 0 to 1"):
            slide.stack(2)
    assert (stack.size, stack.mpp) == ((3, 20, 30), (2.0, 2.0))


def test_a_damaged_plane_is_named_before_anything_is_read(tmp_path: Path) -> None:
    path = write_ome_stack(tmp_path / "s.tif", stack_of(4, 40, 50), "ZYX", compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[3].tags[273]  # type: ignore[union-attr]
        place = tag.valueoffset
    data = bytearray(path.read_bytes())
    data[place : place + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(data)

    with open_slide(path, z=0) as slide, pytest.raises(ImageError, match="lie outside of the file"):
        slide.stack()


def test_a_picture_without_planes_is_a_volume_of_one(tmp_path: Path) -> None:
    image_HW = stack_of(1, 20, 30)[0, ..., 0]
    tifffile.imwrite(tmp_path / "s.tif", image_HW, photometric="minisblack")

    with open_slide(tmp_path / "s.tif") as slide:
        stack = slide.stack()
        np.testing.assert_array_equal(stack.read(0, Box(0, 0, 20, 30))[..., 0], image_HW)
        with pytest.raises(ValueError, match="is not inside a plane"):
            stack.read(0, Box(0, 0, 21, 30))
    assert stack.size == (1, 20, 30)
