"""Training the captioner's decoder: what it learns from, and that it alone learns."""

import torch

from captum_extract_aggregate.data import captioner as captioning
from captum_extract_aggregate.data import train_captioner


def test_training_script_runs(tmp_path):
    captioner = captioning.build_scene_captioner().eval()
    features, captions = train_captioner.load_features(captioner.encoder, 256, 1, "train", show_progress=False)
    encoder = {key: value.clone() for key, value in captioner.encoder.state_dict().items()}
    before = captioner.output.weight.clone()
    train_captioner.train(captioner, features, captions, epochs=2, seed=0, show_progress=False)
    assert not torch.equal(before, captioner.output.weight)
    assert all(torch.equal(value, encoder[key]) for key, value in captioner.encoder.state_dict().items())
    assert train_captioner.save_decoder(captioner, folder=tmp_path).is_file()
