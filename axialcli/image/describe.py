"""What `axial info` and the run report say about a slide, as plain data."""

from __future__ import annotations

from typing import Any

from axialcli.geometry import GeoReference
from axialcli.image.slide import Slide
from axialcli.image.view import SlideView


def describe(slide: Slide) -> dict[str, Any]:
    """Everything that was found, ready for JSON. Sizes are [height, width], scales (y, x)."""
    return {
        "path": str(slide.path),
        "format": slide.format,
        "size": list(slide.size),
        "planes": slide.depth,
        "spacing_um": slide.spacing_um,
        "channels": slide.channels,
        "dtype": str(slide.dtype),
        "mpp": list(slide.mpp) if slide.mpp else None,
        "mpp_source": slide.mpp_source,
        "compression": slide.levels[0].compression,
        "levels": [
            {
                "size": list(level.size),
                "downsample": [round(one, 6) for one in level.downsample],
                "segment": list(level.segment),
                "compression": level.compression,
            }
            for level in slide.levels
        ],
        "georeference": _georeference(slide.georeference),
        "orientation": slide.orientation,
        "chosen": slide.chosen,
        "images": [
            {
                "role": image.role,
                "size": list(image.size),
                "channels": image.channels,
                "directory": image.directory,
                "planes": image.planes,
            }
            for image in slide.images
        ],
        "warnings": list(slide.warnings),
    }


def describe_input(slide: Slide) -> dict[str, Any]:
    """What a run report says about its slide."""
    return {
        "path": str(slide.path),
        "format": slide.format,
        "size": list(slide.size),
        "mpp": list(slide.mpp) if slide.mpp else None,
        "mpp_source": slide.mpp_source,
        "chosen": slide.chosen,
        "warnings": list(slide.warnings),
        **slide.selection,
    }


def describe_view(view: SlideView) -> dict[str, Any]:
    """What a run report says about the grid of its mask."""
    return {
        "size": list(view.size),
        "level": view.level,
        "resampled": view.resampled,
        "mpp": list(view.mpp) if view.mpp else None,
    }


def describe_counts(slide: Slide) -> dict[str, int]:
    """What a run report says about the slide's segments: how many were decoded, how many are missing."""
    return {
        "decoded": slide.counts.decoded_segments,
        "missing": slide.counts.missing_segments,
        "bytes_read": slide.counts.bytes_read,
    }


def _georeference(geo: GeoReference | None) -> dict[str, Any] | None:
    if geo is None:
        return None
    return {
        "crs": geo.geo_ascii.split("|")[0].strip("\x00 ") or None,
        "pixel_scale": list(geo.pixel_scale) or None,
        "tiepoints": len(geo.tiepoints) // 6,
        "transformation": bool(geo.transformation),
        "pixel_is_point": geo.pixel_is_point,
    }
