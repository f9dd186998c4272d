"""`evaluating`: evaluation mode within, and afterwards the mode that was there before."""

import pytest
from torch import nn

from nanogrove.model.mode import evaluating


@pytest.mark.parametrize("training", [True, False])
def test_modules_evaluate_within_and_are_as_before_afterwards(training: bool) -> None:
    first, second = nn.Sequential(nn.Dropout(0.5)).train(training), nn.Dropout(0.5).train(not training)
    with evaluating(first, second):
        assert not first[0].training
        assert not second.training
    assert first[0].training is training
    assert second.training is not training


def test_an_error_leaves_the_mode_as_it_was() -> None:
    model = nn.Dropout(0.5).train()
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert model.training
