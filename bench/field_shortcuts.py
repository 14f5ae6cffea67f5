"""How far each classification task of field can be answered without understanding anything.

    python bench/field_shortcuts.py data/field

A logistic regression sees, of each clip at 16 kHz: its duration, the power of ten frequency bands, and four percentiles
of the level over frames of 20 ms. Prints its accuracy on the test sets beside that of the most frequent label.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ranker.config import Benchmark, TestSplit, TrainSplit, load
from ranker.data.audio import SAMPLE_RATE_HZ, prepare
from ranker.data.shards import Clip, read_audio, read_split
from ranker.home import asset

BANDS_HZ = (0, 100, 300, 700, 1500, 2500, 3400, 3700, 4000, 5500, 8000)


def describe(root: Path, clip: Clip) -> npt.NDArray[np.float64]:
    """(15,): seconds, dB of ten bands, dB percentiles 1, 10, 50 and 90 of the frames."""
    waveform = prepare(*read_audio(root, clip)).astype(np.float64)
    power = np.abs(np.fft.rfft(waveform * np.hanning(waveform.shape[0]))) ** 2
    hertz = np.fft.rfftfreq(waveform.shape[0], 1 / SAMPLE_RATE_HZ)
    bands = [power[(hertz >= low) & (hertz < high)].mean() for low, high in pairwise(BANDS_HZ)]
    frames = np.square(waveform[: waveform.shape[0] // 320 * 320].reshape(-1, 320)).mean(axis=1)
    levels = np.percentile(10 * np.log10(frames + 1e-9), [1, 10, 50, 90])
    return np.array([waveform.shape[0] / SAMPLE_RATE_HZ, *(10 * np.log10(np.array(bands) + 1e-9)), *levels])


def table(root: Path, split: TrainSplit | TestSplit) -> tuple[npt.NDArray[np.float64], list[str]]:
    """What is seen of a split's clips, (clips, 15), and their labels."""
    clips = [clip for shard in read_split(root, split.shards) for clip in shard.clips]
    return np.stack([describe(root, clip) for clip in clips]), [clip.references(split.key)[0] for clip in clips]


def main(root: Path) -> None:
    """Print a row for each task of Track A."""
    print("task        shortcut  most frequent  test clips")
    for task in load(Benchmark, asset("configs") / "field.yaml").track("A").active_tasks:
        assert task.train is not None
        (seen, labels), (asked, answers) = table(root, task.train), table(root, task.test)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(seen, labels)
        ((frequent, _),) = Counter(labels).most_common(1)
        accuracy, floor = model.score(asked, answers), answers.count(frequent) / len(answers)
        print(f"{task.name:<12}{accuracy:8.2f}  {floor:13.2f}  {len(answers):10}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
