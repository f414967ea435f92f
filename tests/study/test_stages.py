"""The two training stages on tiny images: what they store, reuse, resume, repeat and refuse."""

import hashlib
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import kill_when_stalled

import il2m.study.stage
import il2m.study.stages
from il2m.data.batches import ImageBatches, Normalisation, channel_mean_std
from il2m.data.dataset import Dataset
from il2m.data.sources import load_dataset
from il2m.errors import InputError
from il2m.learning.networks import build_network
from il2m.learning.scores import score_images
from il2m.memory.exemplars import herding_ranking
from il2m.methods.registry import METHODS, missing_for
from il2m.results.table import results_table
from il2m.study.planning import plan_base, plan_fine_tuning
from il2m.study.progress import PROGRESS_FILE, Progress
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base, train_joint
from il2m.system.locks import RUN_LOCK, locked


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Time and content of every file below ``folder``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def stored_hashes(run: Run, state: int) -> dict[str, str]:
    """Hash of each array and of the weights, as the state was written."""
    return run.state(state).info["files"]


def tiny_dataset(study) -> Dataset:
    """The study's images in its learning order."""
    dataset = load_dataset(study.base_parameters["dataset"], ".")
    return dataset.in_learning_order(np.array(study.base.identity["class_order"]))


@pytest.fixture
def with_base(tiny_study, tmp_path) -> Path:
    """A study's folder that holds the finished tiny base."""
    shutil.copytree(tiny_study.base.folder, tmp_path / "study" / tiny_study.base.name)
    return tmp_path / "study"


