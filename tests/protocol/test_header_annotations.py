from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from tests import strategies
from trio_mcp_session.protocol.header_annotations import read_annotations

NAME = "x-mcp-header"


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def text(name: object, **more: Any) -> dict[str, Any]:
    return {"type": "string", NAME: name, **more}


PLAIN = {"type": "string"}
REGION = text("Region")


def test_schema_without_annotations() -> None:
    assert read_annotations({}) == {}
    assert read_annotations(schema(region=PLAIN, nested=schema(a=PLAIN))) == {}


def test_annotations_and_their_paths() -> None:
    found = read_annotations(
        schema(
            region=REGION,
            plain=PLAIN,
            count={"type": "integer", NAME: "Count", "minimum": 0},
            who=schema(tenant=text("Tenant-Id"), deep=schema(er={"type": "boolean", NAME: "x"})),
        )
    )
    assert found == {
        "Region": ("region",),
        "Count": ("count",),
        "Tenant-Id": ("who", "tenant"),
        "x": ("who", "deep", "er"),
    }
    # In the order of the schema, so that of several that disagree the same one is named.
    assert list(found) == ["Region", "Count", "Tenant-Id", "x"]


# The name.


@pytest.mark.parametrize("name", ["a", "Region", "Method", "!#$%&'*+-.^_`|~09azAZ", "x-mcp-header"])
def test_valid_header_names(name: str) -> None:
    assert read_annotations(schema(a=text(name))) == {name: ("a",)}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "My Region",
        "Region:Primary",
        "Région",
        "Region\t1",
        "Region\n",
        "\rRegion",
        "a/b",
        "a,b",
        "(a)",
        '"a"',
        "a=b",
        "a@b",
        "[a]",
        "{a}",
        "a;b",
        "a?",
        "a\\b",
        "<a>",
        "\x00",
        "\x7f",
        "\u0661",
        None,
        True,
        7,
        ["Region"],
        {},
        {"name": "Region"},
    ],
)
def test_annotation_that_is_not_a_string_is_refused(name: object) -> None:
    with pytest.raises(
        ValueError, match="x-mcp-header must be the name of a header, not "
    ) as caught:
        read_annotations(schema(a=text(name)))
    assert str(caught.value).endswith(repr(name))


@given(st.text(max_size=8))
@example("Region")
@example("")
@example("My Region")
def test_header_name_must_be_a_token(name: str) -> None:
    token = set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    try:
        read_annotations(schema(a=text(name)))
    except ValueError:
        assert not name or not set(name) <= token
    else:
        assert name
        assert set(name) <= token


@pytest.mark.parametrize("name", ["Region", "REGION", "region"])
@pytest.mark.parametrize("nested", [True, False])
def test_duplicate_header_name_is_refused(name: str, nested: bool) -> None:
    other = schema(b=text(name)) if nested else text(name)
    with pytest.raises(ValueError, match=f"x-mcp-header names '{name}' twice"):
        read_annotations(schema(a=REGION, other=other))


# What it is on.


@pytest.mark.parametrize("kind", ["string", "integer", "boolean"])
def test_types_that_may_be_annotated(kind: str) -> None:
    assert read_annotations(schema(a={"type": kind, NAME: "A"})) == {"A": ("a",)}


@pytest.mark.parametrize(
    "kind",
    ["number", "array", "object", "null", "String", "", None, ["string"], ["string", "null"]],
)
def test_types_that_may_not_be_annotated(kind: object) -> None:
    """Clients would drop the tool; also one that may be null, which is not plain."""
    with pytest.raises(ValueError, match="is for strings, integers and booleans: 'A'"):
        read_annotations(schema(a={"type": kind, NAME: "A"}))


@pytest.mark.parametrize(
    "annotated",
    [
        {NAME: "A"},
        {NAME: "A", "enum": ["a", "b"]},
        {NAME: "A", "anyOf": [{"type": "string"}, {"type": "null"}]},
        {NAME: "A", "$ref": "#/$defs/A"},
    ],
)
def test_value_without_one_type_is_refused(annotated: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is for strings, integers and booleans: 'A'"):
        read_annotations(schema(a=annotated))


@pytest.mark.parametrize(
    "wrong",
    [
        REGION,
        {"items": REGION},
        {"prefixItems": [PLAIN, REGION]},
        {"contains": REGION},
        {"oneOf": [REGION]},
        {"anyOf": [PLAIN, schema(a=REGION)]},
        {"allOf": ({"properties": {"a": REGION}},)},
        {"not": REGION},
        {"if": schema(a=REGION)},
        {"then": schema(a=REGION)},
        {"else": schema(a=REGION)},
        {"$defs": {"Region": REGION}},
        {"definitions": {"Region": REGION}},
        {"patternProperties": {".*": REGION}},
        {"additionalProperties": REGION},
        {"dependentSchemas": {"a": REGION}},
        {"items": {"oneOf": [{"items": {"properties": {"a": REGION}}}]}},
        {"properties": [REGION]},
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_annotation_outside_of_properties_is_refused(wrong: dict[str, Any], nested: bool) -> None:
    # Beside one that is fine: it hides none.
    fine = schema(fine=text("Fine"))
    whole = schema(**fine["properties"], inner=wrong) if nested else {**fine, **wrong}
    if nested and wrong is REGION:
        assert len(read_annotations(whole)) == 2  # There it is in its place.
        return
    with pytest.raises(ValueError, match="x-mcp-header is for properties of objects only"):
        read_annotations(whole)


def test_property_named_like_the_annotation() -> None:
    assert read_annotations(schema(**{NAME: PLAIN})) == {}
    assert read_annotations(schema(**{NAME: REGION})) == {"Region": (NAME,)}
    assert read_annotations(schema(properties=schema(properties=REGION))) == {
        "Region": ("properties", "properties")
    }


def test_properties_without_a_schema() -> None:
    assert read_annotations(schema(anything=True, nothing=False, a=REGION)) == {"Region": ("a",)}
    wrong: list[Any] = [None, [], "text", True]
    for properties in wrong:
        assert read_annotations({"properties": properties}) == {}


def test_schemas_of_any_kind_of_mapping() -> None:
    proxy = MappingProxyType
    whole = proxy(
        {"properties": proxy({"who": proxy({"properties": proxy({"a": proxy(REGION)})})})}
    )
    assert read_annotations(whole) == {"Region": ("who", "a")}
    with pytest.raises(ValueError, match="properties of objects only"):
        read_annotations(proxy({"items": proxy(REGION)}))


@given(strategies.json_objects.filter(lambda schema: NAME not in json.dumps(schema)))
def test_any_schema_without_annotations_has_none(schema: dict[str, Any]) -> None:
    assert read_annotations(schema) == {}
    assert read_annotations({**schema, "properties": {"a": REGION, "b": schema}}) == {
        "Region": ("a",)
    }
