"""Roots that lie: whatever stands in one, it is a checkpoint that is safe to compute with, or Corrupt."""

import base64
import copy
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.model_facts import context_tokens, facts_of, model_config
from storage_tiers import model_store, schema
from storage_tiers.checkpoint import (
    FORMAT,
    ROOT,
    Blocks,
    Checkpoint,
    TensorSpec,
    UnitIndex,
    array_metadata,
    lay_out,
    model_digest,
    root_metadata,
    unit_digest,
)
from storage_tiers.errors import Corrupt, SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from storage_tiers.schema import parse_array, parse_root
from tests.storage_tiers.tokenizers import byte_tokenizer, save_tokenizer
from tests.tiny import make_tiny

MOST_SPENT_BYTES = 64 << 20


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ...]:
    """Of two real models: one copied, with a file beside it, and one in place."""
    folder = tmp_path_factory.mktemp("roots")
    source = make_tiny("llama", folder / "source", num_hidden_layers=2)
    byte_tokenizer().save(str(source / "tokenizer.json"))
    store = ModelStore(ObjectStore(str(folder / "store")))
    publish(str(source), "model", store)
    copied = json.loads(store.objects.read(f"model/{ROOT}"))
    publish(str(source), "model", store, in_place=True)
    return copied, json.loads(store.objects.read(f"model/{ROOT}"))


def _parse(root: Any) -> Checkpoint:
    return parse_root(json.dumps(root).encode(), "here", "model")


def _resigned(root: dict[str, Any]) -> dict[str, Any]:
    """The root with the digest that goes with what it says, where it can still be computed: a liar does that, too."""
    found = root["attributes"]
    try:
        nodes = root["consolidated_metadata"]["metadata"]
        named = [
            replace(_UNIT, name=nodes[path]["attributes"]["unit"], path=f"_1/{nodes[path]['attributes']['unit']}",
                    digest=nodes[path]["attributes"]["digest"])
            for path in (*found["units"], *found["files"])
        ]  # fmt: skip
        found["digest"] = model_digest(found["config"], found["dtype"], named, ())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return root


_LAYOUT = lay_out([TensorSpec("a", "float32", (2, 3))])
_UNIT = UnitIndex("a", "_1/a", unit_digest(_LAYOUT.tensors, "0"), _LAYOUT, (0,))


def _model(root: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = root["attributes"]
    return found


def _array(root: dict[str, Any], unit: str = "layer.0000") -> dict[str, Any]:
    found: dict[str, Any] = root["consolidated_metadata"]["metadata"][f"{_model(root)['version']}/{unit}"]
    return found


def _shard(root: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _array(root)["codecs"][0]["configuration"]
    return found


def _tensor(root: dict[str, Any], unit: str = "layer.0000") -> dict[str, Any]:
    found: dict[str, Any] = _array(root, unit)["attributes"]["tensors"][0]
    return found


def _rename_file(root: dict[str, Any], name: str) -> None:
    """The file under another name, at a path and with a tensor that go with it."""
    version = _model(root)["version"]
    node = root["consolidated_metadata"]["metadata"].pop(f"{version}/files/tokenizer.json")
    node["attributes"]["unit"] = node["attributes"]["tensors"][0]["name"] = name
    root["consolidated_metadata"]["metadata"][f"{version}/files/{name}"] = node
    _model(root)["files"] = [f"{version}/files/{name}"]


def test_a_published_root_is_read_as_it_was_written(roots: tuple[dict[str, Any], ...]) -> None:
    for root in roots:
        checkpoint = _parse(root)
        assert root_metadata(checkpoint) == root
        facts_of(checkpoint)


def test_another_format_is_refused_by_name(roots: tuple[dict[str, Any], ...]) -> None:
    root = copy.deepcopy(roots[0])
    _model(root)["format"] = "firsttoken/0"
    with pytest.raises(Corrupt, match=f"firsttoken/0.*{FORMAT}.*publish it again"):
        _parse(root)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"{}", b"null", b'{"attributes": 1}', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000,
        b'{"attributes": {"format": "firsttoken/1"}, "attributes": {"format": "firsttoken/1"}}',
    ],
)  # fmt: skip
def test_what_is_no_metadata_is_corrupt(text: bytes) -> None:
    with pytest.raises(Corrupt, match="here"):
        parse_root(text, "here", "model")


_DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no units": lambda root: _model(root).pop("units"),
    "an empty list of units": lambda root: _model(root).update(units=[]),
    "units in another order": lambda root: _model(root)["units"].reverse(),
    "a layer less": lambda root: _model(root)["units"].pop(1),
    "a unit without metadata": lambda root: _model(root)["units"].append("_1/nowhere"),
    "no consolidated metadata": lambda root: root.pop("consolidated_metadata"),
    "a version that is a path": lambda root: _model(root).update(version="../other"),
    "a digest that is a path": lambda root: _array(root)["attributes"].update(digest="../../x"),
    "a digest in capitals": lambda root: _array(root)["attributes"].update(digest="A" * 64),
    "a digest and a line": lambda root: _array(root)["attributes"].update(digest="a" * 64 + "\n"),
    "another unit's name": lambda root: _array(root)["attributes"].update(unit="head"),
    "a file that is an absolute path": lambda root: _rename_file(root, "/tmp/x"),
    "a file above": lambda root: _rename_file(root, "../x"),
    "a file that is its folder": lambda root: _rename_file(root, ".."),
    "a file twice": lambda root: _model(root).update(files=_model(root)["files"] * 2),
    "a file of an exabyte": lambda root: _tensor(root, "files/tokenizer.json").update(shape=[10**18], nbytes=10**18),
    "a chunk without checksum": lambda root: _array(root)["attributes"]["chunk_crc32c"].pop(),
    "a checksum that is true": lambda root: _array(root)["attributes"].update(chunk_crc32c=[True]),
    "a checksum that is too large": lambda root: _array(root)["attributes"].update(chunk_crc32c=[1 << 32]),
    "a tensor past the end": lambda root: _tensor(root).update(offset=1 << 40),
    "a tensor before the start": lambda root: _tensor(root).update(offset=-4096),
    "a tensor out of place": lambda root: _tensor(root).update(offset=12),
    "a tensor of another length": lambda root: _tensor(root).update(nbytes=4),
    "a tensor twice": lambda root: _array(root)["attributes"]["tensors"].append(_tensor(root)),
    "a tensor of a thousand dimensions": lambda root: _tensor(root).update(shape=[1] * 1000),
    "an unknown type": lambda root: _tensor(root).update(dtype="float4"),
    "a type that is not the model's": lambda root: _model(root).update(dtype="float16"),
    "a type that is no weight's": lambda root: _model(root).update(dtype="int8"),
    "a negative shape": lambda root: _tensor(root).update(shape=[-2, -1]),
    "a payload past the data": lambda root: _array(root)["attributes"].update(payload=1 << 40),
    "a payload without end": lambda root: _array(root)["attributes"].update(payload=float("inf")),
    "chunks of no length": lambda root: _shard(root).update(chunk_shape=[0]),
    "chunks that do not fill": lambda root: _shard(root).update(chunk_shape=[4097]),
    "an index in front": lambda root: _shard(root).update(index_location="start"),
    "compressed chunks": lambda root: _shard(root)["codecs"].append({"name": "zstd"}),
    "no sharding": lambda root: _array(root)["codecs"][0].update(name="bytes"),
    "no codecs": lambda root: _array(root).update(codecs=[]),
    "an empty configuration": lambda root: _model(root).update(config={}),
    "a configuration that is a list": lambda root: _model(root).update(config=[]),
    "another family": lambda root: _model(root)["config"].update(model_type="bert"),
    "a family that is a list": lambda root: _model(root)["config"].update(model_type=["llama"]),
    "no number": lambda root: _model(root)["config"].update(rope_theta=float("nan")),
    "no heads": lambda root: _model(root)["config"].update(num_attention_heads=0),
    "half a layer": lambda root: _model(root)["config"].update(num_hidden_layers=2.0),
    "a billion layers": lambda root: _model(root)["config"].update(num_hidden_layers=10**9),
    "a billion layers by another name": lambda root: _model(root)["config"].update(n_layer=10**9),
    "a billion labels": lambda root: _model(root)["config"].update(num_labels=10**9),
    "a number of a thousand digits": lambda root: _model(root)["config"].update(rope_theta=10**1000),
    "a nested configuration": lambda root: _model(root)["config"].update(x=json.loads("[" * 100 + "]" * 100)),
    "an attribute of all objects": lambda root: _model(root)["config"].update(__class__="x"),
    "quantised, in a word": lambda root: _model(root)["config"].update(quantization_config="yes"),
    "an end that is a word": lambda root: _model(root).update(generation_config={"eos_token_id": "end"}),
    "an end that is true": lambda root: _model(root).update(generation_config={"eos_token_id": [True]}),
    "tied, in a word": lambda root: _model(root).update(tied_embeddings="no"),
}  # fmt: skip


@pytest.mark.parametrize("damage", _DAMAGE.values(), ids=_DAMAGE.keys())
def test_a_root_that_lies_is_corrupt(
    damage: Callable[[dict[str, Any]], object], roots: tuple[dict[str, Any], ...]
) -> None:
    """Names were joined to paths as they stood, sizes allocated, and layers built: files were written anywhere, and front
    ends and nodes ran out of memory or time, for what anybody had put into the store."""
    root = copy.deepcopy(roots[0])
    damage(root)
    with pytest.raises(Corrupt, match="here"):
        _parse(_resigned(root))


