"""Run files: what they may hold, and when two are of one run."""

import re
from pathlib import Path

import pytest
import yaml

from mrsynth.errors import UsageError
from mrsynth.methods import build_method, method_class, preset
from mrsynth.tasks.train import run
from mrsynth.tasks.train.config import flat, read_run_file, refuse_another_run, run_text, yaml_text
from mrsynth.tasks.train.run import TrainOptions, fresh_method, read_config


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "run.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def read(path=None, overrides=None, **options):
    return read_config(TrainOptions("fgc2f", (), Path("nowhere"), path, overrides, **options))


def network(config):
    return build_method(config.method).config.network


def test_without_a_file_it_is_the_paper():
    config = read()

    assert config.method == method_class("fgc2f").Config.model_validate(preset("fgc2f", "base")).model_dump(mode="json")
    assert config.training.iterations == 200_000


def test_preset_file_and_overrides_lie_on_top_of_one_another(write):
    path = write({"method": {"method": "fgc2f", "preset": "tiny", "T": 50, "network": {"blocks": 2}}, "name": "mine"})
    config = read(path, {"method.network.width": 32, "training.iterations": 12, "training.augmentation.flip": 0})

    assert (network(config).width, network(config).blocks, network(config).multipliers) == (32, 2, (1, 2, 2))
    assert config.method["T"] == 50
    assert (config.training.iterations, config.training.augmentation.flip, config.name) == (12, 0, "mine")


def test_overrides_work_without_a_file_and_may_name_the_preset(write):
    assert network(read(None, {"method.preset": "tiny"})).width == 16
    assert network(read(write({"method": {"preset": "ship"}}), {"method.preset": "tiny"})).width == 16
    assert network(read(write("training:\nmethod:\n"), {"training": {}, "method.preset": "tiny"})).width == 16


@pytest.mark.parametrize("word", ["off", "'off'"])
def test_off_is_a_word_where_a_word_is_expected(word, write):
    path = write(f"method: {{preset: tiny, dfb: {{mode: {word}}}, network: {{input_skip: {word}}}}}")
    config = build_method(read_run_file(path, "dfbk").method).config

    assert (config.dfb.mode, config.network.input_skip, config.kg.mode) == ("off", False, "LH")


def test_a_file_lies_on_its_base(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "root.yaml").write_text("{name: root, method: {preset: tiny, T: 50}, training: {seed: 3, workers: 0}}")
    (tmp_path / "deep" / "middle.yaml").write_text("{base: ../root.yaml, name: middle, method: {T: 60}}")
    (tmp_path / "top.yaml").write_text("{base: deep/middle.yaml, training: {seed: 4}}")
    config = read(tmp_path / "top.yaml", {"training.iterations": 7})

    assert (config.name, config.method["T"], network(config).width) == ("middle", 60, 16)
    assert (config.training.seed, config.training.workers, config.training.iterations) == (4, 0, 7)


@pytest.mark.parametrize(
    ("base", "complaint"),
    [("run.yaml", "leads back to itself"), ("other.yaml", "Cannot read the run file"), ([1], "expected the path")],
)
def test_a_base_that_cannot_be_is_named(base, complaint, write):
    with pytest.raises(UsageError, match=complaint):
        read(write({"base": base}))


def test_every_run_file_of_the_project_is_valid():
    """And the ablations of a method are named as their files, which is how their table tells them apart."""
    runs = Path(__file__).resolve().parents[3] / "runs"
    texts = {f: yaml.safe_load(f.read_text()) for f in runs.rglob("*.yaml")}
    bases = {
        (f.parent / text["base"]).resolve() for f, text in texts.items() if isinstance(text, dict) and "base" in text
    }
    files = [f for f in texts if f.resolve() not in bases and "method" in run_text(f, {})]
    names = {f: read_run_file(f, run_text(f, {})["method"]["method"]).name for f in files}

    assert read_run_file(runs / "segmenter.yaml", "segmenter").method["complete"] == 0.5
    ablations = {f.stem: name for f, name in names.items() if f.parents[1].name == "ablations"}
    assert len(ablations) > 10 and all(stem == name for stem, name in ablations.items())


