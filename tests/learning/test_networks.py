"""Backbones, and heads that are new or extended."""

import copy
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import PROJECT
from torch import nn
from torchvision import models

import il2m
from il2m.errors import InputError
from il2m.learning import networks
from il2m.learning.networks import build_network, with_head
from il2m.parameters import NETWORKS, PARAMETERS
from il2m.study.planning import load_images, plan_base
from il2m.system.plugins import LOADED, load_plugin


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_turns_images_into_scores(network, channels):
    model = build_network(network, channels, num_classes=5, seed=0).eval()
    images = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores, features = model(images), model.backbone(images)
    assert scores.shape == (2, 5)
    assert features.shape == (2, 512 if network == "resnet18" else 64)
    torch.testing.assert_close(scores, features @ model.head.weight.T + model.head.bias)
    assert not torch.equal(scores[0], scores[1])


@pytest.mark.parametrize(
    ("network", "num_classes", "parameters"),
    # counted by the architectures: He et al. (2016) give .27 and .46 million for CIFAR, torchvision 11,689,512
    [("resnet20", 10, 269_722), ("resnet32", 10, 464_154), ("resnet18", 1000, 11_689_512)],
)
def test_sizes_as_published(network, num_classes, parameters):
    model = build_network(network, 3, num_classes, seed=0)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_small_differs_from_resnet8_by_its_stride():
    small, resnet8 = (build_network(network, 1, 3, seed=0) for network in ("small", "resnet8"))
    assert equal(weights(small), weights(resnet8))
    assert (small.backbone[0].stride, resnet8.backbone[0].stride) == ((2, 2), (1, 1))


