"""Writes golden.json: chunks encoded by other software, and what they decode to.

    python tests/data/codecs/make_golden.py

Encoders are numcodecs, zarr-python, cast-value-rs and, for `packbits`, the few lines of `pack` below. None is
gpuzarr. Bytes are base64; values of objects are JSON. `decoded` is left out where a codec is lossless.
"""

import base64
import json
from pathlib import Path

import numcodecs
import numpy as np
import zarr
from cast_value_rs import cast_array
from numcodecs.msgpacks import MsgPack

RNG = np.random.default_rng(20261)
HERE = Path(__file__).parent
ROUNDINGS = ("nearest-even", "towards-zero", "towards-positive", "towards-negative", "nearest-away")


def text(values):
    """An array as JSON."""
    if values.dtype == object:
        return [
            v.tolist() if isinstance(v, np.ndarray) else {"bytes": v.hex()} if isinstance(v, bytes) else v
            for v in values.reshape(-1)
        ]
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def pack(values, bits, first, last, padding):
    """`packbits`, one bit at a time."""
    stream = [value >> bit & 1 for value in map(int, values.reshape(-1)) for bit in range(first, last + 1)]
    zeros = -len(stream) % 8
    stream += [0] * zeros
    packed = bytes(
        sum(bit << place for place, bit in enumerate(stream[at : at + 8])) for at in range(0, len(stream), 8)
    )
    return (
        {"none": b"", "first_byte": bytes([zeros])}.get(padding, b"")
        + packed
        + (bytes([zeros]) if padding == "last_byte" else b"")
    )


def zarr_chunk(values, codecs):
    """The one chunk of an array that zarr-python writes with `codecs`."""
    store = zarr.storage.MemoryStore()
    serializer = [codec for codec in codecs if codec["name"] == "sharding_indexed"] or [
        {"name": "bytes", "configuration": {"endian": "little"}}
    ]
    array = zarr.create_array(
        store,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        filters=[codec for codec in codecs if codec["name"] in ("scale_offset", "transpose")],
        serializer=serializer[0],
        compressors=None,
        fill_value=values.reshape(-1)[0].item(),
        config={"write_empty_chunks": True},
    )
    array[...] = values
    chunk = next(value for key, value in store._store_dict.items() if not key.endswith("zarr.json"))
    return chunk.to_bytes(), array[...]


