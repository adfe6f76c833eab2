"""The synthetic slide: the same bytes always, any part alone, a true mask, a file that all readers open."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import openslide
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from skimage.measure import label, regionprops
from skimage.morphology import isotropic_dilation

from axialcli.errors import OutputError, UsageError
from axialcli.geometry import Box, Size, whole
from axialcli.image import open_slide, sweep
from axialcli.image import sample as sample_module
from axialcli.image.landscape import Landscape
from axialcli.image.sample import write_sample
from axialcli.image.tissue import PANE_H, PANE_W, Tissue, tissue

SIZES = [(1, 1), (64, 64), (2, 700), (256, 256), (257, 255), (300, 1100), (1001, 777)]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rgb(rgbx_HW: NDArray[np.uint32]) -> NDArray[np.int16]:
    """Packed colours as [H, W, 3] int16, fit for differences."""
    return np.stack([(rgbx_HW >> shift & 0xFF).astype(np.int16) for shift in (0, 8, 16)], axis=-1)


@pytest.fixture(scope="module")
def painter() -> Tissue:
    return tissue(0, None)


@pytest.fixture(scope="module")
def other() -> Tissue:
    """Another painter of the same seed, that shares nothing with the first."""
    return Tissue(0)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A slide of 1100 x 1301 pixels and its mask."""
    folder = tmp_path_factory.mktemp("slide")
    write_sample(folder / "slide.tif", Size(1100, 1301), truth=folder / "truth.tif", threads=2)
    return folder / "slide.tif", folder / "truth.tif"


def test_the_same_arguments_give_the_same_bytes_with_any_number_of_threads(
    slide: tuple[Path, Path], tmp_path: Path
) -> None:
    for threads in (1, 5):
        again, truth = tmp_path / f"{threads}.tif", tmp_path / f"{threads}-truth.tif"
        write_sample(again, Size(1100, 1301), truth=truth, threads=threads)
        assert sha256(again) == sha256(slide[0])
        assert sha256(truth) == sha256(slide[1])


def test_the_mask_is_no_part_of_the_slide(slide: tuple[Path, Path], tmp_path: Path) -> None:
    write_sample(tmp_path / "alone.tif", Size(1100, 1301))
    assert sha256(tmp_path / "alone.tif") == sha256(slide[0])