def test_weights_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model, again, other = (build_network("small", 1, 3, seed=seed) for seed in (0, 0, 1))
    with_head(model, 5, "new", seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert equal(weights(model), weights(again))
    assert not equal(weights(model), weights(other))


def test_new_head_forgets_and_shares_the_backbone():
    model = build_network("small", 1, 3, seed=0)
    before = weights(model)
    grown = with_head(model, 5, "new", seed=1)
    assert grown.head.weight.shape == (5, 64)
    assert grown.backbone is model.backbone
    assert not torch.equal(grown.head.weight[:3], model.head.weight)
    assert not torch.equal(grown.head.bias[:3], model.head.bias)
    assert equal(weights(model), before)
    assert torch.equal(grown.head.weight, with_head(model, 5, "new", seed=1).head.weight)
    assert not torch.equal(grown.head.weight, with_head(model, 5, "new", seed=2).head.weight)


def test_extended_head_keeps_the_past_classes_weights():
    model = build_network("small", 1, 3, seed=0)
    extended, new = (with_head(model, 5, head, seed=1) for head in ("extended", "new"))
    assert torch.equal(extended.head.weight[:3], model.head.weight)
    assert torch.equal(extended.head.bias[:3], model.head.bias)
    assert torch.equal(extended.head.weight[3:], new.head.weight[3:])
    assert extended.head.weight.requires_grad
    past = copy.deepcopy(model.head.weight)
    with torch.no_grad():
        extended.head.weight.zero_()
    assert torch.equal(model.head.weight, past), "a copy, so that training one does not touch the other"


# networks that users register


@pytest.fixture
def networks_of_this_test(monkeypatch):
    monkeypatch.setattr(networks, "_BUILDERS", dict(networks._BUILDERS))
    before = [(known, dict(known)) for known in (NETWORKS, LOADED)]  # processes load the plugins that this one did
    yield
    for known, contents in before:
        known.clear()
        known.update(contents)


def tiny_network(in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_registered_network_is_one_of_the_study(networks_of_this_test):
    il2m.register_network("tiny", tiny_network)
    assert PARAMETERS["network"].rule.accepts("tiny")
    model = build_network("tiny", 1, 4, seed=3, image_size=(9, 7))
    assert (model.head.in_features, model.training) == (5, True)
    assert model.backbone[1].running_mean.tolist() == [0] * 5, "asking for the width leaves statistics alone"
    again = build_network("tiny", 1, 4, seed=3, image_size=(9, 7))
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_its_source_is_part_of_what_it_shapes(networks_of_this_test, tiny_base_parameters, tmp_path, tiny_study):
    il2m.register_network("tiny", tiny_network)
    parameters = {name: value for name, value in tiny_base_parameters.items() if name != "network"}
    plan = plan_base(out_dir=str(tmp_path), **parameters, network="tiny")
    assert plan.identity["network_source"] == NETWORKS["tiny"]
    NETWORKS["tiny"] = "of another version"
    assert plan_base(out_dir=str(tmp_path), **parameters, network="tiny").folder != plan.folder
    assert "network_source" not in tiny_study.base.identity, "built-in networks keep their names"


def test_a_registered_network_is_trained_stored_and_gone_on_with(
    networks_of_this_test, tiny_base_parameters, tiny_fine_tuning_parameters, tmp_path
):
    il2m.register_network("tiny", tiny_network)
    il2m.train_base(out_dir=str(tmp_path), **tiny_base_parameters | {"network": "tiny"})
    run = il2m.fine_tune(out_dir=str(tmp_path), **tiny_fine_tuning_parameters | {"distillation": True})
    assert run.missing_states == []
    assert run.state(3).array("val_features").shape[1] == 5


def test_a_base_is_gone_on_with_by_the_very_network_that_made_it(
    networks_of_this_test, tiny_base_parameters, tiny_fine_tuning_parameters, tmp_path
):
    il2m.register_network("tiny", tiny_network)
    base = il2m.train_base(out_dir=str(tmp_path), **tiny_base_parameters | {"network": "tiny"})
    before = sorted(tmp_path.rglob("*"))
    stages = {il2m.fine_tune: tiny_fine_tuning_parameters, il2m.train_joint: {"device": "cpu"}}
    for stage, parameters in stages.items():
        NETWORKS["tiny"] = "of another version"
        with pytest.raises(
            InputError, match=f"base {base.name} was trained with the network 'tiny', which has another"
        ):
            stage(out_dir=str(tmp_path), **parameters)
        del NETWORKS["tiny"]
        with pytest.raises(InputError, match="which is not registered here: register the one that trained it"):
            stage(out_dir=str(tmp_path), **parameters)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (lambda c: nn.Sequential(nn.Conv2d(c, 5, 3)), r"features of shape \(2, 5, 6, 6\).*expected \(n, d\)"),
        (lambda c: nn.Flatten(0), r"features of shape \(128,\).*expected \(n, d\)"),
        (lambda c: nn.Conv2d(3, 5, 3), "fails on images of 8 x 8 pixels and 1 channel.*RuntimeError"),
        (lambda c: None, "fails on images of 8 x 8 pixels"),
        (lambda c: [][c], "fails on images of 8 x 8 pixels.*IndexError"),
    ],
)
def test_a_network_without_features_of_one_width_is_named_before_training(
    networks_of_this_test, tiny_base_parameters, tmp_path, builder, message
):
    il2m.register_network("odd", builder)
    with pytest.raises(InputError, match=f"network 'odd'.*{message}"):
        plan_base(out_dir=str(tmp_path), **tiny_base_parameters | {"network": "odd"})
    assert list(tmp_path.iterdir()) == []


class Projected(nn.Module):
    """Features by a fixed random projection, a tensor of its own in each network that is built."""

    def __init__(self, in_channels: int, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(in_channels * 64, 6), persistent=persistent)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.projection


