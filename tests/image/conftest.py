from __future__ import annotations

import pytest

from tests.fixtures.slides import Made
from tests.image.layouts import LAYOUTS


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Every layout, written once."""
    folder = tmp_path_factory.mktemp("layouts")
    return {name: write(folder / f"{name}.tif") for name, write in LAYOUTS.items()}
