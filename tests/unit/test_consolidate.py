"""Consolidated metadata as zarr-python reads and writes them, and what keeps them true behind changes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr.cli import main
from gpuzarr.errors import ArgumentError, GpuzarrError, LimitError, MetadataError, NotFoundError
from gpuzarr.store.base import Request
from gpuzarr.store.memory import MappingStore
from gpuzarr.testing.store import CountingStore

FORMATS = [2, 3]
HOLDER = {2: ".zmetadata", 3: "zarr.json"}
Objects = dict[str, bytes]


def peer(objects: Mapping[str, bytes], **options: Any) -> zarr.Group:
    """What zarr-python sees by consolidated metadata alone: it is given no other document below the root."""
    buffer = zarr.core.buffer.default_buffer_prototype().buffer
    held = {key: buffer.from_bytes(value) for key, value in objects.items() if "/" not in key}
    store = zarr.storage.MemoryStore(held)
    return zarr.open_group(store, mode="r", **{"use_consolidated": True, **options})


def members(objects: Mapping[str, bytes], **options: Any) -> dict[str, Any]:
    """Path -> shape (None: a group) and attributes, in zarr-python's eyes."""
    found = dict(peer(objects, **options).members(max_depth=None))
    return {path: (getattr(node, "shape", None), dict(node.attrs)) for path, node in found.items()}


def ours(objects: Any, path: str = "") -> dict[str, Any]:
    group = gpuzarr.open(objects, path)
    assert isinstance(group, gpuzarr.Group)
    assert group.metadata.children is not None
    return {path: (getattr(node, "shape", None), dict(node.attrs)) for path, node in group.walk()}


def tree(zarr_format: Any, at: str = "") -> Objects:
    """A hierarchy of two arrays and three groups, not consolidated."""
    objects: Objects = {}
    common: dict[str, Any] = {"zarr_format": zarr_format}
    gpuzarr.create_group(objects, at, attributes={"of": "root"}, **common)
    at = f"{at}/" if at else ""
    gpuzarr.save(objects, np.arange(12).reshape(3, 4), f"{at}a/b/c", attributes={"of": "c"}, **common)
    gpuzarr.create_group(objects, f"{at}empty", attributes={"of": "empty"}, **common)
    gpuzarr.create_array(objects, f"{at}d", shape=(7,), dtype="f8", **common)
    return objects


TREE: dict[str, Any] = {
    "a": (None, {}),
    "a/b": (None, {}),
    "a/b/c": ((3, 4), {"of": "c"}),
    "d": ((7,), {}),
    "empty": (None, {"of": "empty"}),
}


# ---- all of a hierarchy


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_it_is_what_zarr_python_writes(zarr_format: Any) -> None:
    held: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(held)
    group = zarr.create_group(memory, zarr_format=zarr_format, attributes={"of": "root"})
    group.create_group("a").create_array("b", shape=(4,), dtype="i4", attributes={"µ": [1.5, None]})
    group.create_group("empty")
    objects = {key: value.to_bytes() for key, value in held.items()}
    gpuzarr.consolidate(objects)
    zarr.consolidate_metadata(memory)
    expected = json.loads(held[HOLDER[zarr_format]].to_bytes())
    if zarr_format == 2:  # its third version marks groups there, in a way that v2 does not know
        for entry in expected["metadata"].values():
            entry.pop("consolidated_metadata", None)
    assert json.loads(objects[HOLDER[zarr_format]]) == expected
    assert {key: value for key, value in objects.items() if key != HOLDER[zarr_format]} == {
        key: value.to_bytes() for key, value in held.items() if key != HOLDER[zarr_format]
    }


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_everything_is_seen(zarr_format: Any, tmp_path: Path) -> None:
    objects = tree(zarr_format)
    group = gpuzarr.consolidate(objects)
    assert members(objects) == ours(objects) == TREE
    assert dict(peer(objects).attrs) == dict(gpuzarr.open(objects).attrs) == {"of": "root"}
    assert {name: getattr(node, "shape", None) for name, node in group.walk()} == {
        name: shape for name, (shape, _) in TREE.items()
    }
    for key, value in objects.items():
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
    assert np.array_equal(zarr.open_consolidated(tmp_path)["a/b/c"][...], np.arange(12).reshape(3, 4))


