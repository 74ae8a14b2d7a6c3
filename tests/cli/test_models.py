"""`plumb models`: what is listed, shown, measured, fetched and sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from plumbline.cli.models import count
from plumbline.models.parity import Parity

Plumb = Callable[..., Result]


def test_the_list_names_what_a_name_reaches(plumb: Plumb) -> None:
    listed = json.loads(plumb("models", "list", "--json").stdout)
    assert [each["name"] for each in listed][:2] == ["smollm2-135m", "minilm"]
    shown = plumb("models", "list").stdout
    assert shown == plumb("models").stdout
    assert shown.splitlines()[0].split() == ["name", "family", "parameters", "window", "from"]
    assert [line.split()[0] for line in shown.splitlines()[1:3]] == ["smollm2-135m", "minilm"]


def test_show_tells_what_the_files_say(plumb: Plumb, tiny_llama: Path) -> None:
    facts = json.loads(plumb("models", "show", tiny_llama, "--json").stdout)
    assert (facts["family"], facts["layers"], facts["hidden"], facts["window"]) == ("causal", 2, 64, 512)
    lines = [line.rstrip() for line in plumb("models", "show", tiny_llama).stdout.splitlines()]
    shown = dict(line.split(maxsplit=1) for line in lines if line[0] != " ")
    assert shown["parameters"] == f"{facts['parameters']:,}"
    assert shown["family"] == "causal"
    assert "licence" not in shown  # nothing is said of what is not known


def test_an_unknown_model_is_one_message(plumb: Plumb) -> None:
    result = plumb("models", "show", "smolm")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("plumb: 'smolm' is no model that is known here.")


@pytest.mark.parametrize(
    ("number", "said"), [(None, "–"), (512, "512"), (8192, "8,192"), (134_515_008, "135M"), (7e9, "7B")]
)
def test_a_number_as_people_say_it(number: int | None, said: str) -> None:
    assert count(number) == said


def test_parity_shows_each_mode_with_its_bound(plumb: Plumb, tiny_llama: Path) -> None:
    pytest.importorskip("openvino_genai")
    result = plumb("models", "parity", tiny_llama, "--mode", "f32", "--json")
    assert result.exit_code == 0, result.stderr
    (row,) = [Parity(**each) for each in json.loads(result.stdout)]
    assert (row.mode, row.accepted) == ("f32", row.mean_kl <= row.bound)
    header, line = plumb("models", "parity", tiny_llama, "--mode", "f32").stdout.splitlines()
    assert header.split("  ")[0] == "mode"
    assert line.split()[:3] == ["f32", f"{row.mean_kl:.1e}", f"{row.worst_kl:.1e}"]
    assert line.endswith("accepted" if row.accepted else "over its bound")


def test_an_unknown_mode_is_named_with_the_known_ones(plumb: Plumb, tiny_llama: Path) -> None:
    result = plumb("models", "parity", tiny_llama, "--mode", "f33")
    assert result.exit_code == 2
    assert result.stderr.startswith("plumb: mode 'f33' is not one of the openvino engine's: f32, ")


def test_a_model_goes_into_a_folder_and_comes_from_one(plumb: Plumb, tiny_llama: Path, tmp_path: Path) -> None:
    assert plumb("models", "push", tiny_llama, "copy").stdout == f"{tmp_path}/copy\n"
    assert plumb("models", "pull", "copy").stdout == f"{tmp_path}/copy\n"
    assert plumb("models", "pull", "copy", "--to", "second").stdout == f"{tmp_path}/second\n"
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "second" / name).read_bytes() == (tiny_llama / name).read_bytes()


def test_a_hub_that_does_not_answer_is_one_message(plumb: Plumb) -> None:
    """Nothing listens at the address that stands for the hub in tests."""
    result = plumb("models", "pull", "nobody/nothing")
    assert result.exit_code == 2
    assert result.stderr.startswith("plumb: http://127.0.0.1:9 did not answer for 'nobody/nothing'")
    assert result.stderr.count("\n") == 1