def test_a_network_that_its_weights_do_not_restore_is_refused_before_training(
    networks_of_this_test, tiny_base_parameters, tmp_path
):
    il2m.register_network("lost", lambda in_channels: Projected(in_channels, persistent=False))
    il2m.register_network("kept", lambda in_channels: Projected(in_channels, persistent=True))
    il2m.register_network("dropped", lambda in_channels: nn.Sequential(tiny_network(in_channels), nn.Dropout(0.5)))
    with pytest.raises(InputError, match=r"network 'lost': built twice .* a persistent buffer"):
        plan_base(out_dir=str(tmp_path), **tiny_base_parameters | {"network": "lost"})
    for network in ("kept", "dropped"):
        plan_base(out_dir=str(tmp_path), **tiny_base_parameters | {"network": network})
    base = il2m.train_base(out_dir=str(tmp_path), **tiny_base_parameters | {"network": "kept"})
    stored, images = base.state(1), torch.tensor(load_images(base, "data").val_images).permute(0, 3, 1, 2)
    with torch.no_grad():
        scores = base.model(1)(images[stored.array("val_indices")])
    assert torch.allclose(scores, torch.tensor(stored.array("val_scores")), atol=1e-5)


CELL = "import il2m\nfrom torch import nn\nWIDTH = {width}\n\ndef net(c):\n    return nn.Conv2d(c, WIDTH, 3)\n"
INNER = "    class Inner(nn.Conv2d):\n        def forward(self, x):\n            return WIDTH * super().forward(x)\n"
INNER += "    return Inner(c, 3, 3)\n"
FACTORY = "def make(width):\n    def net(c):\n        return nn.Conv2d(c, width, 3)\n    return net\n"


def registered_in_cells(*cells: str) -> list[str]:
    """Run cells in IPython, and after each register ``mine``, from what the first named so; its hashes."""
    code = [
        "from IPython.core.interactiveshell import InteractiveShell",
        "import sys, types",
        "shell = InteractiveShell()",
        "shell.user_module = sys.modules['__main__'] = types.ModuleType('__main__')",
        "shell.user_ns = vars(shell.user_module)",
        "shell.init_user_ns()",
        "sys.displayhook = lambda value: vars(shell.user_module).update(_=value)",
        "run = lambda text: shell.run_cell(text, store_history=True).raise_error()",
        "run('import il2m; from torch import nn; from il2m.parameters import NETWORKS')",
        f'for cell in {cells!r}: run(cell); run(\'il2m.register_network("mine", mine); print(NETWORKS["mine"])\')',
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if re.fullmatch("[0-9a-f]{10}", line)]


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (CELL, "net"),
        (CELL.replace("return nn.Conv2d(c, WIDTH, 3)\n", "\n" + INNER), "net"),
        (CELL.replace("(c):", "(c, width=WIDTH):").replace("c, WIDTH,", "c, width,"), "net"),
        (CELL.replace("c, WIDTH, 3", "c, sum(WIDTH for _ in range(1)), 3"), "net"),
        (CELL.replace("{width}", "__import__('numpy').int64({width})"), "net"),
        ("import il2m\nfrom torch import nn\n" + FACTORY + "made = make({width})\n", "made"),
    ],
)
def test_a_number_that_a_cell_s_function_names_is_part_of_its_source(first: str, name: str):
    """In IPython, where a cell may be run again and a constant lies in another cell."""
    five, six, again = registered_in_cells(*(f"{first.format(width=width)}\nmine = {name}" for width in (5, 6, 5)))
    assert five == again != six


def test_values_of_its_own_variables_elsewhere_are_no_part_of_a_cell_s_source():
    """Not the last output, which IPython calls ``_``, nor a notebook's variable of the name of a parameter."""
    net = "def mine(c):\n    many = [nn.Conv2d(c, c, 3) for _ in range(2)]\n"
    net += "    return nn.Sequential(*many, *map(lambda i: nn.ReLU(i), [0]))\n"
    hashes = registered_in_cells(
        *(f"{before}\n{net}\n{before}" for before in ("2 + 3", "7", "c = 3", "i = 4", "c = 5"))
    )
    assert len(hashes) == 5
    assert len({*hashes}) == 1


