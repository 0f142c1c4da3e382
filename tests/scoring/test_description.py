"""The system description: each field that cannot be right is named."""

import json

import pytest
from mlperf_logging.system_desc_checker.system_desc_checker import check_system_desc

from scoring.exits import InputError
from scoring.findings import WARNING
from scoring.package.description import (
    FIELDS,
    STATUS_TEXTS,
    check_description,
    read_description,
    write_description,
)
from scoring.package.system_file import SystemFile
from scoring.profile import load_profile

LP2BM = load_profile("lp2bm")
SYSTEM = SystemFile(
    name="fast4",
    organization="maker",
    platform="4xfast",
    status="onprem",
    nodes=4,
    ranks_per_node=8,
    device="cuda",
    one_machine=False,
    image="",
    profile="lp2bm",
    configurations={"resnet": "resnet/configs/h200_4x8.toml", "bert": "bert/configs/h200_4x8.toml"},
)


@pytest.fixture
def description():
    """Give a description with nothing to object to."""
    fields = dict.fromkeys(FIELDS, "something")
    fields.update(
        submitter="maker",
        division="closed",
        status=STATUS_TEXTS["onprem"],
        system_name="fast4",
        number_of_nodes="4",
        accelerators_per_node="8",
        host_processors_per_node="2",
        host_processor_core_count="56",
        host_processor_vcpu_count="",
        cooling="",
        hw_notes="",
        sw_notes="",
    )
    return fields


def check(description):
    return check_description(description, LP2BM, SYSTEM, "maker", "onprem")


def test_a_good_description(description, tmp_path):
    assert check(description) == []
    assert check_description(description, LP2BM) == []
    path = tmp_path / "system.json"
    path.write_bytes(write_description(description))
    assert read_description(path) == description
    assert check_system_desc(str(path), "training", "4.0.0")[0]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_asked_for_as_the_stock_checker_does(description, field, tmp_path):
    del description[field]
    messages = [finding.message for finding in check(description)]
    assert f"field {field} is missing" in messages
    path = tmp_path / "system.json"
    path.write_text(json.dumps(description))
    assert not check_system_desc(str(path), "training", "4.0.0")[0]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("submitter", "Maker", 'submission_org of the logs "maker"'),
        ("submitter", 3, "must be a text"),
        ("division", "open", "must be closed"),
        ("division", "Closed", "must be closed"),
        ("status", "onprem", 'must be one of "Available on-premise"'),
        ("status", "Preview", 'submission_status of the logs "onprem"'),
        ("number_of_nodes", "", "must be a whole number"),
        ("number_of_nodes", "four", "must be a whole number"),
        ("number_of_nodes", "0", "must be at least 1"),
        ("number_of_nodes", "2", "profile lp2bm asks for 4"),
        ("number_of_nodes", "8", "the system file has 4 nodes"),
        ("number_of_nodes", 4, "must be a text"),
        ("accelerators_per_node", "4", "8 ranks a node"),
        ("accelerators_per_node", "", "must be a whole number"),
        ("host_processor_core_count", "56 cores", "must be a whole number"),
        ("host_processor_vcpu_count", "\u0664", "must be a whole number"),
        ("cooling", None, "must be a text"),
        ("sw_notes", ["a"], "must be a text"),
        ("submitter", "a\n\x1b[2J", "submission_org"),
    ],
)
def test_what_cannot_be_right_is_named(description, field, value, words):
    description[field] = value
    findings = check(description)
    assert any(words in finding.message and field in finding.message for finding in findings)
    assert {finding.rule for finding in findings} == {"description"}
    assert all(finding.message.isprintable() for finding in findings)


def test_what_a_reviewer_needs_is_a_warning(description):
    description["host_networking"] = description["accelerator_interconnect"] = " "
    (finding,) = check(description)
    assert (finding.rule, finding.severity) == ("description-empty", WARNING)
    assert "host_networking, accelerator_interconnect" in finding.message
    description["accelerators_per_node"] = "0"
    empty = [f for f in check_description(description, LP2BM) if f.rule == "description-empty"]
    assert "accelerator_interconnect" not in empty[0].message


def test_every_status_of_a_log_has_its_text(description):
    for word, text in STATUS_TEXTS.items():
        description["status"] = text
        assert check_description(description, LP2BM, None, "maker", word) == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1, "a": 2}', b'"x"', b"\xff\xfe"])
def test_what_is_no_description(tmp_path, content):
    path = tmp_path / "system.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"system\.json"):
        read_description(path)
    with pytest.raises(InputError, match="cannot be opened"):
        read_description(tmp_path / "nowhere.json")
