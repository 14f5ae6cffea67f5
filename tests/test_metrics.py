"""ranker.metrics against scikit-learn, jiwer and hand-worked cases."""

from __future__ import annotations

import random
import re
import string
import subprocess
import sys
import unicodedata
import warnings

import jiwer
import numpy as np
import pytest
from effort import count
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score

from ranker.errors import OrganizerError
from ranker.metrics import Pair, blind_answer, blind_value, evaluate, reweighted
from ranker.metrics.normalize import normalize, split_labels
from ranker.types import MetricName

# Same cases every time, and no clock: other processes share the machine.
steady = settings(
    deadline=None,
    derandomize=True,
    max_examples=count("cases of each property of a metric", short=60, long=2_000),
    suppress_health_check=[HealthCheck.too_slow],
)

WORDS = st.lists(st.sampled_from(["red", "green", "blue", "one", "two"]), max_size=6).map(" ".join)


def pairs_of(*texts: tuple[str, str]) -> list[Pair]:
    return [Pair(clip=f"clip{i}", reference=ref, candidate=cand) for i, (ref, cand) in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "plain", "kept"),
    [
        ("  Hello,\t WORLD!\n", "hello world", "hello, world!"),
        ("well-known", "well known", "well known"),
        ("\uff21\uff22\uff23\uff11\u3002", "abc1\u3002", "abc1\u3002"),
        ("don't", "dont", "don't"),
        ("a - b", "a b", "a b"),
        ("Straße, ÉCOLE", "straße école", "straße, école"),
        ("今天　天气", "今天 天气", "今天 天气"),
        ("...", "", "..."),
        ("", "", ""),
    ],
)
def test_normalize_on_worked_cases(text: str, plain: str, kept: str) -> None:
    """Each step of the protocol's normalisation, with and without punctuation."""
    assert normalize(text) == plain
    assert normalize(text, keep_punctuation=True) == kept


@steady
@given(st.text())
def test_normalized_text_is_clean(text: str) -> None:
    """Nothing that normalisation promises to remove is left, whatever came in."""
    result = normalize(text)
    assert not set(result) & set(string.punctuation)
    assert result == " ".join(result.split())
    assert result == result.lower()


@steady
@given(st.text(), st.booleans())
def test_normalize_twice_changes_nothing(text: str, keep: bool) -> None:
    """Idempotent, wherever removing characters has not made new compositions possible (see its docstring)."""
    once = normalize(text, keep_punctuation=keep)
    assume(unicodedata.is_normalized("NFKC", once))
    assert normalize(once, keep_punctuation=keep) == once


@steady
@given(st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E)))
def test_full_width_forms_equal_ascii(text: str) -> None:
    """An answer typed in full-width forms is the same answer."""
    wide = "".join(chr(ord(character) + 0xFEE0) for character in text)
    assert normalize(wide) == normalize(text)


@steady
@given(st.text())
def test_compatible_forms_are_one_text(text: str) -> None:
    """Composed, decomposed and compatibility forms of a text are the same answer."""
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert normalize(unicodedata.normalize(form, text)) == normalize(text)


ASCII_WORDS = st.lists(st.text(string.ascii_letters + string.digits, min_size=1), min_size=1, max_size=5)
NO_HYPHEN = string.punctuation.replace("-", "")


@steady
@given(ASCII_WORDS, st.sampled_from(NO_HYPHEN), st.sampled_from(["-", " ", "\t", "\n", " - ", "\u3000"]))
def test_case_punctuation_and_gaps_do_not_matter(words: list[str], mark: str, gap: str) -> None:
    """Whatever punctuation stands in or beside words, whatever their case and whatever parts them: the same answer."""
    plain = " ".join(words).lower()
    assert normalize(gap.join(mark + word.upper() + mark for word in words)) == plain
    assert normalize(gap.join(words).swapcase()) == plain


@steady
@given(st.text(alphabet=st.characters(max_codepoint=0x2FFF)))
def test_only_hyphens_are_lost_where_punctuation_is_kept(text: str) -> None:
    """For mAP `;` is kept, and all else: each sign is there as often as in the text, in its compatible form."""
    kept = normalize(text, keep_punctuation=True)
    wide = unicodedata.normalize("NFKC", text)
    for mark in string.punctuation:
        assert kept.count(mark) == (0 if mark == "-" else wide.count(mark))


def test_labels_are_split_at_semicolons_only() -> None:
    """Labels may hold commas and spaces, and are stripped; empty ones vanish."""
    assert split_labels(" Dog, barking ;CAT;; wind-chime;") == {"dog, barking", "cat", "wind chime"}