@pytest.mark.parametrize(("zarr_format", "requests"), [(3, 1), (2, 4)])
def test_opening_and_looking_costs_no_more_than_the_group(zarr_format: Any, requests: int) -> None:
    objects = tree(zarr_format)
    gpuzarr.consolidate(objects)
    store = CountingStore(MappingStore(objects))
    assert ours(store) == TREE
    assert len(store.seen) == requests


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_it_is_gathered_level_by_level_and_put_once(zarr_format: Any) -> None:
    objects = tree(zarr_format, "top")
    batches: list[int] = []

    class Batches(CountingStore):
        def get_ranges(self, requests: Any, place: Any = None) -> Any:
            batches.append(len(requests))
            return super().get_ranges(requests, place)

    store = Batches(MappingStore(objects))
    gpuzarr.consolidate(store, "top")
    assert (store.put_keys, store.deleted_keys) == ([f"top/{HOLDER[zarr_format]}"], [])
    each = {2: 3, 3: 1}[zarr_format]
    assert batches == [3, each, 3 * each, each, each]  # what it is; it, three below, one, one
    assert ours(objects, "top") == TREE


def test_only_groups_that_are_there(tmp_path: Path) -> None:
    objects = tree(3)
    for path, error, match in (
        ("d", ArgumentError, "is an array"),
        ("a/b/c", ArgumentError, "is an array"),
        ("a/x", NotFoundError, "no zarr.json"),
    ):
        with pytest.raises(error, match=match):
            gpuzarr.consolidate(objects, path)
    with pytest.raises(GpuzarrError):
        gpuzarr.consolidate(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(ArgumentError, match="is an array"):
        gpuzarr.consolidate(tree(2), "d")


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_what_was_consolidated_before_is_not_believed(zarr_format: Any) -> None:
    """Neither at the group nor below it, nor if it is damaged."""
    objects = tree(zarr_format)
    gpuzarr.consolidate(objects, "a")
    gpuzarr.consolidate(objects)
    changed = tree(zarr_format)
    changed["a/b/c/" + (".zarray" if zarr_format == 2 else "zarr.json")] = objects[
        "d/" + (".zarray" if zarr_format == 2 else "zarr.json")
    ]
    stale = {**changed, **{key: objects[key] for key in (HOLDER[zarr_format], f"a/{HOLDER[zarr_format]}")}}
    gpuzarr.consolidate(stale)
    assert ours(stale)["a/b/c"][0] == (7,)
    assert ours(stale, "a")["b/c"][0] == (3, 4)  # which nobody asked for
    broken = json.loads(stale[HOLDER[zarr_format]])
    (broken if zarr_format == 2 else broken["consolidated_metadata"])["metadata"] = {"a": 5}
    stale[HOLDER[zarr_format]] = json.dumps(broken).encode()
    with pytest.raises(MetadataError):
        gpuzarr.open(stale)
    gpuzarr.consolidate(stale)
    assert ours(stale) == members(stale)


def test_documents_are_taken_as_they_are() -> None:
    """What nobody here understands, and what is no JSON but is written all the same."""
    objects = tree(3)
    odd = {**json.loads(objects["d/zarr.json"]), "codecs": [{"name": "of tomorrow"}]}
    odd["attributes"] = {"nan": float("nan"), "half": "\ud800"}
    objects["odd/zarr.json"] = json.dumps(odd).encode()
    gpuzarr.consolidate(objects)
    held = json.loads(objects["zarr.json"])["consolidated_metadata"]["metadata"]["odd"]
    assert json.dumps(held) == json.dumps(odd)
    group = gpuzarr.open(objects)
    assert isinstance(group, gpuzarr.Group)
    assert group["d"].shape == (7,)  # type: ignore[union-attr]
    with pytest.raises(GpuzarrError, match="of tomorrow"):
        group["odd"]


@pytest.mark.parametrize(
    ("document", "match"),
    [
        (b"{", "not JSON"),
        (b'{"zarr_format": 2}', "zarr_format 2 in zarr.json of memory:.*/a/x is not 3"),
        (b'{"zarr_format": 3, "node_type": "link"}', "'link' in zarr.json of memory:.*/a/x is neither"),
    ],
)
def test_what_no_reader_would_take_is_refused(document: bytes, match: str) -> None:
    objects = {**tree(3), "a/x/zarr.json": document}
    before = dict(objects)
    with pytest.raises(MetadataError, match=match):
        gpuzarr.consolidate(objects)
    assert objects == before


def test_no_more_than_can_be_read_again() -> None:
    objects = tree(3)
    before = dict(objects)
    with gpuzarr.configured(max_document_nbytes=1500), pytest.raises(LimitError, match=r"zarr\.json has"):
        gpuzarr.consolidate(objects)
    assert objects == before


# ---- one change


def deep(objects: Any, zarr_format: Any) -> None:
    gpuzarr.create_array(objects, "x/y/z", shape=(2,), dtype="i1", zarr_format=zarr_format)


def saved(objects: Any, zarr_format: Any) -> None:
    gpuzarr.save(objects, np.ones(5), "a/e", attributes={"of": "e"}, zarr_format=zarr_format)


def group_for_array(objects: Any, zarr_format: Any) -> None:
    gpuzarr.create_group(objects, "d", overwrite=True, attributes={"now": 1}, zarr_format=zarr_format)


def array_for_groups(objects: Any, zarr_format: Any) -> None:
    gpuzarr.save(objects, np.ones(5), "a", overwrite=True, zarr_format=zarr_format)


def resized(objects: Any, _: Any) -> None:
    gpuzarr.open_array(objects, "a/b/c", mode="r+").resize((2, 9))


def appended(objects: Any, _: Any) -> None:
    gpuzarr.open_array(objects, "a/b/c", mode="r+").append([[1, 2, 3, 4]])


def array_attributes(objects: Any, _: Any) -> None:
    gpuzarr.open_array(objects, "a/b/c", mode="r+").update_attributes({"of": None, "new": [1]})


def group_attributes(objects: Any, _: Any) -> None:
    group = gpuzarr.open(objects, mode="r+")
    assert isinstance(group, gpuzarr.Group)
    group["a"].update_attributes({"new": 1})
    group.update_attributes({"also": 2})


def copied(objects: Any, zarr_format: Any) -> None:
    gpuzarr.copy(tree(5 - zarr_format), objects, target_path="copies/one", zarr_format=zarr_format)


def copied_over(objects: Any, zarr_format: Any) -> None:
    gpuzarr.copy(tree(zarr_format), objects, path="empty", target_path="a", overwrite=True)


CHANGES: dict[Callable[[Any, Any], None], dict[str, Any]] = {
    deep: {"x": (None, {}), "x/y": (None, {}), "x/y/z": ((2,), {})},
    saved: {"a/e": ((5,), {"of": "e"})},
    group_for_array: {"d": (None, {"now": 1})},
    array_for_groups: {"a": ((5,), {}), "a/b": None, "a/b/c": None},
    resized: {"a/b/c": ((2, 9), {"of": "c"})},
    appended: {"a/b/c": ((4, 4), {"of": "c"})},
    array_attributes: {"a/b/c": ((3, 4), {"new": [1]})},
    group_attributes: {"a": (None, {"new": 1})},
    copied: {
        "copies": (None, {}),
        "copies/one": (None, {"of": "root"}),
        **{f"copies/one/{path}": node for path, node in TREE.items()},
    },
    copied_over: {"a": (None, {"of": "empty"}), "a/b": None, "a/b/c": None},
}


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_are_seen(change: Callable[[Any, Any], None], zarr_format: Any) -> None:
    """By consolidated metadata as without them; the group below that has its own hears of them, too."""
    objects = tree(zarr_format)
    gpuzarr.consolidate(objects, "a")
    gpuzarr.consolidate(objects)
    change(objects, zarr_format)
    expected = {path: node for path, node in {**TREE, **CHANGES[change]}.items() if node is not None}
    assert members(objects) == ours(objects) == expected
    root = {"of": "root", **({"also": 2} if change is group_attributes else {})}
    assert dict(peer(objects).attrs) == dict(gpuzarr.open(objects).attrs) == root
    if change in (saved, resized, appended, array_attributes):
        inner = {path[2:]: node for path, node in expected.items() if path.startswith("a/")}
        assert ours(objects, "a") == inner
    found = json.loads(objects[HOLDER[zarr_format]])
    anew = dict(objects)
    gpuzarr.consolidate(anew)
    assert found == json.loads(anew[HOLDER[zarr_format]])


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_nothing_is_consolidated_that_was_not(change: Callable[[Any, Any], None], zarr_format: Any) -> None:
    objects = tree(zarr_format)
    change(objects, zarr_format)
    assert ".zmetadata" not in objects
    assert not any(b"consolidated_metadata" in value for key, value in objects.items() if "json" in key)


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_a_change_costs_a_request_for_each_group_above(zarr_format: Any) -> None:
    objects, name = tree(zarr_format), {2: ".zarray", 3: "zarr.json"}[zarr_format]
    store = CountingStore(MappingStore(objects))
    array = gpuzarr.open_array(store, "a/b/c", mode="r+", device="cpu")
    store.forget()
    array.resize((9, 9))
    above = [f"{path}{HOLDER[zarr_format]}" for path in ("a/b/", "a/", "")]
    assert [request.key for request in store.seen][-3:] == above
    assert store.put_keys == [f"a/b/c/{name}"]
    gpuzarr.consolidate(store)
    store.forget()
    array.append(np.ones((1, 9)))
    assert [request.key for request in store.seen][-3:] == above
    assert store.put_keys[-2:] == [f"a/b/c/{name}", HOLDER[zarr_format]]  # behind what it announces
    store.forget()
    at_the_root = gpuzarr.save(store, np.ones(3), overwrite=True)
    store.forget()
    at_the_root.append([1.0])
    assert Request(HOLDER[2]) not in store.seen


def test_what_is_overwritten_is_withdrawn_first() -> None:
    objects = tree(3)
    gpuzarr.consolidate(objects)

    class Failing(CountingStore):
        def put(self, given: Any) -> None:
            if any(key.startswith("a/b/c/c/") for key, _ in given):
                raise gpuzarr.errors.StoreError("no room")
            super().put(given)

    store = Failing(MappingStore(objects))
    with pytest.raises(GpuzarrError, match="no room"):
        gpuzarr.save(store, np.ones((9, 9)), "a/b/c", overwrite=True, device="cpu")
    assert (store.put_keys, store.deleted_keys[0]) == (["zarr.json"], "a/b/c/zarr.json")
    assert "a/b/c" not in ours(objects)
    assert "a/b" in ours(objects)


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_what_other_programs_made_is_found_on_the_way(zarr_format: Any) -> None:
    """zarr-python leaves consolidated metadata behind as they were."""
    objects: Objects = {}
    gpuzarr.create_group(objects, zarr_format=zarr_format)
    gpuzarr.consolidate(objects)
    later = tree(zarr_format, "t")
    objects.update({key: value for key, value in later.items() if "/" in key})
    assert ours(objects) == {}
    gpuzarr.open_array(objects, "t/a/b/c", mode="r+").resize((1, 1))
    expected = {"t": (None, {"of": "root"}), "t/a": (None, {}), "t/a/b": (None, {})}
    assert members(objects) == ours(objects) == {**expected, "t/a/b/c": ((1, 1), {"of": "c"})}


def test_nodes_without_a_way_to_them_are_not_announced() -> None:
    """zarr-python could not open a group whose metadata name what lies below nothing."""
    objects = tree(3)
    del objects["a/zarr.json"]
    gpuzarr.consolidate(objects)
    gpuzarr.open_array(objects, "a/b/c", mode="r+").resize((1, 1))
    gpuzarr.create_array(objects, "a/b/e", shape=1, dtype="u1")
    assert members(objects) == ours(objects) == {name: TREE[name] for name in ("d", "empty")}


@pytest.mark.parametrize("holder", [b"{", b'{"metadata": 5}', b'{"metadata": {"a": 1}}', b'{"a": 1, "a": 1}'])
def test_metadata_that_no_reader_takes_stay_as_they_are(holder: bytes) -> None:
    objects = {**tree(2), ".zmetadata": holder}
    gpuzarr.open_array(objects, "d", mode="r+").resize((3,))
    assert objects[".zmetadata"] == holder
    assert gpuzarr.open_array(objects, "d").shape == (3,)


def test_unknown_kinds_stay_as_they_are() -> None:
    objects = tree(3)
    document = json.loads(objects["zarr.json"])
    for kind in (None, {"kind": "outline", "must_understand": False, "metadata": {}}, 5):
        objects["zarr.json"] = json.dumps({**document, "consolidated_metadata": kind}).encode()
        before = objects["zarr.json"]
        gpuzarr.open_array(objects, "d", mode="r+").resize((3,))
        assert objects["zarr.json"] == before


def test_errors_above_say_that_the_change_is_stored() -> None:
    objects = tree(3)
    gpuzarr.consolidate(objects)
    array = gpuzarr.open_array(objects, "d", mode="r+")
    with gpuzarr.configured(max_document_nbytes=1500), pytest.raises(LimitError, match="change itself is"):
        array.resize((9,))
    assert gpuzarr.open_array(objects, "d").shape == (9,)
    assert ours(objects)["d"][0] == (7,)
    array.append([1.0])
    assert ours(objects)["d"][0] == (10,)


def test_v2_attributes_are_not_taken_from_what_is_consolidated() -> None:
    objects = tree(2)
    gpuzarr.consolidate(objects)
    objects[".zattrs"] = b'{"by": "others", "nan": NaN}'
    group = gpuzarr.open(objects, mode="r+")
    group.update_attributes({"ours": 1})
    expected = {"by": "others", "nan": "NaN", "ours": 1}
    found = dict(gpuzarr.open(objects).attrs)
    assert {**found, "nan": str(found["nan"]).replace("nan", "NaN")} == expected
    with pytest.raises(ArgumentError, match="not JSON"):
        group.update_attributes({"new": float("nan")})
    assert b"new" not in objects[".zattrs"]


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_leftovers_of_a_deleted_group_do_not_come_back(zarr_format: Any) -> None:
    """Of a process that was killed while it overwrote one."""
    objects = tree(zarr_format)
    gpuzarr.consolidate(objects)
    left = {key: value for key, value in objects.items() if key not in ("zarr.json", ".zgroup")}
    assert dict(gpuzarr.create_group(left, zarr_format=zarr_format).attrs) == {}
    assert set(gpuzarr.open(left)) == {"a", "d", "empty"}  # type: ignore[arg-type]
    assert ".zmetadata" not in left
    assert dict(gpuzarr.open(left).attrs) == {}


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_threads(zarr_format: Any, tmp_path: Path) -> None:
    """Each has an array of its own; one consolidates meanwhile."""
    gpuzarr.create_group(tmp_path, zarr_format=zarr_format)
    gpuzarr.consolidate(tmp_path)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            array = gpuzarr.create_array(
                *(tmp_path, f"g/{number}"), shape=(0,), dtype="i4", zarr_format=zarr_format, device="cpu"
            )
            for step in range(8):
                array.append([step])
                array.update_attributes({"steps": step})
                if number == 0:
                    gpuzarr.consolidate(tmp_path)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    expected: dict[str, Any] = {f"g/{number}": ((8,), {"steps": 7}) for number in range(4)}
    assert ours(tmp_path) == {"g": (None, {}), **expected}


# ---- the command line


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(one) for one in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = tmp_path / "v"
    code, out, err = run(capsys, "create", at, "--group", "--consolidate")
    assert (code, out, err) == (0, f"{at}   group, Zarr v3, consolidated metadata of 0 nodes\n", "")
    run(capsys, "create", at, "g/a", "--shape", "9", "--dtype", "u1")
    assert ours(at) == {"g": (None, {}), "g/a": ((9,), {})}
    code, out, _ = run(capsys, "create", at, "g", "--consolidate")
    assert (code, out) == (0, f"{at}/g   group, Zarr v3, consolidated metadata of 1 node\n")
    code, out, err = run(capsys, "create", at, "g/a", "--consolidate")
    assert (code, out) == (2, "")
    assert "is an array" in err
    code, _, err = run(capsys, "create", at, "g", "--consolidate", "--shape", "9")
    assert (code, err.startswith("gpuzarr: a group has neither --shape")) == (2, True)


def test_links_that_lead_up_are_not_followed(tmp_path: Path) -> None:
    gpuzarr.create_group(tmp_path, device="cpu")
    gpuzarr.create_group(tmp_path, "a", device="cpu")
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path)
        (tmp_path / "a" / name).symlink_to(tmp_path / "a")
    assert list(gpuzarr.consolidate(tmp_path)) == ["a"]