def main():
    """All cases."""
    cases = []

    def add(entry, values, encoded, decoded=None, **more):
        encoded = encoded.tobytes() if isinstance(encoded, np.ndarray) else bytes(encoded)
        dtype = "|O" if values.dtype == object else values.dtype.str
        case = {**entry, "dtype": dtype, "shape": list(values.shape), "values": text(values)}
        if decoded is not None:
            case["decoded"] = text(decoded)
        cases.append({**case, "encoded": base64.b64encode(encoded).decode(), **more})

    def v2(configuration, values, lossy=False, **more):
        codec = numcodecs.get_codec(configuration)
        encoded = codec.encode(values)
        decoded = None
        if lossy:
            plain = codec.decode(encoded)
            plain = np.asarray(plain) if isinstance(plain, np.ndarray) else np.frombuffer(plain, np.uint8)
            decoded = plain.reshape(-1).view(values.dtype).reshape(values.shape)
        add({"v2": configuration}, values, encoded, decoded, **more)

    def v3(name, configuration, values, encoded, decoded=None, **more):
        add({"v3": [name, configuration]}, values, encoded, decoded, **more)

    walk = RNG.normal(size=(9, 14)).cumsum(axis=1)
    i2 = (walk * 100).astype("<i2")
    f4, f8, big = walk.astype("<f4"), walk.copy(), (walk * 1000).astype(">i4")
    noise = RNG.integers(0, 256, 300).astype("u1")
    steps = (np.arange(2400) // 13).astype("<u4").reshape(24, 100)
    flags = RNG.random((5, 7)) < 0.5

    for cname in ("blosclz", "lz4", "lz4hc", "zlib", "zstd"):
        for shuffle in (0, 1, 2):
            v2({"id": "blosc", "cname": cname, "clevel": 5, "shuffle": shuffle, "blocksize": 0}, i2)
    blocks = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 4096}
    v2(blocks, steps)
    v2({**blocks, "blocksize": 256, "cname": "zstd", "shuffle": 2}, big)
    v2({"id": "blosc", "cname": "lz4", "clevel": 0, "shuffle": 1, "blocksize": 0}, noise)
    v2({"id": "blosc", "cname": "lz4", "clevel": 9, "shuffle": -1, "blocksize": 0}, noise)
    named = {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "typesize": 4, "blocksize": 0}
    v3("blosc", named, f4, numcodecs.Blosc("zstd", 3, 2, 0, typesize=4).encode(f4))
    for options in ({"level": 0}, {"level": 19, "checksum": True}, {"level": -5, "checksum": False}):
        v2({"id": "zstd", **options}, i2)
        v3("zstd", options, f4, numcodecs.Zstd(**options).encode(f4))
    v2({"id": "zstd", "level": 1}, steps)
    for level in (0, 1, 9):
        v2({"id": "gzip", "level": level}, i2)
        v2({"id": "zlib", "level": level}, i2)
    v3("gzip", {"level": 5}, f8, numcodecs.GZip(5).encode(f8))
    v2({"id": "lz4", "acceleration": 1}, steps)
    v2({"id": "lz4", "acceleration": 20}, noise)
    v2({"id": "bz2", "level": 9}, i2)
    v2({"id": "lzma", "format": 1, "check": -1, "preset": None, "filters": None}, i2)
    v2({"id": "lzma", "format": 2, "check": -1, "preset": 1, "filters": None}, i2)
    delta = [{"id": 3, "dist": 2}, {"id": 33, "preset": 1}]
    v2({"id": "lzma", "format": 3, "check": -1, "preset": None, "filters": delta}, i2)
    for name in ("crc32", "adler32", "crc32c"):
        v2({"id": name}, i2)
        v2({"id": name, "location": "end"}, noise)
    v2({"id": "fletcher32"}, i2)
    v2({"id": "fletcher32"}, noise[:7])
    v2({"id": "jenkins_lookup3"}, i2)
    hashed = numcodecs.checksum32.JenkinsLookup3(7, bytes([1, 2, 255])).encode(noise)
    v3("numcodecs.jenkins_lookup3", {"initval": 7, "prefix": [1, 2, 255]}, noise, hashed)
    v2({"id": "shuffle", "elementsize": 4}, f4)
    v2({"id": "delta", "dtype": "<i2", "astype": "<i2"}, i2.reshape(-1))
    v2({"id": "fixedscaleoffset", "offset": 10, "scale": 10, "dtype": "<f8", "astype": "<i4"}, f8, lossy=True)
    v2({"id": "quantize", "digits": 2, "dtype": "<f8", "astype": "<f4"}, f8, lossy=True)
    v2({"id": "quantize", "digits": -1, "dtype": "<f4", "astype": "<f4"}, f4 * 100, lossy=True)
    v3(
        "numcodecs.quantize",
        {"digits": 1},
        f4,
        numcodecs.Quantize(1, "<f4").encode(f4),
        numcodecs.Quantize(1, "<f4").encode(f4),
    )
    for keepbits in (0, 7, 23):
        v2({"id": "bitround", "keepbits": keepbits}, f4, lossy=True)
    v2({"id": "bitround", "keepbits": 12}, f8, lossy=True)
    # The vectors that zarrs tests its integers with.
    ints = np.array([0, 1024, 1280, 1664, 1685, 123145182, 4294967295], "<u4")
    kept = np.array([0, 1024, 1280, 1536, 1792, 117440512, 3758096384], "<u4")
    v3("bitround", {"keepbits": 3}, ints, kept, kept)
    ints = np.array([0, 3, 7, 15, 17, 54, 89, 128, 255], "u1")
    kept = np.array([0, 3, 7, 16, 16, 56, 96, 128, 224], "u1")
    v3("bitround", {"keepbits": 3}, ints, kept, kept)
    v2({"id": "astype", "encode_dtype": "<f4", "decode_dtype": "<f8"}, f8, lossy=True)
    v2({"id": "astype", "encode_dtype": "|i1", "decode_dtype": "<i2"}, np.arange(-9, 9, dtype="<i2"))
    v2({"id": "packbits"}, flags)
    v2({"id": "packbits"}, flags.reshape(-1)[:16])
    for padding in ("none", "first_byte", "last_byte"):
        v3("packbits", {"padding_encoding": padding}, flags, pack(flags, 8, 0, 0, padding))
    v3("packbits", {"first_bit": 0, "last_bit": 9}, i2 % 512, pack((i2 % 512).view("<u2"), 16, 0, 9, "none"))
    signed = (np.arange(-20, 21) << 2).astype("<i2")
    v3("packbits", {"first_bit": 2, "last_bit": 8}, signed, pack(signed.view("<u2"), 16, 2, 8, "none"))
    v3("packbits", {"first_bit": None, "last_bit": None}, f4, f4)
    v2({"id": "base64"}, i2)
    words = np.array(["", "a", "héllo", "日本", "x" * 300, "\0"], object).reshape(2, 3)
    v2({"id": "vlen-utf8"}, words)
    v3("vlen-utf8", {}, words, numcodecs.VLenUTF8().encode(words))
    chunks = np.array([b"", b"\0\xff", b"abc", b"y" * 70], object)
    v2({"id": "vlen-bytes"}, chunks)
    arrays = np.empty(4, object)
    arrays[:] = [np.arange(n, dtype="<i4") for n in (0, 1, 5, 3)]
    v2({"id": "vlen-array", "dtype": "<i4"}, arrays, item="<i4")
    things = np.empty((2, 2), object)
    things[...] = [["a", None], [1.5, {"k": [True, "v"]}]]
    v2({"id": "json2"}, things)
    v2({"id": "json2"}, i2)
    numbers = np.empty((4,), object)
    numbers[:] = ["a", 1, 2.5, None]
    add({"v2": {"id": "msgpack2", "raw": False}}, numbers, MsgPack().encode(numbers), needs="msgpack")
    for kind in ("<f4", "<f8", "<i4"):
        field = (walk * 50).astype(kind)
        v2({"id": "zfpy", "mode": 3, "precision": 20}, field, lossy=True, tolerance=1, needs="zfpy")
        v2({"id": "zfpy", "mode": 2, "rate": 16}, field, lossy=True, tolerance=1, needs="zfpy")
        v2({"id": "zfpy", "mode": 4, "tolerance": 0.001}, field, lossy=True, tolerance=1, needs="zfpy")
    for kind in ("<f2", "<f4", "<f8", "<i2", "<u4", "<i8"):
        v2({"id": "pcodec", "level": 8}, np.abs(walk * 50).astype(kind), needs="pcodec")
    names = np.array(["x", "zz", "", "x", "other"], object)
    categories = {"id": "categorize", "labels": ["x", "yy", "zz"], "dtype": "|O", "astype": "|u1"}
    known = np.array(["x", "zz", "", "x", ""], object)
    add({"v2": categories}, names, numcodecs.get_codec(categories).encode(names), known)
    v2({**categories, "dtype": "<U2", "astype": "<i2"}, np.array(["x", "zz", "yy"], "<U2"))

    encoded, decoded = zarr_chunk(
        f8, [{"name": "scale_offset", "configuration": {"offset": 3.0, "scale": 0.5}}]
    )
    v3("scale_offset", {"offset": 3.0, "scale": 0.5}, f8, encoded, decoded)
    for kind in ("|i1", "<i4", "<u8"):
        whole = np.arange(20, 30).astype(kind)
        encoded, decoded = zarr_chunk(
            whole, [{"name": "scale_offset", "configuration": {"offset": 20, "scale": 7}}]
        )
        v3("scale_offset", {"offset": 20, "scale": 7}, whole, encoded, decoded)
    cast = {"rounding_mode": "nearest-even"}
    rounded = cast_array(f8, target_dtype="int16", **cast)
    v3("cast_value", {"data_type": "int16"}, f8, rounded, rounded.astype("<f8"))
    gaps = f8.copy()
    gaps[2, 3:9] = np.nan
    both = {"encode": [["NaN", -9999]], "decode": [[-9999, "NaN"]]}
    rounded = cast_array(gaps, target_dtype="int16", scalar_map_entries={float("nan"): -9999}, **cast)
    decoded = cast_array(rounded, target_dtype="float64", scalar_map_entries={-9999: float("nan")}, **cast)
    v3("cast_value", {"data_type": "int16", "scalar_map": both}, gaps, rounded, decoded)

    v3("bytes", {"endian": "big"}, f4, f4.astype(">f4"))
    v3("transpose", {"order": [1, 0]}, i2, np.ascontiguousarray(i2.T))
    shard = {
        "chunk_shape": [3, 7],
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "gzip", "configuration": {"level": 1}},
        ],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "end",
    }
    encoded, _ = zarr_chunk(i2, [{"name": "sharding_indexed", "configuration": shard}])
    v3("sharding_indexed", shard, i2, encoded)

    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (HERE / "golden.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    casts()


def casts():
    """casts.json: what cast-value-rs makes of single values; null is an error."""
    floats = [
        0.0,
        -0.0,
        0.5,
        1.5,
        2.5,
        -0.5,
        -2.5,
        127.5,
        128,
        -128.5,
        255.5,
        300,
        -300,
        65519,
        65520,
        65536,
        70000,
    ]
    floats += [
        1 + 2**-24,
        1 + 3 * 2**-24,
        16777217.0,
        3.4028235677973366e38,
        2.0**128,
        1e300,
        -1e39,
        1e-50,
        -1e-50,
    ]
    floats += [
        2.0**63,
        -(2.0**63),
        2.0**64,
        1e20,
        0.49999999999999994,
        float("inf"),
        -float("inf"),
        float("nan"),
    ]
    whole = [
        0,
        1,
        -1,
        127,
        128,
        -128,
        -129,
        255,
        256,
        2049,
        65519,
        65520,
        70000,
        -70000,
        2**24 + 1,
        -(2**24) - 1,
    ]
    whole += [2**31, 2**53 + 1, 2**62 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64 - 1025]
    pairs = {"float64": "int8 uint8 int64 uint64 float32 float16", "float32": "float16 int16 float64"}
    pairs |= {
        "int64": "int16 uint8 uint64 float16 float32 float64",
        "uint64": "int64 int8 float32 float64",
        "int16": "int8 uint16",
    }
    found = []
    for source, targets in pairs.items():
        with np.errstate(all="ignore"):
            if source.startswith("float"):
                values = np.array(floats).astype(source)
            else:
                info = np.iinfo(source)
                values = np.array([number for number in whole if info.min <= number <= info.max], source)
        for target in targets.split():
            runs = []
            for rounding in ROUNDINGS:
                for out_of_range in (None, "clamp") + (() if target.startswith("float") else ("wrap",)):
                    modes = {"rounding_mode": rounding, "out_of_range_mode": out_of_range}
                    results = []
                    for value in values:
                        try:
                            results.append(
                                cast_array(np.array([value]), target_dtype=target, **modes)[0].item()
                            )
                        except ValueError:
                            results.append(None)
                    runs.append({"rounding": rounding, "out_of_range": out_of_range, "results": results})
            found.append({"source": source, "target": target, "values": values.tolist(), "runs": runs})
    lines = ",\n".join(json.dumps(case) for case in found)
    (HERE / "casts.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