def test_accuracy_counts_normalised_matches() -> None:
    """Two of four pairs agree after normalisation; items say which."""
    result = evaluate(MetricName.ACCURACY, pairs_of(("Dog.", "dog"), ("cat", "cats"), ("a-b", "a b"), ("x", "")))
    assert result.value == 0.5
    assert result.name == "Accuracy"
    assert list(result.items["item"]) == [1.0, 0.0, 1.0, 0.0]
    assert list(result.items.columns[:4]) == ["clip", "reference", "candidate", "item"]
    assert result.items["reference"][0] == "Dog."


@steady
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8))
def test_error_rates_equal_jiwer(texts: list[tuple[str, str]]) -> None:
    """The value is jiwer's over the whole set, and the items' edits and lengths add up to it."""
    assume(any(reference for reference, _ in texts))
    references, candidates = [list(side) for side in zip(*texts, strict=True)]
    for metric, rate in (
        (MetricName.IWER, jiwer.wer(references, candidates)),
        (MetricName.ICER, jiwer.cer(references, candidates)),
    ):
        result = evaluate(metric, pairs_of(*texts))
        assert result.value == max(0.0, 1 - rate)
        assert result.items["edits"].sum() / result.items["reference_length"].sum() == pytest.approx(rate)


def by_protocol(text: str) -> str:
    """The protocol's normalisation in other words than ranker's: NFKC, lower, hyphens, then what may stay."""
    text = unicodedata.normalize("NFKC", text).lower()
    return re.sub(r"\s+", " ", "".join(" " if c == "-" else c for c in text if c not in NO_HYPHEN)).strip()


RAW = st.text("aB c-D.,!今天天气\u3002\uff0c\uff45\t", max_size=12)


@steady
@given(st.lists(st.tuples(RAW, RAW), min_size=1, max_size=6))
def test_error_rates_of_raw_text_equal_jiwer_on_normalised_text(texts: list[tuple[str, str]]) -> None:
    """Mixed case, hyphens, full-width signs, Chinese, empty answers and answers much too long, as they come."""
    references, candidates = [[by_protocol(text) for text in side] for side in zip(*texts, strict=True)]
    assume(any(references))
    assert evaluate(MetricName.IWER, pairs_of(*texts)).value == max(0.0, 1 - jiwer.wer(references, candidates))
    assert evaluate(MetricName.ICER, pairs_of(*texts)).value == max(0.0, 1 - jiwer.cer(references, candidates))


@pytest.mark.parametrize(
    ("texts", "words", "characters"),
    [
        ([("one two", "")], 0.0, 0.0),
        ([("one", "one two three")], 0.0, 0.0),
        ([("one two three four", "one two three")], 3 / 4, 13 / 18),
        ([("今天\uff0c天气很好", "今天天气很好")], 1.0, 1.0),
        ([("今天\u3002天气很好", "今天天气很好")], 0.0, 6 / 7),
        ([("今天 天气", "今天天气")], 0.0, 4 / 5),
        ([("Well-known!", "well known")], 1.0, 1.0),
        ([("one two", ""), ("three four", "Three, four.")], 1 / 2, 10 / 17),
    ],
)
def test_error_rates_by_hand(texts: list[tuple[str, str]], words: float, characters: float) -> None:
    """Counted with a pencil: empty answers, more errors than words, Chinese (whose wide comma is a
    comma, and whose full stop is none).
    """
    assert evaluate(MetricName.IWER, pairs_of(*texts)).value == pytest.approx(words)
    assert evaluate(MetricName.ICER, pairs_of(*texts)).value == pytest.approx(characters)


def test_word_error_rate_is_of_the_set_not_of_utterances() -> None:
    """1 edit in 1 word and 0 in 9: 0.9, where the mean over utterances would be 0.5."""
    result = evaluate(MetricName.IWER, pairs_of(("yes", "no"), ("a b c d e f g h i", "a b c d e f g h i")))
    assert result.value == pytest.approx(0.9)
    assert list(result.items["item"]) == [0.0, 1.0]


def test_error_rate_is_clipped_once_over_the_set() -> None:
    """Ten insertions for one word give 0, and the same utterance inside a longer set still costs its ten edits."""
    long = pairs_of(
        ("yes", "a b c d e f g h i yes j"), ("one two three four five six seven eight nine ten eleven", "one")
    )
    assert evaluate(MetricName.IWER, long[:1]).value == 0.0
    right = Pair(clip="right", reference=" ".join(["word"] * 19), candidate=" ".join(["word"] * 19))
    assert evaluate(MetricName.IWER, [long[0], right]).value == pytest.approx(0.5)


