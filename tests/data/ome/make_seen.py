"""Writes seen.json: what ome-zarr-py and ngff-zarr see in the OME-Zarr hierarchies of the corpus.

    python tests/data/ome/make_seen.py CORPUS          needs ome-zarr and ngff-zarr

For each hierarchy and each of the two: levels (shape, scale, translation), axes, labels, and of plates rows,
columns and wells. What one of them cannot open is left out of its part. Numbers and names alone: no pixels.
"""

import json
import logging
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import ngff_zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Label, Multiscales, Node, Plate

HERE = Path(__file__).parent


def hierarchies(corpus):
    """Folders with OME-Zarr metadata that lie in no other such folder."""
    found = []
    for document in sorted(corpus.rglob(".zattrs")) + sorted(corpus.rglob("zarr.json")):
        try:
            attributes = json.loads(document.read_text())
        except (ValueError, OSError):
            continue
        attributes = attributes.get("attributes", attributes)
        attributes = attributes.get("ome", attributes)
        if {"multiscales", "plate"} & attributes.keys():
            found.append(document.parent)
    return [one for one in sorted(found) if not any(other in one.parents for other in found)]


def by_ome_zarr(folder):
    """As ome-zarr-py's reader has it. Of plates it makes one picture, so the first field's image is taken."""
    node = Node(parse_url(str(folder)), [])
    plate = node.load(Plate)
    if plate is not None:
        wells = [well["path"] for well in plate.plate_data["wells"]]
        first = f"{plate.well_paths[0]}/{plate.first_field_path}"
        shown = {"rows": plate.row_names, "columns": plate.col_names, "wells": wells}
        return shown | {"images": {first: image_by_ome_zarr(Node(parse_url(str(folder / first)), []))}}
    return image_by_ome_zarr(node)


def image_by_ome_zarr(node):
    spec = node.load(Multiscales)
    if spec is None or any("coordinateSystems" in one for one in spec.lookup("multiscales", [])):
        raise ValueError("it does not know coordinate systems, and takes the axes for t c z y x")
    given = node.metadata.get("coordinateTransformations") or [[] for _ in node.data]
    levels = []
    for array, transformations in zip(node.data, given, strict=True):
        named = {one["type"]: one[one["type"]] for one in transformations}
        levels.append({"shape": list(array.shape), **named})
    labels = [below for part in node.post_nodes for below in part.post_nodes if below.load(Label)]
    return {
        "axes": [[axis["name"], axis.get("type"), axis.get("unit")] for axis in node.metadata["axes"]],
        "paths": list(spec.datasets),
        "levels": levels,
        "labels": {one.zarr.basename(): [list(array.shape) for array in one.data] for one in labels},
    }


def by_ngff_zarr(folder):
    """As ngff-zarr has it. It insists on a field of zstd's that others leave out, so it gets a copy in which
    that is filled in."""
    with tempfile.TemporaryDirectory() as made:
        copy = Path(made) / folder.name
        shutil.copytree(folder, copy)
        for document in copy.rglob("zarr.json"):
            document.write_text(json.dumps(json.loads(document.read_text(), object_hook=with_checksum)))
        return copied_by_ngff_zarr(copy)


def with_checksum(codec):
    if codec.get("name") == "zstd":
        codec["configuration"].setdefault("checksum", False)
    return codec


def copied_by_ngff_zarr(folder):
    try:
        return image_by_ngff_zarr(ngff_zarr.from_ngff_zarr(str(folder)))
    except ValueError as error:
        if "plate" not in str(error):
            raise
    plate = ngff_zarr.from_hcs_zarr(str(folder))
    images = {}
    for well in plate.metadata.wells:
        row, column = well.path.split("/")
        found = plate.get_well(row, column)
        for at, field in enumerate(found.images):
            images[f"{well.path}/{field.path}"] = image_by_ngff_zarr(found.get_image(at))
    return {
        "rows": [row.name for row in plate.metadata.rows],
        "columns": [column.name for column in plate.metadata.columns],
        "wells": [well.path for well in plate.metadata.wells],
        "images": images,
    }


def image_by_ngff_zarr(image):
    units = image.images[0].axes_units or {}
    axes = [
        [axis.name, str(axis.type) if axis.type else None, units.get(axis.name)]
        for axis in image.metadata.axes
    ]
    levels = [
        {
            "shape": list(level.data.shape),
            "scale": [level.scale[dim] for dim in level.dims],
            "translation": [level.translation[dim] for dim in level.dims],
        }
        for level in image.images
    ]
    return {"axes": axes, "paths": [one.path for one in image.metadata.datasets], "levels": levels}


def main():
    """Write the file."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    corpus, seen = Path(sys.argv[1]), {}
    for folder in hierarchies(corpus):
        one = seen[folder.relative_to(corpus).as_posix()] = {}
        for name, look in (("ome-zarr-py", by_ome_zarr), ("ngff-zarr", by_ngff_zarr)):
            try:
                one[name] = json.loads(json.dumps(look(folder), default=str))
            except Exception as error:
                print(f"{name}: {folder}: {str(error)[:100]}", file=sys.stderr)
    text = json.dumps(seen, separators=(",", ":"), sort_keys=True).replace('},"', '},\n"')
    (HERE / "seen.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
