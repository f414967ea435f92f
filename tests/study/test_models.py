"""A trained state as a torch module: it gives the scores that the run stored, and those of IL2M."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import TinyStudy, import_states
from torch import nn

import il2m
from il2m.errors import InputError
from il2m.learning.networks import Rectification, register_network
from il2m.memory.statistics import ClassStatistics
from il2m.methods.rectify import FORMS, rectify
from il2m.parameters import NETWORKS
from il2m.study.planning import load_images
from il2m.study.runs import Run


def validation_images(run: Run, state: int) -> torch.Tensor:
    """(n, c, h, w) uint8, those that the state stores scores of."""
    images = load_images(run, ".", num_workers=0).val_images[run.state(state).array("val_indices")]
    return torch.from_numpy(np.stack([*images])).permute(0, 3, 1, 2)


@torch.inference_mode()
def check_scores(run: Run, state: int) -> None:
    images = validation_images(run, state)
    for method in ("FT", "IL2M"):
        model, stored = run.model(state, method), il2m.method_scores(run, state, method)
        for given in (images, images / 255, images.double() / 255):
            scores = model(given).numpy()
            np.testing.assert_allclose(scores, stored, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(scores.argmax(axis=1), stored.argmax(axis=1))
        assert model.class_names == run.class_names[: stored.shape[1]]
        assert not model.training


@pytest.mark.parametrize("state", [1, 2, 3])
@pytest.mark.parametrize("run", ["off", "on"])
def test_a_model_gives_the_scores_of_its_state(tiny_study: TinyStudy, run: str, state: int):
    check_scores(getattr(tiny_study, run), state)


def test_a_model_of_a_base(tiny_study: TinyStudy):
    scores = tiny_study.base.model(1)(validation_images(tiny_study.base, 1)).detach().numpy()
    np.testing.assert_allclose(scores, tiny_study.base.state(1).array("val_scores"), rtol=1e-4, atol=1e-5)


def test_a_model_of_image_files_takes_their_scoring_views(run_of_files: Run):
    check_scores(run_of_files, 2)


def test_the_rectification_is_a_layer_with_its_statistics_as_buffers(tiny_study: TinyStudy):
    model, statistics = tiny_study.off.model(3, "IL2M"), tiny_study.off.statistics(3)
    buffers = dict(model[3].named_buffers())
    for name, array in vars(statistics).items():
        np.testing.assert_allclose(buffers[name].numpy(), array, rtol=1e-6)
    assert buffers["gate"].item() is True
    other = tiny_study.off.model(3, "IL2M", use_means=False, gate=False)
    assert not other[3].gate
    images = validation_images(tiny_study.off, 3)
    assert not torch.equal(other(images), model(images))
    other.load_state_dict(model.state_dict())  # all that decides is in it
    assert torch.equal(other(images), model(images))


@pytest.mark.parametrize("method", list(FORMS))
@pytest.mark.parametrize("undefined", ["keep", "as-published"])
def test_the_layer_does_what_rectify_does_to_the_bit(method: str, undefined: str):
    rng = np.random.default_rng(0)
    means = rng.uniform(1, 6, 5)
    memory = ClassStatistics.of_arrays(means, [2.0, -1.0, 3.0], [7.0, 5.0, 6.0], [2, 1, 2])
    scores = rng.normal(0, 5, (100, 5)).astype(np.float32)
    scores[:3] = 1.0  # the first of equal scores is the highest
    parts = FORMS[method]["parts"] | {"undefined": undefined}
    layer = Rectification(memory, **parts)
    assert torch.equal(layer(torch.from_numpy(scores)), torch.from_numpy(rectify(scores, memory, **parts)))


def test_a_model_disturbs_no_random_numbers(tiny_study: TinyStudy):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    tiny_study.off.model(2)
    assert torch.equal(torch.rand(3), expected)


def test_runs_are_opened_without_torch(tiny_study: TinyStudy):
    code = f"import sys, il2m; il2m.open_run({str(tiny_study.off.folder)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_gives_no_model_is_refused(tiny_study: TinyStudy, tmp_path, tiny_fine_tuning_parameters):
    with pytest.raises(InputError, match="state = 4: expected a whole number of at least 1 and at most 3"):
        tiny_study.off.model(4)
    with pytest.raises(InputError, match="method = 'WA': expected one of FT, IL2M"):
        tiny_study.off.model(2, "WA")
    for gate in ("no", 2):
        with pytest.raises(InputError, match=r"gate = .*: expected True or False"):
            tiny_study.off.model(2, "IL2M", gate=gate)
    assert tiny_study.off.model(2, "IL2M", gate=np.False_)[3].gate.dtype == torch.bool
    with pytest.raises(InputError, match="gate: only IL2M has such parts"):
        tiny_study.off.model(2, gate=False)
    with pytest.raises(InputError, match="the network 'unknown', which is not registered here"):  # scores have none
        import_states(tiny_study.off, tmp_path / "imported").model(2)
    nothing = tiny_fine_tuning_parameters | {"memory_size": 0, "epochs": 1}
    shutil.copytree(tiny_study.base.folder, tmp_path / "study" / tiny_study.base.name)
    without_exemplars = il2m.fine_tune(out_dir=str(tmp_path / "study"), **nothing)
    assert len(without_exemplars.model(2).class_names) == 4
    with pytest.raises(InputError, match=r"Eq\. 1 lacks class means"):
        without_exemplars.model(2, "IL2M")


def test_a_network_of_ones_own_has_to_be_registered(tiny_base_parameters, tmp_path):
    def flat(in_channels: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, 4))

    register_network("flat of 8 pixels", flat)
    parameters = tiny_base_parameters | {"network": "flat of 8 pixels"}
    base = il2m.train_base(out_dir=str(tmp_path), **parameters)
    scores = base.model(1)(validation_images(base, 1)).detach().numpy()
    np.testing.assert_allclose(scores, base.state(1).array("val_scores"), rtol=1e-4, atol=1e-5)
    del NETWORKS["flat of 8 pixels"]
    with pytest.raises(InputError, match="'flat of 8 pixels', which is not registered here"):
        base.model(1)
