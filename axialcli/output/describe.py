"""The texts in a TIFF that tell readers what its numbers mean: OME-XML, GDAL metadata, plain JSON.

All are pure functions of their arguments: no date, no chance.
"""

from __future__ import annotations

import json
import uuid
from typing import Any, Literal
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import numpy as np

from axialcli.config import ClassInfo
from axialcli.output.info import MaskInfo

What = Literal["mask", "probabilities"]

_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_CLASSES = "axial/classes"
_COLOURS = "axial/colours"
_MOST_BAND_TAGS = 4096
"""GDAL looks through all tags for each one that it reads: of 65,536 that takes it seconds."""


def channels_of(info: MaskInfo, what: What) -> tuple[ClassInfo, ...]:
    """The planes of an output: one of labels, or one per class of probabilities."""
    return (ClassInfo(name="labels", colour=(255, 255, 255)),) if what == "mask" else info.classes


def ome_xml(info: MaskInfo, what: What, dtype: np.dtype[Any]) -> bytes:
    """OME-XML of an output; its classes and colours stand in map annotations.

    ASCII, other letters as references.
    """
    channels = channels_of(info, what)
    unique = uuid.uuid5(uuid.NAMESPACE_OID, f"{info.software}/{what}/{info.uuid_seed}")
    root = ET.Element(
        "OME",
        {
            "xmlns": _OME,
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:schemaLocation": f"{_OME} {_OME}/ome.xsd",
            "UUID": f"urn:uuid:{unique}",
            "Creator": _xml_text(info.software),
        },
    )
    image = ET.SubElement(root, "Image", {"ID": "Image:0", "Name": what})
    pixels = ET.SubElement(image, "Pixels", _pixels(info, dtype, len(channels)))
    for number, channel in enumerate(channels):
        ET.SubElement(
            pixels,
            "Channel",
            {
                "ID": f"Channel:0:{number}",
                "Name": _xml_text(channel.name),
                "Color": str(_ome_colour(channel.colour)),
                "SamplesPerPixel": "1",
            },
        )
    ET.SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": str(len(channels) * info.depth)})
    notes = ET.SubElement(root, "StructuredAnnotations")
    maps = {
        _CLASSES: [entry.name for entry in info.classes],
        _COLOURS: ["#" + bytes(entry.colour).hex() for entry in info.classes],
    }
    for number, (namespace, values) in enumerate(maps.items()):
        name = f"Annotation:{number}"
        ET.SubElement(image, "AnnotationRef", {"ID": name})
        note = ET.SubElement(notes, "MapAnnotation", {"ID": name, "Namespace": namespace})
        value = ET.SubElement(note, "Value")
        for label, text in enumerate(values):
            ET.SubElement(value, "M", {"K": str(label)}).text = _xml_text(text)
    return b'<?xml version="1.0" encoding="UTF-8"?>' + _ascii(root)


def json_text(info: MaskInfo, what: What) -> bytes:
    """The same facts as JSON, for the ImageDescription of files that are not OME. ASCII."""
    classes = [{"name": entry.name, "colour": list(entry.colour)} for entry in info.classes]
    return json.dumps({"axial": what, "classes": classes}).encode("ascii")


def gdal_metadata(info: MaskInfo, what: What) -> bytes:
    """Tag 42112: class names where GDAL shows them: band descriptions, and CLASS_0.. as band tags.

    Of more than 4096 classes the ImageDescription alone has the names.
    """
    root = ET.Element("GDALMetadata")
    for band, channel in enumerate(channels_of(info, what)):
        attributes = {"name": "DESCRIPTION", "sample": str(band), "role": "description"}
        ET.SubElement(root, "Item", attributes).text = _gdal_text(channel.name)
    if what == "mask" and len(info.classes) <= _MOST_BAND_TAGS:
        for label, entry in enumerate(info.classes):
            item = ET.SubElement(root, "Item", {"name": f"CLASS_{label}", "sample": "0"})
            item.text = _gdal_text(entry.name)
    return _ascii(root)


def _pixels(info: MaskInfo, dtype: np.dtype[Any], channels: int) -> dict[str, str]:
    sizes = {"X": info.size.width, "Y": info.size.height, "C": channels, "Z": info.depth, "T": 1}
    attributes = {
        "ID": "Pixels:0",
        "DimensionOrder": "XYCZT",
        "Type": dtype.name,
        **{f"Size{axis}": str(size) for axis, size in sizes.items()},
    }
    if info.mpp is not None:
        for axis, mpp in zip("YX", info.mpp, strict=True):
            attributes[f"PhysicalSize{axis}"] = repr(float(mpp))
            attributes[f"PhysicalSize{axis}Unit"] = "µm"
    if info.spacing_um is not None:
        attributes |= {"PhysicalSizeZ": repr(float(info.spacing_um)), "PhysicalSizeZUnit": "µm"}
    return attributes


def _ascii(root: ET.Element) -> bytes:
    """The element as text; letters beyond ASCII become references."""
    return bytes(ET.tostring(root, encoding="us-ascii", xml_declaration=False))


def _ome_colour(colour: tuple[int, int, int]) -> int:
    """OME's colour: RGBA in one signed 32-bit number."""
    red, green, blue = colour
    return int.from_bytes(bytes((red, green, blue, 255)), "big", signed=True)


def _xml_text(text: str) -> str:
    """The text without characters that XML 1.0 cannot hold."""
    return "".join(
        letter if letter.isprintable() or letter in " \t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _gdal_text(text: str) -> str:
    """GDAL escapes a value before it builds the XML, and takes both off when it reads."""
    return escape(_xml_text(text))