def test_an_edited_plugin_is_not_trained_by_other_processes_under_the_name_of_what_it_was(
    networks_of_this_test, tiny_base_parameters, tmp_path
):
    source = "import il2m\nfrom torch import nn\n\ndef net(c):\n"
    source += "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * c, {}))\n\nil2m.register_network('edited', net)\n"
    (plugin := tmp_path / "edited.py").write_text(source.format(4))
    load_plugin(str(plugin))
    plugin.write_text(source.format(5))
    parameters = tiny_base_parameters | {"network": "edited", "num_processes": 2, "batch_size": 8}
    with pytest.raises(InputError, match="trained with the network 'edited', which has another source now"):
        il2m.train_base(out_dir=str(tmp_path / "study"), **parameters)


def test_names_that_are_taken_and_code_without_a_source_are_refused(networks_of_this_test):
    il2m.register_network("tiny", tiny_network)
    with pytest.raises(InputError, match="network 'tiny' is registered already"):
        il2m.register_network("tiny", tiny_network)
    with pytest.raises(InputError, match="network 'resnet18' is the name of one that is built in"):
        il2m.register_network("resnet18", tiny_network)
    with pytest.raises(InputError, match=r"no function and no class.*wrap it in a function"):
        il2m.register_network("partial", partial(tiny_network))


# backbones of torchvision: the functions of docs/extend.md


def load_my_backbones(folder: Path, suffix: str = "safetensors") -> None:
    """Load the page's plugin in that folder, where the weights of its pretrained network are expected."""
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "extend.md").read_text(), flags=re.DOTALL)
    (plugin,) = [block for block in blocks if "def of_torchvision(" in block]
    path = folder / "my_backbones.py"
    path.write_text(plugin.replace("5c1a.safetensors", f"5c1a.{suffix}"))
    load_plugin(str(path))


def mobilenet(seed: int) -> nn.Module:
    """Torchvision's own, with weights and with statistics of batch normalisation that no fresh network has."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = models.get_model("mobilenet_v3_small")
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
    return model.eval()


def test_resnet50_of_torchvision_is_a_network_for_grey_images_too(networks_of_this_test, tmp_path):
    load_my_backbones(tmp_path)
    model = build_network("resnet50", 1, 5, seed=0, image_size=(32, 32)).eval()
    assert sum(p.numel() for p in model.backbone.parameters()) == 25_557_032 - 2049 * 1000  # without its last layer
    with torch.no_grad():
        features = model.backbone(torch.rand(2, 1, 32, 32))
    assert features.shape == (2, 2048)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_come_from_a_file_and_stay_if_they_are_frozen(
    networks_of_this_test, suffix, tiny_base_parameters, tiny_fine_tuning_parameters, tmp_path
):
    load_my_backbones(tmp_path, suffix)
    parameters = {"out_dir": str(tmp_path / "runs"), **tiny_base_parameters, "network": "frozen", "base_epochs": 1}
    with pytest.raises(InputError, match=r"network 'frozen' fails.*FileNotFoundError.*mobilenet-5c1a"):
        il2m.train_base(**parameters)
    assert not (tmp_path / "runs").exists()
    whole, file = mobilenet(3), tmp_path / f"mobilenet-5c1a.{suffix}"
    save_file(whole.state_dict(), file) if suffix == "safetensors" else torch.save(whole.state_dict(), file)

    il2m.train_base(**parameters)
    options = {"out_dir": str(tmp_path / "runs"), **tiny_fine_tuning_parameters, "epochs": 1}
    run = il2m.fine_tune(**options, freeze=True)
    prefix, expected = "backbone.0.", whole.state_dict()
    del expected["classifier.3.weight"], expected["classifier.3.bias"]  # the last layer
    for state in (1, 2, 3):
        for name, value in expected.items():
            stored = torch.as_tensor(run.state(state).tensor(prefix + name))
            assert torch.equal(stored, value), f"state {state}: {name}"
    thawed = il2m.fine_tune(**options).state(2)
    name = "features.0.0.weight"
    assert not torch.equal(torch.as_tensor(thawed.tensor(prefix + name)), expected[name])
