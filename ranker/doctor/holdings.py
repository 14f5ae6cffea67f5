"""What evaluations need: configuration, data, models."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from ranker.config import Benchmark, load, load_ranking
from ranker.doctor.finding import Found, Patient, Verdict, one_line
from ranker.errors import RankerError
from ranker.home import asset, model_cache
from ranker.settings import Service


def configuration(patient: Patient) -> Iterator[Found]:
    """Whether every YAML file that may be read is valid."""
    paths = {
        path.name: path
        for folder in (asset("configs"), patient.home.root / "configs")
        for path in folder.glob("*.yaml")
    }
    wrong = []
    for name, path in sorted(paths.items()):
        try:
            load(Service, path) if name == "service.yaml" else load_ranking(path)
        except (RankerError, yaml.YAMLError) as error:
            wrong.append(one_line(error))
    if wrong:
        yield Verdict.WARNING, "; ".join(wrong), "correct these files"
    else:
        yield Verdict.OK, f"{len(paths)} files are valid: {', '.join(sorted(paths))}", ""


def benchmark_data(patient: Patient) -> Iterator[Found]:
    """Whether the benchmark that counts here is built or fetched."""
    from ranker.data import store
    from ranker.data.origin import how_to_get

    name = patient.service.benchmark
    root = patient.home.data / name
    if store.is_built(root):
        yield Verdict.OK, f"{name} is at {root}, digest {store.digest(root)[:12]}", ""
    else:
        yield Verdict.MISSING, f"{name} is not under {patient.home.data}", how_to_get(name)


def decoder(patient: Patient) -> Iterator[Found]:
    """Whether the decoder of the recipe is there."""
    from ranker.lalm.decoder import locate

    files = locate(_benchmark(patient).recipe.decoder)
    folder = model_cache() / f"{files.name}-{files.digest[:16]}"
    converted = files.weights.suffix == ".safetensors" or folder.is_dir()
    later = "" if converted else "; it is converted at its first use, which takes about 15 s"
    yield Verdict.OK, f"{files.name} at {files.weights}{later}", ""


def caption_models(patient: Patient) -> Iterator[Found]:
    """Whether the language models of the caption metrics are there."""
    from ranker.metrics import caption_models

    models = caption_models(_benchmark(patient).recipe.metric_models)
    checker = "without a fluency checker" if models.checker is None else f"fluency checker {models.checker.weights}"
    yield Verdict.OK, f"{models.name}: sentence model {models.sentence.folder}, {checker}", ""


def _benchmark(patient: Patient) -> Benchmark:
    return load(Benchmark, patient.home.config_path(patient.service.benchmark))
