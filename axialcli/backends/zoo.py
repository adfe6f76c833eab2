"""The models that axial ships: one folder a model, with its weights and its card."""

from __future__ import annotations

from pathlib import Path

from axialcli.backends.files import is_folder, is_readable
from axialcli.backends.wsinfer import wsinfer_files
from axialcli.errors import ModelError

DEFAULT_MODEL = "nuclei"
WEIGHTS = "model.safetensors"


def zoo_folder() -> Path:
    """Where the models lie: inside the package when installed, at the top level in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "zoo"
    return installed if installed.is_dir() else package.parent / "models"


def model_names() -> list[str]:
    """The names that `find_model` knows, sorted."""
    return sorted(file.parent.name for file in zoo_folder().glob(f"*/{WEIGHTS}"))


def model_files(name_or_path: str | Path) -> list[Path]:
    """The file of a model, the description beside it and its external data, whether they are there or not.

    Of a model of WSInfer these are its configuration and its network. Raises ModelError where there is no
    model, or where its external data would lie elsewhere.
    """
    path = find_model(name_or_path)
    if of_wsinfer := wsinfer_files(path):
        return list(of_wsinfer)
    files = [path, path.with_name(path.name + ".json")]
    if path.suffix == ".onnx":
        # Slow to import, and most models are of another kind.
        from axialcli.backends.onnx_file import external_files

        files += external_files(path)
    return files


def find_model(name_or_path: str | Path) -> Path:
    """The model file of a name of the zoo, or the path itself; of a model of WSInfer its configuration.

    Raises ModelError where there is none, or none that can be read.
    """
    if isinstance(name_or_path, str) and name_or_path in model_names():
        return zoo_folder() / name_or_path / WEIGHTS
    path = Path(name_or_path)
    if of_wsinfer := wsinfer_files(path):
        return of_wsinfer[0]
    if is_folder(path):
        raise ModelError(f"{path}: a folder without the config.json of a WSInfer model; give a model file")
    if is_readable(path):
        return path
    raise ModelError(
        f"no model {str(name_or_path)!r}: neither a file nor one of the names "
        f"{', '.join(model_names()) or '(none)'}"
    )