def test_another_seed_gives_another_slide(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_sample(tmp_path / f"{seed}.tif", Size(300, 300), seed=seed)
    assert sha256(tmp_path / "0.tif") != sha256(tmp_path / "1.tif")


@pytest.mark.parametrize(
    "part",
    [
        Box(0, 0, 1, 1),
        Box(PANE_H - 1, PANE_W - 1, PANE_H + 1, PANE_W + 1),
        Box(100, 37, 611, 901),
        Box(255, 0, 257, 1100),
        Box(640, 1000, 700, 1100),
    ],
)
def test_a_part_painted_alone_equals_the_same_part_of_the_whole(
    painter: Tissue, other: Tissue, part: Box
) -> None:
    outer = Box(0, 0, 700, 1100)
    all_of_it, alone = painter.paint(outer), other.paint(part)
    np.testing.assert_array_equal(alone.rgbx_HW, all_of_it.rgbx_HW[part.within(outer)])
    np.testing.assert_array_equal(alone.nuclei_HW, all_of_it.nuclei_HW[part.within(outer)])


def test_nuclei_cross_the_panes_that_they_are_painted_in(painter: Tissue) -> None:
    # A nucleus that were cut at a border of panes would leave no pixel on the other side.
    nuclei = painter.paint(Box(0, 0, 8 * PANE_H, 2 * PANE_W)).nuclei_HW
    left, right = nuclei[:, PANE_W - 1], nuclei[:, PANE_W]
    assert left.sum() > 50
    assert (left & right).sum() > 0.8 * left.sum()


def test_a_small_slide_is_the_corner_of_a_large_one(tmp_path: Path) -> None:
    def first_tiles(side: int) -> list[bytes]:
        write_sample(tmp_path / "s.tif", Size(side, side))
        with tifffile.TiffFile(tmp_path / "s.tif") as tif:
            page = tif.pages[0]
            columns = side // sweep.TILE_PX
            spans = zip(page.dataoffsets, page.databytecounts, strict=True)
            tiles = [tif.filehandle.seek(start) and tif.filehandle.read(length) for start, length in spans]
            return [tiles[row * columns + column] for row in (0, 1) for column in (0, 1)]

    assert first_tiles(512) == first_tiles(1024)


def test_the_truth_is_what_was_stamped(slide: tuple[Path, Path], painter: Tissue) -> None:
    painted = painter.paint(whole(Size(1100, 1301))).nuclei_HW
    np.testing.assert_array_equal(tifffile.imread(slide[1], key=0), painted)


def test_nuclei_are_painted_on_the_truth_and_nowhere_else(
    painter: Tissue, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(0, 0, 1024, 1024)
    pane = painter.paint(box)
    monkeypatch.setattr(Tissue, "_stamp", lambda *ignored: None)
    ground = painter.paint(box)
    assert not ground.nuclei_HW.any()
    darker = rgb(ground.rgbx_HW).sum(-1) - rgb(pane.rgbx_HW).sum(-1)
    inside = pane.nuclei_HW > 0
    assert 0.05 < inside.mean() < 0.5
    assert (darker[inside] > 0).mean() > 0.999
    assert darker[inside].mean() > 100
    # The blurred border reaches a few pixels beyond; nuclei outside the box reach into its rim.
    beyond = ~isotropic_dilation(inside, 10)
    assert not (darker * beyond)[10:-10, 10:-10].any()


def test_nuclei_are_darker_and_bluer_than_what_surrounds_them(painter: Tissue) -> None:
    pane = painter.paint(Box(0, 0, 1024, 1024))
    colour, inside = rgb(pane.rgbx_HW), pane.nuclei_HW > 0
    around = isotropic_dilation(inside, 10) & ~isotropic_dilation(inside, 3)
    nucleus, stroma = colour[inside].mean(0), colour[around].mean(0)
    assert (stroma - nucleus > 20).all()
    assert nucleus[2] - nucleus[0] > stroma[2] - stroma[0] + 20


def test_nuclei_have_the_size_of_nuclei(painter: Tissue) -> None:
    found = regionprops(label(painter.paint(Box(0, 0, 1536, 1536)).nuclei_HW))
    lengths = [region.axis_major_length for region in found]
    assert len(lengths) > 200
    assert 16 < np.median(lengths) < 48  # 4 to 12 microns


@pytest.mark.parametrize("size", SIZES)
def test_any_size_opens_with_all_its_levels(size: tuple[int, int], tmp_path: Path) -> None:
    path, truth = tmp_path / "slide.tif", tmp_path / "truth.tif"
    write_sample(path, Size(*size), truth=truth)
    expected = [size]
    while max(expected[-1]) > 512:
        expected.append(((expected[-1][0] + 1) // 2, (expected[-1][1] + 1) // 2))
    for file in (path, truth):
        with tifffile.TiffFile(file) as tif:
            assert [page.shape[:2] for page in tif.pages] == expected
            assert [page.subfiletype for page in tif.pages] == [0] + [1] * (len(expected) - 1)
            assert all(page.asarray() is not None for page in tif.pages)
    with openslide.OpenSlide(path) as opened:
        assert [(h, w) for w, h in opened.level_dimensions] == expected
        assert opened.read_region((0, 0), 0, (8, 8)).size == (8, 8)
    assert set(np.unique(tifffile.imread(truth))) <= {0, 1}


def test_each_level_is_the_mean_of_the_level_above(tmp_path: Path) -> None:
    write_sample(tmp_path / "s.tif", Size(1003, 1301), quality=100)
    with tifffile.TiffFile(tmp_path / "s.tif") as tif:
        levels = [page.asarray().astype(np.float64) for page in tif.pages]
    assert len(levels) == 3
    for above, below in pairwise(levels):
        padded = np.pad(above, ((0, above.shape[0] % 2), (0, above.shape[1] % 2), (0, 0)), mode="edge")
        mean = (padded[0::2, 0::2] + padded[1::2, 0::2] + padded[0::2, 1::2] + padded[1::2, 1::2]) / 4
        difference = np.abs((mean - below).mean(-1))  # in grey: JPEG keeps fewer colours
        assert difference.mean() < 1
        assert difference[-1].mean() < 2
        assert difference[:, -1].mean() < 2


def test_the_resolution_reads_back_at_every_level(tmp_path: Path) -> None:
    write_sample(tmp_path / "s.tif", Size(1100, 600), mpp=0.4)
    with openslide.OpenSlide(tmp_path / "s.tif") as opened:
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.4, rel=1e-6)
        assert float(opened.properties["openslide.mpp-y"]) == pytest.approx(0.4, rel=1e-6)
    with tifffile.TiffFile(tmp_path / "s.tif") as tif:
        for level, page in enumerate(tif.pages):
            assert page.tags["ResolutionUnit"].value == 3
            above, below = page.tags["XResolution"].value
            assert 10_000 / (above / below) == pytest.approx(0.4 * 2**level, rel=1e-6)


def test_gdal_sees_the_levels_as_overviews(slide: tuple[Path, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        for path in slide:
            with rasterio.open(path) as opened:
                assert opened.shape == (1100, 1301)
                assert opened.overviews(1) == [2, 4]


def test_openslide_and_tifffile_see_the_same_pixels(slide: tuple[Path, Path]) -> None:
    with openslide.OpenSlide(slide[0]) as opened:
        seen = np.asarray(opened.read_region((256, 256), 0, (512, 512)).convert("RGB"), np.int16)
    difference = np.abs(seen - tifffile.imread(slide[0], key=0)[256:768, 256:768])
    assert difference.mean() < 1


def test_the_file_says_that_it_is_synthetic_and_no_date(slide: tuple[Path, Path]) -> None:
    for path in slide:
        with tifffile.TiffFile(path) as tif:
            assert "synthetic" in tif.pages[0].description
            assert not tif.is_svs
            assert "DateTime" not in tif.pages[0].tags


def test_a_slide_that_may_pass_four_gigabytes_is_a_bigtiff(
    slide: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tifffile.TiffFile(slide[0]) as tif:
        assert not tif.is_bigtiff
    monkeypatch.setattr(sample_module, "_BIG_BYTES", 1000)
    write_sample(tmp_path / "big.tif", Size(64, 64))
    with tifffile.TiffFile(tmp_path / "big.tif") as tif:
        assert tif.is_bigtiff


@pytest.mark.parametrize(("blank", "nuclei"), [(0.0, True), (1.0, False)])
def test_blank_reaches_from_no_glass_to_nothing_else(blank: float, nuclei: bool) -> None:
    far = Box(50_000, 60_000, 50_512, 60_512)
    pane = Tissue(0, blank).paint(far)
    assert pane.nuclei_HW.any() == nuclei
    if not nuclei:
        assert rgb(pane.rgbx_HW).min() > 230


@pytest.mark.parametrize("blank", [0.2, 0.7])
def test_blank_is_the_share_of_glass(blank: float) -> None:
    # Spots far apart; fat and the middle of a gland count as tissue.
    landscape = Landscape(3, blank)
    spots = [
        Box(y, x, y + 32, x + 32) for y in range(0, 10**6, 32 * 2200) for x in range(0, 10**6, 32 * 2200)
    ]
    glass = [float((landscape.fields(spot).tissue < 0.5).mean()) for spot in spots]
    assert np.mean(glass) == pytest.approx(blank, abs=0.08)


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_halving_equals_the_naive_mean_and_majority(side: int) -> None:
    random = np.random.default_rng(side)
    colours = random.integers(0, 256, (side, side + 1, 3))
    packed = (colours[..., 0] | colours[..., 1] << 8 | colours[..., 2] << 16).astype(np.uint32)
    labels = random.integers(0, 2, (side, side + 1)).astype(np.uint8)
    small, votes = rgb(sweep._halve_colours(packed)), sweep._halve_labels(labels)
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            ys, xs = [2 * y, min(2 * y + 1, side - 1)], [2 * x, min(2 * x + 1, side)]
            four = [(j, i) for j in ys for i in xs]
            assert small[y, x].tolist() == [
                (sum(int(colours[at][c]) for at in four) + 2) // 4 for c in range(3)
            ]
            assert votes[y, x] == (sum(int(labels[at]) for at in four) >= 2)


def test_progress_rises_to_one(tmp_path: Path) -> None:
    seen: list[float] = []
    write_sample(tmp_path / "s.tif", Size(1500, 100), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] > 0
    assert seen[-1] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": Size(0, 10)}, "0x10"),
        ({"size": Size(10, 2**21)}, "2097152"),
        ({"mpp": 0.0}, "microns"),
        ({"mpp": float("nan")}, "microns"),
        ({"mpp": 1e-300}, "microns"),
        ({"mpp": 0.9e-3}, "microns"),
        ({"mpp": 1.1e3}, "microns"),
        ({"mpp": float("inf")}, "microns"),
        ({"quality": 0}, "quality"),
        ({"blank": 1.5}, "blank"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, options: dict[str, object], says: str) -> None:
    arguments: dict[str, object] = {"size": Size(64, 64), **options}
    with pytest.raises(UsageError, match=says):
        write_sample(tmp_path / "s.tif", **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_slide_and_mask_need_two_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two names"):
        write_sample(tmp_path / "s.tif", Size(64, 64), truth=tmp_path / "s.tif")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere.*folder"):
        write_sample(tmp_path / "nowhere" / "s.tif", Size(64, 64))
    with pytest.raises(OutputError, match="folder"):
        write_sample(tmp_path, Size(64, 64))


def failing_tiles(self: sweep.Sweep) -> Iterator[bytes]:
    yield b"\xff\xd8"
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(share: float) -> None:
    raise KeyboardInterrupt


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "s.tif"
    old.write_bytes(b"old")
    monkeypatch.setattr(sweep.Sweep, "slide_tiles", failing_tiles)
    with pytest.raises(OutputError, match=r"s\.tif.*No space left") as caught:
        write_sample(old, Size(600, 600), truth=tmp_path / "t.tif")
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["s.tif"]
    assert old.read_bytes() == b"old"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "s.tif", Size(2000, 600), progress=interrupted)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mpp", [1e-3, 1e3])
def test_the_ends_of_the_range_of_scales_read_back(mpp: float, tmp_path: Path) -> None:
    write_sample(tmp_path / "s.tif", Size(64, 64), mpp=mpp)
    with open_slide(tmp_path / "s.tif") as slide:
        assert slide.mpp == pytest.approx((mpp, mpp), rel=1e-6)


KILLED = """
import os, sys
from pathlib import Path
from axialcli.geometry import Size
from axialcli.image.sample import write_sample
folder = Path(sys.argv[1])
write_sample(folder / "s.tif", Size(1500, 64), truth=folder / "t.tif", progress=lambda share: os._exit(9))
"""


def test_what_a_kill_left_is_replaced_by_the_next_run(tmp_path: Path) -> None:
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == 9
        assert [file.name for file in tmp_path.iterdir()] == [".s.tif.part"]
    write_sample(tmp_path / "s.tif", Size(64, 64), truth=tmp_path / "t.tif")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.tif", "t.tif"]


PEAK = """
import resource, sys
from pathlib import Path
from axialcli.geometry import Size
from axialcli.image.landscape import Landscape
from axialcli.image.sample import write_sample
write_sample(Path(sys.argv[1]), Size(int(sys.argv[2]), 4096), threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is for Unix")
def test_memory_does_not_depend_on_the_height(tmp_path: Path) -> None:
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", PEAK, str(tmp_path / "s.tif"), height]))
        for height in ("1024", "8192")
    ]
    assert peaks[1] < 1.1 * peaks[0]
