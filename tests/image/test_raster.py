"""PNG and JPEG through Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from axialcli.errors import UsageError
from axialcli.geometry import Box, whole
from axialcli.image import open_slide
from tests.fixtures.slides import picture

RGB = picture(90, 131)


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3), ("LA", 1), ("P", 3), ("1", 1), ("I;16", 1)]
)
def test_png(mode: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    grey16 = picture(90, 131, 1, np.uint16)[..., 0]
    image = Image.fromarray(grey16) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    image.save(path)
    expected = np.asarray(image if mode == "I;16" else image.convert("L" if channels == 1 else "RGB"))
    with open_slide(path) as slide:
        assert (slide.format, slide.channels, slide.size) == ("png", channels, (90, 131))
        assert slide.dtype == expected.dtype
        read = slide.read(0, Box(5, 7, 80, 120))
        np.testing.assert_array_equal(read, expected.reshape(90, 131, channels)[5:80, 7:120])
        assert slide.counts.decoded_segments == 1
        slide.read(0, whole(slide.size))
        assert slide.counts.decoded_segments == 1


def test_jpeg_keeps_its_orientation_and_is_not_turned(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    image = Image.fromarray(RGB)
    exif = Image.Exif()
    exif[274] = 6
    image.save(path, quality=95, exif=exif, dpi=(50800, 50800))
    with open_slide(path) as slide:
        assert (slide.format, slide.orientation) == ("jpeg", 6)
        assert slide.mpp == pytest.approx((0.5, 0.5))
        np.testing.assert_array_equal(slide.read(0, whole(slide.size)), np.asarray(Image.open(path)))
        assert slide.chosen == "the JPEG picture itself (131 x 90)"


def test_a_view_and_a_thumbnail_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    with open_slide(path, mpp_override=0.5) as slide:
        assert slide.view(mpp=1.0).size == (45, 66)
        assert slide.thumbnail(50).shape == (35, 50, 3)
        assert len(slide.fingerprint()) == 64


def test_channels_and_planes_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    with open_slide(path, channels=[2]) as slide:
        np.testing.assert_array_equal(slide.read(0, whole(slide.size)), RGB[..., 2:])
    with pytest.raises(UsageError, match="channel 3 does not exist"):
        open_slide(path, channels=[3])
    with pytest.raises(UsageError, match="the picture has one plane"):
        open_slide(path, z=1)


def test_pillows_own_limit_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    before: Any = Image.MAX_IMAGE_PIXELS
    open_slide(path).close()
    assert before == Image.MAX_IMAGE_PIXELS