def test_a_changed_configuration_goes_with_another_digest(roots: tuple[dict[str, Any], ...]) -> None:
    root = copy.deepcopy(roots[0])
    _model(root)["config"]["rope_theta"] = 7
    with pytest.raises(Corrupt, match="the root metadata was changed"):
        _parse(root)


@pytest.mark.parametrize(
    ("option", "value"),
    [("num_key_value_heads", -1), ("head_dim", "x"), ("rope_parameters", "x"), ("layer_types", ["x"])],
)
def test_what_transformers_makes_no_configuration_of_is_corrupt(
    option: str, value: Any, roots: tuple[dict[str, Any], ...]
) -> None:
    """Such a model was a plain server error for all who asked for it."""
    root = copy.deepcopy(roots[0])
    _model(root)["config"][option] = value
    with pytest.raises(Corrupt):
        facts_of(_parse(_resigned(root)))


@pytest.mark.parametrize("option", ["num_hidden_layers", "vocab_size"])
def test_what_a_configuration_leaves_to_defaults_is_compared_with_what_is_there(
    option: str, roots: tuple[dict[str, Any], ...]
) -> None:
    root = copy.deepcopy(roots[0])
    del _model(root)["config"][option]
    with pytest.raises(Corrupt, match="configuration"):
        facts_of(_parse(_resigned(root)))


def test_a_copied_folder_says_whose_it_is(store: ModelStore, tmp_path: Path) -> None:
    """`cp -r store/m store/m-backup`: whoever asked for the copy was served as m from then on, and so was everybody."""
    publish(str(make_tiny("llama", tmp_path / "source", num_hidden_layers=1)), "m", store)
    store.objects.write(f"m-backup/{ROOT}", store.objects.read(f"m/{ROOT}"))
    with pytest.raises(
        Corrupt, match=r"m-backup/zarr\.json holds a model that calls itself 'm': publish it under this"
    ):
        store.open("m-backup")
    assert store.open("m").name == "m"


def test_a_root_is_not_read_if_it_is_too_large(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_store, "ROOT_LIMIT_BYTES", 1000)
    store.objects.write(f"model/{ROOT}", b" " * 1001)
    with pytest.raises(Corrupt, match="1,001 bytes, 1,000 at most"):
        store.open("model")