@pytest.fixture
def no_training(monkeypatch) -> None:
    def train(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained, though all was finished")

    monkeypatch.setattr(il2m.study.stage, "train", train)


@pytest.fixture
def told_epochs(monkeypatch) -> list[tuple[int, int]]:
    """(state, epoch) of what is trained in this process."""
    told, real = [], Progress.epoch_done

    def epoch_done(self, state: int, num_states: int, epochs: int, num_images: int, epoch: int, loss: float) -> None:
        told.append((state, epoch))
        real(self, state, num_states, epochs, num_images, epoch, loss)

    monkeypatch.setattr(Progress, "epoch_done", epoch_done)
    return told


class TestWhatIsStored:
    def test_images_of_each_state(self, tiny_study):
        data = tiny_dataset(tiny_study)
        for state in (1, 2, 3):
            folder = tiny_study.off.state(state)
            new = folder.array("new_indices")
            np.testing.assert_array_equal(new, np.flatnonzero(data.train_labels // 2 == state - 1))
            np.testing.assert_array_equal(folder.array("new_labels"), data.train_labels[new])
            val = folder.array("val_indices")
            np.testing.assert_array_equal(val, np.flatnonzero(data.val_labels < 2 * state))
            np.testing.assert_array_equal(folder.array("val_labels"), data.val_labels[val])
            assert folder.array("val_scores").shape == (10 * state, 2 * state)
            assert folder.array("val_features").shape == (10 * state, 64)

    def test_normalisation_comes_from_the_first_states_training_images(self, tiny_study):
        data = tiny_dataset(tiny_study)
        expected = channel_mean_std(data.train_images[data.train_labels < 2])
        for state in (1, 2, 3):
            assert Normalisation(*map(tuple, tiny_study.off.state(state).info["normalisation"].values())) == expected

    @pytest.mark.parametrize("state", [1, 3])
    def test_stored_weights_give_the_stored_scores_of_unaugmented_images(self, tiny_study, state):
        data, folder = tiny_dataset(tiny_study), tiny_study.off.state(state)
        model = build_network("small", 1, 2 * state, seed=99)
        model.load_state_dict(folder.model_weights())
        model.to(memory_format=torch.channels_last)  # as it was scored: another layout differs in the last bits
        normalisation = Normalisation(**tiny_study.off.state(1).info["normalisation"])
        images, labels = data.val_images[folder.array("val_indices")], folder.array("val_labels")
        scores, features = score_images(model, ImageBatches(images, np.array(labels), normalisation))
        np.testing.assert_array_equal(scores, folder.array("val_scores"))
        np.testing.assert_array_equal(features, folder.array("val_features"))
        new = folder.array("new_indices")
        batches = ImageBatches(data.train_images[new], data.train_labels[new], normalisation)
        own = score_images(model, batches)[0][np.arange(len(new)), data.train_labels[new]]
        np.testing.assert_allclose(folder.array("new_own_scores"), own, rtol=1e-5)

    @pytest.mark.parametrize("distillation", ["off", "on"])
    def test_the_rate_is_divided_by_the_state(self, tiny_study, distillation):
        run = getattr(tiny_study, distillation)
        for state in (1, 2, 3):
            history = run.state(state).info["history"]
            assert history[0]["learning_rate"] == pytest.approx(0.05 / state)
            assert len(history) == 2

    def test_means_of_all_past_images_for_the_oracles(self, tiny_study):
        data, folder = tiny_dataset(tiny_study), tiny_study.off.state(3)
        model = build_network("small", 1, 6, seed=0)
        model.load_state_dict(folder.model_weights())
        normalisation = Normalisation(**tiny_study.off.state(1).info["normalisation"])
        means = folder.info["second_memory"]["raw"]["all_current_means"]
        assert folder.array("past_class_features").shape == (4, 64)
        for label in range(4):
            images = data.train_images[data.train_labels == label]
            scores, _ = score_images(model, ImageBatches(images, np.full(len(images), label), normalisation))
            assert means[label] == pytest.approx(scores[:, label].mean(), rel=1e-5)


class TestFirstMemory:
    def test_memory_is_shared_and_each_class_shrinks_by_prefix(self, tiny_study):
        """12 images: 6 for each of 2 past classes at state 2, 3 for each of 4 at state 3."""
        data = tiny_dataset(tiny_study)
        at_2, at_3 = (tiny_study.off.state(state) for state in (2, 3))
        np.testing.assert_array_equal(np.bincount(at_2.array("exemplar_labels")), [6, 6])
        np.testing.assert_array_equal(np.bincount(at_3.array("exemplar_labels")), [3, 3, 3, 3])
        for folder in (at_2, at_3):
            indices = folder.array("exemplar_indices")
            np.testing.assert_array_equal(data.train_labels[indices], folder.array("exemplar_labels"))
            assert len(set(indices.tolist())) == len(indices)
        for label in (0, 1):
            kept_2, kept_3 = (f.array("exemplar_indices")[f.array("exemplar_labels") == label] for f in (at_2, at_3))
            np.testing.assert_array_equal(kept_3, kept_2[:3])

    def test_random_choice_does_not_depend_on_distillation(self, tiny_study):
        for state in (2, 3):
            off, on = (run.state(state).array("exemplar_indices") for run in (tiny_study.off, tiny_study.on))
            np.testing.assert_array_equal(off, on)

    def test_herding_on_the_features_of_the_state_where_the_class_was_new(self, with_base, tiny_fine_tuning_parameters):
        run = fine_tune(out_dir=str(with_base), exemplar_selection="herding", **tiny_fine_tuning_parameters)
        for state in (2, 3):
            folder = run.state(state)
            indices, labels = folder.array("exemplar_indices"), folder.array("exemplar_labels")
            for label in range(2 * state - 2):
                learned = run.state(label // 2 + 1)
                own = np.flatnonzero(learned.array("new_labels") == label)
                picks = herding_ranking(learned.array("new_features")[own], 12 // (2 * state - 2))
                expected = learned.array("new_indices")[own[picks]]
                np.testing.assert_array_equal(indices[labels == label], expected)

    def test_a_fixed_number_per_class_unequal_states_and_an_extended_head(
        self, tmp_path, tiny_base_parameters, tiny_fine_tuning_parameters
    ):
        parameters = tiny_base_parameters | {"state_sizes": [3, 1, 2], "base_epochs": 1}
        base = train_base(out_dir=str(tmp_path), **parameters)
        assert base.state(1).array("val_scores").shape == (15, 3)
        options = {"exemplars_per_class": 4, "memory_size": 0, "head": "extended", "epochs": 1}
        run = fine_tune(out_dir=str(tmp_path), **tiny_fine_tuning_parameters | options)
        assert run.state(2).array("val_scores").shape == (20, 4)
        np.testing.assert_array_equal(np.bincount(run.state(2).array("exemplar_labels")), [4] * 3)
        np.testing.assert_array_equal(np.bincount(run.state(3).array("exemplar_labels")), [4] * 4)
        np.testing.assert_array_equal(run.statistics(3).state_of_class, [1, 1, 1, 2, 3, 3])
        heads = [run.state(state).model_weights()["head.weight"] for state in (2, 3)]
        kept, drawn = (heads[1][:4] - heads[0]).norm() / heads[0].norm(), heads[1][4:].norm()
        assert kept < 0.5, "past classes' weights start from where they were"
        assert drawn > 0


class TestRepeating:
    def test_one_seed_gives_the_same_bits(self, tmp_path, tiny_study):
        """Base and fine-tuning trained anew elsewhere: every stored array and weight is the same."""
        torch.rand(11), np.random.default_rng().random()  # whatever else was drawn
        train_base(out_dir=str(tmp_path), **tiny_study.base_parameters)
        run = fine_tune(out_dir=str(tmp_path), distillation=True, **tiny_study.fine_tuning_parameters)
        assert run.name == tiny_study.on.name
        for state in (1, 2, 3):
            assert stored_hashes(run, state) == stored_hashes(tiny_study.on, state)

    def test_another_train_seed_gives_other_scores_in_the_same_class_order(self, tmp_path, tiny_study):
        base = train_base(out_dir=str(tmp_path), train_seed=1, **tiny_study.base_parameters)
        assert base.name != tiny_study.base.name
        assert base.identity["class_order"] == tiny_study.base.identity["class_order"]
        assert not np.array_equal(base.state(1).array("val_scores"), tiny_study.base.state(1).array("val_scores"))

    def test_another_train_seed_of_fine_tuning(self, with_base, tiny_study):
        run = fine_tune(out_dir=str(with_base), train_seed=1, **tiny_study.fine_tuning_parameters)
        assert not np.array_equal(run.state(2).array("val_scores"), tiny_study.off.state(2).array("val_scores"))
        assert not np.array_equal(
            run.state(2).array("exemplar_indices"), tiny_study.off.state(2).array("exemplar_indices")
        )

    def test_distillation_changes_what_is_learned(self, tiny_study):
        assert not np.array_equal(
            tiny_study.on.state(2).array("val_scores"), tiny_study.off.state(2).array("val_scores")
        )

    def test_a_finished_stage_is_not_run_twice(self, tiny_study, no_training):
        before = snapshot(tiny_study.out_dir)
        base = train_base(out_dir=str(tiny_study.out_dir), **tiny_study.base_parameters)
        runs = [
            fine_tune(
                out_dir=str(tiny_study.out_dir), base=base.name, distillation=d, **tiny_study.fine_tuning_parameters
            )
            for d in (False, True)
        ]
        assert [run.folder for run in (base, *runs)] == [
            run.folder for run in (tiny_study.base, tiny_study.off, tiny_study.on)
        ]
        assert snapshot(tiny_study.out_dir) == before

    def test_a_base_is_shared_by_fine_tunings(self, tiny_study):
        assert [p.name for p in tiny_study.out_dir.glob("base-*")] == [tiny_study.base.name]
        for run in (tiny_study.off, tiny_study.on):
            assert run.config["base"] == tiny_study.base.name
            assert not (run.folder / "state_01").exists()

    def test_what_does_not_shape_the_result_has_no_say(self, tiny_study):
        """A class order given or drawn; what only a plateau, distillation or a shared memory would read."""
        order = tiny_study.base.identity["class_order"]
        parameters = {name: v for name, v in tiny_study.base_parameters.items() if name != "device"}
        plan = plan_base(**parameters, class_order=order, order_seed=3, patience=99)
        assert plan.folder.name == tiny_study.base.name
        assert plan_base(**parameters, schedule="plateau").folder.name != tiny_study.base.name
        given = {"out_dir": str(tiny_study.out_dir)} | tiny_study.fine_tuning_parameters
        given.pop("device")
        assert plan_fine_tuning(**given, temperature=9.0, patience=99).folder.name == tiny_study.off.name
        assert plan_fine_tuning(**given, temperature=9.0, distillation=True).folder.name != tiny_study.on.name
        names = {plan_fine_tuning(**given | {"memory_size": k}, exemplars_per_class=2).folder.name for k in (12, 13)}
        assert len(names) == 1

    def test_it_is_quiet_where_there_is_no_terminal(self, tmp_path, tiny_base_parameters, capfd):
        train_base(out_dir=str(tmp_path), **tiny_base_parameters | {"base_epochs": 1})
        captured = capfd.readouterr()
        assert (captured.out, captured.err) == ("", "")


class TestResuming:
    def test_after_states_were_deleted(self, with_base, tiny_study):
        folder = Path(shutil.copytree(tiny_study.off.folder, with_base / tiny_study.off.name))
        shutil.rmtree(folder / "state_03")
        kept = snapshot(folder / "state_02")
        run = fine_tune(out_dir=str(with_base), **tiny_study.fine_tuning_parameters)
        assert run.folder == folder
        assert snapshot(folder / "state_02") == kept
        assert stored_hashes(run, 3) == stored_hashes(tiny_study.off, 3)

    def test_after_an_interruption_in_the_middle_of_a_state(self, with_base, tiny_study, monkeypatch):
        """Stopped after an epoch of state 3: state 2 stays, nothing half done is left, and the end is the same."""
        real_train, calls = il2m.study.stage.train, []

        def interrupted_train(*args: Any, on_epoch, **kwargs: Any):
            calls.append(1)

            def stop(epoch) -> None:
                on_epoch(epoch)
                if len(calls) == 2:
                    raise KeyboardInterrupt

            return real_train(*args, on_epoch=stop, **kwargs)

        monkeypatch.setattr(il2m.study.stage, "train", interrupted_train)
        parameters = tiny_study.fine_tuning_parameters | {"distillation": True}
        with pytest.raises(KeyboardInterrupt):
            fine_tune(out_dir=str(with_base), **parameters)
        folder = with_base / tiny_study.on.name
        assert sorted(p.name for p in folder.iterdir()) == [".lock", "config.json", "state_02"]
        kept = snapshot(folder / "state_02")
        monkeypatch.setattr(il2m.study.stage, "train", real_train)
        run = fine_tune(out_dir=str(with_base), **parameters)
        assert snapshot(folder / "state_02") == kept
        for state in (2, 3):
            assert stored_hashes(run, state) == stored_hashes(tiny_study.on, state)

    def test_a_damaged_state_is_not_built_upon(self, with_base, tiny_study, no_training):
        folder = Path(shutil.copytree(tiny_study.off.folder, with_base / tiny_study.off.name))
        shutil.rmtree(folder / "state_03")
        with (folder / "state_02" / "model.safetensors").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(InputError, match=r"state_02: model\.safetensors is not as it was written"):
            fine_tune(out_dir=str(with_base), **tiny_study.fine_tuning_parameters)

    def test_a_damaged_base_is_not_built_upon(self, with_base, tiny_study, no_training):
        (with_base / tiny_study.base.name / "state_01" / "new_features.npy").unlink()
        with pytest.raises(InputError, match=r"state_01: new_features\.npy is missing"):
            fine_tune(out_dir=str(with_base), **tiny_study.fine_tuning_parameters)
        with pytest.raises(InputError, match=r"state_01: new_features\.npy is missing"):
            train_base(out_dir=str(with_base), **tiny_study.base_parameters)

    @pytest.mark.parametrize(
        ("changed", "batch", "left", "trained"),
        [  # an epoch of either state is 5 batches, a balanced one of state 2 is 3
            ({"distillation": True}, 17, ["state_03.training.checkpoint"], [(3, 2)]),
            (
                {"distillation": True, "balanced_epochs": 3, "exemplar_selection": "herding"},
                15,
                ["state_02.balanced_training.checkpoint", "state_02.training.checkpoint"],
                [(2, 2), (2, 3), (3, 1), (3, 2), (3, 1), (3, 2), (3, 3)],
            ),
        ],
    )
    def test_after_being_killed_in_the_middle_of_an_epoch(
        self, with_base, tiny_study, start_stalling, told_epochs, monkeypatch, tmp_path, changed, batch, left, trained
    ):
        """By SIGKILL; finished epochs are not trained again, the end is the same, and no checkpoint stays."""
        parameters = tiny_study.fine_tuning_parameters | changed
        undisturbed = tmp_path / "undisturbed"
        shutil.copytree(tiny_study.base.folder, undisturbed / tiny_study.base.name)
        expected = fine_tune(out_dir=str(undisturbed), **parameters)
        code = f"from il2m.study.stages import fine_tune\nfine_tune(out_dir={str(with_base)!r}, **{parameters!r})"
        kill_when_stalled(start_stalling(code, batch=batch))
        folder = with_base / expected.name
        assert sorted(path.name for path in folder.glob("*.checkpoint")) == left
        told_epochs.clear()
        progress = []
        monkeypatch.setattr(
            il2m.study.stages, "Progress", lambda *args: progress.append(Progress(*args)) or progress[-1]
        )
        run = fine_tune(out_dir=str(with_base), **parameters)
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.json", "state_02", "state_03"]
        for state in (2, 3):
            assert stored_hashes(run, state) == stored_hashes(expected, state)
            losses = [[epoch["loss"] for epoch in r.state(state).info["history"]] for r in (run, expected)]
            assert losses[0] == losses[1]
        assert told_epochs == trained
        assert [bar._done for bar in progress] == [bar._total for bar in progress], "resumed epochs count as done"
        assert run.state(3).info["training_seconds"] > 0

    def test_after_an_interruption_while_scoring(
        self, tmp_path, tiny_base_parameters, tiny_study, monkeypatch, told_epochs
    ):
        """Nothing is trained again, if much would have been lost."""
        monkeypatch.setattr(il2m.learning.training, "CHECKPOINT_SECONDS", 0)
        real_scores = il2m.study.stage.score_images

        def score_images(*args: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(il2m.study.stage, "score_images", score_images)
        with pytest.raises(KeyboardInterrupt):
            train_base(out_dir=str(tmp_path), **tiny_base_parameters)
        assert told_epochs == [(1, 1), (1, 2)]
        monkeypatch.setattr(il2m.study.stage, "score_images", real_scores)
        (folder,) = tmp_path.iterdir()
        (folder / "state_01.training.checkpoint1x.tmp").touch()  # of a process that was killed while it wrote
        run = train_base(out_dir=str(tmp_path), **tiny_base_parameters)
        assert told_epochs == [(1, 1), (1, 2)]
        assert stored_hashes(run, 1) == stored_hashes(tiny_study.base, 1)
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.json", "state_01"]

    def test_training_that_diverges_leaves_no_state(self, tmp_path, tiny_base_parameters):
        with pytest.raises(InputError, match="training diverged"):
            train_base(out_dir=str(tmp_path), **tiny_base_parameters | {"learning_rate": 1e30})
        (folder,) = tmp_path.iterdir()
        assert sorted(p.name for p in folder.iterdir()) == [".lock", "config.json"]


class TestTwoAtOnce:
    def test_two_processes_train_a_stage_once(self, tmp_path, tiny_base_parameters, tiny_study, start_stalling):
        """The second is told to wait while the first is in the middle of an epoch, and takes what that has made."""
        code = f"""
from il2m.study.progress import Progress
from il2m.study.stages import train_base
real = Progress.epoch_done
def epoch_done(self, *args):
    print("epoch", args[-2], flush=True)
    real(self, *args)
Progress.epoch_done = epoch_done
run = train_base(out_dir={str(tmp_path)!r}, **{tiny_base_parameters!r})
print("missing", run.missing_states)
"""
        first, second = start_stalling(code, batch=2), start_stalling(code, batch=2)
        lines = {process: process.stdout.readline() for process in (first, second)}  # each stalls, or waits
        waiting = f"waiting: another process is training {tiny_study.base.name}\n"
        assert sorted(lines.values()) == ["stalled\n", waiting]
        trains, waits = sorted((first, second), key=lambda process: lines[process])
        said = {process: process.communicate("go on\n") for process in (trains, waits)}
        assert said[trains] == ("epoch 1\nepoch 2\nmissing []\n", "")
        assert said[waits] == ("missing []\n", "")
        assert first.returncode == second.returncode == 0
        run = Run(tmp_path / tiny_study.base.name)
        assert stored_hashes(run, 1) == stored_hashes(tiny_study.base, 1)

    @pytest.mark.parametrize("stage", ["base", "fine-tuning", "joint"])
    def test_what_another_finished_meanwhile_is_not_trained_again(
        self, with_base, tiny_study, told_epochs, capsys, stage
    ):
        base, out_dir = tiny_study.base, str(with_base)
        function, parameters = {
            "base": (train_base, tiny_study.base_parameters | {"train_seed": 1}),
            "fine-tuning": (fine_tune, tiny_study.fine_tuning_parameters),
            "joint": (train_joint, {"base": base.name, "joint_epochs": 1, "device": "cpu"}),
        }[stage]
        finished = function(out_dir=out_dir, **parameters)
        aside, runs = with_base.parent / "aside", []
        finished.folder.rename(aside)
        told_epochs.clear()
        thread = threading.Thread(target=lambda: runs.append(function(out_dir=out_dir, **parameters)))
        with locked(finished.folder / RUN_LOCK, waiting_for="testing"):
            thread.start()
            wait_for(lambda: capsys.readouterr().out == f"waiting: another process is training {finished.name}\n")
            for state in aside.glob("state_*"):
                state.rename(finished.folder / state.name)
        thread.join(timeout=60)
        assert [run.missing_states for run in runs] == [[]]
        assert told_epochs == []

    def test_a_finished_stage_is_not_locked(self, with_base, tiny_study):
        with locked(with_base / tiny_study.base.name / RUN_LOCK, waiting_for="testing"):
            train_base(out_dir=str(with_base), **tiny_study.base_parameters)


def test_progress_does_not_take_epochs_of_a_checkpoint_for_trained_now(tmp_path, monkeypatch):
    """100 images done before, and 50 of the other 100 in 10 seconds: 5 per second, and 10 seconds left."""
    now = [0.0]
    monkeypatch.setattr("il2m.study.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("il2m.study.progress.is_headless", lambda: False)
    with Progress("testing", 200, tmp_path) as progress:
        progress.resumed(100)
        now[0] = 10.0
        progress.epoch_done(1, 1, 4, 50, 3, 1.0)
        status = json.loads((tmp_path / PROGRESS_FILE).read_text())
        bar = progress._bar.format_dict
    assert (status["images_per_second"], status["seconds_left"], status["share_done"]) == (5.0, 10.0, 0.75)
    assert (bar["n"], bar["initial"], bar["total"]) == (150, 100, 200)


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


class TestRefusing:
    """Each before any training, and nothing that was there is touched."""

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"num_states": 4}, r"num_states = 4 does not divide the dataset's 6 classes .* use one of \[1, 2, 3, 6\]"),
            ({"state_sizes": [2, 2]}, r"state_sizes = \[2, 2\] add up to 4 classes, but the dataset has 6"),
            ({"class_order": [0, 1]}, r"class_order must name each of the classes 0\.\.5 once"),
            ({"network": "resnet50"}, r"network = 'resnet50': expected one of small, resnet8"),
            ({"dataset": "glyph"}, r"unknown dataset 'glyph': did you mean 'glyphs'\?"),
            ({"base_epochs": True}, r"base_epochs = True: expected a whole number"),
            ({"device": "tpu"}, r"device = 'tpu': expected one of auto, cpu, cuda"),
            ({"num_threads": 0}, r"num_threads = 0: expected a whole number of at least 1"),
        ],
    )
    def test_base_training(self, tmp_path, tiny_base_parameters, no_training, parameters, message):
        with pytest.raises(InputError, match=message):
            train_base(**{"out_dir": str(tmp_path / "new"), **tiny_base_parameters, **parameters})
        assert not (tmp_path / "new").exists()

    def test_a_first_state_of_one_image(self, tmp_path, tiny_base_parameters, tiny_arrays, no_training):
        few = np.unique(tiny_arrays["y_train"], return_index=True)[1]
        one_each = {name: tiny_arrays[name][few] for name in ("x_train", "y_train")}
        np.savez(tmp_path / "few.npz", **tiny_arrays | one_each)
        given = {**tiny_base_parameters, "dataset": str(tmp_path / "few.npz"), "out_dir": str(tmp_path / "new")}
        with pytest.raises(InputError, match="state 1 has one training image, and batch normalisation needs two"):
            train_base(**{**given, "state_sizes": [1, 5]})
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            (
                {"memory_size": 3, "memory_rounding": "floor"},
                r"memory_size = 3 leaves less .* at state 3, which has 4 past .* 3 states is 4",
            ),
            (
                {"memory_size": 1, "memory_rounding": "floor"},
                r"memory_size = 1 leaves less .* at state 2, which has 2 past .* 3 states is 4",
            ),
            ({"order_seed": 5}, r"has the class order of order_seed 0, not 5: name another base"),
            ({"head": "old"}, r"head = 'old': expected one of new, extended"),
            ({"base": "base-none"}, r"no base 'base-none' in .*; there are: base-"),
            ({"temperature": 0, "epochs": 0}, r"temperature = 0: expected a number above 0\nepochs = 0: expected"),
        ],
    )
    def test_fine_tuning(self, tiny_study, no_training, parameters, message):
        before = snapshot(tiny_study.out_dir)
        with pytest.raises(InputError, match=message):
            fine_tune(**{"out_dir": str(tiny_study.out_dir), **tiny_study.fine_tuning_parameters, **parameters})
        assert snapshot(tiny_study.out_dir) == before

    def test_a_base_of_another_dataset_than_asked(self, tmp_path, tiny_study, tiny_arrays, no_training):
        np.savez(tmp_path / "other.npz", **tiny_arrays | {"x_test": 255 - tiny_arrays["x_test"]})
        with pytest.raises(InputError) as error:
            fine_tune(
                out_dir=str(tiny_study.out_dir),
                dataset=str(tmp_path / "other.npz"),
                **tiny_study.fine_tuning_parameters,
            )
        message = str(error.value)
        assert f"base {tiny_study.base.name} was trained on tiny" in message
        assert "other.npz holds other images" in message

    def test_a_base_whose_images_changed_since(self, tmp_path, tiny_study, tiny_arrays):
        np.savez(tmp_path / "mine.npz", **tiny_arrays)
        parameters = tiny_study.base_parameters | {"dataset": str(tmp_path / "mine.npz")}
        base = train_base(out_dir=str(tmp_path / "study"), **parameters)
        assert base.name == tiny_study.base.name, "where the images lie has no say"
        np.savez(tmp_path / "mine.npz", **tiny_arrays | {"x_train": 255 - tiny_arrays["x_train"]})
        with pytest.raises(InputError, match=r"was trained on mine .*mine\.npz holds other images"):
            fine_tune(out_dir=str(tmp_path / "study"), **tiny_study.fine_tuning_parameters)

    def test_no_base_an_unfinished_base_and_what_is_no_base(self, tmp_path, with_base, tiny_study):
        parameters = tiny_study.fine_tuning_parameters
        with pytest.raises(InputError, match=r"no finished base in .*: run base training first"):
            fine_tune(out_dir=str(tmp_path / "empty"), **parameters)
        with pytest.raises(InputError, match="is not a base but a fine_tuning run"):
            fine_tune(out_dir=str(with_base), base=str(tiny_study.off.folder), **parameters)
        shutil.rmtree(with_base / tiny_study.base.name / "state_01")
        with pytest.raises(InputError, match=r"base .* is not finished: run base training again with its parameters"):
            fine_tune(out_dir=str(with_base), base=tiny_study.base.name, **parameters)

    def test_a_base_in_another_study(self, tmp_path, tiny_study, no_training):
        with pytest.raises(InputError, match=r"base .* lies in .*, not in .*: copy its folder there"):
            fine_tune(out_dir=str(tmp_path), base=str(tiny_study.base.folder), **tiny_study.fine_tuning_parameters)
        with pytest.raises(InputError, match=r"base .* lies in .*, not in .*: copy its folder there"):
            train_joint(out_dir=str(tmp_path), base=tiny_study.base, device="cpu")
        assert list(tmp_path.iterdir()) == []

    def test_cuda_without_a_gpu(self, tmp_path, tiny_base_parameters, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(
            InputError, match="device = 'cuda', but torch finds no CUDA device here: use 'auto' or 'cpu'"
        ):
            train_base(out_dir=str(tmp_path), **tiny_base_parameters | {"device": "cuda"})


def test_without_a_memory_and_with_a_frozen_backbone(tiny_study, tmp_path):
    """The paper's other condition, K = 0: what each method then gives, or why not."""
    base = train_base(out_dir=str(tmp_path), **tiny_study.base_parameters)
    given = tiny_study.fine_tuning_parameters | {"memory_size": 0, "freeze": True}
    run = fine_tune(out_dir=str(tmp_path), base=base, **given)
    first, last = base.state(1).model_weights(), run.state(3).model_weights()
    assert {
        name for name in first if not name.startswith("head.") and not torch.equal(first[name], last[name])
    } == set()
    assert [len(run.state(state).array("exemplar_labels")) for state in (2, 3)] == [0, 0]
    left_out = {name: why for name in METHODS if (why := missing_for(run, name))}
    no_statistics = "state 2 has no statistics of training images and exemplars"
    no_exemplar = "state 2 has no exemplar of 2 class(es): a larger memory_size leaves some"
    assert left_out == {
        **dict.fromkeys(("IL2M", "IL2M-no-gate", "IL2M-means", "IL2M-pooled", "IL2M-global"), no_statistics),
        **dict.fromkeys(("FT-th", "NEM"), no_exemplar),
        "BiC": "state 2 held no exemplars out of training (held_out is 0)",
    }
    table = results_table(run, methods=METHODS)
    assert set(table["method"]) == set(METHODS) - set(left_out)
    assert table["images_held"].dropna().eq(0).all()


def test_validate_every_is_in_the_history_and_nowhere_else(tiny_study, tmp_path):
    """Equal to the accuracy of the stored scores after the last epoch; the run is the same, bit for bit."""
    base = train_base(out_dir=str(tmp_path), **tiny_study.base_parameters, validate_every=1)
    run = fine_tune(out_dir=str(tmp_path), base=base, **tiny_study.fine_tuning_parameters, validate_every=2)
    assert base.name == tiny_study.base.name
    for state in (1, 2, 3):
        stored, before = run.state(state), tiny_study.off.state(state)
        assert stored.digest == before.digest
        shares = [epoch["val_top1"] for epoch in stored.info["history"]]
        assert {epoch["val_top1"] for epoch in before.info["history"]} == {None}
        top1 = (stored.array("val_scores").argmax(axis=1) == stored.array("val_labels")).mean()
        assert shares[-1] == pytest.approx(top1)
        assert [share is None for share in shares[:-1]] == [state > 1] * (len(shares) - 1)
