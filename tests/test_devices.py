"""One answer to which device is meant."""

from __future__ import annotations

import pytest
import torch

from tdn.devices import choose_device
from tdn.errors import ConfigError


def test_auto_takes_cuda_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:97", "cpu0"])
def test_devices_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not usable here"):
        choose_device(name)
