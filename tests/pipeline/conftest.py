"""What tests of runs share."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Work this small is slower on two, and by far where the machine has other things to do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