def test_the_published_training_of_dfbk_can_be_set_as_its_page_says(write):
    page = (Path(__file__).resolve().parents[3] / "docs" / "methods" / "dfbk.md").read_text(encoding="utf-8")
    training = re.search(r"`(training: \{learning_rate.*?\})`", page)[1]
    preparation = re.search(r"`preparation`: `(\{crop: full.*?\})`", page)[1]
    text = {**yaml.safe_load(training), "preparation": yaml.safe_load(preparation)}
    text["training"]["slices"] = 32
    config = read_run_file(write(text), "dfbk")

    t = config.training
    assert (t.learning_rate, t.final_learning_rate, t.decay, t.iterations, t.batch_size) == (
        *(5e-5, 2e-5, "cosine"),
        *(100_000, 4),
    )
    assert t.slices == 32 and (config.preparation.spacing, config.preparation.grid) == (1.25, (192, 192, 128))


def test_an_empty_file_is_like_none(write):
    assert read(write("")) == read()


def test_numbers_may_be_written_as_yaml_does_not_expect(write):
    assert read(write("training: {learning_rate: 1e-4}")).training.learning_rate == 1e-4


def test_what_is_written_is_what_is_read(write):
    config = read(None, {"method.preset": "ship", "data.repeat": {"a": 2}, "name": "Größe"})

    assert read(write(yaml_text(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize(
    ("content", "overrides", "place"),
    [
        ({"trainig": {}}, {}, "trainig: unknown key"),
        ({"training": {"iteration": 3}}, {}, "training.iteration: unknown key"),
        ({"training": {"augmentation": {"flop": 1}}}, {}, "training.augmentation.flop: unknown key"),
        ({"method": {"network": {"widht": 3}}}, {}, "method.network.widht: unknown key"),
        ({"method": {"sampler": "euler"}}, {}, "method.sampler: "),
        ({"data": {"repeat": {"a": 0}}}, {}, "data.repeat.a: "),
        ({}, {"training.itrations": 3}, "training.itrations: unknown key"),
        ({}, {"training.learning_rate": float("inf")}, "training.learning_rate: expected a finite number"),
        ({"method": {"freq": {"sigma": float("nan")}}}, {}, "method.freq.sigma: expected a finite number"),
        ({}, {"training.iterations": "many"}, "training.iterations: "),
        ({"training": {"iterations": 3}}, {"training.iterations.more": 3}, "training.iterations: "),
        ({"training": 3}, {}, "training: "),
        ({"method": {"freq": {"ranking": ["t1"]}}}, {}, "method: .*ranking"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(content, overrides, place, write):
    with pytest.raises(UsageError, match=place) as error:
        read(write(content), overrides)
    assert error.value.exit_code == 2


def test_everything_wrong_is_named_at_once(write):
    path = write({"method": {"nois": 1}, "training": {"seeed": 1}, "extra": 1})
    with pytest.raises(UsageError) as error:
        read(path)

    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "method.nois: unknown key",
        "training.seeed: unknown key",
        "extra: unknown key",
    ]
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "Cannot read"),
        ("- a\n- b", "no run file"),
        ("method: fgc2f", "method: expected keys"),
        ("method: {method: cwdm}", "a run of cwdm, not of fgc2f"),
        ("method: {preset: enormous}", "no preset 'enormous'.*base"),
        ("method: {preset: [base]}", "no preset"),
    ],
)
def test_what_is_no_run_file_of_this_method_is_refused(content, message, write):
    with pytest.raises(UsageError, match=message):
        read(write(content))


def test_a_missing_file_and_an_unknown_method_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="Cannot read the run file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="Unknown method 'banana'"):
        read_run_file(None, "banana")


def test_options_that_contradict_one_another_are_usage_errors():
    with pytest.raises(UsageError, match=r"method: .*even number"):
        fresh_method(read(None, {"method.network": {"width": 15, "groups": 5, "attention": []}}))
    with pytest.raises(UsageError, match=r"preparation\.multiple is 6.*multiples of 4"):
        fresh_method(read(None, {"method.preset": "tiny", "preparation.multiple": 6}))


@pytest.mark.parametrize("nonsense", [ZeroDivisionError, TypeError, RuntimeError, AssertionError])
def test_a_network_that_cannot_be_built_is_a_usage_error_and_a_lack_of_memory_is_none(nonsense, monkeypatch):
    def build(_):
        raise nonsense("of a size of 0")

    def lack(_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(run, "build_trainable", build)
    with pytest.raises(UsageError, match="method: of a size of 0"):
        fresh_method(read())
    monkeypatch.setattr(run, "build_trainable", lack)
    with pytest.raises(RuntimeError, match="allocate memory"):
        fresh_method(read())


def test_paths_in_the_file_of_a_run_are_not_of_what_lies_beside_it(write):
    """A run begun with `best.safetensors` of the current folder has one of its own."""
    path = write({"init": "best.safetensors", "tokens": "t.npz", "stages": {"all": {"init": "best.safetensors"}}})
    for name in ("best.safetensors", "t.npz"):
        (path.parent / name).touch()
    theirs, own = (read_run_file(path, "fgc2f", begun=begun) for begun in (False, True))

    assert (own.init, own.tokens, own.begun) == ("best.safetensors", "t.npz", {"all": "best.safetensors"})
    assert theirs.init == theirs.begun["all"] == str(path.parent / "best.safetensors")


def test_the_seed_decides_the_first_weights():
    one, two, other = (
        fresh_method(read(None, {"method.preset": "tiny", "training.seed": seed})).network.stem.weight
        for seed in (1, 1, 2)
    )

    assert one.equal(two) and not one.equal(other)


def test_the_weights_to_begin_with_may_stand_in_the_file_or_the_request(write):
    path = write({"init": "one", "training": {"crop": [32, 32, 16]}})

    assert read(path).init == "one" and read(path).training.crop == (32, 32, 16)
    assert read(path, init="two").init == "two"
    assert read().init is None and read().training.crop is None


@pytest.mark.parametrize("crop", [[32, 32], [32, 32, 0], [32, 32, 1.5], 32])
def test_a_crop_is_three_whole_numbers(crop, write):
    with pytest.raises(UsageError, match=r"training\.crop"):
        read(write({"training": {"crop": crop}}))


def test_a_resumed_run_may_change_how_long_and_how_often():
    before = read()
    later = {f"training.{key}": 3 for key in ("iterations", "log_every", "save_every", "validate_every", "workers")}

    refuse_another_run(before, read(None, {**later, "name": "better", "licence": "CC0"}), Path("run"))


@pytest.mark.parametrize(
    "change",
    [
        {"method.network.width": 96},
        {"method.T": 100, "method.param": "x0"},
        {"preparation.quantile": 0.99},
        {"training.batch_size": 3},
        {"training.augmentation.gain": 0.1},
        {"init": "other"},
        {"data.validation": ["a"]},
        {"data.repeat": {"a": 2}},
    ],
)
def test_a_resumed_run_may_change_nothing_else(change):
    with pytest.raises(UsageError, match="begun with another configuration") as error:
        refuse_another_run(read(), read(None, change), Path("run"))

    named = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:-1]]
    assert named == ["data.repeat.a" if key == "data.repeat" else key for key in change]


def test_flat_names_every_leaf():
    assert flat({"a": {"b": 1, "c": [2]}, "d": None}) == {"a.b": 1, "a.c": [2], "d": None}


def test_the_run_file_that_ships_is_valid():
    path = Path(__file__).resolve().parents[3] / "runs" / "fgc2f-ship.yaml"

    assert fresh_method(read(path)).neighbours == 1
