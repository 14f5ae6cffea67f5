"""Training and answers held against XARES-LLM itself, step by step: writes docs/results/peer_parity.md.

    python bench/peer_parity.py --peer CHECKOUT [--peer-python PYTHON] [--decoder FOLDER] [--layers 4] [--steps 20]

Its own trainer trains its own model on shards written here; every batch, loss, gradient norm and answer is recorded
(bench/peer/record.py). Then our model, optimizer and schedule get those batches and those initial weights, first in
its layout, where all must be equal, then in ours. Exit code 0: everything that must be equal is.
CHECKOUT is a checkout of github.com/xiaomi-research/xares-llm; PYTHON an interpreter with what it requires (default:
this one). Without `--decoder` the stand-in's first layers are the decoder.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from peer.data_side import DRAWS, TEXTS, data_side
from peer.drifts import SCENARIOS, drifts
from peer.findings import Findings, report
from peer.frame_encoder import FrameEncoder
from peer.ours import LEARNING_RATE, WARMUP_STEPS, Ours, alone, samples, theirs_answers
from peer.shards import wave_file, waveforms, write_data
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from ranker.lalm import decoder as decoders
from ranker.lalm.model import AudioLanguageModel
from ranker.lalm.train import build_optimizer
from ranker.types import Layout

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent / "peer"
WITHIN = 1e-4


def write_decoder(folder: Path, layers: int) -> str:
    """The stand-in's first layers as a folder of their own; returns its description."""
    network, tokenizer = decoders.load(decoders.locate(decoders.STAND_IN_DECODER), layers)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers before version 5 reads two things under other names, and would take a default for the second.
    theta = network.config.rope_parameters["rope_theta"]
    for name, known in (
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ("config.json", {"rope_theta": theta}),
    ):
        written = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(written | known), encoding="utf-8")
    return f"the stand-in `{decoders.STAND_IN_DECODER}`, {layers} of its 30 layers"


def challenge_mixture() -> list[tuple[str, float | None, int]]:
    """Name, weight and number of shards (one each: all have a weight) of Track A's tasks."""
    track = yaml.safe_load((ROOT / "configs" / "challenge.yaml").read_text(encoding="utf-8"))["tracks"]["A"]
    tasks = [task for task in track["tasks"] if task.get("enabled", True)]
    return [(task["name"], task["train"].get("mixture_weight"), 1) for task in tasks]


