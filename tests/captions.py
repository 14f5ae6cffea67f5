"""What tests of caption metrics share: real captions, a small checker that a test writes, mecat in its own process."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ranker.metrics import Pair, caption_models
from ranker.metrics.normalize import normalize
from ranker.types import MetricModels

# Importing mecat sets torch's threads and more, so it has a process of its own. Its results are rounded to 4 decimals;
# the table that it can write holds them in full, per item.
_ORACLE = """
import json, sys
import torch, transformers
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
import mecat.DATE
module = sys.modules["mecat.DATE"]  # the package's attribute of that name is a class
module.logger.remove()
module.tqdm = lambda rows, **_: rows
module.trange = lambda *bounds, **_: range(*bounds)
import pandas
order = json.load(sys.stdin)
module.check_download_resource = lambda remote: order["checker"]
class Lenient(torch.nn.Module):
    def forward(self, texts, batch_size):
        return torch.ones(len(texts))
scorer = module.DATEEvaluator(device="cpu", sbert_model=order["sentence"])
checker, answers = scorer.date_model.echecker, []
for job in order["jobs"]:
    scorer.date_model.return_type = job["metric"]
    scorer.date_model.echecker = checker if job["checked"] else Lenient()
    keys = [f"{row:05d}" for row in range(len(job["candidates"]))]  # it sorts by them
    table = order["folder"] + "/items.csv"
    try:
        scorer.corpus_score(job["candidates"], job["references"], sample_keys=keys, save_dataframe_path=table)
        items = pandas.read_csv(table)
        answers.append(items["similarity" if job["metric"] == "fense" else "date"].tolist())
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
json.dump(answers, open(order["folder"] + "/answers.json", "w"))
"""

SAMPLE = 60


@cache
def clips(count: int) -> list[tuple[str, list[str]]]:
    """(candidate, references) of clips: mecat's own reference captions, one in two candidates being of another clip."""
    spec = find_spec("mecat")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "reference" / "caption" / "test"
    every = [
        texts["long"]
        for path in sorted(folder.glob("*.jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).decode().splitlines()
        for texts in json.loads(line).values()
    ]
    assert len(every) > 20_000
    chosen = [every[row] for row in np.random.default_rng(7).choice(len(every), count + 1, replace=False)]
    texts = [[normalize(text) for text in each] for each in chosen]
    assert all(len(each) == 3 for each in texts)
    return [(texts[row + 1][-1] if row % 2 else texts[row][0], texts[row][1:]) for row in range(count)]


def pairs_of(items: Sequence[tuple[str, Sequence[str]]]) -> list[Pair]:
    """One pair per reference; clips are named by their number."""
    return [
        Pair(clip=f"clip{row}", reference=reference, candidate=candidate)
        for row, (candidate, references) in enumerate(items)
        for reference in references
    ]


def ask_mecat(folder: Path, checker: Path, jobs: Sequence[dict[str, Any]]) -> list[Any]:
    """Per job (`metric`, `checked`, `items` of candidate and references) its scores, one per item; or its error."""
    order = {
        "folder": str(folder),
        "checker": str(checker),
        "sentence": str(caption_models(MetricModels.MINILM).sentence.folder),
        "jobs": [
            {
                "metric": job["metric"],
                "checked": job["checked"],
                "candidates": [candidate for candidate, _ in job["items"]],
                "references": [references for _, references in job["items"]],
            }
            for job in jobs
        ],
    }
    done = subprocess.run(
        [sys.executable, "-c", _ORACLE], input=json.dumps(order), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "answers.json").read_text())


def write_checker(folder: Path) -> tuple[Path, Path]:
    """A checkpoint as FENSE's checker has it, of a small random encoder, and the folder of that encoder.

    It takes about half of all captions for broken.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    encoder = folder / "encoder"
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config.initializer_range = 0.3
    before = torch.get_rng_state()
    torch.manual_seed(3)
    network, classes = BertModel(config), torch.nn.Linear(32, 6)
    torch.set_rng_state(before)
    network.save_pretrained(encoder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(caption_models(MetricModels.MINILM).sentence.folder / name, encoder / name)
    state = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    state["encoder.embeddings.position_ids"] = torch.arange(512)[None]  # a weight in the years of the published file
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    with torch.no_grad():
        network.eval()
        first = [
            network(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0, 0] for text, _ in clips(SAMPLE)
        ]
        classes.weight *= 30  # so that few are near the threshold
        answers = classes(torch.stack(first))[:, -1]
        classes.bias[-1] += np.log(9) - answers.median()  # the odds of 0.9
    state |= {f"clf.{name}": value for name, value in classes.state_dict().items()}
    path = folder / "echecker.ckpt"
    torch.save({"model_type": str(encoder), "num_classes": 6, "state_dict": state}, path)
    return path, encoder
