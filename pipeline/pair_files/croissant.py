"""Croissant metadata of pairs, which Google's data set search, OpenML and ``mlcroissant`` read: ``croissant.json``.

It lists every file with its digest, as the manifest states it, and the columns of the tables. The date of publication
is left out: it is not known when the file is written.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from storage_schemas.artifact import Artifact
from storage_schemas.pairs import SCHEMA, SCHEMA_VERSION

CROISSANT_FILE = "croissant.json"

_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""Terms of the format, as its specification 1.0 lists them."""
_ENCODINGS = {"parquet": "application/x-parquet", "tar": "application/x-tar"}
_CITATION = (
    "Pairs mined by ovseg-pipeline, after Liang et al., Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP, "
    "CVPR 2023"
)


def croissant_json(pairs: Artifact, folders: Mapping[str, str]) -> bytes:
    """Describe pairs.

    Args:
        pairs: Finished.
        folders: Where files of a suffix lie, beside ``croissant.json``; others are not described.
    """
    manifest = pairs.manifest()
    licence = str(pairs.description.attributes.get("licence", "")) or "unknown"
    distribution = [
        {
            "@type": "cr:FileObject",
            "@id": f"{folders[suffix]}/{record.name}",
            "name": record.name,
            "contentUrl": f"{folders[suffix]}/{record.name}",
            "encodingFormat": _ENCODINGS[suffix],
            "sha256": record.sha256,
            "contentSize": f"{record.size_bytes} B",
        }
        for unit in manifest.units
        for record in unit.files
        if (suffix := record.name.rpartition(".")[2]) in folders
    ]
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"pairs-{pairs.identity.name}",
        "description": (
            "Masked regions of pictures with the nouns that name them. A row whose status is not 'ok' is no pair. "
            f"Manifest {manifest.digest()}."
        ),
        "license": licence,
        "version": f"{SCHEMA_VERSION}.0.0",
        "citeAs": _CITATION,
        "distribution": distribution,
        "recordSet": [
            _record_set(str(file["@id"])) for file in distribution if file["encodingFormat"] == _ENCODINGS["parquet"]
        ],
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _record_set(table: str) -> dict[str, Any]:
    """Describe the columns of one table; places in the tar and boxes, which are no single values, are left out."""
    name = table.rpartition("/")[2].removesuffix(".parquet")
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{name}/{field.name}",
            "name": field.name,
            "description": field.metadata[b"what"].decode(),
            "dataType": kind,
            "source": {"fileObject": {"@id": table}, "extract": {"column": field.name}},
        }
        for field in SCHEMA.columns
        if (kind := _kind(field.type))
    ]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "key": {"@id": f"{name}/pair"}, "field": fields}


def _kind(kind: pa.DataType) -> str:
    """Return Croissant's name of a type of single values; empty for others."""
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:Text" if pa.types.is_string(kind) or pa.types.is_binary(kind) else ""
