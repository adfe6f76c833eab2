"""External data of ONNX files: nothing outside of the model's own folder is ever opened."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from axialcli.backends import load_model
from axialcli.errors import ModelError
from tests.backends.conftest import Axial
from tests.fixtures.external import SECRET, Entries, Place, model_with
from tests.fixtures.graphs import save


def linked(place: Place) -> Entries:
    (place.folder / "w.bin").symlink_to(place.secret)
    return {"location": "w.bin"}


def linked_inside(place: Place) -> Entries:
    place.beside(name="real.bin")
    (place.folder / "w.bin").symlink_to("real.bin")
    return {"location": "w.bin"}


def linked_folder(place: Place) -> Entries:
    (place.folder / "sub").symlink_to(place.secret.parent)
    return {"location": "sub/secret.bin"}


def folder_below(place: Place) -> Entries:
    (place.folder / "sub").mkdir()
    (place.folder / "sub/w.bin").write_bytes(SECRET)
    return {"location": "sub/w.bin"}


def hard_link(place: Place) -> Entries:
    (place.folder / "w.bin").hardlink_to(place.secret)
    return {"location": "w.bin"}


def folder_as_file(place: Place) -> Entries:
    (place.folder / "w.bin").mkdir()
    return {"location": "w.bin"}


def pipe(place: Place) -> Entries:
    os.mkfifo(place.folder / "w.bin")
    return {"location": "w.bin"}


def through(location: str) -> Callable[[Place], Entries]:
    return lambda place: {"location": location.format(root=place.root)}


def within(**entries: str) -> Callable[[Place], Entries]:
    def make(place: Place) -> Entries:
        place.beside()
        return {"location": "w.bin", **entries}

    return make


NAME = "it has to be the name of a file beside the model"
SIZE = "is not 324 bytes within 'w.bin'"

ESCAPES: list[tuple[str, Callable[[Place], Entries], str]] = [
    ("parent folder", through("../outside/secret.bin"), NAME),
    ("parent folder by a detour", through("x/../../outside/secret.bin"), NAME),
    ("parent folder, other slashes", through("..\\outside\\secret.bin"), NAME),
    ("absolute", through("{root}/outside/secret.bin"), NAME),
    ("absolute, twice the slash", through("//{root}/outside/secret.bin"), NAME),
    ("drive letter", through("C:secret.bin"), NAME),
    ("address", through("file://{root}/outside/secret.bin"), NAME),
    ("memory of the process", through("*/_ORT_MEM_ADDR_/*"), NAME),
    ("device", through("/dev/zero"), NAME),
    ("process", through("/proc/self/environ"), NAME),
    ("the folder itself", through("."), NAME),
    ("the folder above", through(".."), NAME),
    ("no name", through(""), NAME),
    ("a name with a zero", through("w.bin\0/../../outside/secret.bin"), NAME),
    ("a name of two lines", through("w.bin\nx"), NAME),
    ("a name too long", through("x" * 256), NAME),
    ("folder below", folder_below, NAME),
    ("linked folder below", linked_folder, NAME),
    ("link", linked, "not a plain file"),
    ("link within the folder", linked_inside, "not a plain file"),
    ("hard link", hard_link, "it has a second name (hard link)"),
    ("folder as a file", folder_as_file, "not a plain file"),
    ("pipe", pipe, "not a plain file"),
    ("missing file", through("w.bin"), "cannot be read (No such file or directory)"),
    ("offset at the end", within(offset="324"), SIZE),
    ("offset so that the end is outside", within(offset="1"), SIZE),
    ("negative offset", within(offset="-4"), SIZE),
    ("offset beyond 64 bits", within(offset=str(2**64)), SIZE),
    ("offset that wraps around", within(offset=str(2**63 - 1)), SIZE),
    ("offset of other digits", within(offset="\N{ARABIC-INDIC DIGIT ZERO}"), SIZE),
    ("length beyond the end", within(length="328"), SIZE),
    ("length too short", within(length="4"), SIZE),
    ("negative length", within(length="-1"), SIZE),
]


@pytest.mark.parametrize(("make", "says"), [case[1:] for case in ESCAPES], ids=[case[0] for case in ESCAPES])
def test_external_data_elsewhere_is_refused_unopened(
    place: Place,
    make: Callable[[Place], Entries],
    says: str,
    opened: list[str],
    axial: Axial,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = save(place.folder / "m.onnx", model_with(make(place)))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place.root / "slide.png")
    # Were a path taken as relative to where the command is given, it would end here.
    monkeypatch.chdir(place.secret.parent)
    opened.clear()

    code, out, err = axial("predict", place.root / "slide.png", "--out", "mask.tif", "--model", path)

    assert (code, out) == (4, "")
    # The line is cut to the width of a terminal; the error itself is whole.
    assert err.startswith(f"axial: error: {place.folder}"[:150])
    assert err.count("\n") == 1
    with pytest.raises(ModelError) as error:
        load_model(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in opened
    outside = ("secret", "sub", "dev/zero", "environ", "_ORT_")
    assert [name for name in opened if any(word in name for word in outside)] == []
    if says != SIZE:
        assert [name for name in opened if name.endswith("w.bin")] == []
    assert list(place.secret.parent.iterdir()) == [place.secret]
