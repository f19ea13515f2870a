import torch

from train.config import PretrainConfig
from train.cpc import ModelOne
from train.encoder import Encoder

CONFIG = PretrainConfig(num_segments=6, num_observed=4, num_flows=2, width=2, size=(32, 32))


def test_shapes_and_positions() -> None:
    model = ModelOne(CONFIG)
    predictions, latents = model(torch.randn(3, 6, 4, 32, 32))
    assert predictions.shape == (3, 2, 16)
    assert latents.shape == (3, 6, 16)
    assert model.positions == (4, 5)
    assert [head.bias for head in model.predictors] == [None, None]


def test_latents_are_the_encoders() -> None:
    model = ModelOne(CONFIG).eval()
    segments = torch.randn(3, 6, 4, 32, 32)
    with torch.no_grad():
        _, latents = model(segments)
        for t in range(6):
            torch.testing.assert_close(latents[:, t], model.encoder(segments[:, t]))


def test_predictions_see_the_observed_segments_only() -> None:
    model = ModelOne(CONFIG).eval()
    segments = torch.randn(2, 6, 4, 32, 32, requires_grad=True)
    predictions, _ = model(segments)
    predictions.sum().backward()
    seen = segments.grad.abs().sum(dim=(0, 2, 3, 4))
    assert (seen[:4] > 0).all()
    assert (seen[4:] == 0).all()


def test_an_untrained_encoder_of_the_same_seed_is_where_training_began() -> None:
    torch.manual_seed(5)
    model = ModelOne(CONFIG)
    torch.manual_seed(5)
    alone = Encoder(CONFIG)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name]), name