def test_inner_spaces_count_as_characters() -> None:
    """`a b` against `ab`: one deletion in three characters; Mandarin counts by sign."""
    assert evaluate(MetricName.ICER, pairs_of(("a b", "ab"))).value == pytest.approx(2 / 3)
    assert evaluate(MetricName.ICER, pairs_of(("今天天气", "今天天汽"))).value == pytest.approx(3 / 4)


def test_words_for_an_empty_reference_are_edits() -> None:
    """A reference that normalises to nothing does not hide what was inserted; a set of such references is refused."""
    assert evaluate(MetricName.IWER, pairs_of(("...", "noise"), ("a b", "a b"))).value == pytest.approx(0.5)
    with pytest.raises(OrganizerError, match="empty after normalisation"):
        evaluate(MetricName.IWER, pairs_of(("...", "noise")))


LABELS = st.sets(st.sampled_from(["dog", "cat", "wind", "rain"]), max_size=3).map(lambda s: ";".join(sorted(s)))


@steady
@given(st.lists(st.tuples(LABELS, LABELS), min_size=2, max_size=12), st.integers(4, 9))
def test_map_equals_scikit_learn_over_all_columns(texts: list[tuple[str, str]], num_classes: int) -> None:
    """Columns beyond the labels seen count as zeros, as scikit-learn's macro average over the whole matrix has it."""
    references = [split_labels(reference) for reference, _ in texts]
    classes = sorted(set().union(*references))
    assume(classes)
    truth, predicted = np.zeros((len(texts), num_classes)), np.zeros((len(texts), num_classes))
    for row, (_, candidate) in enumerate(texts):
        truth[row, [classes.index(label) for label in references[row]]] = 1
        predicted[row, [classes.index(label) for label in split_labels(candidate) if label in classes]] = 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No positive class found")
        expected = average_precision_score(truth, predicted, average="macro")
    assert evaluate(MetricName.MAP, pairs_of(*texts), num_classes=num_classes).value == pytest.approx(expected)


def test_map_by_hand() -> None:
    """dog: t/k = 1/2 at full recall; cat never predicted: 1/3; an unknown label changes nothing; 4 columns."""
    texts = [("Dog", "dog; unicorn"), ("cat", "dog"), ("", "")]
    result = evaluate(MetricName.MAP, pairs_of(*texts), num_classes=4)
    assert result.value == pytest.approx((1 / 2 + 1 / 3) / 4)
    assert list(result.items["item"]) == pytest.approx([2 / 3, 0.0, 1.0])


@pytest.mark.parametrize(
    ("texts", "truth", "predicted"),
    [
        ([("dog", "unicorn"), ("cat", "cat; unicorn")], ["10", "01"], ["00", "01"]),
        ([("dog;dog; DOG", "Dog;dog"), ("cat", "dog")], ["10", "01"], ["10", "10"]),
        ([("dog;cat", ""), ("cat", ";;"), ("dog", " ; ")], ["11", "01", "10"], ["00", "00", "00"]),
        ([("dog;", "dog"), ("", "cat"), (";cat", "cat;dog")], ["10", "00", "01"], ["10", "01", "11"]),
        ([("wind-chime, metal", "Wind chime, metal"), ("cat", "metal")], ["10", "01"], ["10", "00"]),
    ],
)
def test_map_of_odd_answers_equals_scikit_learn(
    texts: list[tuple[str, str]], truth: list[str], predicted: list[str]
) -> None:
    """Labels that no reference has, repeated ones, empty predictions, and three columns that the test set lacks: the
    0/1 matrices are written down here, and scikit-learn is asked for its macro average over all five columns.
    """
    matrices = [np.array([[int(bit) for bit in row] + [0, 0, 0] for row in rows]) for rows in (truth, predicted)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No positive class found")
        expected = average_precision_score(*matrices, average="macro")
    assert 0 < expected < 1
    assert evaluate(MetricName.MAP, pairs_of(*texts), num_classes=5).value == pytest.approx(expected, abs=1e-12)


@steady
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=12))
def test_accuracy_equals_scikit_learn(texts: list[tuple[str, str]]) -> None:
    """On texts that normalisation leaves as they are."""
    references, candidates = zip(*texts, strict=True)
    assert evaluate(MetricName.ACCURACY, pairs_of(*texts)).value == pytest.approx(
        accuracy_score(references, candidates)
    )


