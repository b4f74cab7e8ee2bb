"""Models without forces of their energy cannot run in engines that work on edges: every export says so first."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tdn import save_model
from tdn.cli.export import app
from tdn.errors import ConfigError
from tdn.interfaces.aoti import export_aoti
from tdn.interfaces.metatomic import export_metatomic
from tdn.models.architectures import build_potential
from tdn.models.paper import PaperTDNConfig


def make_potential(forces: str):
    changes = {"forces": forces} | ({"energy": "per_structure"} if forces == "none" else {})
    config = PaperTDNConfig(num_channels=8, num_layers=1, num_heads=2, num_gaussians=8, **changes)
    return build_potential(config, {1: 0.0, 6: 0.0}).eval()


@pytest.mark.parametrize("forces", ["direct", "none"])
@pytest.mark.parametrize("export", [export_aoti, export_metatomic], ids=["aoti", "metatomic"])
def test_export_is_refused_and_writes_nothing(tmp_path: Path, forces: str, export) -> None:
    with pytest.raises(ConfigError, match="forces: conservative"):
        export(make_potential(forces), tmp_path / "model.out", None)
    assert list(tmp_path.iterdir()) == []


def test_command_says_so(tmp_path: Path) -> None:
    save_model(tmp_path / "model.tdn", make_potential("direct"))
    result = CliRunner().invoke(app, [str(tmp_path / "model.tdn"), "--to", "metatomic"])
    assert isinstance(result.exception, ConfigError)
    assert [path.name for path in tmp_path.iterdir()] == ["model.tdn"]


@pytest.mark.parametrize("export", [export_aoti, export_metatomic], ids=["aoti", "metatomic"])
def test_full_disk_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export) -> None:
    """PyTorch's own writers end the process there."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="No space left"):
        export(make_potential("conservative"), tmp_path / "model.out", None)
    assert list(tmp_path.iterdir()) == []
