"""What makes the whole suite faster."""

import gc

import torch.utils.data._utils


def pytest_collection_finish():
    """Prepare the process when it has imported all of its tests."""
    # Collections of garbage, of which mmengine runs one for every data set, pass over what is here.
    gc.freeze()
    # A loader that is itself collected as garbage can no longer tell its workers to stop. It waits
    # so many seconds for each of them, then terminates it.
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2