OF_WORDS = [MetricName.ACCURACY, MetricName.MAP, MetricName.IWER, MetricName.ICER]


@steady
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8), st.randoms(), st.sampled_from(OF_WORDS))
def test_values_lie_within_bounds_and_know_no_order(
    texts: list[tuple[str, str]], random: random.Random, metric: MetricName
) -> None:
    """Any pairs in any order: one value, between 0 and 1, and 1 where every answer is its reference."""
    assume(any(reference for reference, _ in texts))
    pairs = pairs_of(*texts)
    value = evaluate(metric, pairs, num_classes=8).value
    assert 0 <= value <= 1
    shuffled = random.sample(pairs, len(pairs))
    assert evaluate(metric, shuffled, num_classes=8).value == pytest.approx(value, abs=1e-12)
    classes = len({label for pair in pairs for label in split_labels(pair.reference)})
    perfect = pairs_of(*((reference, reference) for reference, _ in texts))
    best = classes / 8 if metric is MetricName.MAP else 1
    assert evaluate(metric, perfect, num_classes=8).value == pytest.approx(best)


def test_map_refuses_what_does_not_fit() -> None:
    """More labels than columns, no label at all, or no number of columns: our configuration is wrong, not the team."""
    texts = pairs_of(("dog;cat;rain", "dog"))
    for num_classes in (2, None):
        with pytest.raises(OrganizerError, match="num_classes"):
            evaluate(MetricName.MAP, texts, num_classes=num_classes)
    with pytest.raises(OrganizerError, match="none of the 1 references"):
        evaluate(MetricName.MAP, pairs_of(("", "dog")), num_classes=2)


TEXTS = [("dog;cat", "dog"), ("cat", "dog;cat"), ("rain", ""), ("dog", "dog"), ("rain;dog", "rain")]


@pytest.mark.parametrize("metric", [MetricName.ACCURACY, MetricName.MAP, MetricName.IWER, MetricName.ICER])
def test_reweighting_means_repeating(metric: MetricName) -> None:
    """A draw's value equals evaluating the drawn pairs; the bootstrap stands on this."""
    pairs = pairs_of(*TEXTS)
    items = evaluate(metric, pairs, num_classes=5).items
    weights = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 0, 2], [3, 1, 0, 1, 0]], dtype=float)
    values = reweighted(metric, items, weights, num_classes=5)
    for row, value in zip(weights, values, strict=True):
        drawn = [pair for pair, count in zip(pairs, row, strict=True) for _ in range(int(count))]
        classes = {label for pair in drawn for label in split_labels(pair.reference)}
        expected = evaluate(metric, drawn, num_classes=5).value
        if metric is MetricName.MAP:  # classes that were not drawn get the others' mean
            expected *= 3 / len(classes)
        assert value == pytest.approx(expected)


def test_blind_answer_is_the_commonest_and_ties_go_by_text() -> None:
    """Independent of the order of the training data."""
    assert blind_answer(["b", "a", "b", "c", "a"]) == "a"
    assert blind_answer(["c", "b", "c"]) == "c"
    with pytest.raises(OrganizerError, match="no training references"):
        blind_answer([])


def test_blind_value_ignores_the_candidates() -> None:
    """The floor is what the constant answer scores, through the metric's own code."""
    pairs = pairs_of(("dog", "dog"), ("dog", "dog"), ("dog", "x"), ("cat", "cat"))
    assert blind_value(MetricName.ACCURACY, pairs, "Dog") == 0.75
    assert blind_value(MetricName.IWER, pairs, "cat") == pytest.approx(0.25)


def test_no_pairs_and_no_models_are_refused() -> None:
    """An empty test set is our fault; so is a metric of captions without models."""
    with pytest.raises(OrganizerError, match="without a single test pair"):
        evaluate(MetricName.ACCURACY, [])
    with pytest.raises(OrganizerError, match="without language models"):
        evaluate(MetricName.DATE, pairs_of(("a dog", "a dog")))


def test_metrics_load_no_torch() -> None:
    """Scoring a classification or a recognition task needs neither torch nor transformers nor scikit-learn."""
    code = (
        "import sys; from ranker.metrics import Pair, evaluate; from ranker.types import MetricName\n"
        "evaluate(MetricName.IWER, [Pair(clip='a', reference='b', candidate='b')])\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'sentence_transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