def record(work: Path, options: argparse.Namespace, decoder: Path) -> dict[str, Any]:
    """Run the peer in a process of its own."""
    for name, waveform in enumerate(waveforms()):
        (work / f"{name}.wav").write_bytes(wave_file(*waveform))
    lengths = random.Random(2)
    spec = write_data(work) | {
        "peer": str(options.peer.absolute()),
        "work": str(work),
        "out": str(work / "record.pt"),
        "decoder": str(decoder.absolute()),
        "steps": options.steps,
        "threads": torch.get_num_threads(),
        "warmup_steps": WARMUP_STEPS,
        "learning_rate": LEARNING_RATE,
        "scenarios": SCENARIOS,
        "audio": [f"{name}.wav" for name in range(len(waveforms()))],
        "texts": TEXTS,
        "prompt": "Which word?",
        "mixture": challenge_mixture(),
        "draws": DRAWS,
        "lengths": [lengths.randrange(5, 90) for _ in range(6000)],
    }
    shutil.copy(HERE / "frame_encoder.py", work)
    (work / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    with (work / "log.txt").open("w") as log:
        done = subprocess.run(
            [str(options.peer_python), str(HERE / "record.py"), str(work / "spec.json")],
            stdout=log, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if done.returncode:
        words = (work / "log.txt").read_text(encoding="utf-8")[-5000:]
        raise SystemExit(f"the peer's run ended with exit code {done.returncode}; its last words:\n{words}")
    made: dict[str, Any] = torch.load(work / "record.pt", weights_only=True)
    return made | {"spec": spec}


def step_by_step(found: Findings, name: str, log: Sequence[dict[str, float]], run: dict[str, Any]) -> None:
    both = list(zip(log, run["steps"], strict=True))
    loss = max(abs(ours["loss"] - theirs["loss"]) for ours, theirs in both)
    norm = max(abs(ours["gradient_norm"] / theirs["norm"] - 1) for ours, theirs in both)
    rate = max(abs(ours["learning_rate"] - theirs["rate"]) for ours, theirs in both)
    clipped = sum(theirs["norm"] > 1 for _, theirs in both)
    curve = f"from {run['steps'][0]['loss']:.2f} to {run['steps'][-1]['loss']:.2f}"
    text = f"largest difference {loss:.1e} ({curve})"
    found.check(f"{name}: loss of {len(both)} steps", text, f"{WITHIN:.0e}, absolute", loss <= WITHIN)
    text = f"largest difference {norm:.1e} ({clipped} of {len(both)} were clipped)"
    found.check(f"{name}: gradient norm", text, f"{WITHIN:.0e}, relative", norm <= WITHIN)
    found.check(f"{name}: learning rate", f"largest difference {rate:.1e}", "1e-12", rate <= 1e-12)


def parity(found: Findings, decoder: Path, recorded: dict[str, Any]) -> None:
    """Their batches and initial weights in their layout; then their final weights."""
    runs, spec = recorded["scenarios"], recorded["spec"]
    for name in ("masked", "unmasked"):
        run = runs[name]
        ours = Ours(decoder, run, Layout.XARES_LLM, spec["steps"])
        log = ours.train([samples(batch) for batch in run["steps"]])
        step_by_step(found, name, log, run)
        apart = ours.distance(run["final"])
        moved = max(float((run["final"][key] - value).abs().max()) for key, value in run["initial"].items())
        text = f"largest difference {apart:.1e} (they moved by up to {moved:.1e})"
        found.check(f"{name}: weights after the last step", text, "a hundredth of the way", apart <= moved / 100)
        ours.load(run["final"])
        theirs = theirs_answers(run, ours.model.eos_id)
        same = sum(one == two for one, two in zip(ours.answers(run["tests"], spec["prompt"]), theirs, strict=True))
        kinds, longest = len(set(map(tuple, theirs))), max(map(len, theirs))
        text = f"{same} of {len(theirs)} equal ({kinds} different ones, up to {longest} tokens)"
        found.check(f"{name}: answers from the same weights, by token", text, "all", same == len(theirs))
    run = runs["masked"]
    ours = Ours(decoder, run, Layout.XARES_LLM, spec["steps"], lora_dropout=0.1)
    ours.load(run["final"])
    apart = abs(ours.dropped_loss(samples(run["steps"][0])) - run["dropped_loss"])
    text = f"difference {apart:.1e}"
    found.check("masked: loss with LoRA dropout 0.1 from one generator state", text, f"{WITHIN:.0e}", apart <= WITHIN)
    initial_weights(found, ours, run)
    adamw(found, ours, run)
    texts(found, ours, run)
    heard = [
        float(np.abs(clip - example.features).max())
        for batch in run["steps"]
        for clip, example in zip(alone(batch, FrameEncoder()), samples(batch), strict=True)
    ]
    text = f"largest difference {max(heard):.1e}"
    found.check("features of a clip alone, and in its padded batch", text, "1e-5", max(heard) <= 1e-5)


def initial_weights(found: Findings, ours: Ours, run: dict[str, Any]) -> None:
    """Both draw their own: alike in distribution. Compared by deviation, kind by kind; B starts at zero."""
    fresh = AudioLanguageModel(
        AutoModelForCausalLM.from_pretrained(ours.decoder, dtype="float32", local_files_only=True),
        ours.model.tokenizer,
        feature_dim=ours.model.projector.in_features,
        recipe=ours.recipe,
        init_key="fresh",
    )
    own = {name.replace("projector", "audio_projector"): weight.detach() for name, weight in fresh.named_parameters()}
    ratios, zero = {}, True
    for name, value in run["initial"].items():
        if "lora_B" in name:
            zero = zero and not value.any() and not own[name].any()
        elif "audio_encoder" not in name and value.ndim > 1:
            ratios[name] = float(own[name].std() / value.std())
    largest = max(abs(ratio - 1) for ratio in ratios.values())
    text = f"deviations of {len(ratios)} tensors differ by up to {largest:.1%}; every B is 0"
    found.check("initial weights, each program's own", text, "5%", largest < 0.05 and zero)


def adamw(found: Findings, ours: Ours, run: dict[str, Any]) -> None:
    names = {id(weight): name.replace("projector", "audio_projector") for name, weight in ours.model.named_parameters()}
    own = {
        (group["weight_decay"], tuple(group["betas"]), group["eps"]): {names[id(weight)] for weight in group["params"]}
        for group in build_optimizer(ours.model, ours.recipe).param_groups
    }
    theirs = {
        (group["weight_decay"], tuple(group["betas"]), group["eps"]): {
            name for name in group["names"] if "audio_encoder" not in name
        }
        for group in run["groups"]
    }
    encoder = sum("audio_encoder" in name for group in run["groups"] for name in group["names"])
    decayed = sum(len(value) for key, value in own.items() if key[0])
    spared = sum(map(len, own.values())) - decayed
    text = f"{decayed} tensors decayed, {spared} not (its optimizer holds {encoder} of the encoder's besides)"
    theirs = {key: value for key, value in theirs.items() if value}
    found.check("AdamW: betas, epsilon, decay, and what is decayed", text, "equal", own == theirs)


def texts(found: Findings, ours: Ours, run: dict[str, Any]) -> None:
    """Its texts, from the answers' tokens."""
    answers = theirs_answers(run, ours.model.eos_id)
    decoded = [text.strip() for text in ours.model.tokenizer.batch_decode(answers, skip_special_tokens=True)]
    same = sum(text == theirs for text, (theirs, _) in zip(decoded, run["answers"], strict=True))
    found.check("answers as text", f"{same} of {len(decoded)} equal", "all", same == len(decoded))


def peer_commit(peer: Path) -> str:
    stamp = peer / "COMMIT"
    if stamp.is_file():
        return stamp.read_text(encoding="utf-8").strip()[:12]
    asked = ["git", "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(asked, cwd=peer, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "(commit unknown)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--decoder", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "peer_parity.md")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = Findings()
    with tempfile.TemporaryDirectory(prefix="ranker-peer-") as folder:
        work = Path(folder)
        decoder, described = options.decoder or work / "decoder", f"`{options.decoder and options.decoder.name}`"
        if options.decoder is None:
            described = write_decoder(decoder, options.layers)
        recorded = record(work, options, decoder)
        parity(found, decoder, recorded)
        data_side(found, recorded, decoder)
        drifts(found, decoder, recorded)
    command = f"python bench/peer_parity.py --layers {options.layers} --steps {options.steps}"
    page = report(found, recorded, command=command, commit=peer_commit(options.peer), decoder=described)
    options.out.write_text(page, encoding="utf-8")
    return 0 if found.held else 1


if __name__ == "__main__":
    sys.exit(main())