def test_what_nobody_could_open_is_not_published(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tiny("llama", tmp_path / "source", num_hidden_layers=1)
    save_tokenizer(source, byte_tokenizer())
    monkeypatch.setattr(schema, "FILES_LIMIT_BYTES", 4096)
    with pytest.raises(SourceError, match="nobody could open it"):
        publish(str(source), "model", store)
    assert store.list() == []


# ---- in place

_FORBIDDEN_URLS = (
    "http://127.0.0.1:8000/admin", "https://x/y", "s3://bucket/key", "memory://x/y", "simplecache::file:///etc/passwd",
    "zip://x::file:///y", "github://o:r@/x", "/etc/passwd", "", "file:///a/", "file://a/b", "file://~/b",
    "file:///a/../etc/passwd", "file:///a/./b", "file:///a?x", "file:///a#x", "file:///a\nb", "file:///a\\b",
)  # fmt: skip


@pytest.mark.parametrize("url", _FORBIDDEN_URLS)
def test_a_root_sends_nobody_elsewhere_than_to_files_of_the_stores_kind(
    url: str, roots: tuple[dict[str, Any], ...], store: ModelStore
) -> None:
    """A node asked any server for bytes, with whatever fsspec knows, when a root said that a model was in place there."""
    root = copy.deepcopy(roots[1])
    for node in root["consolidated_metadata"]["metadata"].values():
        for extent in node.get("firsttoken_extents", {"extents": []})["extents"]:
            extent["url"] = url
    store.objects.write(f"model/{ROOT}", json.dumps(root).encode())
    with pytest.raises(Corrupt):
        store.open("model")


def test_a_model_is_in_place_in_few_folders(roots: tuple[dict[str, Any], ...], monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy.deepcopy(roots[1])
    _array(root)["firsttoken_extents"]["extents"][0]["url"] = "file:///elsewhere/model.safetensors"
    _parse(root)
    monkeypatch.setattr(schema, "MOST_FOLDERS", 1)
    with pytest.raises(Corrupt, match="in place in 2 folders, 1 at most"):
        _parse(root)


# ---- blocks


@pytest.mark.parametrize(
    "blocks",
    [
        {"block_bytes": 0},
        {"block_bytes": 1000},
        {"block_bytes": 4096},
        {"crc32c": "AAAA"},
        {"crc32c": "?"},
        {"crc32c": 1},
    ],
    ids=str,
)
def test_blocks_that_do_not_fit_their_unit_are_noticed(blocks: dict[str, Any]) -> None:
    layout = lay_out([TensorSpec("embedding", "uint8", (40_000,))])
    unit = replace(_UNIT, layout=layout, blocks=Blocks(16384, bytes(12)))
    metadata = array_metadata(unit)
    metadata["attributes"]["blocks"] |= blocks
    with pytest.raises(ValueError):
        parse_array(unit.path, metadata)


# ---- anything at all

_DEEP = json.loads("[" * 200 + "]" * 200)
_WORDS = (
    "", "/", "..", "../../x", "/etc/passwd", "a\x00b", "\ud800", "a" * 10_000, "__class__", "file:///dev/zero",
    "http://127.0.0.1/",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2**31, 2**63, 2**64, 10**18, 10**400, 0.5, 1e308, float("nan"), float("inf"))
_SHAPES = (None, True, False, [], {}, [[]], [None], [1] * 5000, {"": {}}, {"a": float("nan")}, _DEEP)
_HOSTILE = st.one_of(
    st.sampled_from([*_WORDS, *_NUMBERS, *_SHAPES]),
    st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(-2, 2**40), max_size=4),
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(item, (*path, key))


def _mutate(root: dict[str, Any], data: st.DataObject) -> None:
    places = list(_places(root))
    *path, last = data.draw(st.sampled_from(places), "place")
    within: Any = root
    for step in path:
        within = within[step]
    match data.draw(st.sampled_from(["replace", "replace", "delete", "repeat", "swap"]), "how"):
        case "replace":
            within[last] = copy.deepcopy(data.draw(_HOSTILE, "value"))
        case "delete":
            del within[last]
        case "repeat":
            within[last] = [within[last], copy.deepcopy(within[last])]
        case "swap":
            *other_path, other = data.draw(st.sampled_from(places), "other")
            found: Any = root
            for step in other_path:
                found = found[step]
            within[last], found[other] = copy.deepcopy(found[other]), copy.deepcopy(within[last])


def _assert_safe(checkpoint: Checkpoint) -> None:
    """Whoever uses it can neither leave the store nor ask for more than there can be."""
    assert [unit.name for unit in checkpoint.units] == [
        "embed",
        *(f"layer.{i:04d}" for i in range(checkpoint.layers)),
        "head",
    ]
    for unit in (*checkpoint.units, *checkpoint.files):
        assert re.fullmatch(r"_[0-9a-f]+(/files)?/[A-Za-z0-9_][A-Za-z0-9_.-]*", unit.path)
        assert re.fullmatch("[0-9a-f]{64}", unit.digest)
        assert "/" not in unit.name
        assert ".." not in unit.path.split("/")
        assert unit.size_bytes <= len(unit.chunk_crc32c) * (16 << 20)
        assert all(extent.url.startswith("file:///") for extent in unit.extents)
    facts = facts_of(checkpoint)
    assert facts.kv_bytes_per_token > 0
    assert 0 < context_tokens(model_config(checkpoint.config)) <= 1 << 31
    json.dumps(root_metadata(checkpoint), allow_nan=False).encode()


def _outcome(text: bytes) -> tuple[str, int]:
    """Why the root was refused, if it was, and the memory that it took."""
    tracemalloc.start()
    try:
        _assert_safe(parse_root(text, "here", "model"))
        said = ""
    except Corrupt as error:
        said = str(error)
    finally:
        spent_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return said, spent_bytes


@settings(max_examples=120)
@given(data=st.data())
def test_whatever_a_root_says_it_is_safe_or_corrupt(roots: tuple[dict[str, Any], ...], data: st.DataObject) -> None:
    """Any value of a real root may be anything: what is opened all the same can be used, and nothing else is raised."""
    root = copy.deepcopy(data.draw(st.sampled_from(roots), "root"))
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        _mutate(root, data)
    if data.draw(st.booleans(), "signed again") and isinstance(root.get("attributes"), dict):
        _resigned(root)
    text = json.dumps(root).encode()
    said, spent_bytes = _outcome(text)
    assert len(said) < 2000
    assert spent_bytes < MOST_SPENT_BYTES


@given(st.binary(max_size=64))
def test_bytes_that_are_no_checksums_are_no_blocks(data: bytes) -> None:
    layout = lay_out([TensorSpec("embedding", "uint8", (40_000,))])
    metadata = array_metadata(replace(_UNIT, layout=layout, blocks=Blocks(16384, bytes(12))))
    metadata["attributes"]["blocks"]["crc32c"] = base64.b64encode(data).decode()
    if len(data) == 12:
        parse_array(_UNIT.path, metadata)
    else:
        with pytest.raises(ValueError):
            parse_array(_UNIT.path, metadata)
